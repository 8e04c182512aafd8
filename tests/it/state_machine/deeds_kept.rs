//! Steps of what is kept for a while: memos, what was refused, calls, users, apps.

use alipay_sidecar::model::call::{CallId, CallOutcome, CallRecord, KeptReply};
use alipay_sidecar::model::certificate::KeptCertificate;
use alipay_sidecar::model::id::{AppId, EventId};
use alipay_sidecar::model::notification::{Body, InboxEntry};
use alipay_sidecar::model::refused::{RefusalKind, RefusedNotification, Variant};
use alipay_sidecar::model::user_token::{UserKey, UserName, UserToken};
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::store::{Change, MemoKey};
use bytes::Bytes;

use super::Pair;
use super::deeds::token_text;
use super::model::CALL_ROOM;
use super::steps::{NAMES, Step, User};
use crate::store::{app, entry, merchant_app, secret, whole_app};
use crate::store_quarantine::refused;

/// The reply of every call: most of the room that a record is given.
const REPLY: usize = 2000;

impl Pair {
    pub(super) fn kept(&mut self, step: &Step) -> Change {
        match step {
            Step::ForgetUser { .. } | Step::KeepUser { .. } => self.user(step),
            Step::KeepCertificate { app, sn } => {
                Change::KeepCertificate(Box::new(KeptCertificate {
                    app_id: app_id(*app),
                    sn: format!("sn{sn}"),
                    pem: format!("as of {}", self.model.now),
                }))
            }
            Step::KeepVariant { which, content } => Change::KeepVariant {
                of: self.any(*which),
                variant: Box::new(self.variant(*content)),
            },
            Step::PutApp(n) => {
                let mut app = whole_app(app_id(*n));
                app.private_key = secret(&format!("as of {}", self.model.now)).into();
                Change::PutApp(Box::new(app))
            }
            Step::RecordCalls { calls, room } => Change::RecordCalls {
                records: calls.iter().map(|call| self.call(*call)).collect(),
                limit: room * CALL_ROOM,
            },
            Step::Refuse {
                content,
                kind,
                again,
            } => Change::Refuse(Box::new(self.refused(*content, *kind, *again))),
            Step::Rejudge { which, kind } => Change::Rejudge {
                id: self.any_refused(*which),
                refusal: refusal_kind(*kind),
                reason: format!("as of {}", self.model.now),
            },
            Step::Release(which) => Change::Release(self.any_refused(*which)),
            Step::ReleaseContent(which) => Change::ReleaseContent(self.any_content(*which)),
            Step::Remember { key, value, by } => Change::Remember {
                key: memo(*key),
                value: Secret::new(vec![*value]),
                expires_at: self.model.now + by,
            },
            Step::RemoveApp(n) => Change::RemoveApp(app_id(*n)),
            Step::Unremember(key) => Change::Unremember(memo(*key)),
            other => unreachable!("{other:?}"),
        }
    }

    /// What a mended key makes of a refused notification.
    pub(super) fn accept(&mut self, which: usize) -> Vec<Change> {
        let id = self.any_refused(which);
        let refused = self.model.kept.refused.get(&id);
        let received_at = refused.map_or(self.model.now, |refused| refused.received_at);
        let taken = InboxEntry {
            id,
            ..entry(received_at, None)
        };
        let receive = Change::Receive(Box::new(taken));
        vec![receive, Change::Release(id)]
    }

    /// One of those refused; a new id where there is none.
    fn any_refused(&mut self, which: usize) -> EventId {
        let refused: Vec<_> = self.model.kept.refused.keys().copied().collect();
        match refused.get(which % refused.len().max(1)) {
            Some(id) => *id,
            None => self.ids.next(self.model.now),
        }
    }

    /// The content of one of those refused; another where there is none.
    fn any_content(&self, which: usize) -> [u8; 32] {
        let mut refused = self.model.kept.refused.values();
        let count = refused.len().max(1);
        let found = refused.nth(which % count);
        found.map_or([0; 32], |refused| refused.content)
    }

    fn refused(&mut self, content: u8, kind: u8, again: bool) -> RefusedNotification {
        let now = self.model.now;
        let mut known = self.model.kept.refused.values();
        if let Some(known) = known.find(|r| again && r.content == [content; 32]) {
            return known.clone();
        }
        RefusedNotification {
            id: self.ids.next(now),
            received_at: now,
            last_received_at: now,
            content: [content; 32],
            ..refused(u64::from(content), "192.0.2.1", refusal_kind(kind))
        }
    }

