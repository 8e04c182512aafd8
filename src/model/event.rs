//! Authorisation events: what the backend hears of a merchant's authorisation, without a token.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::authorization::{Authorization, Source};
use crate::model::id::EventId;
use crate::model::merchant::{Merchant, MerchantStatus};

/// The type of an event that says a merchant authorised, or renewed its authorisation.
pub const MERCHANT_AUTHORIZED: &str = "merchant.authorized";
/// The type of an event that says a merchant cancelled.
pub const MERCHANT_REVOKED: &str = "merchant.revoked";
/// The type of an event that says Alipay refused a merchant's token, so that it may have to
/// authorise again.
pub const MERCHANT_SUSPECT: &str = "merchant.suspect";

/// Whether it is the type of one of these.
pub(crate) fn is_own(event_type: &str) -> bool {
    [MERCHANT_AUTHORIZED, MERCHANT_REVOKED, MERCHANT_SUSPECT].contains(&event_type)
}

/// The JSON that the backend gets for an authorisation: contract §5. It never holds a token.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct AuthorizationEvent {
    /// The event's id, the same as in `Alipay-Event-Id`.
    pub id: String,
    /// [`MERCHANT_AUTHORIZED`], [`MERCHANT_REVOKED`] or [`MERCHANT_SUSPECT`].
    #[serde(rename = "type")]
    pub event_type: String,
    /// When the sidecar learned of it, Unix milliseconds.
    pub received_at: i64,
    /// Our application.
    pub app_id: String,
    /// The merchant's application.
    pub auth_app_id: String,
    /// The merchant's user id, if known.
    pub pid: Option<String>,
    /// The operator's name for the merchant.
    pub alias: Option<String>,
    /// The ISV's own tenant id.
    #[serde(rename = "ref")]
    pub reference: Option<String>,
    /// Whether a `state` of ours named who began it.
    pub bound: bool,
    /// `push`, `callback`, `import` or `refresh`.
    pub source: String,
    /// Alipay's `notify_context.trigger`; where a refused token led to the event, which one.
    pub trigger: Option<String>,
    /// Whether it is a plugin's order.
    pub is_plugin: bool,
    /// The third-party application that owns the plugin.
    pub agent_app_id: Option<String>,
    /// The authorisation's time (of a revocation: the cancellation's), Unix milliseconds.
    pub auth_time: i64,
    /// Alipay's `error` member, if it sent one.
    pub error: Option<serde_json::Value>,
}

impl AuthorizationEvent {
    /// The event for an authorisation that was applied and gave `merchant`.
    #[must_use]
    pub fn authorized(
        id: EventId,
        received_at: i64,
        authorization: &Authorization,
        merchant: &Merchant,
    ) -> Self {
        Self {
            bound: authorization.bound,
            trigger: authorization.trigger.clone(),
            is_plugin: authorization.is_plugin,
            agent_app_id: authorization.agent_app_id.clone(),
            error: authorization
                .error
                .as_deref()
                .and_then(|e| serde_json::from_str(e).ok()),
            ..Self::of(MERCHANT_AUTHORIZED, id, received_at, merchant)
        }
    }

    /// The event for a cancellation at `at`, learned from `source`, that gave `merchant`.
    #[must_use]
    pub fn revoked(
        id: EventId,
        received_at: i64,
        (at, source): (i64, Source),
        merchant: &Merchant,
    ) -> Self {
        Self {
            source: source.as_str().to_owned(),
            auth_time: at,
            ..Self::of(MERCHANT_REVOKED, id, received_at, merchant)
        }
    }

    /// The event for a refusal that gave `merchant`: it is revoked, or suspect.
    #[must_use]
    pub fn doubted(id: EventId, received_at: i64, merchant: &Merchant) -> Self {
        let (event_type, at) = match merchant.status {
            MerchantStatus::Revoked { at } => (MERCHANT_REVOKED, at),
            MerchantStatus::Authorized | MerchantStatus::Suspect { .. } => {
                (MERCHANT_SUSPECT, merchant.auth_time)
            }
        };
        Self {
            trigger: merchant.doubt.map(|doubt| doubt.as_str().to_owned()),
            auth_time: at,
            ..Self::of(event_type, id, received_at, merchant)
        }
    }

    fn of(event_type: &str, id: EventId, received_at: i64, merchant: &Merchant) -> Self {
        Self {
            id: id.to_string(),
            event_type: event_type.to_owned(),
            received_at,
            app_id: merchant.app_id.to_string(),
            auth_app_id: merchant.auth_app_id.to_string(),
            pid: merchant.pid.as_ref().map(ToString::to_string),
            alias: merchant.alias.as_ref().map(ToString::to_string),
            reference: merchant.reference.clone(),
            bound: true,
            source: merchant.source.as_str().to_owned(),
            trigger: None,
            is_plugin: false,
            agent_app_id: None,
            auth_time: merchant.auth_time,
            error: None,
        }
    }
}
