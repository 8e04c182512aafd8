//! What comes in, and what becomes of it.

use prometheus::{IntCounterVec, Opts};

use crate::audit::entry::Event;
use crate::protocol::notification::Notification;
use crate::protocol::params::name;
use crate::registrar::Registrar;
use crate::webhook::pages::Page;

/// `service` of a life account's check of its gateway.
pub(super) const SERVICE_CHECK: &str = "alipay.service.check";

/// The platform messages of the old style, which look like payment notifications otherwise.
const OLD_MESSAGES: [&str; 2] = ["open_app_auth_notify", "servicemarket_order_notify"];

/// What a notification is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Authorization,
    Cancellation,
    Message,
    Other,
    Payment,
    ServiceCheck,
    /// A call that isn't kept, but answered at once.
    Spi,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Authorization,
        Self::Cancellation,
        Self::Message,
        Self::Other,
        Self::Payment,
        Self::ServiceCheck,
        Self::Spi,
    ];

    /// What a notification is, its content says, not its path.
    pub(super) fn of(notification: &Notification) -> Self {
        let params = notification.params();
        let notify_type = params.get(name::NOTIFY_TYPE).unwrap_or_default();
        if notification.authorization().is_some() {
            Self::Authorization
        } else if notification.cancellation().is_some() {
            Self::Cancellation
        } else if params.get(name::SERVICE) == Some(SERVICE_CHECK) {
            Self::ServiceCheck
        } else if params.get(name::MSG_METHOD).is_some() || OLD_MESSAGES.contains(&notify_type) {
            Self::Message
        } else if notify_type.is_empty() {
            Self::Other
        } else {
            Self::Payment
        }
    }

    /// As what the audit log tells it.
    pub(super) fn event(self) -> Event {
        match self {
            Self::Spi => Event::Spi,
            _ => Event::Notification,
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
            Self::Spi => "spi",
        }
    }
}

/// What became of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Accepted,
    Duplicate,
    DuplicateDiffers,
    Foreign,
    Forged,
    Malformed,
    Refused,
    TokenConflict,
    Unavailable,
}

impl Outcome {
    const ALL: [Self; 9] = [
        Self::Accepted,
        Self::Duplicate,
        Self::DuplicateDiffers,
        Self::Foreign,
        Self::Forged,
        Self::Malformed,
        Self::Refused,
        Self::TokenConflict,
        Self::Unavailable,
    ];

    /// Whether each notification has it once only: what is known already, anybody who has it may send
    /// again.
    pub(super) fn is_once(self) -> bool {
        matches!(self, Self::Accepted | Self::TokenConflict)
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::DuplicateDiffers => "duplicate-differs",
            Self::Foreign => "foreign",
            Self::Forged => "forged",
            Self::Malformed => "malformed",
            Self::Refused => "refused",
            Self::TokenConflict => "token-conflict",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Whose browser came, and from where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Browser {
    /// A merchant's, from Alipay.
    Callback,
    /// A merchant's, to be led to Alipay.
    Start,
    /// A user's, from Alipay.
    UserLogin,
}

impl Browser {
    const ALL: [Self; 3] = [Self::Callback, Self::Start, Self::UserLogin];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Callback => "callback",
            Self::Start => "start",
            Self::UserLogin => "user-login",
        }
    }
}

/// Why a refused notification isn't kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    /// Too many came at once.
    Burst,
    /// It was kept, and had to make room.
    Displaced,
    /// There was no room.
    Full,
    /// Its network has sent too many.
    Limited,
    /// The store couldn't be written.
    Store,
    /// Its body is too large.
    TooLarge,
}

impl Dropped {
    const ALL: [Self; 6] = [
        Self::Burst,
        Self::Displaced,
        Self::Full,
        Self::Limited,
        Self::Store,
        Self::TooLarge,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Burst => "burst",
            Self::Displaced => "displaced",
            Self::Full => "full",
            Self::Limited => "limited",
            Self::Store => "store-unavailable",
            Self::TooLarge => "too-large",
        }
    }
}

/// `alipay_sidecar_notifications_total`, `alipay_sidecar_browsers_total` and
/// `alipay_sidecar_inbox_refused_dropped_total`. Clones share the counts.
#[derive(Debug, Clone)]
pub struct WebhookMetrics {
    notifications: IntCounterVec,
    browsers: IntCounterVec,
    dropped: IntCounterVec,
}

impl WebhookMetrics {
    /// Registers the counters.
    ///
    /// # Errors
    /// The registry's, when the name is taken.
    pub fn register(registry: &impl Registrar) -> Result<Self, prometheus::Error> {
        let options = Opts::new(
            "alipay_sidecar_notifications_total",
            "Notifications of Alipay's by what they are and what became of them.",
        );
        let notifications = IntCounterVec::new(options, &["kind", "outcome"])?;
        registry.register(Box::new(notifications.clone()))?;
        // Present from the start, so that the first one is an increase and not a new series.
        for (kind, outcome) in Kind::ALL
            .iter()
            .flat_map(|kind| Outcome::ALL.map(|o| (kind, o)))
        {
            notifications.with_label_values(&[kind.as_str(), outcome.as_str()]);
        }
        let options = Opts::new(
            "alipay_sidecar_browsers_total",
            "Browsers that were led to Alipay or came back, by whose they are and what became of it.",
        );
        let browsers = IntCounterVec::new(options, &["kind", "outcome"])?;
        registry.register(Box::new(browsers.clone()))?;
        for (browser, page) in Browser::ALL
            .iter()
            .flat_map(|browser| Page::ALL.map(|page| (browser, page)))
        {
            browsers.with_label_values(&[browser.as_str(), page.as_str()]);
        }
        let options = Opts::new(
            "alipay_sidecar_inbox_refused_dropped_total",
            "Refused notifications that aren't kept (any more) for want of room, by reason.",
        );
        let dropped = IntCounterVec::new(options, &["reason"])?;
        registry.register(Box::new(dropped.clone()))?;
        for reason in Dropped::ALL {
            dropped.with_label_values(&[reason.as_str()]);
        }
        Ok(Self {
            notifications,
            browsers,
            dropped,
        })
    }

    pub(super) fn count(&self, kind: Kind, outcome: Outcome) {
        self.notifications
            .with_label_values(&[kind.as_str(), outcome.as_str()])
            .inc();
    }

    pub(super) fn count_browser(&self, browser: Browser, outcome: &str) {
        self.browsers
            .with_label_values(&[browser.as_str(), outcome])
            .inc();
    }

    pub(super) fn count_dropped(&self, reason: Dropped, count: u64) {
        let counter = self.dropped.with_label_values(&[reason.as_str()]);
        counter.inc_by(count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_taken_happens_once() {
        let once: Vec<_> = Outcome::ALL.into_iter().filter(|o| o.is_once()).collect();
        assert_eq!(once, [Outcome::Accepted, Outcome::TokenConflict]);
    }
}
