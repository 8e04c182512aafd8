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
    /// Lines of an import are wrong; nothing of it was stored.
    #[error(transparent)]
    Lines(#[from] BadLines),
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
    /// What was put is older than what is stored.
    #[error(
        "{name} was authorised, or cancelled, later than the `auth_time` that was put; nothing was changed"
    )]
    MerchantOutdated {
        /// `app_id/auth_app_id`.
        name: String,
    },
    /// The store said no, or nothing.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A token wasn't exchanged or refreshed.
    #[error("{}", told(.0))]
    Token(#[from] TokenError),
}

/// The wrong lines of an import, in the order of the file.
#[derive(Debug)]
pub struct BadLines {
    first: (usize, Box<AdminError>),
    others: Vec<(usize, AdminError)>,
    /// How many more there are than are kept.
    more: usize,
}

/// How many wrong lines are told: a screen of them.
const MOST_LINES: usize = 20;

impl BadLines {
    /// One wrong line, counted from 1.
    pub(super) fn new(line: usize, fault: AdminError) -> Self {
        Self {
            first: (line, Box::new(fault)),
            others: Vec::new(),
            more: 0,
        }
    }

    /// Those that are told, each counted from 1, with its fault.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &AdminError)> {
        let (line, fault) = &self.first;
        let others = self.others.iter().map(|(line, fault)| (*line, fault));
        std::iter::once((*line, &**fault)).chain(others)
    }

    /// Adds another.
    pub(super) fn add(&mut self, line: usize, fault: AdminError) {
        match self.others.len() + 1 < MOST_LINES {
            true => self.others.push((line, fault)),
            false => self.more += 1,
        }
    }
}

impl std::error::Error for BadLines {}

impl std::fmt::Display for BadLines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (line, fault) = &self.first;
        if self.others.is_empty() {
            return write!(f, "line {line}: {fault}; nothing was imported");
        }
        let count = 1 + self.others.len() + self.more;
        write!(f, "{count} lines are wrong, and nothing was imported")?;
        write!(f, "\nline {line}: {fault}")?;
        for (line, fault) in &self.others {
            write!(f, "\nline {line}: {fault}")?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
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
            Self::Lines(lines) => lines.first.1.kind(),
            Self::Link(LinkError::NoPublicUrl) => "public-url-missing",
            Self::Link(LinkError::NoState) => "internal",
            Self::Link(_) => "body-invalid",
            Self::MerchantAmbiguous { .. } => "merchant-ambiguous",
            Self::MerchantOutdated { .. } => "merchant-outdated",
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
            Self::Lines(lines) => lines.first.1.status(),
            Self::MerchantAmbiguous { .. } => 400,
            Self::MerchantOutdated { .. } => 409,
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
        "merchant-unknown" => 404,
        "public-url-missing" | "token-conflict" => 409,
        "alipay-refused" | "token-refused" => 422,
        "internal" => 500,
        "overloaded" | "store-unavailable" => 503,
        "upstream-timeout" => 504,
        _ => 502,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_wrong_lines_are_told_and_the_others_counted() {
        let fault = || AdminError::BodyInvalid("`app_id` is missing".to_owned());
        let mut lines = BadLines::new(2, fault());
        assert_eq!(
            lines.to_string(),
            "line 2: `app_id` is missing; nothing was imported"
        );
        for line in 3..=24 {
            lines.add(line, fault());
        }
        let text = lines.to_string();
        assert!(text.starts_with("23 lines are wrong"), "{text}");
        assert_eq!(text.lines().count(), 22, "{text}");
        assert!(text.contains("line 21:") && text.ends_with("and 3 more"));
        assert_eq!(AdminError::from(lines).kind(), "body-invalid");
    }
}
