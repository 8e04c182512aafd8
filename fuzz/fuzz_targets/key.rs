//! Keys as users paste them: what is read is written and read again as the same key, in the form
//! that its look says; nothing else passes for one, and a private key is never read as a public one.
//!
//! Input: a flag byte, and text, or DER that is put into base64.
#![no_main]

use alipay_sidecar::protocol::key::{AppPrivateKey, KeyForm, RsaPublicKey};
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar_fuzz::first;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (flag, rest) = first(data);
    match flag & 1 {
        0 => {
            if let Ok(text) = std::str::from_utf8(rest) {
                read(text);
            }
        }
        _ => {
            let text = STANDARD.encode(rest);
            let of_text = RsaPublicKey::from_text(&text).ok();
            let of_der = RsaPublicKey::from_der(rest).ok();
            // The DER of a whole PEM text is read as that text.
            if !rest.windows(11).any(|bytes| bytes == b"-----BEGIN ") {
                assert_eq!(of_text, of_der);
            }
            read(&text);
        }
    }
});

fn read(text: &str) {
    let (private, public) = (
        AppPrivateKey::from_text(text),
        RsaPublicKey::from_text(text),
    );
    let form = KeyForm::of(text);
    if let Ok(key) = &private {
        let pem = key.to_pkcs8_pem();
        let again = AppPrivateKey::from_text(pem.expose()).expect("what is written is read");
        assert_eq!(again.public_key(), key.public_key());
        assert!((1017..=4096).contains(&key.bits()));
        let debugged = format!("{key:?}");
        assert!(!debugged.contains("BEGIN"));
    }
    if let Ok(key) = &public {
        let bare = key.to_bare_base64();
        let again = RsaPublicKey::from_text(&bare).expect("what is written is read");
        assert_eq!(&again, key);
        assert_eq!(RsaPublicKey::from_der(key.spki()).as_ref(), Ok(key));
        assert!(key.verify(SignType::Rsa2, b"x", "AAAA").is_err());
        assert!((1017..=4096).contains(&key.bits()));
    }
    for error in [private.err(), public.err()].into_iter().flatten() {
        assert!(!error.to_string().is_empty());
    }
    if let Some(form) = form {
        assert!(!form.describe().is_empty());
    }
}
