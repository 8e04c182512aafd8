//! Damaged records are moved aside: their bytes are kept for whoever looks into the damage, and
//! nothing waits for them any more.
//!
//! Only what doesn't open is damaged. What opens was written by us; if it isn't understood, a newer
//! program did, which will understand it.

use std::collections::HashSet;

use redb::{Database, ReadableTable, ReadableTableMetadata, TableHandle, WriteTransaction};

use super::apply::Applier;
use super::catalogue::{AnyTable, Spot};
use super::fault::Fault;
use super::inbox::Wait;
use super::inbox_records::DeliveryRecord;
use super::lookup::{self, MerchantId, delivery_place, entry_place};
use super::tables::{self, Tables};
use super::traces::Traces;
use crate::model::delivery::DeliveryState;
use crate::model::id::EventId;
use crate::model::notification::InboxEntry;
use crate::store::seal::{Place, Sealer};

/// How many damaged records keep their bytes; of further ones only the names are kept.
const WITH_BYTES: u64 = 1_000;

/// How long a notification is put off that opens but isn't understood, milliseconds.
const STRANGE_MS: i64 = 3_600_000;

/// A damaged entry or delivery, and when it was due, if it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Suspect {
    pub(super) due: Option<i64>,
    pub(super) id: EventId,
}

