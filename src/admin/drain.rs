//! Takes the sidecar out of service while its process stays: new work is refused, what is under
//! way ends, and what was stored is durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use schemars::JsonSchema;
use serde::Serialize;

use crate::audit::Audit;
use crate::delivery::pull::Puller;
use crate::net::shutdown::{Ending, EndingHand, Gate, Stage};
use crate::proxy::Proxy;
use crate::store::Store;
use crate::store::error::StoreError;
use crate::token::Tokens;
use crate::webhook::Webhook;

/// The end of a sidecar's work. Clones share it.
#[derive(Clone)]
pub struct Drain(Arc<Inner>);

struct Inner {
    parts: DrainParts,
    work: ArcSwapOption<Work>,
    /// The log has it that all is done.
    is_told: AtomicBool,
}

/// How often the log is told what is left: nobody watches an end for longer without a word.
const TOLD_EVERY: Duration = Duration::from_secs(3);

/// Who works, by the configuration in force. What is under way by one before it is known to them,
/// too.
#[derive(Debug, Clone)]
pub struct Work {
    /// Holds the calls and the requests for events under way.
    pub proxy: Proxy,
    /// Holds the exchanges and refreshes under way.
    pub tokens: Tokens,
    /// Holds its requests under way, and what it refused and hasn't written yet.
    pub webhook: Webhook,
}

/// What [`Drain`] works with.
pub struct DrainParts {
    /// Holds what was told and isn't written yet.
    pub audit: Audit,
    /// Moves on what `ending` tells.
    pub hand: EndingHand,
    /// From `Leaving` on nothing new is begun by itself, from `Deaf` on calls and notifications
    /// are refused.
    pub ending: Ending,
    /// Holds whoever delivers.
    pub deliveries: Gate,
    /// Holds the backends that wait for something to claim.
    pub puller: Puller,
    /// Where what was accepted becomes durable.
    pub store: Arc<dyn Store>,
}

/// How far a drain has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Progress {
    /// Whether it was begun.
    pub draining: bool,
    /// Nothing is under way, and what was stored is durable.
    pub drained: bool,
    /// Calls that still wait for Alipay.
    pub calls: usize,
    /// Requests of Alipay that aren't answered yet.
    pub notifications: usize,
    /// No delivery to the backend is under way, and none will begin.
    pub deliveries_ended: bool,
}

impl Drain {
    /// A drain that hasn't begun.
    #[must_use]
    pub fn new(parts: DrainParts) -> Self {
        Self(Arc::new(Inner {
            parts,
            work: ArcSwapOption::empty(),
            is_told: AtomicBool::new(false),
        }))
    }

    /// From now on these work.
    pub fn follow(&self, work: Work) {
        self.0.work.store(Some(Arc::new(work)));
    }

    /// Nothing new is begun by itself from now on; `/readyz` says so.
    pub fn leave(&self) {
        self.0.parts.hand.reach(Stage::Leaving);
        // Claims that wait would hold the proxy's connections open.
        self.0.parts.puller.close();
    }

    /// Refuses new calls and notifications from now on, for good.
    pub fn refuse(&self) {
        self.leave();
        self.0.parts.hand.reach(Stage::Deaf);
    }

    /// Tells how far the end has come.
    #[must_use]
    pub fn ending(&self) -> &Ending {
        &self.0.parts.ending
    }

    /// Counts who delivers.
    #[must_use]
    pub fn deliveries(&self) -> &Gate {
        &self.0.parts.deliveries
    }

    /// Ends once nothing is under way and what was stored is durable.
    ///
    /// # Errors
    /// [`StoreError`]: the store can't be written, so whether the last writes are durable isn't
    /// known.
    ///
    /// # Cancel safety
    /// Safe: it only watches.
    pub async fn finished(&self) -> Result<(), StoreError> {
        let parts = &self.0.parts;
        if let Some(work) = self.0.work.load_full() {
            work.webhook.under_way().emptied().await;
            work.webhook.flush().await;
            work.proxy.idle().await;
            work.tokens.idle().await;
        }
        parts.deliveries.emptied().await;
        parts.audit.finished().await;
        // The writer takes its work in order: once this empty commit is answered, all before it
        // are durable.
        parts.store.commit(Vec::new()).await.map(drop)
    }

    /// Refuses new work, and says how far the end has come by `patience`.
    ///
    /// # Errors
    /// As [`Self::finished`].
    ///
    /// # Cancel safety
    /// Safe: the drain goes on.
    pub async fn drain(&self, patience: Duration) -> Result<Progress, StoreError> {
        self.begin();
        let finished = self.told_until(self.finished());
        let drained = match tokio::time::timeout(patience, finished).await {
            Ok(finished) => self.tell_end(finished)?,
            Err(_) => {
                self.tell_left();
                false
            }
        };
        Ok(Progress {
            drained,
            ..self.progress()
        })
    }

    fn begin(&self) {
        let is_first = self.0.parts.ending.stage() < Stage::Deaf;
        self.refuse();
        if is_first {
            let left = self.progress();
            tracing::info!(
                calls = left.calls,
                notifications = left.notifications,
                "a drain begins: new calls and notifications are refused, what is under way ends"
            );
        }
    }

    /// Waits for `end`, and tells the log every few seconds what is left.
    pub(crate) async fn told_until<T>(&self, end: impl Future<Output = T> + Send) -> T {
        let mut ticks = tokio::time::interval(TOLD_EVERY);
        // The first comes at once.
        ticks.tick().await;
        let telling = async {
            loop {
                ticks.tick().await;
                self.tell_left();
            }
        };
        tokio::select! {
            ended = end => ended,
            never = telling => match never {},
        }
    }

    fn tell_left(&self) {
        let left = self.progress();
        tracing::info!(
            calls = left.calls,
            notifications = left.notifications,
            deliveries_ended = left.deliveries_ended,
            "still ending what is under way"
        );
    }

    fn tell_end(&self, finished: Result<(), StoreError>) -> Result<bool, StoreError> {
        match &finished {
            Ok(()) if !self.0.is_told.swap(true, Ordering::Relaxed) => {
                tracing::info!("drained: nothing is under way, and what was stored is durable");
            }
            Ok(()) => {}
            Err(error) => {
                tracing::error!(%error, "the drain didn't end: the store takes no writes")
            }
        }
        finished.map(|()| true)
    }

    fn progress(&self) -> Progress {
        let Inner { parts, work, .. } = &*self.0;
        let work = work.load();
        let work = work.as_deref();
        Progress {
            draining: parts.ending.stage() >= Stage::Leaving,
            drained: false,
            calls: work.map_or(0, |work| work.proxy.under_way()),
            notifications: work.map_or(0, |work| work.webhook.under_way().inside()),
            deliveries_ended: parts.deliveries.inside() == 0,
        }
    }
}

impl std::fmt::Debug for Drain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Drain({:?})", self.progress())
    }
}
