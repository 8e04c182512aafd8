//! Pull instead of push: a backend claims what is due with a lease, and says what became of it.
//!
//! A lease is a change of the store: it counts an attempt and makes the entry due again when it
//! ends, so that nobody else has it meanwhile, and a restart changes nothing about that.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

pub use crate::delivery::pulled::Pulled;
use crate::delivery::search::Search;
use crate::delivery::whose::Whose;
use crate::delivery::{Inner, pulled, schedule};
use crate::model::delivery::{Attempt, AttemptError, Delivery, DeliveryState, Lease, Settlement};
use crate::model::id::EventId;
use crate::model::notification::InboxEntry;
use crate::net::hang_up::Watch;
use crate::store::error::StoreError;
use crate::store::{Change, Effect};

/// How much the bodies of one claim may have, bytes; the first is given whatever it has.
const CLAIM_BYTES: usize = 8 << 20;
/// The least time from a look that met what is due of others to the next one that nothing but time
/// asks for, and from one that met much of it to any.
const REST: Duration = Duration::from_secs(1);
/// The longest a claim that waits goes without a look: for a host that runs no dispatcher, which
/// would tell what arrived.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// Gives the inbox to backends that ask for it. Clones share it.
#[derive(Clone)]
pub struct Puller(pub(super) Arc<Inner>);

/// What is claimed.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// At most so many.
    pub max: usize,
    /// For how long; an hour at most.
    pub lease: Duration,
    /// How long to wait where nothing is due.
    pub wait: Duration,
}

/// Why something about a claim wasn't done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// Nobody has it on lease, or no longer.
    #[error(
        "event {0} isn't on that lease: it ended, or was acked or nacked; claim it again if it is owed"
    )]
    NotLeased(EventId),
    /// The store can't be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no such entry.
    #[error("the inbox has no event {0}; it may have been pruned after it was delivered")]
    Unknown(EventId),
}

/// What one look at the inbox gave.
#[derive(Default)]
struct Look {
    claimed: Vec<(InboxEntry, u32)>,
    lease_until: i64,
    /// Whether something was given up, so that there may be more at once.
    gave_up: bool,
    /// How long until the next is due.
    next: Option<Duration>,
}

impl Puller {
    /// Claims what is due and not being pushed, of what may be given, or waits for it.
    ///
    /// # Errors
    /// The store's.
    ///
    /// # Cancel safety
    /// What was claimed when the future is dropped comes again when its lease ends.
    pub async fn claim(&self, wanted: Claim, whose: &Whose) -> Result<Vec<Pulled>, StoreError> {
        self.claim_for(wanted, whose, Watch::default()).await
    }

    /// The same for who may hang up while it waits: then it ends, and claims nothing.
    pub(crate) async fn claim_for(
        &self,
        wanted: Claim,
        whose: &Whose,
        mut watch: Watch,
    ) -> Result<Vec<Pulled>, StoreError> {
        let mut news = self.0.news.subscribe();
        let end = Instant::now() + wanted.wait;
        loop {
            let is_closed = *news.borrow_and_update();
            let mut search = Search::new(&*self.0.store, whose);
            let look = self.pass(wanted, &mut search).await?;
            if look.gave_up && look.claimed.is_empty() {
                continue;
            }
            let now = Instant::now();
            if !look.claimed.is_empty() || is_closed || now >= end {
                return Ok(pulled::lay_out(&self.0, (look.claimed, look.lease_until)).await);
            }
            let mut sleep = look
                .next
                .map_or(LONGEST_SLEEP, |next| next.min(LONGEST_SLEEP));
            if search.met_others() {
                sleep = sleep.max(REST);
            }
            if search.was_long() {
                self.rest(end.min(now + REST)).await;
            }
            tokio::select! {
                biased;
                () = watch.over() => {}
                // The sender lives as long as this does.
                _ = news.changed() => {}
                () = tokio::time::sleep_until(end.min(now + sleep)) => {}
            }
            // Asked again: what woke it may have overtaken the news of that.
            if watch.is_over() {
                return Ok(Vec::new());
            }
        }
    }

    /// Records that the backend did what the event asked for, whatever became of the lease. Once
    /// is enough; a dead one is owed no longer, either.
    ///
    /// # Errors
    /// [`PullError::Unknown`] and [`PullError::Store`].
    ///
    /// # Cancel safety
    /// Dropping the future doesn't take it back.
    pub async fn ack(&self, id: EventId) -> Result<(), PullError> {
        let delivery = self.delivery(id).await?;
        if matches!(
            delivery.state,
            DeliveryState::Delivered | DeliveryState::Ignored
        ) {
            return Ok(());
        }
        let now = self.0.clock.now_ms();
        let lease = delivery.lease.unwrap_or(Lease {
            since: now,
            until: now,
        });
        self.settle(id, lease.ended(now, None), Settlement::Delivered)
            .await
    }

