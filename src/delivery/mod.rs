//! The inbox goes to the backend: claim → attempt → settle.
//!
//! Invariants: an entry is attempted by one task at a time, pushed or pulled, and what an attempt
//! meant is durable before the entry is attempted again; nothing is taken off the inbox but by the
//! store.
//!
//! An entry that no route fits while there is no `delivery.url` stays in the inbox: it can be
//! pulled, and is looked at again when the configuration changes, and every ten minutes; then it is also
//! told again that there is one. The dispatcher remembers such entries (a hundred at most) so as not to look at
//! them over and over; further ones, and those that others of their order stand behind, are parked, and what is
//! owed to a backend that hangs is put off, so that neither is in the way of the rest. Parked ones of an order
//! are looked at where they may have a route by then, because the routes changed or ask for merchants, and are
//! written where they have; all of them once an hour.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, watch};

use crate::clock::Clock;
use crate::config::delivery::{AuthorizationDelivery, DeliveryConfig, DeliveryFormat};
use crate::install_key::InstallKey;
use crate::model::delivery::Delivery;
use crate::model::notification::{DeliveryForm, InboxEntry};
use crate::net::client::Client;
use crate::store::Store;
use crate::telemetry::span::Tracer;

pub mod advice;
pub mod ask;
mod attempt;
mod brake;
mod claim;
mod floor;
pub(crate) mod glob;
mod lanes;
pub mod metrics;
mod outgoing;
pub mod pull;
mod pulled;
mod redaction;
mod routes;
pub mod schedule;
mod search;
mod settle;
mod signed_anew;
mod webhook_signature;
pub mod whose;

use ask::Asker;
use claim::Desk;
use floor::Floor;
use metrics::DeliveryMetrics;
use pull::Puller;
use routes::Routes;
use webhook_signature::WebhookSigner;

/// How much longer than the longest timeout attempts may go on once the end was signalled: what
/// became of them is still to be stored.
const BEYOND_TIMEOUT: Duration = Duration::from_secs(2);
/// How long they may go on at the most, whatever their timeouts: the end of a whole sidecar, which is
/// bounded, is then a clean one. They are made again.
const LONGEST_END: Duration = Duration::from_secs(20);

/// Hands the inbox to the backend.
pub struct Dispatcher(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    metrics: DeliveryMetrics,
    plan: ArcSwap<Plan>,
    wake: Arc<Notify>,
    /// Tells every claim that waits; the value: whether none may wait any longer.
    news: watch::Sender<bool>,
    floor: Floor,
}

impl Inner {
    /// Lets claims that wait look again.
    fn tell(&self) {
        self.news.send_modify(|_| ());
    }
}

/// By what means deliveries go out.
#[derive(Clone)]
pub struct Means {
    /// Reaches backends.
    pub client: Client,
    /// Signs forms anew; `None`: they go out as Alipay sent them.
    pub install_key: Option<InstallKey>,
    /// Records attempts for a collector of traces.
    pub tracer: Tracer,
}

/// The configuration, ready for use; replaced as a whole.
struct Plan {
    means: Means,
    routes: Routes,
    /// The form of what no route fits.
    format: DeliveryFormat,
    /// Whether Alipay's own messages about authorisations may go out, tokens and all.
    authorization: AuthorizationDelivery,
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
        let means = Means {
            client,
            install_key: None,
            tracer: Tracer::default(),
        };
        Self(Arc::new(Inner {
            store,
            clock,
            metrics,
            plan: ArcSwap::from_pointee(Plan::new(config, means)),
            wake: Arc::new(Notify::new()),
            news: watch::Sender::new(false),
            floor: Floor::default(),
        }))
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

    /// Gives the same inbox to backends that ask for it.
    #[must_use]
    pub fn puller(&self) -> Puller {
        Puller(Arc::clone(&self.0))
    }

    /// Looks at the inbox now.
    pub fn wake(&self) {
        self.0.wake.notify_one();
    }

    /// Goes on with another configuration; attempts under way end as they began.
    pub fn reconfigure(&self, config: &DeliveryConfig) {
        let means = self.0.plan.load().means.clone();
        self.reconfigure_with(config, means);
    }

    /// The same by other means.
    pub fn reconfigure_with(&self, config: &DeliveryConfig, means: Means) {
        self.0.plan.store(Arc::new(Plan::new(config, means)));
        self.wake();
    }

    /// Delivers until `shutdown`, then lets running attempts end, each by the timeout of its route,
    /// and within 20 s.
    /// Whoever can't wait that long drops the future. To be run once at a time: two would deliver everything twice.
    ///
    /// # Cancel safety
    /// Dropping the future breaks running attempts off; they are made again when it runs anew.
    pub async fn run(&self, shutdown: impl Future<Output = ()> + Send) {
        self.0.news.send_replace(false);
        let mut desk = Desk::new(Arc::clone(&self.0));
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let pause = desk.claim_unless_bug().await;
            tokio::select! {
                () = &mut shutdown => break,
                () = self.0.wake.notified() => self.0.tell(),
                () = desk.finished() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.puller().close();
        // What is still running then is broken off with the desk.
        let longest = self.0.plan.load().routes.longest_timeout();
        let at_most = longest.saturating_add(BEYOND_TIMEOUT).min(LONGEST_END);
        let _ = tokio::time::timeout(at_most, desk.drained()).await;
    }
}

impl Plan {
    fn new(config: &DeliveryConfig, means: Means) -> Self {
        Self {
            means,
            routes: Routes::new(config),
            format: config.format,
            authorization: config.authorization,
            signer: config.signing_secret.as_ref().map(WebhookSigner::new),
            give_up_after: config.give_up_after,
        }
    }

    /// The entry as it goes out now. What was to go out as Alipay sent it when it came goes out without
    /// tokens where these aren't handed on any more: as the event that it led to, else redacted.
    fn present(&self, entry: InboxEntry) -> InboxEntry {
        if entry.form != DeliveryForm::Verbatim
            || self.authorization != AuthorizationDelivery::Event
        {
            return entry;
        }
        match &entry.event {
            Some(event) => InboxEntry {
                event_type: event.event_type.clone(),
                form: DeliveryForm::Event,
                ..entry
            },
            None => InboxEntry {
                form: DeliveryForm::Redacted,
                ..entry
            },
        }
    }

    /// Whether the last lease of a delivery ended with the time to deliver it, and wasn't the only
    /// one.
    fn is_lost(&self, delivery: &Delivery) -> bool {
        let ended = delivery.lease.map(|lease| lease.until);
        pull::may_be_lost(delivery)
            && ended
                .is_some_and(|at| schedule::is_over(delivery.owed_since, at, self.give_up_after))
    }
}

impl std::fmt::Debug for Means {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Means")
    }
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dispatcher")
    }
}
