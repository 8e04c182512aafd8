//! Compares the rows of every index with the records they lead to, and the other way round.
//!
//! What a damaged record should have is unknown: it is passed over here, and named elsewhere.

use redb::{ReadOnlyTable, ReadTransaction, ReadableTable};

use super::directory;
use super::fault::Fault;
use super::inbox_records::DeliveryRecord;
use super::lookup::{self, MerchantId};
use super::tables::{self, Bytes, Id};
use crate::model::delivery::DeliveryState;
use crate::model::id::EventId;
use crate::model::merchant::{Merchant, MerchantStatus};
use crate::store::care::Inspection;
use crate::store::seal::Sealer;

/// A snapshot that is compared.
pub(super) struct Comparison<'c> {
    pub(super) tx: &'c ReadTransaction,
    pub(super) sealer: &'c Sealer,
    pub(super) go_on: &'c dyn Fn() -> Result<(), Fault>,
    found: &'c mut Inspection,
}

/// Compares all indexes of the snapshot.
pub(super) fn inspect(
    tx: &ReadTransaction,
    sealer: &Sealer,
    go_on: &dyn Fn() -> Result<(), Fault>,
    found: &mut Inspection,
) -> Result<(), Fault> {
    let mut comparison = Comparison {
        tx,
        sealer,
        go_on,
        found,
    };
    comparison.merchants()?;
    comparison.merchant_rows()?;
    comparison.deliveries()?;
    comparison.states()?;
    comparison.queue()?;
    comparison.times()?;
    comparison.memos()?;
    comparison.kept()
}

