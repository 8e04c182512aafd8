//! What an operator's request can fail with.

use crate::config::app::KeyProblem;
use crate::gateway::error::Outcome;
use crate::store::error::StoreError;
use crate::token::AskError;
use crate::token::error::TokenError;
use crate::webhook::link::LinkError;

/// An operator's request that wasn't done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// No app of that id lives in the store.
    #[error("no app {app_id} is in the store; `app list` shows where each app lives")]
    AppUnknown {
        /// The id asked for.
        app_id: String,
    },
    /// Alipay wasn't asked, or didn't do it.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The body isn't the JSON that belongs there. The text never shows a value of it.
    #[error("{0}")]
    BodyInvalid(String),
    /// There is no such entry in the inbox.
    #[error("the inbox has no entry {id}; `inbox list` shows what it has")]
    EventUnknown {
        /// The id asked for.
        id: String,
    },
    /// A key of an app can't do its work.
    #[error("{}: {}", .0.key, .0.mismatch)]
    KeyInvalid(KeyProblem),
    /// A line of an import is wrong; nothing of it was stored.
    #[error("line {line}: {fault}; nothing was imported")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        fault: Box<Self>,
    },
    /// The selector names several merchants.
    #[error("`{selector}` names several merchants: {}; name one by its auth_app_id", .candidates.join(", "))]
    MerchantAmbiguous {
        /// What was asked for.
        selector: String,
        /// `app_id/auth_app_id` of each.
        candidates: Vec<String>,
    },
    /// No link was made.
    #[error(transparent)]
    Link(LinkError),
    /// There is no such merchant.
    #[error("there is no merchant `{name}`; `merchant list` shows all")]
    MerchantUnknown {
        /// What was asked for.
        name: String,
    },
    /// A parameter of the request has an impossible value.
    #[error("{0}")]
    ParameterInvalid(String),
    /// No refused notification of that id is kept.
    #[error("no refused notification {id} is kept; `inbox list --state refused` shows them")]
    RefusedUnknown {
        /// The id asked for.
        id: String,
    },
    /// The store said no, or nothing.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A token wasn't exchanged or refreshed.
    #[error("{}", told(.0))]
    Token(#[from] TokenError),
}

/// An error of a token with its cause, which it doesn't say itself.
fn told(error: &TokenError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

impl From<LinkError> for AdminError {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Store(error) => Self::Store(error),
            other => Self::Link(other),
        }
    }
}

impl AdminError {
    /// The fixed word for it: the `code` of the reply.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AppUnknown { .. } => "app-unknown",
            Self::Ask(error) => error.kind(),
            Self::BodyInvalid(_) | Self::KeyInvalid(_) => "body-invalid",
            Self::EventUnknown { .. } | Self::RefusedUnknown { .. } => "event-unknown",
            Self::Line { fault, .. } => fault.kind(),
            Self::Link(LinkError::NoPublicUrl) => "public-url-missing",
            Self::Link(LinkError::NoState) => "internal",
            Self::Link(_) => "body-invalid",
            Self::MerchantAmbiguous { .. } => "merchant-ambiguous",
            Self::MerchantUnknown { .. } => "merchant-unknown",
            Self::ParameterInvalid(_) => "parameter-invalid",
            Self::Store(error) => kind_of_store(error),
            Self::Token(error) => error.kind(),
        }
    }

    /// Whether Alipay may have acted.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Ask(error) => error.outcome(),
            Self::Token(error) => error.outcome(),
            _ => Outcome::NotSent,
        }
    }

    /// The HTTP status of the reply.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            Self::AppUnknown { .. }
            | Self::EventUnknown { .. }
            | Self::MerchantUnknown { .. }
            | Self::RefusedUnknown { .. } => 404,
            Self::BodyInvalid(_) | Self::KeyInvalid(_) | Self::ParameterInvalid(_) => 400,
            Self::Line { fault, .. } => fault.status(),
            Self::MerchantAmbiguous { .. } => 400,
            Self::Store(StoreError::AliasTaken { .. } | StoreError::TokenConflict { .. }) => 409,
            Self::Store(_) => 503,
            Self::Ask(_) | Self::Link(_) | Self::Token(_) => status_of(self.kind()),
        }
    }
}

/// The fixed word for what the store says.
pub(super) fn kind_of_store(error: &StoreError) -> &'static str {
    match error {
        StoreError::AliasTaken { .. } => "alias-conflict",
        StoreError::TokenConflict { .. } => "token-conflict",
        _ => "store-unavailable",
    }
}

/// The status of what isn't told from the variant alone.
fn status_of(kind: &str) -> u16 {
    match kind {
        "app-unknown" | "body-invalid" | "parameter-invalid" => 400,
        "public-url-missing" | "token-conflict" => 409,
        "alipay-refused" | "token-refused" => 422,
        "internal" => 500,
        "overloaded" | "store-unavailable" => 503,
        "upstream-timeout" => 504,
        _ => 502,
    }
}
