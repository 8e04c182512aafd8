//! Every table of the file with how its rows are sealed, for work that is done to the file as a
//! whole: copies, another key, a look at every record.
//!
//! A table that isn't listed in [`TABLES`] fails the test below, and a copy of a file that has it is
//! refused, because it would be lost.

use redb::{
    Key, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition, TableError,
    TableHandle, Value, WriteTransaction,
};
use zeroize::Zeroizing;

use super::fault::Fault;
use super::lookup::memo_key;
use super::tables::{self, Bytes, CHECK_KEY, INDEX_KEY};
use crate::store::error::StoreError;
use crate::store::seal::{Place, Sealer};

/// How the rows of a table are sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sealing {
    /// A value behind a time, which isn't part of the place.
    BehindTime,
    /// [`tables::META`]: some rows are, for its table and key.
    Meta,
    /// Nothing is: ids, digests and times.
    Nothing,
    /// A value behind its expiry, which is part of the place.
    UntilExpiry,
    /// The value, for its table and key.
    Value,
}

/// One row, as the bytes in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// Where a row stands: its table and its key.
pub(super) type Spot = (&'static dyn AnyTable, Vec<u8>);

/// What is given a row's key and value.
pub(super) type See<'s> = &'s mut dyn FnMut(&[u8], &[u8]) -> Result<(), Fault>;

/// One table, whatever its types.
pub(super) trait AnyTable: Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// How its rows are sealed.
    fn sealing(&self) -> Sealing;

    /// Shows every row, in order of the keys.
    fn walk(&self, tx: &ReadTransaction, see: See<'_>) -> Result<(), Fault>;

    /// Writes `rows`. The table is made where there is none.
    fn put(&self, tx: &WriteTransaction, rows: &[Row]) -> Result<(), Fault>;

    /// Removes the row of `key` and gives its value.
    fn take(&self, tx: &WriteTransaction, key: &[u8]) -> Result<Option<Vec<u8>>, Fault>;

    /// How many rows there are.
    fn rows(&self, tx: &ReadTransaction) -> Result<u64, Fault>;

    /// Whether a row of these bytes can be one of this table.
    fn fits(&self, row: &Row) -> bool;
}

struct Listed<K: Key + 'static, V: Value + 'static> {
    definition: TableDefinition<'static, K, V>,
    sealing: Sealing,
}

impl<K: Key + Sync + 'static, V: Value + Sync + 'static> AnyTable for Listed<K, V> {
    fn name(&self) -> &str {
        self.definition.name()
    }

    fn sealing(&self) -> Sealing {
        self.sealing
    }

    fn walk(&self, tx: &ReadTransaction, see: See<'_>) -> Result<(), Fault> {
        let table = match tx.open_table(self.definition) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        for row in table.iter()? {
            let (key, value) = row?;
            let (key, value) = (key.value(), value.value());
            see(K::as_bytes(&key).as_ref(), V::as_bytes(&value).as_ref())?;
        }
        Ok(())
    }

    fn put(&self, tx: &WriteTransaction, rows: &[Row]) -> Result<(), Fault> {
        let mut table = tx.open_table(self.definition)?;
        for row in rows {
            table.insert(K::from_bytes(&row.key), V::from_bytes(&row.value))?;
        }
        Ok(())
    }

    fn take(&self, tx: &WriteTransaction, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        let mut table = tx.open_table(self.definition)?;
        let row = table.remove(K::from_bytes(key))?;
        Ok(row.map(|row| V::as_bytes(&row.value()).as_ref().to_vec()))
    }

    fn rows(&self, tx: &ReadTransaction) -> Result<u64, Fault> {
        match tx.open_table(self.definition) {
            Ok(table) => Ok(table.len()?),
            Err(TableError::TableDoesNotExist(_)) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    fn fits(&self, row: &Row) -> bool {
        let fits = |width: Option<usize>, bytes: &[u8]| width.is_none_or(|w| w == bytes.len());
        fits(K::fixed_width(), &row.key) && fits(V::fixed_width(), &row.value)
    }
}

/// Every table, by name.
pub(super) const TABLES: &[&dyn AnyTable] = &[
    &listed(tables::APPS, Sealing::Value),
    &listed(tables::BY_ALIAS, Sealing::Nothing),
    &listed(tables::BY_AUTH_APP_ID, Sealing::Nothing),
    &listed(tables::BY_PID, Sealing::Nothing),
    &listed(tables::BY_TOKEN, Sealing::Value),
    &listed(tables::CALLS, Sealing::Value),
    &listed(tables::CALLS_AT, Sealing::Nothing),
    &listed(tables::CALLS_NAMED, Sealing::Nothing),
    &listed(tables::CERTIFICATES, Sealing::Value),
    &listed(tables::DAMAGED, Sealing::Nothing),
    &listed(tables::DEAD, Sealing::Nothing),
    &listed(tables::DEDUPE, Sealing::Nothing),
    &listed(tables::DEDUPE_AT, Sealing::Nothing),
    &listed(tables::DELIVERED, Sealing::Nothing),
    &listed(tables::DELIVERIES, Sealing::Value),
    &listed(tables::DUE, Sealing::Nothing),
    &listed(tables::GIVEN_UP, Sealing::Nothing),
    &listed(tables::IGNORED, Sealing::Nothing),
    &listed(tables::LEASED, Sealing::Nothing),
    &listed(tables::MEMO_EXPIRY, Sealing::Nothing),
    &listed(tables::MEMOS, Sealing::UntilExpiry),
    &listed(tables::MERCHANTS, Sealing::Value),
    &listed(tables::META, Sealing::Meta),
    &listed(tables::NOTIFICATIONS, Sealing::Value),
    &listed(tables::ORDERED, Sealing::Nothing),
    &listed(tables::PARKED, Sealing::Nothing),
    &listed(tables::PENDING, Sealing::Nothing),
    &listed(tables::REFUSED, Sealing::Value),
    &listed(tables::REFUSED_INDEX, Sealing::Nothing),
    &listed(tables::REVOKED, Sealing::Nothing),
    &listed(tables::SETTLED, Sealing::Nothing),
    &listed(tables::SUSPECT, Sealing::Nothing),
    &listed(tables::TOKENS_OF, Sealing::Nothing),
    &listed(tables::USERS, Sealing::BehindTime),
    &listed(tables::USERS_END, Sealing::Nothing),
    &listed(tables::USERS_FORGOTTEN, Sealing::Nothing),
    &listed(tables::VARIANTS, Sealing::Value),
];

const fn listed<K: Key + 'static, V: Value + 'static>(
    definition: TableDefinition<'static, K, V>,
    sealing: Sealing,
) -> Listed<K, V> {
    Listed {
        definition,
        sealing,
    }
}

/// The listed table of that name.
pub(super) fn table(name: &str) -> Option<&'static dyn AnyTable> {
    TABLES.iter().copied().find(|table| table.name() == name)
}

/// The names of the tables that the file has and this program doesn't know.
pub(super) fn unknown_tables(tx: &ReadTransaction) -> Result<Vec<String>, Fault> {
    let names = tx.list_tables()?.map(|handle| handle.name().to_owned());
    Ok(names.filter(|name| table(name).is_none()).collect())
}

/// What is sealed in a row, and for which key of its table.
struct Sealed<'r> {
    key: Vec<u8>,
    bytes: &'r [u8],
}

/// `None` where nothing in the row is sealed.
fn sealed<'r>(sealing: Sealing, key: &[u8], value: &'r [u8]) -> Option<Sealed<'r>> {
    match sealing {
        Sealing::Nothing => None,
        Sealing::BehindTime => {
            let (_, bytes) = <(i64, Bytes)>::from_bytes(value);
            Some(Sealed {
                key: key.to_vec(),
                bytes,
            })
        }
        Sealing::Meta => [CHECK_KEY, INDEX_KEY]
            .iter()
            .any(|name| name.as_bytes() == key)
            .then(|| Sealed {
                key: key.to_vec(),
                bytes: value,
            }),
        Sealing::UntilExpiry => {
            let (expires_at, bytes) = <(i64, Bytes)>::from_bytes(value);
            let digest = <[u8; 32]>::try_from(key).unwrap_or_default();
            Some(Sealed {
                key: memo_key(&digest, expires_at),
                bytes,
            })
        }
        Sealing::Value => Some(Sealed {
            key: key.to_vec(),
            bytes: value,
        }),
    }
}

