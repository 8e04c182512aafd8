//! The rows that merchants are found by, made to agree with the records again.

use std::collections::{BTreeMap, BTreeSet};

use redb::{Database, TableHandle};

use super::apply::Applier;
use super::directory::{alias_key, auth_app_id_key, pid_key};
use super::fault::Fault;
use super::lookup::{self, MerchantId};
use super::tables::{self, Tables};
use super::{inspect, inspect_indexes};
use crate::model::merchant::{Merchant, MerchantStatus};
use crate::store::error::StoreError;
use crate::store::seal::Sealer;

/// What was done to the rows.
#[derive(Debug, Default)]
pub(super) struct Mended {
    /// The aliases that no row was written for because several merchants claim them, and who.
    pub(super) contested: Vec<String>,
    /// Those that were removed because they led to no record that says the same: table and key.
    pub(super) removed: Vec<String>,
    /// How many merchants' rows were written anew.
    pub(super) relisted: u64,
}

/// Removes every row that leads to no record that says the same, and writes those that records lack.
pub(super) fn mend(db: &Database, sealer: &Sealer, now: i64) -> Result<Mended, Fault> {
    let tx = db.begin_write()?;
    let mut applier = Applier::new(Tables::new(&tx), sealer, now);
    let removed = applier.remove_strays()?;
    applier.end_all_aside()?;
    let (relisted, contested) = applier.relist()?;
    drop(applier);
    tx.commit()?;
    Ok(Mended {
        contested,
        removed,
        relisted,
    })
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
        let merchants = self.tables.merchants.table()?;
        for row in self.tables.by_alias.iter()? {
            let (key, owner) = row?;
            let row = (key.value(), owner.value());
            if lookup::alias_row(merchants, self.sealer, row)?.is_stray() {
                strays.push((tables::BY_ALIAS.name(), key.value().to_vec()));
            }
        }
        for row in self.tables.by_pid.iter()? {
            let key = row?.0;
            if lookup::pid_row(merchants, self.sealer, key.value())?.is_stray() {
                strays.push((tables::BY_PID.name(), key.value().to_vec()));
            }
        }
        for row in self.tables.by_auth_app_id.iter()? {
            let key = row?.0;
            let mut parts: Vec<_> = key.value().split(|byte| *byte == 0).collect();
            parts.reverse();
            let row = (tables::BY_AUTH_APP_ID.name(), key.value());
            self.note_stray(&mut strays, row, &parts.join(&0))?;
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

    /// Writes the rows that merchants lack, but for those of an alias that several claim: which of
    /// them has it only the operator knows. Tells how many were listed, and who claims what.
    fn relist(&mut self) -> Result<(u64, Vec<String>), Fault> {
        let mut lacking = Vec::new();
        for row in self.tables.merchants.iter()? {
            let (key, sealed) = row?;
            let merchant = lookup::open_merchant(self.sealer, key.value(), sealed.value());
            if let Some(merchant) = inspect_indexes::readable(merchant)? {
                let id = MerchantId::new(&merchant.app_id, &merchant.auth_app_id);
                if self.lacks_rows(&id, &merchant)? {
                    lacking.push((id, merchant));
                }
            }
        }
        let mut claims: BTreeMap<Vec<u8>, Vec<MerchantId>> = BTreeMap::new();
        for (id, merchant) in &lacking {
            if let Some(alias) = &merchant.alias {
                let claimants = claims.entry(alias_key(alias, &id.app_id)).or_default();
                claimants.push(id.clone());
            }
        }
        let (mut relisted, mut contested) = (0, BTreeSet::new());
        for (id, mut merchant) in lacking {
            if let Some(alias) = merchant.alias.take() {
                let claimants = claims.get(&alias_key(&alias, &id.app_id));
                let others = claimants
                    .into_iter()
                    .flatten()
                    .filter(|other| **other != id);
                let mut all: Vec<_> = others.map(ToString::to_string).collect();
                match self.check_alias(&id, Some(&alias)) {
                    Err(Fault::Refused(StoreError::AliasTaken { owner, .. })) => {
                        all.push(format!("{}/{owner}", id.app_id));
                    }
                    checked => checked?,
                }
                if all.is_empty() {
                    merchant.alias = Some(alias);
                } else {
                    all.push(id.to_string());
                    all.sort();
                    all.dedup();
                    contested.insert(format!("alias `{alias}`: {}", all.join(", ")));
                }
            }
            if self.lacks_rows(&id, &merchant)? {
                self.touch();
                self.list(&id, &merchant)?;
                relisted += 1;
            }
        }
        Ok((relisted, contested.into_iter().collect()))
    }

    pub(super) fn lacks_rows(&self, id: &MerchantId, merchant: &Merchant) -> Result<bool, Fault> {
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
