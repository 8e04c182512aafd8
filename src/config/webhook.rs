//! `[webhook]`: the listener for Alipay.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::config::listen::Listen;

/// `[webhook]`.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    /// Where Alipay, or the ingress before us, connects.
    pub listen: Listen,
    /// The path before every route.
    pub base_path: String,
    /// What Alipay reaches, without a trailing slash: `https://isv.example.com`.
    pub public_url: Option<String>,
    /// Where a merchant's browser goes after authorising.
    pub auth_return_url: Option<String>,
    /// Where a user's `auth_code` goes.
    pub user_auth_return_url: Option<String>,
    /// Whether a callback without `state` is exchanged (flagged as not bound).
    pub accept_stateless_auth: bool,
    /// The registered 授权回调地址, when it is another than `/alipay/auth`.
    pub auth_redirect_uri: Option<String>,
    /// Old public paths and the route each stands for.
    pub aliases: BTreeMap<String, String>,
    /// Largest notification, bytes.
    pub max_body: usize,
    /// Certificate chain for TLS, PEM.
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    pub tls_key: Option<PathBuf>,
}

impl Default for WebhookConfig {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp("127.0.0.1:2089".to_owned()),
            base_path: "/alipay".to_owned(),
            public_url: None,
            auth_return_url: None,
            user_auth_return_url: None,
            accept_stateless_auth: true,
            auth_redirect_uri: None,
            aliases: BTreeMap::new(),
            max_body: 1 << 20,
            tls_cert: None,
            tls_key: None,
        }
    }
}