impl Applier<'_> {
    /// Takes the damaged of `suspects` out of everybody's way.
    ///
    /// A delivery whose notification is whole is owed anew, where its index says that it was owed.
    /// A notification is lost with its bytes; where it was owed, its `notify_id` is forgotten, so
    /// that a resend is taken.
    pub(super) fn set_aside(&mut self, suspects: &[Suspect]) -> Result<(), Fault> {
        let mut lost = HashSet::new();
        let mut traces = Traces::of(suspects);
        for suspect in suspects {
            if self.set_one_aside(*suspect, &mut traces)? {
                lost.insert(suspect.id.to_bytes());
            }
        }
        if !lost.is_empty() {
            self.forget_notify_ids(&lost)?;
        }
        Ok(())
    }

    /// Whether a notification is lost that was owed.
    fn set_one_aside(&mut self, suspect: Suspect, traces: &mut Traces) -> Result<bool, Fault> {
        let id = suspect.id;
        let notifications = self.tables.notifications.table()?;
        let deliveries = self.tables.deliveries.table()?;
        match parts(notifications, deliveries, self.sealer, id)? {
            (Part::Whole(entry), Part::Damaged | Part::Missing) => {
                self.rebuild(suspect, &entry, traces)?;
                Ok(false)
            }
            (Part::Damaged, delivery)
            | (Part::Missing, delivery @ (Part::Damaged | Part::Whole(_))) => {
                let state = match &delivery {
                    Part::Whole(record) => record.state,
                    _ => self.listed_state(&id.to_bytes())?,
                };
                self.remove(suspect, delivery, traces)?;
                // What the backend has must not reach it again.
                Ok(!matches!(
                    state,
                    DeliveryState::Delivered | DeliveryState::Ignored
                ))
            }
            (Part::Missing, Part::Missing) => {
                self.drop_stray(suspect)?;
                Ok(false)
            }
            (Part::Strange, Part::Whole(_)) => {
                tracing::error!(event_id = %id, "a notification isn't understood; is the program older than the store?");
                self.put_off(id, self.now.saturating_add(STRANGE_MS), Wait::ForItsTurn)?;
                Ok(false)
            }
            _ => Ok(false),
        }
    }

    /// Removes a row that leads to nothing from the head of the queue.
    fn drop_stray(&mut self, suspect: Suspect) -> Result<(), Fault> {
        let key = suspect.id.to_bytes();
        if let Some(at) = suspect.due
            && self.tables.due.remove((at, &key))?.is_some()
        {
            self.touch();
            tracing::error!(event_id = %suspect.id, "a row of the queue led to no delivery and was removed");
        }
        Ok(())
    }

    /// Makes the delivery of a whole notification anew.
    fn rebuild(
        &mut self,
        suspect: Suspect,
        entry: &InboxEntry,
        traces: &mut Traces,
    ) -> Result<(), Fault> {
        let key = suspect.id.to_bytes();
        let state = self.listed_state(&key)?;
        let order = lookup::order_of(self.sealer, entry);
        self.keep_delivery(&key)?;
        self.unlist_everywhere(suspect, order, traces)?;
        // What is owed anew is owed from now on. When the others were settled nothing tells: kept
        // too long is better than forgotten too early.
        let owed_since = match state {
            DeliveryState::Pending => self.now.max(entry.received_at),
            _ => entry.received_at,
        };
        let record = DeliveryRecord {
            settled_at: self.now.max(entry.received_at),
            ..DeliveryRecord::new(state, (entry.received_at, owed_since), order)
        };
        self.put_delivery(suspect.id, None, &record)?;
        tracing::error!(
            event_id = %suspect.id, state = state.as_str(),
            "the record of a delivery is damaged or missing and was made anew; its bytes were moved aside"
        );
        Ok(())
    }

    /// Moves a damaged notification and its delivery aside.
    fn remove(
        &mut self,
        suspect: Suspect,
        delivery: Part<DeliveryRecord>,
        traces: &mut Traces,
    ) -> Result<(), Fault> {
        let key = suspect.id.to_bytes();
        self.keep_delivery(&key)?;
        let taken = self.tables.notifications.get(&key)?;
        if let Some(bytes) = taken.map(|row| row.value().to_vec()) {
            self.keep_aside(entry_place(&key), &bytes)?;
        }
        match delivery {
            Part::Whole(record) => self.detach(&key, &record)?,
            Part::Damaged | Part::Missing | Part::Strange => {
                self.unlist_everywhere(suspect, None, traces)?;
            }
        }
        self.tables.notifications.remove(&key)?;
        self.tables.deliveries.remove(&key)?;
        self.forget_variants(&key)?;
        tracing::error!(
            event_id = %suspect.id,
            "a notification is damaged and can't be delivered; its bytes were moved aside. \
             Restore a backup, or have Alipay send it again"
        );
        Ok(())
    }

    fn keep_delivery(&mut self, key: &[u8; 16]) -> Result<(), Fault> {
        let row = self.tables.deliveries.get(key)?;
        match row.map(|row| row.value().to_vec()) {
            Some(bytes) => self.keep_aside(delivery_place(key), &bytes),
            None => Ok(()),
        }
    }

    /// Keeps the bytes of a damaged record, or at least its name.
    pub(super) fn keep_aside(&mut self, place: Place<'_>, bytes: &[u8]) -> Result<(), Fault> {
        let kept = if self.tables.damaged.len()? < WITH_BYTES {
            bytes
        } else {
            &[]
        };
        self.touch();
        let key = aside_key(place);
        let row = (self.now, kept);
        self.tables.damaged.insert(key.as_slice(), row)?;
        Ok(())
    }

    /// The state that the indexes give a delivery.
    fn listed_state(&self, key: &[u8; 16]) -> Result<DeliveryState, Fault> {
        Ok(if self.tables.pending.get(key)?.is_some() {
            DeliveryState::Pending
        } else if self.tables.dead.get(key)?.is_some() {
            DeliveryState::Dead
        } else if self.tables.delivered.get(key)?.is_some() {
            DeliveryState::Delivered
        } else if self.tables.ignored.get(key)?.is_some() {
            DeliveryState::Ignored
        } else {
            DeliveryState::Pending
        })
    }

    /// Takes a delivery whose record can't be read out of every index, and lets the next of its
    /// order come first.
    fn unlist_everywhere(
        &mut self,
        suspect: Suspect,
        order: Option<[u8; 16]>,
        traces: &mut Traces,
    ) -> Result<(), Fault> {
        let key = suspect.id.to_bytes();
        self.touch();
        let found = traces.found(&self.tables)?;
        // Only its own bytes told in which of the two lines of its order it stood.
        let order = found.orders.get(&key).copied().or(order);
        // One that stood behind another of its order may have come first since it was looked for.
        let behind = match &order {
            Some(order) => self.tables.ordered.get((order, &key))?.map(|at| at.value()),
            None => None,
        };
        let at = suspect
            .due
            .or(behind)
            .or_else(|| found.due.get(&key).copied());
        let next_attempt_at = at.unwrap_or_default();
        // When its lease ends only the record tells.
        let leases = found.leases.get(&key).cloned().unwrap_or_default();
        let was_pending = self.tables.pending.remove(&key)?.is_some();
        let was_dead = self.tables.dead.remove(&key)?.is_some();
        let was_settled = self.tables.delivered.remove(&key)?.is_some()
            | self.tables.ignored.remove(&key)?.is_some();
        // When it was, only the record told.
        if was_dead || was_settled {
            let ended = traces.ended(&self.tables)?.get(&key).copied();
            if let Some(at) = ended {
                self.tables.given_up.remove((at, &key))?;
                self.tables.settled.remove((at, &key))?;
            }
        }
        self.tables.parked.remove(&key)?;
        for until in leases {
            self.tables.leased.remove((until, &key))?;
        }
        if was_pending || suspect.due.is_some() {
            let record = DeliveryRecord {
                next_attempt_at,
                ..DeliveryRecord::new(DeliveryState::Pending, (0, 0), order)
            };
            self.unqueue(&key, &record)?;
        }
        Ok(())
    }

    /// One look at all of them, because a digest isn't found by the entry it led to.
    fn forget_notify_ids(&mut self, lost: &HashSet<[u8; 16]>) -> Result<(), Fault> {
        let mut digests = HashSet::new();
        for row in self.tables.dedupe.iter()? {
            let (digest, id) = row?;
            if lost.contains(id.value()) {
                digests.insert(*digest.value());
            }
        }
        let mut rows = Vec::new();
        for row in self.tables.dedupe_at.iter()? {
            let row = row?.0;
            let (at, digest) = row.value();
            if digests.contains(digest) {
                rows.push((at, *digest));
            }
        }
        for (at, digest) in rows {
            self.tables.dedupe_at.remove((at, &digest))?;
            self.tables.dedupe.remove(&digest)?;
        }
        Ok(())
    }
}

