//! Why a notification isn't acked.

use http::StatusCode;

use crate::gateway::signer::SignError;
use crate::model::refused::RefusalKind;
use crate::net::body::{BodyError, RoomError};
use crate::net::head::HeadFault;
use crate::protocol::error::ProtocolError;
use crate::store::error::StoreError;
use crate::webhook::answer::{self, Answer};
use crate::webhook::metrics::Outcome;

/// A notification that isn't acked. Alipay is told `fail` and nothing else.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// More is owed to the backend than the operator allows.
    #[error(
        "{pending} deliveries are pending, more than delivery.high_water; is the backend down?"
    )]
    Backlog { pending: u64 },
    /// It didn't arrive whole.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// Too many bodies are under way.
    #[error("the bodies under way take all the room that there is; it may be sent again")]
    Busy,
    /// An encrypted authorisation or cancellation that can't be opened.
    #[error("it is encrypted, and the app's encrypt_key is missing or doesn't open it")]
    Closed,
    /// A `Content-Encoding`: Alipay uses none, and what is signed isn't what came.
    #[error("it has a Content-Encoding")]
    Encoded,
    /// Its head can be read in more than one way.
    #[error("its head isn't clear: {0}")]
    Head(HeadFault),
    /// Its `app_id` isn't ours.
    #[error("its app_id is none of the configured apps")]
    Foreign,
    /// Its signature doesn't hold.
    #[error("it could not be verified: {0}")]
    Forged(#[source] ProtocolError),
    /// It can't be read.
    #[error("it can't be read: {0}")]
    Malformed(#[source] ProtocolError),
    /// Something else that Alipay signed by the same rules.
    #[error(
        "it is no notification, although Alipay signed it: a return_url's query, an SPI call, or one whose notify_id is hidden"
    )]
    Other,
    /// The answer to a check couldn't be signed.
    #[error("the answer could not be signed")]
    Sign(#[from] SignError),
    /// Its time is far from ours: a captured call, or a clock that is wrong.
    #[error("it was sent more than 25 h before or after the time here; is the clock right?")]
    Stale,
    /// It couldn't be stored.
    #[error("it could not be stored: {0}")]
    Store(#[from] StoreError),
}

impl Refusal {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Backlog { .. } | Self::Body(_) | Self::Busy | Self::Stale => Outcome::Refused,
            Self::Encoded | Self::Head(_) | Self::Malformed(_) | Self::Other => Outcome::Malformed,
            Self::Foreign => Outcome::Foreign,
            Self::Forged(_) => Outcome::Forged,
            Self::Closed | Self::Sign(_) | Self::Store(_) => Outcome::Unavailable,
        }
    }

    /// As what it is kept, so that it can be explained and verified again. What would be accepted
    /// later by itself, what didn't arrive whole, and what isn't what was signed (encoded) isn't.
    pub(super) fn kept_as(&self) -> Option<RefusalKind> {
        match self {
            Self::Closed => Some(RefusalKind::Undecryptable),
            Self::Foreign => Some(RefusalKind::Foreign),
            Self::Forged(_) => Some(RefusalKind::Forged),
            Self::Malformed(_) => Some(RefusalKind::Malformed),
            Self::Other => Some(RefusalKind::NoNotification),
            Self::Backlog { .. }
            | Self::Body(_)
            | Self::Busy
            | Self::Encoded
            | Self::Head(_)
            | Self::Sign(_)
            | Self::Stale
            | Self::Store(_) => None,
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Backlog { .. } | Self::Busy | Self::Closed | Self::Sign(_) | Self::Store(_) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Body(BodyError::TooLarge(_)) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body(_)
            | Self::Encoded
            | Self::Foreign
            | Self::Forged(_)
            | Self::Head(_)
            | Self::Malformed(_)
            | Self::Other
            | Self::Stale => StatusCode::BAD_REQUEST,
        }
    }

    /// What Alipay is told, and when to come again where it should.
    pub(super) fn answer(&self) -> Answer {
        let status = self.status();
        let mut answer = answer::fail(status);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            answer::retry_after(&mut answer, 1);
        }
        answer
    }

    /// Whether anybody could have caused it, without any signature of Alipay's.
    pub(super) fn is_anybodys(&self) -> bool {
        match self {
            Self::Body(_)
            | Self::Busy
            | Self::Encoded
            | Self::Foreign
            | Self::Forged(_)
            | Self::Head(_)
            | Self::Malformed(_)
            | Self::Other => true,
            Self::Backlog { .. } | Self::Closed | Self::Sign(_) | Self::Stale | Self::Store(_) => {
                false
            }
        }
    }
}

impl From<RoomError> for Refusal {
    fn from(error: RoomError) -> Self {
        match error {
            RoomError::Body(error) => Self::Body(error),
            RoomError::Full => Self::Busy,
        }
    }
}