    fn variant(&self, content: u8) -> Variant {
        Variant {
            received_at: self.model.now,
            notify_path: "/orders".to_owned(),
            body: Body {
                content_type: "text/x-form".to_owned(),
                bytes: Bytes::from(vec![content; 9]),
            },
            differs: vec!["total_amount".to_owned()],
            content: [content; 32],
        }
    }

    fn call(&mut self, (name, old): (Option<u8>, bool)) -> CallRecord {
        let last = self.calls.last().copied().filter(|_| old);
        let id = last.unwrap_or_else(|| {
            let next = u32::try_from(self.calls.len() + 1).expect("few");
            CallId::from_bytes(u128::from(next).to_be_bytes())
        });
        if last.is_none() {
            self.calls.push(id);
        }
        CallRecord {
            request_id: id,
            caller: None,
            caller_request_id: name.map(call_name),
            method: "alipay.trade.pay".to_owned(),
            outcome: CallOutcome::Ok,
            error: None,
            completed_at: self.model.now,
            reply: Some(KeptReply {
                status: Some(200),
                body: vec![b'r'; REPLY].into(),
            }),
        }
    }

    fn user(&mut self, step: &Step) -> Change {
        let now = self.model.now;
        match step {
            Step::ForgetUser { user, only, before } => {
                let key = self.known_user(*user);
                Change::ForgetUser {
                    only: only.map(|only| self.user_token(&key, only)),
                    key,
                    obtained_until: before.map(|before| now - before),
                }
            }
            Step::KeepUser {
                user,
                other_name,
                token,
                replaces,
                by,
            } => {
                let key = user_key(*user);
                let other = other_name.map(|name| {
                    let is_open = !user.is_open;
                    user_key(User {
                        is_open,
                        name,
                        ..*user
                    })
                    .name
                });
                let (user_id, open_id) = match user.is_open {
                    true => (other, Some(key.name.clone())),
                    false => (Some(key.name.clone()), other),
                };
                let token = UserToken {
                    app_id: app(),
                    auth_app_id: key.auth_app_id.clone(),
                    user_id,
                    open_id,
                    scope: None,
                    access_token: secret(&token_text(*token)),
                    refresh_token: None,
                    obtained_at: now,
                    expires_at: Some(now + by),
                    ends_at: None,
                    is_lost: false,
                };
                Change::KeepUserToken {
                    token: Box::new(token),
                    replaces: replaces.map(|only| self.user_token(&key, only)),
                }
            }
            other => unreachable!("{other:?}"),
        }
    }

    /// One who is known, mostly.
    fn known_user(&self, user: User) -> UserKey {
        let known = (0..NAMES).flat_map(|name| {
            [true, false].map(|is_open| {
                user_key(User {
                    is_open,
                    name,
                    ..user
                })
            })
        });
        let mut known = known.filter(|key| self.model.kept.user(key).is_some());
        known.next().unwrap_or_else(|| user_key(user))
    }

    /// This token, or the user's in force.
    fn user_token(&self, key: &UserKey, token: Option<u8>) -> Secret<String> {
        let in_force = self.model.kept.user(key).map(|known| known.access_token);
        let token = token.map(|n| secret(&token_text(n))).or(in_force);
        token.unwrap_or_else(|| secret("none"))
    }
}

fn refusal_kind(n: u8) -> RefusalKind {
    match n {
        0 => RefusalKind::Foreign,
        1 => RefusalKind::Malformed,
        2 => RefusalKind::NoNotification,
        3 => RefusalKind::Undecryptable,
        _ => RefusalKind::Forged,
    }
}

/// The first is the app that has merchants and users.
pub(super) fn app_id(n: u8) -> AppId {
    match n {
        0 => app(),
        n => AppId::new(&format!("20210000000000{:02}", 50 + n)).expect("an id"),
    }
}

pub(super) fn call_name(n: u8) -> String {
    format!("call{n}")
}

pub(super) fn user_key(user: User) -> UserKey {
    let kind = ["2088", "open"][usize::from(user.is_open)];
    UserKey {
        app_id: app(),
        auth_app_id: user.merchant.map(|n| merchant_app(u32::from(n))),
        name: UserName::new(&format!("{kind}{}", user.name)).expect("a name"),
    }
}

pub(super) fn memo(key: u8) -> MemoKey {
    MemoKey::new("test", &[&key.to_string()])
}
