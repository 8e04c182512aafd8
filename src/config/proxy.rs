//! `[proxy]`: the listener for backends.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::config::error::Mismatch;
use crate::config::listen::Listen;
use crate::config::misfits::Given;
use crate::config::section::Section;
use crate::config::{tls, url, value, view};
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
    /// Certificate chain for TLS, PEM.
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    pub tls_key: Option<PathBuf>,
}

impl ProxyConfig {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let (tls_cert, tls_key) = tls::read(section);
        let config = Self {
            listen: Listen::read(section, "listen").unwrap_or(default.listen),
            default_merchant: section.optional("default_merchant", selector),
            notify_url_mode: section
                .word("notify_url_mode", &NOTIFY_URL_MODES)
                .unwrap_or(default.notify_url_mode),
            reply_signature: section
                .word("reply_signature", &REPLY_SIGNATURES)
                .unwrap_or(default.reply_signature),
            reply_key: section.secret_file("reply_key"),
            allowed_hosts: section
                .list("allowed_hosts", value::host)
                .unwrap_or_default(),
            max_body: section
                .text("max_body", value::memory_size)
                .unwrap_or(default.max_body),
            max_upload: section
                .text("max_upload", value::size)
                .unwrap_or(default.max_upload),
            max_in_flight: section
                .integer("max_in_flight", IN_FLIGHT)
                .and_then(|calls| usize::try_from(calls).ok())
                .unwrap_or(default.max_in_flight),
            notify_url_allow: section
                .list("notify_url_allow", url::prefix)
                .unwrap_or_default(),
            tls_cert,
            tls_key,
        };
        if config.reply_signature == ReplySignature::Local {
            section.require(
                "reply_key",
                "`file:path`, because `reply_signature` is \"local\"",
            );
        }
        config
    }

    /// Of `max_upload` nothing is wrong: none at all, or any, can be served.
    pub(super) fn judge(&mut self, mut given: Given<'_>) {
        given.texts("allowed_hosts", &mut self.allowed_hosts, value::host);
        given.texts("notify_url_allow", &mut self.notify_url_allow, url::prefix);
        given.check("max_body", value::memory(self.max_body));
        let in_flight = value::within(self.max_in_flight, &IN_FLIGHT);
        given.check("max_in_flight", in_flight);
    }

    pub(crate) fn view(&self) -> Value {
        json!({
            "listen": self.listen.to_string(),
            "default_merchant": self.default_merchant.as_ref().map(view::selector).unwrap_or_default(),
            "notify_url_mode": view::word(&NOTIFY_URL_MODES, self.notify_url_mode),
            "reply_signature": view::word(&REPLY_SIGNATURES, self.reply_signature),
            "reply_key": view::path(self.reply_key.as_deref()),
            "allowed_hosts": self.allowed_hosts,
            "max_body": view::size(self.max_body as u64),
            "max_upload": view::size(self.max_upload),
            "max_in_flight": self.max_in_flight,
            "notify_url_allow": self.notify_url_allow,
            "tls_cert": view::path(self.tls_cert.as_deref()),
            "tls_key": view::path(self.tls_key.as_deref()),
        })
    }
}

/// A merchant selector.
pub(crate) fn selector(text: &str) -> Result<Selector, Mismatch> {
    text.parse().map_err(|_| {
        Mismatch::of_text(
            text,
            "a merchant: a PID, an auth_app_id, an alias, or `self`",
        )
    })
}

const NOTIFY_URL_MODES: [(&str, NotifyUrlMode); 2] = [
    ("report", NotifyUrlMode::Report),
    ("enforce", NotifyUrlMode::Enforce),
];

const REPLY_SIGNATURES: [(&str, ReplySignature); 2] = [
    ("alipay", ReplySignature::Alipay),
    ("local", ReplySignature::Local),
];

/// Up to more calls at once than any machine signs.
const IN_FLIGHT: RangeInclusive<i64> = 1..=1_000_000;

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
            tls_cert: None,
            tls_key: None,
        }
    }
}
