//! The store as one would draw it on paper: a few maps, and no index.

use std::collections::BTreeMap;

use alipay_sidecar::model::delivery::{Attempt, DeliveryState, REMEMBERED_ATTEMPTS, Settlement};
use alipay_sidecar::model::id::EventId;

pub(super) const DAY_MS: i64 = 24 * 3_600_000;
/// What is due later than this was scheduled by a clock that has gone back.
const FARTHEST_MS: i64 = 2 * 3_600_000;

/// What a change does; names are small numbers.
#[derive(Debug, Clone)]
pub(super) enum Deed {
    Authorize {
        merchant: u8,
        token: u8,
        /// Alipay's time; `None` ranks after what is stored.
        at: Option<i64>,
        alias: Option<u8>,
        entry: Option<Received>,
    },
    Name {
        merchant: u8,
        alias: Option<u8>,
    },
    Postpone {
        id: EventId,
        until: i64,
    },
    Receive(Received),
    Remember {
        key: u8,
        value: u8,
        expires_at: i64,
    },
    Remove {
        merchant: u8,
    },
    Replay {
        id: EventId,
        now: i64,
    },
    Revoke {
        merchant: u8,
        at: Option<i64>,
        entry: Option<Received>,
    },
    Settle {
        id: EventId,
        attempt: Attempt,
        settlement: Settlement,
    },
}

/// An entry, as far as its fate depends on it.
#[derive(Debug, Clone)]
pub(super) struct Received {
    pub(super) id: EventId,
    pub(super) notify: Option<u8>,
    /// Whose order, and which.
    pub(super) order: Option<(u8, u8)>,
    pub(super) at: i64,
}

/// What a change must be answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Applied,
    Duplicate(EventId),
    Missing,
    Remembered(u8),
    Stale,
    Void,
}

/// Why a commit must be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    AliasTaken,
    TokenConflict,
}

/// An entry and its delivery.
#[derive(Debug, Clone)]
pub(super) struct Owed {
    pub(super) received: Received,
    pub(super) state: DeliveryState,
    pub(super) attempts: u32,
    pub(super) owed_since: i64,
    pub(super) next_at: i64,
    pub(super) history: Vec<Attempt>,
    settled_at: i64,
}

/// The triple.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Triple {
    pub(super) token: u8,
    pub(super) previous: Option<u8>,
    pub(super) auth_time: i64,
    pub(super) estimated: bool,
    pub(super) revoked_at: Option<i64>,
    pub(super) alias: Option<u8>,
}

impl Triple {
    fn newest(&self) -> i64 {
        self.revoked_at
            .map_or(self.auth_time, |at| at.max(self.auth_time))
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) now: i64,
    pub(super) entries: BTreeMap<EventId, Owed>,
    pub(super) merchants: BTreeMap<u8, Triple>,
    /// Whose each token is, or was.
    pub(super) owners: BTreeMap<u8, u8>,
    known: BTreeMap<u8, (EventId, i64)>,
    /// Cancellations that came before what they cancel: when, and how long that is known.
    cancelled: BTreeMap<u8, (i64, i64)>,
    pub(super) memos: BTreeMap<u8, (u8, i64)>,
}

impl Model {
    /// An empty store.
    pub(super) fn at(now: i64) -> Self {
        Self {
            now,
            ..Self::default()
        }
    }

    /// All of it or nothing.
    pub(super) fn commit(&mut self, deeds: &[Deed]) -> Result<Vec<Answer>, Refused> {
        let known: Vec<_> = deeds.iter().map(|deed| self.known_deed(deed)).collect();
        if known.iter().any(Option::is_some) {
            let answers = known.into_iter();
            return Ok(answers.map(|known| known.unwrap_or(Answer::Void)).collect());
        }
        let mut changed = self.clone();
        let answers = deeds
            .iter()
            .map(|deed| changed.apply(deed))
            .collect::<Result<_, _>>()?;
        *self = changed;
        Ok(answers)
    }

    fn known_deed(&self, deed: &Deed) -> Option<Answer> {
        match deed {
            Deed::Receive(entry) => self.known(entry),
            Deed::Authorize { entry, .. } | Deed::Revoke { entry, .. } => {
                entry.as_ref().and_then(|entry| self.known(entry))
            }
            Deed::Remember { key, .. } => self.remembered(*key).map(Answer::Remembered),
            _ => None,
        }
    }

    fn known(&self, entry: &Received) -> Option<Answer> {
        if self.entries.contains_key(&entry.id) {
            return Some(Answer::Duplicate(entry.id));
        }
        let (id, _) = self.known.get(&entry.notify?)?;
        Some(Answer::Duplicate(*id))
    }

    pub(super) fn remembered(&self, key: u8) -> Option<u8> {
        let (value, expires_at) = self.memos.get(&key)?;
        (*expires_at > self.now).then_some(*value)
    }

