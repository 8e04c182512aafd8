//! All that the store shows is what the model says.

use std::collections::HashSet;

use alipay_sidecar::model::call::CallKey;
use alipay_sidecar::model::delivery::{Delivery, DeliveryState};
use alipay_sidecar::model::merchant::{Merchant, MerchantStatus};
use alipay_sidecar::model::notification::InboxEntry;
use alipay_sidecar::model::user_token::UserToken;
use alipay_sidecar::store::{Backlog, Counts, Directory, Inbox, MerchantKey, Store};

use super::Pair;
use super::deeds::{alias_text, pid, token_text};
use super::deeds_kept::{call_name, memo, user_key};
use super::model::{Owed, Triple};
use super::steps::{ALIASES, MEMOS, NAMES, PIDS, TOKENS, USED, User};
use crate::store::{alias, secret};

const STATES: [DeliveryState; 4] = [
    DeliveryState::Dead,
    DeliveryState::Delivered,
    DeliveryState::Ignored,
    DeliveryState::Pending,
];

impl Pair {
    pub(super) async fn compare(&self) {
        self.compare_inbox().await;
        self.compare_queues().await;
        self.compare_merchants().await;
        self.compare_found().await;
        self.compare_kept().await;
        self.compare_users().await;
        self.compare_counts().await;
    }

    /// Every record opens, and every index is true to them.
    pub(super) async fn inspect(&self) {
        let found = self.store.inspect().await.expect("readable");
        assert!(found.is_clean(), "{found:?}");
    }

    async fn compare_inbox(&self) {
        let entries = &self.model.inbox.entries;
        let stored = self.listed(None).await;
        let expected: Vec<_> = entries.values().map(shown_owed).collect();
        let shown: Vec<_> = stored
            .iter()
            .map(|(e, d)| (shown_entry(e), d.clone()))
            .collect();
        assert_eq!(shown, expected);
        // One state after each step, in turn: each of them reads every entry again.
        let state = STATES[self.steps % STATES.len()];
        let of_state = entries.iter().filter(|(_, owed)| owed.state == state);
        let of_state: Vec<_> = of_state.map(|(id, _)| *id).collect();
        let listed = self.listed(Some(state)).await;
        let listed: Vec<_> = listed.iter().map(|(entry, _)| entry.id).collect();
        assert_eq!(listed, of_state, "{state:?}");
        for (id, owed) in entries.iter().filter(|(_, o)| !o.variants.is_empty()) {
            let mut stored = self.store.variants(*id).await.expect("readable");
            stored.sort_by_key(|variant| (variant.received_at, variant.content));
            let mut expected = owed.variants.clone();
            expected.sort_by_key(|variant| (variant.received_at, variant.content));
            assert_eq!(stored, expected);
        }
    }

    async fn listed(&self, state: Option<DeliveryState>) -> Vec<(InboxEntry, Delivery)> {
        let listed = self.store.entries(state, None, usize::MAX).await;
        listed.expect("readable")
    }

    async fn compare_queues(&self) {
        let (now, inbox) = (self.model.now, &self.model.inbox);
        for limit in [2, usize::MAX] {
            let due = self.store.due(now, limit, HashSet::new()).await;
            let due = due.expect("readable");
            let ids: Vec<_> = due.now.iter().map(|(entry, _)| entry.id).collect();
            assert_eq!(
                (ids, due.next_at),
                inbox.due(now, limit, &[]),
                "at most {limit}"
            );
            let due = self.store.claimable(now, limit, HashSet::new()).await;
            let due = due.expect("readable");
            let ids: Vec<_> = due.now.iter().map(|(entry, _)| entry.id).collect();
            let expected = inbox.claimable(now, limit);
            assert_eq!((ids, due.next_at), expected, "claimable, at most {limit}");
        }
        let lapsed = self.store.lapsed(now, usize::MAX).await;
        let lapsed = lapsed.expect("readable").into_iter().map(|d| d.id);
        let expected = inbox
            .leased()
            .into_iter()
            .filter(|(until, _)| *until <= now);
        let expected: Vec<_> = expected.map(|(_, id)| id).collect();
        assert_eq!(lapsed.collect::<Vec<_>>(), expected);
    }

    async fn compare_merchants(&self) {
        let merchants = self.store.merchants(None, usize::MAX).await;
        let merchants = merchants.expect("readable");
        let stored: Vec<_> = merchants
            .iter()
            .map(|merchant| (merchant.auth_app_id.to_string(), triple(merchant)))
            .collect();
        let expected: Vec<_> = self.model.merchants.all.clone().into_iter().collect();
        assert_eq!(stored, expected);
    }

    /// By tokens, names and PIDs.
    async fn compare_found(&self) {
        let merchants = &self.model.merchants;
        for token in (0..TOKENS).map(token_text) {
            let owner = merchants.owners.get(&token).cloned();
            let found = self.find(MerchantKey::Token(secret(&token))).await;
            assert_eq!(found, owner.into_iter().collect::<Vec<_>>(), "{token}");
        }
        for name in (0..ALIASES).map(alias_text) {
            let named = self.with(|triple| triple.alias.as_ref() == Some(&name));
            let found = self.find(MerchantKey::Alias(alias(&name))).await;
            assert_eq!(found, named, "{name}");
        }
        for pid in (0..PIDS).map(pid) {
            let of_pid = self.with(|triple| triple.pid.as_deref() == Some(pid.as_str()));
            let found = self.find(MerchantKey::Pid(pid.clone())).await;
            assert_eq!(found, of_pid, "{pid}");
        }
    }

