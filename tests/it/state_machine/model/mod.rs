//! The store as one would draw it on paper: a few maps, and no index.

use alipay_sidecar::model::authorization::Authorization;
use alipay_sidecar::model::delivery::DeliveryState;
use alipay_sidecar::model::id::EventId;
use alipay_sidecar::model::notification::InboxEntry;
use alipay_sidecar::store::{Change, Fate, Pruned};

mod inbox;
mod kept;
mod merchants;

pub(super) use inbox::{Inbox, Owed};
pub(super) use kept::{CALL_ROOM, Kept};
pub(super) use merchants::{Merchants, Triple};

pub(super) const DAY_MS: i64 = 24 * 3_600_000;

/// What a change must be answered with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Applied,
    Displaced(u64),
    Duplicate(EventId),
    Full,
    Missing,
    Remembered(Vec<u8>),
    Stale,
    Void,
}

/// Why a commit must be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    AliasTaken,
    TokenConflict,
}

/// What a change to a merchant does besides.
struct Done {
    answer: Answer,
    /// How the entry that goes with it is kept, if it is.
    told: Option<DeliveryState>,
    /// Whether the merchant's users are forgotten.
    ends_users: bool,
}

impl Done {
    fn silent(answer: Answer) -> Self {
        Self {
            answer,
            told: None,
            ends_users: false,
        }
    }

