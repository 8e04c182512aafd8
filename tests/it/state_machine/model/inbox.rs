//! Entries and their deliveries.

use std::collections::BTreeMap;

use alipay_sidecar::model::delivery::{
    Attempt, DeliveryState, Lease, REMEMBERED_ATTEMPTS, Settlement, Via,
};
use alipay_sidecar::model::id::EventId;
use alipay_sidecar::model::notification::InboxEntry;
use alipay_sidecar::model::refused::Variant;

use super::{Answer, DAY_MS, gone};

/// What is due later than this was scheduled by a clock that has gone back.
const FARTHEST_MS: i64 = 2 * 3_600_000;
/// How many second bodies stand beside an entry.
const MOST_VARIANTS: usize = 4;

/// An entry and its delivery.
#[derive(Debug, Clone)]
pub(in super::super) struct Owed {
    pub(in super::super) entry: InboxEntry,
    pub(in super::super) state: DeliveryState,
    pub(in super::super) attempts: u32,
    pub(in super::super) owed_since: i64,
    pub(in super::super) next_at: i64,
    pub(in super::super) history: Vec<Attempt>,
    pub(in super::super) lease: Option<Lease>,
    pub(in super::super) variants: Vec<Variant>,
    pub(in super::super) parked: bool,
    /// No route fitted it when it was last looked at.
    apart: bool,
    settled_at: i64,
}

impl Owed {
    pub(in super::super) fn is_pending(&self) -> bool {
        self.state == DeliveryState::Pending
    }

    /// Whose order it is about, and which.
    fn order(&self) -> Option<(Option<&str>, &str)> {
        let merchant = self.entry.auth_app_id.as_ref().map(|id| id.as_str());
        Some((merchant, self.entry.order_key.as_deref()?))
    }

    fn remember(&mut self, attempt: Attempt) {
        self.history.push(attempt);
        if self.history.len() > REMEMBERED_ATTEMPTS {
            self.history.remove(0);
        }
    }

    /// Nobody said what became of the last lease.
    fn lapse(&mut self) {
        if let Some(lease) = self.lease.take() {
            self.remember(lease.lapsed());
        }
    }

