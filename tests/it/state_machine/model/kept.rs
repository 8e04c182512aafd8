//! What is kept for a while: memos, what was refused, calls, users, apps.

use std::collections::{BTreeMap, HashMap};

use alipay_sidecar::model::app::App;
use alipay_sidecar::model::call::{CallKey, CallOutcome, CallRecord, KEPT_MS};
use alipay_sidecar::model::certificate::KeptCertificate;
use alipay_sidecar::model::id::{AppId, EventId};
use alipay_sidecar::model::refused::{RefusalKind, RefusedNotification};
use alipay_sidecar::model::user_token::{UserKey, UserToken};
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::store::{MemoKey, Pruned};

use super::{Answer, DAY_MS, gone};

/// How much room one record of a call is given; it must take most of it.
pub(in super::super) const CALL_ROOM: u64 = 2400;

/// Whose users, by app: `None` are all of it, `Some(None)` its own.
type Users = Option<Option<String>>;

#[derive(Debug, Clone, Default)]
pub(in super::super) struct Kept {
    memos: HashMap<MemoKey, (Vec<u8>, i64)>,
    pub(in super::super) refused: BTreeMap<EventId, RefusedNotification>,
    /// By when they ended, and id.
    calls: BTreeMap<(i64, [u8; 16]), CallRecord>,
    /// The newest call of each name.
    named: BTreeMap<String, [u8; 16]>,
    users: HashMap<UserKey, UserToken>,
    forgotten: BTreeMap<(String, Users), i64>,
    pub(in super::super) apps: BTreeMap<String, App>,
    pub(in super::super) certificates: BTreeMap<(String, String), KeptCertificate>,
}

impl Kept {
    pub(in super::super) fn remembered(&self, key: &MemoKey, now: i64) -> Option<Vec<u8>> {
        let (value, expires_at) = self.memos.get(key)?;
        (*expires_at > now).then(|| value.clone())
    }

    pub(super) fn remember(
        &mut self,
        now: i64,
        key: &MemoKey,
        (value, expires_at): (&[u8], i64),
    ) -> Answer {
        if let Some(first) = self.remembered(key, now) {
            return Answer::Remembered(first);
        }
        self.memos.insert(*key, (value.to_vec(), expires_at));
        Answer::Applied
    }

    pub(super) fn unremember(&mut self, key: &MemoKey) -> Answer {
        there(self.memos.remove(key))
    }

    pub(super) fn refuse(&mut self, refused: &RefusedNotification) -> Answer {
        let mut all = self.refused.values();
        let first = all.find(|known| known.content == refused.content).cloned();
        let kept = match first {
            Some(first) if first.id != refused.id => RefusedNotification {
                id: first.id,
                received_at: first.received_at,
                times: first.times + refused.times,
                ..refused.clone()
            },
            _ => refused.clone(),
        };
        self.refused.insert(kept.id, kept);
        Answer::Applied
    }

    pub(super) fn rejudge(&mut self, id: EventId, refusal: RefusalKind, reason: &str) -> Answer {
        let Some(refused) = self.refused.get_mut(&id) else {
            return Answer::Missing;
        };
        refused.refusal = refusal;
        refused.reason = reason.to_owned();
        Answer::Applied
    }

    pub(super) fn release(&mut self, id: EventId) -> Answer {
        there(self.refused.remove(&id))
    }

    pub(super) fn release_content(&mut self, content: &[u8; 32]) -> Answer {
        let before = self.refused.len();
        self.refused
            .retain(|_, refused| refused.content != *content);
        there((self.refused.len() < before).then_some(()))
    }

    pub(super) fn record_calls(&mut self, records: &[CallRecord], limit: u64) -> Answer {
        for record in records {
            let id = record.request_id.to_bytes();
            if self.calls.keys().any(|(_, known)| *known == id) {
                continue;
            }
            if let Some(name) = &record.caller_request_id
                && self.counts_more(record, name)
            {
                self.named.insert(name.clone(), id);
            }
            self.calls.insert((record.completed_at, id), record.clone());
        }
        let room = usize::try_from(limit / CALL_ROOM).expect("few");
        let mut displaced = 0;
        while self.calls.len() > room {
            let oldest = self.calls.keys().next().copied();
            self.forget_call(&oldest.expect("more than none"));
            displaced += 1;
        }
        match displaced {
            0 => Answer::Applied,
            count => Answer::Displaced(count),
        }
    }

    /// The newest call of a name counts, but none that never left where an earlier one did.
    fn counts_more(&self, record: &CallRecord, name: &str) -> bool {
        let rank = |record: &CallRecord| {
            let may_have_left = record.outcome != CallOutcome::NotSent;
            (may_have_left, record.request_id.to_bytes())
        };
        let known = self.named.get(name);
        let known =
            known.and_then(|id| self.calls.values().find(|r| r.request_id.to_bytes() == *id));
        known.is_none_or(|known| rank(record) > rank(known))
    }

    fn forget_call(&mut self, key: &(i64, [u8; 16])) {
        self.calls.remove(key);
        self.named.retain(|_, id| *id != key.1);
    }

