//! What is refused, on its way into the store.
//!
//! Anybody can send what is refused. So nobody waits for it to be kept, and a flood of it costs
//! neither memory nor disk without bound: it queues within [`QUEUE`], where whoever sends much
//! displaces himself, and is written in groups with a pause behind each. What is lost so is counted;
//! what was Alipay's comes again.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use sha2::{Digest as _, Sha256};

use crate::model::id::EventId;
use crate::model::quarantine::{Bounds, Place};
use crate::model::refused::{RefusalKind, RefusedNotification};
use crate::protocol::notification::UnverifiedNotification;
use crate::store::{Change, Effect, Store};
use crate::webhook::app_gateway::Arrival;
use crate::webhook::metrics::{Dropped, SERVICE_CHECK, WebhookMetrics};

/// What may wait for the next write: more than an app with a wrong key gets in a second, and little
/// enough to be one small transaction.
const QUEUE: Bounds = Bounds {
    places: 100,
    bytes: 4 << 20,
    share: 2,
};

/// The largest body that is kept, bytes: `webhook.max_body` by default, and many times what any
/// notification has.
const LARGEST: usize = 1 << 20;

/// The pause after a write: at most one disk write a second, whatever comes.
const PAUSE: Duration = Duration::from_secs(1);

/// How many bytes a second may be written in the long run: a flood of large bodies must not wear the
/// disk.
const BYTES_PER_SECOND: u64 = 256 << 10;

/// How much of what a notification claims of itself is kept as such, characters.
const LONGEST_CLAIM: usize = 128;

/// Keeps refused notifications. Clones share the queue.
#[derive(Clone)]
pub(super) struct Quarantine(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    metrics: WebhookMetrics,
    queue: Mutex<Queue>,
    /// Held from the taking to the end of the write, so that who flushes waits for a write under way.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<RefusedNotification>,
    /// Whether a task writes what waits.
    is_written: bool,
}

impl Quarantine {
    pub(super) fn new(store: Arc<dyn Store>, metrics: WebhookMetrics) -> Self {
        Self(Arc::new(Inner {
            store,
            metrics,
            queue: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        }))
    }

    /// Puts a refused notification into the queue, if it has anything to keep. Doesn't wait.
    pub(super) fn offer(
        &self,
        id: EventId,
        sender: &str,
        arrival: &Arrival,
        (refusal, reason): (RefusalKind, String),
    ) {
        if arrival.body.is_empty() {
            return;
        }
        if arrival.body.len() > LARGEST {
            self.0.metrics.count_dropped(Dropped::TooLarge, 1);
            return;
        }
        let refused = RefusedNotification {
            id,
            received_at: arrival.now,
            last_received_at: arrival.now,
            times: 1,
            peer: sender.to_owned(),
            notify_path: arrival.notify_path.clone(),
            content_type: arrival.content_type.clone(),
            // A slice of its own: the one that came may hold a whole read buffer.
            body: Bytes::copy_from_slice(&arrival.body),
            refusal,
            reason,
            app_id: None,
            notify_id: None,
            event_type: None,
            content: [0; 32],
        };
        if self.0.enqueue(refused) {
            tokio::spawn(Writer(Arc::downgrade(&self.0)).write());
        }
    }

    /// Writes what waits, without a pause; ends once all that was offered before is kept or counted.
    pub(super) async fn flush(&self) {
        let _turn = self.0.writing.lock().await;
        let waiting = std::mem::take(&mut self.0.queue().waiting);
        self.0.keep(waiting).await;
    }
}

impl Inner {
    /// Whether a task has to be started.
    fn enqueue(&self, refused: RefusedNotification) -> bool {
        let mut queue = self.queue();
        queue.waiting.push(refused);
        let networks: Vec<String> = queue.waiting.iter().map(|r| r.network()).collect();
        let places = queue.waiting.iter().zip(&networks);
        let places = places.map(|(refused, network)| Place {
            id: refused.id,
            network: network.as_str(),
            standing: refused.refusal.standing(),
            came_again: refused.came_again(),
            bytes: size(refused),
        });
        let displaced = QUEUE.displaced(places.collect());
        if !displaced.is_empty() {
            queue
                .waiting
                .retain(|refused| !displaced.contains(&refused.id));
            self.metrics
                .count_dropped(Dropped::Burst, count(&displaced));
        }
        !std::mem::replace(&mut queue.is_written, true)
    }

