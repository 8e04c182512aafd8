//! Writes to the directory: apps, merchants, and the rows they are found by.

use redb::TableHandle;

use super::apply::{Applier, token_conflict};
use super::fault::Fault;
use super::lookup::{self, MerchantId, Owner};
use super::records::{self, AppRecord, MerchantRecord, same_secret, same_token};
use super::tables;
use crate::model::app::App;
use crate::model::authorization::{Authorization, Revocation, Source};
use crate::model::certificate::KeptCertificate;
use crate::model::delivery::DeliveryState;
use crate::model::event::AuthorizationEvent;
use crate::model::id::{Alias, AppId, AuthAppId, Pid};
use crate::model::merchant::{Authorized, Before, Merchant, MerchantStatus, plausible};
use crate::model::notification::{DeliveryForm, InboxEntry};
use crate::protocol::secret::Secret;
use crate::store::Effect;
use crate::store::error::StoreError;
use crate::store::seal::Place;

impl Applier<'_> {
    pub(super) fn put_app(&mut self, app: &App) -> Result<Effect, Fault> {
        let key = app.app_id.as_str().as_bytes();
        let place = Place {
            table: tables::APPS.name(),
            key,
        };
        let sealed = records::seal(self.sealer, place, &AppRecord::from(app))?;
        self.touch();
        self.tables.apps.insert(key, sealed.as_slice())?;
        Ok(Effect::Applied)
    }

    pub(super) fn remove_app(&mut self, app_id: &AppId) -> Result<Effect, Fault> {
        let key = app_id.as_str().as_bytes();
        if self.tables.apps.get(key)?.is_none() {
            return Ok(Effect::Missing);
        }
        self.touch();
        self.tables.apps.remove(key)?;
        let prefix = tables::prefix(&[app_id.as_str()]);
        self.tables
            .certificates
            .retain_in(prefix.as_slice().., |key, _| {
                !key.starts_with(prefix.as_slice())
            })?;
        self.forget_users_of_app(app_id)?;
        Ok(Effect::Applied)
    }

    pub(super) fn keep_certificate(
        &mut self,
        certificate: &KeptCertificate,
    ) -> Result<Effect, Fault> {
        let key = tables::key(&[certificate.app_id.as_str(), &certificate.sn]);
        let place = lookup::certificate_place(&key);
        let sealed = self.sealer.seal(place, certificate.pem.as_bytes())?;
        self.touch();
        self.tables
            .certificates
            .insert(key.as_slice(), sealed.as_slice())?;
        Ok(Effect::Applied)
    }

    pub(super) fn authorize(
        &mut self,
        authorization: &Authorization,
        entry: Option<&InboxEntry>,
    ) -> Result<Effect, Fault> {
        let id = MerchantId::new(&authorization.app_id, &authorization.auth_app_id);
        let stored = self.merchant_if_whole(&id)?;
        let before = match &stored {
            Some(stored) => Before::Record(stored),
            None => match self.cancelled(&id)? {
                Some(at) => Before::Cancelled(at),
                None if self.is_aside(&id)? => Before::Damaged,
                None => Before::Nothing,
            },
        };
        let mut merchant = match Merchant::authorize(before, authorization, self.now) {
            Authorized::Applied(merchant) => *merchant,
            Authorized::Known => return self.hold(&id, &authorization.token.app_auth_token),
            Authorized::Stale => return self.ignore(entry),
        };
        if authorization.rank.is_absurd(self.now) {
            tracing::warn!(merchant = %id, "an auth_time lies more than 24 h ahead; it ranks as now");
        }
        self.check_token(&id, &merchant.token.app_auth_token)?;
        // One that the record merely keeps may be another's by now: what was bought isn't lost for it.
        self.check_alias(&id, authorization.alias.as_ref())?;
        if let Some(stored) = &stored {
            keep_previous(stored, &mut merchant);
        }
        let repeated = stored.as_ref().is_some_and(|s| says_the_same(s, &merchant));
        // An import that is run again has nothing to tell the backend; an exchange or a refresh was
        // made, whatever it brought.
        let entry = entry.filter(|_| !repeated || authorization.source != Source::Import);
        // What its record says already it may yet not be found by.
        let lacks_rows = match &stored {
            Some(stored) => self.lacks_rows(&id, stored)?,
            None => false,
        };
        if !repeated || entry.is_some() || lacks_rows {
            if stored.is_none() && self.unlist_left_behind(&id)? && merchant.pid.is_none() {
                tracing::warn!(
                    merchant = %id,
                    "a merchant whose record was damaged has authorised anew, and nobody told its PID;                      `merchant verify` asks Alipay for it"
                );
            }
            self.put_merchant(&id, stored.as_ref(), &merchant)?;
        }
        if let Some(entry) = entry {
            let event = AuthorizationEvent::authorized(
                entry.id,
                entry.received_at,
                authorization,
                &merchant,
            );
            self.put_entry(&told(entry, &merchant, event), DeliveryState::Pending)?;
        }
        Ok(Effect::Applied)
    }

    pub(super) fn revoke(
        &mut self,
        revocation: &Revocation,
        entry: Option<&InboxEntry>,
    ) -> Result<Effect, Fault> {
        let id = MerchantId::new(&revocation.app_id, &revocation.auth_app_id);
        let Some(stored) = self.merchant_if_whole(&id)? else {
            return self.revoke_unknown(revocation, entry);
        };
        let Some(merchant) = stored.revoke(revocation, self.now) else {
            return self.ignore(entry);
        };
        self.put_merchant(&id, Some(&stored), &merchant)?;
        self.forget_users_of(&id)?;
        if let Some(entry) = entry {
            let at = match merchant.status {
                MerchantStatus::Revoked { at } => at,
                MerchantStatus::Authorized | MerchantStatus::Suspect { .. } => self.now,
            };
            // What has bytes of Alipay's came from it; the rest, an operator has brought.
            let source = entry.body.as_ref().map_or(Source::Import, |_| Source::Push);
            let (id, received_at) = (entry.id, entry.received_at);
            let event = AuthorizationEvent::revoked(id, received_at, (at, source), &merchant);
            self.put_entry(&told(entry, &merchant, event), DeliveryState::Pending)?;
        }
        Ok(Effect::Applied)
    }

    /// Notes that the record of `id` has held this token, too.
    fn hold(&mut self, id: &MerchantId, token: &Secret<String>) -> Result<Effect, Fault> {
        self.check_token(id, token)?;
        self.touch();
        self.put_token(id, token)?;
        Ok(Effect::Applied)
    }

    /// The backend must hear of a cancellation even where the sidecar never knew the merchant.
    fn revoke_unknown(
        &mut self,
        revocation: &Revocation,
        entry: Option<&InboxEntry>,
    ) -> Result<Effect, Fault> {
        if let Some(at) = revocation.at {
            let id = MerchantId::new(&revocation.app_id, &revocation.auth_app_id);
            self.remember_cancelled(&id, plausible(at, self.now))?;
        }
        if let Some(entry) = entry.filter(|entry| entry.body.is_some() || entry.event.is_some()) {
            self.put_entry(&without_event(entry), DeliveryState::Pending)?;
        }
        Ok(Effect::Missing)
    }

    /// What is older than the record is kept to be looked at, but owed to nobody.
    fn ignore(&mut self, entry: Option<&InboxEntry>) -> Result<Effect, Fault> {
        if let Some(entry) = entry.filter(|entry| entry.body.is_some()) {
            self.put_entry(&without_event(entry), DeliveryState::Ignored)?;
        }
        Ok(Effect::Stale)
    }

    pub(super) fn fetched_key(
        &mut self,
        id: &MerchantId,
        encrypt_key: &Secret<String>,
    ) -> Result<Effect, Fault> {
        let Some(stored) = self.merchant(id)? else {
            return Ok(Effect::Missing);
        };
        if stored.encrypt_key.is_some() && !stored.encrypt_key_fetched {
            return Ok(Effect::Stale);
        }
        if stored.encrypt_key.as_ref() != Some(encrypt_key) {
            let keyed = Merchant {
                encrypt_key: Some(encrypt_key.clone()),
                encrypt_key_fetched: true,
                updated_at: self.now,
                ..stored.clone()
            };
            self.put_merchant(id, Some(&stored), &keyed)?;
        }
        Ok(Effect::Applied)
    }

    pub(super) fn fill_pid(&mut self, id: &MerchantId, pid: &Pid) -> Result<Effect, Fault> {
        let Some(stored) = self.merchant(id)? else {
            return Ok(Effect::Missing);
        };
        if stored.pid.is_some() {
            return Ok(Effect::Stale);
        }
        let filled = Merchant {
            pid: Some(pid.clone()),
            updated_at: self.now,
            ..stored.clone()
        };
        self.put_merchant(id, Some(&stored), &filled)?;
        Ok(Effect::Applied)
    }

    pub(super) fn name_merchant(
        &mut self,
        id: &MerchantId,
        alias: Option<&Alias>,
    ) -> Result<Effect, Fault> {
        let Some(stored) = self.merchant(id)? else {
            return Ok(Effect::Missing);
        };
        self.check_alias(id, alias)?;
        // What its record says already it may yet not be found by: it was another's.
        if stored.alias.as_ref() != alias || self.lacks_rows(id, &stored)? {
            let named = Merchant {
                alias: alias.cloned(),
                updated_at: self.now,
                ..stored.clone()
            };
            self.put_merchant(id, Some(&stored), &named)?;
        }
        Ok(Effect::Applied)
    }

    pub(super) fn remove_merchant(&mut self, id: &MerchantId) -> Result<Effect, Fault> {
        let key = id.key();
        // A record that can't be read must be removable, too, and what was left of one.
        let stored = match self.merchant(id) {
            Err(Fault::Refused(_)) => None,
            Ok(None) if !self.is_aside(id)? => return Ok(Effect::Missing),
            other => other?,
        };
        self.touch();
        self.tables.merchants.remove(key.as_slice())?;
        self.tables.revoked.remove(key.as_slice())?;
        self.tables.suspect.remove(key.as_slice())?;
        match stored {
            Some(stored) => {
                self.unlist(&stored)?;
                let row = auth_app_id_key(id);
                self.tables.by_auth_app_id.remove(row.as_slice())?;
            }
            None => self.unlist_damaged(id)?,
        }
        self.end_aside(id)?;
        self.remove_tokens(id)?;
        self.forget_users_of(id)?;
        Ok(Effect::Applied)
    }

    pub(super) fn merchant(&self, id: &MerchantId) -> Result<Option<Merchant>, Fault> {
        lookup::merchant(self.tables.merchants.table()?, self.sealer, id)
    }

    /// The merchant; a damaged record is moved aside, because what Alipay says of the merchant
    /// replaces it, and refusing it would lose that, too.
    fn merchant_if_whole(&mut self, id: &MerchantId) -> Result<Option<Merchant>, Fault> {
        match self.merchant(id) {
            Err(Fault::Refused(error)) => {
                let key = id.key();
                let place = Place {
                    table: tables::MERCHANTS.name(),
                    key: &key,
                };
                let row = self.tables.merchants.get(key.as_slice())?;
                if row.is_some_and(|row| self.sealer.open(place, row.value()).is_ok()) {
                    // It isn't understood, which is no damage.
                    return Err(Fault::Refused(error));
                }
                self.set_merchant_aside(id)?;
                Ok(None)
            }
            other => other,
        }
    }

    /// Writes the index row of every current token that has none.
    pub(super) fn put_missing_tokens(&mut self) -> Result<(), Fault> {
        let mut whole = Vec::new();
        for row in self.tables.merchants.iter()? {
            let (key, sealed) = row?;
            let merchant = lookup::open_merchant(self.sealer, key.value(), sealed.value());
            let Ok(merchant) = merchant else {
                continue;
            };
            let digest = self.sealer.token_digest(&merchant.token.app_auth_token);
            if self.tables.by_token.get(&digest)?.is_none() {
                whole.push(merchant);
            }
        }
        for merchant in whole {
            let id = MerchantId::new(&merchant.app_id, &merchant.auth_app_id);
            self.touch();
            self.put_token(&id, &merchant.token.app_auth_token)?;
        }
        Ok(())
    }

    fn check_token(&self, id: &MerchantId, token: &Secret<String>) -> Result<(), Fault> {
        let digest = self.sealer.token_digest(token);
        match lookup::token_owner(self.tables.by_token.table()?, self.sealer, &digest) {
            Ok(Some(owner)) if owner != *id => Err(token_conflict(&owner)),
            Err(Fault::Refused(error)) => {
                tracing::error!(%error, merchant = %id, "whose a token was is damaged; it is this merchant's now");
                Ok(())
            }
            owner => owner.map(drop),
        }
    }

    pub(super) fn check_alias(&self, id: &MerchantId, alias: Option<&Alias>) -> Result<(), Fault> {
        let Some(alias) = alias else {
            return Ok(());
        };
        match self.other_of_alias(id, alias)? {
            Some(owner) => Err(Fault::Refused(StoreError::AliasTaken {
                alias: alias.to_string(),
                owner,
            })),
            None => Ok(()),
        }
    }

    /// Whose the alias is, if it is another merchant's.
    fn other_of_alias(&self, id: &MerchantId, alias: &Alias) -> Result<Option<String>, Fault> {
        let key = alias_key(alias, &id.app_id);
        let Some(row) = self.tables.by_alias.get(key.as_slice())? else {
            return Ok(None);
        };
        let owner = row.value().to_vec();
        drop(row);
        if owner == id.auth_app_id.as_str().as_bytes() {
            return Ok(None);
        }
        // A row whose merchant is gone or says another alias was left behind. What a damaged one says
        // nobody knows.
        let merchants = self.tables.merchants.table()?;
        Ok(
            match lookup::alias_row(merchants, self.sealer, (&key, &owner))? {
                Owner::Agrees | Owner::Damaged => {
                    Some(String::from_utf8_lossy(&owner).into_owned())
                }
                Owner::Contradicts | Owner::Missing => None,
            },
        )
    }

    /// Writes the record and the rows it is found by.
    pub(super) fn put_merchant(
        &mut self,
        id: &MerchantId,
        stored: Option<&Merchant>,
        merchant: &Merchant,
    ) -> Result<(), Fault> {
        let key = id.key();
        let place = Place {
            table: tables::MERCHANTS.name(),
            key: &key,
        };
        let sealed = records::seal(self.sealer, place, &MerchantRecord::from(merchant))?;
        self.touch();
        if let Some(stored) = stored {
            self.unlist(stored)?;
        }
        self.tables
            .merchants
            .insert(key.as_slice(), sealed.as_slice())?;
        self.list(id, merchant)?;
        self.put_token(id, &merchant.token.app_auth_token)
    }

    /// Writes the rows that a merchant is found by, but for those of its tokens. An alias that is
    /// another's stays that one's.
    pub(super) fn list(&mut self, id: &MerchantId, merchant: &Merchant) -> Result<(), Fault> {
        let key = id.key();
        self.tables.revoked.remove(key.as_slice())?;
        self.tables.suspect.remove(key.as_slice())?;
        match merchant.status {
            MerchantStatus::Authorized => None,
            MerchantStatus::Revoked { .. } => self.tables.revoked.insert(key.as_slice(), ())?,
            MerchantStatus::Suspect { .. } => self.tables.suspect.insert(key.as_slice(), ())?,
        };
        self.tables
            .by_auth_app_id
            .insert(auth_app_id_key(id).as_slice(), ())?;
        if let Some(key) = pid_key(merchant) {
            self.tables.by_pid.insert(key.as_slice(), ())?;
        }
        if let Some(alias) = &merchant.alias {
            if let Some(owner) = self.other_of_alias(id, alias)? {
                tracing::warn!(merchant = %id, %alias, owner, "the merchant's alias is another's; it isn't found by it");
                return Ok(());
            }
            let owner = id.auth_app_id.as_str().as_bytes();
            self.tables
                .by_alias
                .insert(alias_key(alias, &id.app_id).as_slice(), owner)?;
        }
        Ok(())
    }

    fn unlist(&mut self, merchant: &Merchant) -> Result<(), Fault> {
        if let Some(key) = pid_key(merchant) {
            self.tables.by_pid.remove(key.as_slice())?;
        }
        if let Some(alias) = &merchant.alias {
            let row = alias_key(alias, &merchant.app_id);
            self.remove_alias_row(&row, &merchant.auth_app_id)?;
        }
        Ok(())
    }

    /// Removes the row of an alias, if it is still of that merchant.
    pub(super) fn remove_alias_row(&mut self, row: &[u8], of: &AuthAppId) -> Result<(), Fault> {
        let owner = self.tables.by_alias.get(row)?;
        if owner.is_some_and(|owner| owner.value() == of.as_str().as_bytes()) {
            self.touch();
            self.tables.by_alias.remove(row)?;
        }
        Ok(())
    }
}

