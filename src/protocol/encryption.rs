//! The encryption of contents (接口内容加密): AES in CBC mode with PKCS#7 padding and an IV of zeros.
//!
//! Protocol: “接口内容加密方式” and `AlipayEncrypt` of the official SDKs (vectors `aes.json`). The
//! mode authenticates nothing: decrypt only what a signature has vouched for, or the errors become
//! an oracle.

use std::fmt;

use aws_lc_rs::{
    cipher::{
        AES_128, AES_192, AES_256, Algorithm, DecryptionContext, EncryptionContext,
        PaddedBlockDecryptingKey, PaddedBlockEncryptingKey, UnboundCipherKey,
    },
    iv::FixedLength,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use super::{charset::Charset, envelope::VerifiedEnvelope, json, secret::Secret};

/// Holds an app's key for contents (AES密钥). `Debug` shows nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentKey(Secret<Vec<u8>>);

impl ContentKey {
    /// Reads a key as the console shows it: base64 of 16 bytes. 24 and 32 bytes select AES-192 and
    /// AES-256, as in the SDKs.
    ///
    /// # Errors
    ///
    /// [`EncryptionError::KeyBase64`] or [`EncryptionError::KeyLength`].
    pub fn from_base64(text: &str) -> Result<Self, EncryptionError> {
        let key = STANDARD
            .decode(text.trim())
            .map(Secret::new)
            .map_err(|_| EncryptionError::KeyBase64)?;
        match algorithm(key.expose()) {
            Some(_) => Ok(Self(key)),
            None => Err(EncryptionError::KeyLength {
                bytes: key.expose().len(),
            }),
        }
    }

    /// Encrypts the bytes of a text in the charset of the call; the result is base64 as it goes
    /// into `biz_content`, or into the body of a v3 call.
    ///
    /// # Errors
    ///
    /// [`EncryptionError::Failed`].
    pub fn encrypt(&self, plaintext: &[u8]) -> Result<String, EncryptionError> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(plaintext.len() + BLOCK));
        bytes.extend_from_slice(plaintext);
        let key = self.unbound().and_then(PaddedBlockEncryptingKey::cbc_pkcs7);
        let zeros = EncryptionContext::Iv128(FixedLength::from([0; BLOCK]));
        key.and_then(|key| key.less_safe_encrypt(&mut *bytes, zeros))
            .map_err(|_| EncryptionError::Failed)?;
        Ok(STANDARD.encode(&*bytes))
    }

    /// Decrypts what [`encrypt`](Self::encrypt) wrote, into the bytes of a text in the charset of
    /// the call.
    ///
    /// # Errors
    ///
    /// [`EncryptionError::Ciphertext`] for what isn't base64 of whole blocks, and
    /// [`EncryptionError::Undecryptable`] where the key doesn't fit (it may also give rubbish
    /// instead: once in 256 times the padding looks right).
    pub fn decrypt(&self, ciphertext: &str) -> Result<Secret<Vec<u8>>, EncryptionError> {
        let mut bytes = STANDARD
            .decode(ciphertext)
            .map_err(|_| EncryptionError::Ciphertext)?;
        if bytes.is_empty() || bytes.len() % BLOCK != 0 {
            return Err(EncryptionError::Ciphertext);
        }
        let key = self.unbound().and_then(PaddedBlockDecryptingKey::cbc_pkcs7);
        let zeros = DecryptionContext::Iv128(FixedLength::from([0; BLOCK]));
        let length = key
            .and_then(|key| key.decrypt(&mut bytes, zeros).map(|plain| plain.len()))
            .map_err(|_| EncryptionError::Undecryptable);
        match length {
            Ok(length) => {
                bytes.truncate(length);
                Ok(Secret::new(bytes))
            }
            Err(error) => {
                bytes.zeroize();
                Err(error)
            }
        }
    }

    /// Gives the JSON text of a verified v2 reply's node in the reply's charset: decrypted where it
    /// is a ciphertext, else as it came. (A server that can't decrypt answers with a plain node.)
    ///
    /// Protocol: 接口内容加密方式; the type of the node decides, not what was asked for (vectors
    /// `encrypted-node` and `encrypted-node-escaped` of `v2-response.json`).
    ///
    /// # Errors
    ///
    /// [`EncryptionError::PlaintextNotJson`] if it isn't one JSON object, or those of
    /// [`decrypt`](Self::decrypt).
    pub fn open_node(
        &self,
        reply: &VerifiedEnvelope,
        charset: Charset,
    ) -> Result<Secret<Vec<u8>>, EncryptionError> {
        let node = reply.node();
        if !reply.is_ciphertext() {
            return Ok(Secret::new(node.to_vec()));
        }
        let ciphertext =
            json::decode_string(&node, charset).map_err(|_| EncryptionError::Ciphertext)?;
        self.decrypt_object(&ciphertext, charset)
    }

    /// Opens a verified v2 reply: a ciphertext is replaced by what it holds, anything else stays.
    ///
    /// # Errors
    ///
    /// As [`open_node`](Self::open_node).
    pub fn open_reply(&self, reply: VerifiedEnvelope) -> Result<VerifiedEnvelope, EncryptionError> {
        if !reply.is_ciphertext() {
            return Ok(reply);
        }
        let plaintext = self.open_node(&reply, reply.charset())?;
        Ok(reply.opened(Zeroizing::new(plaintext.expose().clone())))
    }

    /// Decrypts one JSON object: what a wrong key gives by chance never is one.
    pub(super) fn decrypt_object(
        &self,
        ciphertext: &str,
        charset: Charset,
    ) -> Result<Secret<Vec<u8>>, EncryptionError> {
        let plaintext = self.decrypt(ciphertext)?;
        match json::is_one_object(plaintext.expose(), charset) {
            Ok(()) => Ok(plaintext),
            Err(_) => Err(EncryptionError::PlaintextNotJson),
        }
    }

    fn unbound(&self) -> Result<UnboundCipherKey, aws_lc_rs::error::Unspecified> {
        let key = self.0.expose();
        let algorithm = algorithm(key).ok_or(aws_lc_rs::error::Unspecified)?;
        UnboundCipherKey::new(algorithm, key)
    }
}

