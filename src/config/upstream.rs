//! `[upstream]`: how Alipay is reached.

use std::path::PathBuf;
use std::time::Duration;

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
    /// Alipay's addresses for an app of `environment`: what is configured wins.
    #[must_use]
    pub fn endpoints(&self, environment: crate::model::app::Environment) -> Endpoints {
        use crate::model::app::Environment::{Production, Sandbox};
        let (origin, authorize) = match environment {
            Production => ("https://openapi.alipay.com", "https://openauth.alipay.com"),
            Sandbox => (
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
