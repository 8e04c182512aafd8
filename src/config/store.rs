//! `[store]`: where durable state lives.

use std::path::PathBuf;

use crate::protocol::secret::Secret;

/// `[store]`.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The file of the `redb:` URL, made absolute by the directory of the configuration file.
    pub path: PathBuf,
    /// The text of the store key (32 bytes, base64); `None` where no store is opened.
    pub key: Option<Secret<String>>,
    /// The page cache, bytes.
    pub cache: usize,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from("data/sidecar.redb"),
            key: None,
            cache: 32 << 20,
        }
    }
}
