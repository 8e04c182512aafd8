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

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};

use crate::clock::{Clock, LastKnown};
use crate::store::Store;
use crate::store::error::StoreError;

pub mod anchor;
pub mod chain;
pub mod entry;
pub mod error;
mod files;
pub mod metrics;
mod opened;
mod queue;
mod retire;
pub mod verify;
mod writer;

use anchor::Anchor;
use chain::{ChainKey, Head};
use entry::Entry;
use error::AuditError;
pub use files::{all as all_files, probe, probe_alone};
use metrics::AuditMetrics;
use queue::{Asker, Queue};
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

/// How long who looks at the log waits for what was told before.
const LOOK: Duration = Duration::from_secs(2);

/// The audit log, or none. Clones share it; the last one dropped waits until all is written.
#[derive(Clone, Default)]
pub struct Audit(Arc<ArcSwapOption<Log>>);

/// One log, from its opening to its end.
struct Log {
    queue: Arc<Queue>,
    clock: Arc<dyn Clock>,
    anchor: Arc<Anchor>,
    limits: Arc<ArcSwap<Limits>>,
    path: PathBuf,
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

impl Layout {
    /// What there is without a bound to the whole.
    const LARGEST: Self = Self {
        places: QUEUE,
        largest: LARGEST,
    };

    fn of(options: &AuditOptions) -> Self {
        Self {
            largest: largest(options.max_size),
            ..Self::LARGEST
        }
    }
}

/// How large one file may become where all of them may have `max_size`.
fn largest(max_size: Option<u64>) -> u64 {
    let share = max_size.map(|most| (most / FEWEST).max(1));
    share.map_or(LARGEST, |share| share.min(LARGEST))
}

impl Audit {
    /// Nothing is written.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Opens the log and goes on where it ended.
    ///
    /// # Errors
    /// [`OpenError`]. A full disk is none: lines wait for it, within bounds.
    ///
    /// # Cancel safety
    /// Safe: then nothing is opened.
    pub async fn open(options: AuditOptions) -> Result<Self, OpenError> {
        let layout = Layout::of(&options);
        Self::open_as(options, layout).await
    }

    async fn open_as(options: AuditOptions, layout: Layout) -> Result<Self, OpenError> {
        let anchor = Arc::new(Anchor::open(Arc::clone(&options.store)).await?);
        let anchored = anchor.head().await;
        let log = Log::new(&options, layout, anchor);
        log.begin(&options, (anchored, Beginning::Start))?;
        Ok(Self(Arc::new(ArcSwapOption::from_pointee(log))))
    }

    /// Keeps files for so long, and so many bytes of them, from now on.
    pub fn keep(&self, retain: Duration, max_size: Option<u64>) {
        if let Some(log) = &*self.0.load() {
            let limits = Limits::new(retain, max_size, largest(max_size));
            log.limits.store(Arc::new(limits));
        }
    }

    /// Whether lines go to `path`; `None`: whether there is no log.
    #[must_use]
    pub fn is_written_to(&self, path: Option<&Path>) -> bool {
        match (&*self.0.load(), path) {
            (Some(log), Some(path)) => log.path == path && log.writer().is_some(),
            (None, None) => true,
            _ => false,
        }
    }

    /// Whether the file at `path` may be the one that is written: by another name, or moved there.
    #[must_use]
    pub fn may_be_at(&self, path: &Path) -> bool {
        let Some(log) = &*self.0.load() else {
            return false;
        };
        let identity = |path: &Path| {
            let there = std::fs::metadata(path).ok()?;
            Some((there.dev(), there.ino()))
        };
        match (identity(&log.path), identity(path)) {
            (Some(ours), Some(there)) => ours == there,
            // It isn't where it was.
            (None, there) => there.is_some(),
            (Some(_), None) => false,
        }
    }

    /// Ends the log and begins the one that `options` name, if any. The chain goes on there. What is
    /// told meanwhile waits, within the bounds of the queue.
    ///
    /// # Errors
    /// [`OpenError`]: the log before has ended, and the new one isn't begun; what is told waits for
    /// it. Doing it again is safe.
    ///
    /// # Cancel safety
    /// Not safe: let it come to its end.
    pub async fn move_to(&self, options: Option<&AuditOptions>) -> Result<(), OpenError> {
        let layout = options.map_or(Layout::LARGEST, Layout::of);
        let former = self.0.load_full();
        let anchor = match (&former, options) {
            (Some(former), _) => Some(Arc::clone(&former.anchor)),
            (None, Some(options)) => {
                Some(Arc::new(Anchor::open(Arc::clone(&options.store)).await?))
            }
            (None, None) => None,
        };
        let next = options
            .zip(anchor.as_ref())
            .map(|(options, anchor)| Arc::new(Log::new(options, layout, Arc::clone(anchor))));
        self.0.store(next.clone());
        let mut head = None;
        if let Some(former) = former {
            let is_abandoned = former.writer().is_none();
            if !is_abandoned {
                if next.is_some() {
                    former.queue.hand_on();
                }
                head = Arc::clone(&former).end().await;
            }
            match &next {
                // What the former one's disk refused, if anything.
                Some(next) => next.queue.inherit(&former.queue),
                None if is_abandoned => former.queue.give_up(),
                None => {}
            }
        }
        let Some(((next, options), anchor)) = next.zip(options).zip(anchor) else {
            return Ok(());
        };
        let beginning = match head {
            Some(_) => Beginning::Move,
            None => Beginning::Start,
        };
        let head = match head {
            Some(head) => Some(head),
            None => anchor.head().await,
        };
        let begun = next.begin(options, (head, beginning));
        if begun.is_err() {
            next.queue.abandon();
        }
        Ok(begun?)
    }

