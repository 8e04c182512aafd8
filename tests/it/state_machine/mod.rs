//! Inbox, deliveries and triples against a model, by random histories.
//!
//! The same commits, clock jumps and prunings are given to the real store and to a [`Model`] of a
//! few maps; every answer, and after it all that either of them shows, must be the same.
//!
//! `STATE_SEQUENCES=20000` (with `--release`) runs the long form.

use std::collections::HashSet;
use std::sync::Arc;

use alipay_sidecar::clock::ManualClock;
use alipay_sidecar::model::authorization::{Rank, Revocation};
use alipay_sidecar::model::delivery::{
    Attempt, AttemptError, Delivery, DeliveryState, Settlement, Via,
};
use alipay_sidecar::model::id::{Alias, EventId, EventIds};
use alipay_sidecar::model::merchant::{Merchant, MerchantStatus};
use alipay_sidecar::model::notification::InboxEntry;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::store::embedded::{EmbeddedStore, OpenOptions};
use alipay_sidecar::store::error::StoreError;
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar::store::{Change, Directory, Effect, Inbox, MemoKey, MerchantKey, Store};
use proptest::test_runner::{Config, TestRunner};
use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use crate::store::{START, app, authorization, authorize, entry, merchant_app};

mod model;
mod steps;

use model::{Answer, DAY_MS, Deed, Model, Received, Refused, Triple};
use steps::{ALIASES, MEMOS, MERCHANTS, Op, Step, TOKENS, history};

/// How many histories the short form tries.
const SHORT: u32 = 60;

/// An empty store's file, from which every history begins.
struct Fresh {
    key: StoreKey,
    bytes: Vec<u8>,
}

impl Fresh {
    fn new() -> Self {
        let (dir, key) = (
            tempfile::tempdir().expect("a directory"),
            StoreKey::generate(),
        );
        let path = dir.path().join("store.redb");
        EmbeddedStore::create(&path, &key).expect("created");
        let bytes = std::fs::read(path).expect("readable");
        Self { key, bytes }
    }

    fn open(&self, clock: &ManualClock) -> EmbeddedStore {
        let options = OpenOptions {
            path: "memory".into(),
            key: self.key.clone(),
            cache_bytes: 1 << 20,
            clock: Arc::new(clock.clone()),
        };
        let bytes = self.bytes.clone();
        let disk = move || {
            let disk = InMemoryBackend::new();
            disk.set_len(bytes.len() as u64)?;
            disk.write(0, &bytes)?;
            Ok(disk)
        };
        EmbeddedStore::open_on(options, disk).expect("opened")
    }
}

/// The store and the model, side by side.
struct Pair {
    store: EmbeddedStore,
    model: Model,
    clock: ManualClock,
    ids: EventIds,
    received: Vec<Received>,
    last: Vec<Deed>,
}

impl Pair {
    fn new(fresh: &Fresh) -> Self {
        let clock = ManualClock::new(START);
        Self {
            store: fresh.open(&clock),
            model: Model::at(START),
            clock,
            ids: EventIds::new(),
            received: Vec::new(),
            last: Vec::new(),
        }
    }

    async fn perform(&mut self, op: &Op) {
        match op {
            Op::Commit(steps) => {
                let deeds: Vec<_> = steps.iter().map(|step| self.deed(step)).collect();
                self.commit(&deeds).await;
                self.last = deeds;
            }
            Op::Jump(by) => {
                self.clock.advance_ms(*by);
                self.model.now += by;
            }
            Op::Prune(retain) => {
                let pruned = self.store.prune(self.model.now, *retain).await;
                let pruned = pruned.expect("pruned");
                let (entries, memos, notify_ids) = self.model.prune(*retain);
                assert_eq!(
                    (pruned.entries, pruned.memos, pruned.notify_ids),
                    (entries as u64, memos as u64, notify_ids as u64)
                );
            }
            Op::Repeat => self.commit(&self.last.clone()).await,
        }
    }

