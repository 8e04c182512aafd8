//! v3 responses: accepted as signed only with the three headers once each and a signature that an
//! independent look finds good; accepted without only where nothing is claimed.
//!
//! Input: lines of the status and of headers, an empty line, the body.
#![no_main]

use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::protocol::v3_response::{V3Response, V3Verification, VerifiedV3Response};
use alipay_sidecar_fuzz::keys::ALIPAY;
use alipay_sidecar_fuzz::{line, oracle};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

type Headers<'a> = Vec<(&'a str, &'a [u8])>;

fuzz_target!(|data: &[u8]| {
    let (status, mut rest) = line(data);
    let status = std::str::from_utf8(status)
        .ok()
        .and_then(|status| status.parse().ok());
    let mut headers = Headers::new();
    loop {
        let (header, behind) = line(rest);
        rest = behind;
        let Some(at) = header.windows(2).position(|pair| pair == b": ") else {
            break;
        };
        let Ok(name) = std::str::from_utf8(&header[..at]) else {
            return;
        };
        headers.push((name, &header[at + 2..]));
    }
    let status = status.unwrap_or(200);
    let Some(verified) = verified(status, &headers, rest) else {
        return;
    };
    let signature = only(&headers, "alipay-signature").filter(|sign| *sign != "null");
    match verified.verification() {
        V3Verification::Signed => is_signed(status, &headers, rest),
        V3Verification::NoContent => {
            assert!(status == 204 && rest.is_empty() && signature.is_none())
        }
        V3Verification::UnsignedError => {
            assert!((400..600).contains(&status) && signature.is_none());
        }
    }
    assert_eq!(
        (verified.status(), verified.body().as_ref()),
        (status, rest)
    );
    assert!(verified.is_error() || verified.code().is_none());
});

fn verified(status: u16, headers: &Headers<'_>, body: &[u8]) -> Option<VerifiedV3Response> {
    let body = Bytes::copy_from_slice(body);
    let response = V3Response::new(status, headers.iter().copied(), body).ok()?;
    response.verify(&*ALIPAY).ok()
}

/// The value of a header, if it stands there exactly once and isn't empty.
fn only<'a>(headers: &Headers<'a>, name: &str) -> Option<&'a str> {
    let mut found = headers
        .iter()
        .filter(|(known, _)| known.eq_ignore_ascii_case(name));
    let (_, value) = found.next()?;
    assert!(found.next().is_none(), "`{name}` twice, and accepted");
    std::str::from_utf8(value)
        .ok()
        .filter(|value| !value.is_empty())
}

fn is_signed(status: u16, headers: &Headers<'_>, body: &[u8]) {
    let read = |name| only(headers, name).expect("a header that is signed");
    let (timestamp, nonce) = (read("alipay-timestamp"), read("alipay-nonce"));
    let content = [timestamp.as_bytes(), nonce.as_bytes(), body, b""].join(&b'\n');
    let sign = read("alipay-signature");
    assert!(oracle::is_signed(&*ALIPAY, SignType::Rsa2, &content, sign));
    for more in [&b" "[..], b"\n", b"\0"] {
        assert!(verified(status, headers, &[body, more].concat()).is_none());
    }
    let mut moved = headers.clone();
    for (name, value) in &mut moved {
        if name.eq_ignore_ascii_case("alipay-nonce") {
            *value = b"another";
        }
    }
    assert!(nonce == "another" || verified(status, &moved, body).is_none());
}
