//! Creates the file and opens it, and tells apart what can be wrong with it.
//!
//! Opening never creates: an empty store in the place of a mistyped or damaged one would look like
//! a sidecar without merchants. redb may panic on a damaged file; here that becomes an error.

use std::fs::{self, File};
use std::io::{Error, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError,
    WriteTransaction,
};

use super::fault::Fault;
use super::overlay::Overlay;
use super::spot::NoWait;
use super::tables::{self, CHECK_KEY, INDEX_KEY, META, SCHEMA, Tables};
use super::whereabouts::Whereabouts;
use crate::store::error::StoreError;
#[cfg(unix)]
use crate::store::ownership;
use crate::store::seal::{IndexKeys, Place, Sealer};

/// How much of a file is held in memory while something is done to it as a whole, bytes: it is
/// read once from end to end, beside a sidecar that needs the memory. redb would take 1 GiB.
pub(super) const CACHE: usize = 32 << 20;

/// What the check value says once opened.
const CHECK_VALUE: &[u8] = b"alipay-sidecar";

const CHECK_PLACE: Place<'static> = Place {
    table: "meta",
    key: CHECK_KEY.as_bytes(),
};

const INDEX_PLACE: Place<'static> = Place {
    table: "meta",
    key: INDEX_KEY.as_bytes(),
};

/// Makes a new, empty store at `path`, readable by its owner alone from the first moment.
///
/// It is built under another name and then linked into place, so that a crash can't leave half a
/// store at `path`, and nothing that stands there is ever overwritten.
pub(super) fn create(path: &Path, sealer: &Sealer) -> Result<(), StoreError> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(StoreError::Exists { path: path.into() });
    }
    let scratch = scratch_path(path);
    let made = build(&scratch, sealer).and_then(|()| put_in_place(&scratch, path));
    // Whether linked into place or not, the scratch name has done its duty.
    let _ = fs::remove_file(&scratch);
    made
}

pub(super) fn scratch_path(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", uuid::Uuid::now_v7().simple()));
    path.with_file_name(name)
}

/// Opens a file that something is done to as a whole.
pub(super) fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE);
    builder
}

fn build(scratch: &Path, sealer: &Sealer) -> Result<(), StoreError> {
    let file = create_private(scratch).map_err(|error| unavailable(scratch, &error))?;
    let db = FileBackend::new(file)
        .and_then(|backend| builder().create_with_backend(backend))
        .map_err(|error| classify(scratch, error))?;
    initialise(&db, sealer).map_err(Fault::into_error)?;
    db.close().map_err(|error| classify(scratch, error))?;
    File::open(scratch)
        .and_then(|file| file.sync_all())
        .map_err(|error| unavailable(scratch, &error))
}

pub(super) fn create_private(path: &Path) -> std::io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    let file = options.open(path)?;
    #[cfg(unix)]
    ownership::hand_over(path, &file);
    Ok(file)
}

fn initialise(db: &Database, sealer: &Sealer) -> Result<(), Fault> {
    let tx = db.begin_write()?;
    Tables::create(&tx)?;
    tables::write_schema(&tx, SCHEMA)?;
    let check = sealer.seal(CHECK_PLACE, CHECK_VALUE)?;
    let mut meta = tx.open_table(META)?;
    meta.insert(CHECK_KEY, check.as_slice())?;
    drop(meta);
    write_index_keys(&tx, sealer, &IndexKeys::generate())?;
    Ok(tx.commit()?)
}

pub(super) fn write_index_keys(
    tx: &WriteTransaction,
    sealer: &Sealer,
    keys: &IndexKeys,
) -> Result<(), Fault> {
    let sealed = sealer.seal(INDEX_PLACE, keys.as_bytes())?;
    tx.open_table(META)?.insert(INDEX_KEY, sealed.as_slice())?;
    Ok(())
}

pub(super) fn put_in_place(scratch: &Path, path: &Path) -> Result<(), StoreError> {
    match fs::hard_link(scratch, path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(StoreError::Exists { path: path.into() });
        }
        // A file system without hard links: nothing stood there a moment ago.
        Err(_) => fs::rename(scratch, path).map_err(|error| unavailable(path, &error))?,
    }
    sync_parent(path).map_err(|error| unavailable(path, &error))
}

/// Makes the name of the file durable; redb syncs only what is in it.
pub(super) fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(parent.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

/// That a store was brought up to date when it was opened: an older program can't open it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Migrated {
    /// The schema version that was found.
    pub from: u64,
    /// The one it has now.
    pub to: u64,
}