/// One of the two records of a notification.
pub(super) enum Part<T> {
    /// It doesn't open.
    Damaged,
    /// There is none.
    Missing,
    /// It opens but isn't understood.
    Strange,
    /// It is as it should be.
    Whole(T),
}

/// Both records of a notification.
pub(super) fn parts<T: ReadableTable<&'static [u8; 16], &'static [u8]>>(
    notifications: &T,
    deliveries: &T,
    sealer: &Sealer,
    id: EventId,
) -> Result<(Part<InboxEntry>, Part<DeliveryRecord>), Fault> {
    let key = id.to_bytes();
    let opens = |place: Place<'_>, row: Option<redb::AccessGuard<'_, &[u8]>>| {
        row.is_none_or(|row| sealer.open(place, row.value()).is_ok())
    };
    let entry_opens = opens(entry_place(&key), notifications.get(&key)?);
    let delivery_opens = opens(delivery_place(&key), deliveries.get(&key)?);
    Ok((
        part(lookup::entry(notifications, sealer, id), entry_opens)?,
        part(lookup::delivery(deliveries, sealer, id), delivery_opens)?,
    ))
}

/// Whether [`Applier::set_aside`] can do nothing about it: a newer program will understand it.
pub(super) fn is_left<E, D>(parts: &(Part<E>, Part<D>)) -> bool {
    match parts {
        (Part::Strange, delivery) => !matches!(delivery, Part::Whole(_)),
        (Part::Whole(_) | Part::Missing, delivery) => matches!(delivery, Part::Strange),
        (Part::Damaged, _) => false,
    }
}

fn part<T>(record: Result<Option<T>, Fault>, opens: bool) -> Result<Part<T>, Fault> {
    match record {
        Ok(Some(record)) => Ok(Part::Whole(record)),
        Ok(None) => Ok(Part::Missing),
        Err(Fault::Refused(_)) if opens => Ok(Part::Strange),
        Err(Fault::Refused(_)) => Ok(Part::Damaged),
        Err(broken) => Err(broken),
    }
}

