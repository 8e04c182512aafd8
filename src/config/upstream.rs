//! `[upstream]`: how Alipay is reached.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::error::Mismatch;
use crate::config::misfits::Given;
use crate::config::section::Section;
use crate::config::{url, value, view};
use crate::model::app::Environment;
use crate::protocol::secret::Secret;

/// `[upstream]`.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// The v2 gateway; `None`: as the app's environment says.
    pub gateway: Option<String>,
    /// The origin of v3; `None`: as the app's environment says.
    pub v3: Option<String>,
    /// The origin of the authorisation pages; `None`: as the app's environment says.
    pub authorize: Option<String>,
    /// Deadline of TCP, CONNECT and TLS together.
    pub connect_timeout: Duration,
    /// Deadline of the whole call.
    pub timeout: Duration,
    /// An HTTP proxy on the way to Alipay: `http://` and an address.
    pub proxy: Option<String>,
    /// What it is shown: `user:password`.
    pub proxy_credentials: Option<Secret<String>>,
    /// Further roots, PEM.
    pub ca_file: Option<PathBuf>,
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            gateway: None,
            v3: None,
            authorize: None,
            connect_timeout: Duration::from_secs(3),
            timeout: Duration::from_secs(15),
            proxy: None,
            proxy_credentials: None,
            ca_file: None,
        }
    }
}

/// Alipay's addresses for one app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// The v2 gateway.
    pub gateway: String,
    /// The origin of v3.
    pub v3: String,
    /// The origin of the authorisation pages.
    pub authorize: String,
}

impl UpstreamConfig {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        // What equals the default leaves the choice to each app's environment, so that a copied
        // config.toml doesn't send a sandbox app to production.
        let standard = default.endpoints(Environment::Production);
        let proxy = section.optional("proxy", url::egress);
        let proxy_credentials = section.secret_of_form("proxy_credentials", credentials);
        if proxy_credentials.is_some() {
            section.require("proxy", PROXY_NEEDED);
        }
        Self {
            gateway: section
                .optional("gateway", url::upstream)
                .filter(|url| *url != standard.gateway),
            v3: section
                .optional("v3", url::upstream_origin)
                .filter(|url| *url != standard.v3),
            authorize: section
                .optional("authorize", url::upstream_origin)
                .filter(|url| *url != standard.authorize),
            connect_timeout: section
                .text("connect_timeout", value::positive_duration)
                .unwrap_or(default.connect_timeout),
            timeout: section
                .text("timeout", value::positive_duration)
                .unwrap_or(default.timeout),
            proxy,
            proxy_credentials,
            ca_file: section.public_file("ca_file"),
        }
    }

    /// Of `proxy` and `ca_file` the client is made, which tells what is wrong with them.
    pub(super) fn judge(&mut self, mut given: Given<'_>) {
        if let Some(secret) = &self.proxy_credentials {
            given.check("proxy_credentials", credentials(secret));
            if self.proxy.is_none() {
                given.fault("proxy", Mismatch::new("nothing", PROXY_NEEDED));
            }
        }
        given.texts("gateway", &mut self.gateway, url::upstream);
        given.texts("v3", &mut self.v3, url::upstream_origin);
        given.texts("authorize", &mut self.authorize, url::upstream_origin);
        given.check("connect_timeout", value::deadline(self.connect_timeout));
        given.check("timeout", value::deadline(self.timeout));
    }

    pub(crate) fn view(&self) -> Value {
        // What isn't set is each app's own, as its environment says; the file shows these.
        let endpoints = self.endpoints(Environment::Production);
        json!({
            "gateway": endpoints.gateway,
            "v3": endpoints.v3,
            "authorize": endpoints.authorize,
            "connect_timeout": view::duration(self.connect_timeout),
            "timeout": view::duration(self.timeout),
            "proxy": view::text(self.proxy.as_ref()),
            "proxy_credentials": view::secret(self.proxy_credentials.as_ref()),
            "ca_file": view::path(self.ca_file.as_deref()),
        })
    }

    /// Alipay's addresses for an app of `environment`: what is configured wins.
    #[must_use]
    pub fn endpoints(&self, environment: Environment) -> Endpoints {
        let (origin, authorize) = match environment {
            Environment::Production => {
                ("https://openapi.alipay.com", "https://openauth.alipay.com")
            }
            Environment::Sandbox => (
                "https://openapi-sandbox.dl.alipaydev.com",
                "https://openauth-sandbox.dl.alipaydev.com",
            ),
        };
        let or =
            |configured: &Option<String>, default: String| configured.clone().unwrap_or(default);
        Endpoints {
            gateway: or(&self.gateway, format!("{origin}/gateway.do")),
            v3: or(&self.v3, origin.to_owned()),
            authorize: or(&self.authorize, authorize.to_owned()),
        }
    }
}

const PROXY_NEEDED: &str = "a proxy, because there are credentials for it";

/// `user:password`, of which a user holds no colon (RFC 7617).
fn credentials(secret: &Secret<String>) -> Result<(), Mismatch> {
    let text = secret.expose();
    let named = text
        .split_once(':')
        .is_some_and(|(user, _)| !user.is_empty());
    if named && !text.chars().any(char::is_control) {
        return Ok(());
    }
    let expected = "user:password on one line, as the proxy knows them";
    Err(Mismatch::new("something else (not shown)", expected))
}
