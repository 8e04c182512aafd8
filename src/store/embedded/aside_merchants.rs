//! Merchants whose damaged record was moved aside: they still count, until a record takes its place.

use redb::TableHandle;

use super::apply::Applier;
use super::aside::aside_key;
use super::directory::auth_app_id_key;
use super::fault::Fault;
use super::lookup::MerchantId;
use super::tables;
use crate::store::seal::Place;

/// Stands behind the key of a merchant's damaged record that no longer stands for the merchant.
const REPLACED: &[u8] = b"\0replaced";

impl Applier<'_> {
    /// Moves a damaged merchant aside, so that it can be authorised anew. What it was found by stays:
    /// it still counts as one that a PID names, and nobody but its record could tell whether it has
    /// cancelled. Its tokens stay known as its own. That it stands among the damaged says so until
    /// [`Self::end_aside`]: a row alone may have been left behind by anything.
    pub(super) fn set_merchant_aside(&mut self, id: &MerchantId) -> Result<(), Fault> {
        let key = id.key();
        let place = Place {
            table: tables::MERCHANTS.name(),
            key: &key,
        };
        let row = self.tables.merchants.get(key.as_slice())?;
        if let Some(bytes) = row.map(|row| row.value().to_vec()) {
            self.keep_aside(place, &bytes)?;
            self.tables.merchants.remove(key.as_slice())?;
            self.tables.revoked.remove(key.as_slice())?;
            self.tables.suspect.remove(key.as_slice())?;
            tracing::error!(merchant = %id, "a merchant's record is damaged and was moved aside");
        }
        Ok(())
    }

    /// Whether the damaged record of a merchant was moved aside, and nothing took its place.
    pub(super) fn is_aside(&self, id: &MerchantId) -> Result<bool, Fault> {
        let key = merchant_aside(&id.key());
        Ok(self.tables.damaged.get(key.as_slice())?.is_some())
    }

    /// The merchant has a record again, or is removed: its damaged one is only kept to be looked at.
    pub(super) fn end_aside(&mut self, id: &MerchantId) -> Result<(), Fault> {
        self.end_aside_of(&merchant_aside(&id.key()))
    }

    fn end_aside_of(&mut self, key: &[u8]) -> Result<(), Fault> {
        let row = self.tables.damaged.get(key)?;
        let row = row.map(|row| (row.value().0, row.value().1.to_vec()));
        if let Some((at, bytes)) = row {
            self.touch();
            self.tables.damaged.remove(key)?;
            let ended = [key, REPLACED].concat();
            let row = (at, bytes.as_slice());
            self.tables.damaged.insert(ended.as_slice(), row)?;
        }
        Ok(())
    }

    /// The same of all: no row leads to any of them any more.
    pub(super) fn end_all_aside(&mut self) -> Result<(), Fault> {
        let mut aside = Vec::new();
        for row in self.tables.damaged.iter()? {
            let key = row?.0;
            if aside_merchant(key.value()).is_some() {
                aside.push(key.value().to_vec());
            }
        }
        for key in aside {
            self.end_aside_of(&key)?;
        }
        Ok(())
    }

    /// Whether a row of the damaged still tells that a merchant counts whose record was moved aside.
    pub(super) fn is_needed_aside(&self, row: &[u8]) -> Result<bool, Fault> {
        let Some(id) = aside_merchant(row) else {
            return Ok(false);
        };
        let by_id = auth_app_id_key(&id);
        let is_found = self.tables.by_auth_app_id.get(by_id.as_slice())?.is_some();
        Ok(is_found && self.tables.merchants.get(id.key().as_slice())?.is_none())
    }

    /// Moves a damaged merchant aside with all that it was found by, its tokens too.
    pub(super) fn forget_damaged(&mut self, id: &MerchantId) -> Result<(), Fault> {
        self.set_merchant_aside(id)?;
        self.remove_tokens(id)
    }
}

/// Where the damaged record of the merchant under `key` is kept.
pub(super) fn merchant_aside(key: &[u8]) -> Vec<u8> {
    let table = tables::MERCHANTS.name();
    aside_key(Place { table, key })
}

/// For which merchant a row of the damaged stands, if for one.
fn aside_merchant(row: &[u8]) -> Option<MerchantId> {
    let prefix = tables::prefix(&[tables::MERCHANTS.name()]);
    MerchantId::from_key(row.strip_prefix(prefix.as_slice())?)
}
