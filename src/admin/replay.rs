//! Replay of everything that a filter fits: after a backend was mended, say.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::admin::error::AdminError;
use crate::admin::inbox::{parse_id, parse_state};
use crate::admin::json::{Form, Members, Object, member, missing};
use crate::delivery::glob;
use crate::model::delivery::{Delivery, DeliveryState};
use crate::model::id::{AppId, EventId};
use crate::model::notification::InboxEntry;
use crate::store::{Change, Effect, Store};

/// How many entries are read, and made owed again, in one go: few enough that no commit of a
/// notification waits long for it.
const BATCH: usize = 500;
/// How many batches one request goes through, so that none lasts for minutes.
const BATCHES: usize = 10;

/// What a filter is written with.
pub(super) static BODY: Object = Object {
    about: "Which deliveries",
    required: &["state"],
    members: &[
        member(
            "state",
            Form::Word(&["pending", "delivered", "dead", "ignored"]),
            "In this state",
        ),
        member(
            "type",
            Form::Text { longest: 256 },
            "Whose type this pattern fits, `*` standing for anything",
        ),
        member("app_id", Form::Id, "Of this app"),
        member(
            "since",
            Form::Time,
            "Received at this Unix millisecond or later",
        ),
        member(
            "after",
            Form::Event,
            "Behind this entry: `next` of the request before",
        ),
    ],
};

/// Which deliveries are replayed.
#[derive(Debug, Clone)]
pub struct ReplayFilter {
    /// In this state.
    pub state: DeliveryState,
    /// Whose event type this pattern fits.
    pub event_type: Option<String>,
    /// Of this app.
    pub app_id: Option<AppId>,
    /// Received at this Unix millisecond or later.
    pub since: Option<i64>,
    /// Behind this entry, where an earlier request ended.
    pub after: Option<EventId>,
}

/// What one request replayed.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Replayed {
    /// How many deliveries are owed again.
    pub replayed: u64,
    /// Where to go on (`after`), if there may be more.
    pub next: Option<String>,
}

impl ReplayFilter {
    /// Reads the JSON of a request.
    ///
    /// # Errors
    /// [`AdminError::BodyInvalid`], which names the member, [`AdminError::ParameterInvalid`] for a
    /// state that can't be replayed, [`AdminError::EventUnknown`] for an `after` that is no id.
    pub fn parse(body: &[u8]) -> Result<Self, AdminError> {
        let mut members = Members::parse(body, &BODY)?;
        // Without one, all that was ever delivered would go out again.
        let state = members.text("state")?.ok_or_else(|| missing("state"))?;
        let filter = Self {
            state: replayable(&state)?,
            event_type: members.text("type")?,
            app_id: members.parsed("app_id")?,
            since: members.integer("since")?,
            after: members
                .text("after")?
                .as_deref()
                .map(parse_id)
                .transpose()?,
        };
        members.finish()?;
        Ok(filter)
    }

    /// The JSON that [`ReplayFilter::parse`] reads.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let filter = json!({
            "state": self.state.as_str(),
            "type": self.event_type,
            "app_id": self.app_id.as_ref().map(ToString::to_string),
            "since": self.since,
            "after": self.after.map(|id| id.to_string()),
        });
        filter.to_string().into_bytes()
    }

    fn fits(&self, entry: &InboxEntry, delivery: &Delivery) -> bool {
        let pattern = self.event_type.as_deref();
        delivery.state == self.state
            && pattern.is_none_or(|pattern| glob::fits(pattern, &entry.event_type))
            && self.app_id.as_ref().is_none_or(|id| *id == entry.app_id)
            && self.since.is_none_or(|since| entry.received_at >= since)
    }

    /// Where to begin: ids are in order of receipt.
    fn begin(&self) -> Option<EventId> {
        let since = self.since.map(EventId::earliest);
        self.after.max(since)
    }
}

/// Refused notifications were never owed, so they can't be owed again.
fn replayable(state: &str) -> Result<DeliveryState, AdminError> {
    if state == "refused" {
        let text = "a refused notification can't be replayed; `inbox reverify` looks at it again";
        return Err(AdminError::ParameterInvalid(text.to_owned()));
    }
    parse_state(state)
}

/// Makes the deliveries that `filter` fits owed again, at `now` (Unix milliseconds), in bounded
/// batches.
///
/// # Errors
/// The store's; what was replayed until then stays so, and may be replayed once more.
///
/// # Cancel safety
/// Dropping the future ends it after a batch.
pub async fn replay(
    store: &dyn Store,
    now: i64,
    filter: &ReplayFilter,
) -> Result<Replayed, AdminError> {
    let (mut replayed, mut after) = (0, filter.begin());
    for _ in 0..BATCHES {
        let page = store.entries(Some(filter.state), after, BATCH).await?;
        let Some((last, _)) = page.last() else {
            return Ok(Replayed {
                replayed,
                next: None,
            });
        };
        after = Some(last.id);
        let fitting = page
            .iter()
            .filter(|(entry, delivery)| filter.fits(entry, delivery));
        let changes: Vec<Change> = fitting
            .map(|(e, _)| Change::Replay { id: e.id, now })
            .collect();
        if changes.is_empty() {
            continue;
        }
        let effects = store.commit(changes).await?;
        let applied = effects
            .iter()
            .filter(|effect| matches!(effect, Effect::Applied));
        replayed += u64::try_from(applied.count()).unwrap_or(u64::MAX);
    }
    Ok(Replayed {
        replayed,
        next: after.map(|id| id.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_read_as_it_was_written() {
        let text = br#"{"state":"dead","type":"trade_*","app_id":"2021","since":5,"after":null}"#;
        let filter = ReplayFilter::parse(text).expect("good");
        let again = ReplayFilter::parse(&filter.to_json()).expect("good");
        assert_eq!(format!("{again:?}"), format!("{filter:?}"));
        assert_eq!(filter.begin(), Some(EventId::earliest(5)));
    }

    fn check(text: &str, kind: &str, says: &str) {
        let error = ReplayFilter::parse(text.as_bytes()).expect_err("wrong");
        assert_eq!(error.kind(), kind, "{text}");
        assert!(error.to_string().contains(says), "{error}");
    }

    #[test]
    fn what_would_replay_something_else_is_refused() {
        check("", "body-invalid", "expected one object");
        check("{}", "body-invalid", "`state` is missing");
        check(r#"{"state":"dead","typ":"x"}"#, "body-invalid", "`typ`");
        check(
            r#"{"state":"dead","since":"1h"}"#,
            "body-invalid",
            "`since`",
        );
        check(r#"{"state":"dead","since":-1}"#, "body-invalid", "`since`");
        check(r#"{"state":"lost"}"#, "parameter-invalid", "pending");
        check(r#"{"state":"refused"}"#, "parameter-invalid", "reverify");
        check(r#"{"state":"dead","after":"x"}"#, "event-unknown", "x");
    }
}