impl Comparison<'_> {
    pub(super) fn wrong(&mut self, what: String) {
        self.found.contradiction(what);
    }

    /// Every merchant is found by all it should be found by.
    fn merchants(&mut self) -> Result<(), Fault> {
        let merchants = self.tx.open_table(tables::MERCHANTS)?;
        for row in merchants.iter()? {
            (self.go_on)()?;
            let (key, sealed) = row?;
            let merchant = lookup::open_merchant(self.sealer, key.value(), sealed.value());
            if let Some(merchant) = readable(merchant)? {
                self.merchant(key.value(), &merchant)?;
            }
        }
        Ok(())
    }

    fn merchant(&mut self, key: &[u8], merchant: &Merchant) -> Result<(), Fault> {
        let id = MerchantId::new(&merchant.app_id, &merchant.auth_app_id);
        let mut lacks = Vec::new();
        let by_id = self.tx.open_table(tables::BY_AUTH_APP_ID)?;
        if by_id
            .get(directory::auth_app_id_key(&id).as_slice())?
            .is_none()
        {
            lacks.push("by_auth_app_id");
        }
        if let Some(pid) = directory::pid_key(merchant)
            && self
                .tx
                .open_table(tables::BY_PID)?
                .get(pid.as_slice())?
                .is_none()
        {
            lacks.push("by_pid");
        }
        if let Some(alias) = &merchant.alias {
            let row = directory::alias_key(alias, &id.app_id);
            let table = self.tx.open_table(tables::BY_ALIAS)?;
            let owner = table.get(row.as_slice())?;
            let own = id.auth_app_id.as_str().as_bytes();
            if owner.is_none_or(|owner| owner.value() != own) {
                lacks.push("by_alias");
            }
        }
        let digest = self.sealer.token_digest(&merchant.token.app_auth_token);
        let by_token = self.tx.open_table(tables::BY_TOKEN)?;
        let owner = readable(lookup::token_owner(&by_token, self.sealer, &digest))?;
        if owner.is_some_and(|owner| owner.as_ref() != Some(&id)) {
            lacks.push("by_token");
        }
        let revoked = self.tx.open_table(tables::REVOKED)?.get(key)?.is_some();
        if revoked != matches!(merchant.status, MerchantStatus::Revoked { .. }) {
            lacks.push("revoked");
        }
        let suspect = self.tx.open_table(tables::SUSPECT)?.get(key)?.is_some();
        if suspect != matches!(merchant.status, MerchantStatus::Suspect { .. }) {
            lacks.push("suspect");
        }
        for index in lacks {
            self.wrong(format!("index `{index}` contradicts merchant {id}"));
        }
        Ok(())
    }

    /// Every row of the merchants' indexes leads to a merchant.
    fn merchant_rows(&mut self) -> Result<(), Fault> {
        let swapped = |parts: &[&str]| match parts {
            [auth_app_id, app_id] => Some(tables::key(&[app_id, auth_app_id])),
            _ => None,
        };
        let first_two = |parts: &[&str]| parts.get(..2).map(tables::key);
        self.leads("by_auth_app_id", tables::BY_AUTH_APP_ID, &swapped)?;
        self.leads("revoked", tables::REVOKED, &first_two)?;
        self.leads("suspect", tables::SUSPECT, &first_two)?;
        let merchants = self.tx.open_table(tables::MERCHANTS)?;
        let by_pid = self.tx.open_table(tables::BY_PID)?;
        for row in by_pid.iter()? {
            (self.go_on)()?;
            let row = row?.0;
            if lookup::pid_row(&merchants, self.sealer, row.value())?.is_stray() {
                self.wrong(stray("by_pid", row.value()));
            }
        }
        let by_alias = self.tx.open_table(tables::BY_ALIAS)?;
        for row in by_alias.iter()? {
            (self.go_on)()?;
            let (row, owner) = row?;
            let (row, owner) = (row.value(), owner.value());
            if lookup::alias_row(&merchants, self.sealer, (row, owner))?.is_stray() {
                self.wrong(stray("by_alias", row));
            }
        }
        Ok(())
    }

    fn leads(
        &mut self,
        name: &str,
        table: redb::TableDefinition<'_, Bytes, ()>,
        owner: &dyn Fn(&[&str]) -> Option<Vec<u8>>,
    ) -> Result<(), Fault> {
        let merchants = self.tx.open_table(tables::MERCHANTS)?;
        let table = self.tx.open_table(table)?;
        for row in table.iter()? {
            (self.go_on)()?;
            let key = row?.0;
            let text = String::from_utf8_lossy(key.value());
            let parts: Vec<_> = text.split('\0').collect();
            let owned = match owner(&parts) {
                Some(owner) => merchants.get(owner.as_slice())?.is_some(),
                None => false,
            };
            if !owned {
                self.wrong(stray(name, key.value()));
            }
        }
        Ok(())
    }

    /// Every delivery stands where its state says, and has its entry; every entry its delivery.
    fn deliveries(&mut self) -> Result<(), Fault> {
        let deliveries = self.tx.open_table(tables::DELIVERIES)?;
        let entries = self.tx.open_table(tables::NOTIFICATIONS)?;
        for row in entries.iter()? {
            (self.go_on)()?;
            let key = row?.0;
            if deliveries.get(key.value())?.is_none() {
                let id = EventId::from_bytes(*key.value());
                self.wrong(format!("notification {id} has no delivery"));
            }
        }
        for row in deliveries.iter()? {
            (self.go_on)()?;
            let key = row?.0;
            let id = EventId::from_bytes(*key.value());
            if entries.get(key.value())?.is_none() {
                self.wrong(format!("delivery {id} has no notification"));
            }
            let record = readable(lookup::delivery(&deliveries, self.sealer, id))?.flatten();
            if let Some(record) = record
                && !self.is_queued(key.value(), &record)?
            {
                let state = record.state.as_str();
                self.wrong(format!(
                    "the indexes contradict delivery {id}, which is {state}"
                ));
            }
        }
        Ok(())
    }

    /// Whether a delivery stands in the indexes of its state, and of no other.
    fn is_queued(&self, key: &[u8; 16], record: &DeliveryRecord) -> Result<bool, Fault> {
        let pending = self.tx.open_table(tables::PENDING)?.get(key)?.is_some();
        let delivered = self.tx.open_table(tables::DELIVERED)?.get(key)?.is_some();
        let dead = self.tx.open_table(tables::DEAD)?.get(key)?.is_some();
        let ignored = self.tx.open_table(tables::IGNORED)?.get(key)?.is_some();
        let parked = self.tx.open_table(tables::PARKED)?.get(key)?.is_some();
        let row = (record.settled_at, key);
        let (is, times) = match record.state {
            DeliveryState::Dead => (
                [false, false, true, false],
                self.tx.open_table(tables::GIVEN_UP)?.get(row)?.is_some(),
            ),
            DeliveryState::Delivered => (
                [false, true, false, false],
                self.tx.open_table(tables::SETTLED)?.get(row)?.is_some(),
            ),
            DeliveryState::Ignored => (
                [false, false, false, true],
                self.tx.open_table(tables::SETTLED)?.get(row)?.is_some(),
            ),
            DeliveryState::Pending => ([true, false, false, false], self.waits(key, record)?),
        };
        let waits_for_a_route = record.state == DeliveryState::Pending && record.parked;
        Ok(times && is == [pending, delivered, dead, ignored] && parked == waits_for_a_route)
    }

    /// Whether a pending delivery is due, or stands behind an earlier one of its order.
    fn waits(&self, key: &[u8; 16], record: &DeliveryRecord) -> Result<bool, Fault> {
        let at = record.next_attempt_at;
        let due = self.tx.open_table(tables::DUE)?.get((at, key))?.is_some();
        let leased = self.tx.open_table(tables::LEASED)?;
        if let Some(lease) = record.lease
            && leased.get((lease.until, key))?.is_none()
        {
            return Ok(false);
        }
        let Some(order) = &record.line() else {
            return Ok(due);
        };
        let ordered = self.tx.open_table(tables::ORDERED)?;
        let own = ordered.get((order, key))?.map(|row| row.value());
        let first = ordered.range((order, &[0; 16])..)?.next();
        let first = first.transpose()?.map(|(row, _)| *row.value().1);
        Ok(own == Some(at) && due == (first == Some(*key)))
    }

    /// Every row of a state leads to a delivery.
    fn states(&mut self) -> Result<(), Fault> {
        let pending = self.tx.open_table(tables::PENDING)?;
        self.lead_to_deliveries("pending", &pending)?;
        for (name, table) in [
            ("dead", tables::DEAD),
            ("delivered", tables::DELIVERED),
            ("ignored", tables::IGNORED),
            ("parked", tables::PARKED),
        ] {
            let table = self.tx.open_table(table)?;
            self.lead_to_deliveries(name, &table)?;
        }
        Ok(())
    }

    fn lead_to_deliveries<V: redb::Value + 'static>(
        &mut self,
        name: &str,
        table: &ReadOnlyTable<Id, V>,
    ) -> Result<(), Fault> {
        for row in table.iter()? {
            (self.go_on)()?;
            let key = *row?.0.value();
            self.has_delivery(name, &key)?;
        }
        Ok(())
    }

    fn has_delivery(&mut self, name: &str, key: &[u8; 16]) -> Result<(), Fault> {
        let deliveries = self.tx.open_table(tables::DELIVERIES)?;
        if deliveries.get(key)?.is_none() {
            self.wrong(stray(name, key));
        }
        Ok(())
    }

    /// Every row of the queue is that of a pending delivery at its time.
    fn queue(&mut self) -> Result<(), Fault> {
        let deliveries = self.tx.open_table(tables::DELIVERIES)?;
        let due = self.tx.open_table(tables::DUE)?;
        for row in due.iter()? {
            (self.go_on)()?;
            let key = row?.0;
            let (at, key) = key.value();
            self.agrees("due", &deliveries, (key, at, None))?;
        }
        let leased = self.tx.open_table(tables::LEASED)?;
        for row in leased.iter()? {
            (self.go_on)()?;
            let key = row?.0;
            let (until, key) = key.value();
            self.is_leased(&deliveries, key, until)?;
        }
        let ordered = self.tx.open_table(tables::ORDERED)?;
        for row in ordered.iter()? {
            (self.go_on)()?;
            let (key, at) = row?;
            let (order, key) = key.value();
            self.agrees("ordered", &deliveries, (key, at.value(), Some(*order)))?;
        }
        Ok(())
    }

    fn agrees(
        &mut self,
        name: &str,
        deliveries: &ReadOnlyTable<Id, Bytes>,
        (key, at, order): (&[u8; 16], i64, Option<[u8; 16]>),
    ) -> Result<(), Fault> {
        let id = EventId::from_bytes(*key);
        let Some(record) = readable(lookup::delivery(deliveries, self.sealer, id))? else {
            return Ok(());
        };
        let agrees = record.is_some_and(|record| {
            let pending = record.state == DeliveryState::Pending;
            pending && record.next_attempt_at == at && (order.is_none() || record.line() == order)
        });
        if !agrees {
            self.wrong(stray(name, key));
        }
        Ok(())
    }

    /// A row of the leases is that of a pending delivery whose lease ends then.
    fn is_leased(
        &mut self,
        deliveries: &ReadOnlyTable<Id, Bytes>,
        key: &[u8; 16],
        until: i64,
    ) -> Result<(), Fault> {
        let id = EventId::from_bytes(*key);
        let Some(record) = readable(lookup::delivery(deliveries, self.sealer, id))? else {
            return Ok(());
        };
        let agrees = record.is_some_and(|record| {
            let pending = record.state == DeliveryState::Pending;
            pending && record.lease.is_some_and(|lease| lease.until == until)
        });
        if !agrees {
            self.wrong(stray("leased", key));
        }
        Ok(())
    }

    /// Every row of a time index leads to what will be forgotten then.
    fn times(&mut self) -> Result<(), Fault> {
        for (name, table) in [("given_up", tables::GIVEN_UP), ("settled", tables::SETTLED)] {
            let table = self.tx.open_table(table)?;
            for row in table.iter()? {
                (self.go_on)()?;
                let key = row?.0;
                self.has_delivery(name, key.value().1)?;
            }
        }
        let (dedupe, times) = (
            self.tx.open_table(tables::DEDUPE)?,
            self.tx.open_table(tables::DEDUPE_AT)?,
        );
        for row in times.iter()? {
            (self.go_on)()?;
            let key = row?.0;
            let (_, digest) = key.value();
            if dedupe.get(digest)?.is_none() {
                self.wrong(stray("dedupe_at", digest));
            }
        }
        Ok(())
    }

    /// Every memo will be forgotten, and everything that will be forgotten is there.
    fn memos(&mut self) -> Result<(), Fault> {
        let memos = self.tx.open_table(tables::MEMOS)?;
        let times = self.tx.open_table(tables::MEMO_EXPIRY)?;
        for row in memos.iter()? {
            (self.go_on)()?;
            let (key, row) = row?;
            let (at, _) = row.value();
            if times.get((at, key.value()))?.is_none() {
                self.wrong(stray("memos", key.value()));
            }
        }
        for row in times.iter()? {
            (self.go_on)()?;
            let key = row?.0;
            let (at, key) = key.value();
            if memos.get(key)?.is_none_or(|row| row.value().0 != at) {
                self.wrong(stray("memo_expiry", key));
            }
        }
        Ok(())
    }
}

pub(super) fn stray(table: &str, key: &[u8]) -> String {
    let place = crate::store::seal::Place { table, key };
    format!("{place} contradicts the records")
}

/// The record, or nothing where it is damaged.
pub(super) fn readable<T>(record: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match record {
        Ok(record) => Ok(Some(record)),
        Err(Fault::Refused(_)) => Ok(None),
        Err(broken) => Err(broken),
    }
}
