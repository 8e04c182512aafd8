//! The keys of apps and of Alipay, parsed once and cheap to share.

mod der;
mod form;
mod text;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use base64::{Engine, engine::general_purpose::STANDARD};
use rsa::{
    pkcs8::{EncodePrivateKey, EncodePublicKey, LineEnding},
    traits::PublicKeyParts,
};
use sha2::{Digest, Sha256};

pub use self::form::KeyForm;
use self::{der::Found, text::Block};
use super::{
    crypto::{SigningKey, VerifyingKey, aws_lc, rustcrypto},
    error::{KeyError, ProtocolError},
    secret::Secret,
    signature::SignType,
};

/// Signs for an app (应用私钥).
#[derive(Clone)]
pub struct AppPrivateKey(Arc<PrivateParts>);

struct PrivateParts {
    fast: Option<aws_lc::Signer>,
    legacy: rustcrypto::Signer,
    public: RsaPublicKey,
}

impl AppPrivateKey {
    /// Reads a key in any form that users paste: PEM or bare base64, PKCS#1 or PKCS#8 under
    /// whatever label, with CRLF, BOM, white space and invisible characters.
    ///
    /// Protocol: 密钥工具, “Java” format is PKCS#8, “other languages” PKCS#1 (vectors in
    /// `keys.json`).
    ///
    /// # Errors
    ///
    /// Each [`KeyError`] but `Generation`; a public key or a certificate is named as such.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        const EXPECTED: &str = "an RSA private key";
        let wanted = only(text, EXPECTED, |found| match found {
            Found::Private(key) => Ok(*key),
            Found::Public(_) => Err("a public key"),
            Found::Other(what) => Err(what),
        })?;
        Self::new(wanted)
    }

    /// Makes a new key with the operating system's random numbers. `bits`: 1024 to 4096.
    ///
    /// # Errors
    ///
    /// [`KeyError::Size`] or [`KeyError::Generation`].
    pub fn generate(bits: usize) -> Result<Self, KeyError> {
        if !(1024..=4096).contains(&bits) {
            return Err(KeyError::Size { bits });
        }
        Self::new(rustcrypto::generate(bits).map_err(|_| KeyError::Generation { bits })?)
    }

    /// Tells the length of the modulus in bits.
    #[must_use]
    pub fn bits(&self) -> usize {
        self.0.public.bits()
    }

    /// Writes the key as PKCS#8 PEM.
    #[must_use]
    pub fn to_pkcs8_pem(&self) -> Secret<String> {
        let pem = self.0.legacy.0.to_pkcs8_pem(LineEnding::LF);
        let pem = pem.expect("a key of two primes, as every one here is, has a PKCS#8 form");
        Secret::new(pem.to_string())
    }

    /// Gives the public half (应用公钥), which Alipay is told.
    #[must_use]
    pub fn public_key(&self) -> &RsaPublicKey {
        &self.0.public
    }

    /// Signs the bytes of a sign content; the result is base64 as it goes into `sign`.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::SigningFailed`].
    pub fn sign(&self, sign_type: SignType, content: &[u8]) -> Result<String, ProtocolError> {
        let key: &dyn SigningKey = match self.fast(sign_type) {
            Some(fast) => fast,
            None => &self.0.legacy,
        };
        Ok(STANDARD.encode(key.sign(sign_type, content)?))
    }

    /// Whether such a signature takes a millisecond or less: those of old kinds, which aws-lc doesn't
    /// make, and those of longer keys take several times as long.
    pub(crate) fn is_fast(&self, sign_type: SignType) -> bool {
        self.fast(sign_type).is_some() && self.0.public.bits() <= 2048
    }

    fn fast(&self, sign_type: SignType) -> Option<&aws_lc::Signer> {
        self.0.fast.as_ref().filter(|_| sign_type == SignType::Rsa2)
    }

    fn new(key: rsa::RsaPrivateKey) -> Result<Self, KeyError> {
        let pkcs8 = key.to_pkcs8_der().map_err(|_| KeyError::Inconsistent)?;
        Ok(Self(Arc::new(PrivateParts {
            fast: aws_lc::Signer::from_pkcs8(pkcs8.as_bytes()),
            public: RsaPublicKey::new(key.to_public_key())?,
            legacy: rustcrypto::Signer(key),
        })))
    }

    /// One of the throw-away keys of `tests/vectors`: making a key takes seconds.
    #[cfg(test)]
    pub(crate) fn of_vectors(name: &str) -> Self {
        let file = include_str!("../../../tests/vectors/keys.json");
        let file: serde_json::Value = serde_json::from_str(file).expect("JSON");
        let text = file.pointer(&format!("/keys/{name}/pkcs8_pem"));
        let text = text.and_then(serde_json::Value::as_str).expect(name);
        Self::from_text(text).expect(name)
    }

    #[cfg(test)]
    pub(super) fn aws_lc(&self) -> Option<&aws_lc::Signer> {
        self.0.fast.as_ref()
    }

    #[cfg(test)]
    pub(super) fn rustcrypto(&self) -> &rustcrypto::Signer {
        &self.0.legacy
    }
}

impl fmt::Debug for AppPrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppPrivateKey")
            .field("public_key", self.public_key())
            .finish_non_exhaustive()
    }
}

/// Verifies what Alipay signed (支付宝公钥), or what an app did (应用公钥).
#[derive(Clone)]
pub struct RsaPublicKey(Arc<PublicParts>);

