//! Writes to the inbox: entries, their deliveries, and the order in which those are due.
//!
//! Invariant: `due` holds exactly the pending deliveries that have no order key, and of those with
//! one the first (by id, that is by receipt) of each key. Those that no route fitted line up apart
//! from the others of their key: what nobody may ever take holds up no payment.

use super::apply::Applier;
use super::fault::Fault;
use super::inbox_records::{DeliveryRecord, seal_entry};
use super::lookup::{self, FARTHEST_MS, delivery_place, entry_place};
use super::records;
use crate::model::delivery::{Attempt, DeliveryState, Lease, REMEMBERED_ATTEMPTS, Settlement, Via};
use crate::model::id::EventId;
use crate::model::notification::InboxEntry;
use crate::store::Effect;

impl Applier<'_> {
    pub(super) fn receive(&mut self, entry: &InboxEntry) -> Result<Effect, Fault> {
        // Only the same entry twice in one commit is found here: the commit looked for it before.
        match self.known_entry(entry)? {
            Some(known) => Ok(known),
            None => self.take_in(entry),
        }
    }

    /// Stores an entry that isn't known.
    pub(super) fn take_in(&mut self, entry: &InboxEntry) -> Result<Effect, Fault> {
        self.put_entry(entry, DeliveryState::Pending)?;
        Ok(Effect::Applied)
    }

    /// Stores an entry and its delivery, and remembers its `notify_id`.
    pub(super) fn put_entry(
        &mut self,
        entry: &InboxEntry,
        state: DeliveryState,
    ) -> Result<(), Fault> {
        let key = entry.id.to_bytes();
        // What was refused until now is owed and known only from now on, however long ago it came.
        let was_refused = self.tables.refused_index.get(&key)?.is_some();
        let owed_since = if was_refused {
            entry.received_at.max(self.now)
        } else {
            entry.received_at
        };
        self.put_owed(entry, state, owed_since)
    }

    /// The same, owed since that time.
    pub(super) fn put_owed(
        &mut self,
        entry: &InboxEntry,
        state: DeliveryState,
        owed_since: i64,
    ) -> Result<(), Fault> {
        let key = entry.id.to_bytes();
        let sealed = seal_entry(self.sealer, entry_place(&key), entry)?;
        self.touch();
        self.tables.notifications.insert(&key, sealed.as_slice())?;
        if let Some(notify_id) = &entry.notify_id {
            let digest = self.sealer.notify_digest(&entry.app_id, notify_id);
            self.tables.dedupe.insert(&digest, &key)?;
            self.tables.dedupe_at.insert((owed_since, &digest), ())?;
        }
        let order = lookup::order_of(self.sealer, entry);
        let record = DeliveryRecord::new(state, (entry.received_at, owed_since), order);
        self.put_delivery(entry.id, None, &record)
    }

    pub(super) fn settle(
        &mut self,
        id: EventId,
        attempt: &Attempt,
        (settlement, owed_since): (Settlement, Option<i64>),
    ) -> Result<Effect, Fault> {
        let Some(stored) = self.delivery(id)? else {
            return Ok(Effect::Missing);
        };
        let is_of_old = settlement != Settlement::Delivered
            && owed_since.is_some_and(|since| since != stored.owed_since);
        let (settled, effect) = match is_of_old {
            true => (remembering(&stored, attempt), Effect::Stale),
            false => (settled(&stored, attempt, settlement), Effect::Applied),
        };
        if stored.history.last() == Some(attempt) {
            // The same commit again.
            return Ok(effect);
        }
        if !may_settle(&stored, attempt, settlement) {
            return Ok(Effect::Stale);
        }
        self.put_delivery(id, Some(&stored), &settled)?;
        Ok(effect)
    }

    pub(super) fn put_off(&mut self, id: EventId, until: i64, wait: Wait) -> Result<Effect, Fault> {
        let Some(stored) = self.delivery(id)? else {
            return Ok(Effect::Missing);
        };
        if stored.state != DeliveryState::Pending {
            return Ok(Effect::Stale);
        }
        let put_off = DeliveryRecord {
            next_attempt_at: until,
            parked: wait == Wait::ForARoute,
            apart: wait == Wait::ForARoute,
            ..stored.clone()
        };
        self.put_delivery(id, Some(&stored), &put_off)?;
        Ok(Effect::Applied)
    }

    pub(super) fn claim(&mut self, id: EventId, lease: Lease) -> Result<Effect, Fault> {
        let Some(stored) = self.delivery(id)? else {
            return Ok(Effect::Missing);
        };
        if stored.state == DeliveryState::Pending && stored.lease == Some(lease) {
            // The same commit again.
            return Ok(Effect::Applied);
        }
        if !self.may_be_claimed(id, &stored, lease.since)? {
            return Ok(Effect::Stale);
        }
        let mut claimed = stored.clone();
        record_lapse(&mut claimed);
        claimed.attempts = claimed.attempts.saturating_add(1);
        claimed.next_attempt_at = lease.until;
        claimed.lease = Some(lease);
        claimed.parked = false;
        self.put_delivery(id, Some(&stored), &claimed)?;
        Ok(Effect::Applied)
    }

    /// Whether nobody has it, its time has come or is only a route's, and no earlier one of its
    /// order key is pending, in either line: whoever pulls needs no route.
    fn may_be_claimed(
        &self,
        id: EventId,
        stored: &DeliveryRecord,
        now: i64,
    ) -> Result<bool, Fault> {
        let at = stored.next_attempt_at;
        let is_due = at <= now || at >= now.saturating_add(FARTHEST_MS) || stored.parked;
        if stored.state != DeliveryState::Pending || !is_due {
            return Ok(false);
        }
        let key = id.to_bytes();
        if self.tables.due.get((at, &key))?.is_none() {
            return Ok(false);
        }
        let (ordered, pending) = (self.tables.ordered.table()?, self.tables.pending.table()?);
        Ok(!lookup::stands_behind(
            ordered,
            pending,
            stored.order,
            &key,
        )?)
    }

    pub(super) fn extend(&mut self, id: EventId, now: i64, until: i64) -> Result<Effect, Fault> {
        let Some(stored) = self.delivery(id)? else {
            return Ok(Effect::Missing);
        };
        let lease = stored.lease.filter(|lease| lease.until > now);
        let (DeliveryState::Pending, Some(lease)) = (stored.state, lease) else {
            return Ok(Effect::Stale);
        };
        let extended = DeliveryRecord {
            next_attempt_at: until,
            lease: Some(Lease { until, ..lease }),
            ..stored.clone()
        };
        self.put_delivery(id, Some(&stored), &extended)?;
        Ok(Effect::Applied)
    }

    pub(super) fn replay(&mut self, id: EventId, now: i64) -> Result<Effect, Fault> {
        let Some(stored) = self.delivery(id)? else {
            return Ok(Effect::Missing);
        };
        let is_leased = stored.lease.is_some_and(|lease| lease.until > now);
        if stored.state == DeliveryState::Pending && is_leased {
            // It is owed, and somebody has it: two at once would do the work twice.
            return Ok(Effect::Stale);
        }
        let replayed = DeliveryRecord {
            state: DeliveryState::Pending,
            attempts: 0,
            owed_since: now,
            next_attempt_at: now,
            lease: None,
            parked: false,
            apart: false,
            ..stored.clone()
        };
        self.put_delivery(id, Some(&stored), &replayed)?;
        Ok(Effect::Applied)
    }

    fn delivery(&self, id: EventId) -> Result<Option<DeliveryRecord>, Fault> {
        lookup::delivery(self.tables.deliveries.table()?, self.sealer, id)
    }

    /// Writes the record of a delivery and moves it to where it belongs now.
    pub(super) fn put_delivery(
        &mut self,
        id: EventId,
        stored: Option<&DeliveryRecord>,
        record: &DeliveryRecord,
    ) -> Result<(), Fault> {
        let key = id.to_bytes();
        let sealed = records::seal(self.sealer, delivery_place(&key), record)?;
        self.touch();
        if let Some(stored) = stored {
            self.detach(&key, stored)?;
        }
        self.tables.deliveries.insert(&key, sealed.as_slice())?;
        self.attach(&key, record)
    }

    fn attach(&mut self, key: &[u8; 16], record: &DeliveryRecord) -> Result<(), Fault> {
        let tables = &mut self.tables;
        let row = (record.settled_at, key);
        match record.state {
            DeliveryState::Dead => {
                tables.dead.insert(key, ())?;
                tables.given_up.insert(row, ())?;
            }
            DeliveryState::Delivered => {
                tables.delivered.insert(key, ())?;
                tables.settled.insert(row, ())?;
            }
            DeliveryState::Ignored => {
                tables.ignored.insert(key, ())?;
                tables.settled.insert(row, ())?;
            }
            DeliveryState::Pending => {
                tables.pending.insert(key, record.received_at)?;
                if record.parked {
                    tables.parked.insert(key, ())?;
                }
                if let Some(lease) = record.lease {
                    tables.leased.insert((lease.until, key), ())?;
                }
                self.queue(key, record)?;
            }
        }
        Ok(())
    }

    /// Takes a delivery out of every index; its records stay.
    pub(super) fn detach(&mut self, key: &[u8; 16], record: &DeliveryRecord) -> Result<(), Fault> {
        let tables = &mut self.tables;
        let row = (record.settled_at, key);
        match record.state {
            DeliveryState::Dead => {
                tables.dead.remove(key)?;
                tables.given_up.remove(row)?;
            }
            DeliveryState::Delivered => {
                tables.delivered.remove(key)?;
                tables.settled.remove(row)?;
            }
            DeliveryState::Ignored => {
                tables.ignored.remove(key)?;
                tables.settled.remove(row)?;
            }
            DeliveryState::Pending => {
                tables.pending.remove(key)?;
                tables.parked.remove(key)?;
                if let Some(lease) = record.lease {
                    tables.leased.remove((lease.until, key))?;
                }
                self.unqueue(key, record)?;
            }
        }
        Ok(())
    }

    /// Makes a delivery due, unless an earlier one with its order key is pending; a later one
    /// that was first until now has to wait.
    fn queue(&mut self, key: &[u8; 16], record: &DeliveryRecord) -> Result<(), Fault> {
        let at = record.next_attempt_at;
        if let Some(order) = &record.line() {
            let first = self.first_of(order)?;
            self.tables.ordered.insert((order, key), at)?;
            match first {
                Some((first, _)) if first < *key => return Ok(()),
                Some((first, first_at)) => {
                    self.tables.due.remove((first_at, &first))?;
                }
                None => {}
            }
        }
        self.tables.due.insert((at, key), ())?;
        Ok(())
    }

    /// Takes a delivery from the queue and lets the next of its order key come first.
    pub(super) fn unqueue(&mut self, key: &[u8; 16], record: &DeliveryRecord) -> Result<(), Fault> {
        self.tables.due.remove((record.next_attempt_at, key))?;
        let Some(order) = &record.line() else {
            return Ok(());
        };
        self.tables.ordered.remove((order, key))?;
        if let Some((next, at)) = self.first_of(order)? {
            self.tables.due.insert((at, &next), ())?;
        }
        Ok(())
    }

    fn first_of(&self, order: &[u8; 16]) -> Result<Option<([u8; 16], i64)>, Fault> {
        lookup::first_in_line(self.tables.ordered.table()?, order)
    }
}

