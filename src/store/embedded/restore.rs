//! Puts a backup into a store's place.

use std::fs::{self, File, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};

use redb::Database;

use super::copy::{CopyWriter, refuse_existing};
use super::file::StoreFile;
use super::links::refuse_link;
use super::open::{self, Migrated};
use super::rekey::{keep_beside, take_the_place};
use super::rows;
use crate::store::care::{Inspection, Stats};
use crate::store::error::StoreError;
use crate::store::seal::StoreKey;

/// What becomes of a store that stands where the backup shall stand.
#[derive(Debug, Clone)]
pub enum Existing {
    /// It stays, and nothing is restored.
    Refuse,
    /// It is kept under this name.
    KeepAs(PathBuf),
}

/// What was restored.
#[derive(Debug, Clone)]
pub struct Restored {
    /// What a look at every record found.
    pub inspection: Inspection,
    /// What is in it.
    pub stats: Stats,
    /// Where the store that stood there is now.
    pub kept: Option<PathBuf>,
    /// Whether the copy was migrated; the backup itself is as it was.
    pub migrated: Option<Migrated>,
}

/// Puts a copy of the backup `from` at `to`, once it has been read in full. The backup itself isn't
/// touched. A link isn't replaced: `to` has to be what it leads to
/// ([`behind_links`](super::behind_links)).
///
/// # Errors
/// [`StoreError::Exists`] when a store stands at `to` and isn't to be replaced,
/// [`StoreError::Locked`] when a sidecar has it open; and what
/// [`EmbeddedStore::open`](super::EmbeddedStore::open) says of a file that is no store of this key
/// and schema. Nothing is changed then.
pub fn restore(
    from: &Path,
    to: &Path,
    key: &StoreKey,
    existing: &Existing,
) -> Result<Restored, StoreError> {
    refuse_link(to)?;
    let held = hold(to)?;
    if let (Existing::Refuse, true) = (existing, held.is_there) {
        return Err(StoreError::Exists { path: to.into() });
    }
    let scratch = open::scratch_path(to);
    let restored = look_at_copy(from, &scratch, key).and_then(|looked_at| {
        let kept = put_in_place(&scratch, to, existing, held.is_there)?;
        Ok(Restored { kept, ..looked_at })
    });
    // Whether in its place or not, the scratch name has done its duty.
    let _ = fs::remove_file(&scratch);
    drop(held);
    restored
}

/// The store that is to be replaced: open, so that no sidecar opens it meanwhile, where it opens.
struct Held {
    is_there: bool,
    _db: Option<Database>,
}

fn hold(path: &Path) -> Result<Held, StoreError> {
    if refuse_existing(path).is_ok() {
        return Ok(Held {
            is_there: false,
            _db: None,
        });
    }
    let opener = || open::builder().open(path);
    let opened = std::panic::catch_unwind(opener);
    let db = match opened.map(|db| db.map_err(|error| open::classify(path, error))) {
        Ok(Ok(db)) => Some(db),
        Ok(Err(locked @ StoreError::Locked { .. })) => return Err(locked),
        // Damaged, which is what backups are for.
        Ok(Err(_)) | Err(_) => None,
    };
    Ok(Held {
        is_there: true,
        _db: db,
    })
}

fn look_at_copy(from: &Path, scratch: &Path, key: &StoreKey) -> Result<Restored, StoreError> {
    // Errors name the file the operator gave, not the copy that is gone by then.
    let named = |error| match error {
        StoreError::DamagedFile { reason, .. } => open::damaged(from, &reason),
        StoreError::WrongKey { .. } => StoreError::WrongKey { path: from.into() },
        StoreError::SchemaTooNew { found, known, .. } => StoreError::SchemaTooNew {
            path: from.into(),
            found,
            known,
        },
        other => other,
    };
    copy(from, scratch, key).map_err(named)?;
    let file = StoreFile::open(scratch, key, open::CACHE).map_err(named)?;
    let looked_at = Restored {
        inspection: file.inspect()?,
        stats: file.stats()?,
        kept: None,
        migrated: file.migrated(),
    };
    drop(file);
    sync(scratch)?;
    Ok(looked_at)
}

/// Makes a store at `scratch` of a copy: a file, or the stream of rows that a sidecar gave.
fn copy(from: &Path, scratch: &Path, key: &StoreKey) -> Result<(), StoreError> {
    let mut source = File::open(from).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => StoreError::Missing { path: from.into() },
        _ => open::unavailable(from, &error),
    })?;
    let unreadable = |error: std::io::Error| open::unavailable(from, &error);
    let (first, is_stream) = rows::begins(&mut source).map_err(unreadable)?;
    if is_stream {
        return unpack(first.chain(source), scratch, key).map_err(|error| match error {
            // It is the copy that is no good.
            StoreError::Unavailable { reason } => StoreError::Unavailable {
                reason: format!("{}: {reason}", from.display()),
            },
            other => other,
        });
    }
    // What is written meanwhile is no copy.
    if let Err(TryLockError::WouldBlock) = source.try_lock_shared() {
        return Err(StoreError::Locked { path: from.into() });
    }
    let mut copy = open::create_private(scratch).map_err(|e| open::unavailable(scratch, &e))?;
    std::io::copy(&mut first.chain(&source), &mut copy)
        .map_err(|e| open::unavailable(scratch, &e))?;
    copy.sync_all().map_err(|e| open::unavailable(scratch, &e))
}

fn unpack(mut stream: impl Read, scratch: &Path, key: &StoreKey) -> Result<(), StoreError> {
    let mut writer = CopyWriter::begin(scratch, key)?;
    let mut piece = vec![0; 256 << 10];
    loop {
        let length = stream
            .read(&mut piece)
            .map_err(|error| StoreError::Unavailable {
                reason: error.to_string(),
            })?;
        match piece.get(..length) {
            None | Some([]) => break,
            Some(read) => writer.write(read)?,
        };
    }
    writer.finish().map(drop)
}

fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| open::unavailable(path, &error))
}

fn put_in_place(
    scratch: &Path,
    to: &Path,
    existing: &Existing,
    is_there: bool,
) -> Result<Option<PathBuf>, StoreError> {
    let Existing::KeepAs(keep) = existing else {
        open::put_in_place(scratch, to)?;
        return Ok(None);
    };
    if !is_there {
        open::put_in_place(scratch, to)?;
        return Ok(None);
    }
    keep_beside(to, keep)?;
    take_the_place(scratch, to, keep)?;
    Ok(Some(keep.clone()))
}
