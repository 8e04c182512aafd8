//! Removal of what is old, when an operator asks for it: what the sidecar does by itself every ten
//! minutes.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::admin::error::AdminError;
use crate::admin::json::{Form, Members, Object, invalid, member};
use crate::config::value;
use crate::store::{Pruned, Store};

/// How much was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct PruneReport {
    /// Deliveries that ended, with their notifications.
    pub deliveries: u64,
    /// Refused notifications.
    pub refused: u64,
    /// `notify_id`s that were remembered so that a resend isn't delivered again.
    pub notify_ids: u64,
    /// Records of calls.
    pub calls: u64,
    /// Users' tokens, each name of a user counted.
    pub users: u64,
    /// Codes and what else is remembered for a while.
    pub memos: u64,
}

impl From<Pruned> for PruneReport {
    fn from(pruned: Pruned) -> Self {
        Self {
            deliveries: pruned.entries,
            refused: pruned.refused,
            notify_ids: pruned.notify_ids,
            calls: pruned.calls,
            users: pruned.users,
            memos: pruned.memos,
        }
    }
}

/// Removes what is old at `now` (Unix milliseconds); of the deliveries that the backend took, or
/// that were ignored, those settled more than `retain_delivered` ago. What is pending stays, and a
/// `notify_id` is remembered for nine days at the least, however short that is.
///
/// # Errors
/// The store's; what was removed until then stays removed, and doing it again goes on.
pub async fn prune(
    store: &dyn Store,
    now: i64,
    retain_delivered: Duration,
) -> Result<PruneReport, AdminError> {
    let retain = i64::try_from(retain_delivered.as_millis()).unwrap_or(i64::MAX);
    Ok(store.prune(now, retain).await?.into())
}

/// What is old.
pub(super) static BODY: Object = Object {
    about: "What is old",
    required: &[],
    members: &[member(
        "older_than",
        Form::Duration,
        "How long ago it was settled, such as `3d`; default: `delivery.retain_delivered`",
    )],
};

/// What [`read`] reads.
#[must_use]
pub fn to_json(older_than: Option<Duration>) -> Vec<u8> {
    let older_than = older_than.map(|age| format!("{}ms", age.as_millis()));
    json!({ "older_than": older_than }).to_string().into_bytes()
}

/// The JSON of a request, `{"older_than":"3d"}`; nothing, or no member: as it is configured.
///
/// # Errors
/// [`AdminError::BodyInvalid`], which names the member.
pub fn read(body: &[u8]) -> Result<Option<Duration>, AdminError> {
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    let mut members = Members::parse(body, &BODY)?;
    let older_than = members.text("older_than")?;
    members.finish()?;
    let parsed = older_than.map(|text| {
        value::duration(&text).map_err(|mismatch| {
            let expected = mismatch.expected;
            invalid(&format!("`older_than` is {text:?}, expected {expected}"))
        })
    });
    parsed.transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for age in [
            None,
            Some(Duration::from_millis(1)),
            Some(Duration::from_hours(72)),
        ] {
            assert_eq!(read(&to_json(age)).expect("read"), age);
        }
        assert_eq!(read(b" \n").expect("read"), None);
        for wrong in ["[]", r#"{"older_than":3}"#, r#"{"older":"3d"}"#] {
            assert!(matches!(
                read(wrong.as_bytes()),
                Err(AdminError::BodyInvalid(_))
            ));
        }
        let error = read(br#"{"older_than":"soon"}"#).expect_err("no duration");
        assert!(error.to_string().contains("soon"), "{error}");
    }
}
