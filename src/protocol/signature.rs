//! Signature types.

/// How a request is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignType {
    /// RSASSA-PKCS1-v1_5 with SHA-1: apps that have not moved yet.
    Rsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rsa2,
}