    fn apply(&mut self, deed: &Deed) -> Result<Answer, Refused> {
        Ok(match deed {
            Deed::Authorize {
                merchant,
                token,
                at,
                alias,
                entry,
            } => return self.authorize((*merchant, *token), *at, *alias, entry.as_ref()),
            Deed::Name { merchant, alias } => return self.name(*merchant, *alias),
            Deed::Postpone { id, until } => self.pending(*id, |owed| owed.next_at = *until),
            Deed::Receive(entry) => self.known(entry).unwrap_or_else(|| {
                self.put(entry, DeliveryState::Pending);
                Answer::Applied
            }),
            Deed::Remember {
                key,
                value,
                expires_at,
            } => self.remembered(*key).map_or_else(
                || {
                    self.memos.insert(*key, (*value, *expires_at));
                    Answer::Applied
                },
                Answer::Remembered,
            ),
            Deed::Remove { merchant } => self.remove(*merchant),
            Deed::Replay { id, now } => self.replay(*id, *now),
            Deed::Revoke {
                merchant,
                at,
                entry,
            } => self.revoke(*merchant, *at, entry.as_ref()),
            Deed::Settle {
                id,
                attempt,
                settlement,
            } => self.settle(*id, attempt, *settlement),
        })
    }

    fn put(&mut self, entry: &Received, state: DeliveryState) {
        if let Some(notify) = entry.notify {
            self.known.insert(notify, (entry.id, entry.at));
        }
        let owed = Owed {
            received: entry.clone(),
            state,
            attempts: 0,
            owed_since: entry.at,
            next_at: entry.at,
            history: Vec::new(),
            settled_at: entry.at,
        };
        self.entries.insert(entry.id, owed);
    }

    fn pending(&mut self, id: EventId, change: impl FnOnce(&mut Owed)) -> Answer {
        match self.entries.get_mut(&id) {
            None => Answer::Missing,
            Some(owed) if owed.state != DeliveryState::Pending => Answer::Stale,
            Some(owed) => {
                change(owed);
                Answer::Applied
            }
        }
    }

    fn settle(&mut self, id: EventId, attempt: &Attempt, settlement: Settlement) -> Answer {
        let again = |owed: &Owed| owed.history.last() == Some(attempt);
        if self.entries.get(&id).is_some_and(again) {
            return Answer::Applied;
        }
        self.pending(id, |owed| {
            owed.attempts += 1;
            owed.history.push(attempt.clone());
            if owed.history.len() > REMEMBERED_ATTEMPTS {
                owed.history.remove(0);
            }
            owed.settled_at = attempt.at + i64::try_from(attempt.duration_ms).expect("short");
            match settlement {
                Settlement::Delivered => owed.state = DeliveryState::Delivered,
                Settlement::GivenUp => owed.state = DeliveryState::Dead,
                Settlement::RetryAt(at) => owed.next_at = at,
            }
        })
    }

    fn replay(&mut self, id: EventId, now: i64) -> Answer {
        let Some(owed) = self.entries.get_mut(&id) else {
            return Answer::Missing;
        };
        owed.state = DeliveryState::Pending;
        (owed.attempts, owed.owed_since, owed.next_at) = (0, now, now);
        Answer::Applied
    }

    fn authorize(
        &mut self,
        (merchant, token): (u8, u8),
        at: Option<i64>,
        alias: Option<u8>,
        entry: Option<&Received>,
    ) -> Result<Answer, Refused> {
        let stored = self.merchants.get(&merchant).cloned();
        let cancelled = self.cancelled(merchant).filter(|_| stored.is_none());
        let newest = stored.as_ref().map(Triple::newest).or(cancelled);
        let again = stored.as_ref().is_some_and(|s| s.token == token);
        if at.is_some_and(|at| self.is_absurd(at)) && again {
            return Ok(self.ignore(entry));
        }
        let at = at.filter(|at| !self.is_absurd(*at));
        if let (Some(at), Some(newest)) = (at, newest)
            && at <= newest
        {
            return Ok(self.ignore(entry));
        }
        let after = newest.map_or(self.now, |newest| self.now.max(newest + 1));
        let before = stored.as_ref();
        let triple = Triple {
            token,
            previous: before.and_then(|s| {
                if s.token == token {
                    s.previous
                } else {
                    Some(s.token)
                }
            }),
            auth_time: at.unwrap_or(after),
            estimated: at.is_none(),
            revoked_at: None,
            alias: alias.or_else(|| before.and_then(|s| s.alias)),
        };
        if self
            .owners
            .get(&token)
            .is_some_and(|owner| *owner != merchant)
        {
            return Err(Refused::TokenConflict);
        }
        self.free(merchant, triple.alias)?;
        let said = |s: &Triple| (s.token, s.estimated, s.revoked_at, s.alias);
        let repeated = before.is_some_and(|s| triple.estimated && said(s) == said(&triple));
        if !(repeated && entry.is_none()) {
            self.merchants.insert(merchant, triple);
            self.owners.insert(token, merchant);
        }
        if let Some(entry) = entry {
            self.put(entry, DeliveryState::Pending);
        }
        Ok(Answer::Applied)
    }