    fn with(&self, fits: impl Fn(&Triple) -> bool) -> Vec<String> {
        let fitting = self.model.merchants.all.iter().filter(|(_, t)| fits(t));
        fitting.map(|(merchant, _)| merchant.clone()).collect()
    }

    async fn find(&self, key: MerchantKey) -> Vec<String> {
        let found = self.store.find(key).await.expect("readable");
        found.iter().map(|m| m.auth_app_id.to_string()).collect()
    }

    async fn compare_kept(&self) {
        let (now, kept) = (self.model.now, &self.model.kept);
        for key in (0..MEMOS).map(memo) {
            let recalled = self.store.recall(key, now).await.expect("readable");
            let value = recalled.map(|value| value.expose().clone());
            assert_eq!(value, kept.remembered(&key, now), "a memo");
        }
        let refused = self.store.refused(None, usize::MAX).await;
        let expected: Vec<_> = kept.refused.values().cloned().collect();
        assert_eq!(refused.expect("readable"), expected);
        let names = (0..NAMES).map(|n| CallKey::Named {
            caller: None,
            caller_request_id: call_name(n),
        });
        for key in self.calls.iter().copied().map(CallKey::Id).chain(names) {
            let found = self.store.call(key.clone(), now).await.expect("readable");
            assert_eq!(found, kept.call(&key, now), "{key:?}");
        }
        let apps = self.store.apps().await.expect("readable").into_iter();
        let apps: Vec<_> = apps.map(|app| (app.app_id, app.private_key)).collect();
        let expected = kept.apps.values().cloned();
        let expected: Vec<_> = expected.map(|app| (app.app_id, app.private_key)).collect();
        assert_eq!(apps, expected);
        let certificates = self.store.certificates().await.expect("readable");
        let expected: Vec<_> = kept.certificates.values().cloned().collect();
        assert_eq!(certificates, expected);
    }

    async fn compare_users(&self) {
        for merchant in (0..USED).map(Some).chain([None]) {
            for (is_open, name) in [false, true]
                .into_iter()
                .flat_map(|is_open| (0..NAMES).map(move |name| (is_open, name)))
            {
                let key = user_key(User {
                    merchant,
                    is_open,
                    name,
                });
                let stored = self.store.user(key.clone()).await.expect("readable");
                let expected = self.model.kept.user(&key);
                let (stored, expected) = (stored.map(shown_user), expected.map(shown_user));
                assert_eq!(stored, expected, "{key:?}");
            }
        }
    }

    async fn compare_counts(&self) {
        let mut pending = self.model.inbox.pending();
        let entries = self.model.inbox.entries.values();
        let dead = entries.filter(|owed| owed.state == DeliveryState::Dead);
        let of_status = |fits: fn(&MerchantStatus) -> bool| {
            self.with(|triple| fits(&triple.status)).len() as u64
        };
        let expected = Counts {
            damaged: 0,
            dead: dead.count() as u64,
            merchants_authorized: of_status(|s| *s == MerchantStatus::Authorized),
            merchants_revoked: of_status(|s| matches!(s, MerchantStatus::Revoked { .. })),
            merchants_suspect: of_status(|s| matches!(s, MerchantStatus::Suspect { .. })),
            pending: pending.clone().count() as u64,
            oldest_pending_at: pending.next().map(|(_, owed)| owed.entry.received_at),
            refused: self.model.kept.refused.len() as u64,
        };
        assert_eq!(self.store.counts().await.expect("readable"), expected);
        let backlog = self.store.backlog().await.expect("known");
        assert_eq!(backlog, Backlog::from(expected));
    }
}

/// What must not change of an entry.
type Shown = (Option<String>, i64, Option<Vec<u8>>);

fn shown_entry(entry: &InboxEntry) -> Shown {
    let body = entry.body.as_ref().map(|body| body.bytes.to_vec());
    (entry.notify_id.clone(), entry.received_at, body)
}

fn shown_owed(owed: &Owed) -> (Shown, Delivery) {
    let delivery = Delivery {
        id: owed.entry.id,
        state: owed.state,
        attempts: owed.attempts,
        owed_since: owed.owed_since,
        next_attempt_at: owed.next_at,
        parked: owed.parked && owed.is_pending(),
        history: owed.history.clone(),
        lease: owed.lease,
    };
    (shown_entry(&owed.entry), delivery)
}

fn shown_user(token: UserToken) -> (String, String) {
    (format!("{token:?}"), token.access_token.expose().clone())
}

fn triple(merchant: &Merchant) -> Triple {
    let previous = merchant.previous_token.as_ref();
    let key = merchant.encrypt_key.as_ref();
    Triple {
        token: merchant.token.app_auth_token.expose().clone(),
        previous: previous.map(|previous| previous.app_auth_token.expose().clone()),
        auth_time: merchant.auth_time,
        estimated: merchant.auth_time_estimated,
        status: merchant.status,
        doubt: merchant.doubt,
        refresh_refused: merchant.refresh_refused,
        alias: merchant.alias.as_ref().map(ToString::to_string),
        pid: merchant.pid.as_ref().map(ToString::to_string),
        key: key.map(|key| (key.expose().clone(), merchant.encrypt_key_fetched)),
        source: merchant.source,
        updated_at: merchant.updated_at,
    }
}
