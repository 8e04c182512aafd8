//! RSA by the `rsa` crate, which the program itself uses for legacy apps alone.

use alipay_sidecar::protocol::signature::SignType;
use rsa::pkcs8::DecodePrivateKey;
use rsa::{Pkcs1v15Sign, RsaPrivateKey, RsaPublicKey};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// A key as `rsa` holds it.
pub(super) struct Judge {
    private: RsaPrivateKey,
    public: RsaPublicKey,
}

impl Judge {
    pub(super) fn from_pem(pem: &str) -> Self {
        let private = RsaPrivateKey::from_pkcs8_pem(pem).expect("a key");
        let public = private.to_public_key();
        Self { private, public }
    }

    /// Signs; PKCS#1 v1.5 has one signature for each content.
    pub(super) fn sign(&self, sign_type: SignType, content: &[u8]) -> Vec<u8> {
        let (scheme, hash) = hashed(sign_type, content);
        self.private.sign(scheme, &hash).expect("a signature")
    }

    /// Tells whether a signature fits.
    pub(super) fn holds(&self, sign_type: SignType, content: &[u8], signature: &[u8]) -> bool {
        let (scheme, hash) = hashed(sign_type, content);
        self.public.verify(scheme, &hash, signature).is_ok()
    }
}

fn hashed(sign_type: SignType, content: &[u8]) -> (Pkcs1v15Sign, Vec<u8>) {
    match sign_type {
        SignType::Rsa => (Pkcs1v15Sign::new::<Sha1>(), Sha1::digest(content).to_vec()),
        SignType::Rsa2 => (
            Pkcs1v15Sign::new::<Sha256>(),
            Sha256::digest(content).to_vec(),
        ),
    }
}
