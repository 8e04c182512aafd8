//! The two implementations must agree on every key, hash and content.

use proptest::prelude::*;
use rsa::Pkcs1v15Sign;
use sha2::{Digest, Sha384, Sha512};

use super::*;
use crate::protocol::key::AppPrivateKey;

/// The keys of the vectors, of 1024, 2048 and 4096 bits.
fn keys() -> &'static [AppPrivateKey] {
    static KEYS: std::sync::OnceLock<Vec<AppPrivateKey>> = std::sync::OnceLock::new();
    KEYS.get_or_init(|| {
        ["app1024", "app2048", "app4096"]
            .map(AppPrivateKey::of_vectors)
            .to_vec()
    })
}

fn check_agreement(key: &AppPrivateKey, sign_type: SignType, content: &[u8]) {
    let slow = key.rustcrypto();
    let signature = slow.sign(sign_type, content).unwrap();
    if let (Some(fast), SignType::Rsa2) = (key.aws_lc(), sign_type) {
        assert_eq!(fast.sign(sign_type, content).unwrap(), signature);
    }
    let fast = aws_lc::Verifier::from_spki(key.public_key().spki()).unwrap();
    let slow = rustcrypto::Verifier(slow.0.to_public_key());
    let mut wrong_content = content.to_vec();
    wrong_content.push(b' ');
    let mut wrong_signature = signature.clone();
    *wrong_signature.last_mut().unwrap() ^= 1;
    let longer = [&[0], signature.as_slice()].concat();
    for verifier in [&fast as &dyn VerifyingKey, &slow] {
        assert!(verifier.verify(sign_type, content, &signature));
        assert!(!verifier.verify(sign_type, &wrong_content, &signature));
        assert!(!verifier.verify(sign_type, content, &wrong_signature));
        assert!(!verifier.verify(sign_type, content, &longer));
        assert!(!verifier.verify(sign_type, content, b""));
        let other = match sign_type {
            SignType::Rsa => SignType::Rsa2,
            SignType::Rsa2 => SignType::Rsa,
        };
        assert!(!verifier.verify(other, content, &signature));
    }
}

#[test]
fn aws_lc_signs_with_modern_keys_alone() {
    let served: Vec<bool> = keys().iter().map(|key| key.aws_lc().is_some()).collect();
    assert_eq!(served, [false, true, true]);
}

#[test]
fn aws_lc_signs_with_sha_256_alone() {
    let signer = keys()[1].aws_lc().unwrap();
    let refused = signer.sign(SignType::Rsa, b"content").unwrap_err();
    assert_eq!(refused.kind(), "signing-failed");
    assert!(signer.sign(SignType::Rsa2, b"content").is_ok());
}

#[test]
fn a_certificate_signed_with_sha_1_or_by_a_small_key_does_not_hold() {
    const SHA1: &str = "1.2.840.113549.1.1.5";
    const SHA256: &str = "1.2.840.113549.1.1.11";
    for (key, expected) in keys().iter().zip([false, true, true]) {
        let issuer = key.public_key().spki();
        for (sign_type, oid) in [(SignType::Rsa, SHA1), (SignType::Rsa2, SHA256)] {
            let signature = key.rustcrypto().sign(sign_type, b"signed").unwrap();
            let holds = |signed: &[u8]| aws_lc::verify_certificate(oid, issuer, signed, &signature);
            assert_eq!(holds(b"signed"), expected && oid == SHA256);
            assert!(!holds(b"other"));
        }
    }
}

#[test]
fn a_certificate_may_be_signed_with_any_usual_hash_but_sha_1() {
    let (rustcrypto::Signer(key), issuer) = (keys()[1].rustcrypto(), keys()[1].public_key().spki());
    let sha384 = key.sign(Pkcs1v15Sign::new::<Sha384>(), &Sha384::digest(b"signed"));
    let sha512 = key.sign(Pkcs1v15Sign::new::<Sha512>(), &Sha512::digest(b"signed"));
    let signed = [
        ("1.2.840.113549.1.1.12", sha384.unwrap()),
        ("1.2.840.113549.1.1.13", sha512.unwrap()),
    ];
    for (oid, signature) in &signed {
        assert!(aws_lc::verify_certificate(
            oid, issuer, b"signed", signature
        ));
        for (other, _) in signed.iter().filter(|(other, _)| other != oid) {
            assert!(!aws_lc::verify_certificate(
                other, issuer, b"signed", signature
            ));
        }
        assert!(!aws_lc::verify_certificate(
            oid, issuer, b"other", signature
        ));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn both_implementations_agree(content in proptest::collection::vec(any::<u8>(), 0..300)) {
        for key in keys() {
            check_agreement(key, SignType::Rsa, &content);
            check_agreement(key, SignType::Rsa2, &content);
        }
    }
}
