//! What merchants are still found by whose damaged records were moved aside: they count as ever,
//! until they authorise again or are removed by name.

use std::collections::{HashMap, HashSet};

use super::apply::Applier;
use super::directory::auth_app_id_key;
use super::fault::Fault;
use super::lookup::MerchantId;
use crate::store::Change;

/// The rows of such merchants, looked for once for all that authorise again or are removed together, and
/// only if one is such: nothing leads from a merchant to them but the record that is gone.
#[derive(Default)]
pub(super) struct LeftBehind {
    of: HashSet<Vec<u8>>,
    found: Option<HashMap<Vec<u8>, Rows>>,
}

/// The keys of the rows that lead to one merchant.
#[derive(Debug, Default)]
struct Rows {
    by_alias: Vec<Vec<u8>>,
    by_pid: Vec<Vec<u8>>,
}

impl Applier<'_> {
    /// Says what will be applied, so that one look can serve all of it.
    pub(super) fn expect<'c>(&mut self, changes: impl Iterator<Item = &'c Change>) {
        let meant = changes.filter_map(|change| match change {
            Change::Authorize { authorization, .. } => {
                Some((&authorization.app_id, &authorization.auth_app_id))
            }
            Change::RemoveMerchant(app_id, auth_app_id) => Some((app_id, auth_app_id)),
            _ => None,
        });
        self.left.of = meant
            .map(|(app_id, auth_app_id)| MerchantId::new(app_id, auth_app_id).key())
            .collect();
    }

    /// Removes what a merchant is found by whose damaged record was moved aside, if it is one, before
    /// it gets a record again. Tells whether it is one.
    pub(super) fn unlist_left_behind(&mut self, id: &MerchantId) -> Result<bool, Fault> {
        let is_aside = self.is_aside(id)?;
        if is_aside {
            self.unlist_damaged(id)?;
            self.end_aside(id)?;
        }
        Ok(is_aside)
    }

    fn rows_of(&mut self, id: &MerchantId) -> Result<Rows, Fault> {
        let key = id.key();
        let found = match self.left.found.take() {
            Some(found) if self.left.of.contains(&key) => found,
            _ => {
                self.left.of.insert(key.clone());
                self.look_for_left()?
            }
        };
        let found = self.left.found.insert(found);
        Ok(found.remove(&key).unwrap_or_default())
    }

    /// One look at the whole indexes.
    fn look_for_left(&self) -> Result<HashMap<Vec<u8>, Rows>, Fault> {
        let mut found: HashMap<Vec<u8>, Rows> = HashMap::new();
        for row in self.tables.by_pid.iter()? {
            let row = row?.0;
            let Some(owner) = owner_of_pid(row.value()) else {
                continue;
            };
            if self.left.of.contains(owner) {
                let rows = found.entry(owner.to_vec()).or_default();
                rows.by_pid.push(row.value().to_vec());
            }
        }
        for row in self.tables.by_alias.iter()? {
            let (row, owner) = row?;
            let owner = owner_of_alias(row.value(), owner.value());
            if self.left.of.contains(&owner) {
                let rows = found.entry(owner).or_default();
                rows.by_alias.push(row.value().to_vec());
            }
        }
        Ok(found)
    }

    /// Removes what a merchant without a readable record is found by, but for its tokens.
    pub(super) fn unlist_damaged(&mut self, id: &MerchantId) -> Result<(), Fault> {
        let rows = self.rows_of(id)?;
        self.touch();
        for key in &rows.by_pid {
            self.tables.by_pid.remove(key.as_slice())?;
        }
        for key in &rows.by_alias {
            // Since they were looked for another may have been given the alias.
            self.remove_alias_row(key, &id.auth_app_id)?;
        }
        let row = auth_app_id_key(id);
        self.tables.by_auth_app_id.remove(row.as_slice())?;
        Ok(())
    }
}

/// The key of the merchant that a row by PID leads to.
fn owner_of_pid(row: &[u8]) -> Option<&[u8]> {
    row.splitn(2, |byte| *byte == 0).nth(1)
}

/// The key of the merchant that a row by alias leads to.
fn owner_of_alias(row: &[u8], owner: &[u8]) -> Vec<u8> {
    let app_id = row.splitn(2, |byte| *byte == 0).nth(1);
    [app_id.unwrap_or_default(), owner].join(&0)
}
