//! RSA by aws-lc: constant-time, 2048 bits and SHA-256 for signing, 1024 bits and SHA-1 for
//! verifying too.

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeyPair,
    signature::{
        ParsedPublicKey, RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
        RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256,
        RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PKCS1_SHA256,
    },
};

use super::{SigningKey, VerifyingKey};
use crate::protocol::{error::ProtocolError, signature::SignType};

/// Signs with SHA-256.
#[derive(Debug)]
pub struct Signer(KeyPair);

impl Signer {
    /// Reads PKCS#8 DER; `None` for a key that aws-lc refuses (one under 2048 bits, say).
    #[must_use]
    pub fn from_pkcs8(der: &[u8]) -> Option<Self> {
        KeyPair::from_pkcs8(der).ok().map(Self)
    }
}

impl SigningKey for Signer {
    fn sign(&self, sign_type: SignType, content: &[u8]) -> Result<Vec<u8>, ProtocolError> {
        let failed = ProtocolError::SigningFailed { sign_type };
        if sign_type != SignType::Rsa2 {
            return Err(failed);
        }
        let mut signature = vec![0; self.0.public_modulus_len()];
        self.0
            .sign(
                &RSA_PKCS1_SHA256,
                &SystemRandom::new(),
                content,
                &mut signature,
            )
            .map_err(|_| failed)?;
        Ok(signature)
    }
}

/// Verifies with SHA-256 and SHA-1.
#[derive(Debug)]
pub struct Verifier {
    sha1: ParsedPublicKey,
    sha256: ParsedPublicKey,
}

impl Verifier {
    /// Reads SubjectPublicKeyInfo DER; `None` for a key that aws-lc refuses.
    #[must_use]
    pub fn from_spki(der: &[u8]) -> Option<Self> {
        let sha1 = ParsedPublicKey::new(&RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, der);
        let sha256 = ParsedPublicKey::new(&RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, der);
        Some(Self {
            sha1: sha1.ok()?,
            sha256: sha256.ok()?,
        })
    }
}

impl VerifyingKey for Verifier {
    fn verify(&self, sign_type: SignType, content: &[u8], signature: &[u8]) -> bool {
        let key = match sign_type {
            SignType::Rsa => &self.sha1,
            SignType::Rsa2 => &self.sha256,
        };
        key.verify_sig(content, signature).is_ok()
    }
}

/// Checks the signature in a certificate by the object identifier of its algorithm. Those with
/// SHA-1 or MD5, RSASSA-PSS and other kinds of key never hold.
pub fn verify_certificate(oid: &str, issuer: &[u8], signed: &[u8], signature: &[u8]) -> bool {
    let algorithm = match oid {
        "1.2.840.113549.1.1.11" => &RSA_PKCS1_2048_8192_SHA256,
        "1.2.840.113549.1.1.12" => &RSA_PKCS1_2048_8192_SHA384,
        "1.2.840.113549.1.1.13" => &RSA_PKCS1_2048_8192_SHA512,
        _ => return false,
    };
    ParsedPublicKey::new(algorithm, issuer)
        .is_ok_and(|key| key.verify_sig(signed, signature).is_ok())
}