    /// Gives an event back: it can be claimed again at once, or is dead when the time to deliver
    /// it is over. Where it isn't on lease any more, or is being pushed since, nothing changes, unless
    /// `attempt` is given: then the lease has to be the one of that attempt.
    ///
    /// # Errors
    /// [`PullError`].
    ///
    /// # Cancel safety
    /// Dropping the future doesn't take it back.
    pub async fn nack(&self, id: EventId, attempt: Option<u32>) -> Result<(), PullError> {
        // Nobody else claims it before this is stored.
        let _turn = self.0.floor.turn().await;
        let mut delivery = self.delivery(id).await?;
        if self.0.floor.under_way().contains(&id) {
            // What is pushed was due: its lease had ended. What becomes of it now the push tells.
            delivery.lease = None;
        }
        let lease = check_attempt(&delivery, attempt)?;
        let (DeliveryState::Pending, Some(lease)) = (delivery.state, lease) else {
            return Ok(());
        };
        let now = self.0.clock.now_ms();
        let settlement = match self.is_over(&delivery, now) {
            true => Settlement::GivenUp,
            false => Settlement::RetryAt(now),
        };
        let attempt = lease.ended(now, Some(AttemptError::Nacked));
        self.settle(id, attempt, settlement).await
    }

    /// Lets a lease that stands end `lease` from now, and gives when that is, Unix milliseconds. If
    /// `attempt` is given, the lease has to be the one of that attempt.
    ///
    /// # Errors
    /// [`PullError`].
    ///
    /// # Cancel safety
    /// Dropping the future doesn't take it back.
    pub async fn extend(
        &self,
        id: EventId,
        (lease, attempt): (Duration, Option<u32>),
    ) -> Result<i64, PullError> {
        // The dispatcher may be about to push what it read as ended, and nobody else claims it
        // before this is stored.
        let _turn = self.0.floor.turn().await;
        if attempt.is_some() {
            check_attempt(&self.delivery(id).await?, attempt)?;
        }
        let now = self.0.clock.now_ms();
        let until = now.saturating_add(milliseconds(lease));
        let change = Change::Extend { id, now, until };
        match self.0.store.commit(vec![change]).await?.first() {
            Some(Effect::Applied) => Ok(until),
            Some(Effect::Missing) => Err(PullError::Unknown(id)),
            _ => Err(PullError::NotLeased(id)),
        }
    }

    /// Lets nobody wait any longer: claims answer with what there is.
    pub fn close(&self) {
        self.0.news.send_replace(true);
    }

    /// Waits until then, or until nobody may wait any longer.
    async fn rest(&self, until: Instant) {
        let mut news = self.0.news.subscribe();
        // Either of them is the end of it.
        let _ = tokio::time::timeout_at(until, news.wait_for(|is_closed| *is_closed)).await;
    }

    /// Looks until something is claimed, or there is nothing left to look at. Between two looks
    /// others have their turn.
    async fn pass(&self, wanted: Claim, search: &mut Search<'_>) -> Result<Look, StoreError> {
        let mut gave_up = false;
        loop {
            let mut look = self.look(wanted, search).await?;
            gave_up |= look.gave_up;
            look.gave_up = gave_up;
            if !look.claimed.is_empty() || search.is_over() || *self.0.news.borrow() {
                return Ok(look);
            }
        }
    }

    /// Chooses and leases.
    async fn look(&self, wanted: Claim, search: &mut Search<'_>) -> Result<Look, StoreError> {
        let inner = &self.0;
        let _turn = inner.floor.turn().await;
        let now = inner.clock.now_ms();
        let page = search.page((now, wanted.max), inner.floor.under_way());
        let found = page.await?;
        let lease = Lease {
            since: now,
            until: now.saturating_add(milliseconds(wanted.lease)),
        };
        let chosen = fitting(found.now.into_iter());
        let changes = chosen
            .iter()
            .map(|(_, delivery)| self.change(delivery, lease));
        let effects = match chosen.is_empty() {
            true => Vec::new(),
            false => inner.store.commit(changes.collect()).await?,
        };
        let mut look = Look {
            lease_until: lease.until,
            next: found.next_at.map(|at| until(at, now)),
            ..Look::default()
        };
        let applied = chosen.into_iter().zip(effects);
        let applied = applied.filter(|(_, effect)| matches!(effect, Effect::Applied));
        for ((entry, delivery), _) in applied {
            let is_lost = self.is_lost(&delivery);
            if delivery.lease.is_some() {
                report_lapse(inner, entry.id, is_lost);
            }
            if is_lost {
                look.gave_up = true;
            } else {
                look.claimed
                    .push((entry, delivery.attempts.saturating_add(1)));
            }
        }
        inner.metrics.claimed(look.claimed.len());
        Ok(look)
    }

    /// Checks that there is such an entry, for whoever asks.
    ///
    /// # Errors
    /// [`PullError::Unknown`], also where it is somebody else's, and [`PullError::Store`].
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    pub async fn check_given(&self, id: EventId, whose: &Whose) -> Result<(), PullError> {
        if matches!(whose, Whose::Everybodys) {
            return Ok(());
        }
        let found = self.0.store.entry(id).await?;
        let (entry, _) = found.ok_or(PullError::Unknown(id))?;
        match Search::new(&*self.0.store, whose).gives(&entry).await? {
            true => Ok(()),
            false => Err(PullError::Unknown(id)),
        }
    }