/// What is sealed in a row, opened; `None` where nothing is.
pub(super) fn opened(
    table: &dyn AnyTable,
    key: &[u8],
    value: &[u8],
    sealer: &Sealer,
) -> Result<Option<Zeroizing<Vec<u8>>>, StoreError> {
    let Some(sealed) = sealed(table.sealing(), key, value) else {
        return Ok(None);
    };
    let place = Place {
        table: table.name(),
        key: &sealed.key,
    };
    sealer.open(place, sealed.bytes).map(Some)
}

/// The value of a row under another key.
pub(super) fn sealed_anew(
    table: &dyn AnyTable,
    key: &[u8],
    value: &[u8],
    (from, to): (&Sealer, &Sealer),
) -> Result<Vec<u8>, StoreError> {
    let Some(sealed) = sealed(table.sealing(), key, value) else {
        return Ok(value.to_vec());
    };
    let place = Place {
        table: table.name(),
        key: &sealed.key,
    };
    let anew = to.seal(place, &from.open(place, sealed.bytes)?)?;
    Ok(match table.sealing() {
        Sealing::BehindTime | Sealing::UntilExpiry => {
            let (at, _) = <(i64, Bytes)>::from_bytes(value);
            <(i64, Bytes)>::as_bytes(&(at, anew.as_slice()))
        }
        Sealing::Meta | Sealing::Nothing | Sealing::Value => anew,
    })
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;
    use redb::{Database, ReadableDatabase};

    use super::*;
    use crate::store::embedded::tables::Tables;

    #[test]
    fn every_table_is_listed_once_and_in_order() {
        let db = Database::builder()
            .create_with_backend(InMemoryBackend::new())
            .expect("in memory");
        let tx = db.begin_write().expect("transaction");
        Tables::create(&tx).expect("created");
        tx.commit().expect("committed");
        let tx = db.begin_read().expect("transaction");
        assert_eq!(unknown_tables(&tx).expect("readable"), Vec::<String>::new());
        let there = tx.list_tables().expect("readable").count();
        assert_eq!(there, TABLES.len(), "a listed table isn't in `Tables`");
        assert!(TABLES.is_sorted_by(|a, b| a.name() < b.name()));
    }

    #[test]
    fn an_unlisted_table_is_noticed() {
        let db = Database::builder()
            .create_with_backend(InMemoryBackend::new())
            .expect("in memory");
        let tx = db.begin_write().expect("transaction");
        let stray: TableDefinition<'_, u8, u8> = TableDefinition::new("stray");
        tx.open_table(stray).expect("opened");
        tx.commit().expect("committed");
        let tx = db.begin_read().expect("transaction");
        assert_eq!(unknown_tables(&tx).expect("readable"), ["stray"]);
    }
}
