//! Reads, each on one snapshot of the database.
//!
//! A look-up of one thing gives the error of a damaged record; a list passes it over and logs it,
//! so that one bad row doesn't hide all others.

use redb::{ReadableTable, ReadableTableMetadata, TableHandle};

use super::apply::open_memo;
use super::aside_merchants::merchant_aside;
use super::fault::Fault;
use super::lookup::{self, MerchantId};
use super::snapshots::Snapshot;
use super::tables;
use crate::model::app::App;
use crate::model::certificate::KeptCertificate;
use crate::model::id::{Alias, AuthAppId, Pid};
use crate::model::merchant::Merchant;
use crate::protocol::secret::Secret;
use crate::store::seal::{Place, Sealer};
use crate::store::{Counts, DamagedMerchant, Found, MemoKey, MerchantKey};

/// One snapshot and what opens its records.
pub(super) struct Reader<'a> {
    /// The snapshot.
    pub(super) tx: &'a Snapshot,
    /// Opens its records.
    pub(super) sealer: &'a Sealer,
}

impl Reader<'_> {
    pub(super) fn apps(&self) -> Result<Vec<App>, Fault> {
        let table = self.tx.open_table(tables::APPS)?;
        let mut apps = Vec::new();
        for row in table.iter()? {
            let (key, sealed) = row?;
            let app = lookup::open_app(self.sealer, key.value(), sealed.value());
            apps.extend(readable(app)?);
        }
        Ok(apps)
    }

    pub(super) fn certificates(&self) -> Result<Vec<KeptCertificate>, Fault> {
        let table = self.tx.open_table(tables::CERTIFICATES)?;
        let mut kept = Vec::new();
        for row in table.iter()? {
            let (key, sealed) = row?;
            let one = lookup::open_certificate(self.sealer, key.value(), sealed.value());
            kept.extend(readable(one)?);
        }
        Ok(kept)
    }

    pub(super) fn find(&self, key: &MerchantKey) -> Result<Vec<Merchant>, Fault> {
        let found = self.find_all(key)?;
        match found.damaged.into_iter().next() {
            Some(damaged) => Err(Fault::Refused(damaged.into())),
            None => Ok(found.merchants),
        }
    }

    pub(super) fn find_all(&self, key: &MerchantKey) -> Result<Found, Fault> {
        let (ids, unnamed) = self.named(key)?;
        let table = self.tx.merchants()?;
        let mut found = Found {
            merchants: Vec::with_capacity(ids.len()),
            damaged: unnamed,
        };
        // Their rows outlive the records that were moved aside.
        let is_promised = matches!(
            key,
            MerchantKey::Alias(_) | MerchantKey::AuthAppId(_) | MerchantKey::Pid(_)
        );
        for id in ids {
            match lookup::merchant(table, self.sealer, &id) {
                Ok(Some(merchant)) => found.merchants.push(merchant),
                Ok(None) if !(is_promised && self.is_aside(&id)?) => {}
                Ok(None) | Err(Fault::Refused(_)) => found.damaged.push(damaged(&id.key())),
                Err(broken) => return Err(broken),
            }
        }
        found.merchants.retain(|merchant| is_named(merchant, key));
        Ok(found)
    }

    /// Whether the damaged record of a merchant was moved aside: what else leads to no record was left
    /// behind when one was removed.
    fn is_aside(&self, id: &MerchantId) -> Result<bool, Fault> {
        let damaged = self.tx.open_table(tables::DAMAGED)?;
        Ok(damaged.get(merchant_aside(&id.key()).as_slice())?.is_some())
    }

    /// Whom the rows of an index name, and those that name nobody.
    fn named(&self, key: &MerchantKey) -> Result<(Vec<MerchantId>, Vec<DamagedMerchant>), Fault> {
        let rows = match key {
            MerchantKey::Alias(alias) => self.by_alias(alias)?,
            MerchantKey::AuthAppId(auth_app_id) => self.by_auth_app_id(auth_app_id)?,
            MerchantKey::Exact(app_id, auth_app_id) => {
                vec![Ok(MerchantId::new(app_id, auth_app_id))]
            }
            MerchantKey::Pid(pid) => self.by_pid(pid)?,
            MerchantKey::Token(token) => self.by_token(token)?.into_iter().map(Ok).collect(),
        };
        let (mut ids, mut unnamed) = (Vec::with_capacity(rows.len()), Vec::new());
        for row in rows {
            match row {
                Ok(id) => ids.push(id),
                Err(row) => unnamed.push(row),
            }
        }
        Ok((ids, unnamed))
    }

    fn by_alias(&self, alias: &Alias) -> Result<Vec<Whose>, Fault> {
        let table = self.tx.by_alias()?;
        let prefix = tables::prefix(&[alias.as_str()]);
        let mut ids = Vec::new();
        for row in table.range(prefix.as_slice()..)? {
            let (key, owner) = row?;
            let Some(app_id) = key.value().strip_prefix(prefix.as_slice()) else {
                break;
            };
            let owner = [app_id, owner.value()].join(&0);
            ids.push(whose((tables::BY_ALIAS.name(), key.value()), &owner));
        }
        Ok(ids)
    }

    fn by_auth_app_id(&self, auth_app_id: &AuthAppId) -> Result<Vec<Whose>, Fault> {
        let table = self.tx.by_auth_app_id()?;
        let prefix = tables::prefix(&[auth_app_id.as_str()]);
        let mut ids = Vec::new();
        for row in table.range(prefix.as_slice()..)? {
            let key = row?.0;
            let Some(app_id) = key.value().strip_prefix(prefix.as_slice()) else {
                break;
            };
            let owner = [app_id, auth_app_id.as_str().as_bytes()].join(&0);
            ids.push(whose((tables::BY_AUTH_APP_ID.name(), key.value()), &owner));
        }
        Ok(ids)
    }

    fn by_pid(&self, pid: &Pid) -> Result<Vec<Whose>, Fault> {
        let table = self.tx.open_table(tables::BY_PID)?;
        let prefix = tables::prefix(&[pid.as_str()]);
        let mut ids = Vec::new();
        for row in table.range(prefix.as_slice()..)? {
            let key = row?.0;
            let Some(owner) = key.value().strip_prefix(prefix.as_slice()) else {
                break;
            };
            ids.push(whose((tables::BY_PID.name(), key.value()), owner));
        }
        Ok(ids)
    }

    fn by_token(&self, token: &Secret<String>) -> Result<Vec<MerchantId>, Fault> {
        let table = self.tx.open_table(tables::BY_TOKEN)?;
        let digest = self.sealer.token_digest(token);
        let owner = lookup::token_owner(&table, self.sealer, &digest)?;
        Ok(owner.into_iter().collect())
    }

    pub(super) fn merchants(
        &self,
        after: Option<&MerchantId>,
        limit: usize,
    ) -> Result<Found, Fault> {
        let table = self.tx.open_table(tables::MERCHANTS)?;
        // Nothing stands between a key and the same with a NUL behind it.
        let from = after.map_or_else(Vec::new, |id| [id.key(), vec![0]].concat());
        let mut page = Found::default();
        for row in table.range(from.as_slice()..)? {
            if page.merchants.len() >= limit {
                break;
            }
            let (key, sealed) = row?;
            let merchant = lookup::open_merchant(self.sealer, key.value(), sealed.value());
            match readable(merchant)? {
                None => page.damaged.push(damaged(key.value())),
                Some(merchant) => page.merchants.push(merchant),
            }
        }
        Ok(page)
    }

    pub(super) fn unreadable_merchants(&self) -> Result<u64, Fault> {
        let mut count = 0;
        for row in self.tx.open_table(tables::MERCHANTS)?.iter()? {
            let (key, sealed) = row?;
            match lookup::open_merchant(self.sealer, key.value(), sealed.value()) {
                Ok(_) => {}
                Err(Fault::Refused(_)) => count += 1,
                Err(broken) => return Err(broken),
            }
        }
        Ok(count)
    }

    pub(super) fn recall(&self, key: MemoKey, now: i64) -> Result<Option<Secret<Vec<u8>>>, Fault> {
        let table = self.tx.open_table(tables::MEMOS)?;
        let Some(row) = table.get(&key.0)? else {
            return Ok(None);
        };
        let (expires_at, sealed) = row.value();
        if expires_at <= now {
            return Ok(None);
        }
        open_memo(self.sealer, key, expires_at, sealed).map(Some)
    }

    pub(super) fn counts(&self) -> Result<Counts, Fault> {
        let pending = self.tx.open_table(tables::PENDING)?;
        let revoked = self.tx.open_table(tables::REVOKED)?.len()?;
        let suspect = self.tx.open_table(tables::SUSPECT)?.len()?;
        let merchants = self.tx.open_table(tables::MERCHANTS)?.len()?;
        Ok(Counts {
            damaged: self.tx.open_table(tables::DAMAGED)?.len()?,
            dead: self.tx.open_table(tables::DEAD)?.len()?,
            merchants_authorized: merchants.saturating_sub(revoked + suspect),
            merchants_revoked: revoked,
            merchants_suspect: suspect,
            oldest_pending_at: pending.first()?.map(|(_, received_at)| received_at.value()),
            pending: pending.len()?,
            refused: self.tx.open_table(tables::REFUSED)?.len()?,
        })
    }
}

