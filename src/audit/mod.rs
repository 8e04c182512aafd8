//! The audit log: one line for each call, notification and change by an operator, each bound to all
//! before it.
//!
//! Who tells something never waits: an entry is put into a bounded queue, a thread writes groups of
//! them, and a loss is counted. [`verify`] finds what was changed, removed, inserted or
//! swapped; what is missing at the end shows by the head that is kept in the store ([`anchor`]).
//!
//! | | the files alone | with the store key | with the store, too |
//! |---|---|---|---|
//! | a slip, a bad disk, an edit by hand | found, but in the last line | found | found |
//! | a line removed, inserted or swapped; lines missing at the beginning | found | found | found |
//! | lines and all digests behind them written anew | not found | found | found |
//! | lines that a start finds at the end, and nobody proves | not found | found | found |
//! | lines missing at the end | not found | not found | found, but for those of the last seconds before a crash |
//! | the files and the store put back to an earlier state, both | not found | not found | not found |

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::clock::Clock;
use crate::store::Store;
use crate::store::error::StoreError;

pub mod anchor;
pub mod chain;
pub mod entry;
pub mod error;
mod files;
pub mod metrics;
mod queue;
mod retire;
pub mod verify;
mod writer;

use anchor::Anchor;
use chain::{ChainKey, Head};
use entry::Entry;
use error::AuditError;
pub use files::{all as all_files, probe};
use metrics::AuditMetrics;
use queue::Queue;
use retire::Limits;
use writer::{Making, Writer};

/// How many lines may wait for the disk: what some seconds of a busy sidecar bring.
const QUEUE: usize = 8192;
/// How large a file becomes, bytes; then the next is begun.
const LARGEST: u64 = 128 << 20;
/// In how many files all of it is at least, where its size has a bound: as a whole they go.
const FEWEST: u64 = 8;
/// How many lines a minute are written of one kind that anybody can cause; the others are counted.
const OF_STRANGERS: u32 = 5;
/// The same of what only genuine messages cause, which anybody who has one can send again, though.
const OF_REPEATED: u32 = 1200;

/// The audit log, or none. Clones share it; the last one dropped waits until all is written.
#[derive(Clone)]
pub struct Audit(Option<Arc<Inner>>);

struct Inner {
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    anchor: Anchor,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What an audit log is opened with.
pub struct AuditOptions {
    /// The file.
    pub path: PathBuf,
    /// How long lines are kept.
    pub retain: Duration,
    /// How large all files may become together, bytes: then the oldest go before their time. `None`:
    /// there is no bound.
    pub max_size: Option<u64>,
    /// Who opens it, where that is no sidecar: its first line says so.
    pub by: Option<&'static str>,
    /// The key of its MACs; `None`: it has none.
    pub key: Option<ChainKey>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Counts lines.
    pub metrics: AuditMetrics,
    /// Where the head of the chain is kept.
    pub store: Arc<dyn Store>,
}

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// It can't be written.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// The head of its chain can't be read.
    #[error("the head of the audit log can't be read")]
    Store(#[from] StoreError),
}

/// How a log is laid out; other values than the usual ones are for tests.
#[derive(Debug, Clone, Copy)]
struct Layout {
    places: usize,
    largest: u64,
}

impl Audit {
    /// Nothing is written.
    #[must_use]
    pub fn off() -> Self {
        Self(None)
    }

    /// Opens the log and goes on where it ended.
    ///
    /// # Errors
    /// [`OpenError`]. A full disk is none: lines wait for it, within bounds.
    ///
    /// # Cancel safety
    /// Safe: then nothing is opened.
    pub async fn open(options: AuditOptions) -> Result<Self, OpenError> {
        let share = options.max_size.map(|most| (most / FEWEST).max(1));
        let layout = Layout {
            places: QUEUE,
            largest: share.map_or(LARGEST, |share| share.min(LARGEST)),
        };
        Self::open_as(options, layout).await
    }

    async fn open_as(options: AuditOptions, layout: Layout) -> Result<Self, OpenError> {
        let anchor = Anchor::open(options.store).await?;
        let queue = Arc::new(Queue::new(layout.places, options.metrics));
        let writer = Writer::open(Making {
            path: options.path,
            key: options.key,
            clock: Arc::clone(&options.clock),
            queue: Arc::clone(&queue),
            by: options.by,
            limits: Limits {
                retain_ms: i64::try_from(options.retain.as_millis()).unwrap_or(i64::MAX),
                max_size: options.max_size,
                largest: layout.largest,
            },
            anchored: anchor.head().await,
        })?;
        let thread = std::thread::Builder::new().name("audit".to_owned());
        let thread = thread.spawn(move || writer.run());
        Ok(Self(Some(Arc::new(Inner {
            queue,
            clock: options.clock,
            anchor,
            writer: Mutex::new(Some(thread.map_err(AuditError::Thread)?)),
        }))))
    }

    /// Tells what `entry` makes.
    pub fn tell(&self, entry: impl FnOnce() -> Entry) {
        if let Some(inner) = &self.0 {
            inner.queue.tell((inner.clock.now_ms(), entry()));
        }
    }

    /// The same of what anybody can cause: a few lines a minute of its kind, the others counted.
    pub fn tell_of_stranger(&self, entry: impl FnOnce() -> Entry) {
        self.tell_some(entry, OF_STRANGERS);
    }

    /// The same of what is genuine, but may be sent again by anybody who has it.
    pub fn tell_of_repeated(&self, entry: impl FnOnce() -> Entry) {
        self.tell_some(entry, OF_REPEATED);
    }

    fn tell_some(&self, entry: impl FnOnce() -> Entry, per_minute: u32) {
        if let Some(inner) = &self.0 {
            let told = (inner.clock.now_ms(), entry());
            inner.queue.tell_some(told, per_minute);
        }
    }

    /// Ends once all that was told before is safe, or lost because the disk refuses, and the store
    /// keeps the head.
    ///
    /// # Cancel safety
    /// Safe: it only hurries and watches.
    pub async fn finished(&self) {
        if let Some(inner) = &self.0 {
            inner.queue.written().await;
            self.anchor().await;
        }
    }

    /// Keeps the head of what is safe in the store, where it isn't kept already.
    ///
    /// # Cancel safety
    /// Safe: it may be kept or not.
    pub async fn anchor(&self) {
        let Some(inner) = &self.0 else {
            return;
        };
        if let Some(head) = inner.queue.head()
            && let Err(error) = inner.anchor.keep(head).await
        {
            tracing::debug!(%error, "the head of the audit log can't be kept for now");
        }
    }

    /// The head that the store keeps.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn kept_head(&self) -> Option<Head> {
        self.0.as_ref()?.anchor.head().await
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue.close();
        let writer = self
            .writer
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // It ends with what waits: a disk that refuses gets a second. That it ended by a bug, it
        // said itself.
        drop(writer.map(JoinHandle::join));
    }
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            Some(_) => "Audit",
            None => "Audit(off)",
        })
    }
}

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod forgery;
#[cfg(test)]
mod tampering;
#[cfg(test)]
mod tests;