pub(super) fn aside_key(place: Place<'_>) -> Vec<u8> {
    let mut key = tables::prefix(&[place.table]);
    key.extend(place.key);
    key
}

/// Moves the damaged records `found` aside.
pub(super) fn repair(
    db: &Database,
    sealer: &Sealer,
    found: &[Spot],
    now: i64,
) -> Result<(), Fault> {
    let tx = db.begin_write()?;
    let mut applier = Applier::new(Tables::new(&tx), sealer, now);
    let mut others = Vec::new();
    let mut suspects = Vec::new();
    for (table, key) in found {
        if let Some(id) = of_inbox(table.name(), key) {
            suspects.push(Suspect { due: None, id });
        } else if !applier.set_spot_aside(table.name(), key)? {
            others.push((table, key));
        }
    }
    applier.set_aside(&suspects)?;
    drop(applier);
    for (table, key) in others {
        take_aside(&tx, *table, key, now)?;
    }
    Applier::new(Tables::new(&tx), sealer, now).put_missing_tokens()?;
    Ok(tx.commit()?)
}

/// Whose record it is, if one of the inbox.
fn of_inbox(table: &str, key: &[u8]) -> Option<EventId> {
    let is_one = [tables::NOTIFICATIONS.name(), tables::DELIVERIES.name()].contains(&table);
    let id = <[u8; 16]>::try_from(key).ok().filter(|_| is_one)?;
    Some(EventId::from_bytes(id))
}

/// Makes the deliveries anew that notifications lack, so that they are owed again; tells how many.
pub(super) fn rebuild_missing(db: &Database, sealer: &Sealer, now: i64) -> Result<u64, Fault> {
    let tx = db.begin_write()?;
    let mut applier = Applier::new(Tables::new(&tx), sealer, now);
    let mut suspects = Vec::new();
    for row in applier.tables.notifications.iter()? {
        let key = *row?.0.value();
        if applier.tables.deliveries.get(&key)?.is_none() {
            let id = EventId::from_bytes(key);
            suspects.push(Suspect { due: None, id });
        }
    }
    applier.set_aside(&suspects)?;
    let mut rebuilt = 0;
    for suspect in &suspects {
        let delivery = applier.tables.deliveries.get(&suspect.id.to_bytes())?;
        rebuilt += u64::from(delivery.is_some());
    }
    drop(applier);
    tx.commit()?;
    Ok(rebuilt)
}

/// Moves a damaged record aside that nothing but its key leads to.
fn take_aside(
    tx: &WriteTransaction,
    table: &dyn AnyTable,
    key: &[u8],
    now: i64,
) -> Result<(), Fault> {
    let Some(bytes) = table.take(tx, key)? else {
        return Ok(());
    };
    let mut damaged = tx.open_table(tables::DAMAGED)?;
    let kept = if damaged.len()? < WITH_BYTES {
        bytes.as_slice()
    } else {
        &[]
    };
    let place = Place {
        table: table.name(),
        key,
    };
    damaged.insert(aside_key(place).as_slice(), (now, kept))?;
    Ok(())
}

impl Applier<'_> {
    /// Moves a damaged record aside with all that leads to it; `false` where nothing does but its
    /// key.
    fn set_spot_aside(&mut self, table: &str, key: &[u8]) -> Result<bool, Fault> {
        let is = |one: &str| table == one;
        if let Ok(id) = <[u8; 16]>::try_from(key) {
            if is(tables::REFUSED.name()) {
                self.set_refused_aside(EventId::from_bytes(id))?;
                return Ok(true);
            } else if is(tables::CALLS.name()) {
                self.set_call_aside(&id)?;
                return Ok(true);
            }
        }
        if let Ok(digest) = <[u8; 32]>::try_from(key) {
            if is(tables::USERS.name()) {
                self.set_user_aside(&digest)?;
                return Ok(true);
            } else if is(tables::MEMOS.name()) {
                self.set_memo_aside(&digest)?;
                return Ok(true);
            }
        }
        match MerchantId::from_key(key) {
            Some(id) if is(tables::MERCHANTS.name()) => self.forget_damaged(&id).map(|()| true),
            _ => Ok(false),
        }
    }
}
