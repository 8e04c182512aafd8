//! `[upstream]`: how Alipay is reached.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::section::Section;
use crate::config::{url, value, view};
use crate::model::app::Environment;

/// `[upstream]`.
#[derive(Debug, Clone)]
pub struct UpstreamConfig {
    /// The v2 gateway; `None`: as the app's environment says.
    pub gateway: Option<String>,
    /// The origin of v3; `None`: as the app's environment says.
    pub v3: Option<String>,
    /// The origin of the authorisation pages; `None`: as the app's environment says.
    pub authorize: Option<String>,
    /// Deadline of TCP and TLS together.
    pub connect_timeout: Duration,
    /// Deadline of the whole call.
    pub timeout: Duration,
    /// An HTTP proxy on the way out.
    pub proxy: Option<String>,
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
            proxy: section.optional("proxy", url::egress),
            ca_file: section.public_file("ca_file"),
        }
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
