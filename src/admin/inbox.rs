//! The inbox: notifications and their deliveries, every secret in them masked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::admin::error::AdminError;
use crate::admin::page::Page;
use crate::model::delivery::{Attempt, Delivery, DeliveryState};
use crate::model::event::AuthorizationEvent;
use crate::model::id::EventId;
use crate::model::notification::{Body, InboxEntry};
use crate::protocol::charset::Charset;
use crate::protocol::params::Params;
use crate::store::{Change, Effect, Store};

/// One entry of a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// `pending`, `delivered`, `dead` or `ignored`.
    pub state: DeliveryState,
    /// How many attempts were made.
    pub attempts: u32,
    /// When it arrived, Unix milliseconds.
    pub received_at: i64,
}

/// One entry with all that may be shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    /// The declared type of what Alipay sent.
    pub content_type: Option<String>,
    /// The parameters, secrets masked; empty where the body isn't a UTF-8 form.
    pub params: BTreeMap<String, Value>,
    /// The event, where it is one of our own.
    pub event: Option<AuthorizationEvent>,
    /// When the next attempt is due, Unix milliseconds; only while pending.
    pub next_attempt_at: Option<i64>,
    /// When the lease of whoever pulled it ends or ended, Unix milliseconds; only while pending.
    #[serde(default)]
    pub lease_until: Option<i64>,
    /// The last attempts, oldest first.
    pub history: Vec<Attempt>,
}

impl ItemView {
    fn new(entry: &InboxEntry, delivery: &Delivery) -> Self {
        Self {
            id: entry.id.to_string(),
            notify_id: entry.notify_id.clone(),
            app_id: entry.app_id.to_string(),
            event_type: entry.event_type.clone(),
            state: delivery.state,
            attempts: delivery.attempts,
            received_at: entry.received_at,
        }
    }
}

/// A page of entries after the id `after`, in the state `state` or in all.
///
/// Refused notifications aren't kept in this version: of the state `refused` there are none.
///
/// # Errors
/// [`AdminError::ParameterInvalid`] for another state or `after`, or the store's.
pub async fn list(
    store: &dyn Store,
    state: Option<&str>,
    after: Option<&str>,
    limit: usize,
) -> Result<Page<ItemView>, AdminError> {
    if state == Some("refused") {
        return Ok(Page::cut(Vec::new(), limit, |item: &ItemView| {
            item.id.clone()
        }));
    }
    let state = state.map(parse_state).transpose()?;
    let after = after.map(parse_id).transpose()?;
    let entries = store.entries(state, after, limit.saturating_add(1)).await?;
    let views = entries
        .iter()
        .map(|(entry, delivery)| ItemView::new(entry, delivery))
        .collect();
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

/// One entry.
///
/// # Errors
/// [`AdminError::EventUnknown`], or the store's.
pub async fn show(store: &dyn Store, id: &str) -> Result<EntryView, AdminError> {
    let found = store.entry(parse_id(id)?).await?;
    let (entry, delivery) = found.ok_or_else(|| AdminError::EventUnknown { id: id.to_owned() })?;
    let is_pending = delivery.state == DeliveryState::Pending;
    Ok(EntryView {
        item: ItemView::new(&entry, &delivery),
        auth_app_id: entry.auth_app_id.as_ref().map(ToString::to_string),
        user_id: entry.pid.as_ref().map(ToString::to_string),
        notify_path: entry.notify_path.clone(),
        content_type: entry.body.as_ref().map(|body| body.content_type.clone()),
        params: entry.body.as_ref().map(params).unwrap_or_default(),
        event: entry.event,
        next_attempt_at: is_pending.then_some(delivery.next_attempt_at),
        lease_until: delivery.lease.filter(|_| is_pending).map(|l| l.until),
        history: delivery.history,
    })
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
        Some(Effect::Missing) => Err(AdminError::EventUnknown { id: id.to_owned() }),
        _ => Ok(()),
    }
}

fn params(body: &Body) -> BTreeMap<String, Value> {
    let Ok(params) = Params::from_form(&body.bytes, Charset::Utf8) else {
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
        return Value::String("(not shown)".to_owned());
    }
    match value {
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
        let shown = serde_json::to_string(&params(&body)).expect("JSON");
        assert_eq!(
            shown,
            r#"{"biz_content":{"detail":[{"app_auth_token":"(not shown)","auth_app_id":"2"}]},"notify_id":"1"}"#
        );
    }
}
