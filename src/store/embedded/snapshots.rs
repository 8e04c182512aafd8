//! What readers read: one snapshot for all of them, which the writer leaves after each commit.
//!
//! Only the writer makes and drops them, and only between its commits. redb 4.6 writes once more
//! behind a commit during which the oldest snapshot ended, to free pages that nobody needs now.
//! What it writes there stays in a buffer until the next commit, and whoever reads then waits for
//! that buffer's locks, which are held during writes (`committed_pages_buffered`). And making or
//! dropping a snapshot takes a lock that is held while the file grows. A look-up on the spot may
//! wait for neither.

use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use arc_swap::ArcSwapOption;
use redb::{
    Database, Key, ReadOnlyTable, ReadTransaction, ReadableDatabase, TableDefinition, TableError,
    Value,
};

use super::tables;

/// The database as a commit left it, and the tables of it that calls look into, opened once.
pub(super) struct Snapshot {
    tx: ReadTransaction,
    merchants: Opened<&'static [u8], &'static [u8]>,
    by_alias: Opened<&'static [u8], &'static [u8]>,
    by_auth_app_id: Opened<&'static [u8], ()>,
}

type Opened<K, V> = OnceLock<ReadOnlyTable<K, V>>;

impl Snapshot {
    /// Of what `tx` sees.
    pub(super) fn new(tx: ReadTransaction) -> Self {
        Self {
            tx,
            merchants: OnceLock::new(),
            by_alias: OnceLock::new(),
            by_auth_app_id: OnceLock::new(),
        }
    }

    pub(super) fn merchants(
        &self,
    ) -> Result<&ReadOnlyTable<&'static [u8], &'static [u8]>, TableError> {
        self.opened(&self.merchants, tables::MERCHANTS)
    }

    pub(super) fn by_alias(
        &self,
    ) -> Result<&ReadOnlyTable<&'static [u8], &'static [u8]>, TableError> {
        self.opened(&self.by_alias, tables::BY_ALIAS)
    }

    pub(super) fn by_auth_app_id(&self) -> Result<&ReadOnlyTable<&'static [u8], ()>, TableError> {
        self.opened(&self.by_auth_app_id, tables::BY_AUTH_APP_ID)
    }

    fn opened<'s, K: Key, V: Value>(
        &self,
        place: &'s Opened<K, V>,
        table: TableDefinition<'_, K, V>,
    ) -> Result<&'s ReadOnlyTable<K, V>, TableError> {
        if let Some(opened) = place.get() {
            return Ok(opened);
        }
        // Of two who open it at once, one has opened it in vain: neither waits for the other.
        let opened = self.tx.open_table(table)?;
        Ok(place.get_or_init(|| opened))
    }
}

impl Deref for Snapshot {
    type Target = ReadTransaction;

    fn deref(&self) -> &ReadTransaction {
        &self.tx
    }
}

/// The latest snapshot, and those before it that are still read.
///
/// The pages that a commit frees can be used again one commit later than without it.
#[derive(Default)]
pub(super) struct Snapshots {
    latest: ArcSwapOption<Snapshot>,
    replaced: Mutex<Vec<Arc<Snapshot>>>,
}

impl Snapshots {
    /// As the last commit left the database, if it is open; nobody has to be waited for.
    pub(super) fn latest(&self) -> Option<Arc<Snapshot>> {
        self.latest.load_full()
    }

    /// Takes one of what `db` holds now, in the place of the latest, and drops those that nobody
    /// reads anymore. Without a database there is none.
    pub(super) fn renew(&self, db: Option<&Database>) {
        let former = self.latest.swap(db.and_then(taken));
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        replaced.extend(former);
        // Nobody can come to read one that only stands here.
        let unread = replaced.extract_if(.., |snapshot| Arc::strong_count(snapshot) == 1);
        let unread: Vec<_> = unread.collect();
        drop(replaced);
        // Where a bug has poisoned a lock of redb's, this panics, and the database is opened anew.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(unread)));
    }
}

/// Readers get along without one, and then meet what is wrong with the database. Where the file is
/// damaged redb may panic.
fn taken(db: &Database) -> Option<Arc<Snapshot>> {
    let taken = catch_unwind(AssertUnwindSafe(|| db.begin_read()));
    let tx = taken.ok()?.ok()?;
    Some(Arc::new(Snapshot::new(tx)))
}

#[cfg(test)]
mod tests {
    use redb::TableDefinition;
    use redb::backends::InMemoryBackend;

    use super::*;

    const TABLE: TableDefinition<'_, u8, u8> = TableDefinition::new("numbers");

    fn commit(db: &Database, number: u8) {
        let tx = db.begin_write().expect("begun");
        let mut table = tx.open_table(TABLE).expect("opened");
        table.insert(0, number).expect("written");
        drop(table);
        tx.commit().expect("committed");
    }

    fn number(snapshot: &Snapshot) -> u8 {
        let table = snapshot.open_table(TABLE).expect("opened");
        table.get(0).expect("read").expect("there").value()
    }

    #[test]
    fn a_snapshot_stays_as_it_is_until_its_last_reader_is_done() {
        let db = Database::builder()
            .create_with_backend(InMemoryBackend::new())
            .expect("made");
        let snapshots = Snapshots::default();
        assert!(snapshots.latest().is_none());
        commit(&db, 1);
        snapshots.renew(Some(&db));
        let first = snapshots.latest().expect("taken");
        commit(&db, 2);
        assert_eq!(number(&snapshots.latest().expect("taken")), 1);
        snapshots.renew(Some(&db));
        assert_eq!(number(&snapshots.latest().expect("taken")), 2);
        assert_eq!(number(&first), 1);

        // The reader isn't the last that holds it: dropping it takes a lock.
        let (of_reader, held) = (Arc::downgrade(&first), 2);
        assert_eq!(Arc::strong_count(&first), held);
        drop(first);
        assert!(of_reader.upgrade().is_some());
        snapshots.renew(Some(&db));
        assert!(of_reader.upgrade().is_none());

        snapshots.renew(None);
        assert!(snapshots.latest().is_none());
    }
}
