//! `[admin]`: the listener for operators and Prometheus.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::config::error::Mismatch;
use crate::config::listen::Listen;
use crate::config::section::Section;
use crate::config::tls;
use crate::config::view;
use crate::protocol::secret::Secret;

/// `[admin]`.
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// Where operators and Prometheus connect.
    pub listen: Listen,
    /// The bearer token of `/api`; `None`: one is made at start, in a file beside the store.
    pub token: Option<Secret<String>>,
    /// Certificate chain for TLS, PEM.
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    pub tls_key: Option<PathBuf>,
}

impl AdminConfig {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let (tls_cert, tls_key) = tls::read(section);
        let config = Self {
            listen: Listen::read(section, "listen").unwrap_or(default.listen),
            token: section.secret("token"),
            tls_cert,
            tls_key,
        };
        if !config.listen.is_local() {
            section.require(
                "token",
                "a bearer token, because `admin.listen` isn't loopback",
            );
            if let Some(fault) = config.token.as_ref().and_then(guessable) {
                section.fault("token", fault);
            }
        }
        config
    }

    pub(crate) fn view(&self) -> Value {
        json!({
            "listen": self.listen.to_string(),
            "token": view::secret(self.token.as_ref()),
            "tls_cert": view::path(self.tls_cert.as_deref()),
            "tls_key": view::path(self.tls_key.as_deref()),
        })
    }
}

/// Off loopback anybody may guess, as often as the network lets him.
fn guessable(token: &Secret<String>) -> Option<Mismatch> {
    let characters = token.expose().chars().count();
    (characters < SHORTEST_TOKEN).then(|| {
        Mismatch::new(
            format!("a token of {characters} characters (not shown)"),
            format!("{SHORTEST_TOKEN} at least, because `admin.listen` isn't loopback"),
        )
        .hint("`openssl rand -hex 32` makes one")
    })
}

/// The fewest characters of a token that may be shown off loopback: 96 bits where they are base64.
const SHORTEST_TOKEN: usize = 16;

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp("127.0.0.1:2090".to_owned()),
            token: None,
            tls_cert: None,
            tls_key: None,
        }
    }
}
