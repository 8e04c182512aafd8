//! Reads of the inbox and of what was refused: pages, what is due, what may be claimed.

use std::collections::HashSet;
use std::ops::Bound::{Excluded, Included, Unbounded};

use redb::{AccessGuard, ReadableTable};

use super::aside::{self, Suspect};
use super::fault::Fault;
use super::lookup::{self, FARTHEST_MS};
use super::quarantine_records::{open_refused, open_variant};
use super::read::{Reader, readable};
use super::tables;
use crate::model::delivery::{Delivery, DeliveryState, Via};
use crate::model::id::{AppId, EventId};
use crate::model::notification::InboxEntry;
use crate::model::refused::{RefusedNotification, Variant};
use crate::store::{Due, Mark, Parked};

/// How many damaged ones a look at what is due passes over.
const SUSPECTS: usize = 500;

/// How many records that only a newer program understands one look passes over; beyond that they
/// count as [`SUSPECTS`].
const LEFT: usize = 5_000;

/// When to look again after damaged ones were met, milliseconds.
const SOON_MS: i64 = 1_000;

/// Where a page begins, and which way it goes.
#[derive(Debug, Clone, Copy)]
pub(super) enum Walk {
    After(Option<EventId>),
    Before(Option<EventId>),
}

impl Walk {
    /// The rows behind where it begins.
    fn rows<'t, V: redb::Value + 'static>(
        self,
        table: &'t impl ReadableTable<&'static [u8; 16], V>,
    ) -> Result<impl Iterator<Item = Row<'t, V>>, Fault> {
        let key = match self {
            Self::After(id) | Self::Before(id) => id.map(EventId::to_bytes),
        };
        let end = key.as_ref().map_or(Unbounded, Excluded);
        let (up, down) = match self {
            Self::After(_) => (Some(table.range::<&[u8; 16]>((end, Unbounded))?), None),
            Self::Before(_) => (None, Some(table.range::<&[u8; 16]>((Unbounded, end))?)),
        };
        let down = down.into_iter().flat_map(Iterator::rev);
        Ok(up.into_iter().flatten().chain(down))
    }
}

