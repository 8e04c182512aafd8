//! Turns one commit's changes into writes within a write transaction.
//!
//! Every change checks all that could refuse it before its first write, so that a refused commit
//! of one change leaves no trace by itself. A commit refused at a later change has written: then
//! [`Applier::has_written`] tells the writer to give the whole transaction up.

use super::fault::Fault;
use super::inbox::Wait;
use super::left::LeftBehind;
use super::lookup::{self, MerchantId};
use super::tables::Tables;
use crate::model::authorization::Authorization;
use crate::model::delivery::DeliveryState;
use crate::model::id::EventId;
use crate::model::notification::InboxEntry;
use crate::protocol::secret::Secret;
use crate::store::error::StoreError;
use crate::store::seal::Sealer;
use crate::store::{Backlog, Change, Effect, Fate, MemoKey};

/// Applies commits within one write transaction.
pub(super) struct Applier<'t> {
    pub(super) tables: Tables<'t>,
    pub(super) sealer: &'t Sealer,
    /// The time of the group, Unix milliseconds.
    pub(super) now: i64,
    pub(super) left: LeftBehind,
    written: bool,
}

impl<'t> Applier<'t> {
    /// Works on `tables` at the time `now`.
    pub(super) fn new(tables: Tables<'t>, sealer: &'t Sealer, now: i64) -> Self {
        Self {
            tables,
            sealer,
            now,
            left: LeftBehind::default(),
            written: false,
        }
    }

    /// Whether anything was written since the last call.
    pub(super) fn has_written(&mut self) -> bool {
        std::mem::take(&mut self.written)
    }

    /// How full the inbox and the quarantine are now; `before` they were so full, if that is known.
    pub(super) fn backlog(&self, before: Option<Backlog>) -> Result<Backlog, Fault> {
        let tables = &self.tables;
        Ok(Backlog {
            pending: tables.pending.len_since(before.map(|b| b.pending))?,
            refused: tables.refused.len_since(before.map(|b| b.refused))?,
        })
    }

    /// Says that something is written now; before every write.
    pub(super) fn touch(&mut self) {
        self.written = true;
    }

    /// Applies all `changes`, or none if one of them is known already.
    pub(super) fn commit(&mut self, changes: &[Change]) -> Result<Vec<Effect>, Fault> {
        let known = changes
            .iter()
            .map(|change| self.known(change))
            .collect::<Result<Vec<_>, _>>()?;
        if known.iter().any(Option::is_some) {
            let effects = known.into_iter();
            return Ok(effects.map(|k| k.unwrap_or(Effect::Void)).collect());
        }
        let mut effects: Vec<Effect> = Vec::with_capacity(changes.len());
        let mut authorized = None;
        for change in changes {
            let effect = match change {
                Change::Accompany(entry) => self.accompany(entry, effects.last())?,
                Change::OfAuthorization { fate, changes } => {
                    self.of_authorization(authorized, (*fate, changes))?
                }
                // Nothing was written since it was looked up.
                Change::Receive(entry) if effects.is_empty() => self.take_in(entry)?,
                change => self.apply(change)?,
            };
            if let Change::Authorize { authorization, .. } = change {
                authorized = Some((&**authorization, matches!(effect, Effect::Applied)));
            }
            effects.push(effect);
        }
        Ok(effects)
    }

    /// Stores an entry that shares the fate of the change before it.
    fn accompany(&mut self, entry: &InboxEntry, before: Option<&Effect>) -> Result<Effect, Fault> {
        let state = match before {
            Some(Effect::Stale) => DeliveryState::Ignored,
            _ => DeliveryState::Pending,
        };
        // What it comes with may have been refused until now, and is owed from now on; it itself has
        // an id of its own, by which nothing was refused.
        let owed_since = entry.received_at.max(self.now);
        self.put_owed(entry, state, owed_since)?;
        Ok(Effect::Applied)
    }

    /// Makes what is told of an authorisation, of which is known whether it was applied just now.
    fn of_authorization(
        &mut self,
        authorized: Option<(&Authorization, bool)>,
        (fate, changes): (Fate, &[Change]),
    ) -> Result<Effect, Fault> {
        let Some((authorization, is_applied)) = authorized else {
            return Ok(Effect::Stale);
        };
        let id = MerchantId::new(&authorization.app_id, &authorization.auth_app_id);
        let counts = match fate {
            Fate::Applied => is_applied,
            Fate::InForce if is_applied => true,
            Fate::InForce => self.merchant(&id)?.is_some_and(|m| m.has(authorization)),
        };
        let mut told = Effect::Stale;
        for change in changes.iter().filter(|_| counts) {
            let (Change::Doubt { .. } | Change::FetchedKey { .. } | Change::Revoke { .. }) = change
            else {
                continue;
            };
            if let Effect::Applied = self.apply(change)? {
                told = Effect::Applied;
            }
        }
        Ok(told)
    }

