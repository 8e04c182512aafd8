//! What comes in, and what becomes of it.

use prometheus::{IntCounterVec, Opts, Registry};

use crate::protocol::notification::Notification;
use crate::protocol::params::name;

/// `service` of a life account's check of its gateway.
pub(super) const SERVICE_CHECK: &str = "alipay.service.check";

/// What a notification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Authorization,
    Cancellation,
    Message,
    Other,
    Payment,
    ServiceCheck,
}

impl Kind {
    /// What a notification is, its content says, not its path.
    pub(super) fn of(notification: &Notification) -> Self {
        let has = |name| {
            notification
                .params()
                .get(name)
                .is_some_and(|v| !v.is_empty())
        };
        if notification.authorization().is_some() {
            Self::Authorization
        } else if notification.cancellation().is_some() {
            Self::Cancellation
        } else if notification.params().get(name::SERVICE) == Some(SERVICE_CHECK) {
            Self::ServiceCheck
        } else if has(name::MSG_METHOD) || notification.params().get(name::METHOD).is_some() {
            Self::Message
        } else if has(name::NOTIFY_TYPE) && has(name::OUT_TRADE_NO) {
            Self::Payment
        } else {
            Self::Other
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Authorization => "authorization",
            Self::Cancellation => "cancellation",
            Self::Message => "message",
            Self::Other => "other",
            Self::Payment => "payment",
            Self::ServiceCheck => "service-check",
        }
    }
}

/// What became of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Accepted,
    Duplicate,
    Foreign,
    Forged,
    Malformed,
    Refused,
    TokenConflict,
    Unavailable,
}

impl Outcome {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Foreign => "foreign",
            Self::Forged => "forged",
            Self::Malformed => "malformed",
            Self::Refused => "refused",
            Self::TokenConflict => "token-conflict",
            Self::Unavailable => "unavailable",
        }
    }
}

/// `alipay_sidecar_notifications_total`. Clones share the counts.
#[derive(Debug, Clone)]
pub struct WebhookMetrics(IntCounterVec);

impl WebhookMetrics {
    /// Registers the counter.
    ///
    /// # Errors
    /// The registry's, when the name is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let options = Opts::new(
            "alipay_sidecar_notifications_total",
            "Notifications of Alipay's by what they are and what became of them.",
        );
        let notifications = IntCounterVec::new(options, &["kind", "outcome"])?;
        registry.register(Box::new(notifications.clone()))?;
        Ok(Self(notifications))
    }

    pub(super) fn count(&self, kind: Kind, outcome: Outcome) {
        self.0
            .with_label_values(&[kind.as_str(), outcome.as_str()])
            .inc();
    }
}
