//! The inbox: notifications and their deliveries, every secret in them masked.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::admin::error::AdminError;
use crate::admin::json::{Form, Members, Object, member};
use crate::admin::page::Page;
use crate::model::delivery::{Attempt, Delivery, DeliveryState};
use crate::model::event::AuthorizationEvent;
use crate::model::id::EventId;
use crate::model::notification::{Body, InboxEntry};
use crate::model::refused::{RefusedNotification, Variant};
use crate::protocol::notification;
use crate::protocol::params::Params;
use crate::store::{Change, Effect, Store};
use crate::webhook::Webhook;
use crate::webhook::reverify::{Explained, Reverified, ReverifyOutcome};

/// One entry of a list.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub struct ItemView {
    /// The sidecar's own id.
    pub id: String,
    /// Alipay's.
    pub notify_id: Option<String>,
    /// The application it was for.
    pub app_id: String,
    /// `msg_method`, `notify_type`, or the type of an event of our own.
    #[serde(rename = "type")]
    pub event_type: String,
    /// Where it stands.
    pub state: ItemState,
    /// How many attempts were made.
    pub attempts: u32,
    /// When it arrived, Unix milliseconds.
    pub received_at: i64,
}

/// Where an entry stands: as its delivery, or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ItemState {
    /// Given up; can be replayed.
    Dead,
    /// The backend took it.
    Delivered,
    /// Nothing is owed.
    Ignored,
    /// Owed.
    Pending,
    /// Not accepted; nobody vouches for what it claims.
    Refused,
}

impl ItemState {
    /// The word used in JSON and in `?state=`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dead => DeliveryState::Dead.as_str(),
            Self::Delivered => DeliveryState::Delivered.as_str(),
            Self::Ignored => DeliveryState::Ignored.as_str(),
            Self::Pending => DeliveryState::Pending.as_str(),
            Self::Refused => "refused",
        }
    }
}

impl From<DeliveryState> for ItemState {
    fn from(state: DeliveryState) -> Self {
        match state {
            DeliveryState::Dead => Self::Dead,
            DeliveryState::Delivered => Self::Delivered,
            DeliveryState::Ignored => Self::Ignored,
            DeliveryState::Pending => Self::Pending,
        }
    }
}

/// One entry with all that may be shown.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub struct EntryView {
    /// What lists show, too.
    #[serde(flatten)]
    pub item: ItemView,
    /// The merchant's application, where known.
    pub auth_app_id: Option<String>,
    /// The merchant's PID, where known.
    pub user_id: Option<String>,
    /// The rest of the notify path.
    pub notify_path: String,
    /// The query of the notify address; often empty.
    #[serde(default)]
    pub notify_query: String,
    /// The declared type of what Alipay sent.
    pub content_type: Option<String>,
    /// The parameters, secrets masked; empty where the body can't be read.
    pub params: BTreeMap<String, Value>,
    /// The event, where it is one of our own.
    pub event: Option<AuthorizationEvent>,
    /// When the next attempt is due, Unix milliseconds; only while pending. With
    /// `waits_for_route` it is looked at again then, and attempted where a route fits by then.
    pub next_attempt_at: Option<i64>,
    /// Whether it was put off because no `[[delivery.route]]` fitted when it was last looked at; it can be pulled
    /// all the same. (A hundred that have no `out_trade_no` or the like aren't put off: they are due, and passed over.)
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits_for_route: bool,
    /// When the lease of whoever pulled it ends or ended, Unix milliseconds; only while pending.
    #[serde(default)]
    pub lease_until: Option<i64>,
    /// The last attempts, oldest first.
    pub history: Vec<Attempt>,
    /// What else came under the same `notify_id`; it isn't delivered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<VariantView>,
    /// Why it was refused; only of refused ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusal: Option<RefusalView>,
    /// Why its signature holds or doesn't, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explained>,
}

