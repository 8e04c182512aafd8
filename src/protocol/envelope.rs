//! The envelope of a v2 reply.

use bytes::Bytes;

use super::{error::EnvelopeError, key::RsaPublicKey, signature::SignType};

/// A reply that nobody has verified yet.
#[derive(Clone, Debug)]
pub struct Envelope;

/// A reply that may be acted upon.
#[derive(Clone, Debug)]
pub struct VerifiedEnvelope;

/// Says what a verified reply is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// Alipay's signature holds.
    Signed,
    /// An error that Alipay didn't sign: the outcome of the call is unknown.
    UnsignedError,
}

#[expect(missing_docs, reason = "skeleton")]
impl Envelope {
    pub fn parse(_body: Bytes, _method: &str) -> Result<Self, EnvelopeError> {
        unimplemented!()
    }
    pub fn alipay_cert_sn(&self) -> Option<&str> {
        unimplemented!()
    }
    pub fn verify(
        self,
        _keys: &[RsaPublicKey],
        _sign_type: SignType,
    ) -> Result<VerifiedEnvelope, EnvelopeError> {
        unimplemented!()
    }
}

#[expect(missing_docs, reason = "skeleton")]
impl VerifiedEnvelope {
    pub fn body(&self) -> &Bytes {
        unimplemented!()
    }
    pub fn node(&self) -> Bytes {
        unimplemented!()
    }
    pub fn is_ciphertext(&self) -> bool {
        unimplemented!()
    }
    pub fn verification(&self) -> Verification {
        unimplemented!()
    }
    pub fn code(&self) -> Option<&str> {
        unimplemented!()
    }
    pub fn msg(&self) -> Option<&str> {
        unimplemented!()
    }
    pub fn sub_code(&self) -> Option<&str> {
        unimplemented!()
    }
    pub fn sub_msg(&self) -> Option<&str> {
        unimplemented!()
    }
}
