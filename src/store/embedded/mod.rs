//! The embedded store: one redb file, opened by one process.
//!
//! All writes go through one writer thread that shares each disk write among the commits that
//! wait; reads run on a few threads of the store's own, but for look-ups of single records that
//! find all they need in memory (`spot`). No async worker ever waits for the file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::store::Due;
use crate::store::error::StoreError;
use crate::store::seal::{Sealer, StoreKey};
use crate::workers::{WorkError, Workers};

mod apply;
mod aside;
mod aside_merchants;
mod backup;
mod calls;
mod catalogue;
mod copy;
mod directory;
mod doubts;
mod fault;
mod file;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod inbox;
mod inbox_records;
mod inspect;
mod inspect_indexes;
mod inspect_kept;
mod left;
mod links;
mod listing;
mod lookup;
mod mending;
mod open;
mod opened;
mod overlay;
mod prune;
mod quarantine;
mod quarantine_records;
mod questions;
mod read;
mod read_inbox;
mod records;
mod rekey;
mod restore;
mod room;
mod rows;
mod shared;
mod snapshots;
mod spot;
mod stats;
mod tables;
mod tokens;
mod traces;
mod users;
mod whereabouts;
mod writer;

use aside::Suspect;
use backup::LongRead;
pub use copy::CopyWriter;
use fault::Fault;
pub use file::{Repaired, StoreFile, apps_of};
pub use links::{behind_links, is_same_place};
pub use open::Migrated;
use overlay::{Lock, Overlay};
use read::Reader;
pub use rekey::RekeyStep;
pub use restore::{Existing, Restored, restore};
use room::Room;
use shared::{Access, Disk, Shared};
use spot::NoWait;
use whereabouts::Whereabouts;
use writer::{Job, Writer};

/// Threads that read. A read takes microseconds while its page is cached; more threads would only
/// wait for the same disk.
const READ_THREADS: usize = 3;

/// Reads that may wait, before further ones are refused.
const READ_QUEUE: usize = 16_384;

/// Commits that may wait, before further ones are refused: many more than the listeners let in.
const WRITE_QUEUE: usize = 8_192;

/// What is needed to open an embedded store.
#[derive(Clone)]
pub struct OpenOptions {
    /// The file.
    pub path: PathBuf,
    /// The key it was created with.
    pub key: StoreKey,
    /// How much of the file may be held in memory, bytes.
    pub cache_bytes: usize,
    /// Tells the time of commits.
    pub clock: Arc<dyn Clock>,
}

impl std::fmt::Debug for OpenOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenOptions")
            .field("path", &self.path)
            .field("cache_bytes", &self.cache_bytes)
            .finish_non_exhaustive()
    }
}

/// A store in one file; cheap to clone. Dropping the last clone finishes the commits that wait,
/// closes the file and blocks until that is done.
#[derive(Clone)]
pub struct EmbeddedStore(Arc<Inner>);

/// The fields are dropped in this order: the threads end before the database is closed.
struct Inner {
    long_read: LongRead,
    queue: Option<SyncSender<Job>>,
    writer: Option<JoinHandle<()>>,
    readers: Workers,
    shared: Arc<Shared>,
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore").finish_non_exhaustive()
    }
}

impl EmbeddedStore {
    /// Creates an empty store at `path`, readable by its owner alone. The directory must exist.
    /// Blocks while it writes.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when anything stands at `path`, [`StoreError::Unavailable`] when the
    /// file can't be written.
    pub fn create(path: &Path, key: &StoreKey) -> Result<(), StoreError> {
        open::create(path, &Sealer::new(key))
    }

