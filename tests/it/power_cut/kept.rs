//! The rest of the workload: what was refused, second bodies, calls, users, apps.

use alipay_sidecar::model::call::{CallId, CallOutcome, CallRecord, KeptReply};
use alipay_sidecar::model::certificate::KeptCertificate;
use alipay_sidecar::model::id::{AppId, EventId};
use alipay_sidecar::model::notification::{Body, InboxEntry};
use alipay_sidecar::model::refused::{RefusalKind, RefusedNotification, Variant};
use alipay_sidecar::model::user_token::UserToken;
use alipay_sidecar::store::Change;
use bytes::Bytes;

use super::workload::{ROUND_MS, Writer};
use crate::store::{START, keep, merchant_app, secret, user, user_token, whole_app};
use crate::store_quarantine::refused;

/// How many apps, users, and names of calls there are.
pub(super) const SOME: u32 = 3;
/// How many bytes the records of calls may take: some ten of them.
const CALLS_LIMIT: u64 = 10_000;

impl Writer {
    /// What is kept for a while.
    pub(super) fn keep(&mut self, round: u32) {
        self.quarantine(round);
        self.second_body(round);
        self.calls(round);
        self.users(round);
        self.apps(round);
    }

    fn quarantine(&mut self, round: u32) {
        // Of five contents, so that one comes again.
        let content = round % 5;
        for (n, kind) in [RefusalKind::Forged, RefusalKind::Foreign]
            .into_iter()
            .enumerate()
        {
            self.now += 1;
            let content = u8::try_from(content).expect("few") + 100 * u8::try_from(n).expect("few");
            let refused = RefusedNotification {
                id: EventId::new(self.now),
                received_at: self.now,
                last_received_at: self.now,
                content: [content; 32],
                ..refused(u64::from(round), "192.0.2.1", kind)
            };
            if !self.refused.iter().any(|(_, known)| *known == content) {
                self.refused.push((refused.id, content));
            }
            self.commit(vec![Change::Refuse(Box::new(refused))]);
        }
        let (id, _) = self.refused[self.random.below(self.refused.len())];
        self.commit(vec![Change::Rejudge {
            id,
            refusal: RefusalKind::Undecryptable,
            reason: format!("as of round {round}"),
        }]);
        let (id, content) = self.refused.remove(0);
        if round.is_multiple_of(2) {
            // The key was mended: it is owed from now on, in the commit in which it leaves.
            let entry = InboxEntry {
                id,
                ..self.entry(&format!("notify-{round}-released"))
            };
            let receive = Change::Receive(Box::new(entry));
            self.commit(vec![receive, Change::Release(id)]);
        } else {
            self.commit(vec![Change::ReleaseContent([content; 32])]);
        }
    }

    fn second_body(&mut self, round: u32) {
        let content = u8::try_from(round % 250).expect("below 250");
        let variant = Box::new(Variant {
            received_at: self.now,
            notify_path: "/orders".to_owned(),
            body: Body {
                content_type: "application/x-www-form-urlencoded".to_owned(),
                bytes: Bytes::from(vec![content; 400]),
            },
            differs: vec!["total_amount".to_owned()],
            content: [content; 32],
        });
        let of = self.any();
        self.commit(vec![Change::KeepVariant { of, variant }]);
    }

    fn calls(&mut self, round: u32) {
        let records = (0..3).map(|n| CallRecord {
            request_id: call_id(round, n),
            caller: Some("shop".to_owned()),
            caller_request_id: (n < 2).then(|| call_name((round + n) % SOME)),
            method: "alipay.trade.pay".to_owned(),
            outcome: [CallOutcome::Ok, CallOutcome::Unknown][n as usize % 2],
            error: None,
            completed_at: self.now + i64::from(n),
            reply: (n != 1).then(|| KeptReply {
                status: None,
                body: Bytes::from(vec![b'r'; 300 * (1 + n as usize)]),
            }),
        });
        let records = records.collect();
        let limit = CALLS_LIMIT;
        self.commit(vec![Change::RecordCalls { records, limit }]);
    }

    /// Users who logged in at [`START`] are forgotten with their merchant, at the store's own time.
    fn users(&mut self, round: u32) {
        let (one, other) = (user_id(round % SOME), open_id(round % SOME));
        let names = [
            Some(one.as_str()),
            round.is_multiple_of(2).then_some(other.as_str()),
        ];
        let token = UserToken {
            auth_app_id: (round % 4 != 3).then(|| merchant_app(1)),
            obtained_at: [START, self.now][round as usize % 2],
            ends_at: Some(self.now + 2 * ROUND_MS),
            expires_at: Some(self.now + ROUND_MS),
            ..user_token(&format!("user-{round}"), names)
        };
        self.commit(vec![keep(token.clone(), None)]);
        let renewed = UserToken {
            access_token: secret(&format!("user-{round}-again")),
            ..token.clone()
        };
        self.commit(vec![keep(renewed, Some(&format!("user-{round}")))]);
        if round % 3 == 2 {
            let key = token.key().expect("a name");
            self.commit(vec![Change::ForgetUser {
                key,
                only: None,
                obtained_until: None,
            }]);
        }
    }

    fn apps(&mut self, round: u32) {
        let app_id = app_id(round % SOME);
        self.commit(vec![Change::PutApp(Box::new(whole_app(app_id.clone())))]);
        let certificate = KeptCertificate {
            app_id,
            sn: format!("sn{round}"),
            pem: format!("-----BEGIN CERTIFICATE-----\n{round}\n"),
        };
        self.commit(vec![Change::KeepCertificate(Box::new(certificate))]);
        if round % 3 == 1 {
            self.commit(vec![Change::RemoveApp(self::app_id((round - 1) % SOME))]);
        }
    }
}

/// An app of the store; the first is the one whose users and merchants there are.
pub(super) fn app_id(n: u32) -> AppId {
    AppId::new(&format!("20210000000000{:02}", n + 1)).expect("an id")
}

pub(super) fn call_id(round: u32, n: u32) -> CallId {
    CallId::from_bytes(u128::from(round * SOME + n + 1).to_be_bytes())
}

pub(super) fn call_name(n: u32) -> String {
    format!("call-{n}")
}

pub(super) fn user_id(n: u32) -> String {
    format!("208810214622513{n}")
}

pub(super) fn open_id(n: u32) -> String {
    format!("open-{n}")
}

/// Every user there may be, of the merchant and of the app itself.
pub(super) fn users() -> Vec<alipay_sidecar::model::user_token::UserKey> {
    let names = (0..SOME).flat_map(|n| [user_id(n), open_id(n)]);
    let of_merchant = names.map(|name| user(&name));
    let both = of_merchant.flat_map(|key| {
        let own = alipay_sidecar::model::user_token::UserKey {
            auth_app_id: None,
            ..key.clone()
        };
        [key, own]
    });
    both.collect()
}