impl fmt::Display for ContentKey {
    /// Prints only the name of the cipher, such as `AES-128`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AES-{}", self.0.expose().len() * 8)
    }
}

/// Says why a content can't be encrypted or decrypted. No message holds any of it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncryptionError {
    /// A key that isn't base64.
    #[error("the content key isn't base64; expected it as Alipay's console shows it")]
    KeyBase64,
    /// A key of another length.
    #[error("the content key has {bytes} bytes; expected 16 (or 24 or 32) in base64")]
    KeyLength {
        /// What was found.
        bytes: usize,
    },
    /// A ciphertext of an impossible shape.
    #[error("the ciphertext isn't base64 of whole blocks of 16 bytes; was it cut short?")]
    Ciphertext,
    /// A ciphertext that the key doesn't fit.
    #[error("the ciphertext can't be decrypted with this content key; check that it is this app's")]
    Undecryptable,
    /// A decrypted text that isn't what it should be.
    #[error("the decrypted text isn't one JSON object; check that the content key is this app's")]
    PlaintextNotJson,
    /// The operation itself failed.
    #[error("the AES operation failed")]
    Failed,
}

impl EncryptionError {
    /// Names the kind of fault in a fixed word for replies, logs and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::KeyBase64 => "content-key-base64",
            Self::KeyLength { .. } => "content-key-length",
            Self::Ciphertext => "ciphertext-invalid",
            Self::Undecryptable => "ciphertext-undecryptable",
            Self::PlaintextNotJson => "plaintext-not-json",
            Self::Failed => "encryption-failed",
        }
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

/// The length of a block, and of the IV, in bytes.
const BLOCK: usize = 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(bytes: usize) -> Result<ContentKey, EncryptionError> {
        ContentKey::from_base64(&STANDARD.encode(vec![7; bytes]))
    }

    #[test]
    fn only_the_lengths_of_aes_are_keys() {
        for bytes in [0, 1, 15, 17, 23, 25, 31, 33, 64] {
            assert_eq!(key(bytes), Err(EncryptionError::KeyLength { bytes }));
        }
        for bytes in [16, 24, 32] {
            assert_eq!(
                key(bytes).unwrap().to_string(),
                format!("AES-{}", bytes * 8)
            );
        }
        let error = ContentKey::from_base64("no key!").unwrap_err();
        assert_eq!(error, EncryptionError::KeyBase64);
        assert_eq!(error.kind(), "content-key-base64");
    }

    #[test]
    fn a_key_is_never_printed() {
        assert_eq!(format!("{:?}", key(16).unwrap()), "ContentKey(Secret(…))");
    }

    #[test]
    fn wrong_padding_is_refused() {
        // Two blocks, the last one cut off: what was text now stands where padding should be.
        let key = key(16).unwrap();
        let whole = STANDARD
            .decode(key.encrypt(b"0123456789abcdef").unwrap())
            .unwrap();
        let cut = STANDARD.encode(&whole[..BLOCK]);
        assert_eq!(key.decrypt(&cut), Err(EncryptionError::Undecryptable));
        for text in ["", "****", "c2hvcnQ=", "crS01g4mS/AW/NUVPDUpMA"] {
            assert_eq!(
                key.decrypt(text),
                Err(EncryptionError::Ciphertext),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_encrypted_is_decrypted(
            text in proptest::collection::vec(any::<u8>(), 0..70),
            words in 2usize..=4,
        ) {
            let key = key(words * 8).unwrap();
            let ciphertext = key.encrypt(&text).unwrap();
            let decrypted = key.decrypt(&ciphertext).unwrap();
            prop_assert_eq!(decrypted.expose(), &text);
        }

        #[test]
        fn decrypting_never_panics(text in ".{0,60}", bytes in proptest::collection::vec(any::<u8>(), 0..70)) {
            let key = key(16).unwrap();
            let _ = key.decrypt(&text);
            let _ = key.decrypt(&STANDARD.encode(bytes));
            let _ = ContentKey::from_base64(&text);
        }
    }
}
