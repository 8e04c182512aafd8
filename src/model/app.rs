//! The ISV's own applications.

use crate::model::id::AppId;
use crate::protocol::error::KeyError;
use crate::protocol::key::{AppPrivateKey, RsaPublicKey};
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
    /// The platform's public keys (支付宝公钥), newest first; several during a change.
    pub alipay_public_keys: Vec<String>,
    /// The AES key of content encryption, base64.
    pub encrypt_key: Option<Secret<String>>,
    /// Which of Alipay's worlds the app lives in.
    pub environment: Environment,
    /// How the app signs.
    pub sign_type: SignType,
}

/// The parsed keys of an [`App`]: parsing one costs half a signature, so they are held.
#[derive(Debug, Clone)]
pub struct AppKeys {
    /// Signs our requests.
    pub private: AppPrivateKey,
    /// Signs them once Alipay refuses the former.
    pub private_next: Option<AppPrivateKey>,
    /// Verify what Alipay sends; never empty.
    pub alipay: Vec<RsaPublicKey>,
}

/// Why an app's keys can't be used together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppKeysError {
    /// `alipay_public_key` can't be read.
    #[error("alipay_public_key: {0}")]
    AlipayPublicKey(#[source] KeyError),
    /// No platform key is given: nothing could be verified.
    #[error("alipay_public_key is missing; copy 支付宝公钥 from Alipay's console")]
    NoAlipayPublicKey,
    /// The app's own public key stands where Alipay's belongs.
    #[error(
        "alipay_public_key is the application's own public key (应用公钥); Alipay's (支付宝公钥) belongs there: copy it from the console"
    )]
    OwnPublicKey,
    /// `private_key` can't be read.
    #[error("private_key: {0}")]
    PrivateKey(#[source] KeyError),
    /// `private_key_next` can't be read.
    #[error("private_key_next: {0}")]
    PrivateKeyNext(#[source] KeyError),
}

impl AppKeysError {
    /// The configuration key that is at fault.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::AlipayPublicKey(_) | Self::NoAlipayPublicKey | Self::OwnPublicKey => {
                "alipay_public_key"
            }
            Self::PrivateKey(_) => "private_key",
            Self::PrivateKeyNext(_) => "private_key_next",
        }
    }
}

impl App {
    /// Parses the keys and checks them against each other.
    ///
    /// Protocol: signing, keys: the most common of all mistakes is the application's own public
    /// key where the platform's belongs; requests then work, and replies fail.
    ///
    /// # Errors
    /// [`AppKeysError`], which names the key at fault and never shows it.
    pub fn parse_keys(&self) -> Result<AppKeys, AppKeysError> {
        let private = AppPrivateKey::from_text(self.private_key.expose())
            .map_err(AppKeysError::PrivateKey)?;
        let private_next = self
            .private_key_next
            .as_ref()
            .map(|text| AppPrivateKey::from_text(text.expose()))
            .transpose()
            .map_err(AppKeysError::PrivateKeyNext)?;
        let alipay = self
            .alipay_public_keys
            .iter()
            .map(|text| RsaPublicKey::from_text(text))
            .collect::<Result<Vec<_>, _>>()
            .map_err(AppKeysError::AlipayPublicKey)?;
        if alipay.is_empty() {
            return Err(AppKeysError::NoAlipayPublicKey);
        }
        let own = |key: &AppPrivateKey| alipay.contains(key.public_key());
        if own(&private) || private_next.as_ref().is_some_and(own) {
            return Err(AppKeysError::OwnPublicKey);
        }
        Ok(AppKeys {
            private,
            private_next,
            alipay,
        })
    }
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
