//! What the readers and the writer share: the database behind a handle that can be emptied, because
//! after an I/O error redb has to be closed and opened anew.

use std::cell::Cell;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use redb::{Database, DatabaseError, ReadableDatabase, StorageError};

use super::fault::Fault;
use super::open::{self, Migrated};
use super::room::Room;
use super::snapshots::{Snapshot, Snapshots};
use super::whereabouts::Whereabouts;
use crate::clock::Clock;
use crate::store::Backlog;
use crate::store::error::StoreError;
use crate::store::seal::Sealer;

/// What whoever reads for long hears when the file was closed meanwhile.
pub(super) const OPENED_ANEW: &str =
    "the store had to be opened anew after a failure of the disk; try again";

/// Opens the database, without checking what is in it.
pub(super) type Opener = Box<dyn Fn(Access) -> Result<Database, DatabaseError> + Send + Sync>;

/// The disk of a store.
pub(super) struct Disk {
    /// Opens what is on it.
    pub(super) opener: Opener,
    /// Whether it has room left.
    pub(super) room: Room,
    /// Where its file is, unless it is none that has a path.
    pub(super) place: Option<Arc<Whereabouts>>,
}

/// What the file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Everything.
    Full,
    /// Reading, while the disk takes no writes.
    Reading,
}

/// The state shared by all threads of one store.
pub(super) struct Shared {
    /// Tells the time of commits.
    pub(super) clock: Arc<dyn Clock>,
    /// Seals and opens records.
    pub(super) sealer: Sealer,
    path: PathBuf,
    disk: Disk,
    /// `None` while it can't be opened after a failure. It is written only to open the database
    /// again, which so waits until the last reader is done.
    db: RwLock<Option<Database>>,
    /// What look-ups on the spot read isn't waited for: redb lets an access to the file end before
    /// it closes it, and refuses later ones.
    snapshots: Snapshots,
    /// How often it was opened anew.
    opened: AtomicU64,
    /// As of the last commit since it was opened.
    backlog: Mutex<Option<Backlog>>,
    migrated: Option<Migrated>,
    writable: AtomicBool,
    closing: AtomicBool,
    ending: AtomicBool,
}

impl Shared {
    /// Opens the store; for reading alone while the disk takes no writes.
    pub(super) fn open(
        path: PathBuf,
        sealer: Sealer,
        clock: Arc<dyn Clock>,
        disk: Disk,
    ) -> Result<Self, StoreError> {
        let (db, writable, migrated) = open_somehow(&path, &sealer, &disk.opener)?;
        let keys = open::index_keys(&db, &path, &sealer)?;
        let sealer = sealer.with_index_keys(keys);
        let snapshots = Snapshots::default();
        snapshots.renew(Some(&db));
        Ok(Self {
            clock,
            sealer,
            path,
            disk,
            db: RwLock::new(Some(db)),
            snapshots,
            migrated,
            writable: AtomicBool::new(writable == Writable::Yes),
            opened: AtomicU64::new(0),
            backlog: Mutex::default(),
            closing: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        })
    }

