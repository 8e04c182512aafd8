//! The tokens in a reply of `alipay.open.auth.token.app`.

use super::{error::ProtocolError, secret::Secret};

/// One merchant's grant. Durations are seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "skeleton")]
pub struct GrantedToken {
    pub auth_app_id: String,
    pub user_id: Option<String>,
    pub app_auth_token: Secret<String>,
    pub app_refresh_token: Option<Secret<String>>,
    pub expires_in: Option<u64>,
    pub re_expires_in: Option<u64>,
}

/// Reads the grants out of a node.
///
/// # Errors
///
/// [`ProtocolError::TokenReplyInvalid`].
pub fn parse(_node: &[u8]) -> Result<Vec<GrantedToken>, ProtocolError> {
    unimplemented!()
}
