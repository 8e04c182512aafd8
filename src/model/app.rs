//! The ISV's own applications.

use crate::model::id::AppId;
use crate::protocol::secret::Secret;
use crate::protocol::signature::SignType;

/// An ISV application or plugin with the keys that speak for it, as text.
#[derive(Debug, Clone)]
pub struct App {
    /// The identity that signs.
    pub app_id: AppId,
    /// The application's private key, in any form users paste.
    pub private_key: Secret<String>,
    /// The key that follows during a key change.
    pub private_key_next: Option<Secret<String>>,
    /// The platform's public keys (支付宝公钥), newest first; several during a change. May be empty
    /// in certificate mode.
    pub alipay_public_keys: Vec<String>,
    /// Certificate mode; beside keys while an app moves from one to the other.
    pub certificates: Option<AppCertificates>,
    /// The AES key of content encryption, base64.
    pub encrypt_key: Option<Secret<String>>,
    /// Which of Alipay's worlds the app lives in.
    pub environment: Environment,
    /// How the app signs.
    pub sign_type: SignType,
}

/// The files of certificate mode (公钥证书方式), as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppCertificates {
    /// The application's own (应用公钥证书); several during a key change.
    pub app: Vec<String>,
    /// The platform's (支付宝公钥证书), newest first; later ones are fetched by themselves.
    pub alipay: Vec<String>,
    /// Alipay's roots (支付宝根证书).
    pub roots: String,
}

/// Which of Alipay's two separate worlds an app belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// Real money.
    Production,
    /// 沙箱: its own app ids, keys and hosts.
    Sandbox,
}

impl Environment {
    /// The word used in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Sandbox => "sandbox",
        }
    }
}
