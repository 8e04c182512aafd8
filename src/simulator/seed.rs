//! What the simulator knows from the start: apps and merchants.
use std::fmt;

use rsa::{RsaPrivateKey, RsaPublicKey};
use serde::{Deserialize, Serialize};

use super::{
    aes::ContentKey,
    error::SimulatorError,
    sign::{self, SignType},
};

/// `app_id` of the app seeded by default: a third-party (ISV) app, which is a plugin too.
pub const DEFAULT_APP_ID: &str = "2021000000000001";
/// `agent_app_id` that plugin orders name: the third-party app that owns the plugin.
pub const DEFAULT_AGENT_APP_ID: &str = "2021000000000009";
/// `auth_app_id` of the first merchant seeded by default.
pub const FIRST_AUTH_APP_ID: &str = "2021000000001001";
/// PID of the first merchant seeded by default.
pub const FIRST_PID: &str = "2088000000001001";
/// `app_auth_token` of the first merchant seeded by default.
pub const FIRST_APP_AUTH_TOKEN: &str = "202611BB00000000000000000000000000001001";
/// `app_refresh_token` of the first merchant seeded by default.
pub const FIRST_APP_REFRESH_TOKEN: &str = "202611BR00000000000000000000000000001001";
/// AES key of the first merchant seeded by default.
pub const FIRST_ENCRYPT_KEY: &str = "Zmlyc3QtbWVyY2hhbnQtMQ==";
/// `auth_app_id` of the second merchant seeded by default.
pub const SECOND_AUTH_APP_ID: &str = "2021000000001002";
/// PID of the second merchant seeded by default.
pub const SECOND_PID: &str = "2088000000001002";
/// `app_auth_token` of the second merchant seeded by default.
pub const SECOND_APP_AUTH_TOKEN: &str = "202611BB00000000000000000000000000001002";
/// `app_refresh_token` of the second merchant seeded by default.
pub const SECOND_APP_REFRESH_TOKEN: &str = "202611BR00000000000000000000000000001002";
/// AES key of the second merchant seeded by default.
pub const SECOND_ENCRYPT_KEY: &str = "c2Vjb25kLW1lcmNoYW50Mg==";
/// `user_id` of the buyer who logs in and pays.
pub const DEFAULT_USER_ID: &str = "2088000000002001";

/// An app registered on the simulated platform.
#[derive(Clone)]
pub struct SimulatedApp {
    pub(super) app_id: String,
    pub(super) public_key: RsaPublicKey,
    pub(super) private_key: Option<RsaPrivateKey>,
    pub(super) sign_type: SignType,
    pub(super) app_gateway: Option<String>,
    pub(super) auth_redirect: Option<String>,
    pub(super) standing: Standing,
    pub(super) mode: AppMode,
    pub(super) encryption: Encryption,
}

// No key is ever printed, not even a throw-away one.
impl fmt::Debug for SimulatedApp {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SimulatedApp")
            .field("app_id", &self.app_id)
            .finish_non_exhaustive()
    }
}

/// How an app knows the platform, and the platform it (接口加签方式).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AppMode {
    /// By certificates (公钥证书): every call names `app_cert_sn` and `alipay_root_cert_sn`.
    Certificate,
    /// By bare public keys (公钥).
    #[default]
    Key,
}

/// What an app has set for the encryption of contents (接口内容加密方式).
#[derive(Clone, Debug, Default)]
pub(super) struct Encryption {
    pub(super) key: Option<ContentKey>,
    /// Whether a plain call is refused.
    pub(super) required: bool,
}

/// Whether an app may call business APIs in its own name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// A merchant's own app: calls without `app_auth_token`.
    Own,
    /// A third-party app (第三方应用): `isv.self-invoke-forbidden` without `app_auth_token`.
    ThirdParty,
}

impl SimulatedApp {
    /// Registers an app by the public key uploaded for it (PEM or bare base64).
    ///
    /// # Errors
    /// [`SimulatorError::Key`] when the text is no RSA public key.
    pub fn new(app_id: impl Into<String>, public_key: &str) -> Result<Self, SimulatorError> {
        Ok(Self {
            app_id: app_id.into(),
            public_key: sign::public_key(public_key)?,
            private_key: None,
            sign_type: SignType::Rsa2,
            app_gateway: None,
            auth_redirect: None,
            standing: Standing::ThirdParty,
            mode: AppMode::Key,
            encryption: Encryption::default(),
        })
    }

    /// Registers an app with a given private key, so that a workspace can be written for it.
    ///
    /// # Errors
    /// [`SimulatorError::Key`] when the text is no RSA private key.
    pub fn with_private_key(
        app_id: impl Into<String>,
        private_key: &str,
    ) -> Result<Self, SimulatorError> {
        let key = sign::private_key(private_key)?;
        let public = sign::bare_public_key(&key.to_public_key());
        Ok(Self {
            private_key: Some(key),
            ..Self::new(app_id, &public)?
        })
    }