/// Opens the database at `path` by `opener` and makes sure it is a store of this key and schema.
pub(super) fn open(
    path: &Path,
    sealer: &Sealer,
    opener: &dyn Fn() -> Result<Database, DatabaseError>,
) -> Result<Database, StoreError> {
    open_and_tell(path, sealer, opener).map(|(db, _)| db)
}

/// The same, and whether it was migrated for that.
pub(super) fn open_and_tell(
    path: &Path,
    sealer: &Sealer,
    opener: &dyn Fn() -> Result<Database, DatabaseError>,
) -> Result<(Database, Option<Migrated>), StoreError> {
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let db = opener().map_err(|error| classify(path, error))?;
        let migrated = check(&db, path, sealer)?;
        Ok((db, migrated))
    }));
    opened.unwrap_or_else(|_| Err(damaged(path, "redb panicked while it read the file")))
}

/// The file, as a database there is.
pub(super) fn for_writing(place: &Whereabouts) -> Result<NoWait<FileBackend>, DatabaseError> {
    let file = place.for_writing()?;
    if file.metadata()?.len() == 0 {
        // redb would make a new one of it.
        return Err(Error::new(ErrorKind::InvalidData, "it is empty").into());
    }
    NoWait::of_file(file)
}

/// The file, to be read while it can't be written.
pub(super) fn for_reading(
    place: &Whereabouts,
) -> Result<NoWait<Overlay<FileBackend>>, DatabaseError> {
    let (file, lock) = place.for_reading()?;
    let overlay = Overlay::over(FileBackend::new(file)?, lock)?;
    Ok(NoWait::new(overlay))
}

fn check(db: &Database, path: &Path, sealer: &Sealer) -> Result<Option<Migrated>, StoreError> {
    let Header {
        version: found,
        check,
    } = read_header(db, path, sealer)?;
    if found > SCHEMA {
        return Err(StoreError::SchemaTooNew {
            path: path.into(),
            found,
            known: SCHEMA,
        });
    }
    let migrated = (found < SCHEMA).then_some(Migrated {
        from: found,
        to: SCHEMA,
    });
    if migrated.is_some() {
        // What `snapshots` says of readers holds from the first of them on.
        let _oldest = db
            .begin_read()
            .map_err(Fault::from)
            .map_err(Fault::into_error)?;
        migrate(db, found, sealer).map_err(Fault::into_error)?;
    }
    if check == Check::Damaged {
        tracing::error!(path = %path.display(), "the store's check value is damaged, and is written anew; its key is right");
        write_check(db, sealer).map_err(Fault::into_error)?;
    }
    Ok(migrated)
}

/// What a store says of itself.
struct Header {
    version: u64,
    check: Check,
}

/// How the value is that only the right key opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    /// It doesn't open, and another value does.
    Damaged,
    Opens,
}

fn write_check(db: &Database, sealer: &Sealer) -> Result<(), Fault> {
    let tx = db.begin_write()?;
    let check = sealer.seal(CHECK_PLACE, CHECK_VALUE)?;
    tx.open_table(META)?.insert(CHECK_KEY, check.as_slice())?;
    Ok(tx.commit()?)
}

fn read_header(db: &Database, path: &Path, sealer: &Sealer) -> Result<Header, StoreError> {
    let unreadable = |fault: Fault| match fault {
        Fault::Broken { reason, .. } => damaged(path, &reason),
        Fault::Refused(error) => error,
    };
    let tx = db.begin_read().map_err(|error| unreadable(error.into()))?;
    let meta = tx
        .open_table(META)
        .map_err(|error| unreadable(error.into()))?;
    let version = tables::read_schema(&meta).map_err(unreadable)?;
    let version = version.ok_or_else(|| damaged(path, "it has no schema version"))?;
    let check = meta
        .get(CHECK_KEY)
        .map_err(|error| unreadable(error.into()))?
        .ok_or_else(|| damaged(path, "it has no check value"))?;
    let opened = sealer.open(CHECK_PLACE, check.value());
    if opened.is_ok_and(|value| value.as_slice() == CHECK_VALUE) {
        let check = Check::Opens;
        return Ok(Header { version, check });
    }
    let index_keys = meta
        .get(INDEX_KEY)
        .map_err(|error| unreadable(error.into()))?;
    let index_keys = index_keys.map(|row| sealer.open(INDEX_PLACE, row.value()));
    match index_keys {
        Some(Ok(_)) => {
            let check = Check::Damaged;
            Ok(Header { version, check })
        }
        _ => Err(StoreError::WrongKey { path: path.into() }),
    }
}

fn migrate(db: &Database, found: u64, sealer: &Sealer) -> Result<(), Fault> {
    let tx = db.begin_write()?;
    tables::migrate(&tx, found)?;
    let has_index_keys = tx.open_table(META)?.get(INDEX_KEY)?.is_some();
    if !has_index_keys {
        write_index_keys(&tx, sealer, sealer.index_keys())?;
    }
    tracing::info!(from = found, to = SCHEMA, "the store's schema was migrated");
    Ok(tx.commit()?)
}

