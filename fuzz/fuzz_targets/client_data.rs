//! What came through an app: `my.getPhoneNumber` and payment results. Accepted only with Alipay's
//! signature over what is shown, by an independent look; an unsigned result never is.
//!
//! Input: a flag byte, and the message.
#![no_main]

use alipay_sidecar::protocol::app_result::UnverifiedAppResult;
use alipay_sidecar::protocol::client_data::UnverifiedClientData;
use alipay_sidecar::protocol::encryption::ContentKey;
use alipay_sidecar::protocol::envelope::Verification;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar_fuzz::keys::ALIPAY;
use alipay_sidecar_fuzz::oracle::{self, Object};
use alipay_sidecar_fuzz::{charset, first};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (flag, message) = first(data);
    match flag & 1 {
        0 => client_data(message),
        _ => app_result(message),
    }
});

fn client_data(message: &[u8]) {
    let key = ContentKey::from_base64("aa4BtZ4tspm2wnXLb1ThQA==").expect("a key");
    let _ = std::str::from_utf8(message).map(|text| key.decrypt(text).map(drop));
    let Ok(parsed) = UnverifiedClientData::parse(message) else {
        return;
    };
    let content = parsed.sign_content();
    let is_ciphertext = parsed.is_ciphertext();
    assert_eq!(is_ciphertext, content.starts_with('"'));
    let Ok(verified) = parsed.verify(&*ALIPAY) else {
        return;
    };
    let sign = sign_of(message).replace(' ', "+");
    let is_signed = [charset(0), charset(1)].into_iter().any(|charset| {
        let bytes = oracle::encode(&content, charset);
        bytes.is_some_and(|bytes| oracle::is_signed(&*ALIPAY, SignType::Rsa2, &bytes, &sign))
    });
    assert!(is_signed);
    let _ = verified.open(&key);
}

/// The signature of the message, or of the one that stands in its `response`.
fn sign_of(message: &[u8]) -> String {
    let object = Object::parse(message).expect("an object");
    let text = |object: &Object<'_>, name| {
        object
            .only(name)
            .and_then(|value| serde_json::from_str::<String>(value).ok())
    };
    if let Some(sign) = text(&object, "sign") {
        return sign;
    }
    let inner = text(&object, "response").expect("a message in it");
    let inner = Object::parse(inner.as_bytes()).expect("an object");
    text(&inner, "sign").expect("a signature")
}

fn app_result(message: &[u8]) {
    let Ok(parsed) = UnverifiedAppResult::parse(message) else {
        return;
    };
    if let Ok(verified) = parsed.verify(&*ALIPAY, SignType::Rsa2) {
        assert_eq!(verified.verification(), Verification::Signed);
        let content = verified.signed_content();
        let body = verified.body().clone();
        let text = oracle::decode(&body, verified.charset()).expect("in the charset");
        let object = Object::parse(text.as_bytes()).expect("an object");
        let sign: String = serde_json::from_str(object.only("sign").expect("one")).expect("a text");
        assert!(oracle::is_signed(&*ALIPAY, SignType::Rsa2, &content, &sign));
    }
}
