//! Users' tokens, found by either name of the user. The names stand in the file as keyed digests
//! alone: they are personal data.

use redb::{ReadableTable, TableHandle};
use serde::{Deserialize, Serialize};

use super::apply::Applier;
use super::fault::Fault;
use super::lookup::MerchantId;
use super::read::Reader;
use super::records::{self, Hidden, Unreadable};
use super::tables;
use crate::model::id::{AppId, AuthAppId};
use crate::model::user_token::{UserKey, UserName, UserToken};
use crate::protocol::secret::Secret;
use crate::store::Effect;
use crate::store::error::StoreError;
use crate::store::seal::{Place, Sealer};

#[derive(Serialize, Deserialize)]
struct UserRecord {
    app_id: String,
    auth_app_id: Option<String>,
    user_id: Option<String>,
    open_id: Option<String>,
    scope: Option<String>,
    access_token: Hidden,
    refresh_token: Option<Hidden>,
    obtained_at: i64,
    expires_at: Option<i64>,
    ends_at: Option<i64>,
    is_lost: bool,
}

impl Applier<'_> {
    /// Keeps a user's tokens under each name of the user. Where they replace others, only if those
    /// are still the ones in force: a login or a cancellation since then counts more.
    pub(super) fn keep_user_token(
        &mut self,
        token: &UserToken,
        replaces: Option<&Secret<String>>,
    ) -> Result<Effect, Fault> {
        let mut token = token.clone();
        let mut is_in_force = replaces.is_none();
        for key in keys(&token) {
            if let Some(known) = self.user_if_whole(&key)? {
                is_in_force |= replaces == Some(&known.access_token);
                token = token.with_names_of(&known);
            }
        }
        if !is_in_force {
            return Ok(Effect::Stale);
        }
        for key in keys(&token) {
            self.put_user(&key, &token)?;
        }
        Ok(Effect::Applied)
    }

    /// Forgets a user; with `only`, only while that is the access token in force, with
    /// `obtained_until`, only if it is no newer.
    pub(super) fn forget_user(
        &mut self,
        key: &UserKey,
        only: Option<&Secret<String>>,
        obtained_until: Option<i64>,
    ) -> Result<Effect, Fault> {
        let Some(known) = self.user_if_whole(key)? else {
            return Ok(Effect::Missing);
        };
        let is_another = only.is_some_and(|only| *only != known.access_token);
        if is_another || obtained_until.is_some_and(|until| known.obtained_at > until) {
            return Ok(Effect::Stale);
        }
        self.touch();
        for key in keys(&known) {
            self.remove_user(&digest(self.sealer, &key))?;
        }
        Ok(Effect::Applied)
    }

    /// Forgets every user of a merchant who logged in until now. The rows go when their time is
    /// over: there may be too many for one commit.
    pub(super) fn forget_users_of(&mut self, merchant: &MerchantId) -> Result<(), Fault> {
        self.forget_users_until_now(&merchant.key())
    }

    /// The same for every user of an app, its own and its merchants'.
    pub(super) fn forget_users_of_app(&mut self, app_id: &AppId) -> Result<(), Fault> {
        self.forget_users_until_now(&tables::key(&[app_id.as_str()]))
    }

    fn forget_users_until_now(&mut self, owner: &[u8]) -> Result<(), Fault> {
        self.touch();
        // A clock that was set back brings nobody back.
        let before = self.tables.users_forgotten.get(owner)?;
        let before = before.map_or(self.now, |row| row.value());
        let until = self.now.max(before);
        self.tables.users_forgotten.insert(owner, until)?;
        Ok(())
    }

    /// Forgets what is of no use any more, at most `room` rows; tells how many.
    pub(super) fn prune_users(&mut self, now: i64, room: &mut usize) -> Result<u64, Fault> {
        let mut old = Vec::new();
        let before = (now, &[0; 32]);
        for row in self.tables.users_end.range(..before)?.take(*room) {
            old.push(*row?.0.value().1);
        }
        if !old.is_empty() {
            self.touch();
        }
        for digest in &old {
            self.remove_user(digest)?;
        }
        *room = room.saturating_sub(old.len());
        Ok(u64::try_from(old.len()).unwrap_or(u64::MAX))
    }

    fn user(&self, key: &UserKey) -> Result<Option<UserToken>, Fault> {
        let forgotten = forgotten_at(self.tables.users_forgotten.table()?, key)?;
        look_up(self.tables.users.table()?, self.sealer, key, forgotten)
    }

    /// The user; a damaged record is moved aside, because a new login replaces it, and a
    /// cancellation must not be refused for it.
    fn user_if_whole(&mut self, key: &UserKey) -> Result<Option<UserToken>, Fault> {
        match self.user(key) {
            Err(Fault::Refused(error)) => {
                let digest = digest(self.sealer, key);
                let row = self.tables.users.get(&digest)?;
                let opened = row.map(|row| self.sealer.open(place(&digest), row.value().1));
                if opened.is_some_and(|opened| opened.is_ok()) {
                    // It isn't understood, which is no damage.
                    return Err(Fault::Refused(error));
                }
                self.set_user_aside(&digest)?;
                Ok(None)
            }
            other => other,
        }
    }

    /// Moves the damaged record of a user aside.
    pub(super) fn set_user_aside(&mut self, digest: &[u8; 32]) -> Result<(), Fault> {
        let row = self.tables.users.get(digest)?;
        if let Some(bytes) = row.map(|row| row.value().1.to_vec()) {
            self.keep_aside(place(digest), &bytes)?;
            self.remove_user(digest)?;
            tracing::error!(record = %place(digest), "a user's tokens are damaged and were moved aside");
        }
        Ok(())
    }

    fn put_user(&mut self, key: &UserKey, token: &UserToken) -> Result<(), Fault> {
        let digest = digest(self.sealer, key);
        let sealed = records::seal(self.sealer, place(&digest), &UserRecord::from(token))?;
        let ends = token.useless_at();
        self.touch();
        self.remove_user(&digest)?;
        let row = (ends, sealed.as_slice());
        self.tables.users.insert(&digest, row)?;
        self.tables.users_end.insert((ends, &digest), ())?;
        Ok(())
    }

    fn remove_user(&mut self, digest: &[u8; 32]) -> Result<(), Fault> {
        let ends = self.tables.users.remove(digest)?.map(|row| row.value().0);
        if let Some(ends) = ends {
            self.tables.users_end.remove((ends, digest))?;
        }
        Ok(())
    }
}

