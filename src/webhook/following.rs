//! How far the inbox goes beyond now: its order is that of ids, which have their time in them.

use crate::model::id::EventId;
use crate::store::Store;
use crate::store::error::StoreError;

/// What no id's time reaches: it has 48 bits.
const LAST_MS: i64 = 1 << 48;

/// The millisecond of the newest entry, where that is beyond `now`.
pub(super) async fn newest_beyond(store: &dyn Store, now: i64) -> Result<Option<i64>, StoreError> {
    let has_later = async |ms: i64| {
        let after = Some(EventId::earliest(ms));
        let found = store.entries(None, after, 1).await;
        found.map(|entries| !entries.is_empty())
    };
    let mut known = now.saturating_add(1);
    if !has_later(known).await? {
        return Ok(None);
    }
    let mut beyond = LAST_MS;
    while beyond - known > 1 {
        let middle = known + (beyond - known) / 2;
        match has_later(middle).await? {
            true => known = middle,
            false => beyond = middle,
        }
    }
    Ok(Some(known))
}
