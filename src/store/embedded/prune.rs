//! Forgets what is old, a bounded batch at a time.

use std::ops::RangeTo;

use redb::{ReadableTable, Table};

use super::apply::Applier;
use super::fault::Fault;
use crate::model::id::EventId;
use crate::store::Pruned;

/// How many rows one write transaction may forget: few enough that no commit waits long for it.
const BATCH: usize = 500;

/// How long a `notify_id` is remembered at the least, milliseconds. Contract §4 says three days; but
/// what was refused can be verified again for longer, and must not be delivered twice if it was
/// accepted before. Of one notification that is a resend, which Alipay makes for 25 hours: at its very
/// last moment in quarantine, the `notify_id` is a day older than it.
const REMEMBER_NOTIFY_IDS_MS: i64 = RETAIN_REFUSED_MS + 2 * DAY_MS;

/// How long a refused notification is kept, milliseconds: contract §4.
const RETAIN_REFUSED_MS: i64 = 7 * DAY_MS;

/// How long a dead delivery can be replayed, milliseconds.
const RETAIN_DEAD_MS: i64 = 30 * DAY_MS;

/// How long the bytes of a damaged record are kept, milliseconds, and how long it is counted: who
/// looks into it has looked by then, and what is counted for ever says nothing any more.
const RETAIN_DAMAGED_MS: i64 = 30 * DAY_MS;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Whether a batch was the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Batch {
    /// Nothing old is left.
    Last,
    /// The batch was full: there may be more.
    Full,
}

impl Applier<'_> {
    /// Forgets one batch.
    pub(super) fn prune(
        &mut self,
        now: i64,
        retain_delivered_ms: i64,
    ) -> Result<(Pruned, Batch), Fault> {
        let mut room = BATCH;
        let retain = retain_delivered_ms.max(0);
        let settled = take(self.tables.settled.table()?, before(now, retain), &mut room)?;
        let given_up = take(
            self.tables.given_up.table()?,
            before(now, RETAIN_DEAD_MS),
            &mut room,
        )?;
        let remembered = before(now, retain.max(REMEMBER_NOTIFY_IDS_MS));
        let notify_ids = take(self.tables.dedupe_at.table()?, remembered, &mut room)?;
        let memos = take(self.tables.memo_expiry.table()?, before(now, 0), &mut room)?;
        let refused = self.old_refused(before(now, RETAIN_REFUSED_MS).end, room)?;
        room -= refused.len();
        let calls = self.prune_calls(now, &mut room)?;
        let users = self.prune_users(now, &mut room)?;
        self.prune_damaged(before(now, RETAIN_DAMAGED_MS).end, &mut room)?;
        let pruned = Pruned {
            calls,
            entries: count(&settled) + count(&given_up),
            memos: count(&memos),
            notify_ids: count(&notify_ids),
            refused: count(&refused),
            users,
        };
        if pruned != Pruned::default() {
            self.touch();
        }
        for (at, id) in settled {
            self.tables.settled.remove((at, &id))?;
            self.tables.delivered.remove(&id)?;
            self.tables.ignored.remove(&id)?;
            self.forget_entry(&id)?;
        }
        for (at, id) in given_up {
            self.tables.given_up.remove((at, &id))?;
            self.tables.dead.remove(&id)?;
            self.forget_entry(&id)?;
        }
        for (at, digest) in notify_ids {
            self.tables.dedupe_at.remove((at, &digest))?;
            self.tables.dedupe.remove(&digest)?;
        }
        for (at, key) in memos {
            self.tables.memo_expiry.remove((at, &key))?;
            self.tables.memos.remove(&key)?;
        }
        for id in refused {
            self.forget_refused(id)?;
        }
        let batch = if room == 0 { Batch::Full } else { Batch::Last };
        Ok((pruned, batch))
    }

    /// Forgets the bytes of damaged records that were moved aside before `until`, but for merchants'
    /// that still count. No index has their time: they are looked at in the last batch alone.
    fn prune_damaged(&mut self, until: i64, room: &mut usize) -> Result<(), Fault> {
        let mut old = Vec::new();
        if *room == 0 {
            return Ok(());
        }
        for row in self.tables.damaged.iter()? {
            let (key, value) = row?;
            if value.value().0 < until && !self.is_needed_aside(key.value())? {
                old.push(key.value().to_vec());
            }
            if old.len() >= *room {
                break;
            }
        }
        if !old.is_empty() {
            self.touch();
        }
        for key in &old {
            self.tables.damaged.remove(key.as_slice())?;
        }
        *room -= old.len();
        Ok(())
    }

    /// Forgets an entry without reading it, so that a damaged one goes, too.
    fn forget_entry(&mut self, key: &[u8; 16]) -> Result<(), Fault> {
        if self.tables.pending.get(key)?.is_some() {
            // The time index contradicts itself; what is owed stays.
            tracing::error!(event_id = %EventId::from_bytes(*key), "a pending delivery stood among the settled ones");
            return Ok(());
        }
        self.forget_variants(key)?;
        self.tables.deliveries.remove(key)?;
        self.tables.notifications.remove(key)?;
        Ok(())
    }
}

/// The rows of a time index older than `retain` milliseconds at `now`.
fn before(now: i64, retain: i64) -> RangeTo<i64> {
    ..now.saturating_sub(retain)
}

/// The first rows of a time index within `range`, as many as there is room for.
fn take<const N: usize>(
    table: &Table<'_, (i64, &'static [u8; N]), ()>,
    range: RangeTo<i64>,
    room: &mut usize,
) -> Result<Vec<(i64, [u8; N])>, Fault> {
    let mut taken = Vec::new();
    for row in table.range(..(range.end, &[0; N]))?.take(*room) {
        let (key, _) = row?;
        let (at, id) = key.value();
        taken.push((at, *id));
    }
    *room -= taken.len();
    Ok(taken)
}

fn count<T>(rows: &[T]) -> u64 {
    u64::try_from(rows.len()).unwrap_or(u64::MAX)
}