impl Reader<'_> {
    pub(super) fn user(&self, key: &UserKey) -> Result<Option<UserToken>, Fault> {
        let forgotten = forgotten_at(&self.tx.open_table(tables::USERS_FORGOTTEN)?, key)?;
        let users = self.tx.open_table(tables::USERS)?;
        look_up(&users, self.sealer, key, forgotten)
    }
}

/// When the users of the same merchant, or of the whole app, were last forgotten.
fn forgotten_at(
    forgotten: &impl ReadableTable<&'static [u8], i64>,
    key: &UserKey,
) -> Result<Option<i64>, Fault> {
    let mut last = None;
    for owner in [owner(key), tables::key(&[key.app_id.as_str()])] {
        let row = forgotten.get(owner.as_slice())?;
        last = last.max(row.map(|row| row.value()));
    }
    Ok(last)
}

fn look_up(
    users: &impl ReadableTable<&'static [u8; 32], (i64, &'static [u8])>,
    sealer: &Sealer,
    key: &UserKey,
    forgotten: Option<i64>,
) -> Result<Option<UserToken>, Fault> {
    let digest = digest(sealer, key);
    let Some(row) = users.get(&digest)? else {
        return Ok(None);
    };
    let token = open(sealer, &digest, row.value().1)?;
    let is_forgotten = forgotten.is_some_and(|at| token.obtained_at <= at);
    Ok(Some(token).filter(|_| !is_forgotten))
}

/// Opens a user's tokens.
pub(super) fn open(
    sealer: &Sealer,
    digest: &[u8; 32],
    sealed: &[u8],
) -> Result<UserToken, StoreError> {
    let record: UserRecord = records::open(sealer, place(digest), sealed)?;
    record.try_into().map_err(|_| place(digest).damaged())
}

fn place(digest: &[u8; 32]) -> Place<'_> {
    Place {
        table: tables::USERS.name(),
        key: digest,
    }
}

/// Whether `digest` is that of one of the user's names.
pub(super) fn is_named(sealer: &Sealer, token: &UserToken, digest: &[u8; 32]) -> bool {
    keys(token)
        .iter()
        .any(|key| self::digest(sealer, key) == *digest)
}

fn keys(token: &UserToken) -> Vec<UserKey> {
    let key = |name: &UserName| UserKey {
        app_id: token.app_id.clone(),
        auth_app_id: token.auth_app_id.clone(),
        name: name.clone(),
    };
    token.names().map(key).collect()
}

fn digest(sealer: &Sealer, key: &UserKey) -> [u8; 32] {
    let merchant = key.auth_app_id.as_ref().map_or("", AuthAppId::as_str);
    sealer.name_digest(&["user", key.app_id.as_str(), merchant, key.name.as_str()])
}

/// The key of the merchant whose user it is, as in the merchants' table.
fn owner(key: &UserKey) -> Vec<u8> {
    let merchant = key.auth_app_id.as_ref().map_or("", AuthAppId::as_str);
    tables::key(&[key.app_id.as_str(), merchant])
}

impl From<&UserToken> for UserRecord {
    fn from(token: &UserToken) -> Self {
        Self {
            app_id: token.app_id.to_string(),
            auth_app_id: token.auth_app_id.as_ref().map(ToString::to_string),
            user_id: token.user_id.as_ref().map(ToString::to_string),
            open_id: token.open_id.as_ref().map(ToString::to_string),
            scope: token.scope.clone(),
            access_token: token.access_token.clone().into(),
            refresh_token: token.refresh_token.clone().map(Into::into),
            obtained_at: token.obtained_at,
            expires_at: token.expires_at,
            ends_at: token.ends_at,
            is_lost: token.is_lost,
        }
    }
}

impl TryFrom<UserRecord> for UserToken {
    type Error = Unreadable;

    fn try_from(record: UserRecord) -> Result<Self, Unreadable> {
        let name = |text: Option<String>| match text {
            None => Ok(None),
            Some(text) => UserName::new(&text).map(Some).ok_or(Unreadable),
        };
        let auth_app_id = record.auth_app_id.as_deref().map(AuthAppId::new);
        Ok(Self {
            app_id: AppId::new(&record.app_id).map_err(|_| Unreadable)?,
            auth_app_id: auth_app_id.transpose().map_err(|_| Unreadable)?,
            user_id: name(record.user_id)?,
            open_id: name(record.open_id)?,
            scope: record.scope,
            access_token: record.access_token.into(),
            refresh_token: record.refresh_token.map(Into::into),
            obtained_at: record.obtained_at,
            expires_at: record.expires_at,
            ends_at: record.ends_at,
            is_lost: record.is_lost,
        })
    }
}
