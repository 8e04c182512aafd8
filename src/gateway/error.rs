//! What can go wrong between us and Alipay, and whether money may have moved.

use crate::gateway::platform::CertificateRefusal;
use crate::gateway::signer::SignError;
use crate::model::call::CallOutcome;
use crate::net::client::{Left, SendCause, SendError};
use crate::protocol::encryption::EncryptionError;
use crate::protocol::error::{EnvelopeError, ProtocolError};
use crate::protocol::v3_response::V3Error;

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
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotSent => "not-sent",
            Self::Unknown => "unknown",
        }
    }
}

impl From<Outcome> for CallOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::NotSent => Self::NotSent,
            Outcome::Unknown => Self::Unknown,
        }
    }
}

/// A call that gave no verified reply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// The platform certificate that the reply names isn't believed.
    #[error("the certificate that signed Alipay's reply isn't trusted: {0}")]
    Certificate(#[source] CertificateRefusal),
    /// A success in certificate mode that names no certificate.
    #[error(
        "Alipay's reply names no certificate (alipay_cert_sn) although the app is in certificate mode"
    )]
    CertificateUnnamed,
    /// A parameter can't be written in the charset of the call.
    #[error("a parameter can't be sent: {0}")]
    Charset(#[source] ProtocolError),
    /// The reply is encrypted, and can't be opened.
    #[error("Alipay's reply could not be decrypted: {0}")]
    Decryption(#[source] DecryptionError),
    /// The contents could not be encrypted.
    #[error("the request could not be encrypted")]
    Encryption(#[source] EncryptionError),
    /// What came back is no reply of Alipay's.
    #[error("what {host} sent is not a reply of Alipay's: {reason}")]
    NotAlipay {
        /// Who was asked, as the URL has it.
        host: String,
        /// What was found.
        reason: String,
    },
    /// The request could not be made, though every part of it is ours.
    #[error("the request to Alipay could not be made")]
    Request(#[from] http::Error),
    /// The signature of the reply is missing or wrong.
    #[error("the reply of Alipay could not be verified: {0}")]
    ResponseSignature(#[source] EnvelopeError),
    /// Our own signature could not be made.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// What has to stand in the URL doesn't fit there.
    #[error(
        "what is sent in the URL (return_url, notify_url and the like) is longer than a URL may be, 64 KiB"
    )]
    UrlTooLong,
    /// A v3 request that can't be signed as it is.
    #[error("the request can't be signed: {0}")]
    V3Request(&'static str),
    /// The signature of a v3 reply is missing or wrong.
    #[error("the reply of Alipay could not be verified: {0}")]
    V3Signature(#[source] V3Error),
    /// The deadline passed.
    #[error("{}", late(.host, *.outcome))]
    Timeout {
        /// Who was asked, as the URL has it.
        host: String,
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

/// Why an encrypted reply stays closed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DecryptionError {
    /// The key doesn't open it.
    #[error(transparent)]
    Key(#[from] EncryptionError),
    /// There is no key.
    #[error("the app has no encrypt_key; copy 接口内容加密方式's AES key from Alipay's console")]
    NoKey,
}

impl GatewayError {
    /// Whether Alipay may have acted.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Certificate(_)
            | Self::CertificateUnnamed
            | Self::Decryption(_)
            | Self::NotAlipay { .. }
            | Self::ResponseSignature(_)
            | Self::V3Signature(_) => Outcome::Unknown,
            Self::Charset(_)
            | Self::Encryption(_)
            | Self::Request(_)
            | Self::Sign(_)
            | Self::UrlTooLong
            | Self::V3Request(_) => Outcome::NotSent,
            Self::Timeout { outcome, .. } | Self::Unreachable { outcome, .. } => *outcome,
        }
    }

    /// The fixed word for replies, logs and metrics: contract §3.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Charset(_) | Self::UrlTooLong | Self::V3Request(_) => "parameter-invalid",
            Self::Decryption(_) => "response-decryption-failed",
            Self::NotAlipay { .. } => "upstream-invalid",
            Self::Encryption(_)
            | Self::Request(_)
            | Self::Sign(SignError::Failed(_) | SignError::Key(_)) => "internal",
            Self::Certificate(_)
            | Self::CertificateUnnamed
            | Self::ResponseSignature(_)
            | Self::V3Signature(_) => "response-signature-invalid",
            Self::Sign(SignError::Overloaded | SignError::Unavailable(_)) => "overloaded",
            Self::Timeout { .. } => "upstream-timeout",
            Self::Unreachable { .. } => "upstream-unreachable",
        }
    }

    /// The same error after an earlier try that ended with `earlier`: once bytes had left, no
    /// later try can make the outcome known again.
    pub(crate) fn no_better_than(self, earlier: Outcome) -> Self {
        match (self, earlier) {
            (Self::Timeout { host, .. }, Outcome::Unknown) => Self::Timeout {
                host,
                outcome: earlier,
            },
            (Self::Unreachable { cause, .. }, Outcome::Unknown) => Self::Unreachable {
                outcome: earlier,
                cause,
            },
            (error, _) => error,
        }
    }
}

impl GatewayError {
    /// What came of sending to `host`.
    pub(super) fn of_sending(host: String, error: SendError) -> Self {
        let outcome = match error.left {
            Left::Maybe => Outcome::Unknown,
            Left::No => Outcome::NotSent,
        };
        match error.cause {
            SendCause::ReplyTooLarge(limit) => {
                Self::not_alipay(host, format!("it is larger than {limit} bytes"))
            }
            SendCause::Endless => Self::not_alipay(host, "it did not end within the deadline"),
            SendCause::NotHttp { .. } => Self::not_alipay(host, "it isn't HTTP"),
            SendCause::Timeout => Self::Timeout { host, outcome },
            cause => Self::Unreachable { outcome, cause },
        }
    }

    /// What came from `host` can't be taken.
    pub(super) fn of_envelope(host: String, error: EnvelopeError) -> Self {
        match error.is_about_signature() {
            true => Self::ResponseSignature(error),
            false => Self::not_alipay(host, error.to_string()),
        }
    }

    pub(super) fn not_alipay(host: String, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self::NotAlipay { host, reason }
    }
}

/// Says what didn't happen in time.
fn late(host: &str, outcome: Outcome) -> String {
    match outcome {
        Outcome::NotSent => format!("the deadline passed before anything was sent to {host}"),
        Outcome::Unknown => format!("{host} did not answer within the deadline"),
    }
}
