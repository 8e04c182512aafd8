//! A new store file made of rows: a backup, a restored store, one under another key.
//!
//! It is built under a scratch name, read again in full, made durable, and only then linked into
//! place; nothing that stands there is overwritten.

use std::fs::{self, File};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};

use super::catalogue::{self, AnyTable, Row, TABLES};
use super::fault::Fault;
use super::open;
use super::rows::{Frame, RowReader};
use super::tables::Tables;
use crate::store::care::Copied;
use crate::store::error::StoreError;
use crate::store::seal::{Sealer, StoreKey};

/// When rows that wait are written into the file, bytes.
const BATCH: usize = 4 << 20;
/// After how many bytes what was written is committed: a transaction keeps account of all its
/// pages in memory.
const COMMIT: usize = 64 << 20;

/// Puts the pieces of a [`RowStream`](crate::store::care::RowStream) together to a store file.
pub struct CopyWriter {
    path: PathBuf,
    sealer: Sealer,
    building: Building,
    reader: RowReader,
    end: Option<u64>,
}

impl CopyWriter {
    /// Begins a file that will stand at `path`, where nothing may stand yet.
    ///
    /// # Errors
    /// [`StoreError::Exists`], or [`StoreError::Unavailable`] when no file can be made there.
    pub fn begin(path: &Path, key: &StoreKey) -> Result<Self, StoreError> {
        refuse_existing(path)?;
        Ok(Self {
            path: path.to_owned(),
            sealer: Sealer::new(key),
            building: Building::begin(open::scratch_path(path))?,
            reader: RowReader::default(),
            end: None,
        })
    }

    /// Takes the next piece, and tells how many rows there are by now.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when it isn't what belongs there, or can't be written.
    pub fn write(&mut self, piece: &[u8]) -> Result<u64, StoreError> {
        let (building, end) = (&mut self.building, &mut self.end);
        self.reader.push(piece, &mut |frame| match frame {
            Frame::End(rows) => {
                *end = Some(rows);
                Ok(())
            }
            Frame::Row(table, key, value) => building
                .row(table, key.to_vec(), value.to_vec())
                .map_err(Fault::into_error),
        })?;
        Ok(self.building.rows)
    }

    /// Reads the file again in full, and puts it in its place.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the copy broke off or can't be written,
    /// [`StoreError::WrongKey`] when it is sealed under another key.
    pub fn finish(mut self) -> Result<Copied, StoreError> {
        if self.end != Some(self.building.rows) {
            return Err(StoreError::Unavailable {
                reason: "the copy broke off before its end; nothing was kept of it".to_owned(),
            });
        }
        let copied = self.building.finish(&self.sealer);
        let copied = copied.map_err(|error| match error {
            StoreError::WrongKey { .. } => StoreError::WrongKey {
                path: self.path.clone(),
            },
            other => other,
        })?;
        open::put_in_place(&self.building.scratch, &self.path)?;
        Ok(copied)
    }
}

impl Drop for CopyWriter {
    fn drop(&mut self) {
        // Whether linked into place or not, the scratch name has done its duty.
        let _ = fs::remove_file(&self.building.scratch);
    }
}

impl std::fmt::Debug for CopyWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CopyWriter")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

/// Refuses a place that is taken.
pub(super) fn refuse_existing(path: &Path) -> Result<(), StoreError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Err(StoreError::Exists { path: path.into() }),
        Err(_) => Ok(()),
    }
}

/// A file that is being filled. Dropping it leaves the file under its scratch name.
pub(super) struct Building {
    /// Where it is.
    pub(super) scratch: PathBuf,
    /// How many rows it has.
    pub(super) rows: u64,
    filling: Option<(Database, WriteTransaction)>,
    table: Option<&'static dyn AnyTable>,
    waiting: Vec<Row>,
    waiting_bytes: usize,
    uncommitted: usize,
    commit_at: usize,
}

impl Building {
    /// Begins an empty file at `scratch`.
    pub(super) fn begin(scratch: PathBuf) -> Result<Self, StoreError> {
        let file = open::create_private(&scratch).map_err(|e| open::unavailable(&scratch, &e))?;
        let db = FileBackend::new(file)
            .and_then(|backend| open::builder().create_with_backend(backend))
            .map_err(|error| open::classify(&scratch, error))?;
        let tx = db.begin_write().map_err(|e| Fault::from(e).into_error())?;
        Ok(Self {
            scratch,
            rows: 0,
            filling: Some((db, tx)),
            table: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
            uncommitted: 0,
            commit_at: COMMIT,
        })
    }