/// Whose record stands under `key`, which may be damaged itself.
fn damaged(key: &[u8]) -> DamagedMerchant {
    let key = String::from_utf8_lossy(key);
    let (app_id, auth_app_id) = key.split_once('\0').unwrap_or((&key, ""));
    DamagedMerchant::Record {
        app_id: app_id.to_owned(),
        auth_app_id: auth_app_id.to_owned(),
    }
}

/// Whom a row of an index names, if it tells.
type Whose = Result<MerchantId, DamagedMerchant>;

fn whose((table, key): (&str, &[u8]), owner: &[u8]) -> Whose {
    let row = || DamagedMerchant::Row(Place { table, key }.to_string());
    MerchantId::from_key(owner).ok_or_else(row)
}

/// An index row is not sealed, so the record has the last word.
fn is_named(merchant: &Merchant, key: &MerchantKey) -> bool {
    match key {
        MerchantKey::Alias(alias) => merchant.alias.as_ref() == Some(alias),
        MerchantKey::Pid(pid) => merchant.pid.as_ref() == Some(pid),
        MerchantKey::AuthAppId(_) | MerchantKey::Exact(..) | MerchantKey::Token(_) => true,
    }
}

/// The record, or nothing where it is damaged: for lists.
pub(super) fn readable<T>(record: Result<T, Fault>) -> Result<Option<T>, Fault> {
    match record {
        Ok(record) => Ok(Some(record)),
        Err(Fault::Refused(error)) => {
            tracing::error!(%error, "a damaged record is passed over");
            Ok(None)
        }
        Err(broken) => Err(broken),
    }
}
