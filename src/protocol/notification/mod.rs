//! What Alipay sends by itself.

use super::{
    error::ProtocolError, key::RsaPublicKey, params::Params, secret::Secret, sign_content::Scheme,
    signature::SignType,
};

/// A notification that nobody has verified yet.
#[derive(Clone, Debug)]
pub struct UnverifiedNotification;

/// A notification whose signature holds.
#[derive(Clone, Debug)]
pub struct Notification;

/// A merchant's authorisation, pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "skeleton")]
pub struct AuthorizationPush {
    pub app_id: String,
    pub auth_app_id: String,
    pub app_auth_token: Secret<String>,
    pub app_refresh_token: Option<Secret<String>>,
    pub auth_time: Option<i64>,
    pub user_id: Option<String>,
    pub agent_app_id: Option<String>,
    pub is_plugin: bool,
    pub trigger: Option<String>,
    pub error: Option<String>,
    pub expires_in: Option<u64>,
    pub re_expires_in: Option<u64>,
    pub version_supported: bool,
}

/// A merchant's cancellation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "skeleton")]
pub struct Cancellation {
    pub auth_app_id: Option<String>,
    pub user_id: Option<String>,
    pub at: Option<i64>,
}

#[expect(missing_docs, reason = "skeleton")]
impl UnverifiedNotification {
    pub fn parse(_content_type: Option<&str>, _body: &[u8]) -> Result<Self, ProtocolError> {
        unimplemented!()
    }
    pub fn claimed_app_id(&self) -> Option<&str> {
        unimplemented!()
    }
    pub fn verify(
        self,
        _keys: &[RsaPublicKey],
        _app: SignType,
    ) -> Result<Notification, ProtocolError> {
        unimplemented!()
    }
}

#[expect(missing_docs, reason = "skeleton")]
impl Notification {
    pub fn params(&self) -> &Params {
        unimplemented!()
    }
    pub fn scheme(&self) -> Scheme {
        unimplemented!()
    }
    pub fn event_type(&self) -> &str {
        unimplemented!()
    }
    pub fn notify_id(&self) -> Option<&str> {
        unimplemented!()
    }
    pub fn app_id(&self) -> Option<&str> {
        unimplemented!()
    }
    pub fn auth_app_id(&self) -> Option<String> {
        unimplemented!()
    }
    pub fn authorization(&self) -> Option<Result<AuthorizationPush, ProtocolError>> {
        unimplemented!()
    }
    pub fn cancellation(&self) -> Option<Cancellation> {
        unimplemented!()
    }
    pub fn holds_secret(&self) -> bool {
        unimplemented!()
    }
    pub fn out_trade_no(&self) -> Option<String> {
        unimplemented!()
    }
}
