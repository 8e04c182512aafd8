//! Why a verb wasn't done.

use std::fmt;

use crate::admin::error::AdminError;
use crate::cli::Outcome;
use crate::config::error::ConfigErrors;
use crate::sidecar::BuildError;
use crate::store::error::StoreError;

/// Why a verb wasn't done.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The configuration is wrong.
    Configuration(ConfigErrors),
    /// A signature doesn't hold; the text says why.
    NotVerified(String),
    /// Anything else.
    Other(anyhow::Error),
    /// The arguments don't fit each other.
    Usage(String),
}

/// Of what `--json` has told already.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Told(String);

impl Failure {
    /// It failed, and what was printed as JSON, if that was asked for, says so.
    pub(crate) fn told(text: impl Into<String>) -> Self {
        Self::Other(Told(text.into()).into())
    }

    /// Whether what was printed as JSON says so already.
    pub(crate) fn is_told(&self) -> bool {
        match self {
            Self::NotVerified(_) => true,
            Self::Other(error) => error.is::<Told>(),
            Self::Configuration(_) | Self::Usage(_) => false,
        }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Configuration(_) => Outcome::Misconfigured,
            Self::NotVerified(_) | Self::Other(_) => Outcome::Failed,
            Self::Usage(_) => Outcome::Usage,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(errors) => errors.fmt(f),
            Self::Other(error) => write!(f, "alipay-sidecar: {error:#}"),
            Self::NotVerified(text) | Self::Usage(text) => write!(f, "alipay-sidecar: {text}"),
        }
    }
}

impl From<ConfigErrors> for Failure {
    fn from(errors: ConfigErrors) -> Self {
        Self::Configuration(errors)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl From<AdminError> for Failure {
    fn from(error: AdminError) -> Self {
        Self::Other(error.into())
    }
}

impl From<BuildError> for Failure {
    fn from(error: BuildError) -> Self {
        match error {
            BuildError::Configuration(errors) => errors.into(),
            other => Self::Other(other.into()),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Other(error.into())
    }
}
