use base64::{Engine, engine::general_purpose::STANDARD};
use proptest::prelude::*;
use rsa::pkcs1::{EncodeRsaPrivateKey, EncodeRsaPublicKey};

use super::*;

fn key() -> &'static AppPrivateKey {
    static KEY: std::sync::OnceLock<AppPrivateKey> = std::sync::OnceLock::new();
    KEY.get_or_init(|| AppPrivateKey::of_vectors("app1024"))
}

fn pem() -> String {
    key().to_pkcs8_pem().expose().clone()
}

fn check_private(text: &str) {
    let read = AppPrivateKey::from_text(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    assert_eq!(read.public_key(), key().public_key(), "{text:?}");
}

fn check_public(text: &str) {
    let read = RsaPublicKey::from_text(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
    assert_eq!(&read, key().public_key(), "{text:?}");
}

#[test]
fn keys_are_equal_if_they_are_the_same() {
    let other = AppPrivateKey::of_vectors("alipay1024");
    assert_ne!(other.public_key(), key().public_key());
    assert_eq!(key().public_key(), &key().public_key().clone());
}

#[test]
fn the_form_of_a_key_is_told_whatever_its_label_says() {
    let pkcs1 = key().0.legacy.0.to_pkcs1_pem(LineEnding::LF).unwrap();
    let public = rsa::RsaPublicKey::from(&key().0.legacy.0);
    let pkcs1_public = public.to_pkcs1_pem(LineEnding::LF).unwrap();
    let spki = STANDARD.encode(key().public_key().spki());
    let spki = format!("-----BEGIN PUBLIC KEY-----\n{spki}\n-----END PUBLIC KEY-----");
    for (text, label, form) in [
        (pem(), "PRIVATE KEY", "a PKCS#8 private key"),
        (pkcs1.to_string(), "RSA PRIVATE KEY", "a PKCS#1 private key"),
        (pkcs1_public, "RSA PUBLIC KEY", "a PKCS#1 public key"),
        (spki, "PUBLIC KEY", "a SubjectPublicKeyInfo public key"),
    ] {
        let found = KeyForm::of(&text).expect(form);
        assert_eq!(found.describe(), form);
        assert_eq!(found.wrong_label(), None, "{form}");
        let relabelled = text.replace(label, "OTHER");
        let found = KeyForm::of(&relabelled).expect(form);
        assert_eq!(
            (found.describe(), found.wrong_label()),
            (form, Some("OTHER"))
        );
        let bare: String = text.lines().filter(|line| !line.contains('-')).collect();
        assert_eq!(
            KeyForm::of(&bare).expect(form).wrong_label(),
            None,
            "{form}"
        );
    }
    assert_eq!(KeyForm::of("AAAA"), None);
    assert_eq!(KeyForm::of(""), None);
}

#[test]
fn private_keys_are_read_however_they_were_pasted() {
    let pem = pem();
    let pkcs1 = key().0.legacy.0.to_pkcs1_pem(LineEnding::CRLF).unwrap();
    let bare: String = pem.lines().filter(|line| !line.contains('-')).collect();
    for text in [
        pem.clone(),
        pkcs1.to_string(),
        bare.clone(),
        pem.replace('\n', "\\n"),
        pem.replace('\n', "\\r\\n"),
        pem.replace('\n', "\r"),
        pem.replace('\n', " "),
        pem.replace('\n', "\n\n\t\u{a0}\u{3000}"),
        format!(
            "\u{feff}\u{200b}{}",
            pem.replace('\n', "\u{200b}\n\u{2060}")
        ),
        format!("\"{bare}\""),
        format!(" '\u{200b}\"{bare}\" '\n"),
        pem.replace("PRIVATE", "RSA PRIVATE"),
        pkcs1.replace("RSA PRIVATE", "PRIVATE"),
        pem.replace("-----", "\u{2014}\u{2014}"),
        bare.trim_end_matches('=').to_owned(),
        format!("{bare}-----END PRIVATE KEY-----"),
        format!("-----BEGIN PRIVATE KEY-----{bare}"),
        format!("Bag Attributes: none\n{pem}"),
        STANDARD.encode(&pem),
        format!(
            "{pem}-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----",
            key().public_key().to_bare_base64()
        ),
    ] {
        check_private(&text);
    }
}

#[test]
fn public_keys_are_read_however_they_were_pasted() {
    let bare = key().public_key().to_bare_base64();
    let rsa = key().0.legacy.0.to_public_key();
    let pkcs1 = rsa.to_pkcs1_pem(LineEnding::LF).unwrap();
    for text in [
        bare.clone(),
        pkcs1.clone(),
        pkcs1.replace("RSA PUBLIC", "PUBLIC"),
        format!("-----BEGIN PUBLIC KEY-----{bare}-----END PUBLIC KEY-----"),
        format!(
            "  {} \r\n",
            bare.split_at(64).0.to_owned() + "\r\n" + bare.split_at(64).1
        ),
    ] {
        check_public(&text);
    }
}

#[test]
fn the_wrong_thing_is_named() {
    let public = key().public_key().to_bare_base64();
    let certificate = STANDARD.encode([
        0x30, 0x82, 0x01, 0x00, 0x30, 0x81, 0x90, 0xa0, 0x03, 0x02, 0x01, 0x02,
    ]);
    let labelled = format!("-----BEGIN CERTIFICATE-----\n{certificate}\n-----END CERTIFICATE-----");
    let ec = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEVs/o5+uQbTjL3chynL4wXgUg2R9q9UU8I5mEovUf86QZ7kOBIjJwqnzD1omageEHWwHdBO6B+dFabmdT9POxQg==";
    for (text, expected) in [
        (
            public.as_str(),
            "found a public key; expected an RSA private key",
        ),
        (
            &labelled,
            "found a certificate; expected an RSA private key",
        ),
        (
            &certificate,
            "found a certificate; expected an RSA private key",
        ),
        (
            ec,
            "found a key of the algorithm elliptic curves (EC, or SM2); expected RSA",
        ),
        (
            "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaA==\n-----END OPENSSH PRIVATE KEY-----",
            "found an OpenSSH private key; expected an RSA private key",
        ),
        (
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----",
            "the private key is encrypted with a passphrase; expected it without one",
        ),
        ("", "the text is empty; expected an RSA private key"),
        (
            "\u{feff} \n",
            "the text is empty; expected an RSA private key",
        ),
    ] {
        assert_eq!(
            AppPrivateKey::from_text(text).unwrap_err().to_string(),
            expected
        );
    }
    // The beginning of a certificate whose lengths need no bytes of their own is one, too.
    let short = STANDARD.encode([0x30, 7, 0x30, 5, 0xa0, 0x03, 0x02, 0x01, 0x02]);
    assert_eq!(
        AppPrivateKey::from_text(&short).unwrap_err().to_string(),
        "found a certificate; expected an RSA private key"
    );
    assert_eq!(
        RsaPublicKey::from_text(&pem()).unwrap_err().to_string(),
        "found a private key; expected an RSA public key"
    );
}

#[test]
fn broken_keys_are_refused() {
    let bare: String = pem().lines().filter(|line| !line.contains('-')).collect();
    let (half, _) = bare.split_at(400);
    for (text, kind) in [
        (half.to_owned(), "key-der"),
        (bare.trim_end_matches('=').to_owned() + "*", "key-base64"),
        (pem() + &pem(), "key-several"),
        ("not a key".to_owned(), "key-base64"),
        ("AAAA".to_owned(), "key-der"),
        ("/etc/app.pem".to_owned(), "key-base64"),
        (key().public_key().to_bare_base64() + "AAAA", "key-der"),
    ] {
        let error = AppPrivateKey::from_text(&text).unwrap_err();
        assert_eq!(error.kind(), kind, "{text}");
    }
    for (text, at) in [("MIIE*AAA", 4), ("MIIE\u{4e2d}AAA", 4), ("MIIEA", 5)] {
        let error = AppPrivateKey::from_text(text).unwrap_err();
        assert_eq!(error, KeyError::Base64 { at }, "{text}");
    }
}

#[test]
fn keys_of_a_wrong_size_are_refused() {
    let small = rsa::RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 512).unwrap();
    let text = small.to_pkcs8_pem(LineEnding::LF).unwrap();
    assert_eq!(
        AppPrivateKey::from_text(&text).unwrap_err(),
        KeyError::Size { bits: 512 }
    );
    let large = rsa::BigUint::from(3u8) << 4095;
    assert_eq!(der::check_size(&large), Err(KeyError::Size { bits: 4097 }));
    assert!(AppPrivateKey::generate(512).is_err());
    assert!(AppPrivateKey::generate(16384).is_err());
}

#[test]
fn nothing_secret_is_printed() {
    let shown = format!("{:?}", key());
    assert!(shown.contains(&key().public_key().fingerprint()));
    assert!(shown.len() < 200, "{shown}");
}

#[test]
fn a_signature_must_be_strict_base64() {
    let public = key().public_key();
    let good = key().sign(SignType::Rsa2, b"content").unwrap();
    assert_eq!(good.len(), 172);
    public.verify(SignType::Rsa2, b"content", &good).unwrap();
    for (sign, kind) in [
        ("", "sign-missing"),
        (" ", "sign-malformed"),
        (good.trim_end_matches('='), "sign-malformed"),
        (&format!("{good}\n"), "sign-malformed"),
        (&good.replace('+', "-"), "sign-malformed"),
        ("AAAA", "signature-mismatch"),
    ] {
        if sign == good {
            continue;
        }
        let error = public.verify(SignType::Rsa2, b"content", sign).unwrap_err();
        assert_eq!(error.kind(), kind, "{sign:?}");
    }
}

proptest! {
    #[test]
    fn reading_never_panics(text in "(-----BEGIN [A-Z ]{0,20}-----)?[A-Za-z0-9+/= \\-\\\\n]{0,80}.{0,9}") {
        let _ = AppPrivateKey::from_text(&text);
        let _ = RsaPublicKey::from_text(&text);
    }

    #[test]
    fn damaged_keys_never_panic(at in 0usize..600, byte: u8) {
        let mut private = key().0.legacy.0.to_pkcs8_der().unwrap().as_bytes().to_vec();
        let mut public = key().public_key().spki().to_vec();
        for der in [&mut private, &mut public] {
            let at = at % der.len();
            der[at] = byte;
        }
        let _ = AppPrivateKey::from_text(&STANDARD.encode(private));
        if let Ok(damaged) = RsaPublicKey::from_text(&STANDARD.encode(public)) {
            let _ = damaged.verify(SignType::Rsa2, b"", &STANDARD.encode([1; 128]));
        }
    }
}