/// What a delivery that is put off waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// That a route fits it; whoever pulls needs none.
    ForARoute,
    /// That its backend has room.
    ForItsTurn,
}

/// Whether what an attempt says still counts.
fn may_settle(stored: &DeliveryRecord, attempt: &Attempt, settlement: Settlement) -> bool {
    let is_done = settlement == Settlement::Delivered;
    match (stored.state, attempt.via) {
        (DeliveryState::Pending, Via::Push) => true,
        (DeliveryState::Pending, Via::Pull) => {
            is_done || stored.lease.is_some_and(|lease| lease.since == attempt.at)
        }
        (DeliveryState::Dead, Via::Pull) => is_done,
        _ => false,
    }
}

/// The record after a failure from before it became owed anew: what was asked for since stands.
fn remembering(stored: &DeliveryRecord, attempt: &Attempt) -> DeliveryRecord {
    let mut record = stored.clone();
    remember(&mut record, attempt.clone());
    record
}

/// The record after an attempt.
fn settled(stored: &DeliveryRecord, attempt: &Attempt, settlement: Settlement) -> DeliveryRecord {
    let mut record = stored.clone();
    match attempt.via {
        // Counted when it was claimed.
        Via::Pull => record.lease = None,
        Via::Push => {
            record_lapse(&mut record);
            record.attempts = record.attempts.saturating_add(1);
        }
    }
    // Whether a route fits it the next look tells.
    record.parked = false;
    record.apart = false;
    remember(&mut record, attempt.clone());
    let duration = i64::try_from(attempt.duration_ms).unwrap_or(i64::MAX);
    record.settled_at = attempt.at.saturating_add(duration);
    match settlement {
        Settlement::Delivered => record.state = DeliveryState::Delivered,
        Settlement::GivenUp => record.state = DeliveryState::Dead,
        Settlement::RetryAt(at) => record.next_attempt_at = at,
    }
    record
}

/// Writes a lease that nobody ended into the history.
fn record_lapse(record: &mut DeliveryRecord) {
    if let Some(lease) = record.lease.take() {
        remember(record, lease.lapsed());
    }
}

fn remember(record: &mut DeliveryRecord, attempt: Attempt) {
    record.history.push(attempt);
    let forgotten = record.history.len().saturating_sub(REMEMBERED_ATTEMPTS);
    record.history.drain(..forgotten);
}
