//! `[store]`: where durable state lives.

use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::config::error::Mismatch;
use crate::config::section::Section;
use crate::config::{value, view};
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

impl StoreConfig {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        let references = section.reading.references();
        let path = section.text("url", path_of_url).unwrap_or(default.path);
        Self {
            path: references.directory().join(path),
            key: Self::read_key(section),
            cache: section
                .text("cache", value::memory_size)
                .unwrap_or(default.cache),
        }
    }

    /// The key, from [`DEFAULT_KEY`] where nothing is said.
    fn read_key(section: &Section<'_>) -> Option<Secret<String>> {
        let references = section.reading.references();
        let read = |text: &str| {
            let key = references
                .secret(text)
                .map_err(|mismatch| match mismatch.hint {
                    Some(_) => mismatch,
                    None => mismatch.hint(KEY_HINT),
                })?;
            is_key(key.expose()).then_some(key).ok_or_else(|| {
                Mismatch::new("something else (not shown)", "32 bytes in base64").hint(KEY_HINT)
            })
        };
        if section.item("key").is_some() {
            return section.optional("key", read);
        }
        section.reading.note_default("store.key", DEFAULT_KEY);
        read(DEFAULT_KEY)
            .map_err(|mismatch| section.fault("key", mismatch))
            .ok()
    }

    pub(crate) fn view(&self) -> Value {
        json!({
            "url": format!("redb:{}", self.path.display()),
            "key": view::secret(self.key.as_ref()),
            "cache": view::size(self.cache as u64),
        })
    }
}

fn path_of_url(text: &str) -> Result<PathBuf, Mismatch> {
    match text.split_once(':') {
        Some(("redb", path)) if !path.is_empty() => Ok(PathBuf::from(path)),
        Some(("postgres" | "postgresql", _)) => {
            // The URL may hold a password: it isn't shown.
            Err(Mismatch::new("a PostgreSQL URL", "`redb:path`")
                .hint("a shared store isn't supported in this version; it comes later"))
        }
        _ => Err(Mismatch::new(
            "another kind of URL (not shown)",
            "`redb:path`",
        )),
    }
}

fn is_key(text: &str) -> bool {
    let bytes = STANDARD.decode(text.trim()).map(Zeroizing::new);
    bytes.is_ok_and(|bytes| bytes.len() == 32)
}

/// Where the store key is when nothing is said.
const DEFAULT_KEY: &str = "file:data/store.key";

const KEY_HINT: &str = "`alipay-sidecar init` makes one, as does \
                        `(umask 077; openssl rand -base64 32 > data/store.key)`";

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from("data/sidecar.redb"),
            key: None,
            cache: 32 << 20,
        }
    }
}
