//! Another store key: every record sealed anew in a new file, which then takes the old one's place.
//!
//! A key and a file can't be renamed together, so the file says by its check value which key it is
//! sealed under, and at every moment a whole store stands at the path: the old one under the old
//! key until the one rename, the new one under the new key from then on. The lock on the old file
//! is held throughout, so no sidecar can write what the new file would lack.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::catalogue::{self, TABLES};
use super::copy::Building;
use super::fault::Fault;
use super::file::StoreFile;
use super::links::refuse_link;
use super::{inspect, open, rows};
use crate::store::care::Copied;
use crate::store::error::StoreError;
use crate::store::seal::{Place, Sealer, StoreKey};

/// How far [`StoreFile::rekey`] has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RekeyStep {
    /// So many rows are sealed anew, in a file beside.
    Sealed(u64),
    /// The new file is durable, and every record of it opens under the new key.
    Verified,
    /// The old file has a second name.
    Kept,
    /// The new file stands in the old one's place.
    Swapped,
}

impl StoreFile {
    /// Seals every record under `new`; the old file is kept at `keep`. `progress` hears each step
    /// once it is done. A crash after any of them leaves a store that opens: with the old key
    /// before [`RekeyStep::Swapped`], with the new one from then on.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when a record is damaged or a file can't be written,
    /// [`StoreError::Exists`] when something stands at `keep`; the store is then as it was. One
    /// exception says so: the new file stands in its place, but perhaps not after a loss of power.
    /// A link isn't replaced: the store has to be opened by what it leads to
    /// ([`behind_links`](super::behind_links)).
    pub fn rekey(
        self,
        new: &StoreKey,
        keep: &Path,
        progress: &mut dyn FnMut(RekeyStep),
    ) -> Result<Copied, StoreError> {
        refuse_link(&self.path)?;
        let scratch = scratch_path(&self.path);
        // Who has the store for himself can only find what a crash left there.
        let _ = fs::remove_file(&scratch);
        let done = self.seal_anew(new, &scratch, progress).and_then(|copied| {
            self.swap(&scratch, keep, progress)?;
            Ok(copied)
        });
        if done.is_err() {
            let _ = fs::remove_file(&scratch);
        }
        done
    }

    fn seal_anew(
        &self,
        new: &StoreKey,
        scratch: &Path,
        progress: &mut dyn FnMut(RekeyStep),
    ) -> Result<Copied, StoreError> {
        let to = Sealer::new(new);
        let mut building = Building::begin(scratch.to_owned())?;
        self.read(|tx| {
            rows::refuse_unknown(tx)?;
            inspect::refuse_damaged(tx, &self.sealer)?;
            for table in TABLES {
                table.walk(tx, &mut |key, value| {
                    refuse_sealed(table.name(), key, value, &self.sealer, table.sealing())?;
                    let keys = (&self.sealer, &to);
                    let anew = catalogue::sealed_anew(*table, key, value, keys)?;
                    building.row(*table, key.to_vec(), anew)?;
                    progress(RekeyStep::Sealed(building.rows));
                    Ok(())
                })?;
            }
            Ok(())
        })?;
        let copied = building.finish(&to)?;
        if copied.damaged > 0 {
            return Err(StoreError::Unavailable {
                reason: format!(
                    "{} records of the new file don't open; the store is as it was",
                    copied.damaged
                ),
            });
        }
        progress(RekeyStep::Verified);
        Ok(copied)
    }

    fn swap(
        &self,
        scratch: &Path,
        keep: &Path,
        progress: &mut dyn FnMut(RekeyStep),
    ) -> Result<(), StoreError> {
        keep_beside(&self.path, keep)?;
        progress(RekeyStep::Kept);
        take_the_place(scratch, &self.path, keep)?;
        progress(RekeyStep::Swapped);
        Ok(())
    }
}

/// Gives the file at `path` the second name `keep`, durably; a copy of it where the file system has
/// no second names.
pub(super) fn keep_beside(path: &Path, keep: &Path) -> Result<(), StoreError> {
    match fs::hard_link(path, keep) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(StoreError::Exists { path: keep.into() });
        }
        Err(_) => copy_beside(path, keep)?,
    }
    open::sync_parent(keep).map_err(|error| open::unavailable(keep, &error))
}

