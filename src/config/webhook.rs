//! `[webhook]`: the listener for Alipay.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::config::error::Mismatch;
use crate::config::listen::Listen;
use crate::config::misfits::Given;
use crate::config::section::Section;
use crate::config::{tls, url, value, view};
use crate::protocol::signed_answer::SpiShape;

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
    /// How the `response` stands in the answer to an SPI call.
    pub spi_response: SpiShape,
    /// Largest notification, bytes.
    pub max_body: usize,
    /// Certificate chain for TLS, PEM.
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    pub tls_key: Option<PathBuf>,
}

impl WebhookConfig {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let (tls_cert, tls_key) = tls::read(section);
        let base_path = section
            .text("base_path", base_path)
            .unwrap_or(default.base_path);
        let aliases = section.map("aliases", |old, route| alias(old, route, &base_path));
        Self {
            listen: Listen::read(section, "listen").unwrap_or(default.listen),
            public_url: section.optional("public_url", url::public),
            auth_return_url: section.optional("auth_return_url", url::page),
            user_auth_return_url: section.optional("user_auth_return_url", url::page),
            accept_stateless_auth: section
                .flag("accept_stateless_auth")
                .unwrap_or(default.accept_stateless_auth),
            auth_redirect_uri: section.optional("auth_redirect_uri", url::any),
            aliases: aliases.unwrap_or_default().into_iter().collect(),
            spi_response: section
                .word("spi_response", &SPI_RESPONSES)
                .unwrap_or(default.spi_response),
            max_body: section
                .text("max_body", value::memory_size)
                .unwrap_or(default.max_body),
            base_path,
            tls_cert,
            tls_key,
        }
    }

    pub(super) fn judge(&mut self, mut given: Given<'_>) {
        given.texts("base_path", [&mut self.base_path], |text| match text {
            // The form of `/`.
            "" => Ok(String::new()),
            text => base_path(text),
        });
        for (old, route) in &self.aliases {
            given.check("aliases", alias(old, route, &self.base_path));
        }
        given.texts("public_url", &mut self.public_url, url::public);
        given.texts("auth_return_url", &mut self.auth_return_url, url::page);
        let user_page = &mut self.user_auth_return_url;
        given.texts("user_auth_return_url", user_page, url::page);
        given.texts("auth_redirect_uri", &mut self.auth_redirect_uri, url::any);
        given.check("max_body", value::memory(self.max_body));
    }

    pub(crate) fn view(&self) -> Value {
        json!({
            "listen": self.listen.to_string(),
            "base_path": match self.base_path.as_str() { "" => "/", path => path },
            "public_url": view::text(self.public_url.as_ref()),
            "auth_return_url": view::text(self.auth_return_url.as_ref()),
            "user_auth_return_url": view::text(self.user_auth_return_url.as_ref()),
            "accept_stateless_auth": self.accept_stateless_auth,
            "auth_redirect_uri": view::text(self.auth_redirect_uri.as_ref()),
            "aliases": self.aliases,
            "spi_response": view::word(&SPI_RESPONSES, self.spi_response),
            "max_body": view::size(self.max_body as u64),
            "tls_cert": view::path(self.tls_cert.as_deref()),
            "tls_key": view::path(self.tls_key.as_deref()),
        })
    }
}

const SPI_RESPONSES: [(&str, SpiShape); 2] =
    [("object", SpiShape::Object), ("string", SpiShape::Text)];

/// A path without a trailing slash; `/` becomes empty, so that routes can be put behind it.
fn base_path(text: &str) -> Result<String, Mismatch> {
    value::url_path(text).map(|path| path.trim_end_matches('/').to_owned())
}

fn alias(old: &str, route: &str, base_path: &str) -> Result<(String, String), Mismatch> {
    let (old, route) = (value::url_path(old)?, value::url_path(route)?);
    if is_route(&old, base_path) {
        let expected = "an old path that isn't a route of the webhook itself";
        return Err(Mismatch::of_text(&old, expected));
    }
    if is_route(&route, base_path) {
        return Ok((old, route));
    }
    let expected = format!("a route of the webhook, such as \"{base_path}/notify/php\"");
    Err(Mismatch::of_text(&route, expected))
}

/// Whether `path` is a route by itself: an alias from there would take away what is for it, and one
/// to anything else would lead nowhere.
fn is_route(path: &str, base_path: &str) -> bool {
    let below = path.strip_prefix(base_path).unwrap_or_default();
    let is_segment = |name: &str| !name.is_empty() && !name.contains('/');
    matches!(below, "/gateway" | "/notify" | "/auth" | "/auth/start")
        || below.starts_with("/notify/")
        || below.strip_prefix("/spi/").is_some_and(is_segment)
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
            spi_response: SpiShape::Object,
            max_body: 1 << 20,
            tls_cert: None,
            tls_key: None,
        }
    }
}