type Row<'t, V> =
    Result<(AccessGuard<'t, &'static [u8; 16]>, AccessGuard<'t, V>), redb::StorageError>;

impl Reader<'_> {
    pub(super) fn entry(&self, id: EventId) -> Result<Option<(InboxEntry, Delivery)>, Fault> {
        let deliveries = self.tx.open_table(tables::DELIVERIES)?;
        let Some(record) = lookup::delivery(&deliveries, self.sealer, id)? else {
            return Ok(None);
        };
        let notifications = self.tx.open_table(tables::NOTIFICATIONS)?;
        let entry = lookup::entry(&notifications, self.sealer, id)?;
        let key = id.to_bytes();
        let entry = entry.ok_or_else(|| lookup::entry_place(&key).damaged())?;
        Ok(Some((entry, record.into_delivery(id))))
    }

    pub(super) fn entries(
        &self,
        state: Option<DeliveryState>,
        walk: Walk,
        limit: usize,
    ) -> Result<Vec<(InboxEntry, Delivery)>, Fault> {
        let table = match state {
            None => return self.page(&self.tx.open_table(tables::DELIVERIES)?, walk, limit),
            Some(DeliveryState::Pending) => {
                return self.page(&self.tx.open_table(tables::PENDING)?, walk, limit);
            }
            Some(DeliveryState::Dead) => tables::DEAD,
            Some(DeliveryState::Delivered) => tables::DELIVERED,
            Some(DeliveryState::Ignored) => tables::IGNORED,
        };
        self.page(&self.tx.open_table(table)?, walk, limit)
    }

    /// The readable entries whose ids stand in `table`.
    fn page<V: redb::Value + 'static>(
        &self,
        table: &impl ReadableTable<&'static [u8; 16], V>,
        walk: Walk,
        limit: usize,
    ) -> Result<Vec<(InboxEntry, Delivery)>, Fault> {
        let mut page = Vec::new();
        for row in walk.rows(table)? {
            if page.len() >= limit {
                break;
            }
            let id = EventId::from_bytes(*row?.0.value());
            page.extend(readable(self.entry(id))?.flatten());
        }
        Ok(page)
    }

    pub(super) fn known(&self, app_id: &AppId, notify_id: &str) -> Result<Option<EventId>, Fault> {
        let table = self.tx.open_table(tables::DEDUPE)?;
        let row = table.get(&self.sealer.notify_digest(app_id, notify_id))?;
        Ok(row.map(|row| EventId::from_bytes(*row.value())))
    }

    /// What is due, and what is due but can't be read; nothing of `but`.
    pub(super) fn due(
        &self,
        now: i64,
        limit: usize,
        but: &HashSet<EventId>,
    ) -> Result<(Due, Vec<Suspect>), Fault> {
        self.due_after(None, (now, limit), but, Via::Push)
    }

    fn due_after(
        &self,
        after: Option<(i64, EventId)>,
        (now, limit): (i64, usize),
        but: &HashSet<EventId>,
        via: Via,
    ) -> Result<(Due, Vec<Suspect>), Fault> {
        let table = self.tx.open_table(tables::DUE)?;
        let absurd = now.saturating_add(FARTHEST_MS);
        let mut due = Due::default();
        let mut last = None;
        let mut suspects = Vec::new();
        let mut left = 0;
        // What no clock that is right can have scheduled comes first: it has waited long enough.
        let behind = (absurd, &[0; 16]);
        let after = after.map(|(at, id)| (at, id.to_bytes()));
        let [first, then] = match &after {
            None => [(Included(behind), Unbounded), (Unbounded, Excluded(behind))],
            Some((at, id)) if *at >= absurd => [
                (Excluded((*at, id)), Unbounded),
                (Unbounded, Excluded(behind)),
            ],
            // An empty one, and the rest.
            Some((at, id)) => [
                (Excluded((i64::MAX, &[0xff; 16])), Unbounded),
                (Excluded((*at, id)), Excluded(behind)),
            ],
        };
        let rows = table.range::<(i64, &[u8; 16])>(first)?;
        for row in rows.chain(table.range::<(i64, &[u8; 16])>(then)?) {
            let key = row?.0;
            let (scheduled, id) = key.value();
            let at = if scheduled < absurd { scheduled } else { now };
            let id = EventId::from_bytes(*id);
            if but.contains(&id) {
                continue;
            }
            let is_enough = due.now.len() >= limit || suspects.len() >= SUSPECTS;
            if at > now || is_enough {
                due.next_at = Some(at);
                due.end = last.filter(|_| is_enough && at <= now);
                break;
            }
            last = Some(Mark::Scheduled(scheduled, id));
            if via == Via::Pull && self.stands_behind(id)? {
                continue;
            }
            match self.entry(id) {
                Ok(Some(found)) if found.1.state == DeliveryState::Pending => due.now.push(found),
                Ok(Some(_)) => {}
                Err(Fault::Refused(_)) if left < LEFT && self.is_left(id)? => left += 1,
                Ok(None) | Err(Fault::Refused(_)) => suspects.push(Suspect {
                    due: Some(scheduled),
                    id,
                }),
                Err(broken) => return Err(broken),
            }
        }
        look_again(&mut due, &suspects, now);
        Ok((due, suspects))
    }

    /// Whether an earlier one of its order is pending, whether a route fits that or not. One that
    /// can't be read doesn't.
    fn stands_behind(&self, id: EventId) -> Result<bool, Fault> {
        let deliveries = self.tx.open_table(tables::DELIVERIES)?;
        let order = match lookup::delivery(&deliveries, self.sealer, id) {
            Ok(delivery) => delivery.and_then(|delivery| delivery.order),
            Err(Fault::Refused(_)) => None,
            Err(broken) => return Err(broken),
        };
        let ordered = self.tx.open_table(tables::ORDERED)?;
        let pending = self.tx.open_table(tables::PENDING)?;
        lookup::stands_behind(&ordered, &pending, order, &id.to_bytes())
    }

    /// Whether nobody can do anything about it but a newer program.
    fn is_left(&self, id: EventId) -> Result<bool, Fault> {
        let notifications = self.tx.open_table(tables::NOTIFICATIONS)?;
        let deliveries = self.tx.open_table(tables::DELIVERIES)?;
        let parts = aside::parts(&notifications, &deliveries, self.sealer, id)?;
        Ok(aside::is_left(&parts))
    }

    pub(super) fn refused(
        &self,
        walk: Walk,
        limit: usize,
    ) -> Result<Vec<RefusedNotification>, Fault> {
        let mut page = Vec::new();
        for row in walk.rows(&self.tx.open_table(tables::REFUSED)?)? {
            if page.len() >= limit {
                break;
            }
            let (key, sealed) = row?;
            let id = EventId::from_bytes(*key.value());
            let refused = open_refused(self.sealer, id, sealed.value());
            page.extend(readable(refused.map_err(Fault::from))?);
        }
        Ok(page)
    }

    pub(super) fn refused_one(&self, id: EventId) -> Result<Option<RefusedNotification>, Fault> {
        lookup::refused(&self.tx.open_table(tables::REFUSED)?, self.sealer, id)
    }

    pub(super) fn variants(&self, of: EventId) -> Result<Vec<Variant>, Fault> {
        let table = self.tx.open_table(tables::VARIANTS)?;
        let key = of.to_bytes();
        let mut variants = Vec::new();
        for row in table.range((&key, &[0; 16])..=(&key, &[0xff; 16]))? {
            let (place, sealed) = row?;
            let variant = open_variant(self.sealer, place.value(), sealed.value());
            variants.extend(readable(variant.map_err(Fault::from))?);
        }
        variants.sort_by_key(|variant| variant.received_at);
        Ok(variants)
    }

    /// What may be claimed, and what might be but can't be read; nothing of `but`.
    pub(super) fn claimable(
        &self,
        after: Option<Mark>,
        (now, limit): (i64, usize),
        mut but: HashSet<EventId>,
    ) -> Result<(Due, Vec<Suspect>), Fault> {
        let parked_after = match after {
            None => None,
            Some(Mark::Parked(id)) => Some(id.to_bytes()),
            Some(Mark::Scheduled(at, id)) => {
                return self.due_after(Some((at, id)), (now, limit), &but, Via::Pull);
            }
        };
        let (parked, due) = (
            self.tx.open_table(tables::PARKED)?,
            self.tx.open_table(tables::DUE)?,
        );
        let mut found = Due::default();
        let mut suspects = Vec::new();
        let mut left = 0;
        let mut last = after;
        let from = parked_after.as_ref().map_or(Unbounded, Excluded);
        for row in parked.range::<&[u8; 16]>((from, Unbounded))? {
            if found.now.len() >= limit || suspects.len() >= SUSPECTS {
                found.end = last;
                look_again(&mut found, &suspects, now);
                return Ok((found, suspects));
            }
            let key = *row?.0.value();
            let id = EventId::from_bytes(key);
            if but.contains(&id) {
                continue;
            }
            last = Some(Mark::Parked(id));
            if self.stands_behind(id)? {
                continue;
            }
            match self.entry(id) {
                Ok(Some((entry, delivery))) => {
                    if due.get((delivery.next_attempt_at, &key))?.is_some() {
                        found.now.push((entry, delivery));
                        but.insert(id);
                    }
                }
                Ok(None) => {}
                Err(Fault::Refused(_)) if left < LEFT && self.is_left(id)? => left += 1,
                Err(Fault::Refused(_)) => suspects.push(Suspect { due: None, id }),
                Err(broken) => return Err(broken),
            }
        }
        let left = limit.saturating_sub(found.now.len());
        let (rest, more) = self.due_after(None, (now, left), &but, Via::Pull)?;
        found.now.extend(rest.now);
        found.next_at = rest.next_at;
        // Where there was no room for any, the next look begins behind the parked ones.
        let is_more = rest.next_at.is_some_and(|at| at <= now);
        found.end = rest.end.or_else(|| last.filter(|_| is_more));
        suspects.extend(more);
        look_again(&mut found, &suspects, now);
        Ok((found, suspects))
    }

    /// Those of the next `limit` that have an order, and what can't be read, whose order nobody knows.
    pub(super) fn parked(&self, walk: Walk, limit: usize) -> Result<(Parked, Vec<Suspect>), Fault> {
        let deliveries = self.tx.open_table(tables::DELIVERIES)?;
        let (mut parked, mut suspects) = (Parked::default(), Vec::new());
        let mut last = None;
        for (seen, row) in walk.rows(&self.tx.open_table(tables::PARKED)?)?.enumerate() {
            if seen >= limit {
                parked.end = last;
                break;
            }
            let id = EventId::from_bytes(*row?.0.value());
            last = Some(id);
            match lookup::delivery(&deliveries, self.sealer, id) {
                Ok(Some(record)) if record.order.is_some() => parked.of_an_order.push(id),
                Ok(_) => {}
                Err(Fault::Refused(_)) if suspects.len() >= SUSPECTS || self.is_left(id)? => {}
                Err(Fault::Refused(_)) => suspects.push(Suspect { due: None, id }),
                Err(broken) => return Err(broken),
            }
        }
        Ok((parked, suspects))
    }

    pub(super) fn lapsed(&self, now: i64, limit: usize) -> Result<Vec<Delivery>, Fault> {
        let leased = self.tx.open_table(tables::LEASED)?;
        let deliveries = self.tx.open_table(tables::DELIVERIES)?;
        let mut lapsed = Vec::new();
        for row in leased.range(..=(now, &[0xff; 16]))?.take(limit) {
            let key = row?.0;
            let id = EventId::from_bytes(*key.value().1);
            let record = readable(lookup::delivery(&deliveries, self.sealer, id))?.flatten();
            lapsed.extend(record.map(|record| record.into_delivery(id)));
        }
        Ok(lapsed)
    }
}

/// What waited behind `suspects` is due as soon as they are moved aside.
fn look_again(due: &mut Due, suspects: &[Suspect], now: i64) {
    if !suspects.is_empty() {
        let again = now.saturating_add(SOON_MS);
        due.next_at = Some(due.next_at.map_or(again, |at| at.min(again)));
    }
}
