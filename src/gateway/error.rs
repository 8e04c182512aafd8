//! What can go wrong between us and Alipay, and whether money may have moved.

use crate::gateway::signer::SignError;
use crate::net::client::{Left, SendCause, SendError};
use crate::protocol::error::{EnvelopeError, ProtocolError};

/// Whether Alipay may have acted on a call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing left for Alipay.
    NotSent,
    /// Bytes had left: only a query tells.
    Unknown,
}

impl Outcome {
    /// The word used in replies and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotSent => "not-sent",
            Self::Unknown => "unknown",
        }
    }
}

/// A call that gave no verified reply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// A parameter can't be written in the charset of the call.
    #[error("a parameter can't be sent: {0}")]
    Charset(#[source] ProtocolError),
    /// What came back is no reply of Alipay's.
    #[error("what came back is not a reply of Alipay's: {reason}")]
    NotAlipay {
        /// What was found.
        reason: String,
    },
    /// The request could not be made, though every part of it is ours.
    #[error("the request to Alipay could not be made")]
    Request(#[source] http::Error),
    /// The signature of the reply is missing or wrong.
    #[error("the reply of Alipay could not be verified: {0}")]
    ResponseSignature(#[source] EnvelopeError),
    /// Our own signature could not be made.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The deadline passed.
    #[error("Alipay did not answer within the deadline")]
    Timeout {
        /// Whether Alipay may have acted.
        outcome: Outcome,
    },
    /// There was no connection, or it broke.
    #[error("Alipay could not be reached: {cause}")]
    Unreachable {
        /// Whether Alipay may have acted.
        outcome: Outcome,
        /// What failed.
        cause: SendCause,
    },
}

impl GatewayError {
    /// Whether Alipay may have acted.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::NotAlipay { .. } | Self::ResponseSignature(_) => Outcome::Unknown,
            Self::Charset(_) | Self::Request(_) | Self::Sign(_) => Outcome::NotSent,
            Self::Timeout { outcome } | Self::Unreachable { outcome, .. } => *outcome,
        }
    }

    /// The fixed word for replies, logs and metrics: contract §3.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Charset(_) => "parameter-invalid",
            Self::NotAlipay { .. } => "upstream-invalid",
            Self::Request(_) | Self::Sign(SignError::Failed(_) | SignError::Key(_)) => "internal",
            Self::ResponseSignature(_) => "response-signature-invalid",
            Self::Sign(SignError::Overloaded) => "overloaded",
            Self::Timeout { .. } => "upstream-timeout",
            Self::Unreachable { .. } => "upstream-unreachable",
        }
    }

    /// The same error after an earlier try that ended with `earlier`: once bytes had left, no
    /// later try can make the outcome known again.
    pub(crate) fn no_better_than(self, earlier: Outcome) -> Self {
        match (self, earlier) {
            (Self::Timeout { .. }, Outcome::Unknown) => Self::Timeout { outcome: earlier },
            (Self::Unreachable { cause, .. }, Outcome::Unknown) => Self::Unreachable {
                outcome: earlier,
                cause,
            },
            (error, _) => error,
        }
    }
}

impl From<SendError> for GatewayError {
    fn from(error: SendError) -> Self {
        let outcome = match error.left {
            Left::Maybe => Outcome::Unknown,
            Left::No => Outcome::NotSent,
        };
        match error.cause {
            SendCause::ReplyTooLarge(limit) => Self::NotAlipay {
                reason: format!("it is larger than {limit} bytes"),
            },
            SendCause::Endless => Self::NotAlipay {
                reason: "it did not end within the deadline".to_owned(),
            },
            SendCause::Timeout => Self::Timeout { outcome },
            cause => Self::Unreachable { outcome, cause },
        }
    }
}

impl From<EnvelopeError> for GatewayError {
    fn from(error: EnvelopeError) -> Self {
        if error.is_about_signature() {
            Self::ResponseSignature(error)
        } else {
            Self::NotAlipay {
                reason: error.to_string(),
            }
        }
    }
}
