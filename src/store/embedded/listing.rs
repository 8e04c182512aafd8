//! The rows that merchants are found by, made to agree with the records again.

use redb::{Database, TableHandle};

use super::apply::Applier;
use super::directory::{alias_key, auth_app_id_key, pid_key};
use super::fault::Fault;
use super::lookup::{self, MerchantId};
use super::tables::{self, Tables};
use super::{inspect, inspect_indexes};
use crate::model::merchant::{Merchant, MerchantStatus};
use crate::store::seal::Sealer;

/// What was done to the rows.
#[derive(Debug, Default)]
pub(super) struct Mended {
    /// Those that were removed because they led to no record: table and key.
    pub(super) removed: Vec<String>,
    /// How many merchants' rows were written anew.
    pub(super) relisted: u64,
}

/// Removes every row that leads to no record, and writes those that records lack.
pub(super) fn mend(db: &Database, sealer: &Sealer, now: i64) -> Result<Mended, Fault> {
    let tx = db.begin_write()?;
    let mut applier = Applier::new(Tables::new(&tx), sealer, now);
    let removed = applier.remove_strays()?;
    let relisted = applier.relist()?;
    drop(applier);
    tx.commit()?;
    Ok(Mended { removed, relisted })
}

/// The table and key of a row.
type Row = (&'static str, Vec<u8>);

impl Applier<'_> {
    fn remove_strays(&mut self) -> Result<Vec<String>, Fault> {
        let strays = self.strays()?;
        for (table, key) in &strays {
            self.touch();
            let key = key.as_slice();
            if *table == tables::BY_ALIAS.name() {
                self.tables.by_alias.remove(key)?;
            } else if *table == tables::BY_AUTH_APP_ID.name() {
                self.tables.by_auth_app_id.remove(key)?;
            } else if *table == tables::BY_PID.name() {
                self.tables.by_pid.remove(key)?;
            } else if *table == tables::REVOKED.name() {
                self.tables.revoked.remove(key)?;
            } else {
                self.tables.suspect.remove(key)?;
            }
        }
        let shown = |(table, key): &Row| inspect::shown(&((*table).to_owned(), key.clone()));
        Ok(strays.iter().map(shown).collect())
    }

    fn strays(&self) -> Result<Vec<Row>, Fault> {
        let mut strays = Vec::new();
        for row in self.tables.by_alias.iter()? {
            let (key, owner) = row?;
            let app_id = key.value().split(|byte| *byte == 0).nth(1);
            let owner = [app_id.unwrap_or_default(), owner.value()].join(&0);
            self.note_stray(&mut strays, (tables::BY_ALIAS.name(), key.value()), &owner)?;
        }
        for row in self.tables.by_auth_app_id.iter()? {
            let key = row?.0;
            let mut parts: Vec<_> = key.value().split(|byte| *byte == 0).collect();
            parts.reverse();
            let row = (tables::BY_AUTH_APP_ID.name(), key.value());
            self.note_stray(&mut strays, row, &parts.join(&0))?;
        }
        for row in self.tables.by_pid.iter()? {
            let key = row?.0;
            let mut parts = key.value().splitn(2, |byte| *byte == 0);
            let owner = parts.nth(1).unwrap_or_default();
            self.note_stray(&mut strays, (tables::BY_PID.name(), key.value()), owner)?;
        }
        for row in self.tables.revoked.iter()? {
            let key = row?.0;
            let row = (tables::REVOKED.name(), key.value());
            self.note_stray(&mut strays, row, key.value())?;
        }
        for row in self.tables.suspect.iter()? {
            let key = row?.0;
            let row = (tables::SUSPECT.name(), key.value());
            self.note_stray(&mut strays, row, key.value())?;
        }
        Ok(strays)
    }

    fn note_stray(
        &self,
        strays: &mut Vec<Row>,
        (table, key): (&'static str, &[u8]),
        owner: &[u8],
    ) -> Result<(), Fault> {
        if self.tables.merchants.get(owner)?.is_none() {
            strays.push((table, key.to_vec()));
        }
        Ok(())
    }

    fn relist(&mut self) -> Result<u64, Fault> {
        let mut lacking = Vec::new();
        for row in self.tables.merchants.iter()? {
            let (key, sealed) = row?;
            let merchant = lookup::open_merchant(self.sealer, key.value(), sealed.value());
            if let Some(mut merchant) = inspect_indexes::readable(merchant)? {
                let id = MerchantId::new(&merchant.app_id, &merchant.auth_app_id);
                // Which of two has an alias only the operator knows.
                let alias = merchant.alias.take();
                merchant.alias = alias.filter(|it| self.check_alias(&id, Some(it)).is_ok());
                if self.lacks_rows(&id, &merchant)? {
                    lacking.push((id, merchant));
                }
            }
        }
        for (id, merchant) in &lacking {
            self.touch();
            self.list(id, merchant)?;
        }
        Ok(lacking.len() as u64)
    }

    fn lacks_rows(&self, id: &MerchantId, merchant: &Merchant) -> Result<bool, Fault> {
        let key = id.key();
        let is_revoked = matches!(merchant.status, MerchantStatus::Revoked { .. });
        let is_suspect = matches!(merchant.status, MerchantStatus::Suspect { .. });
        let by_id = auth_app_id_key(id);
        if self.tables.by_auth_app_id.get(by_id.as_slice())?.is_none()
            || self.tables.revoked.get(key.as_slice())?.is_some() != is_revoked
            || self.tables.suspect.get(key.as_slice())?.is_some() != is_suspect
        {
            return Ok(true);
        }
        if let Some(pid) = pid_key(merchant)
            && self.tables.by_pid.get(pid.as_slice())?.is_none()
        {
            return Ok(true);
        }
        let Some(alias) = &merchant.alias else {
            return Ok(false);
        };
        let alias = alias_key(alias, &id.app_id);
        let own = id.auth_app_id.as_str().as_bytes();
        let owner = self.tables.by_alias.get(alias.as_slice())?;
        Ok(owner.is_none_or(|owner| owner.value() != own))
    }
}
