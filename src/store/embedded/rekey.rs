//! Another store key: every record sealed anew in a new file, which then takes the old one's place.
//!
//! A key and a file can't be renamed together, so the file says by its check value which key it is
//! sealed under, and at every moment a whole store stands at the path: the old one under the old
//! key until the one rename, the new one under the new key from then on. The lock on the old file
//! is held throughout, so no sidecar can write what the new file would lack.

use std::fs;
use std::path::{Path, PathBuf};

use super::catalogue::{self, TABLES};
use super::copy::Building;
use super::fault::Fault;
use super::file::StoreFile;
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
    /// [`StoreError::Exists`] when something stands at `keep`; the store is then as it was.
    pub fn rekey(
        self,
        new: &StoreKey,
        keep: &Path,
        progress: &mut dyn FnMut(RekeyStep),
    ) -> Result<Copied, StoreError> {
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
        fs::rename(scratch, &self.path).map_err(|e| open::unavailable(&self.path, &e))?;
        open::sync_parent(&self.path).map_err(|e| open::unavailable(&self.path, &e))?;
        progress(RekeyStep::Swapped);
        Ok(())
    }
}

/// Gives the file at `path` the second name `keep`, durably.
pub(super) fn keep_beside(path: &Path, keep: &Path) -> Result<(), StoreError> {
    fs::hard_link(path, keep).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => StoreError::Exists { path: keep.into() },
        _ => open::unavailable(keep, &error),
    })?;
    open::sync_parent(keep).map_err(|error| open::unavailable(keep, &error))
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
        return Err(Fault::Broken(format!(
            "table `{table}` holds sealed records but isn't listed so; this is a bug"
        )));
    }
    Ok(())
}
