//! The `app_auth_token` of a merchant, with the token that renews it.

use crate::protocol::secret::Secret;

/// One pair of `app_auth_token` and `app_refresh_token`.
///
/// Alipay's `expires_in` is deprecated (tokens hold until the merchant cancels), so the stated
/// expiry is for the operator's eyes and for `tokens.refresh = "ahead"`; it never blocks a call.
#[derive(Debug, Clone)]
pub struct AppAuthToken {
    /// The token that rides on every call for the merchant.
    pub app_auth_token: Secret<String>,
    /// The token that buys a new pair.
    pub app_refresh_token: Option<Secret<String>>,
    /// When Alipay says the token ends, in Unix milliseconds.
    pub stated_expiry: Option<i64>,
}