    /// The effect that a change has because it was made before.
    fn known(&self, change: &Change) -> Result<Option<Effect>, Fault> {
        match change {
            Change::Accompany(entry) | Change::Receive(entry) => self.known_entry(entry),
            Change::Authorize { entry, .. }
            | Change::Doubt { entry, .. }
            | Change::Revoke { entry, .. } => entry
                .as_deref()
                .map_or(Ok(None), |entry| self.known_entry(entry)),
            Change::OfAuthorization { changes, .. } => {
                let mut known = changes.iter().map(|change| self.known(change));
                known.find_map(Result::transpose).transpose()
            }
            Change::Remember { key, .. } => Ok(self.remembered(*key)?.map(Effect::Remembered)),
            Change::Claim { .. }
            | Change::Extend { .. }
            | Change::FetchedKey { .. }
            | Change::FillPid { .. }
            | Change::ForgetUser { .. }
            | Change::KeepCertificate(_)
            | Change::KeepUserToken { .. }
            | Change::KeepVariant { .. }
            | Change::NameMerchant { .. }
            | Change::Park { .. }
            | Change::Postpone { .. }
            | Change::PutApp(_)
            | Change::RecordCalls { .. }
            | Change::Refuse(_)
            | Change::Rejudge { .. }
            | Change::Release(_)
            | Change::ReleaseContent(_)
            | Change::RemoveApp(_)
            | Change::RemoveMerchant(..)
            | Change::Replay { .. }
            | Change::Settle { .. }
            | Change::Trust { .. }
            | Change::Unremember(_)
            | Change::Worked { .. } => Ok(None),
        }
    }

    /// An entry is known by its own id (the same commit again) or by Alipay's.
    pub(super) fn known_entry(&self, entry: &InboxEntry) -> Result<Option<Effect>, Fault> {
        if self.tables.deliveries.get(&entry.id.to_bytes())?.is_some() {
            return Ok(Some(Effect::Duplicate(entry.id)));
        }
        let Some(notify_id) = &entry.notify_id else {
            return Ok(None);
        };
        let digest = self.sealer.notify_digest(&entry.app_id, notify_id);
        let row = self.tables.dedupe.get(&digest)?;
        Ok(row.map(|row| Effect::Duplicate(EventId::from_bytes(*row.value()))))
    }

    fn apply(&mut self, change: &Change) -> Result<Effect, Fault> {
        match change {
            Change::Accompany(entry) => self.accompany(entry, None),
            Change::Authorize {
                authorization,
                entry,
            } => self.authorize(authorization, entry.as_deref()),
            Change::Claim { id, lease } => self.claim(*id, *lease),
            Change::Doubt { refusal, entry } => self.doubted(refusal, entry.as_deref()),
            Change::Extend { id, now, until } => self.extend(*id, *now, *until),
            Change::FetchedKey {
                app_id,
                auth_app_id,
                encrypt_key,
            } => self.fetched_key(&MerchantId::new(app_id, auth_app_id), encrypt_key),
            Change::FillPid {
                app_id,
                auth_app_id,
                pid,
            } => self.fill_pid(&MerchantId::new(app_id, auth_app_id), pid),
            Change::ForgetUser {
                key,
                only,
                obtained_until,
            } => self.forget_user(key, only.as_ref(), *obtained_until),
            Change::KeepCertificate(certificate) => self.keep_certificate(certificate),
            Change::KeepUserToken { token, replaces } => {
                self.keep_user_token(token, replaces.as_ref())
            }
            Change::KeepVariant { of, variant } => self.keep_variant(*of, variant),
            Change::NameMerchant {
                app_id,
                auth_app_id,
                alias,
            } => self.name_merchant(&MerchantId::new(app_id, auth_app_id), alias.as_ref()),
            Change::OfAuthorization { fate, changes } => {
                self.of_authorization(None, (*fate, changes))
            }
            Change::Park { id, until } => self.put_off(*id, *until, Wait::ForARoute),
            Change::Postpone { id, until } => self.put_off(*id, *until, Wait::ForItsTurn),
            Change::PutApp(app) => self.put_app(app),
            Change::Receive(entry) => self.receive(entry),
            Change::RecordCalls { records, limit } => self.record_calls(records, *limit),
            Change::Refuse(refused) => self.refuse(refused),
            Change::Rejudge {
                id,
                refusal,
                reason,
            } => self.rejudge(*id, *refusal, reason),
            Change::Release(id) => self.release(*id),
            Change::ReleaseContent(content) => self.release_content(content),
            Change::Remember {
                key,
                value,
                expires_at,
            } => self.remember(*key, value, *expires_at),
            Change::RemoveApp(app_id) => self.remove_app(app_id),
            Change::RemoveMerchant(app_id, auth_app_id) => {
                self.remove_merchant(&MerchantId::new(app_id, auth_app_id))
            }
            Change::Replay { id, now } => self.replay(*id, *now),
            Change::Revoke { revocation, entry } => self.revoke(revocation, entry.as_deref()),
            Change::Settle {
                id,
                attempt,
                owed_since,
                settlement,
            } => self.settle(*id, attempt, (*settlement, *owed_since)),
            Change::Trust {
                app_id,
                auth_app_id,
                app_auth_token,
            } => self.trusted(&MerchantId::new(app_id, auth_app_id), app_auth_token),
            Change::Unremember(key) => self.unremember(*key),
            Change::Worked {
                app_id,
                auth_app_id,
                app_auth_token,
            } => self.worked(&MerchantId::new(app_id, auth_app_id), app_auth_token),
        }
    }

