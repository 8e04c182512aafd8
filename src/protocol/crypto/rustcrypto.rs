//! RSA by the crate `rsa`: any size and hash, blinded because it isn't constant-time
//! (RUSTSEC-2023-0071).

use rsa::{Pkcs1v15Sign, RsaPrivateKey, RsaPublicKey, rand_core::OsRng};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::{SigningKey, VerifyingKey};
use crate::protocol::{error::ProtocolError, signature::SignType};

/// Signs with SHA-256 or SHA-1, blinded.
pub struct Signer(pub(in crate::protocol) RsaPrivateKey);

impl SigningKey for Signer {
    fn sign(&self, sign_type: SignType, content: &[u8]) -> Result<Vec<u8>, ProtocolError> {
        let (padding, digest) = prepare(sign_type, content);
        self.0
            .sign_with_rng(&mut OsRng, padding, &digest)
            .map_err(|_| ProtocolError::SigningFailed { sign_type })
    }
}

/// Verifies with SHA-256 and SHA-1.
#[derive(Debug)]
pub struct Verifier(pub(in crate::protocol) RsaPublicKey);

impl VerifyingKey for Verifier {
    fn verify(&self, sign_type: SignType, content: &[u8], signature: &[u8]) -> bool {
        let (padding, digest) = prepare(sign_type, content);
        self.0.verify(padding, &digest, signature).is_ok()
    }
}

/// Makes a new private key.
pub(in crate::protocol) fn generate(bits: usize) -> Result<RsaPrivateKey, rsa::Error> {
    RsaPrivateKey::new(&mut OsRng, bits)
}

fn prepare(sign_type: SignType, content: &[u8]) -> (Pkcs1v15Sign, Vec<u8>) {
    match sign_type {
        SignType::Rsa => (Pkcs1v15Sign::new::<Sha1>(), Sha1::digest(content).to_vec()),
        SignType::Rsa2 => (
            Pkcs1v15Sign::new::<Sha256>(),
            Sha256::digest(content).to_vec(),
        ),
    }
}
