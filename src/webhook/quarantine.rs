//! What is refused, on its way into the store.
//!
//! Anybody can send what is refused. So nobody waits for it to be kept, and a flood of it costs
//! neither memory nor disk without bound: it queues within [`QUEUE`], where whoever sends much
//! displaces himself, and is written in groups with a pause behind each. What is lost so is counted;
//! what was Alipay's comes again.

use std::collections::{HashMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use sha2::{Digest as _, Sha256};

use crate::audit::entry::is_reordering;
use crate::model::id::EventId;
use crate::model::quarantine::{Bounds, Place};
use crate::model::refused::{RefusalKind, RefusedNotification};
use crate::protocol::notification::UnverifiedNotification;
use crate::store::{Change, Effect, Store};
use crate::webhook::app_gateway::Arrival;
use crate::webhook::metrics::{Dropped, SERVICE_CHECK, WebhookMetrics};

/// What may wait for the next write: as many as are kept, so that a burst from one address gets all
/// the places that it may have.
const QUEUE: Bounds = Bounds {
    places: 1000,
    bytes: 4 << 20,
    share: 2,
};

/// How many of them are written at once: a small transaction, since acks wait behind it.
const AT_ONCE: usize = 100;

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
    /// What each network has of it: places and bytes.
    networks: HashMap<String, (usize, u64)>,
    /// Whether a task writes what waits.
    is_written: bool,
}

impl Queue {
    /// Gives how many lose their place for it, or that it gets none.
    fn push(&mut self, refused: RefusedNotification) -> u64 {
        let network = refused.network();
        let (places, bytes) = self.networks.entry(network).or_default();
        (*places, *bytes) = (*places + 1, bytes.saturating_add(size(&refused)));
        let is_fair = QUEUE.is_a_share(*places, *bytes);
        self.waiting.push(refused);
        let bytes = self.networks.values().map(|(_, bytes)| bytes).sum();
        if is_fair && QUEUE.is_within(self.waiting.len(), bytes) {
            return 0;
        }
        let networks: Vec<String> = self.waiting.iter().map(|r| r.network()).collect();
        let places = self.waiting.iter().zip(&networks);
        let places = places.map(|(refused, network)| Place {
            id: refused.id,
            network: network.as_str(),
            standing: refused.refusal.standing(),
            came_again: refused.came_again(),
            bytes: size(refused),
        });
        let displaced: HashSet<_> = QUEUE.displaced(places.collect()).into_iter().collect();
        let before = self.waiting.len();
        self.waiting
            .retain(|refused| !displaced.contains(&refused.id));
        self.count_networks();
        u64::try_from(before - self.waiting.len()).unwrap_or(u64::MAX)
    }

    fn count_networks(&mut self) {
        self.networks.clear();
        for refused in &self.waiting {
            let (places, bytes) = self.networks.entry(refused.network()).or_default();
            (*places, *bytes) = (*places + 1, bytes.saturating_add(size(refused)));
        }
    }

    /// The oldest of them, `most` at most.
    fn take(&mut self, most: usize) -> Vec<RefusedNotification> {
        let taken = self.waiting.drain(..self.waiting.len().min(most)).collect();
        self.count_networks();
        taken
    }
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
            notify_query: arrival.notify_query.clone(),
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
        let waiting = self.0.queue().take(usize::MAX);
        self.0.keep(waiting).await;
    }
}

impl Inner {
    /// Whether a task has to be started.
    fn enqueue(&self, refused: RefusedNotification) -> bool {
        let mut queue = self.queue();
        let displaced = queue.push(refused);
        self.metrics.count_dropped(Dropped::Burst, displaced);
        !std::mem::replace(&mut queue.is_written, true)
    }

    /// What waits; where nothing does, the task that asks is done.
    fn next(&self) -> Option<Vec<RefusedNotification>> {
        let mut queue = self.queue();
        queue.is_written = !queue.waiting.is_empty();
        queue.is_written.then(|| queue.take(AT_ONCE))
    }

    async fn keep(&self, refused: Vec<RefusedNotification>) {
        if refused.is_empty() {
            return;
        }
        let offered = count(&refused);
        // Reading hundreds of bodies takes a while: not on a thread that others wait for.
        let read = tokio::task::spawn_blocking(move || -> Vec<Change> {
            let kept = refused.into_iter().filter_map(with_claims);
            kept.map(|refused| Change::Refuse(Box::new(refused)))
                .collect()
        });
        let Ok(mut changes) = read.await else {
            return self.lost("a bug stopped the reading of them", offered);
        };
        while !changes.is_empty() {
            let some: Vec<_> = changes.drain(..changes.len().min(AT_ONCE)).collect();
            let offered = count(&some);
            match self.commit(some).await {
                Ok(effects) => effects.iter().for_each(|effect| self.count(effect)),
                Err(error) => self.lost(&error, offered),
            }
        }
    }

    fn lost(&self, error: &str, offered: u64) {
        self.metrics.count_dropped(Dropped::Store, offered);
        tracing::warn!(error, offered, "refused notifications can't be kept");
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
    let visible = |c: char| match c.is_control() || is_reordering(c) {
        true => '\u{fffd}',
        false => c,
    };
    text.chars().take(LONGEST_CLAIM).map(visible).collect()
}

/// What it takes of the sender's making.
fn size(refused: &RefusedNotification) -> u64 {
    let content_type = refused.content_type.as_ref().map_or(0, String::len);
    let address = refused.notify_path.len() + refused.notify_query.len();
    let length = refused.body.len() + content_type + address;
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn count<T>(items: &[T]) -> u64 {
    u64::try_from(items.len()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(number: u128, peer: &str, length: usize) -> RefusedNotification {
        RefusedNotification {
            id: EventId::from_bytes(number.to_be_bytes()),
            received_at: 0,
            last_received_at: 0,
            times: 1,
            peer: peer.to_owned(),
            notify_path: String::new(),
            notify_query: String::new(),
            content_type: None,
            body: vec![b'x'; length].into(),
            refusal: RefusalKind::Forged,
            reason: String::new(),
            app_id: None,
            notify_id: None,
            event_type: None,
            content: [0; 32],
        }
    }

    #[test]
    fn a_burst_of_one_address_has_half_of_all_places_and_displaces_itself() {
        let mut queue = Queue::default();
        assert_eq!(queue.push(refused(0, "203.0.113.7", 1)), 0);
        let flood = |number| refused(number, "192.0.2.1", 1);
        let lost: u64 = (1..=500).map(|number| queue.push(flood(number))).sum();
        assert_eq!((lost, queue.waiting.len()), (0, 501));
        let lost: u64 = (501..=600).map(|number| queue.push(flood(number))).sum();
        assert_eq!((lost, queue.waiting.len()), (100, 501));
        assert_eq!(queue.waiting[0].peer, "203.0.113.7");

        assert_eq!(queue.take(AT_ONCE).len(), AT_ONCE);
        assert_eq!(queue.take(usize::MAX).len(), 501 - AT_ONCE);
        assert!(queue.networks.is_empty());
        let large = |number| refused(number, "192.0.2.1", LARGEST);
        let lost: u64 = (0..3).map(|number| queue.push(large(number))).sum();
        assert_eq!(lost, 1, "no address has more than half of the bytes");
    }
}