    /// Opens an existing store; never creates one. Blocks while it reads, and migrates a file of
    /// an older schema.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::Locked`], [`StoreError::DamagedFile`],
    /// [`StoreError::WrongKey`], [`StoreError::SchemaTooNew`], or [`StoreError::Unavailable`] when
    /// the system refuses the file or a thread. A file that can be read but not written at present,
    /// because the disk is full, is opened all the same: commits are refused until it heals.
    pub fn open(options: OpenOptions) -> Result<Self, StoreError> {
        let place = Arc::new(Whereabouts::of(&options.path));
        let cache_bytes = options.cache_bytes;
        let (opened, asked) = (Arc::clone(&place), Arc::clone(&place));
        let opener = Box::new(move |access| {
            let mut builder = redb::Database::builder();
            builder.set_cache_size(cache_bytes);
            match access {
                Access::Full => builder.create_with_backend(open::for_writing(&opened)?),
                Access::Reading => builder.create_with_backend(open::for_reading(&opened)?),
            }
        });
        let disk = Disk {
            opener,
            room: Box::new(move || room::is_left(asked.path())),
            place: Some(place),
        };
        Self::open_by(options, disk)
    }

    /// Whether the file was migrated when it was opened.
    #[must_use]
    pub fn migrated(&self) -> Option<Migrated> {
        self.0.shared.migrated()
    }

    /// As [`EmbeddedStore::open`], but on what `disk` gives at each opening in the place of a file:
    /// for proofs of what a disk that fails or loses power can do. redb's types are no part of
    /// what this crate promises.
    ///
    /// # Errors
    /// As [`EmbeddedStore::open`].
    #[doc(hidden)]
    pub fn open_on<D: redb::StorageBackend>(
        options: OpenOptions,
        disk: impl Fn() -> std::io::Result<D> + Send + Sync + 'static,
    ) -> Result<Self, StoreError> {
        Self::open_in(options, move |_| disk(), Box::new(|| true), None)
    }

    /// The same, on a disk of which `room` tells whether it has room left, and `place` where its file is, if it has
    /// one.
    fn open_in<D: redb::StorageBackend>(
        options: OpenOptions,
        disk: impl Fn(Access) -> std::io::Result<D> + Send + Sync + 'static,
        room: Room,
        place: Option<Arc<Whereabouts>>,
    ) -> Result<Self, StoreError> {
        let cache_bytes = options.cache_bytes;
        let opener = Box::new(move |access| {
            let mut builder = redb::Database::builder();
            builder.set_cache_size(cache_bytes);
            match access {
                Access::Full => builder.create_with_backend(NoWait::new(disk(access)?)),
                Access::Reading => {
                    let overlay = Overlay::over(disk(access)?, Lock::Taken)?;
                    builder.create_with_backend(NoWait::new(overlay))
                }
            }
        });
        let disk = Disk {
            opener,
            room,
            place,
        };
        Self::open_by(options, disk)
    }

