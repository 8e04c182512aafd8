//! Choosing what is attempted, so that no entry is attempted twice at once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};

use crate::delivery::routes::Known;
use crate::delivery::{AT_ONCE, Inner, Plan, UNROUTABLE, settle};
use crate::model::delivery::Delivery;
use crate::model::id::EventId;
use crate::model::notification::InboxEntry;
use crate::store::error::StoreError;
use crate::store::{Due, MerchantKey};

/// The longest sleep: whatever became owed without a word to us is seen after that.
const LONGEST_SLEEP: Duration = Duration::from_secs(30);
/// The pause after the store couldn't be read.
const STORE_PAUSE: Duration = Duration::from_secs(1);

/// The attempts under way.
pub(super) struct Desk {
    inner: Arc<Inner>,
    running: JoinSet<()>,
    entries: HashMap<Id, EventId>,
    /// Not to be attempted under this plan: no route fits, or the attempt met a bug of ours.
    aside: HashSet<EventId>,
    plan: Arc<Plan>,
}

/// How long there is nothing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// For this long.
    For(Duration),
    /// Until an attempt ends or somebody wakes us.
    Open,
}

impl Pause {
    pub(super) async fn over(self) {
        match self {
            Self::For(pause) => tokio::time::sleep(pause).await,
            Self::Open => std::future::pending().await,
        }
    }
}

impl Desk {
    pub(super) fn new(inner: Arc<Inner>) -> Self {
        Self {
            plan: inner.plan.load_full(),
            inner,
            running: JoinSet::new(),
            entries: HashMap::new(),
            aside: HashSet::new(),
        }
    }

    /// Starts what is due, as far as there is room, and says when to look again.
    pub(super) async fn claim(&mut self) -> Pause {
        self.follow_plan();
        let free = AT_ONCE.saturating_sub(self.running.len());
        if free == 0 || self.plan.routes.is_empty() {
            return Pause::Open;
        }
        let now = self.inner.clock.now_ms();
        // Entries under way and set aside are still pending, so they come again.
        let limit = free + self.running.len() + self.aside.len();
        let due = match self.inner.store.due(now, limit).await {
            Ok(due) => due,
            Err(error) => {
                tracing::warn!(%error, "the inbox can't be read; deliveries wait");
                return Pause::For(STORE_PAUSE);
            }
        };
        let pause = pause(&due, now);
        let known: HashSet<EventId> = self.entries.values().copied().collect();
        let fresh = due
            .now
            .into_iter()
            .filter(|(entry, _)| !known.contains(&entry.id) && !self.aside.contains(&entry.id));
        for (entry, delivery) in fresh.take(free).collect::<Vec<_>>() {
            self.start(entry, delivery).await;
        }
        if self.running.len() >= AT_ONCE {
            return Pause::Open;
        }
        pause
    }

    /// Ends when at least one attempt has; never while none is under way.
    pub(super) async fn finished(&mut self) {
        match self.running.join_next_with_id().await {
            None => std::future::pending().await,
            Some(ended) => self.ended(ended),
        }
        while let Some(ended) = self.running.try_join_next_with_id() {
            self.ended(ended);
        }
    }

    /// Ends when no attempt is under way.
    pub(super) async fn drained(&mut self) {
        while let Some(ended) = self.running.join_next_with_id().await {
            self.ended(ended);
        }
    }

    fn follow_plan(&mut self) {
        let plan = self.inner.plan.load_full();
        if !Arc::ptr_eq(&plan, &self.plan) {
            self.plan = plan;
            self.aside.clear();
        }
    }

    async fn start(&mut self, entry: InboxEntry, delivery: Delivery) {
        let known = match self.known(&entry).await {
            Ok(known) => known,
            Err(error) => {
                // The next look comes with the longest sleep at the latest.
                tracing::warn!(%error, event_id = %entry.id, "the merchant can't be looked up");
                return;
            }
        };
        if self.plan.routes.target(&entry, &known).is_none() {
            self.set_aside(entry.id);
            return;
        }
        let id = entry.id;
        let owed = settle::Owed {
            entry,
            delivery,
            known,
            plan: Arc::clone(&self.plan),
        };
        let task = self
            .running
            .spawn(settle::deliver(Arc::clone(&self.inner), owed));
        self.entries.insert(task.id(), id);
    }

    async fn known(&self, entry: &InboxEntry) -> Result<Known, StoreError> {
        let Some(auth_app_id) = &entry.auth_app_id else {
            return Ok(Known::default());
        };
        if !self.plan.routes.need_merchant() {
            return Ok(Known::default());
        }
        let key = MerchantKey::Exact(entry.app_id.clone(), auth_app_id.clone());
        let merchant = self.inner.store.find(key).await?.pop();
        Ok(merchant.map_or_else(Known::default, |merchant| Known {
            alias: merchant.alias,
            pid: merchant.pid,
        }))
    }

    fn set_aside(&mut self, id: EventId) {
        if self.aside.len() < UNROUTABLE {
            self.aside.insert(id);
        }
        if self.aside.len() == 1 || self.aside.len() == UNROUTABLE {
            tracing::warn!(
                event_id = %id,
                "no [[delivery.route]] fits and delivery.url is empty; the entry stays in the inbox"
            );
        }
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let task = match &ended {
            Ok((task, ())) => *task,
            Err(error) => error.id(),
        };
        let entry = self.entries.remove(&task);
        if let (Err(error), Some(id)) = (ended, entry)
            && error.is_panic()
        {
            tracing::error!(event_id = %id, "a delivery was given up because of a bug in it");
            self.set_aside(id);
        }
    }
}

fn pause(due: &Due, now: i64) -> Pause {
    let until_next = due
        .next_at
        .map(|at| u64::try_from(at.saturating_sub(now)).unwrap_or(0))
        .map(|ms| Duration::from_millis(ms.max(1)));
    Pause::For(until_next.map_or(LONGEST_SLEEP, |next| next.min(LONGEST_SLEEP)))
}
