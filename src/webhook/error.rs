//! Why a notification isn't acked.

use http::StatusCode;

use crate::audit::entry::Entry;
use crate::gateway::app::SigningApp;
use crate::gateway::signer::SignError;
use crate::model::id::AppId;
use crate::model::refused::RefusalKind;
use crate::net::body::{BodyError, RoomError};
use crate::net::head::HeadFault;
use crate::protocol::error::ProtocolError;
use crate::protocol::notification::Notification;
use crate::store::error::StoreError;
use crate::webhook::answer::{self, Answer};
use crate::webhook::metrics::Outcome;

/// What is known of something whose signature holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) app_id: AppId,
    /// What it is, by Alipay's name.
    pub(super) event_type: String,
    pub(super) auth_app_id: Option<String>,
    pub(super) notify_id: Option<String>,
}

impl Known {
    pub(super) fn of(app: &SigningApp, notification: &Notification) -> Self {
        Self {
            app_id: app.app_id.clone(),
            event_type: notification.event_type().to_owned(),
            auth_app_id: notification.auth_app_id(),
            notify_id: notification.notify_id().map(Into::into),
        }
    }

    /// What the audit log tells of it.
    pub(super) fn told_in(&self, entry: Entry) -> Entry {
        entry
            .with("type", &self.event_type)
            .with("app_id", self.app_id.as_str())
            .with_some("auth_app_id", self.auth_app_id.as_deref())
            .with_some("notify_id", self.notify_id.as_deref())
    }
}

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
    Closed(Box<Known>),
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
    Stale(Box<Known>),
    /// It couldn't be stored.
    #[error("it could not be stored: {0}")]
    Store(#[from] StoreError),
    /// A push that may have come after the cancellation that stands; Alipay didn't say.
    #[error(
        "whether its token holds although a cancellation was sent later, Alipay could not be asked"
    )]
    Unproved,
}

impl Refusal {
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            Self::Backlog { .. } | Self::Body(_) | Self::Busy | Self::Stale(_) => Outcome::Refused,
            Self::Encoded | Self::Head(_) | Self::Malformed(_) | Self::Other => Outcome::Malformed,
            Self::Foreign => Outcome::Foreign,
            Self::Forged(_) => Outcome::Forged,
            Self::Closed(_) | Self::Sign(_) | Self::Store(_) | Self::Unproved => {
                Outcome::Unavailable
            }
        }
    }

    /// As what it is kept, so that it can be explained and verified again. What would be accepted
    /// later by itself, what didn't arrive whole, and what isn't what was signed (encoded) isn't.
    pub(super) fn kept_as(&self) -> Option<RefusalKind> {
        match self {
            Self::Closed(_) => Some(RefusalKind::Undecryptable),
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
            | Self::Stale(_)
            | Self::Store(_)
            | Self::Unproved => None,
        }
    }

    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Backlog { .. }
            | Self::Busy
            | Self::Closed(_)
            | Self::Sign(_)
            | Self::Store(_)
            | Self::Unproved => StatusCode::SERVICE_UNAVAILABLE,
            Self::Body(BodyError::TooLarge(_)) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Head(HeadFault::TooLarge) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Body(_)
            | Self::Encoded
            | Self::Foreign
            | Self::Forged(_)
            | Self::Head(_)
            | Self::Malformed(_)
            | Self::Other
            | Self::Stale(_) => StatusCode::BAD_REQUEST,
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

    /// What is known of it, where its signature was found to hold before it was refused.
    pub(super) fn known(&self) -> Option<&Known> {
        match self {
            Self::Closed(known) | Self::Stale(known) => Some(known),
            _ => None,
        }
    }

    /// Whether anybody could have caused it, without any signature of Alipay's but an old one.
    pub(super) fn is_anybodys(&self) -> bool {
        match self {
            Self::Body(_)
            | Self::Busy
            | Self::Encoded
            | Self::Foreign
            | Self::Forged(_)
            | Self::Head(_)
            | Self::Malformed(_)
            | Self::Other
            | Self::Stale(_) => true,
            Self::Backlog { .. }
            | Self::Closed(_)
            | Self::Sign(_)
            | Self::Store(_)
            | Self::Unproved => false,
        }
    }
}

impl From<RoomError> for Refusal {
    fn from(error: RoomError) -> Self {
        match error {
            RoomError::Body(error) => Self::Body(error),
            RoomError::Full(_) => Self::Busy,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_call_anybody_can_send_again_and_what_is_known_of_it_is_told() {
        let known = Known {
            app_id: AppId::new("2021000000000001").expect("an app_id"),
            event_type: "spi.alipay.stock.query".to_owned(),
            auth_app_id: None,
            notify_id: None,
        };
        let stale = Refusal::Stale(Box::new(known.clone()));
        assert!(stale.is_anybodys());
        assert_eq!(stale.known(), Some(&known));
        // Nobody but Alipay makes these, and the operator has to mend something.
        assert!(!Refusal::Closed(Box::new(known)).is_anybodys());
        assert!(!Refusal::Backlog { pending: 1 }.is_anybodys());
    }
}
