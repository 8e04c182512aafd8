//! v3.

use thiserror::Error;

use crate::protocol::v3_response::V3Error;

/// Names what is wrong with a v3 request or answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum V3Cause {
    /// A newline at the end of the body.
    #[error("a newline at the end of the body was {0}; sign and verify the body byte for byte")]
    TrailingNewline(Newline),
    /// A header is missing.
    #[error("the header `{name}` is missing; some proxy dropped it, or it wasn't kept")]
    HeaderMissing {
        /// Which.
        name: &'static str,
    },
    /// A 204 without a body, and so without a signature.
    #[error("a 204 without a body carries no signature: there is nothing to verify")]
    NoContent,
    /// A header has the value `null`.
    #[error(
        "`alipay-signature` is the word `null`: Alipay didn't sign this answer; it counts as \
         unsigned"
    )]
    HeaderNull,
    /// A header is unusable.
    #[error("{0}")]
    HeaderInvalid(V3Error),
    /// A v3 `Authorization` that can't be read.
    #[error("{reason}; expected `ALIPAY-SHA256withRSA app_id=…,nonce=…,timestamp=…,sign=…`")]
    AuthorizationInvalid {
        /// What is wrong with it.
        reason: String,
    },
    /// The line of the token is missing.
    #[error(
        "`alipay-app-auth-token` is sent, but was signed without its line; the fifth line is the \
         token"
    )]
    TokenLineMissing,
    /// The line of the token is there without the header.
    #[error("the signed text has an empty fifth line; without a token there are four lines")]
    TokenLineEmpty,
    /// The last line break is missing.
    #[error("the signed text lacks the line break at its end; every line ends with one")]
    LastLineBreak,
    /// The target changed on the way.
    #[error(
        "the path or query that was signed isn't the one sent: {what}; sign exactly what goes \
         over the wire, and let no proxy rewrite it"
    )]
    TargetChanged {
        /// How.
        what: &'static str,
    },
    /// The HTTP method was signed in small letters.
    #[error("the HTTP method was signed in small letters; capital ones are expected")]
    MethodCase,
    /// The HTTP method changed.
    #[error("another HTTP method was signed ({signed}) than was sent")]
    MethodChanged {
        /// What was signed.
        signed: &'static str,
    },
    /// The body wasn't signed.
    #[error("the body wasn't signed; the fourth line is the exact text of the body")]
    BodyNotSigned,
}

impl V3Cause {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::TrailingNewline(_) => "trailing-newline",
            Self::HeaderMissing { .. } => "header-missing",
            Self::NoContent => "no-content",
            Self::HeaderNull => "header-null",
            Self::HeaderInvalid(_) => "header-invalid",
            Self::AuthorizationInvalid { .. } => "authorization-invalid",
            Self::TokenLineMissing => "token-line-missing",
            Self::TokenLineEmpty => "token-line-empty",
            Self::LastLineBreak => "last-line-break",
            Self::TargetChanged { .. } => "target-changed",
            Self::MethodCase => "method-case",
            Self::MethodChanged { .. } => "method-changed",
            Self::BodyNotSigned => "body-not-signed",
        }
    }
}

/// Says what happened to a newline at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newline {
    /// It wasn't signed.
    Added,
    /// It was signed.
    Lost,
}

impl std::fmt::Display for Newline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Added => "added on the way (by an editor, `echo` or a log)",
            Self::Lost => "lost on the way (trimmed)",
        })
    }
}