    fn ignore(&mut self, entry: Option<&Received>) -> Answer {
        if let Some(entry) = entry {
            self.put(entry, DeliveryState::Ignored);
        }
        Answer::Stale
    }

    fn free(&self, merchant: u8, alias: Option<u8>) -> Result<(), Refused> {
        let mut others = self
            .merchants
            .iter()
            .filter(|(other, _)| **other != merchant);
        if alias.is_some() && others.any(|(_, other)| other.alias == alias) {
            return Err(Refused::AliasTaken);
        }
        Ok(())
    }

    fn name(&mut self, merchant: u8, alias: Option<u8>) -> Result<Answer, Refused> {
        if !self.merchants.contains_key(&merchant) {
            return Ok(Answer::Missing);
        }
        self.free(merchant, alias)?;
        if let Some(triple) = self.merchants.get_mut(&merchant) {
            triple.alias = alias;
        }
        Ok(Answer::Applied)
    }

    fn remove(&mut self, merchant: u8) -> Answer {
        self.owners.retain(|_, owner| *owner != merchant);
        match self.merchants.remove(&merchant) {
            Some(_) => Answer::Applied,
            None => Answer::Missing,
        }
    }

    fn is_absurd(&self, at: i64) -> bool {
        at > self.now + DAY_MS
    }

    fn cancelled(&self, merchant: u8) -> Option<i64> {
        let (at, until) = self.cancelled.get(&merchant)?;
        (*until > self.now).then_some(*at)
    }

    fn revoke(&mut self, merchant: u8, at: Option<i64>, entry: Option<&Received>) -> Answer {
        let at = at.map(|at| if self.is_absurd(at) { self.now } else { at });
        let known = self.cancelled(merchant);
        let Some(stored) = self.merchants.get_mut(&merchant) else {
            if let Some(at) = at.filter(|at| known.is_none_or(|known| *at > known)) {
                let until = self.now + 30 * DAY_MS;
                self.cancelled.insert(merchant, (at, until));
            }
            if let Some(entry) = entry {
                self.put(entry, DeliveryState::Pending);
            }
            return Answer::Missing;
        };
        let newest = stored.newest();
        let late = at.is_some_and(|at| at <= newest);
        if late || (at.is_none() && stored.revoked_at.is_some()) {
            return self.ignore(entry);
        }
        stored.revoked_at = Some(at.unwrap_or_else(|| self.now.max(newest + 1)));
        if let Some(entry) = entry {
            self.put(entry, DeliveryState::Pending);
        }
        Answer::Applied
    }

    /// Forgets what is old; tells how many entries, memos and `notify_id`s that were.
    pub(super) fn prune(&mut self, retain: i64) -> (usize, usize, usize) {
        let now = self.now;
        let memos = |model: &Self| model.memos.len() + model.cancelled.len();
        let before = (self.entries.len(), memos(self), self.known.len());
        self.entries.retain(|_, owed| match owed.state {
            DeliveryState::Pending => true,
            DeliveryState::Dead => owed.settled_at >= now - 30 * DAY_MS,
            DeliveryState::Delivered | DeliveryState::Ignored => owed.settled_at >= now - retain,
        });
        self.memos.retain(|_, (_, expires_at)| *expires_at >= now);
        self.cancelled.retain(|_, (_, until)| *until >= now);
        let remembered = now - retain.max(7 * DAY_MS);
        self.known.retain(|_, (_, at)| *at >= remembered);
        (
            before.0 - self.entries.len(),
            before.1 - memos(self),
            before.2 - self.known.len(),
        )
    }

    /// What may be attempted, and when the next one is due.
    pub(super) fn due(&self, limit: usize) -> (Vec<EventId>, Option<i64>) {
        let pending = || {
            self.entries
                .iter()
                .filter(|(_, o)| o.state == DeliveryState::Pending)
        };
        let is_first = |id: &EventId, owed: &Owed| {
            let order = owed.received.order;
            let mut of_order = pending().filter(|(_, other)| other.received.order == order);
            order.is_none() || of_order.next().is_some_and(|(first, _)| first == id)
        };
        let firsts = pending().filter(|(id, owed)| is_first(id, owed));
        let mut queue: Vec<_> = firsts.map(|(id, owed)| (owed.next_at, *id)).collect();
        let absurd = self.now + FARTHEST_MS;
        queue.sort_by_key(|(at, id)| (*at < absurd, *at, *id));
        let is_due = |(at, _): &&(i64, EventId)| *at >= absurd || *at <= self.now;
        let due = queue.iter().take_while(is_due).take(limit);
        let due: Vec<_> = due.map(|(_, id)| *id).collect();
        let next = queue.get(due.len()).map(|(at, _)| *at);
        (due, next.map(|at| if at >= absurd { self.now } else { at }))
    }
}
