//! Explanations of refused signatures, which strangers can ask for: bounded in work and in size, and
//! never of another opinion than the verification.
//!
//! Input: a flag byte that says of what, a line (method, query or headers), a line break, the body.
#![no_main]

use std::sync::LazyLock;

use alipay_sidecar::protocol::diagnosis::{self, Explanation, Keys, V3Message};
use alipay_sidecar::protocol::envelope::{Envelope, Verification};
use alipay_sidecar::protocol::notification::UnverifiedNotification;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar_fuzz::keys::{ALIPAY, APP};
use alipay_sidecar_fuzz::{charset, first, line};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::new(&*ALIPAY, std::slice::from_ref(&*APP)));

const NOW: i64 = 1_795_000_000_000;

fuzz_target!(|data: &[u8]| {
    let (flag, rest) = first(data);
    let (head, body) = line(rest);
    let explanation = match flag >> 1 & 7 {
        0 => notification(rest),
        1 => diagnosis::request(head, body, None, &KEYS, NOW),
        2 => reply(head, body, flag),
        3 => diagnosis::v3_response(
            200,
            V3Message {
                headers: &headers(head),
                body,
            },
            &KEYS,
        ),
        4 => {
            let message = V3Message {
                headers: &headers(head),
                body,
            };
            diagnosis::v3_request("POST", "/v3/alipay/trade/query", message, &KEYS, NOW)
        }
        _ => {
            let texts = (std::str::from_utf8(head), std::str::from_utf8(body));
            if let (Ok(ours), Ok(theirs)) = texts {
                let verdict = diagnosis::gateway_difference(ours, theirs);
                assert!(!verdict.with_excerpts().to_string().is_empty());
            }
            return;
        }
    };
    is_usable(&explanation);
});

/// It holds or says why not, and prints without any value that came in.
fn is_usable(explanation: &Explanation) {
    assert_eq!(explanation.holds(), explanation.cause().is_none());
    for cause in explanation.causes().iter().chain(explanation.remarks()) {
        assert!(!cause.to_string().is_empty());
    }
    if explanation.holds() {
        assert!(explanation.signed_content().is_some());
    }
}

fn notification(body: &[u8]) -> Explanation {
    let explanation = diagnosis::notification(None, body, &KEYS);
    let parsed = UnverifiedNotification::parse(None, body);
    let verified = parsed.and_then(|parsed| parsed.verify(&*ALIPAY, SignType::Rsa2));
    assert_eq!(explanation.holds(), verified.is_ok());
    explanation
}

fn reply(method: &[u8], body: &[u8], flag: u8) -> Explanation {
    let method = std::str::from_utf8(method).unwrap_or_default();
    let charset = charset(flag);
    let explanation = diagnosis::reply(body, Some(method), charset, &KEYS);
    let verified = Envelope::parse_in(Bytes::copy_from_slice(body), method, charset)
        .and_then(|envelope| envelope.verify(&*ALIPAY, SignType::Rsa2));
    let is_signed = verified.is_ok_and(|reply| reply.verification() == Verification::Signed);
    assert_eq!(explanation.holds(), is_signed);
    explanation
}

/// `name: value` between tabs.
fn headers(line: &[u8]) -> Vec<(String, Vec<u8>)> {
    let header = |piece: &[u8]| {
        let at = piece.windows(2).position(|pair| pair == b": ")?;
        let name = std::str::from_utf8(&piece[..at]).ok()?;
        Some((name.to_owned(), piece[at + 2..].to_vec()))
    };
    line.split(|byte| *byte == b'\t')
        .filter_map(header)
        .collect()
}