/// A second body under one `notify_id`.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub struct VariantView {
    /// When it arrived, Unix milliseconds.
    pub received_at: i64,
    /// The names of the parameters that differ from the first body's.
    pub differs: Vec<String>,
    /// The rest of the notify path.
    pub notify_path: String,
    /// Its parameters, secrets masked.
    pub params: BTreeMap<String, Value>,
}

/// Why a notification was refused.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub struct RefusalView {
    /// `foreign`, `forged`, `malformed`, `no-notification` or `undecryptable`.
    pub kind: String,
    /// The same in words.
    pub reason: String,
    /// Who sent it last: an address without its port, `unix`, or `unknown`.
    pub peer: String,
    /// How often it came.
    pub times: u32,
    /// When it last came, Unix milliseconds.
    pub last_received_at: i64,
    /// How long its body is.
    pub body_bytes: usize,
}

impl ItemView {
    fn new(entry: &InboxEntry, delivery: &Delivery) -> Self {
        Self {
            id: entry.id.to_string(),
            notify_id: entry.notify_id.clone(),
            app_id: entry.app_id.to_string(),
            event_type: entry.event_type.clone(),
            state: delivery.state.into(),
            attempts: delivery.attempts,
            received_at: entry.received_at,
        }
    }

    /// What a refused one claims.
    fn refused(refused: &RefusedNotification) -> Self {
        Self {
            id: refused.id.to_string(),
            notify_id: refused.notify_id.clone(),
            app_id: refused.app_id.clone().unwrap_or_default(),
            event_type: refused.event_type.clone().unwrap_or_default(),
            state: ItemState::Refused,
            attempts: 0,
            received_at: refused.received_at,
        }
    }
}

impl EntryView {
    fn refused(refused: RefusedNotification) -> Self {
        Self {
            item: ItemView::refused(&refused),
            auth_app_id: None,
            user_id: None,
            params: params(refused.content_type.as_deref(), &refused.body),
            refusal: Some(RefusalView {
                kind: refused.refusal.as_str().to_owned(),
                reason: refused.reason,
                peer: refused.peer,
                times: refused.times,
                last_received_at: refused.last_received_at,
                body_bytes: refused.body.len(),
            }),
            notify_path: refused.notify_path,
            notify_query: refused.notify_query,
            content_type: refused.content_type,
            event: None,
            lease_until: None,
            next_attempt_at: None,
            waits_for_route: false,
            history: Vec::new(),
            variants: Vec::new(),
            explanation: None,
        }
    }
}

/// Which way a list goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Order {
    /// As they were received.
    #[default]
    Oldest,
    /// The newest first.
    Newest,
}

/// A page of entries behind the id `after`, in the state `state` or in all. Refused ones never are
/// in the inbox: they are listed where they are asked for, so that what strangers send doesn't bury
/// the rest.
///
/// # Errors
/// [`AdminError::ParameterInvalid`] for another state or `after`, or the store's.
pub async fn list(
    store: &dyn Store,
    state: Option<&str>,
    (order, after): (Order, Option<&str>),
    limit: usize,
) -> Result<Page<ItemView>, AdminError> {
    let after = after.map(parse_id).transpose()?;
    let most = limit.saturating_add(1);
    let views = if state == Some(ItemState::Refused.as_str()) {
        let refused = match order {
            Order::Oldest => store.refused(after, most).await?,
            Order::Newest => store.refused_before(after, most).await?,
        };
        refused.iter().map(ItemView::refused).collect()
    } else {
        let state = state.map(parse_state).transpose()?;
        let entries = match order {
            Order::Oldest => store.entries(state, after, most).await?,
            Order::Newest => store.entries_before(state, after, most).await?,
        };
        let view = |(entry, delivery): &(InboxEntry, Delivery)| ItemView::new(entry, delivery);
        entries.iter().map(view).collect()
    };
    Ok(Page::cut(views, limit, |item: &ItemView| item.id.clone()))
}

