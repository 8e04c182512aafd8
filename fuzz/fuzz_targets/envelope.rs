//! v2 replies: what is cut out is a slice of the reply and the one member that another parser finds
//! under that name; what is accepted was signed, by an independent look; no other bytes are.
//!
//! Input: a flag byte and the method, a line break, the reply.
#![no_main]

use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::envelope::{Envelope, Verification, VerifiedEnvelope};
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar_fuzz::keys::ALIPAY;
use alipay_sidecar_fuzz::oracle::{self, Object};
use alipay_sidecar_fuzz::{charset, first, line, place_in};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (flag, rest) = first(data);
    let (method, body) = line(rest);
    let Ok(method) = std::str::from_utf8(method) else {
        return;
    };
    let call = Call {
        method,
        charset: charset(flag),
        sign_type: match flag & 2 {
            0 => SignType::Rsa2,
            _ => SignType::Rsa,
        },
    };
    let body = Bytes::copy_from_slice(body);
    let Some(verified) = call.verified(body.clone()) else {
        return;
    };
    is_cut_right(&call, &verified);
    match verified.verification() {
        Verification::Signed => {
            is_signed(&call, &verified);
            no_other_bytes(&call, &verified, flag);
        }
        Verification::UnsignedError => is_plain_error(&call, &body),
        Verification::Certified => panic!("only downloads are"),
    }
});

struct Call<'a> {
    method: &'a str,
    charset: Charset,
    sign_type: SignType,
}

impl Call<'_> {
    fn verified(&self, body: Bytes) -> Option<VerifiedEnvelope> {
        let envelope = Envelope::parse_in(body, self.method, self.charset).ok()?;
        envelope.verify(&*ALIPAY, self.sign_type).ok()
    }
}

fn is_cut_right(call: &Call<'_>, verified: &VerifiedEnvelope) {
    let node = verified.sent_node();
    place_in(verified.body(), &node).expect("a slice of the reply");
    let text = oracle::decode(verified.body(), call.charset).expect("in the charset");
    let object = Object::parse(text.as_bytes()).expect("another parser takes it");
    let key = verified.node_key();
    let root = format!("{}_response", call.method.replace('.', "_"));
    assert!(key == root || (key == "error_response" && object.only(&root).is_none()));
    let theirs = object.only(key).expect("one such member");
    assert_eq!(verified.node_text(), theirs);
    assert_eq!(oracle::decode(&node, call.charset).as_deref(), Some(theirs));
}

fn is_signed(call: &Call<'_>, verified: &VerifiedEnvelope) {
    let text = oracle::decode(verified.body(), call.charset).expect("in the charset");
    let object = Object::parse(text.as_bytes()).expect("another parser takes it");
    let sign = object.only("sign").expect("one signature");
    let sign: String = serde_json::from_str(sign).expect("a text");
    let node = verified.node_text();
    let spellings = [node.clone(), node.replace("\\/", "/")];
    let bytes = spellings.map(|text| oracle::encode(&text, call.charset).expect("as it was"));
    let signed = bytes
        .iter()
        .find(|bytes| oracle::is_signed(&*ALIPAY, call.sign_type, bytes, &sign));
    let signed = signed.expect("Alipay signed it");
    assert_eq!(verified.signed_content().as_ref(), signed.as_slice());
}

/// One bit of the node changed: never accepted as signed. (But for a slash's backslash nothing can
/// change, and a changed bit makes neither.)
fn no_other_bytes(call: &Call<'_>, verified: &VerifiedEnvelope, flag: u8) {
    let node = verified.sent_node();
    let start = place_in(verified.body(), &node).expect("a slice of the reply");
    let mut changed = verified.body().to_vec();
    let at = start + usize::from(flag) * node.len() / 256;
    changed[at] ^= 1 << (flag & 7);
    let accepted = call.verified(changed.into());
    assert!(accepted.is_none_or(|accepted| accepted.verification() != Verification::Signed));
}

fn is_plain_error(call: &Call<'_>, body: &[u8]) {
    let text = oracle::decode(body, call.charset).expect("in the charset");
    let object = Object::parse(text.as_bytes()).expect("another parser takes it");
    let is_nothing = |sign: &str| sign == "null" || serde_json::from_str(sign).ok() == Some("");
    assert!(object.only("sign").is_none_or(is_nothing));
    for (name, node) in &object.0 {
        if name.ends_with("_response") {
            let node = Object::parse(node.get().as_bytes()).expect("an object");
            let mut codes = node.0.iter().filter(|(name, _)| name == "code").peekable();
            assert!(codes.peek().is_some());
            assert!(codes.all(|(_, code)| is_error(code.get())));
        }
    }
}

/// No reader, however loose, takes it for a success.
fn is_error(code: &str) -> bool {
    let text = serde_json::from_str(code).unwrap_or_else(|_| code.to_owned());
    let number = text.trim().parse::<f64>();
    !text.trim().is_empty() && number.ok().is_none_or(|n| n != 10_000.0 && n != 10_003.0)
}
