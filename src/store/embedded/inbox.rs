//! Writes to the inbox: entries, their deliveries, and the order in which those are due.
//!
//! Invariant: `due` holds exactly the pending deliveries that have no order key, and of those with
//! one the first (by id, that is by receipt) of each key.

use redb::ReadableTable;

use super::apply::Applier;
use super::fault::Fault;
use super::inbox_records::{DeliveryRecord, seal_entry};
use super::lookup::{self, delivery_place, entry_place};
use super::records;
use crate::model::delivery::{Attempt, DeliveryState, REMEMBERED_ATTEMPTS, Settlement};
use crate::model::id::EventId;
use crate::model::notification::InboxEntry;
use crate::store::Effect;

impl Applier<'_> {
    pub(super) fn receive(&mut self, entry: &InboxEntry) -> Result<Effect, Fault> {
        // Only the same entry twice in one commit is found here: the commit looked for it before.
        if let Some(known) = self.known_entry(entry)? {
            return Ok(known);
        }
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
        let sealed = seal_entry(self.sealer, entry_place(&key), entry)?;
        self.touch();
        self.tables.notifications.insert(&key, sealed.as_slice())?;
        if let Some(notify_id) = &entry.notify_id {
            let digest = self.sealer.notify_digest(&entry.app_id, notify_id);
            self.tables.dedupe.insert(&digest, &key)?;
            self.tables
                .dedupe_at
                .insert((entry.received_at, &digest), ())?;
        }
        let order = self.order_of(entry);
        let record = DeliveryRecord::new(state, entry.received_at, order);
        self.put_delivery(entry.id, None, &record)
    }

    /// An `out_trade_no` is unique within one merchant only: another merchant's order of the same
    /// number must not have to wait.
    pub(super) fn order_of(&self, entry: &InboxEntry) -> Option<[u8; 16]> {
        let merchant = entry.auth_app_id.as_ref().map_or("", |id| id.as_str());
        let scope = [entry.app_id.as_str(), merchant];
        let key = entry.order_key.as_deref()?;
        Some(self.sealer.order_digest(scope, key))
    }

    pub(super) fn settle(
        &mut self,
        id: EventId,
        attempt: &Attempt,
        settlement: Settlement,
    ) -> Result<Effect, Fault> {
        let Some(stored) = self.delivery(id)? else {
            return Ok(Effect::Missing);
        };
        if stored.history.last() == Some(attempt) {
            // The same commit again.
            return Ok(Effect::Applied);
        }
        if stored.state != DeliveryState::Pending {
            return Ok(Effect::Stale);
        }
        let settled = settled(&stored, attempt, settlement);
        self.put_delivery(id, Some(&stored), &settled)?;
        Ok(Effect::Applied)
    }

    pub(super) fn postpone(&mut self, id: EventId, until: i64) -> Result<Effect, Fault> {
        let Some(stored) = self.delivery(id)? else {
            return Ok(Effect::Missing);
        };
        if stored.state != DeliveryState::Pending {
            return Ok(Effect::Stale);
        }
        let postponed = DeliveryRecord {
            next_attempt_at: until,
            ..stored.clone()
        };
        self.put_delivery(id, Some(&stored), &postponed)?;
        Ok(Effect::Applied)
    }

    pub(super) fn replay(&mut self, id: EventId, now: i64) -> Result<Effect, Fault> {
        let Some(stored) = self.delivery(id)? else {
            return Ok(Effect::Missing);
        };
        let replayed = DeliveryRecord {
            state: DeliveryState::Pending,
            attempts: 0,
            owed_since: now,
            next_attempt_at: now,
            ..stored.clone()
        };
        self.put_delivery(id, Some(&stored), &replayed)?;
        Ok(Effect::Applied)
    }

    fn delivery(&self, id: EventId) -> Result<Option<DeliveryRecord>, Fault> {
        lookup::delivery(&self.tables.deliveries, self.sealer, id)
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
                self.unqueue(key, record)?;
            }
        }
        Ok(())
    }

    /// Makes a delivery due, unless an earlier one with its order key is pending; a later one
    /// that was first until now has to wait.
    fn queue(&mut self, key: &[u8; 16], record: &DeliveryRecord) -> Result<(), Fault> {
        let at = record.next_attempt_at;
        if let Some(order) = &record.order {
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
        let Some(order) = &record.order else {
            return Ok(());
        };
        self.tables.ordered.remove((order, key))?;
        if let Some((next, at)) = self.first_of(order)? {
            self.tables.due.insert((at, &next), ())?;
        }
        Ok(())
    }

    fn first_of(&self, order: &[u8; 16]) -> Result<Option<([u8; 16], i64)>, Fault> {
        let whole = (order, &[0; 16])..=(order, &[0xff; 16]);
        let Some(row) = self.tables.ordered.range(whole)?.next() else {
            return Ok(None);
        };
        let (key, at) = row?;
        Ok(Some((*key.value().1, at.value())))
    }
}

/// The record after an attempt.
fn settled(stored: &DeliveryRecord, attempt: &Attempt, settlement: Settlement) -> DeliveryRecord {
    let mut record = stored.clone();
    record.attempts = record.attempts.saturating_add(1);
    record.history.push(attempt.clone());
    let forgotten = record.history.len().saturating_sub(REMEMBERED_ATTEMPTS);
    record.history.drain(..forgotten);
    let duration = i64::try_from(attempt.duration_ms).unwrap_or(i64::MAX);
    record.settled_at = attempt.at.saturating_add(duration);
    match settlement {
        Settlement::Delivered => record.state = DeliveryState::Delivered,
        Settlement::GivenUp => record.state = DeliveryState::Dead,
        Settlement::RetryAt(at) => record.next_attempt_at = at,
    }
    record
}