pub(super) fn parse_state(text: &str) -> Result<DeliveryState, AdminError> {
    text.parse().map_err(|()| {
        let expected = "`state` is none of pending, delivered, dead, ignored, refused";
        AdminError::ParameterInvalid(expected.to_owned())
    })
}

pub(super) fn parse_id(text: &str) -> Result<EventId, AdminError> {
    let wrong = |_| AdminError::EventUnknown {
        id: text.chars().take(64).collect(),
    };
    text.parse().map_err(wrong)
}

/// One entry, accepted or refused.
///
/// # Errors
/// [`AdminError::EventUnknown`], or the store's.
pub async fn show(store: &dyn Store, id: &str) -> Result<EntryView, AdminError> {
    let event = parse_id(id)?;
    let Some((entry, delivery)) = store.entry(event).await? else {
        let refused = store.refused_one(event).await?;
        return refused.map(EntryView::refused).ok_or_else(|| unknown(id));
    };
    let variants = store.variants(event).await?;
    let is_pending = delivery.state == DeliveryState::Pending;
    Ok(EntryView {
        item: ItemView::new(&entry, &delivery),
        auth_app_id: entry.auth_app_id.as_ref().map(ToString::to_string),
        user_id: entry.pid.as_ref().map(ToString::to_string),
        notify_path: entry.notify_path.clone(),
        notify_query: entry.notify_query.clone(),
        content_type: entry.body.as_ref().map(|body| body.content_type.clone()),
        params: entry.body.as_ref().map(params_of).unwrap_or_default(),
        event: entry.event,
        next_attempt_at: is_pending.then_some(delivery.next_attempt_at),
        waits_for_route: delivery.parked,
        lease_until: delivery.lease.filter(|_| is_pending).map(|l| l.until),
        history: delivery.history,
        variants: variants.iter().map(variant).collect(),
        refusal: None,
        explanation: None,
    })
}

/// One entry with the explanation of its signature by the keys of now.
///
/// # Errors
/// [`AdminError::EventUnknown`], or the store's.
pub async fn explain(
    store: &dyn Store,
    webhook: &Webhook,
    id: &str,
) -> Result<EntryView, AdminError> {
    let explanation = webhook.explain(parse_id(id)?).await?;
    Ok(EntryView {
        explanation,
        ..show(store, id).await?
    })
}

fn variant(variant: &Variant) -> VariantView {
    VariantView {
        received_at: variant.received_at,
        differs: variant.differs.clone(),
        notify_path: variant.notify_path.clone(),
        params: params_of(&variant.body),
    }
}

/// What became of the refused notifications that were verified again.
#[derive(Debug, Clone, Default, JsonSchema, Serialize, Deserialize)]
pub struct ReverifyReport {
    /// How many are in the inbox now.
    pub accepted: u64,
    /// How many were accepted meanwhile, as Alipay's resend.
    pub duplicate: u64,
    /// How many verify, but can't be taken at present.
    pub postponed: u64,
    /// How many still don't verify.
    pub refused: u64,
    /// Each of them.
    pub items: Vec<Reverified>,
}

impl ReverifyReport {
    fn of(items: Vec<Reverified>) -> Self {
        let mut report = Self::default();
        for item in &items {
            *match item.outcome {
                ReverifyOutcome::Accepted => &mut report.accepted,
                ReverifyOutcome::Duplicate => &mut report.duplicate,
                ReverifyOutcome::Postponed => &mut report.postponed,
                ReverifyOutcome::Refused => &mut report.refused,
            } += 1;
        }
        Self { items, ..report }
    }
}

/// Verifies one refused notification again, or every one.
///
/// # Errors
/// [`AdminError::EventUnknown`] where none of that id is refused, or the store's.
pub async fn reverify(webhook: &Webhook, id: Option<&str>) -> Result<ReverifyReport, AdminError> {
    let items = match id {
        None => webhook.reverify_all().await?,
        Some(id) => {
            let found = webhook.reverify_one(parse_id(id)?).await?;
            vec![found.ok_or_else(|| AdminError::RefusedUnknown { id: id.to_owned() })?]
        }
    };
    Ok(ReverifyReport::of(items))
}

