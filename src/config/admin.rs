//! `[admin]`: the listener for operators and Prometheus.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::config::error::Mismatch;
use crate::config::listen::Listen;
use crate::config::misfits::Given;
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
            token: section.secret_of_form("token", check_token),
            tls_cert,
            tls_key,
        };
        if !config.listen.is_local() {
            section.require("token", TOKEN_NEEDED);
        }
        config
    }

    pub(super) fn judge(&self, mut given: Given<'_>) {
        let token = match &self.token {
            None if self.listen.is_local() => Ok(()),
            None => Err(Mismatch::new("nothing", TOKEN_NEEDED)),
            Some(token) => check_token(token),
        };
        given.check("token", token);
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

/// What is expected off loopback.
const TOKEN_NEEDED: &str = "a bearer token, because `admin.listen` isn't loopback";

/// What can't stand in the header, or not as it is, could never be given, and would lock out everybody.
fn check_token(token: &Secret<String>) -> Result<(), Mismatch> {
    let token = token.expose();
    let can_stand = |byte: u8| byte.is_ascii_graphic() || byte == b' ';
    match !token.is_empty() && token.bytes().all(can_stand) && token.trim() == *token {
        true => Ok(()),
        false => Err(Mismatch::new(
            "something else (not shown)",
            "a token of visible ASCII characters, such as 32 random bytes in base64",
        )),
    }
}

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
