//! The configuration in force: shown without its secrets, and loaded anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures_util::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::Config;
use crate::config::error::{ConfigErrors, Fault};
use crate::store::error::StoreError;

/// Who holds the configuration in force.
pub trait Configuration: Send + Sync + 'static {
    /// Shows it.
    fn shown(&self) -> ConfigView;

    /// Loads it anew from where it came from, and puts it in force as a whole or not at all.
    ///
    /// # Errors
    /// [`ReloadError`]; then nothing has changed.
    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, ReloadError>>;

    /// Makes the apps that can sign those of the configuration and of the store as they are now.
    /// Whoever calls it holds the right to change them.
    ///
    /// # Errors
    /// [`ReloadError::App`], or the store's.
    fn follow_apps(&self) -> BoxFuture<'_, Result<(), ReloadError>>;
}

/// The configuration in force.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub struct ConfigView {
    /// How many configurations there were since the start, this one included.
    pub generation: u64,
    /// Of all its values; the same in two processes that run with the same.
    pub fingerprint: String,
    /// Since when it is in force, Unix milliseconds.
    pub loaded_at: i64,
    /// The file it was read from, where there is one.
    pub file: Option<PathBuf>,
    /// Every key with its value, secrets as references.
    pub config: Value,
    /// Where keys were set: `file:12` is a line, `env:NAME` a variable; the others have their default.
    pub sources: BTreeMap<String, String>,
}

impl ConfigView {
    /// Shows `config`, which has been in force since `loaded_at`.
    #[must_use]
    pub fn new(config: &Config, fingerprint: &str, generation: u64, loaded_at: i64) -> Self {
        let sources = config.origins.sources();
        Self {
            generation,
            fingerprint: fingerprint.to_owned(),
            loaded_at,
            file: config.origins.file().map(absolute),
            config: config.to_redacted_json(),
            sources: sources
                .map(|(key, source)| (key.to_owned(), source))
                .collect(),
        }
    }
}

/// As others would have to name it.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// What a reload put in force.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Reloaded {
    /// How many configurations there were since the start, this one included.
    pub generation: u64,
    /// Of all its values.
    pub fingerprint: String,
    /// Since when it is in force, Unix milliseconds.
    pub loaded_at: i64,
    /// The keys whose values are others than before; files and secrets that were only renewed don't
    /// show here.
    pub changed: Vec<String>,
}

/// Why a configuration wasn't put in force; the one before still is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReloadError {
    /// An app's keys can't be used.
    #[error("{0}")]
    App(String),
    /// Something in it is wrong, or can't be changed by a reload.
    #[error(transparent)]
    Configuration(#[from] ConfigErrors),
    /// The sidecar stops, or was taken out of service.
    #[error(
        "the sidecar was taken out of service or stops; the next start reads the configuration"
    )]
    Ending,
    /// Something that isn't the configuration's fault.
    #[error("{0}")]
    Failed(String),
    /// There is nothing to load it from again.
    #[error("{0}")]
    NoSource(String),
    /// The apps of the store can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ReloadError {
    /// The fixed word for it: the `code` of the reply.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::App(_) | Self::Configuration(_) => "config-invalid",
            Self::Ending => "draining",
            Self::Failed(_) => "internal",
            Self::NoSource(_) => "reload-unavailable",
            Self::Store(_) => "store-unavailable",
        }
    }

    /// The HTTP status of the reply.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::App(_) | Self::Configuration(_) => 422,
            Self::Ending | Self::NoSource(_) => 409,
            Self::Failed(_) => 500,
            Self::Store(_) => 503,
        }
    }

    /// What is wrong with the configuration, each on its own.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        match self {
            Self::Configuration(errors) => errors.faults(),
            _ => &[],
        }
    }
}

/// One fault as it is told in a reply. None of its texts is a secret.
#[derive(Debug, JsonSchema, Serialize)]
pub(super) struct FaultView {
    file: Option<PathBuf>,
    line: Option<usize>,
    variable: Option<String>,
    key: String,
    found: String,
    expected: String,
    hint: Option<String>,
}

impl FaultView {
    pub(super) fn new(fault: &Fault) -> Self {
        let mismatch = &fault.mismatch;
        Self {
            file: fault.file.clone(),
            line: fault.line,
            variable: fault.variable.clone(),
            key: fault.key.clone(),
            found: mismatch.found.clone(),
            expected: mismatch.expected.clone(),
            hint: mismatch.hint.clone(),
        }
    }
}
