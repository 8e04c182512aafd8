//! The simulator's own encryption of contents, made without the sidecar's protocol code.
//!
//! Protocol: 接口内容加密方式: AES in CBC mode, PKCS#7, an IV of zeros, base64 around it.
use std::fmt;

use aws_lc_rs::{
    cipher::{
        AES_128, AES_192, AES_256, Algorithm, DecryptionContext, EncryptionContext,
        PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
    },
    error::Unspecified,
    iv::FixedLength,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rsa::rand_core::{OsRng, RngCore as _};

use super::error::SimulatorError;

/// An AES key, as base64 around 16, 24 or 32 bytes.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct ContentKey(Vec<u8>);

// No key is ever printed, not even a throw-away one.
impl fmt::Debug for ContentKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ContentKey({} bytes)", self.0.len())
    }
}

impl ContentKey {
    /// Makes a key of 16 random bytes.
    pub(super) fn generate() -> Self {
        let mut key = vec![0; 16];
        OsRng.fill_bytes(&mut key);
        Self(key)
    }

    /// Reads a key as the console shows it.
    pub(super) fn from_base64(text: &str) -> Result<Self, SimulatorError> {
        let key = STANDARD.decode(text).unwrap_or_default();
        match algorithm(&key) {
            Some(_) => Ok(Self(key)),
            None => Err(SimulatorError::EncryptKey),
        }
    }

    /// Spells the key as the console shows it.
    pub(super) fn to_base64(&self) -> String {
        STANDARD.encode(&self.0)
    }

    /// Encrypts; none when the cipher library refuses.
    pub(super) fn encrypt(&self, plaintext: &[u8]) -> Option<String> {
        let mut bytes = plaintext.to_vec();
        let key = PaddedBlockEncryptingKey::cbc_pkcs7(self.unbound().ok()?).ok()?;
        let zeros = EncryptionContext::Iv128(FixedLength::from([0; 16]));
        key.less_safe_encrypt(&mut bytes, zeros).ok()?;
        Some(STANDARD.encode(bytes))
    }

    /// Decrypts; none when it is no ciphertext of this key.
    pub(super) fn decrypt(&self, ciphertext: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = STANDARD.decode(ciphertext).ok()?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(self.unbound().ok()?).ok()?;
        let zeros = DecryptionContext::Iv128(FixedLength::from([0; 16]));
        let plaintext = key.decrypt(&mut bytes, zeros).ok()?;
        Some(plaintext.to_vec())
    }

    /// Makes whole blocks that this key cannot decrypt.
    pub(super) fn garbled(&self) -> String {
        loop {
            let mut blocks = [0; 48];
            OsRng.fill_bytes(&mut blocks);
            let text = STANDARD.encode(blocks);
            // Once in 256 times the padding looks right.
            if self.decrypt(text.as_bytes()).is_none() {
                return text;
            }
        }
    }

    fn unbound(&self) -> Result<UnboundCipherKey, Unspecified> {
        UnboundCipherKey::new(algorithm(&self.0).ok_or(Unspecified)?, &self.0)
    }
}

fn algorithm(key: &[u8]) -> Option<&'static Algorithm> {
    match key.len() {
        16 => Some(&AES_128),
        24 => Some(&AES_192),
        32 => Some(&AES_256),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_encrypts_as_the_sdks_do() {
        let file: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/vectors/aes.json")).unwrap();
        let mut run = 0;
        for case in file["cases"].as_array().unwrap() {
            let text = |name: &str| case[name].as_str();
            let (Some(plain), Some(cipher)) = (text("plaintext"), text("ciphertext")) else {
                continue;
            };
            if text("expect_decrypt").is_some() || text("charset").is_some_and(|c| c != "utf-8") {
                continue;
            }
            let key = ContentKey::from_base64(text("aes_key_b64").unwrap()).unwrap();
            assert_eq!(key.encrypt(plain.as_bytes()).unwrap(), cipher);
            assert_eq!(key.decrypt(cipher.as_bytes()).unwrap(), plain.as_bytes());
            run += 1;
        }
        assert!(run > 2, "{run}");
    }

    #[test]
    fn another_keys_text_and_garbled_text_are_refused() {
        let key = ContentKey::generate();
        assert_eq!(key.decrypt(key.garbled().as_bytes()), None);
        assert_eq!(key.decrypt(b""), None);
        assert_eq!(key.decrypt(b"AAAA"), None);
        for bad in ["", "AAAA", "not base64"] {
            assert!(ContentKey::from_base64(bad).is_err(), "{bad}");
        }
    }
}