struct PublicParts {
    bits: usize,
    spki: Vec<u8>,
    verifier: Box<dyn VerifyingKey>,
}

impl RsaPublicKey {
    /// Reads a key in any form that users paste: SubjectPublicKeyInfo or PKCS#1, PEM or bare.
    ///
    /// # Errors
    ///
    /// Each [`KeyError`] but `Generation`; a private key or a certificate is named as such.
    pub fn from_text(text: &str) -> Result<Self, KeyError> {
        const EXPECTED: &str = "an RSA public key";
        let wanted = only(text, EXPECTED, |found| match found {
            Found::Private(_) => Err("a private key"),
            Found::Public(key) => Ok(key),
            Found::Other(what) => Err(what),
        })?;
        Self::new(wanted)
    }

    /// Reads a key from its DER, SubjectPublicKeyInfo (as in a certificate) or PKCS#1.
    ///
    /// # Errors
    ///
    /// As [`from_text`](Self::from_text).
    pub fn from_der(der: &[u8]) -> Result<Self, KeyError> {
        const EXPECTED: &str = "an RSA public key";
        let block = Block {
            label: String::new(),
            der: der.to_vec().into(),
        };
        match der::read(&block, EXPECTED)? {
            Found::Public(key) => Self::new(key),
            Found::Private(_) => Err(wrong_kind("a private key", EXPECTED)),
            Found::Other(found) => Err(wrong_kind(found, EXPECTED)),
        }
    }

    /// Checks a signature in base64 over the bytes of a sign content.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::SignMissing`], [`ProtocolError::SignMalformed`] or
    /// [`ProtocolError::SignatureMismatch`].
    pub fn verify(
        &self,
        sign_type: SignType,
        content: &[u8],
        signature_base64: &str,
    ) -> Result<(), ProtocolError> {
        let signature = decode_signature(signature_base64)?;
        match self.fits(sign_type, content, &signature) {
            true => Ok(()),
            false => Err(ProtocolError::SignatureMismatch { keys: 1 }),
        }
    }

    /// Writes the key as Alipay's console shows it: base64 of SubjectPublicKeyInfo on one line.
    #[must_use]
    pub fn to_bare_base64(&self) -> String {
        STANDARD.encode(self.spki())
    }

    /// Names the key: SHA-256 of its SubjectPublicKeyInfo, as 64 hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        Sha256::digest(self.spki())
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    /// Tells the length of the modulus in bits.
    #[must_use]
    pub fn bits(&self) -> usize {
        self.0.bits
    }

    /// Gives the key as SubjectPublicKeyInfo DER.
    #[must_use]
    pub fn spki(&self) -> &[u8] {
        &self.0.spki
    }

    /// Tells whether a decoded signature is as long as those that this key verifies.
    pub(super) fn may_have_made(&self, signature: &[u8]) -> bool {
        signature.len() == self.bits().div_ceil(8)
    }

    /// Tells whether a decoded signature fits.
    pub(super) fn fits(&self, sign_type: SignType, content: &[u8], signature: &[u8]) -> bool {
        self.may_have_made(signature) && self.0.verifier.verify(sign_type, content, signature)
    }

    fn new(key: rsa::RsaPublicKey) -> Result<Self, KeyError> {
        let bits = key.n().bits();
        let spki = key
            .to_public_key_der()
            .map_err(|_| KeyError::Inconsistent)?
            .into_vec();
        let verifier: Box<dyn VerifyingKey> = match aws_lc::Verifier::from_spki(&spki) {
            Some(fast) => Box::new(fast),
            None => Box::new(rustcrypto::Verifier(key)),
        };
        Ok(Self(Arc::new(PublicParts {
            bits,
            spki,
            verifier,
        })))
    }
}

impl fmt::Debug for RsaPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RsaPublicKey")
            .field("bits", &self.bits())
            .field("fingerprint", &self.fingerprint())
            .finish()
    }
}

impl PartialEq for RsaPublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.spki() == other.spki()
    }
}

impl Eq for RsaPublicKey {}

/// Decodes a `sign`: base64 of the standard alphabet, padded, without line breaks.
pub(super) fn decode_signature(text: &str) -> Result<Vec<u8>, ProtocolError> {
    if text.is_empty() {
        return Err(ProtocolError::SignMissing);
    }
    STANDARD
        .decode(text)
        .map_err(|_| ProtocolError::SignMalformed)
}

fn wrong_kind(found: &'static str, expected: &'static str) -> KeyError {
    KeyError::WrongKind { found, expected }
}

/// Finds the one block that `pick` wants, or says what stands there instead.
fn only<T>(
    text: &str,
    expected: &'static str,
    pick: impl Fn(Found) -> Result<T, &'static str>,
) -> Result<T, KeyError> {
    let mut wanted = Vec::new();
    let mut refused = KeyError::Empty { expected };
    for block in text::blocks(text, expected)? {
        match der::read(&block, expected).map(&pick) {
            Ok(Ok(key)) => wanted.push(key),
            Ok(Err(found)) => refused = wrong_kind(found, expected),
            Err(error) => refused = error,
        }
    }
    match (wanted.pop(), wanted.len() + 1) {
        (None, _) => Err(refused),
        (Some(key), 1) => Ok(key),
        (Some(_), count) => Err(KeyError::Several { count, expected }),
    }
}