fn copy_beside(path: &Path, keep: &Path) -> Result<(), StoreError> {
    let mut copy = open::create_private(keep).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => StoreError::Exists { path: keep.into() },
        _ => open::unavailable(keep, &error),
    })?;
    let copied = File::open(path).and_then(|mut file| {
        std::io::copy(&mut file, &mut copy)?;
        copy.sync_all()
    });
    copied.map_err(|error| {
        // Half a copy is of no use to anybody.
        let _ = fs::remove_file(keep);
        open::unavailable(keep, &error)
    })
}

/// Puts the file at `scratch` in the place of the one at `path`, which has the second name `keep`.
/// Where it doesn't come about, that name goes.
pub(super) fn take_the_place(scratch: &Path, path: &Path, keep: &Path) -> Result<(), StoreError> {
    if let Err(error) = fs::rename(scratch, path) {
        // The store stands at its path; without this the next try would find `keep` taken.
        let _ = fs::remove_file(keep);
        return Err(open::unavailable(path, &error));
    }
    open::sync_parent(path).map_err(|error| not_durable(path, keep, &error))
}

/// What is said once the new file stands at `path`, but may not after a loss of power.
fn not_durable(path: &Path, keep: &Path, error: &std::io::Error) -> StoreError {
    StoreError::Unavailable {
        reason: format!(
            "{path}: the new file stands in its place now (a rekeyed one under the new key), and the old one at {keep}, but the \
             system couldn't make that durable ({error}): after a loss of power the old one may \
             stand there again. Go on with the new one, and run `sync` once the disk works",
            path = path.display(),
            keep = keep.display()
        ),
    }
}

fn scratch_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".rekeying");
    path.with_file_name(name)
}

/// A row that is listed as not sealed but opens would be lost with the old key.
fn refuse_sealed(
    table: &str,
    key: &[u8],
    value: &[u8],
    sealer: &Sealer,
    sealing: catalogue::Sealing,
) -> Result<(), Fault> {
    let listed_open = matches!(sealing, catalogue::Sealing::Nothing);
    if listed_open && sealer.open(Place { table, key }, value).is_ok() {
        return Err(Fault::broken(format!(
            "table `{table}` holds sealed records but isn't listed so; this is a bug"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(dir)
            .expect("readable")
            .map(|file| {
                file.expect("a file")
                    .file_name()
                    .into_string()
                    .expect("text")
            })
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_swap_that_does_not_come_about_leaves_the_store_and_no_second_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, keep) = (dir.path().join("store"), dir.path().join("old"));
        fs::write(&store, b"old").expect("written");
        keep_beside(&store, &keep).expect("kept");
        let scratch = dir.path().join("missing");
        let swapped = take_the_place(&scratch, &store, &keep);
        assert!(matches!(swapped, Err(StoreError::Unavailable { .. })));
        assert_eq!(files(dir.path()), ["store"]);
        assert_eq!(fs::read(&store).expect("there"), b"old");
    }

    #[test]
    fn a_swap_that_may_not_last_says_that_the_new_file_stands_there() {
        let error = std::io::Error::from_raw_os_error(5);
        let said = not_durable(Path::new("store"), Path::new("old"), &error).to_string();
        for part in ["new file stands", "old one at old", "durable"] {
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn without_second_names_the_old_file_is_copied() {
        let dir = tempfile::tempdir().expect("a directory");
        let (store, keep) = (dir.path().join("store"), dir.path().join("old"));
        fs::write(&store, b"old").expect("written");
        copy_beside(&store, &keep).expect("copied");
        fs::write(&store, b"new").expect("written");
        assert_eq!(fs::read(&keep).expect("there"), b"old");
        let again = copy_beside(&store, &keep);
        assert!(matches!(again, Err(StoreError::Exists { .. })), "{again:?}");
        assert_eq!(fs::read(&keep).expect("there"), b"old", "never overwritten");
    }
}
