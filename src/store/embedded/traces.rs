//! Where records stand in the indexes whose own bytes can't tell it any more.

use std::collections::{HashMap, HashSet};

use redb::ReadableTable;

use super::aside::Suspect;
use super::fault::Fault;
use super::tables::Tables;

/// Where damaged records stand in the queue, which only their own bytes told: looked for once, for
/// all that are moved aside together, and only if it is needed.
pub(super) struct Traces {
    of: HashSet<[u8; 16]>,
    found: Option<Found>,
    /// When those ended that aren't pending any more.
    ended: Option<HashMap<[u8; 16], i64>>,
}

#[derive(Default)]
pub(super) struct Found {
    pub(super) due: HashMap<[u8; 16], i64>,
    pub(super) leases: HashMap<[u8; 16], Vec<i64>>,
    pub(super) orders: HashMap<[u8; 16], [u8; 16]>,
}

impl Traces {
    pub(super) fn of(suspects: &[Suspect]) -> Self {
        let ids = suspects.iter().map(|suspect| suspect.id.to_bytes());
        Self {
            of: ids.collect(),
            found: None,
            ended: None,
        }
    }

    /// What is due is in none of these indexes, which may be long.
    pub(super) fn ended(&mut self, tables: &Tables<'_>) -> Result<&HashMap<[u8; 16], i64>, Fault> {
        if self.ended.is_none() {
            let mut ended = HashMap::new();
            for table in [tables.settled.table()?, tables.given_up.table()?] {
                for row in table.iter()? {
                    let row = row?.0;
                    let (at, id) = row.value();
                    if self.of.contains(id) {
                        ended.insert(*id, at);
                    }
                }
            }
            self.ended = Some(ended);
        }
        Ok(self.ended.get_or_insert_default())
    }

    pub(super) fn found(&mut self, tables: &Tables<'_>) -> Result<&Found, Fault> {
        if self.found.is_none() {
            let found = self.look(tables)?;
            self.found = Some(found);
        }
        Ok(self.found.get_or_insert_default())
    }

    fn look(&self, tables: &Tables<'_>) -> Result<Found, Fault> {
        let mut found = Found::default();
        for row in tables.due.iter()? {
            let row = row?.0;
            let (at, id) = row.value();
            if self.of.contains(id) {
                found.due.insert(*id, at);
            }
        }
        for row in tables.leased.iter()? {
            let row = row?.0;
            let (until, id) = row.value();
            if self.of.contains(id) {
                found.leases.entry(*id).or_default().push(until);
            }
        }
        for row in tables.ordered.iter()? {
            let row = row?.0;
            let (order, id) = row.value();
            if self.of.contains(id) {
                found.orders.insert(*id, *order);
            }
        }
        Ok(found)
    }
}