    /// Adds a row of `table`.
    pub(super) fn row(
        &mut self,
        table: &'static dyn AnyTable,
        key: Vec<u8>,
        value: Vec<u8>,
    ) -> Result<(), Fault> {
        let row = Row { key, value };
        if !table.fits(&row) {
            let reason = format!("a row doesn't fit into table `{}`", table.name());
            return Err(Fault::broken(reason));
        }
        let is_same = self.table.is_some_and(|last| last.name() == table.name());
        if !is_same || self.waiting_bytes >= BATCH {
            self.flush()?;
        }
        self.table = Some(table);
        self.waiting_bytes += row.key.len() + row.value.len();
        self.waiting.push(row);
        self.rows += 1;
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Fault> {
        let rows = std::mem::take(&mut self.waiting);
        self.uncommitted += std::mem::take(&mut self.waiting_bytes);
        let (Some(table), Some((_, tx))) = (self.table, &self.filling) else {
            return Ok(());
        };
        // A row of a fixed width was measured; redb panics over others that can't be one.
        catch_unwind(AssertUnwindSafe(|| table.put(tx, &rows))).unwrap_or_else(|_| {
            Err(Fault::broken("a row isn't what its table holds".to_owned()))
        })?;
        if self.uncommitted < self.commit_at {
            return Ok(());
        }
        self.commit()
    }

    /// Commits what was written, and goes on.
    fn commit(&mut self) -> Result<(), Fault> {
        self.uncommitted = 0;
        if let Some((db, tx)) = self.filling.take() {
            tx.commit()?;
            let tx = db.begin_write()?;
            self.filling = Some((db, tx));
        }
        Ok(())
    }

    /// Makes the file durable and reads it again: whether it has every row, and opens.
    pub(super) fn finish(&mut self, sealer: &Sealer) -> Result<Copied, StoreError> {
        self.flush().map_err(Fault::into_error)?;
        let Some((db, tx)) = self.filling.take() else {
            return Err(no_copy(&self.scratch, "it was finished before"));
        };
        let commit = || -> Result<(), Fault> {
            Tables::create(&tx)?;
            Ok(tx.commit()?)
        };
        commit().map_err(Fault::into_error)?;
        db.close()
            .map_err(|error| open::classify(&self.scratch, error))?;
        let file = File::open(&self.scratch).and_then(|file| {
            file.sync_all()?;
            file.metadata()
        });
        let bytes = file
            .map_err(|error| open::unavailable(&self.scratch, &error))?
            .len();
        let (rows, damaged) = self.read_again(sealer)?;
        if rows != self.rows {
            let reason = format!("{} rows were written and {rows} are there", self.rows);
            return Err(no_copy(&self.scratch, &reason));
        }
        Ok(Copied {
            rows,
            damaged,
            bytes,
        })
    }

    fn read_again(&self, sealer: &Sealer) -> Result<(u64, u64), StoreError> {
        let opener = || open::builder().open(&self.scratch);
        let db = open::open(&self.scratch, sealer, &opener)?;
        let read = || -> Result<(u64, u64), Fault> { count(&db.begin_read()?, sealer) };
        read().map_err(Fault::into_error)
    }
}

/// How many rows there are, and how many of their records don't open.
pub(super) fn count(tx: &ReadTransaction, sealer: &Sealer) -> Result<(u64, u64), Fault> {
    let (mut rows, mut damaged) = (0, 0);
    for table in TABLES {
        table.walk(tx, &mut |key, value| {
            rows += 1;
            damaged += u64::from(catalogue::opened(*table, key, value, sealer).is_err());
            Ok(())
        })?;
    }
    Ok((rows, damaged))
}

fn no_copy(path: &Path, reason: &str) -> StoreError {
    StoreError::Unavailable {
        reason: format!("{}: {reason}; nothing was kept of it", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::tables::META;

    #[test]
    fn a_large_copy_is_committed_piece_by_piece_and_whole_at_the_end() {
        let dir = tempfile::tempdir().expect("a directory");
        let key = StoreKey::generate();
        let store = dir.path().join("store");
        open::create(&store, &Sealer::new(&key)).expect("created");
        let file = super::super::StoreFile::open(&store, &key, 0).expect("opened");
        let meta = TABLES.iter().find(|table| table.name() == "meta");
        let mut building = Building::begin(dir.path().join("copy")).expect("begun");
        building.commit_at = 1;
        let mut rows = Vec::new();
        let meta = *meta.expect("listed");
        file.read(|tx| {
            meta.walk(tx, &mut |key, value| {
                rows.push((key.to_vec(), value.to_vec()));
                Ok(())
            })
        })
        .expect("read");
        for (key, value) in rows {
            building.row(meta, key, value).expect("taken");
            building.flush().expect("written");
            assert_eq!(building.uncommitted, 0);
            let (db, _) = building.filling.as_ref().expect("it goes on");
            let committed = db.begin_read().expect("begun");
            let committed = committed.open_table(META).expect("committed");
            let committed = redb::ReadableTableMetadata::len(&committed).expect("counted");
            assert_eq!(committed, building.rows, "nothing waits");
        }
        let copied = building.finish(&Sealer::new(&key)).expect("finished");
        assert_eq!(copied.damaged, 0);
        assert!(copied.rows >= 3, "{copied:?}");
    }
}
