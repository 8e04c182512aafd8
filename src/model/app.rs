//! The ISV's own applications.

use crate::model::id::AppId;
use crate::protocol::secret::Secret;
use crate::protocol::signature::SignType;

/// An ISV application or plugin with the keys that speak for it, as text.
#[derive(Debug, Clone)]
pub struct App {
    /// The identity that signs.
    pub app_id: AppId,
    /// The application's private key.
    pub private_key: PrivateKey,
    /// The key that follows during a key change.
    pub private_key_next: Option<PrivateKey>,
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

/// A private key of an app (应用私钥), or where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PrivateKey {
    /// In a KMS or an HSM that never gives it away: the [`Signers`](crate::gateway::app::Signers) that a
    /// host hands in sign with it. Its public half (应用公钥), in any form users paste; `None`: that of the
    /// first of [`AppCertificates::app`] which is of no other key.
    Elsewhere(Option<String>),
    /// Its text, in any form users paste.
    Text(Secret<String>),
}

impl App {
    /// Whether one of its private keys is in a KMS or an HSM, so that only a host's signers can sign for it.
    #[must_use]
    pub fn has_key_elsewhere(&self) -> bool {
        let mut keys = std::iter::once(&self.private_key).chain(&self.private_key_next);
        keys.any(|key| key.text().is_none())
    }
}

impl PrivateKey {
    /// Its text, where it isn't elsewhere.
    #[must_use]
    pub fn text(&self) -> Option<&Secret<String>> {
        match self {
            Self::Elsewhere(_) => None,
            Self::Text(text) => Some(text),
        }
    }
}

impl From<Secret<String>> for PrivateKey {
    fn from(text: Secret<String>) -> Self {
        Self::Text(text)
    }
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