    /// Nothing changes; what came with it is kept to be looked at.
    fn stale() -> Self {
        Self {
            told: Some(DeliveryState::Ignored),
            ..Self::silent(Answer::Stale)
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Model {
    pub(super) now: i64,
    pub(super) inbox: Inbox,
    pub(super) merchants: Merchants,
    pub(super) kept: Kept,
    /// The last authorisation of the commit under way, and whether it was applied.
    authorized: Option<(Authorization, bool)>,
}

impl Model {
    /// An empty store.
    pub(super) fn at(now: i64) -> Self {
        Self {
            now,
            ..Self::default()
        }
    }

    /// All of it or nothing.
    pub(super) fn commit(&mut self, changes: &[Change]) -> Result<Vec<Answer>, Refused> {
        let known: Vec<_> = changes.iter().map(|change| self.known(change)).collect();
        if known.iter().any(Option::is_some) {
            let answers = known.into_iter();
            return Ok(answers.map(|known| known.unwrap_or(Answer::Void)).collect());
        }
        let mut changed = self.clone();
        changed.authorized = None;
        let mut answers = Vec::new();
        for change in changes {
            let answer = changed.apply(change, answers.last())?;
            if let Change::Authorize { authorization, .. } = change {
                changed.authorized = Some((
                    Authorization::clone(authorization),
                    answer == Answer::Applied,
                ));
            }
            answers.push(answer);
        }
        *self = changed;
        Ok(answers)
    }

    fn known(&self, change: &Change) -> Option<Answer> {
        match change {
            Change::Accompany(entry) | Change::Receive(entry) => self.inbox.known(entry),
            Change::Authorize { entry, .. }
            | Change::Doubt { entry, .. }
            | Change::Revoke { entry, .. } => {
                entry.as_ref().and_then(|entry| self.inbox.known(entry))
            }
            Change::OfAuthorization { changes, .. } => {
                changes.iter().find_map(|change| self.known(change))
            }
            Change::Remember { key, .. } => {
                let kept = self.kept.remembered(key, self.now);
                kept.map(Answer::Remembered)
            }
            _ => None,
        }
    }

    fn apply(&mut self, change: &Change, before: Option<&Answer>) -> Result<Answer, Refused> {
        let now = self.now;
        Ok(match change {
            Change::Accompany(entry) => {
                let is_stale = before == Some(&Answer::Stale);
                let state = [DeliveryState::Pending, DeliveryState::Ignored][usize::from(is_stale)];
                let since = entry.received_at.max(now);
                self.inbox.put(entry, state, since);
                Answer::Applied
            }
            Change::Authorize {
                authorization,
                entry,
            } => {
                let done = self
                    .merchants
                    .authorize(now, authorization, entry.is_some())?;
                self.finish(authorization.auth_app_id.as_str(), done, entry.as_deref())
            }
            Change::Claim { id, lease } => self.inbox.claim(*id, *lease),
            Change::Doubt { refusal, entry } => {
                let done = self.merchants.doubt(now, refusal);
                self.finish(refusal.auth_app_id.as_str(), done, entry.as_deref())
            }
            Change::Extend { id, now, until } => self.inbox.extend(*id, *now, *until),
            Change::FetchedKey {
                auth_app_id,
                encrypt_key,
                ..
            } => self
                .merchants
                .fetched_key(now, auth_app_id.as_str(), encrypt_key.expose()),
            Change::FillPid {
                auth_app_id, pid, ..
            } => self
                .merchants
                .fill_pid(now, auth_app_id.as_str(), pid.as_str()),
            Change::ForgetUser {
                key,
                only,
                obtained_until,
            } => self.kept.forget_user(key, only.as_ref(), *obtained_until),
            Change::OfAuthorization { fate, changes } => {
                let counts = self.authorized.as_ref().is_some_and(|(given, is_applied)| {
                    *is_applied || (*fate == Fate::InForce && self.merchants.has(given))
                });
                let mut told = Answer::Stale;
                for change in changes.iter().filter(|_| counts) {
                    let kind = crate::changes::kind(change);
                    if ["Doubt", "FetchedKey", "Revoke"].contains(&kind)
                        && self.apply(change, None)? == Answer::Applied
                    {
                        told = Answer::Applied;
                    }
                }
                told
            }
            Change::KeepCertificate(certificate) => self.kept.keep_certificate(certificate),
            Change::KeepUserToken { token, replaces } => {
                self.kept.keep_user(token, replaces.as_ref())
            }
            Change::KeepVariant { of, variant } => self.inbox.keep_variant(*of, variant),
            Change::NameMerchant {
                auth_app_id, alias, ..
            } => {
                let alias = alias.as_ref().map(|alias| alias.as_str());
                return self.merchants.name(now, auth_app_id.as_str(), alias);
            }
            Change::Park { id, until } => self.inbox.put_off(*id, *until, true),
            Change::Postpone { id, until } => self.inbox.put_off(*id, *until, false),
            Change::PutApp(app) => self.kept.put_app(app),
            Change::Receive(entry) => match self.inbox.known(entry) {
                Some(known) => known,
                None => {
                    self.put(entry, DeliveryState::Pending);
                    Answer::Applied
                }
            },
            Change::RecordCalls { records, limit } => self.kept.record_calls(records, *limit),
            Change::Refuse(refused) => self.kept.refuse(refused),
            Change::Rejudge {
                id,
                refusal,
                reason,
            } => self.kept.rejudge(*id, *refusal, reason),
            Change::Release(id) => self.kept.release(*id),
            Change::ReleaseContent(content) => self.kept.release_content(content),
            Change::Remember {
                key,
                value,
                expires_at,
            } => self.kept.remember(now, key, (value.expose(), *expires_at)),
            Change::RemoveApp(app_id) => self.kept.remove_app(now, app_id),
            Change::RemoveMerchant(_, merchant) => {
                let done = self.merchants.remove(merchant.as_str());
                self.finish(merchant.as_str(), done, None)
            }
            Change::Replay { id, now } => self.inbox.replay(*id, *now),
            Change::Revoke { revocation, entry } => {
                let done = self.merchants.revoke(now, revocation);
                self.finish(revocation.auth_app_id.as_str(), done, entry.as_deref())
            }
            Change::Settle {
                id,
                attempt,
                owed_since,
                settlement,
            } => self.inbox.settle(*id, attempt, *owed_since, *settlement),
            Change::Trust {
                auth_app_id,
                app_auth_token,
                ..
            } => self
                .merchants
                .trust(now, auth_app_id.as_str(), app_auth_token.expose()),
            Change::Unremember(key) => self.kept.unremember(key),
            Change::Worked {
                auth_app_id,
                app_auth_token,
                ..
            } => self
                .merchants
                .worked(now, auth_app_id.as_str(), app_auth_token.expose()),
        })
    }

    fn finish(&mut self, merchant: &str, done: Done, entry: Option<&InboxEntry>) -> Answer {
        if let (Some(entry), Some(state)) = (entry, done.told) {
            self.put(entry, state);
        }
        if done.ends_users {
            self.kept.forget_users_of(self.now, Some(merchant));
        }
        done.answer
    }

    /// What was refused until now is owed from now on.
    fn put(&mut self, entry: &InboxEntry, state: DeliveryState) {
        let since = match self.kept.refused.contains_key(&entry.id) {
            true => entry.received_at.max(self.now),
            false => entry.received_at,
        };
        self.inbox.put(entry, state, since);
    }

    /// Forgets what is old.
    pub(super) fn prune(&mut self, retain: i64) -> Pruned {
        let now = self.now;
        let (entries, notify_ids) = self.inbox.prune(now, retain);
        let kept = self.kept.prune(now);
        Pruned {
            entries,
            notify_ids,
            memos: kept.memos + self.merchants.prune(now),
            ..kept
        }
    }
}

/// How many are gone.
fn gone(before: usize, after: usize) -> u64 {
    (before - after) as u64
}