    /// Runs `work` on the database, if it is open.
    pub(super) fn with_database<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        // Readers don't poison the lock, and closing and opening catch what panics in them.
        let guard = self.db.read().unwrap_or_else(PoisonError::into_inner);
        match guard.as_ref() {
            Some(db) => work(db),
            None => Err(Fault::Refused(StoreError::Unavailable {
                reason: "it can't be opened again after a failure of the disk".to_owned(),
            })),
        }
    }

    /// Whether the file was migrated when it was first opened.
    pub(super) fn migrated(&self) -> Option<Migrated> {
        self.migrated
    }

    /// What readers read.
    pub(super) fn snapshots(&self) -> &Snapshots {
        &self.snapshots
    }

    /// Runs `work` on a snapshot of the database, if it is open.
    pub(super) fn with_snapshot<T>(
        &self,
        work: impl FnOnce(&Snapshot) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.with_database(|db| work(&*self.snapshot(db)?))
    }

    /// Runs `work` on a snapshot, for so long that nobody can wait for its end: where the database is
    /// opened anew meanwhile, its next look at the file fails.
    pub(super) fn with_long_snapshot<T>(
        &self,
        work: impl FnOnce(&Snapshot) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let (opened, tx) = self.with_database(|db| {
            let opened = self.opened.load(Ordering::Acquire);
            Ok((opened, self.snapshot(db)?))
        })?;
        work(&tx).map_err(|fault| match fault {
            Fault::Broken { .. } if opened != self.opened.load(Ordering::Acquire) => {
                Fault::Refused(StoreError::Unavailable {
                    reason: OPENED_ANEW.to_owned(),
                })
            }
            fault => fault,
        })
    }

    /// The one that all readers read; where none could be taken, what is wrong.
    fn snapshot(&self, db: &Database) -> Result<Arc<Snapshot>, Fault> {
        match self.snapshots.latest() {
            Some(latest) => Ok(latest),
            None => Ok(Arc::new(Snapshot::new(db.begin_read()?))),
        }
    }

    /// Waits for the readers, closes the database and opens it again; new readers wait meanwhile.
    /// Where it can't be opened in full, it is opened for reading, so that no reader finds it closed;
    /// where that fails, or another store was written over it, it stays closed.
    pub(super) fn reopen(&self, access: Access) -> Result<(), StoreError> {
        self.closing.store(true, Ordering::Release);
        let mut guard = self.db.write().unwrap_or_else(PoisonError::into_inner);
        self.closing.store(false, Ordering::Release);
        self.opened.fetch_add(1, Ordering::AcqRel);
        *self.lock_backlog() = None;
        self.snapshots.renew(None);
        close(guard.take());
        let opened = self.opened_for(access);
        if opened.is_err() && access == Access::Full {
            *guard = self
                .opened_for(Access::Reading)
                .inspect_err(|error| tracing::error!(%error, "the store can't be read either"))
                .ok();
        }
        let done = match opened {
            Ok(db) => {
                *guard = Some(db);
                Ok(())
            }
            Err(error) => Err(error),
        };
        self.snapshots.renew(guard.as_ref());
        done
    }

    fn opened_for(&self, access: Access) -> Result<Database, StoreError> {
        let opener = || (self.disk.opener)(access);
        let db = open::open(&self.path, &self.sealer, &opener)?;
        self.refuse_another(&db)?;
        if let Some(place) = &self.disk.place {
            place.settle();
        }
        Ok(db)
    }

    /// Refuses a store of other index keys: its digests aren't those this one makes.
    fn refuse_another(&self, db: &Database) -> Result<(), StoreError> {
        let keys = open::index_keys(db, &self.path, &self.sealer)?;
        if keys.as_bytes() == self.sealer.index_keys().as_bytes() {
            return Ok(());
        }
        Err(StoreError::Unavailable {
            reason: format!(
                "{} was put in the place of the store that was open; start the sidecar again",
                self.path.display()
            ),
        })
    }

    /// Whether somebody waits to close the database: who reads for long must end.
    pub(super) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire) || self.ending.load(Ordering::Acquire)
    }

    /// Says that the store is about to be dropped: who reads for long must end.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Release);
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How full it is, if anything was committed since it was opened.
    pub(super) fn backlog(&self) -> Option<Backlog> {
        *self.lock_backlog()
    }

    /// Says how full it is after a commit.
    pub(super) fn set_backlog(&self, to: Backlog) {
        *self.lock_backlog() = Some(to);
    }

    fn lock_backlog(&self) -> MutexGuard<'_, Option<Backlog>> {
        // Held for one copy.
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the disk has room left, as far as can be told.
    pub(super) fn has_room(&self) -> bool {
        (self.disk.room)()
    }

    /// Whether the path leads to the file, as far as can be told; if not, what is wrong.
    pub(super) fn is_in_place(&self) -> Result<(), String> {
        match &self.disk.place {
            Some(place) => place.check(),
            None => Ok(()),
        }
    }

    /// Whether the last write succeeded, and the next one is likely to.
    pub(super) fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    /// Says whether that is so.
    pub(super) fn set_writable(&self, to: Writable) {
        self.writable.store(to == Writable::Yes, Ordering::Release);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // So that nothing of it is left when it is closed.
        self.snapshots.renew(None);
        let db = self.db.get_mut().unwrap_or_else(PoisonError::into_inner);
        close(db.take());
    }
}

/// Opens the database for everything, or, where that fails because the disk takes no writes, for
/// reading: the calls go on then, and the writer mends the rest. Who may not write the file is told
/// so, because no waiting heals that.
fn open_somehow(
    path: &Path,
    sealer: &Sealer,
    opener: &Opener,
) -> Result<(Database, Writable, Option<Migrated>), StoreError> {
    let is_denied = Cell::new(false);
    let full = || {
        opener(Access::Full).inspect_err(|error| {
            if let DatabaseError::Storage(StorageError::Io(error)) = error {
                is_denied.set(error.kind() == ErrorKind::PermissionDenied);
            }
        })
    };
    match open::open_and_tell(path, sealer, &full) {
        Ok((db, migrated)) => Ok((db, Writable::Yes, migrated)),
        Err(refused @ StoreError::Unavailable { .. }) if !is_denied.get() => {
            match open::open(path, sealer, &|| opener(Access::Reading)) {
                Ok(db) => {
                    tracing::error!(error = %refused, "the store is opened for reading alone");
                    // In memory it may have been migrated; the file wasn't.
                    Ok((db, Writable::No, None))
                }
                // The first error says more: what is wrong with the disk.
                Err(_) => Err(refused),
            }
        }
        Err(error) => Err(error),
    }
}

/// Closes a database. Where it is damaged redb may panic then, and has nothing left to lose: that
/// must not spread to whoever lets go of the store.
fn close(db: Option<Database>) {
    let _ = catch_unwind(AssertUnwindSafe(move || drop(db)));
}

/// Whether commits succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writable {
    /// The last one failed, or one of late did, and there is no room left on the disk; or the file isn't where its path
    /// leads.
    No,
    /// The last one succeeded.
    Yes,
}
