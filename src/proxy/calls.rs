//! What became of the calls that may have changed something: for 24 hours, for the backend whose own
//! deadline was shorter than Alipay's answer.
//!
//! A call never waits for its record. Records gather while the commit before them is under way, and
//! go into one; they wait while the store fails, and where there is no room left they are lost and
//! counted.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::gateway::VerifiedReply;
use crate::gateway::v2::is_pure_query;
use crate::gateway::v3::VerifiedV3Reply;
use crate::model::call::{CallId, CallKey, CallOutcome, CallRecord, KeptReply};
pub use crate::proxy::call_metrics::CallRecordMetrics;
use crate::proxy::error::ProxyError;
use crate::proxy::story::{Departure, Said, Story};
use crate::store::error::StoreError;
use crate::store::{Change, Effect, Store};

/// Records that may wait for the store: what some seconds of a busy sidecar bring.
const QUEUE: usize = 8192;
/// How many bytes of replies may wait for it.
const QUEUE_BYTES: usize = 64 << 20;
/// How many records go into one commit: few enough that no other commit waits long for them.
const BATCH: usize = 256;
/// How long records gather before the first of them is written: what a crash may lose.
const LINGER: Duration = Duration::from_millis(20);
/// How often commits are still tried while the disk refuses, once the sidecar ends.
const LAST_TRIES: usize = 8;
/// The pause between two tries.
const PAUSE: Duration = Duration::from_secs(1);
/// How many bytes all records of a day may take in the store; the oldest go beyond that. It is the
/// last 100 000 replies of a usual length, and little beside what the inbox needs of the same disk.
const LIMIT: u64 = 128 << 20;
/// How long a reply may be to be kept, bytes: many times what any call replies that changes
/// something, and so little of [`LIMIT`] that no single one displaces a day of others.
const LONGEST_REPLY: usize = 1 << 20;

/// The record of calls. Clones share it.
#[derive(Clone)]
pub struct CallRecords(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    metrics: CallRecordMetrics,
    state: Mutex<State>,
    /// Somebody waits until all is written.
    hurry: Notify,
    /// Some were written, or lost.
    settled: Notify,
}

#[derive(Default)]
struct State {
    /// What the store doesn't tell yet.
    known: HashMap<CallId, Found>,
    waiting: VecDeque<Arc<CallRecord>>,
    waiting_bytes: usize,
    is_writing: bool,
    /// How many were ever taken to be written.
    taken: u64,
    /// How many of them were written, or lost.
    settled: u64,
    /// The sidecar ends: what the store refuses now can't wait until it heals.
    is_ending: bool,
    /// How often it refused since: all that still waits shares the last tries.
    last_tries: usize,
}

/// What is known of a call.
#[derive(Debug, Clone)]
pub(super) enum Found {
    /// It is over.
    Over(Arc<CallRecord>),
    /// It is under way.
    UnderWay(Arc<Begun>),
}

/// A call that began.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) request_id: CallId,
    pub(super) method: String,
    caller: Option<String>,
    caller_request_id: Option<String>,
}

/// A call under way. Dropped without an end, it is recorded as one that a bug ended, whose outcome is
/// unknown once bytes may have left.
pub(super) struct Recording {
    records: CallRecords,
    begun: Option<Arc<Begun>>,
    departure: Departure,
}

impl Recording {
    /// The id under which it can be asked for; `None`: nothing is kept of it.
    pub(super) fn id(&self) -> Option<CallId> {
        self.begun.as_ref().map(|begun| begun.request_id)
    }
}