    fn open_by(options: OpenOptions, disk: Disk) -> Result<Self, StoreError> {
        let sealer = Sealer::new(&options.key);
        let shared = Shared::open(options.path, sealer, options.clock, disk)?;
        let shared = Arc::new(shared);
        let (queue, jobs) = sync_channel(WRITE_QUEUE);
        let writer = Writer::new(Arc::clone(&shared), jobs);
        let writer = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| no_thread(&error))?;
        let readers = Workers::start("store-reader", READ_THREADS, READ_QUEUE)
            .map_err(|error| no_thread(&error))?;
        Ok(Self(Arc::new(Inner {
            long_read: LongRead::default(),
            queue: Some(queue),
            writer: Some(writer),
            readers,
            shared,
        })))
    }

    /// As [`Self::read`], for `work` that looks up a few short records: on the spot where nothing
    /// has to be waited for.
    async fn look_up<T: Send + 'static>(
        &self,
        work: impl Fn(&Reader<'_>) -> Result<T, Fault> + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        // Who looks up much shall let others go on in between.
        tokio::task::coop::consume_budget().await;
        let shared = &self.0.shared;
        let sealer = &shared.sealer;
        let latest = shared.snapshots().latest();
        let found = latest.and_then(|tx| spot::run(|| work(&Reader { tx: &tx, sealer })));
        match found {
            Some(Ok(value)) => Ok(value),
            Some(Err(Fault::Refused(error))) => Err(error),
            // Whatever else there is to tell, the reading thread meets it, too.
            Some(Err(Fault::Broken { .. })) | None => self.read(work).await,
        }
    }

    /// Runs `work` on a snapshot, on one of the reading threads. If the database turns out to be
    /// broken, it runs once more after the writer has mended what it can.
    async fn read<T: Send + 'static>(
        &self,
        work: impl Fn(&Reader<'_>) -> Result<T, Fault> + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        let work = Arc::new(work);
        match self.read_once(Arc::clone(&work)).await? {
            Ok(value) => Ok(value),
            Err(_) => {
                self.0.probe().await;
                let again = self.read_once(work).await?;
                again.map_err(|broken| broken.into_error())
            }
        }
    }

    /// The inner error is one of the database, after which it has to be opened anew.
    async fn read_once<T: Send + 'static>(
        &self,
        work: Arc<impl Fn(&Reader<'_>) -> Result<T, Fault> + Send + Sync + 'static>,
    ) -> Result<Result<T, Fault>, StoreError> {
        let shared = Arc::clone(&self.0.shared);
        let job = move || {
            let sealer = &shared.sealer;
            shared.with_snapshot(|tx| work(&Reader { tx, sealer }))
        };
        match self.0.readers.run(job).await {
            Ok(Err(Fault::Refused(error))) => Err(error),
            Ok(done) => Ok(done),
            Err(WorkError::Panicked) => {
                self.0.probe().await;
                Err(StoreError::Damaged {
                    record: "a page of the store file".to_owned(),
                })
            }
            Err(error) => Err(unavailable(&error.to_string())),
        }
    }

    /// What `look` finds due; what it finds damaged is moved aside.
    async fn due_by(
        &self,
        look: impl Fn(&Reader<'_>) -> Result<(Due, Vec<Suspect>), Fault> + Send + Sync + 'static,
    ) -> Result<Due, StoreError> {
        self.but_for_suspects(self.read(look)).await
    }

    /// What was found, once what was found damaged is on its way out of the way.
    async fn but_for_suspects<T>(
        &self,
        look: impl Future<Output = Result<(T, Vec<Suspect>), StoreError>>,
    ) -> Result<T, StoreError> {
        let (found, suspects) = look.await?;
        if !suspects.is_empty() {
            // Where the queue is full, the next look meets them again.
            let _ = self.0.send(Job::SetAside(suspects));
        }
        Ok(found)
    }

    async fn write<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Job,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.0.send(job(reply))?;
        let answer = answer.await;
        answer.unwrap_or_else(|_| Err(unavailable("the writer gave up because of a bug")))
    }
}

impl Inner {
    fn send(&self, job: Job) -> Result<(), StoreError> {
        let queue = self.queue.as_ref();
        match queue.map(|queue| queue.try_send(job)) {
            Some(Ok(())) => Ok(()),
            Some(Err(TrySendError::Full(_))) => Err(unavailable("too many commits are waiting")),
            Some(Err(TrySendError::Disconnected(_))) | None => {
                Err(unavailable("the writer has ended"))
            }
        }
    }

    /// Has the writer see whether the database still works, and mend what it can. A full queue
    /// needs no probe: its commits will tell.
    async fn probe(&self) {
        let (reply, answer) = oneshot::channel();
        if self.send(Job::Probe(reply)).is_ok() {
            // A writer that has ended mends nothing.
            let _ = answer.await;
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.end();
        self.long_read.wait();
        // The writer ends when the last sender is gone and the queue is empty.
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // A panic of it has been answered to whoever waited.
            let _ = writer.join();
        }
    }
}

fn no_thread(error: &std::io::Error) -> StoreError {
    unavailable(&format!("no thread can be started: {error}"))
}

fn unavailable(reason: &str) -> StoreError {
    StoreError::Unavailable {
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod faulty;
#[cfg(test)]
mod file_care {
    mod tests;
}
#[cfg(test)]
mod tests;
