//! The inbox goes to the backend: claim → attempt → settle.
//!
//! Invariants: an entry is attempted by one task at a time, and what an attempt meant is durable
//! before the entry is attempted again; nothing is taken off the inbox but by the store.
//!
//! An entry that no route fits while there is no `delivery.url` stays in the inbox: it can be
//! pulled, and is looked at again when the configuration changes. The dispatcher remembers such
//! entries (a hundred at most) so as not to look at them over and over; further ones are put off,
//! and so is what is owed to a backend that hangs, so that neither is in the way of the rest.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::config::delivery::DeliveryConfig;
use crate::install_key::InstallKey;
use crate::net::client::Client;
use crate::store::Store;

pub mod ask;
mod attempt;
mod claim;
mod glob;
mod lanes;
pub mod metrics;
mod outgoing;
mod redaction;
mod routes;
pub mod schedule;
mod settle;
mod signed_anew;
mod webhook_signature;

use ask::Asker;
use claim::Desk;
use metrics::DeliveryMetrics;
use routes::Routes;
use webhook_signature::WebhookSigner;

/// How long attempts may go on once the end was signalled: the default `delivery.timeout`.
const DRAIN: Duration = Duration::from_secs(15);

/// Hands the inbox to the backend.
pub struct Dispatcher(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    client: Client,
    clock: Arc<dyn Clock>,
    metrics: DeliveryMetrics,
    plan: ArcSwap<Plan>,
    wake: Arc<Notify>,
    install_key: OnceLock<InstallKey>,
}

/// The configuration, ready for use; replaced as a whole.
struct Plan {
    routes: Routes,
    signer: Option<WebhookSigner>,
    give_up_after: Duration,
}

impl Dispatcher {
    /// A dispatcher that hasn't begun.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        client: Client,
        clock: Arc<dyn Clock>,
        config: &DeliveryConfig,
        metrics: DeliveryMetrics,
    ) -> Self {
        Self(Arc::new(Inner {
            store,
            client,
            clock,
            metrics,
            plan: ArcSwap::from_pointee(Plan::new(config)),
            wake: Arc::new(Notify::new()),
            install_key: OnceLock::new(),
        }))
    }

    /// The same, which signs forms anew with `key`, if there is one; without it they go out as
    /// Alipay sent them. The first key counts.
    #[must_use]
    pub fn with_install_key(self, key: Option<InstallKey>) -> Self {
        if let Some(key) = key {
            // A second one would be a second key for the backends.
            let _ = self.0.install_key.set(key);
        }
        self
    }

    /// What to tell (`notify_one`) when an entry became owed: for the webhook, tokens and whoever
    /// replays.
    #[must_use]
    pub fn waker(&self) -> Arc<Notify> {
        Arc::clone(&self.0.wake)
    }

    /// Asks the same backends what can't wait in the inbox.
    #[must_use]
    pub fn asker(&self) -> Asker {
        Asker(Arc::clone(&self.0))
    }

    /// Looks at the inbox now.
    pub fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// Goes on with another configuration; attempts under way end as they began.
    pub fn reconfigure(&self, config: &DeliveryConfig) {
        self.0.plan.store(Arc::new(Plan::new(config)));
        self.wake();
    }

    /// Delivers until `shutdown`, then lets running attempts end, for 15 s at most. To be
    /// run once at a time: two would deliver everything twice.
    ///
    /// # Cancel safety
    /// Dropping the future breaks running attempts off; they are made again when it runs anew.
    pub async fn run(&self, shutdown: impl Future<Output = ()> + Send) {
        let mut desk = Desk::new(Arc::clone(&self.0));
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let pause = desk.claim().await;
            tokio::select! {
                () = &mut shutdown => break,
                () = self.0.wake.notified() => {}
                () = desk.finished() => {}
                () = pause.over() => {}
            }
        }
        // What is still running then is broken off with the desk.
        let _ = tokio::time::timeout(DRAIN, desk.drained()).await;
    }
}

impl Plan {
    fn new(config: &DeliveryConfig) -> Self {
        Self {
            routes: Routes::new(config),
            signer: config.signing_secret.as_ref().map(WebhookSigner::new),
            give_up_after: config.give_up_after,
        }
    }
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dispatcher")
    }
}
