//! What is done to the file of a store while no sidecar has it open.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase};

use super::aside;
use super::catalogue::TABLES;
use super::copy::{Building, refuse_existing};
use super::fault::Fault;
use super::open::Migrated;
use super::read::Reader;
use super::snapshots::Snapshot;
use super::whereabouts::Whereabouts;
use super::{inspect, listing, open, rows, stats};
use crate::model::app::App;
use crate::store::care::{Copied, Inspection, Stats};
use crate::store::error::StoreError;
use crate::store::seal::{Sealer, StoreKey};

/// A store that this process has for itself: no sidecar can open it meanwhile. All of it blocks.
pub struct StoreFile {
    pub(super) path: PathBuf,
    pub(super) db: Database,
    pub(super) sealer: Sealer,
    migrated: Option<Migrated>,
}

impl StoreFile {
    /// Opens an existing store; migrates one of an older schema.
    ///
    /// # Errors
    /// As [`EmbeddedStore::open`](super::EmbeddedStore::open).
    pub fn open(path: &Path, key: &StoreKey, cache_bytes: usize) -> Result<Self, StoreError> {
        let opener = || Database::builder().set_cache_size(cache_bytes).open(path);
        let sealer = Sealer::new(key);
        let (db, migrated) = open::open_and_tell(path, &sealer, &opener)?;
        let keys = open::index_keys(&db, path, &sealer)?;
        Ok(Self {
            path: path.to_owned(),
            db,
            sealer: sealer.with_index_keys(keys),
            migrated,
        })
    }

    /// Whether it was migrated when it was opened.
    #[must_use]
    pub fn migrated(&self) -> Option<Migrated> {
        self.migrated
    }

    /// Copies everything into a new file at `to`; `progress` hears how many rows there are by now.
    ///
    /// # Errors
    /// [`StoreError::Exists`] when anything stands at `to`, [`StoreError::Unavailable`] when it
    /// can't be read or written.
    pub fn backup(&self, to: &Path, progress: &mut dyn FnMut(u64)) -> Result<Copied, StoreError> {
        refuse_existing(to)?;
        let scratch = open::scratch_path(to);
        let copied = self.copy(&scratch, progress).and_then(|copied| {
            open::put_in_place(&scratch, to)?;
            Ok(copied)
        });
        // Whether linked into place or not, the scratch name has done its duty.
        let _ = std::fs::remove_file(&scratch);
        copied
    }

    fn copy(&self, scratch: &Path, progress: &mut dyn FnMut(u64)) -> Result<Copied, StoreError> {
        let mut building = Building::begin(scratch.to_owned())?;
        self.read(|tx| {
            rows::refuse_unknown(tx)?;
            for table in TABLES {
                table.walk(tx, &mut |key, value| {
                    building.row(*table, key.to_vec(), value.to_vec())?;
                    progress(building.rows);
                    Ok(())
                })?;
            }
            Ok(())
        })?;
        building.finish(&self.sealer)
    }

    /// Reads every record, and compares the indexes with them.
    ///
    /// # Errors
    /// [`StoreError`] when the file can't be read.
    pub fn inspect(&self) -> Result<Inspection, StoreError> {
        self.read(|tx| inspect::inspect(tx, &self.sealer, &|| Ok(())))
    }

    /// How large the file is, and what is in it.
    ///
    /// # Errors
    /// [`StoreError`] when the file can't be read.
    pub fn stats(&self) -> Result<Stats, StoreError> {
        self.read(|tx| stats::stats(tx, &self.sealer, &self.path, &|| Ok(())))
    }

    /// Moves every damaged record aside at `now` (Unix milliseconds), and tells which. Its bytes
    /// are kept; a delivery whose notification is whole is owed anew, and so is one that is missing.
    /// The rows that merchants are found by agree with the records afterwards, but for an alias that
    /// several claim. A damaged record stays whose other half only a newer program understands.
    ///
    /// # Errors
    /// [`StoreError`] when the file can't be read or written.
    pub fn repair(&mut self, now: i64) -> Result<Repaired, StoreError> {
        let mut tried = HashSet::new();
        loop {
            let found = self.read(|tx| inspect::damaged(tx, &self.sealer, &tried))?;
            if found.is_empty() {
                break;
            }
            aside::repair(&self.db, &self.sealer, &found, now).map_err(Fault::into_error)?;
            // Each is tried once: what can't be moved would be found for ever.
            let found = found.iter().map(|(table, key)| (*table, key.as_slice()));
            tried.extend(found.map(|(table, key)| inspect::name_of((table, key))));
        }
        let rebuilt = aside::rebuild_missing(&self.db, &self.sealer, now);
        let rebuilt = rebuilt.map_err(Fault::into_error)?;
        let mended = listing::mend(&self.db, &self.sealer, now).map_err(Fault::into_error)?;
        let left = self.read(|tx| inspect::damaged(tx, &self.sealer, &HashSet::new()))?;
        for (table, key) in &left {
            tried.remove(&inspect::name_of((*table, key)));
        }
        let mut moved: Vec<String> = tried.iter().map(inspect::shown).collect();
        moved.sort();
        Ok(Repaired {
            moved,
            rebuilt,
            removed: mended.removed,
            relisted: mended.relisted,
            contested: mended.contested,
        })
    }

    /// Gives free pages back to the file system; tells the size before and after.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the file can't be written.
    pub fn compact(&mut self) -> Result<(u64, u64), StoreError> {
        let before = self.size()?;
        // One pass leaves pages that the next can move.
        while self.db.compact().map_err(|error| StoreError::Unavailable {
            reason: format!("{}: {error}", self.path.display()),
        })? {}
        Ok((before, self.size()?))
    }

    fn size(&self) -> Result<u64, StoreError> {
        let file = std::fs::metadata(&self.path);
        let file = file.map_err(|error| open::unavailable(&self.path, &error))?;
        Ok(file.len())
    }

    pub(super) fn read<T>(
        &self,
        work: impl FnOnce(&Snapshot) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let read = || -> Result<T, Fault> { work(&Snapshot::new(self.db.begin_read()?)) };
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
        match read {
            Ok(done) => done.map_err(Fault::into_error),
            Err(_) => Err(open::damaged(&self.path, "redb panicked while it read it")),
        }
    }
}

/// The apps of the store at `path`, of which nothing is changed: where it is of an older schema it is
/// brought up to date in memory alone, so that an older program can open it as before. Blocks.
///
/// # Errors
/// As [`EmbeddedStore::open`](super::EmbeddedStore::open).
pub fn apps_of(path: &Path, key: &StoreKey) -> Result<Vec<App>, StoreError> {
    let place = Whereabouts::of(path);
    let opener = || open::builder().create_with_backend(open::for_reading(&place)?);
    let sealer = Sealer::new(key);
    let file = StoreFile {
        path: path.to_owned(),
        db: open::open(path, &sealer, &opener)?,
        sealer,
        migrated: None,
    };
    file.read(|tx| {
        let sealer = &file.sealer;
        Reader { tx, sealer }.apps()
    })
}

/// What a repair did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// The records that were moved aside: table and key.
    pub moved: Vec<String>,
    /// How many deliveries were made anew that were missing.
    pub rebuilt: u64,
    /// The rows of merchants' indexes that were removed because they led to no record that says the
    /// same: table and key.
    pub removed: Vec<String>,
    /// How many merchants are found again by what they weren't.
    pub relisted: u64,
    /// The aliases that several merchants claim, and who: none of them was listed under it.
    pub contested: Vec<String>,
}

impl std::fmt::Debug for StoreFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreFile")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}