    async fn commit(&mut self, deeds: &[Deed]) {
        let changes = deeds.iter().map(change).collect();
        let answers = match self.store.commit(changes).await {
            Ok(effects) => Ok(effects.iter().map(answer).collect()),
            Err(StoreError::AliasTaken { .. }) => Err(Refused::AliasTaken),
            Err(StoreError::TokenConflict { .. }) => Err(Refused::TokenConflict),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(answers, self.model.commit(deeds), "{deeds:?}");
    }

    fn receive(&mut self, notify: Option<u8>, order: Option<(u8, u8)>) -> Received {
        let received = Received {
            id: self.ids.next(self.model.now),
            notify,
            order,
            at: self.model.now,
        };
        let last = self.received.last();
        assert!(last.is_none_or(|last| last.id < received.id), "ids go up");
        self.received.push(received.clone());
        received
    }

    /// One of the entries there were; a new id where there was none.
    fn any(&self, which: usize) -> EventId {
        let count = self.received.len().max(1);
        let found = self.received.get(which % count);
        found.map_or_else(|| EventId::new(START), |received| received.id)
    }

    fn deed(&mut self, step: &Step) -> Deed {
        let now = self.model.now;
        match step {
            Step::Again(which) => match self.received.get(which % self.received.len().max(1)) {
                Some(known) => Deed::Receive(known.clone()),
                None => Deed::Receive(self.receive(None, None)),
            },
            Step::Authorize {
                merchant,
                token,
                at,
                alias,
                told,
            } => Deed::Authorize {
                merchant: *merchant,
                token: *token,
                at: at.map(|by| now + by),
                alias: *alias,
                entry: told.map(|notify| self.receive(notify, None)),
            },
            Step::Name { merchant, alias } => Deed::Name {
                merchant: *merchant,
                alias: *alias,
            },
            Step::Postpone { which, by } => Deed::Postpone {
                id: self.any(*which),
                until: now + by,
            },
            Step::Receive { notify, order } => Deed::Receive(self.receive(*notify, *order)),
            Step::Remember { key, value, by } => Deed::Remember {
                key: *key,
                value: *value,
                expires_at: now + by,
            },
            Step::Remove { merchant } => Deed::Remove {
                merchant: *merchant,
            },
            Step::Replay { which } => Deed::Replay {
                id: self.any(*which),
                now,
            },
            Step::Revoke { merchant, at, told } => Deed::Revoke {
                merchant: *merchant,
                at: at.map(|by| now + by),
                entry: told.map(|notify| self.receive(notify, None)),
            },
            Step::Settle { which, end } => Deed::Settle {
                id: self.any(*which),
                attempt: attempt(now),
                settlement: match end {
                    None => Settlement::Delivered,
                    Some(None) => Settlement::GivenUp,
                    Some(Some(by)) => Settlement::RetryAt(now + by),
                },
            },
        }
    }

    /// All that the store shows is what the model says.
    async fn compare(&self) {
        self.compare_inbox().await;
        self.compare_due().await;
        self.compare_merchants().await;
        for key in 0..MEMOS {
            let recalled = self.store.recall(memo(key), self.model.now).await;
            let recalled = recalled.expect("readable");
            let value = recalled.and_then(|value| value.expose().first().copied());
            assert_eq!(value, self.model.remembered(key), "memo {key}");
        }
    }

    async fn compare_inbox(&self) {
        let stored = self.listed(None).await;
        let expected: Vec<_> = self.model.entries.values().map(delivery).collect();
        assert_eq!(stored, expected);
        for state in [
            DeliveryState::Dead,
            DeliveryState::Delivered,
            DeliveryState::Ignored,
            DeliveryState::Pending,
        ] {
            let of_state = expected.iter().filter(|delivery| delivery.state == state);
            let of_state: Vec<_> = of_state.cloned().collect();
            assert_eq!(self.listed(Some(state)).await, of_state);
        }
    }

    async fn listed(&self, state: Option<DeliveryState>) -> Vec<Delivery> {
        let listed = self.store.entries(state, None, usize::MAX).await;
        let listed = listed.expect("readable").into_iter();
        listed.map(|(_, delivery)| delivery).collect()
    }

    async fn compare_due(&self) {
        for limit in [1, 3, usize::MAX] {
            let due = self
                .store
                .due(self.model.now, limit, HashSet::new())
                .await
                .expect("readable");
            let ids: Vec<_> = due.now.iter().map(|(entry, _)| entry.id).collect();
            assert_eq!((ids, due.next_at), self.model.due(limit), "at most {limit}");
        }
        let pending = |owed: &&model::Owed| owed.state == DeliveryState::Pending;
        let mut pending = self.model.entries.values().filter(pending);
        let counts = self.store.counts().await.expect("readable");
        assert_eq!(counts.pending, pending.clone().count() as u64);
        let oldest = pending.next().map(|owed| owed.received.at);
        assert_eq!(counts.oldest_pending_at, oldest);
    }

    async fn compare_merchants(&self) {
        let merchants = self.store.merchants(None, usize::MAX).await;
        let merchants = merchants.expect("readable");
        let stored: Vec<_> = merchants.iter().map(|m| (number(m), triple(m))).collect();
        let expected: Vec<_> = self.model.merchants.clone().into_iter().collect();
        assert_eq!(stored, expected);
        let revoked = expected.iter().filter(|(_, t)| t.revoked_at.is_some());
        let counts = self.store.counts().await.expect("readable");
        assert_eq!(counts.merchants_revoked, revoked.count() as u64);
        for token in 0..TOKENS {
            let found = self.find(MerchantKey::Token(secret(token))).await;
            let owner = self.model.owners.get(&token).copied();
            assert_eq!(found, owner, "token {token}");
        }
        for name in 0..ALIASES {
            let found = self.find(MerchantKey::Alias(alias(name))).await;
            let mut named = expected.iter().filter(|(_, t)| t.alias == Some(name));
            assert_eq!(found, named.next().map(|(n, _)| *n), "alias {name}");
        }
    }

    async fn find(&self, key: MerchantKey) -> Option<u8> {
        let found = self.store.find(key).await.expect("readable");
        assert!(found.len() <= 1, "{} have it", found.len());
        found.first().map(number)
    }
}

fn attempt(at: i64) -> Attempt {
    Attempt {
        at,
        duration_ms: 5,
        via: Via::Push,
        status: Some(500),
        error: Some(AttemptError::Status),
    }
}

fn change(deed: &Deed) -> Change {
    match deed.clone() {
        Deed::Authorize {
            merchant,
            token,
            at,
            alias: name,
            entry,
        } => {
            let rank = at.map_or(Rank::AfterStored, Rank::AuthTime);
            let mut given = authorization(u32::from(merchant), &format!("token{token}"), rank);
            given.alias = name.map(alias);
            authorize(given, entry.as_ref().map(inbox_entry))
        }
        Deed::Name {
            merchant,
            alias: name,
        } => Change::NameMerchant {
            app_id: app(),
            auth_app_id: merchant_app(u32::from(merchant)),
            alias: name.map(alias),
        },
        Deed::Postpone { id, until } => Change::Postpone { id, until },
        Deed::Receive(received) => Change::Receive(Box::new(inbox_entry(&received))),
        Deed::Remember {
            key,
            value,
            expires_at,
        } => Change::Remember {
            key: memo(key),
            value: Secret::new(vec![value]),
            expires_at,
        },
        Deed::Remove { merchant } => {
            Change::RemoveMerchant(app(), merchant_app(u32::from(merchant)))
        }
        Deed::Replay { id, now } => Change::Replay { id, now },
        Deed::Revoke {
            merchant,
            at,
            entry,
        } => Change::Revoke {
            revocation: Revocation {
                app_id: app(),
                auth_app_id: merchant_app(u32::from(merchant)),
                at,
                only: None,
            },
            entry: entry.as_ref().map(|entry| Box::new(inbox_entry(entry))),
        },
        Deed::Settle {
            id,
            attempt,
            settlement,
        } => Change::Settle {
            id,
            attempt,
            owed_since: None,
            settlement,
        },
    }
}

fn inbox_entry(received: &Received) -> InboxEntry {
    let notify_id = received.notify.map(|n| format!("notify{n}"));
    InboxEntry {
        id: received.id,
        auth_app_id: received
            .order
            .map(|(owner, _)| merchant_app(u32::from(owner))),
        order_key: received.order.map(|(_, order)| format!("order{order}")),
        ..entry(received.at, notify_id.as_deref())
    }
}

fn answer(effect: &Effect) -> Answer {
    match effect {
        Effect::Applied => Answer::Applied,
        Effect::Duplicate(id) => Answer::Duplicate(*id),
        Effect::Missing => Answer::Missing,
        Effect::Remembered(value) => Answer::Remembered(value.expose()[0]),
        Effect::Displaced(_) | Effect::Full => panic!("{effect:?}: nothing here is bounded"),
        Effect::Stale => Answer::Stale,
        Effect::Void => Answer::Void,
    }
}

fn delivery(owed: &model::Owed) -> Delivery {
    Delivery {
        id: owed.received.id,
        state: owed.state,
        attempts: owed.attempts,
        owed_since: owed.owed_since,
        next_attempt_at: owed.next_at,
        history: owed.history.clone(),
        lease: None,
    }
}

fn number(merchant: &Merchant) -> u8 {
    let known = |n: &u8| merchant_app(u32::from(*n)) == merchant.auth_app_id;
    (0..MERCHANTS).find(known).expect("a known merchant")
}

fn triple(merchant: &Merchant) -> Triple {
    let token = |text: &str| text.strip_prefix("token").and_then(|n| n.parse().ok());
    let alias_number = |given: &Alias| (0..ALIASES).find(|n| alias(*n) == *given);
    let previous = merchant.previous_token.as_ref();
    Triple {
        token: token(merchant.token.app_auth_token.expose()).expect("a token"),
        previous: previous.and_then(|previous| token(previous.app_auth_token.expose())),
        auth_time: merchant.auth_time,
        estimated: merchant.auth_time_estimated,
        revoked_at: match merchant.status {
            MerchantStatus::Authorized | MerchantStatus::Suspect { .. } => None,
            MerchantStatus::Revoked { at } => Some(at),
        },
        alias: merchant.alias.as_ref().and_then(alias_number),
    }
}

fn alias(n: u8) -> Alias {
    Alias::new(&format!("shop{n}")).expect("an alias")
}

fn secret(token: u8) -> Secret<String> {
    Secret::new(format!("token{token}"))
}

fn memo(key: u8) -> MemoKey {
    MemoKey::new("test", &[&key.to_string()])
}

#[test]
fn the_store_does_what_a_model_of_it_does() {
    let cases = std::env::var("STATE_SEQUENCES");
    let cases = cases.map_or(SHORT, |n| n.parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let (runtime, fresh) = (runtime.expect("a runtime"), Fresh::new());
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let tried = TestRunner::new(config).run(&history(), |ops| {
        runtime.block_on(async {
            let mut pair = Pair::new(&fresh);
            for op in &ops {
                pair.perform(op).await;
                pair.compare().await;
            }
        });
        Ok(())
    });
    tried.unwrap_or_else(|error| panic!("{error}"));
}
