//! What the readers and the writer share: the database behind a handle that can be emptied, because
//! after an I/O error redb has to be closed and opened anew.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{Database, DatabaseError, ReadTransaction, ReadableDatabase};

use super::fault::Fault;
use super::open;
use crate::clock::Clock;
use crate::store::error::StoreError;
use crate::store::seal::Sealer;

/// Opens the database, without checking what is in it.
pub(super) type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// The state shared by all threads of one store.
pub(super) struct Shared {
    /// Tells the time of commits.
    pub(super) clock: Arc<dyn Clock>,
    /// Seals and opens records.
    pub(super) sealer: Sealer,
    path: PathBuf,
    opener: Opener,
    /// `None` while it is closed after a failure. It is written only to swap the database, which
    /// so waits until the last reader is done.
    db: RwLock<Option<Database>>,
    writable: AtomicBool,
    closing: AtomicBool,
    ending: AtomicBool,
}

impl Shared {
    /// Opens the store.
    pub(super) fn open(
        path: PathBuf,
        sealer: Sealer,
        clock: Arc<dyn Clock>,
        opener: Opener,
    ) -> Result<Self, StoreError> {
        let db = open::open(&path, &sealer, &opener)?;
        let sealer = {
            let keys = open::index_keys(&db, &path, &sealer)?;
            sealer.with_index_keys(keys)
        };
        Ok(Self {
            clock,
            sealer,
            path,
            opener,
            db: RwLock::new(Some(db)),
            writable: AtomicBool::new(true),
            closing: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        })
    }

    /// Runs `work` on the database, if it is open.
    pub(super) fn with_database<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        // Readers don't poison the lock, and the swaps below can't panic while they hold it.
        let guard = self.db.read().unwrap_or_else(PoisonError::into_inner);
        match guard.as_ref() {
            Some(db) => work(db),
            None => Err(Fault::Refused(StoreError::Unavailable {
                reason: "it is being opened again after a failure of the disk".to_owned(),
            })),
        }
    }

    /// Runs `work` on a snapshot of the database, if it is open.
    pub(super) fn with_snapshot<T>(
        &self,
        work: impl FnOnce(&ReadTransaction) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        self.with_database(|db| work(&db.begin_read()?))
    }

    /// Waits for the readers and closes the database.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        let db = self.swap(None);
        self.closing.store(false, Ordering::Release);
        // After a failure redb has nothing left to lose; a panic of it must not spread.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(db)));
    }

    /// Opens the database again, if it is closed.
    pub(super) fn reopen(&self) -> Result<(), StoreError> {
        if self.with_database(|_| Ok(())).is_ok() {
            return Ok(());
        }
        let db = open::open(&self.path, &self.sealer, &self.opener)?;
        let keys = open::index_keys(&db, &self.path, &self.sealer)?;
        if keys.as_bytes() != self.sealer.index_keys().as_bytes() {
            return Err(StoreError::Unavailable {
                reason: format!(
                    "{} was put in the place of the store that was open; start the sidecar again",
                    self.path.display()
                ),
            });
        }
        self.swap(Some(db));
        Ok(())
    }

    fn swap(&self, db: Option<Database>) -> Option<Database> {
        let mut guard = self.db.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *guard, db)
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

    /// Whether the last write succeeded.
    pub(super) fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    /// Says whether the last write succeeded.
    pub(super) fn set_writable(&self, to: Writable) {
        self.writable.store(to == Writable::Yes, Ordering::Release);
    }
}

/// Whether commits succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writable {
    /// The last one failed.
    No,
    /// The last one succeeded.
    Yes,
}