impl CallRecords {
    /// A record in `store`.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, metrics: CallRecordMetrics) -> Self {
        Self(Arc::new(Inner {
            store,
            clock,
            metrics,
            state: Mutex::default(),
            hurry: Notify::new(),
            settled: Notify::new(),
        }))
    }

    /// Begins the record of a call; one that isn't kept is a record of nothing.
    pub(super) fn begin(&self, story: &Story, method: &str, is_query: bool) -> Recording {
        let id = story.recorded_as();
        let id = id.filter(|_| !is_query && !gives_tokens(method));
        let begun = id.map(|request_id| {
            Arc::new(Begun {
                request_id,
                method: method.to_owned(),
                caller: story.caller().map(ToString::to_string),
                caller_request_id: story.caller_request_id.clone(),
            })
        });
        if let Some(begun) = &begun {
            let under_way = Found::UnderWay(Arc::clone(begun));
            self.lock().known.insert(begun.request_id, under_way);
        }
        Recording {
            records: self.clone(),
            begun,
            departure: story.departure.clone(),
        }
    }

    /// What is known of the call that `key` names, for the caller who made it.
    pub(super) async fn find(
        &self,
        key: CallKey,
        caller: Option<&str>,
    ) -> Result<Option<Found>, StoreError> {
        let is_own = |found: &Found| found.caller() == caller;
        let held = self.in_memory(&key);
        if let (Some(_), CallKey::Id(_)) = (&held, &key) {
            return Ok(held.filter(is_own));
        }
        // Of calls of one name some may be over and written, and others not.
        let stored = self.0.store.call(key, self.0.clock.now_ms()).await;
        let stored = match (stored, &held) {
            // What is held may have left: no other is worth more than that, but a newer one.
            (Err(_), Some(held)) if held.rank().0 => None,
            (stored, _) => stored?,
        };
        let stored = stored.map(|record| Found::Over(Arc::new(record)));
        let found = held.into_iter().chain(stored).max_by_key(Found::rank);
        Ok(found.filter(is_own))
    }

    /// For the end of the sidecar: ends once every record of a call that is over by now is written,
    /// or lost, because the store refuses for some seconds more.
    ///
    /// # Cancel safety
    /// Safe: it only hurries and watches.
    pub(super) async fn written(&self) {
        let taken = {
            let mut state = self.lock();
            state.is_ending = true;
            state.taken
        };
        loop {
            let settled = self.0.settled.notified();
            if self.lock().settled >= taken {
                return;
            }
            self.see_to_writing();
            self.0.hurry.notify_one();
            settled.await;
            // A runtime that ends must get to end this, too.
            tokio::task::yield_now().await;
        }
    }

    fn in_memory(&self, key: &CallKey) -> Option<Found> {
        let state = self.lock();
        match key {
            CallKey::Id(id) => state.known.get(id).cloned(),
            CallKey::Named {
                caller,
                caller_request_id,
            } => {
                let asked = (caller.as_deref(), Some(caller_request_id.as_str()));
                let is_asked = |found: &&Found| (found.caller(), found.name()) == asked;
                let named = state.known.values().filter(is_asked);
                named.max_by_key(|found| found.rank()).cloned()
            }
        }
    }

    fn end(&self, record: CallRecord) {
        let (id, size) = (record.request_id, size(&record));
        let mut state = self.lock();
        let is_full = state.waiting.len() >= QUEUE
            || state.waiting_bytes.saturating_add(size) > QUEUE_BYTES
            || tokio::runtime::Handle::try_current().is_err();
        if is_full {
            drop(state);
            self.lose(id);
            return;
        }
        let record = Arc::new(record);
        state.known.insert(id, Found::Over(Arc::clone(&record)));
        state.waiting.push_back(record);
        state.waiting_bytes += size;
        state.taken += 1;
        drop(state);
        self.see_to_writing();
    }

    /// Keeps no record of a call.
    fn lose(&self, id: CallId) {
        self.lock().known.remove(&id);
        self.0.metrics.count("lost", 1);
    }

    /// Has somebody write, if nobody does.
    fn see_to_writing(&self) {
        // The lock is given back first: a runtime that ends drops the writer at once.
        let is_written = std::mem::replace(&mut self.lock().is_writing, true);
        if !is_written {
            tokio::spawn(Writer::new(self.clone()).write());
        }
    }

    async fn commit(&self, batch: &[Arc<CallRecord>]) {
        let records: Vec<_> = batch.iter().map(|record| (**record).clone()).collect();
        let change = Change::RecordCalls {
            records,
            limit: LIMIT,
        };
        let count = count(batch);
        loop {
            match self.0.store.commit(vec![change.clone()]).await {
                Ok(effects) => {
                    self.0.metrics.count("stored", count);
                    if let Some(Effect::Displaced(displaced)) = effects.first() {
                        self.0.metrics.count("displaced", *displaced);
                    }
                    return;
                }
                Err(StoreError::Unavailable { .. }) if self.may_try_again() => {
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    tracing::error!(%error, count, "what became of calls could not be kept");
                    self.0.metrics.count("lost", count);
                    return;
                }
            }
        }
    }

    /// Whether a refusal of the store may pass before the sidecar ends.
    fn may_try_again(&self) -> bool {
        let mut state = self.lock();
        state.last_tries += usize::from(state.is_ending);
        state.last_tries < LAST_TRIES
    }

    /// Nothing that can panic runs under the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever writes. However it ends, by a bug of the store or with its runtime, somebody else can
