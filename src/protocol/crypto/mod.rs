//! RSASSA-PKCS1-v1_5 behind two traits, one file per implementation.
//!
//! [`aws_lc`] does the work wherever it can: it is constant-time. [`rustcrypto`] serves the legacy
//! apps that aws-lc refuses (keys under 2048 bits, SHA-1) with blinding, reads keys of every
//! format, generates them, and is the independent second opinion in the differential test below.
//! Its random numbers (blinding and generation) come from the operating system: the one thing in
//! [`protocol`](crate::protocol) that isn't a function of its arguments.

pub mod aws_lc;
pub mod rustcrypto;

use super::{error::ProtocolError, signature::SignType};

/// Makes signatures with a private key.
pub trait SigningKey: Send + Sync {
    /// Signs the bytes of a sign content.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::SigningFailed`] if the implementation or the key can't.
    fn sign(&self, sign_type: SignType, content: &[u8]) -> Result<Vec<u8>, ProtocolError>;
}

/// Checks signatures with a public key.
pub trait VerifyingKey: Send + Sync {
    /// Tells whether the signature fits the bytes of a sign content.
    fn verify(&self, sign_type: SignType, content: &[u8], signature: &[u8]) -> bool;
}

#[cfg(test)]
mod tests;
