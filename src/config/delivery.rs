//! `[delivery]`: how notifications reach the backend.

use std::time::Duration;

use crate::protocol::secret::Secret;

/// `[delivery]`.
#[derive(Debug, Clone)]
pub struct DeliveryConfig {
    /// Where what no route fits goes; `None`: it stays in the inbox until pulled.
    pub url: Option<String>,
    /// In which form.
    pub format: DeliveryFormat,
    /// Deadline of one attempt.
    pub timeout: Duration,
    /// After how long a delivery is dead.
    pub give_up_after: Duration,
    /// The secret of the Standard Webhooks signature.
    pub signing_secret: Option<Secret<String>>,
    /// What counts as taken; `None`: by format.
    pub ack: Option<AckRule>,
    /// How authorisation messages are delivered.
    pub authorization: AuthorizationDelivery,
    /// How long delivered entries are kept.
    pub retain_delivered: Duration,
    /// Pending deliveries above which new notifications are refused.
    pub high_water: u64,
    /// `[[delivery.route]]`, in order.
    pub routes: Vec<DeliveryRoute>,
}

/// One `[[delivery.route]]`: the first whose conditions all fit takes the delivery.
#[derive(Debug, Clone, Default)]
pub struct DeliveryRoute {
    /// Where to.
    pub url: String,
    /// Glob over the event type.
    pub event_type: Option<String>,
    /// Our app.
    pub app: Option<String>,
    /// The merchant's application, PID or alias.
    pub merchant: Option<String>,
    /// Glob over the notify path.
    pub path: Option<String>,
    /// In which form, if another than `[delivery]`'s.
    pub format: Option<DeliveryFormat>,
    /// What counts as taken, if another than `[delivery]`'s.
    pub ack: Option<AckRule>,
    /// Deadline of one attempt, if another than `[delivery]`'s.
    pub timeout: Option<Duration>,
}

/// In which form a notification is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryFormat {
    /// As Alipay sent it, byte for byte.
    Form,
    /// As one JSON object.
    Json,
}

/// What counts as taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckRule {
    /// Any 2xx.
    AnySuccessStatus,
    /// 2xx and a body that is, trimmed, exactly `success`.
    SuccessBody,
}

/// How authorisation messages are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizationDelivery {
    /// Both ways.
    Both,
    /// As an event without a token.
    Event,
    /// As Alipay sent it, token and all.
    Verbatim,
}

impl Default for DeliveryConfig {
    fn default() -> Self {
        Self {
            url: None,
            format: DeliveryFormat::Form,
            timeout: Duration::from_secs(15),
            give_up_after: Duration::from_hours(72),
            signing_secret: None,
            ack: None,
            authorization: AuthorizationDelivery::Event,
            retain_delivered: Duration::from_hours(7 * 24),
            high_water: 1_000_000,
            routes: Vec::new(),
        }
    }
}