    /// What is kept under `key` and hasn't expired.
    pub(super) fn remembered(&self, key: MemoKey) -> Result<Option<Secret<Vec<u8>>>, Fault> {
        let Some(row) = self.tables.memos.get(&key.0)? else {
            return Ok(None);
        };
        let (expires_at, sealed) = row.value();
        if expires_at <= self.now {
            return Ok(None);
        }
        open_memo(self.sealer, key, expires_at, sealed).map(Some)
    }

    /// Forgets what is kept under `key`.
    pub(super) fn forget(&mut self, key: MemoKey) -> Result<(), Fault> {
        self.touch();
        let expiry = self.tables.memos.remove(&key.0)?.map(|row| row.value().0);
        if let Some(at) = expiry {
            self.tables.memo_expiry.remove((at, &key.0))?;
        }
        Ok(())
    }

    pub(super) fn remember(
        &mut self,
        key: MemoKey,
        value: &Secret<Vec<u8>>,
        expires_at: i64,
    ) -> Result<Effect, Fault> {
        // Only the same key twice in one commit is found here: the commit looked for it before.
        if let Some(first) = self.remembered(key)? {
            return Ok(Effect::Remembered(first));
        }
        let place = lookup::memo_key(&key.0, expires_at);
        let sealed = self
            .sealer
            .seal(lookup::memo_place(&place), value.expose())?;
        self.touch();
        let row = (expires_at, sealed.as_slice());
        let expired = self
            .tables
            .memos
            .insert(&key.0, row)?
            .map(|old| old.value().0);
        if let Some(at) = expired {
            self.tables.memo_expiry.remove((at, &key.0))?;
        }
        self.tables.memo_expiry.insert((expires_at, &key.0), ())?;
        Ok(Effect::Applied)
    }

    /// Moves a damaged memo aside.
    pub(super) fn set_memo_aside(&mut self, key: &[u8; 32]) -> Result<(), Fault> {
        let row = self.tables.memos.get(key)?;
        let row = row.map(|row| (row.value().0, row.value().1.to_vec()));
        if let Some((expires_at, bytes)) = row {
            self.keep_aside(lookup::memo_place(key), &bytes)?;
            self.tables.memos.remove(key)?;
            self.tables.memo_expiry.remove((expires_at, key))?;
        }
        Ok(())
    }

    fn unremember(&mut self, key: MemoKey) -> Result<Effect, Fault> {
        self.touch();
        let removed = self.tables.memos.remove(&key.0)?.map(|row| row.value().0);
        let Some(expires_at) = removed else {
            return Ok(Effect::Missing);
        };
        self.tables.memo_expiry.remove((expires_at, &key.0))?;
        Ok(Effect::Applied)
    }
}

/// Opens what is kept under `key`.
pub(super) fn open_memo(
    sealer: &Sealer,
    key: MemoKey,
    expires_at: i64,
    sealed: &[u8],
) -> Result<Secret<Vec<u8>>, Fault> {
    let place = lookup::memo_key(&key.0, expires_at);
    let mut plain = sealer.open(lookup::memo_place(&place), sealed)?;
    Ok(Secret::new(std::mem::take(&mut *plain)))
}

/// The error for a token that is another record's.
pub(super) fn token_conflict(owner: &MerchantId) -> Fault {
    Fault::Refused(StoreError::TokenConflict {
        owner: owner.to_string(),
    })
}
