//! SPI calls: query and body are one set, in which nothing stands with two values; what is accepted
//! was signed; what is answered is found again by a reader, byte for byte.
//!
//! Input: a flag byte and the query, a line break, the body.
#![no_main]

use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::protocol::signed_answer::{SpiAnswer, SpiShape};
use alipay_sidecar::protocol::spi::{SpiCall, UnverifiedSpiCall};
use alipay_sidecar_fuzz::keys::ALIPAY;
use alipay_sidecar_fuzz::oracle::{self, Object};
use alipay_sidecar_fuzz::{charset, first, line};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (flag, rest) = first(data);
    let (query, body) = line(rest);
    answered(body, charset(flag));
    let content_type = ["text/plain; charset=utf-8", "x/y;charset=GBK"][usize::from(flag & 1)];
    let Ok(call) = UnverifiedSpiCall::parse(query, Some(content_type), body) else {
        return;
    };
    assert!(call.claimed_app_id().is_none_or(|id| !id.is_empty()));
    if let Ok(verified) = call.verify(&*ALIPAY, SignType::Rsa2) {
        is_one_set(query, body, &verified);
    }
});

fn is_one_set(query: &[u8], body: &[u8], call: &SpiCall) {
    let read = |raw| oracle::form(raw, call.charset()).expect("a form");
    let (query, body) = (read(query), read(body));
    let mut all = query.clone();
    for (name, value) in body {
        match query.iter().find(|(known, _)| *known == name) {
            Some((_, same)) => assert_eq!(*same, value),
            None => all.push((name, value)),
        }
    }
    assert!(call.params().iter().eq(oracle::borrowed(&all)));
    assert!(!call.method().is_empty() && call.sent_at() > 0);
    let sign = call
        .params()
        .get("sign")
        .expect("a signature")
        .replace(' ', "+");
    let is_signed = oracle::notification_contents(&all)
        .into_iter()
        .any(|content| {
            let bytes = oracle::encode(&content, call.charset()).expect("in the charset");
            oracle::is_signed(&*ALIPAY, SignType::Rsa2, &bytes, &sign)
        });
    assert!(is_signed);
}

fn answered(response: &[u8], charset: Charset) {
    let Ok(answer) = SpiAnswer::new(response, charset) else {
        return;
    };
    assert_eq!(answer.sign_content(), response.trim_ascii());
    for shape in [SpiShape::Object, SpiShape::Text] {
        let whole = answer
            .signed("c2ln", Some("ab"), shape)
            .expect("in the charset");
        let text = oracle::decode(&whole, charset).expect("in the charset");
        let object = Object::parse(text.as_bytes()).expect("JSON");
        let found = object.only("response").expect("one response");
        let found = match shape {
            SpiShape::Object => found.to_owned(),
            SpiShape::Text => serde_json::from_str(found).expect("a text"),
        };
        let bytes = oracle::encode(&found, charset).expect("in the charset");
        assert_eq!(bytes, answer.sign_content());
        assert_eq!(object.only("sign"), Some("\"c2ln\""));
    }
}