    /// Registers an app with a new key.
    ///
    /// # Errors
    /// [`SimulatorError::Key`] when no key could be made.
    pub fn generate(app_id: impl Into<String>) -> Result<Self, SimulatorError> {
        let key = sign::generate()?;
        let public = sign::bare_public_key(&key.to_public_key());
        Ok(Self {
            private_key: Some(key),
            ..Self::new(app_id, &public)?
        })
    }

    /// Sets the app gateway (应用网关): where its messages are sent.
    #[must_use]
    pub fn app_gateway(mut self, url: impl Into<String>) -> Self {
        self.app_gateway = Some(url.into());
        self
    }

    /// Sets the authorization redirect address (授权回调地址): another `redirect_uri` is refused.
    #[must_use]
    pub fn auth_redirect(mut self, url: impl Into<String>) -> Self {
        self.auth_redirect = Some(url.into());
        self
    }

    /// Makes it a merchant's own app, which may call business APIs without `app_auth_token`.
    #[must_use]
    pub fn own(mut self) -> Self {
        self.standing = Standing::Own;
        self
    }

    /// Sets the signature algorithm.
    #[must_use]
    pub fn sign_type(mut self, sign_type: SignType) -> Self {
        self.sign_type = sign_type;
        self
    }

    /// Puts it into certificate mode (公钥证书).
    #[must_use]
    pub fn certificate_mode(mut self) -> Self {
        self.mode = AppMode::Certificate;
        self
    }

    /// Sets its AES key (接口内容加密方式), base64 of 16 bytes: calls with `encrypt_type` are taken.
    ///
    /// # Errors
    /// [`SimulatorError::Key`] when the text is no such key.
    pub fn encrypt_key(mut self, key: &str) -> Result<Self, SimulatorError> {
        self.encryption.key = Some(ContentKey::from_base64(key)?);
        Ok(self)
    }

    /// Refuses its calls that are not encrypted.
    #[must_use]
    pub fn encryption_required(mut self) -> Self {
        self.encryption.required = true;
        self
    }

    /// Gives the `app_id`.
    pub fn app_id(&self) -> &str {
        &self.app_id
    }
}

/// A merchant's application (mini program) on the simulated platform.
#[derive(Clone, Debug)]
pub struct SimulatedMerchant {
    /// The application's id, 16 digits.
    pub auth_app_id: String,
    /// The merchant's PID (`2088…`, 16 digits); several applications may share one.
    pub pid: String,
    /// Its AES key, base64 of 16 bytes; client data is encrypted by it.
    pub encrypt_key: Option<String>,
    /// What it has authorized already.
    pub grants: Vec<SimulatedGrant>,
}

/// An authorization that exists when the simulator starts.
#[derive(Clone, Debug)]
pub struct SimulatedGrant {
    /// The authorized app.
    pub app_id: String,
    /// Its token for this merchant.
    pub app_auth_token: String,
    /// The token that renews it.
    pub app_refresh_token: String,
}

impl SimulatedMerchant {
    /// Describes a merchant that has authorized nobody.
    pub fn new(auth_app_id: impl Into<String>, pid: impl Into<String>) -> Self {
        Self {
            auth_app_id: auth_app_id.into(),
            pid: pid.into(),
            encrypt_key: None,
            grants: Vec::new(),
        }
    }

    /// Sets the AES key, base64 of 16 bytes.
    #[must_use]
    pub fn encrypt_key(mut self, key: impl Into<String>) -> Self {
        self.encrypt_key = Some(key.into());
        self
    }

    /// Adds an authorization with given tokens.
    #[must_use]
    pub fn authorized(
        mut self,
        app_id: impl Into<String>,
        app_auth_token: impl Into<String>,
        app_refresh_token: impl Into<String>,
    ) -> Self {
        self.grants.push(SimulatedGrant {
            app_id: app_id.into(),
            app_auth_token: app_auth_token.into(),
            app_refresh_token: app_refresh_token.into(),
        });
        self
    }

    /// Gives the two merchants seeded by default, both of which have authorized `app_id`.
    pub fn defaults(app_id: &str) -> [Self; 2] {
        [
            Self::new(FIRST_AUTH_APP_ID, FIRST_PID)
                .encrypt_key(FIRST_ENCRYPT_KEY)
                .authorized(app_id, FIRST_APP_AUTH_TOKEN, FIRST_APP_REFRESH_TOKEN),
            Self::new(SECOND_AUTH_APP_ID, SECOND_PID)
                .encrypt_key(SECOND_ENCRYPT_KEY)
                .authorized(app_id, SECOND_APP_AUTH_TOKEN, SECOND_APP_REFRESH_TOKEN),
        ]
    }
}
