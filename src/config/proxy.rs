//! `[proxy]`: the listener for backends.

use std::path::PathBuf;

use crate::config::listen::Listen;
use crate::model::selector::Selector;

/// `[proxy]`.
#[derive(Debug, Clone)]
pub struct ProxyConfig {
    /// Where backends connect.
    pub listen: Listen,
    /// The merchant of untagged requests; `None`: they are refused.
    pub default_merchant: Option<Selector>,
    /// What happens to a `notify_url` that is neither ours nor allowed.
    pub notify_url_mode: NotifyUrlMode,
    /// Whose signature replies carry.
    pub reply_signature: ReplySignature,
    /// The install key of `reply_signature = "local"`.
    pub reply_key: Option<PathBuf>,
    /// `Host` names besides loopback ones.
    pub allowed_hosts: Vec<String>,
    /// Largest JSON or form body, bytes.
    pub max_body: usize,
    /// Largest multipart body, bytes.
    pub max_upload: u64,
    /// Calls under way at once; above it `overloaded`.
    pub max_in_flight: usize,
    /// URL prefixes a `notify_url` may have besides `webhook.public_url`.
    pub notify_url_allow: Vec<String>,
}

/// What happens to a `notify_url` that is neither below `public_url` nor allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotifyUrlMode {
    /// It is refused.
    Enforce,
    /// It is logged and counted, and passes.
    Report,
}

/// Whose signature replies carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplySignature {
    /// Alipay's own.
    Alipay,
    /// The install's.
    Local,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp("127.0.0.1:2088".to_owned()),
            default_merchant: None,
            notify_url_mode: NotifyUrlMode::Report,
            reply_signature: ReplySignature::Alipay,
            reply_key: None,
            allowed_hosts: Vec::new(),
            max_body: 1 << 20,
            max_upload: 32 << 20,
            max_in_flight: 1024,
            notify_url_allow: Vec::new(),
        }
    }
}
