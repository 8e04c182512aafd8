//! What a signature seals: a PKCS#1 v1.5 signature gives back, under the public half of the key
//! that made it, the digest of what was signed; under any other key it gives noise.
//!
//! So one operation tells the two questions apart that every failed verification mixes: is it the
//! key, or is it the content? And whatever the content may have been can then be tried at the
//! price of a hash.

use rsa::{BigUint, pkcs8::DecodePublicKey, traits::PublicKeyParts};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::protocol::{key::RsaPublicKey, signature::SignType};

/// Holds the digest that a signature seals.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sealed {
    pub(super) sign_type: SignType,
    pub(super) digest: Vec<u8>,
}

impl Sealed {
    /// Opens a signature with a key; `None` where the key isn't the one that made it, or the
    /// signature was changed, or its hash is neither SHA-1 nor SHA-256.
    pub(super) fn open(key: &RsaPublicKey, signature: &[u8]) -> Option<Self> {
        if signature.len() != key.bits().div_ceil(8) {
            return None;
        }
        let key = rsa::RsaPublicKey::from_public_key_der(key.spki()).ok()?;
        let number = BigUint::from_bytes_be(signature);
        if number >= *key.n() {
            return None;
        }
        // Leading zeros are lost in a number: what follows them is the type of the padding, 1.
        let block = number.modpow(key.e(), key.n()).to_bytes_be();
        let padding = block.strip_prefix(&[1])?;
        let end = padding.iter().position(|&byte| byte != 0xff)?;
        let sealed = padding.get(end..)?.strip_prefix(&[0])?;
        if end < 8 || end + sealed.len() + 3 != key.size() {
            return None;
        }
        Self::of_digest_info(sealed)
    }

    fn of_digest_info(sealed: &[u8]) -> Option<Self> {
        const SHA_1: &[u8] = b"\x30\x21\x30\x09\x06\x05\x2b\x0e\x03\x02\x1a\x05\x00\x04\x14";
        const SHA_256: &[u8] =
            b"\x30\x31\x30\x0d\x06\x09\x60\x86\x48\x01\x65\x03\x04\x02\x01\x05\x00\x04\x20";
        let kinds = [(SHA_256, SignType::Rsa2, 32), (SHA_1, SignType::Rsa, 20)];
        kinds.iter().find_map(|&(prefix, sign_type, length)| {
            let digest = sealed.strip_prefix(prefix)?;
            (digest.len() == length).then(|| Self {
                sign_type,
                digest: digest.to_vec(),
            })
        })
    }

    /// Tells whether it is the digest of this content.
    pub(super) fn is_of(&self, content: &[u8]) -> bool {
        self.digest == digest(self.sign_type, content)
    }
}

/// Hashes a content as an algorithm does.
pub(super) fn digest(sign_type: SignType, content: &[u8]) -> Vec<u8> {
    match sign_type {
        SignType::Rsa => Sha1::digest(content).to_vec(),
        SignType::Rsa2 => Sha256::digest(content).to_vec(),
    }
}

/// Writes bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::{crypto::SigningKey, key::AppPrivateKey};

    fn key(name: &str) -> AppPrivateKey {
        let keys: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/vectors/keys.json")).unwrap();
        AppPrivateKey::from_text(keys["keys"][name]["pkcs8_bare"].as_str().unwrap()).unwrap()
    }

    #[test]
    fn a_signature_opens_under_its_key_alone() {
        let (right, wrong) = (key("app2048"), key("alipay2048"));
        for sign_type in [SignType::Rsa, SignType::Rsa2] {
            let signature = right.rustcrypto().sign(sign_type, b"content").unwrap();
            let sealed = Sealed::open(right.public_key(), &signature).unwrap();
            assert_eq!(sealed.sign_type, sign_type);
            assert!(sealed.is_of(b"content") && !sealed.is_of(b"contents"));
            assert_eq!(Sealed::open(wrong.public_key(), &signature), None);
            assert_eq!(Sealed::open(right.public_key(), &signature[1..]), None);
        }
    }

    #[test]
    fn keys_of_every_size_open() {
        for name in ["app1024", "app2048", "app4096"] {
            let key = key(name);
            let signature = key.rustcrypto().sign(SignType::Rsa2, b"c").unwrap();
            assert!(
                Sealed::open(key.public_key(), &signature)
                    .unwrap()
                    .is_of(b"c"),
                "{name}"
            );
        }
    }

    proptest! {
        #[test]
        fn opening_never_panics(signature in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Sealed::open(key("app2048").public_key(), &signature), None);
        }
    }
}
