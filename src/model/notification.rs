//! What the inbox keeps: a verified notification of Alipay's, or an event of our own.

use bytes::Bytes;

use crate::model::event::AuthorizationEvent;
use crate::model::id::{AppId, AuthAppId, EventId, Pid};
use crate::protocol::secret::Secret;
use crate::protocol::sign_content::Scheme;

/// One entry of the inbox, immutable once stored; its fate is the [`Delivery`] of the same id.
///
/// [`Delivery`]: crate::model::delivery::Delivery
#[derive(Debug, Clone)]
pub struct InboxEntry {
    /// The sidecar's own id.
    pub id: EventId,
    /// The application it was for.
    pub app_id: AppId,
    /// Alipay's `notify_id`, unique per app; events of our own have none.
    pub notify_id: Option<String>,
    /// `msg_method`, `notify_type`, or the type of an event of our own.
    pub event_type: String,
    /// The merchant's application, where the notification names it.
    pub auth_app_id: Option<AuthAppId>,
    /// The merchant's user id, where known.
    pub pid: Option<Pid>,
    /// When it arrived, Unix milliseconds.
    pub received_at: i64,
    /// The rest of the notify path (`/orders/42`), empty for the app gateway.
    pub notify_path: String,
    /// The query of the notify address as it came, without its `?`; often empty. Nobody signed it.
    pub notify_query: String,
    /// Deliveries that share this key (the `out_trade_no`) keep their order.
    pub order_key: Option<String>,
    /// What Alipay sent, byte for byte; `None` for an event of our own.
    pub body: Option<Body>,
    /// What an encrypted `biz_content` was decrypted to.
    pub opened_content: Option<Secret<String>>,
    /// The scheme that Alipay's signature held by; `None` for an event of our own, and for what was
    /// stored before this was kept.
    pub scheme: Option<Scheme>,
    /// The event to deliver; filled in by the store when an authorisation is applied.
    pub event: Option<AuthorizationEvent>,
    /// In which form it goes to the backend.
    pub form: DeliveryForm,
}

impl InboxEntry {
    /// An event of our own about a merchant, made `now`; the store fills in what it tells.
    #[must_use]
    pub fn of_merchant(
        event_type: &str,
        (app_id, auth_app_id): (&AppId, &AuthAppId),
        now: i64,
    ) -> Self {
        Self {
            id: EventId::new(now),
            app_id: app_id.clone(),
            notify_id: None,
            event_type: event_type.to_owned(),
            auth_app_id: Some(auth_app_id.clone()),
            pid: None,
            received_at: now,
            notify_path: String::new(),
            notify_query: String::new(),
            order_key: None,
            body: None,
            opened_content: None,
            scheme: None,
            event: None,
            form: DeliveryForm::Event,
        }
    }
}

/// The bytes of a request body and their declared type.
#[derive(Clone, PartialEq, Eq)]
pub struct Body {
    /// The `Content-Type` header as it came.
    pub content_type: String,
    /// The bytes as they came.
    pub bytes: Bytes,
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Body({}, {} bytes)", self.content_type, self.bytes.len())
    }
}

/// In which form an entry goes to the backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryForm {
    /// As `delivery.format` says: Alipay's bytes, or their JSON form.
    AsConfigured,
    /// The authorisation event.
    Event,
    /// The JSON form with every token taken out: a body that holds a secret and isn't an
    /// authorisation the sidecar applied.
    Redacted,
    /// Alipay's own bytes, token and all (`delivery.authorization = "verbatim"`).
    Verbatim,
}