/// A token given again (a commit repeated, an import run twice) must not push the pair before it
/// out of `previous_token`.
fn keep_previous(stored: &Merchant, merchant: &mut Merchant) {
    if stored.token.app_auth_token.expose() == merchant.token.app_auth_token.expose() {
        merchant.previous_token.clone_from(&stored.previous_token);
    }
}

/// Whether `merchant` differs from `stored` in nothing but its times.
fn says_the_same(stored: &Merchant, merchant: &Merchant) -> bool {
    let estimated = stored.auth_time_estimated && merchant.auth_time_estimated;
    estimated
        && same_token(&stored.token, &merchant.token)
        && same_secret(stored.encrypt_key.as_ref(), merchant.encrypt_key.as_ref())
        && stored.encrypt_key_fetched == merchant.encrypt_key_fetched
        && (&stored.pid, &stored.alias, &stored.reference)
            == (&merchant.pid, &merchant.alias, &merchant.reference)
        && (stored.status, stored.source) == (merchant.status, merchant.source)
        && stored.refresh_refused == merchant.refresh_refused
}

/// The entry with its event, and with what it didn't say of the merchant.
pub(super) fn told(
    entry: &InboxEntry,
    merchant: &Merchant,
    event: AuthorizationEvent,
) -> InboxEntry {
    let mut told = entry.clone();
    told.pid = told.pid.or_else(|| merchant.pid.clone());
    told.auth_app_id = told
        .auth_app_id
        .or_else(|| Some(merchant.auth_app_id.clone()));
    told.event = Some(event);
    told
}

/// The entry of something that wasn't applied: if it is ever handed over, then as Alipay's message
/// without its secrets.
fn without_event(entry: &InboxEntry) -> InboxEntry {
    let mut bare = entry.clone();
    if bare.form == DeliveryForm::Event && bare.event.is_none() {
        bare.form = DeliveryForm::Redacted;
    }
    bare
}

pub(super) fn auth_app_id_key(id: &MerchantId) -> Vec<u8> {
    tables::key(&[id.auth_app_id.as_str(), id.app_id.as_str()])
}

pub(super) fn pid_key(merchant: &Merchant) -> Option<Vec<u8>> {
    let pid = merchant.pid.as_ref()?.as_str();
    let (app_id, auth_app_id) = (merchant.app_id.as_str(), merchant.auth_app_id.as_str());
    Some(tables::key(&[pid, app_id, auth_app_id]))
}

pub(super) fn alias_key(alias: &Alias, app_id: &AppId) -> Vec<u8> {
    tables::key(&[alias.as_str(), app_id.as_str()])
}