    /// Whether some of these are none that may be given.
    ///
    /// # Errors
    /// The store's.
    pub async fn are_beyond(&self, given: &[Pulled], whose: &Whose) -> Result<bool, StoreError> {
        let mut search = Search::new(&*self.0.store, whose);
        for pulled in given {
            if !search.gives(&pulled.entry).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The same of one, by its id; what doesn't exist is beyond nobody.
    ///
    /// # Errors
    /// The store's.
    pub async fn is_beyond(&self, id: EventId, whose: &Whose) -> Result<bool, StoreError> {
        let Some((entry, _)) = self.0.store.entry(id).await? else {
            return Ok(false);
        };
        let gives = Search::new(&*self.0.store, whose).gives(&entry).await?;
        Ok(!gives)
    }

    /// A new lease, or the end where the last one ended with the time to deliver.
    fn change(&self, delivery: &Delivery, lease: Lease) -> Change {
        match delivery.lease {
            Some(ended) if self.is_lost(delivery) => given_up(delivery, ended),
            _ => Change::Claim {
                id: delivery.id,
                lease,
            },
        }
    }

    fn is_lost(&self, delivery: &Delivery) -> bool {
        self.0.plan.load().is_lost(delivery)
    }

    fn is_over(&self, delivery: &Delivery, at: i64) -> bool {
        let patience = self.0.plan.load().give_up_after;
        may_be_lost(delivery) && schedule::is_over(delivery.owed_since, at, patience)
    }

    async fn delivery(&self, id: EventId) -> Result<Delivery, PullError> {
        let found = self.0.store.entry(id).await?;
        found
            .map(|(_, delivery)| delivery)
            .ok_or(PullError::Unknown(id))
    }

    async fn settle(
        &self,
        id: EventId,
        attempt: Attempt,
        settlement: Settlement,
    ) -> Result<(), PullError> {
        let error = attempt.error;
        let change = Change::Settle {
            id,
            attempt,
            // Whatever made it owed anew ended the lease.
            owed_since: None,
            settlement,
        };
        match self.0.store.commit(vec![change]).await?.first() {
            Some(Effect::Missing) => return Err(PullError::Unknown(id)),
            Some(Effect::Applied) => self.0.metrics.attempted(error),
            // Somebody else was first to say what became of it.
            _ => return Ok(()),
        }
        if settlement == Settlement::GivenUp {
            report_given_up(&self.0, id);
        }
        // What waits for it has its turn, and what was given back is due.
        self.0.wake.notify_one();
        self.0.tell();
        Ok(())
    }
}

impl std::fmt::Debug for Puller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Puller")
    }
}

/// Whether a delivery that is pulled may be given up at all: where nobody asked until the time to
/// deliver it was over, the first attempt mustn't be the last one, too.
pub(super) fn may_be_lost(delivery: &Delivery) -> bool {
    delivery.attempts >= schedule::LEAST_ATTEMPTS
}

/// The lease of a delivery, which has to be that of `attempt` where that is given.
fn check_attempt(delivery: &Delivery, attempt: Option<u32>) -> Result<Option<Lease>, PullError> {
    let is_of_attempt = delivery.state == DeliveryState::Pending
        && delivery.lease.is_some()
        && attempt == Some(delivery.attempts);
    match attempt.is_none() || is_of_attempt {
        true => Ok(delivery.lease),
        false => Err(PullError::NotLeased(delivery.id)),
    }
}

/// Counts a lease that ended without a word, and what that meant.
pub(super) fn report_lapse(inner: &Inner, id: EventId, is_lost: bool) {
    inner.metrics.attempted(Some(AttemptError::LeaseExpired));
    if is_lost {
        report_given_up(inner, id);
    }
}

fn report_given_up(inner: &Inner, event_id: EventId) {
    inner.metrics.gave_up();
    tracing::warn!(%event_id, "a pulled delivery is given up; `inbox replay` makes it owed again");
}

/// The end of a delivery whose last lease ended without a word.
fn given_up(delivery: &Delivery, lease: Lease) -> Change {
    Change::Settle {
        id: delivery.id,
        attempt: lease.lapsed(),
        owed_since: Some(delivery.owed_since),
        settlement: Settlement::GivenUp,
    }
}

/// The first of them, as many as one answer holds.
fn fitting(found: impl Iterator<Item = (InboxEntry, Delivery)>) -> Vec<(InboxEntry, Delivery)> {
    let mut bytes = 0;
    let fits = |(entry, _): &(InboxEntry, Delivery)| {
        let is_first = bytes == 0;
        // An entry without a body is small, and counts so that it can be the first.
        bytes += entry
            .body
            .as_ref()
            .map_or(1, |body| body.bytes.len().max(1));
        is_first || bytes <= CLAIM_BYTES
    };
    found.take_while(fits).collect()
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// How long it is from `now` until `at`, both Unix milliseconds.
fn until(at: i64, now: i64) -> Duration {
    Duration::from_millis(
        u64::try_from(at.saturating_sub(now))
            .unwrap_or_default()
            .max(1),
    )
}