    /// Tells what `entry` makes.
    pub fn tell(&self, entry: impl FnOnce() -> Entry) {
        if let Some(log) = &*self.0.load() {
            log.queue.tell((log.clock.now_ms(), entry()));
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
        if let Some(log) = &*self.0.load() {
            let now = log.clock.now_ms();
            log.queue.tell_some((now, entry()), per_minute);
        }
    }

    /// Ends once all that was told before is safe, or lost because the disk refuses, and the store
    /// keeps the head.
    ///
    /// # Cancel safety
    /// Safe: it only hurries and watches.
    pub async fn finished(&self) {
        if let Some(log) = self.0.load_full() {
            log.queue.written(Asker::Ends).await;
            log.anchor().await;
        }
    }

    /// The same for who only looks: what the disk refuses goes on waiting, and he doesn't for long.
    ///
    /// # Cancel safety
    /// As there.
    pub async fn settled(&self) {
        if let Some(log) = self.0.load_full() {
            let written = log.queue.written(Asker::Looks);
            // What isn't written by then isn't in the file, either.
            let _ = tokio::time::timeout(LOOK, written).await;
            log.anchor().await;
        }
    }

    /// Keeps the head of what is safe in the store, where it isn't kept already.
    ///
    /// # Cancel safety
    /// Safe: it may be kept or not.
    pub async fn anchor(&self) {
        if let Some(log) = self.0.load_full() {
            log.anchor().await;
        }
    }

    /// The head that the store keeps.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn kept_head(&self) -> Option<Head> {
        let log = self.0.load_full()?;
        log.anchor.head().await
    }
}

impl Log {
    /// One that only waits.
    fn new(options: &AuditOptions, layout: Layout, anchor: Arc<Anchor>) -> Self {
        Self {
            queue: Arc::new(Queue::new(layout.places, options.metrics.clone())),
            // Neither who tells something nor the writer is to meet a bug of the host's.
            clock: Arc::new(LastKnown::new(Arc::clone(&options.clock))),
            anchor,
            limits: Arc::new(ArcSwap::from_pointee(Limits::new(
                options.retain,
                options.max_size,
                layout.largest,
            ))),
            path: options.path.clone(),
            writer: Mutex::default(),
        }
    }

    /// Writes from now on, behind the head `anchored`.
    fn begin(
        &self,
        options: &AuditOptions,
        (anchored, beginning): (Option<Head>, Beginning),
    ) -> Result<(), AuditError> {
        let writer = Writer::open(Making {
            path: options.path.clone(),
            key: options.key.clone(),
            clock: Arc::clone(&self.clock),
            queue: Arc::clone(&self.queue),
            by: options.by,
            limits: Arc::clone(&self.limits),
            anchored,
            beginning,
        })?;
        let thread = std::thread::Builder::new().name("audit".to_owned());
        let thread = thread.spawn(move || writer.run());
        *self.writer() = Some(thread.map_err(AuditError::Thread)?);
        Ok(())
    }

    async fn anchor(&self) {
        if let Some(head) = self.queue.head()
            && let Err(error) = self.anchor.keep(head).await
        {
            tracing::debug!(%error, "the head of the audit log can't be kept for now");
        }
    }

    /// Ends it once all that waits is written, or lost because the disk refuses; gives its head,
    /// where it has written anything.
    async fn end(self: Arc<Self>) -> Option<Head> {
        let log = Arc::clone(&self);
        // It ends by itself; that it ended by a bug, it said itself.
        let _ = tokio::task::spawn_blocking(move || log.close()).await;
        self.anchor().await;
        self.queue.head()
    }

    fn close(&self) {
        self.queue.close();
        let writer = self.writer().take();
        // It ends with what waits: a disk that refuses gets a second. That it ended by a bug, it
        // said itself.
        drop(writer.map(JoinHandle::join));
    }

    fn writer(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}

/// How a log comes to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    /// Another one ended for it, and its lines stand there.
    Move,
    /// The program has started, or its log was off.
    Start,
}

impl std::fmt::Debug for Audit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &*self.0.load() {
            Some(_) => "Audit",
            None => "Audit(off)",
        })
    }
}

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod findings;
#[cfg(test)]
mod forgery;
#[cfg(test)]
mod tampering;
#[cfg(test)]
mod tests;