    fn heeds(&self, attempt: &Attempt, is_done: bool) -> bool {
        let is_of_lease = self.lease.is_some_and(|lease| lease.since == attempt.at);
        match (self.state, attempt.via) {
            (DeliveryState::Pending, Via::Push) => true,
            (DeliveryState::Pending, Via::Pull) => is_done || is_of_lease,
            (DeliveryState::Dead, Via::Pull) => is_done,
            _ => false,
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(in super::super) struct Inbox {
    pub(in super::super) entries: BTreeMap<EventId, Owed>,
    known: BTreeMap<String, (EventId, i64)>,
}

impl Inbox {
    pub(super) fn known(&self, entry: &InboxEntry) -> Option<Answer> {
        if self.entries.contains_key(&entry.id) {
            return Some(Answer::Duplicate(entry.id));
        }
        let (id, _) = self.known.get(entry.notify_id.as_ref()?)?;
        Some(Answer::Duplicate(*id))
    }

    pub(super) fn put(&mut self, entry: &InboxEntry, state: DeliveryState, since: i64) {
        if let Some(notify_id) = &entry.notify_id {
            self.known.insert(notify_id.clone(), (entry.id, since));
        }
        let owed = Owed {
            entry: entry.clone(),
            state,
            attempts: 0,
            owed_since: since,
            next_at: since,
            history: Vec::new(),
            lease: None,
            variants: Vec::new(),
            parked: false,
            apart: false,
            settled_at: since,
        };
        self.entries.insert(entry.id, owed);
    }

    pub(super) fn put_off(&mut self, id: EventId, until: i64, parked: bool) -> Answer {
        match self.entries.get_mut(&id) {
            None => Answer::Missing,
            Some(owed) if !owed.is_pending() => Answer::Stale,
            Some(owed) => {
                (owed.next_at, owed.parked, owed.apart) = (until, parked, parked);
                Answer::Applied
            }
        }
    }

    pub(super) fn settle(
        &mut self,
        id: EventId,
        attempt: &Attempt,
        owed_since: Option<i64>,
        settlement: Settlement,
    ) -> Answer {
        let Some(owed) = self.entries.get_mut(&id) else {
            return Answer::Missing;
        };
        let is_done = settlement == Settlement::Delivered;
        let is_of_old = !is_done && owed_since.is_some_and(|since| since != owed.owed_since);
        let answer = [Answer::Applied, Answer::Stale][usize::from(is_of_old)].clone();
        if owed.history.last() == Some(attempt) {
            return answer;
        }
        if !owed.heeds(attempt, is_done) {
            return Answer::Stale;
        }
        if is_of_old {
            owed.remember(attempt.clone());
            return answer;
        }
        match attempt.via {
            Via::Pull => owed.lease = None,
            Via::Push => {
                owed.lapse();
                owed.attempts += 1;
            }
        }
        owed.remember(attempt.clone());
        (owed.parked, owed.apart) = (false, false);
        owed.settled_at = attempt.at + i64::try_from(attempt.duration_ms).expect("short");
        match settlement {
            Settlement::Delivered => owed.state = DeliveryState::Delivered,
            Settlement::GivenUp => owed.state = DeliveryState::Dead,
            Settlement::RetryAt(at) => owed.next_at = at,
        }
        answer
    }

    pub(super) fn claim(&mut self, id: EventId, lease: Lease) -> Answer {
        let is_first = self.is_first(id);
        let Some(owed) = self.entries.get_mut(&id) else {
            return Answer::Missing;
        };
        if owed.is_pending() && owed.lease == Some(lease) {
            return Answer::Applied;
        }
        let is_due = owed.next_at <= lease.since || owed.next_at >= lease.since + FARTHEST_MS;
        if !owed.is_pending() || !is_first || !(is_due || owed.parked) {
            return Answer::Stale;
        }
        owed.lapse();
        owed.attempts += 1;
        (owed.next_at, owed.lease, owed.parked) = (lease.until, Some(lease), false);
        Answer::Applied
    }

    pub(super) fn extend(&mut self, id: EventId, now: i64, until: i64) -> Answer {
        let Some(owed) = self.entries.get_mut(&id) else {
            return Answer::Missing;
        };
        let Some(lease) = owed.lease.filter(|l| owed.is_pending() && l.until > now) else {
            return Answer::Stale;
        };
        (owed.next_at, owed.lease) = (until, Some(Lease { until, ..lease }));
        Answer::Applied
    }

    pub(super) fn replay(&mut self, id: EventId, now: i64) -> Answer {
        let Some(owed) = self.entries.get_mut(&id) else {
            return Answer::Missing;
        };
        if owed.is_pending() && owed.lease.is_some_and(|lease| lease.until > now) {
            return Answer::Stale;
        }
        owed.state = DeliveryState::Pending;
        (owed.attempts, owed.owed_since, owed.next_at) = (0, now, now);
        (owed.lease, owed.parked, owed.apart) = (None, false, false);
        Answer::Applied
    }

    pub(super) fn keep_variant(&mut self, of: EventId, variant: &Variant) -> Answer {
        let Some(owed) = self.entries.get_mut(&of) else {
            return Answer::Missing;
        };
        if owed.variants.iter().any(|v| v.content == variant.content) {
            return Answer::Duplicate(of);
        }
        if owed.variants.len() >= MOST_VARIANTS {
            return Answer::Full;
        }
        owed.variants.push(variant.clone());
        Answer::Applied
    }

    /// Forgets what is old; tells how many entries and `notify_id`s that were.
    pub(super) fn prune(&mut self, now: i64, retain: i64) -> (u64, u64) {
        let before = (self.entries.len(), self.known.len());
        self.entries.retain(|_, owed| match owed.state {
            DeliveryState::Pending => true,
            DeliveryState::Dead => owed.settled_at >= now - 30 * DAY_MS,
            DeliveryState::Delivered | DeliveryState::Ignored => owed.settled_at >= now - retain,
        });
        let remembered = now - retain.max(9 * DAY_MS);
        self.known.retain(|_, (_, at)| *at >= remembered);
        (
            gone(before.0, self.entries.len()),
            gone(before.1, self.known.len()),
        )
    }

    pub(in super::super) fn pending(&self) -> impl Iterator<Item = (&EventId, &Owed)> + Clone {
        self.entries.iter().filter(|(_, owed)| owed.is_pending())
    }

    /// Whether no earlier one of its order is pending.
    fn is_first(&self, id: EventId) -> bool {
        self.is_first_of(id, |_, _| true)
    }

    /// The same, where those that no route fitted and the others don't wait for each other.
    fn is_first_in_line(&self, id: EventId) -> bool {
        self.is_first_of(id, |own, other| own.apart == other.apart)
    }

    fn is_first_of(&self, id: EventId, waits: impl Fn(&Owed, &Owed) -> bool) -> bool {
        let Some(own) = self.entries.get(&id).filter(|o| o.order().is_some()) else {
            return true;
        };
        let of_order = self.pending().filter(|(_, o)| o.order() == own.order());
        let mut waited_for = of_order.filter(|(_, other)| waits(own, other));
        waited_for.next().is_none_or(|(first, _)| *first >= id)
    }

    /// What may be attempted, and when the next one is due; nothing of `but`.
    pub(in super::super) fn due(
        &self,
        now: i64,
        limit: usize,
        but: &[EventId],
    ) -> (Vec<EventId>, Option<i64>) {
        self.due_if(now, limit, but, |_| true)
    }

    fn due_if(
        &self,
        now: i64,
        limit: usize,
        but: &[EventId],
        may_go: impl Fn(EventId) -> bool,
    ) -> (Vec<EventId>, Option<i64>) {
        let firsts = self.pending().filter(|(id, _)| self.is_first_in_line(**id));
        let mut queue: Vec<_> = firsts.map(|(id, owed)| (owed.next_at, *id)).collect();
        queue.retain(|(_, id)| !but.contains(id));
        let absurd = now + FARTHEST_MS;
        queue.sort_by_key(|(at, id)| (*at < absurd, *at, *id));
        let mut due = Vec::new();
        for (at, id) in queue {
            let at = if at >= absurd { now } else { at };
            if at > now || due.len() >= limit {
                return (due, Some(at));
            }
            if may_go(id) {
                due.push(id);
            }
        }
        (due, None)
    }

    /// What may be claimed: what waits for a route, then what is due.
    pub(in super::super) fn claimable(
        &self,
        now: i64,
        limit: usize,
    ) -> (Vec<EventId>, Option<i64>) {
        let mut found = Vec::new();
        for (id, _) in self.pending().filter(|(_, owed)| owed.parked) {
            if found.len() >= limit {
                return (found, None);
            }
            if self.is_first(*id) {
                found.push(*id);
            }
        }
        let (rest, next) = self.due_if(now, limit - found.len(), &found, |id| self.is_first(id));
        found.extend(rest);
        (found, next)
    }

    /// Those that somebody has, or had and never spoke of, the longest ago first.
    pub(in super::super) fn leased(&self) -> Vec<(i64, EventId)> {
        let leases = self
            .pending()
            .filter_map(|(id, owed)| Some((owed.lease?.until, *id)));
        let mut leases: Vec<_> = leases.collect();
        leases.sort();
        leases
    }
}