    /// What waits; where nothing does, the task that asks is done.
    fn next(&self) -> Option<Vec<RefusedNotification>> {
        let mut queue = self.queue();
        queue.is_written = !queue.waiting.is_empty();
        queue.is_written.then(|| std::mem::take(&mut queue.waiting))
    }

    async fn keep(&self, refused: Vec<RefusedNotification>) {
        if refused.is_empty() {
            return;
        }
        let offered = count(&refused);
        // Reading a hundred bodies takes a while: not on a thread that others wait for.
        let read = tokio::task::spawn_blocking(move || -> Vec<Change> {
            let kept = refused.into_iter().filter_map(with_claims);
            kept.map(|refused| Change::Refuse(Box::new(refused)))
                .collect()
        });
        let committed = match read.await {
            Ok(changes) => self.commit(changes).await,
            Err(_) => Err("a bug stopped the reading of them".to_owned()),
        };
        match committed {
            Ok(effects) => effects.iter().for_each(|effect| self.count(effect)),
            Err(error) => {
                self.metrics.count_dropped(Dropped::Store, offered);
                tracing::warn!(error, offered, "refused notifications can't be kept");
            }
        }
    }

    async fn commit(&self, changes: Vec<Change>) -> Result<Vec<Effect>, String> {
        let commit = async { self.store.commit(changes).await };
        match AssertUnwindSafe(commit).catch_unwind().await {
            Ok(committed) => committed.map_err(|error| error.to_string()),
            Err(_) => Err("a bug ended the writing of them".to_owned()),
        }
    }

    fn count(&self, effect: &Effect) {
        match effect {
            Effect::Displaced(count) => self.metrics.count_dropped(Dropped::Displaced, *count),
            Effect::Full => self.metrics.count_dropped(Dropped::Full, 1),
            _ => {}
        }
    }

    /// Nothing that can panic runs under the lock.
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever writes. Where it is broken off, with its runtime, somebody else can write afterwards.
struct Writer(Weak<Inner>);

impl Writer {
    /// Writes until nothing waits. During the pauses it holds nothing: a sidecar that ends takes its
    /// store with it.
    async fn write(mut self) {
        while let Some(strong) = self.0.upgrade() {
            let turn = strong.writing.lock().await;
            let Some(waiting) = strong.next() else {
                // Another may have begun by now: its mark isn't ours to take away.
                self.0 = Weak::new();
                return;
            };
            let bytes: u64 = waiting.iter().map(size).sum();
            strong.keep(waiting).await;
            drop(turn);
            drop(strong);
            let millis = bytes.saturating_mul(1000) / BYTES_PER_SECOND;
            tokio::time::sleep(PAUSE + Duration::from_millis(millis)).await;
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(inner) = self.0.upgrade() {
            inner.queue().is_written = false;
        }
    }
}

/// Reads what it says of itself. `None` for a check of the gateway, which waits for an answer and is
/// of no use later.
fn with_claims(refused: RefusedNotification) -> Option<RefusedNotification> {
    let parsed = UnverifiedNotification::parse(refused.content_type.as_deref(), &refused.body);
    let Ok(parsed) = parsed else {
        let content = Sha256::digest(&refused.body).into();
        return Some(RefusedNotification { content, ..refused });
    };
    let event_type = parsed.claimed_event_type();
    if event_type == SERVICE_CHECK {
        return None;
    }
    Some(RefusedNotification {
        app_id: parsed.claimed_app_id().map(claim),
        notify_id: parsed.claimed_notify_id().map(claim),
        event_type: Some(claim(event_type)).filter(|text| !text.is_empty()),
        content: Sha256::digest(parsed.lasting_content()).into(),
        ..refused
    })
}

/// The beginning of a claim, fit for a terminal: nobody vouches for what stands in it.
fn claim(text: &str) -> String {
    let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(LONGEST_CLAIM).map(visible).collect()
}

fn size(refused: &RefusedNotification) -> u64 {
    u64::try_from(refused.body.len()).unwrap_or(u64::MAX)
}

fn count<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}
