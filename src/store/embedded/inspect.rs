//! Reads every record of a snapshot, and names each that doesn't open.

use std::collections::HashSet;

use redb::{ReadTransaction, TableHandle, Value};

use super::catalogue::{self, AnyTable, Spot, TABLES};
use super::fault::Fault;
use super::inbox_records::{DeliveryRecord, open_entry};
use super::lookup::{self, MerchantId};
use super::quarantine_records::{open_refused, open_variant};
use super::tables::{Bytes, Id};
use super::{calls, inspect_indexes, records, tables, users};
use crate::model::id::EventId;
use crate::store::care::Inspection;
use crate::store::error::StoreError;
use crate::store::seal::{Place, Sealer};

/// How many rows are read before it is asked whether to go on.
const ROWS: u64 = 1_000;

/// Reads every record, then compares the indexes; `go_on` is asked again and again.
pub(super) fn inspect(
    tx: &ReadTransaction,
    sealer: &Sealer,
    go_on: &dyn Fn() -> Result<(), Fault>,
) -> Result<Inspection, Fault> {
    let mut found = Inspection::default();
    for table in TABLES {
        table.walk(tx, &mut |key, value| {
            found.rows += 1;
            if found.rows.is_multiple_of(ROWS) {
                go_on()?;
            }
            match understood(*table, key, value, sealer) {
                Ok(()) => Ok(()),
                Err(Fault::Refused(_)) => {
                    let table = table.name();
                    found.damaged(format!("{} is damaged", Place { table, key }));
                    Ok(())
                }
                Err(broken) => Err(broken),
            }
        })?;
    }
    inspect_indexes::inspect(tx, sealer, go_on, &mut found)?;
    Ok(found)
}

/// Every record that doesn't open and isn't one of `but`, [`Inspection::MOST_FINDINGS`] at the
/// most: its table and key.
pub(super) fn damaged(
    tx: &ReadTransaction,
    sealer: &Sealer,
    but: &HashSet<(String, Vec<u8>)>,
) -> Result<Vec<Spot>, Fault> {
    let mut found = Vec::new();
    for table in TABLES {
        table.walk(tx, &mut |key, value| {
            if found.len() < Inspection::MOST_FINDINGS
                && catalogue::opened(*table, key, value, sealer).is_err()
                && !but.contains(&name_of((*table, key)))
            {
                found.push((*table, key.to_vec()));
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// What tells a record from all others.
pub(super) fn name_of((table, key): (&dyn AnyTable, &[u8])) -> (String, Vec<u8>) {
    (table.name().to_owned(), key.to_vec())
}

/// The same for an operator.
pub(super) fn shown((table, key): &(String, Vec<u8>)) -> String {
    Place { table, key }.to_string()
}

/// Whether the record opens, and is what belongs into its table.
fn understood(
    table: &dyn AnyTable,
    key: &[u8],
    value: &[u8],
    sealer: &Sealer,
) -> Result<(), Fault> {
    let name = table.name();
    let place = Place { table: name, key };
    if name == tables::APPS.name() {
        lookup::open_app(sealer, key, value).map(drop)
    } else if name == tables::BY_TOKEN.name() {
        let owner = sealer.open(place, value)?;
        let owner = MerchantId::from_key(&owner).ok_or_else(|| place.damaged());
        Ok(owner.map(drop)?)
    } else if name == tables::CALLS.name() {
        let id = <[u8; 16]>::try_from(key).unwrap_or_default();
        calls::open(sealer, &id, value).map(drop)
    } else if name == tables::CERTIFICATES.name() {
        lookup::open_certificate(sealer, key, value).map(drop)
    } else if name == tables::DELIVERIES.name() {
        Ok(records::open::<DeliveryRecord>(sealer, place, value).map(drop)?)
    } else if name == tables::MERCHANTS.name() {
        lookup::open_merchant(sealer, key, value).map(drop)
    } else if name == tables::NOTIFICATIONS.name() {
        let id = <[u8; 16]>::try_from(key).unwrap_or_default();
        let entry = open_entry(sealer, place, EventId::from_bytes(id), value);
        Ok(entry.map(drop)?)
    } else if name == tables::REFUSED.name() {
        let id = <[u8; 16]>::try_from(key).unwrap_or_default();
        Ok(open_refused(sealer, EventId::from_bytes(id), value).map(drop)?)
    } else if name == tables::USERS.name() {
        let digest = <[u8; 32]>::try_from(key).unwrap_or_default();
        let (_, sealed) = <(i64, Bytes)>::from_bytes(value);
        Ok(users::open(sealer, &digest, sealed).map(drop)?)
    } else if name == tables::VARIANTS.name() {
        Ok(open_variant(sealer, <(Id, Id)>::from_bytes(key), value).map(drop)?)
    } else {
        Ok(catalogue::opened(table, key, value, sealer).map(drop)?)
    }
}

/// The error that names damaged records, for work that can't go on with them.
pub(super) fn refuse_damaged(tx: &ReadTransaction, sealer: &Sealer) -> Result<(), Fault> {
    let found = damaged(tx, sealer, &HashSet::new())?;
    let Some((table, key)) = found.first() else {
        return Ok(());
    };
    let (count, table) = (found.len(), table.name());
    Err(Fault::Refused(StoreError::Unavailable {
        reason: format!(
            "{count} of its records are damaged, the first is {}; `store check` names all, \
             `store check --repair` moves them aside",
            Place { table, key }
        ),
    }))
}