/// write afterwards.
struct Writer {
    records: CallRecords,
    /// What is being committed.
    batch: Vec<Arc<CallRecord>>,
    /// Nothing waited: somebody else may be writing already.
    is_over: bool,
}

impl Writer {
    fn new(records: CallRecords) -> Self {
        Self {
            records,
            batch: Vec::new(),
            is_over: false,
        }
    }

    /// Writes until nothing waits.
    async fn write(mut self) {
        loop {
            if self.records.lock().waiting.len() < BATCH {
                // Whoever is in a hurry ends the pause.
                let hurry = self.records.0.hurry.notified();
                let _ = tokio::time::timeout(LINGER, hurry).await;
            }
            if !self.take_batch() {
                return;
            }
            let commit = AssertUnwindSafe(self.records.commit(&self.batch));
            if commit.catch_unwind().await.is_err() {
                self.lose("a bug ended the writing of what became of calls");
            }
            self.settle();
        }
    }

    /// Takes the records that waited longest; when none waits, it is over.
    fn take_batch(&mut self) -> bool {
        let mut state = self.records.lock();
        let count = state.waiting.len().min(BATCH);
        self.batch.extend(state.waiting.drain(..count));
        let freed: usize = self.batch.iter().map(|record| size(record)).sum();
        state.waiting_bytes = state.waiting_bytes.saturating_sub(freed);
        state.is_writing = !self.batch.is_empty();
        self.is_over = self.batch.is_empty();
        !self.is_over
    }

    fn lose(&self, why: &str) {
        let count = count(&self.batch);
        tracing::error!(count, "{why}");
        self.records.0.metrics.count("lost", count);
    }

    /// From now on the store tells of the batch, or nobody does.
    fn settle(&mut self) {
        let mut state = self.records.lock();
        for record in self.batch.drain(..) {
            state.known.remove(&record.request_id);
            state.settled += 1;
        }
        drop(state);
        self.records.0.settled.notify_waiters();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        if !self.batch.is_empty() {
            self.lose("the writing of what became of calls was broken off");
        }
        self.records.lock().is_writing = false;
        self.settle();
    }
}

impl std::fmt::Debug for CallRecords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CallRecords")
    }
}

impl Recording {
    /// Records how a call of v2 ended; `is_as_sent`: its caller got a ciphertext as it came.
    pub(super) fn end_v2(self, result: Result<&VerifiedReply, &ProxyError>, is_as_sent: bool) {
        let kept = |reply: &VerifiedReply| {
            let envelope = &reply.envelope;
            let text = match is_as_sent {
                // A ciphertext is ASCII in every charset.
                true if envelope.is_ciphertext_as_sent() => envelope.sent_node(),
                _ => envelope.node_text().into(),
            };
            KeptReply {
                status: None,
                body: text,
            }
        };
        self.end(result.map(|reply| (Said::from(reply), kept(reply))));
    }