    pub(in super::super) fn call(&self, key: &CallKey, now: i64) -> Option<CallRecord> {
        let id = match key {
            CallKey::Id(id) => id.to_bytes(),
            CallKey::Named {
                caller_request_id, ..
            } => *self.named.get(caller_request_id)?,
        };
        let (_, record) = self.calls.iter().find(|((_, known), _)| *known == id)?;
        (now - record.completed_at < KEPT_MS).then(|| record.clone())
    }

    /// The user, unless forgotten since.
    pub(in super::super) fn user(&self, key: &UserKey) -> Option<UserToken> {
        let app = key.app_id.to_string();
        let merchant = key.auth_app_id.as_ref().map(ToString::to_string);
        let ends = [(app.clone(), None), (app, Some(merchant))];
        let forgotten = ends.iter().filter_map(|end| self.forgotten.get(end)).max();
        let token = self.users.get(key)?;
        forgotten
            .is_none_or(|at| token.obtained_at > *at)
            .then(|| token.clone())
    }

    pub(super) fn keep_user(
        &mut self,
        token: &UserToken,
        replaces: Option<&Secret<String>>,
    ) -> Answer {
        let known: Vec<_> = keys(token)
            .iter()
            .filter_map(|key| self.user(key))
            .collect();
        let in_force = |known: &UserToken| replaces == Some(&known.access_token);
        if replaces.is_some() && !known.iter().any(in_force) {
            return Answer::Stale;
        }
        let mut token = token.clone();
        for known in &known {
            token.user_id = token.user_id.or_else(|| known.user_id.clone());
            token.open_id = token.open_id.or_else(|| known.open_id.clone());
        }
        for key in keys(&token) {
            self.users.insert(key, token.clone());
        }
        Answer::Applied
    }

    pub(super) fn forget_user(
        &mut self,
        key: &UserKey,
        only: Option<&Secret<String>>,
        obtained_until: Option<i64>,
    ) -> Answer {
        let Some(known) = self.user(key) else {
            return Answer::Missing;
        };
        if only.is_some_and(|only| *only != known.access_token) {
            return Answer::Stale;
        }
        if obtained_until.is_some_and(|until| known.obtained_at > until) {
            return Answer::Stale;
        }
        for key in keys(&known) {
            self.users.remove(&key);
        }
        Answer::Applied
    }

    /// Forgets the users of a merchant of the one app that has merchants.
    pub(super) fn forget_users_of(&mut self, now: i64, merchant: Option<&str>) {
        let app = crate::store::app().to_string();
        let merchant = merchant.map(str::to_owned);
        self.forget_until((app, Some(merchant)), now);
    }

    fn forget_until(&mut self, owner: (String, Users), now: i64) {
        let until = self.forgotten.entry(owner).or_insert(now);
        *until = now.max(*until);
    }

    pub(super) fn put_app(&mut self, app: &App) -> Answer {
        self.apps.insert(app.app_id.to_string(), app.clone());
        Answer::Applied
    }

    pub(super) fn remove_app(&mut self, now: i64, app_id: &AppId) -> Answer {
        if self.apps.remove(app_id.as_str()).is_none() {
            return Answer::Missing;
        }
        let of_app = |app: &str| app == app_id.as_str();
        self.certificates.retain(|(app, _), _| !of_app(app));
        self.forget_until((app_id.to_string(), None), now);
        Answer::Applied
    }

    pub(super) fn keep_certificate(&mut self, kept: &KeptCertificate) -> Answer {
        let key = (kept.app_id.to_string(), kept.sn.clone());
        self.certificates.insert(key, kept.clone());
        Answer::Applied
    }

    /// Forgets what is old.
    pub(super) fn prune(&mut self, now: i64) -> Pruned {
        let (memos, refused) = (self.memos.len(), self.refused.len());
        let (calls, users) = (self.calls.len(), self.users.len());
        self.memos.retain(|_, (_, expires_at)| *expires_at >= now);
        let week = now - 7 * DAY_MS;
        self.refused
            .retain(|_, refused| refused.received_at >= week);
        self.users.retain(|_, token| token.useless_at() >= now);
        let old: Vec<_> = self.calls.keys().copied().collect();
        for key in old.iter().filter(|(at, _)| *at < now - KEPT_MS) {
            self.forget_call(key);
        }
        Pruned {
            memos: gone(memos, self.memos.len()),
            refused: gone(refused, self.refused.len()),
            users: gone(users, self.users.len()),
            calls: gone(calls, self.calls.len()),
            ..Pruned::default()
        }
    }
}

fn there<T>(found: Option<T>) -> Answer {
    found.map_or(Answer::Missing, |_| Answer::Applied)
}

/// A user's keys, one for each name.
fn keys(token: &UserToken) -> Vec<UserKey> {
    let names = token.user_id.iter().chain(&token.open_id);
    let key = |name: &alipay_sidecar::model::user_token::UserName| UserKey {
        app_id: token.app_id.clone(),
        auth_app_id: token.auth_app_id.clone(),
        name: name.clone(),
    };
    names.map(key).collect()
}