/// The index keys of the store in `db`, which [`open`] gave.
pub(super) fn index_keys(
    db: &Database,
    path: &Path,
    sealer: &Sealer,
) -> Result<IndexKeys, StoreError> {
    let read = || -> Result<Option<IndexKeys>, Fault> {
        let meta = db.begin_read()?.open_table(META)?;
        let Some(row) = meta.get(INDEX_KEY)? else {
            return Ok(None);
        };
        let keys = sealer.open(INDEX_PLACE, row.value())?;
        Ok(IndexKeys::from_bytes(&keys))
    };
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(Some(keys))) => Ok(keys),
        Ok(Ok(None) | Err(Fault::Refused(_))) => {
            Err(damaged(path, "it has no index keys that open"))
        }
        Ok(Err(Fault::Broken { reason, .. })) => Err(damaged(path, &reason)),
        Err(_) => Err(damaged(path, "redb panicked while it read the file")),
    }
}

/// Tells whose fault it is that redb doesn't open the file.
pub(super) fn classify(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            StoreError::Locked { path: path.into() }
        }
        DatabaseError::Storage(StorageError::Io(error)) => match error.kind() {
            ErrorKind::NotFound => StoreError::Missing { path: path.into() },
            ErrorKind::InvalidData | ErrorKind::IsADirectory | ErrorKind::UnexpectedEof => {
                damaged(path, &error.to_string())
            }
            _ => unavailable(path, &error),
        },
        error => damaged(path, &error.to_string()),
    }
}

pub(super) fn damaged(path: &Path, reason: &str) -> StoreError {
    StoreError::DamagedFile {
        path: path.into(),
        reason: reason.to_owned(),
    }
}

pub(super) fn unavailable(path: &Path, error: &Error) -> StoreError {
    StoreError::Unavailable {
        reason: format!("{}: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::secret::Secret;
    use crate::store::embedded::faulty::{authorize, options_in};
    use crate::store::embedded::{EmbeddedStore, OpenOptions};
    use crate::store::{Directory, MerchantKey, Store};

    /// Changes the file of `options`, which is closed, without the store.
    fn age(options: &OpenOptions, change: impl FnOnce(&WriteTransaction)) {
        let db = Database::open(&options.path).expect("opened");
        let tx = db.begin_write().expect("transaction");
        change(&tx);
        tx.commit().expect("committed");
    }

    #[tokio::test]
    async fn a_file_whose_index_keys_were_derived_gets_them_sealed_and_forgets_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = options_in(&dir, 0);
        EmbeddedStore::create(&options.path, &options.key).expect("created");
        age(&options, |tx| {
            let sealer = Sealer::new(&options.key);
            write_index_keys(tx, &sealer, sealer.index_keys()).expect("written");
        });
        let store = EmbeddedStore::open(options.clone()).expect("opened");
        let done = store.commit(vec![authorize("1", "a token")]).await;
        done.expect("committed");
        drop(store);
        // As schema version 2 had it: these keys are kept nowhere, and damaged records neither.
        age(&options, |tx| {
            tables::write_schema(tx, 2).expect("written");
            let mut meta = tx.open_table(META).expect("there");
            meta.remove(INDEX_KEY).expect("removed");
            drop(meta);
            tx.delete_table(tables::DAMAGED).expect("deleted");
        });
        for _ in 0..2 {
            let store = EmbeddedStore::open(options.clone()).expect("opened");
            let key = MerchantKey::Token(Secret::new("a token".to_owned()));
            let found = store.find(key).await.expect("readable");
            assert_eq!(found.len(), 1, "the token's digest is the same");
            let stats = store.stats().await.expect("readable");
            assert_eq!((stats.schema, stats.damaged), (SCHEMA, 0));
        }
        age(&options, |tx| {
            let mut meta = tx.open_table(META).expect("there");
            meta.remove(INDEX_KEY).expect("removed");
        });
        let opened = EmbeddedStore::open(options.clone());
        assert!(
            matches!(&opened, Err(StoreError::DamagedFile { reason, .. }) if reason.contains("index keys")),
            "new keys would make every digest wrong: {opened:?}"
        );
    }

    #[test]
    fn an_empty_file_is_no_store_and_stays_as_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = options_in(&dir, 0);
        File::create(&options.path).expect("made");
        let refused = EmbeddedStore::open(options.clone());
        assert!(matches!(refused, Err(StoreError::DamagedFile { .. })));
        assert_eq!(options.path.metadata().expect("there").len(), 0);
    }
}