/// Which refused notification.
pub(super) static REVERIFY: Object = Object {
    about: "Which one; none: all of them",
    required: &[],
    members: &[member("id", Form::Event, "Its id")],
};

/// As [`reverify`], the id in a JSON object: `{"id":…}`, or none.
///
/// # Errors
/// As [`reverify`], and [`AdminError::BodyInvalid`].
pub(crate) async fn reverify_body(
    webhook: &Webhook,
    body: &[u8],
) -> Result<ReverifyReport, AdminError> {
    if body.trim_ascii().is_empty() {
        return reverify(webhook, None).await;
    }
    let mut members = Members::parse(body, &REVERIFY)?;
    let id = members.text("id")?;
    members.finish()?;
    reverify(webhook, id.as_deref()).await
}

/// Makes a delivery owed again, whatever its state.
///
/// # Errors
/// [`AdminError::EventUnknown`], or the store's.
pub async fn replay(store: &dyn Store, now: i64, id: &str) -> Result<(), AdminError> {
    let change = Change::Replay {
        id: parse_id(id)?,
        now,
    };
    match store.commit(vec![change]).await?.first() {
        Some(Effect::Missing) => Err(unknown(id)),
        _ => Ok(()),
    }
}

fn unknown(id: &str) -> AdminError {
    AdminError::EventUnknown { id: id.to_owned() }
}

fn params_of(body: &Body) -> BTreeMap<String, Value> {
    params(Some(&body.content_type), &body.bytes)
}

fn params(content_type: Option<&str>, body: &[u8]) -> BTreeMap<String, Value> {
    let charset = notification::charset(content_type, body);
    let Ok(params) = charset.and_then(|charset| Params::from_form(body, charset)) else {
        return BTreeMap::new();
    };
    let shown = |(name, value): (&str, &str)| {
        let value = match serde_json::from_str(value) {
            Ok(json @ (Value::Object(_) | Value::Array(_))) => json,
            _ => Value::String(value.to_owned()),
        };
        (name.to_owned(), masked(name, value))
    };
    params.iter().map(shown).collect()
}

/// `value` with every secret in it replaced, at any depth.
fn masked(name: &str, value: Value) -> Value {
    if SECRETS.contains(&name) {
        return Value::String(NOT_SHOWN.to_owned());
    }
    match value {
        Value::String(text) if SECRETS.iter().any(|secret| text.contains(secret)) => {
            // A text that names one is JSON within JSON, or something nobody can take apart.
            match serde_json::from_str(&text) {
                Ok(json @ (Value::Object(_) | Value::Array(_))) => masked("", json),
                _ => Value::String(NOT_SHOWN.to_owned()),
            }
        }
        Value::Object(members) => members
            .into_iter()
            .map(|(name, value)| {
                let value = masked(&name, value);
                (name, value)
            })
            .collect(),
        Value::Array(items) => items.into_iter().map(|item| masked("", item)).collect(),
        other => other,
    }
}

/// What stands for a secret.
const NOT_SHOWN: &str = "(not shown)";

/// What buys or is a token.
const SECRETS: [&str; 7] = [
    "access_token",
    "app_auth_code",
    "app_auth_token",
    "app_refresh_token",
    "auth_code",
    "auth_token",
    "refresh_token",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_masked_at_any_depth() {
        let body = Body {
            content_type: String::new(),
            bytes: bytes::Bytes::from_static(
                b"notify_id=1&biz_content=%7B%22detail%22%3A%5B%7B%22app_auth_token%22%3A%22t0p%22%2C%22auth_app_id%22%3A%222%22%7D%5D%7D",
            ),
        };
        let shown = serde_json::to_string(&params_of(&body)).expect("JSON");
        assert_eq!(
            shown,
            r#"{"biz_content":{"detail":[{"app_auth_token":"(not shown)","auth_app_id":"2"}]},"notify_id":"1"}"#
        );
    }
}