    /// Records how a call of v3 ended.
    pub(super) fn end_v3(self, result: Result<&VerifiedV3Reply, &ProxyError>) {
        let kept = |reply: &VerifiedV3Reply| KeptReply {
            status: Some(reply.response.status()),
            body: reply.body().clone(),
        };
        self.end(result.map(|reply| (Said::from(reply), kept(reply))));
    }

    fn end(mut self, result: Result<(Said, KeptReply), &ProxyError>) {
        let Some(begun) = self.begun.take() else {
            return;
        };
        let (outcome, error, reply) = match result {
            Ok((said, reply)) => (said.call_outcome(), None, Some(reply)),
            Err(error) => (error.outcome.into(), Some(error.code.as_str()), None),
        };
        self.record(&begun, outcome, error, reply);
    }

    fn record(
        &self,
        begun: &Begun,
        outcome: CallOutcome,
        error: Option<&str>,
        reply: Option<KeptReply>,
    ) {
        let reply = reply.filter(|reply| reply.body.len() <= LONGEST_REPLY);
        // A host's clock may have a bug, and another one may be what ends the call: two at once would
        // end the process.
        let now = catch_unwind(AssertUnwindSafe(|| self.records.0.clock.now_ms()));
        let Ok(completed_at) = now else {
            self.records.lose(begun.request_id);
            return;
        };
        self.records.end(CallRecord {
            request_id: begun.request_id,
            caller: begun.caller.clone(),
            caller_request_id: begun.caller_request_id.clone(),
            method: begun.method.clone(),
            outcome,
            error: error.map(ToOwned::to_owned),
            completed_at,
            reply,
        });
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if let Some(begun) = self.begun.take() {
            let outcome = self.departure.outcome().into();
            self.record(&begun, outcome, Some("internal"), None);
        }
    }
}

impl Found {
    fn id(&self) -> CallId {
        match self {
            Self::Over(record) => record.request_id,
            Self::UnderWay(begun) => begun.request_id,
        }
    }

    /// Which of several calls of one name counts: the newest, but none that never left where another
    /// may have. (Ids sort by the time they were made at.)
    fn rank(&self) -> (bool, [u8; 16]) {
        let may_have_left = match self {
            Self::Over(record) => record.outcome != CallOutcome::NotSent,
            Self::UnderWay(_) => true,
        };
        (may_have_left, self.id().to_bytes())
    }

    fn name(&self) -> Option<&str> {
        match self {
            Self::Over(record) => record.caller_request_id.as_deref(),
            Self::UnderWay(begun) => begun.caller_request_id.as_deref(),
        }
    }

    fn caller(&self) -> Option<&str> {
        match self {
            Self::Over(record) => record.caller.as_deref(),
            Self::UnderWay(begun) => begun.caller.as_deref(),
        }
    }
}

/// Whether a reply of `method` may hold a token or a key, which is nothing to be kept for asking.
fn gives_tokens(method: &str) -> bool {
    let says = |segment: &str| segment.contains("token") || segment == "aes";
    method.split('.').any(says)
}

/// Whether a call of v2 changes nothing, so that its reply isn't worth keeping.
pub(super) fn is_query(method: &str) -> bool {
    is_pure_query(method)
}

fn count(records: &[Arc<CallRecord>]) -> u64 {
    u64::try_from(records.len()).unwrap_or(u64::MAX)
}

fn size(record: &CallRecord) -> usize {
    let reply = record.reply.as_ref().map_or(0, |reply| reply.body.len());
    reply.saturating_add(record.method.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gives_tokens_or_keys_is_not_kept() {
        for secret in [
            "alipay.system.oauth.token",
            "alipay.open.auth.token.app",
            "alipay.open.auth.app.aes.get",
            "alipay.open.auth.app.aes.set",
        ] {
            assert!(gives_tokens(secret), "{secret}");
        }
        for plain in ["alipay.trade.pay", "alipay.fund.trans.uni.transfer"] {
            assert!(!gives_tokens(plain), "{plain}");
        }
    }
}
