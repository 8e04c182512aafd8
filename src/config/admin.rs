//! `[admin]`: the listener for operators and Prometheus.

use crate::config::listen::Listen;
use crate::protocol::secret::Secret;

/// `[admin]`.
#[derive(Debug, Clone)]
pub struct AdminConfig {
    /// Where operators and Prometheus connect.
    pub listen: Listen,
    /// The bearer token of `/api`; `None`: one is made at start, in a file beside the store.
    pub token: Option<Secret<String>>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self {
            listen: Listen::Tcp("127.0.0.1:2090".to_owned()),
            token: None,
        }
    }
}
