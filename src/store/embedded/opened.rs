//! A table of a write transaction that is opened when it is first needed.
//!
//! A commit touches some ten of the store's tables, and opening one costs as much as several
//! inserts: it is looked up by name among all of them, and compared with that again at the end.

use std::borrow::Borrow;
use std::cell::OnceCell;
use std::ops::RangeBounds;

use redb::{
    AccessGuard, Key, Range, ReadableTable, ReadableTableMetadata, Table, TableDefinition, Value,
    WriteTransaction,
};

use super::fault::Fault;

/// A table that may not be open yet.
pub(super) struct Opened<'t, K: Key + 'static, V: Value + 'static> {
    tx: &'t WriteTransaction,
    definition: TableDefinition<'static, K, V>,
    table: OnceCell<Table<'t, K, V>>,
}

impl<'t, K: Key + 'static, V: Value + 'static> Opened<'t, K, V> {
    /// The table of `definition`, not open yet.
    pub(super) fn new(
        tx: &'t WriteTransaction,
        definition: TableDefinition<'static, K, V>,
    ) -> Self {
        Self {
            tx,
            definition,
            table: OnceCell::new(),
        }
    }

    /// The table for reading.
    pub(super) fn table(&self) -> Result<&Table<'t, K, V>, Fault> {
        if let Some(table) = self.table.get() {
            return Ok(table);
        }
        let opened = self.tx.open_table(self.definition)?;
        Ok(self.table.get_or_init(|| opened))
    }

    /// The table for writing.
    fn table_mut(&mut self) -> Result<&mut Table<'t, K, V>, Fault> {
        self.table()?;
        Ok(self.table.get_mut().expect("it was opened above"))
    }

    /// The value under `key`.
    pub(super) fn get<'k>(
        &self,
        key: impl Borrow<K::SelfType<'k>>,
    ) -> Result<Option<AccessGuard<'_, V>>, Fault> {
        Ok(self.table()?.get(key)?)
    }

    /// Puts `value` under `key`; gives the former one.
    pub(super) fn insert<'k, 'v>(
        &mut self,
        key: impl Borrow<K::SelfType<'k>>,
        value: impl Borrow<V::SelfType<'v>>,
    ) -> Result<Option<AccessGuard<'_, V>>, Fault> {
        Ok(self.table_mut()?.insert(key, value)?)
    }

    /// Takes the first row.
    #[expect(clippy::type_complexity, reason = "what redb gives")]
    pub(super) fn pop_first(
        &mut self,
    ) -> Result<Option<(AccessGuard<'_, K>, AccessGuard<'_, V>)>, Fault> {
        Ok(self.table_mut()?.pop_first()?)
    }

    /// Keeps the rows of `range` that `keeps` says, and all others.
    pub(super) fn retain_in<'k, KR: Borrow<K::SelfType<'k>> + 'k>(
        &mut self,
        range: impl RangeBounds<KR> + 'k,
        keeps: impl for<'f> FnMut(K::SelfType<'f>, V::SelfType<'f>) -> bool,
    ) -> Result<(), Fault> {
        Ok(self.table_mut()?.retain_in(range, keeps)?)
    }

    /// Takes what is under `key`.
    pub(super) fn remove<'k>(
        &mut self,
        key: impl Borrow<K::SelfType<'k>>,
    ) -> Result<Option<AccessGuard<'_, V>>, Fault> {
        Ok(self.table_mut()?.remove(key)?)
    }

    /// The rows of `range`, in order.
    pub(super) fn range<'k, KR: Borrow<K::SelfType<'k>> + 'k>(
        &self,
        range: impl RangeBounds<KR> + 'k,
    ) -> Result<Range<'_, K, V>, Fault> {
        Ok(self.table()?.range(range)?)
    }

    /// All rows, in order.
    pub(super) fn iter(&self) -> Result<Range<'_, K, V>, Fault> {
        Ok(self.table()?.iter()?)
    }

    /// How many rows there are.
    pub(super) fn len(&self) -> Result<u64, Fault> {
        Ok(self.table()?.len()?)
    }

    /// The same where it is known how many there were when the transaction began: a table that
    /// isn't open yet has as many.
    pub(super) fn len_since(&self, before: Option<u64>) -> Result<u64, Fault> {
        match before.filter(|_| self.table.get().is_none()) {
            Some(before) => Ok(before),
            None => self.len(),
        }
    }
}
