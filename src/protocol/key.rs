//! The keys of apps and of Alipay.

use super::{
    error::{KeyError, ProtocolError},
    secret::Secret,
    signature::SignType,
};

/// Signs for an app (应用私钥).
#[derive(Clone, Debug)]
pub struct AppPrivateKey;

/// Verifies for Alipay (支付宝公钥) or for an app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RsaPublicKey;

#[expect(missing_docs, reason = "skeleton")]
impl AppPrivateKey {
    pub fn from_text(_text: &str) -> Result<Self, KeyError> {
        unimplemented!()
    }
    pub fn generate(_bits: usize) -> Result<Self, KeyError> {
        unimplemented!()
    }
    pub fn bits(&self) -> usize {
        unimplemented!()
    }
    pub fn to_pkcs8_pem(&self) -> Secret<String> {
        unimplemented!()
    }
    pub fn public_key(&self) -> &RsaPublicKey {
        unimplemented!()
    }
    pub fn sign(&self, _sign_type: SignType, _content: &[u8]) -> Result<String, ProtocolError> {
        unimplemented!()
    }
}

#[expect(missing_docs, reason = "skeleton")]
impl RsaPublicKey {
    pub fn from_text(_text: &str) -> Result<Self, KeyError> {
        unimplemented!()
    }
    pub fn verify(&self, _t: SignType, _content: &[u8], _sign: &str) -> Result<(), ProtocolError> {
        unimplemented!()
    }
    pub fn to_bare_base64(&self) -> String {
        unimplemented!()
    }
    pub fn fingerprint(&self) -> String {
        unimplemented!()
    }
    pub fn bits(&self) -> usize {
        unimplemented!()
    }
}
