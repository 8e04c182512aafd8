//! Damage to what is kept for a while (refused notifications, second bodies, calls, users' tokens)
//! and to what waits for whoever pulls: named, moved aside, and in nobody's way.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alipay_sidecar::clock::ManualClock;
use alipay_sidecar::model::authorization::{Rank, Revocation};
use alipay_sidecar::model::call::{CallId, CallKey};
use alipay_sidecar::model::delivery::{DeliveryState, Lease};
use alipay_sidecar::model::id::EventId;
use alipay_sidecar::model::notification::Body;
use alipay_sidecar::model::refused::{RefusalKind, Variant};
use alipay_sidecar::store::care::Inspection;
use alipay_sidecar::store::embedded::{EmbeddedStore, OpenOptions, StoreFile};
use alipay_sidecar::store::error::StoreError;
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar::store::{Change, Directory, Effect, Inbox, MerchantKey, Store};
use redb::{Database, Key, ReadableTable, TableDefinition, Value};

use crate::store::{
    DAY, Fixture, START, app, authorization, authorize, call, entry, keep, merchant_app, record,
    secret, user, user_token,
};
use crate::store_quarantine::refused;

type Bytes = &'static [u8];
type Id = &'static [u8; 16];
type Digest = &'static [u8; 32];

/// A closed store with two of everything, but one second body.
struct Closed {
    dir: tempfile::TempDir,
    key: StoreKey,
    leased: EventId,
    parked: EventId,
}

impl Closed {
    async fn new() -> Self {
        let fixture = Fixture::embedded();
        let entries = [
            entry(START, Some("leased")),
            entry(START + 1, Some("parked")),
        ];
        let [leased, parked] = entries.each_ref().map(|entry| entry.id);
        let lease = Lease {
            since: START + 2,
            until: START + DAY,
        };
        let [first, second] = entries;
        let variant = Variant {
            received_at: START,
            notify_path: String::new(),
            body: Body {
                content_type: "text/x-form".to_owned(),
                bytes: vec![b'v'; 99].into(),
            },
            differs: Vec::new(),
            content: [9; 32],
        };
        for change in [
            Change::Receive(Box::new(first)),
            Change::Receive(Box::new(second)),
            Change::Claim { id: leased, lease },
            Change::Park {
                id: parked,
                until: START + DAY,
            },
            Change::Refuse(Box::new(refused(1, "10.0.0.1", RefusalKind::Forged))),
            Change::Refuse(Box::new(refused(2, "10.0.0.2", RefusalKind::Forged))),
            Change::KeepVariant {
                of: parked,
                variant: Box::new(variant),
            },
            record(vec![call(1, Some("a"), 9), call(2, None, 9)], u64::MAX),
            keep(user_token("a", [Some("u"), Some("o")]), None),
        ] {
            assert!(matches!(fixture.commit(change).await, Effect::Applied));
        }
        let Fixture {
            store, key, dir, ..
        } = fixture;
        drop(store);
        Self {
            dir,
            key,
            leased,
            parked,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("store.redb")
    }

    fn open(&self) -> EmbeddedStore {
        EmbeddedStore::open(OpenOptions {
            path: self.path(),
            key: self.key.clone(),
            cache_bytes: 1 << 20,
            clock: Arc::new(ManualClock::new(START + 9)),
        })
        .expect("opened")
    }

    fn file(&self) -> StoreFile {
        StoreFile::open(&self.path(), &self.key, 1 << 20).expect("opened")
    }

    fn inspect(&self) -> Inspection {
        self.file().inspect().expect("readable")
    }

    fn check_clean(&self) {
        let found = self.inspect();
        assert!(found.is_clean(), "{:?}", found.findings);
    }

    /// Changes the file behind the store's back.
    fn tamper(&self, change: impl FnOnce(&redb::WriteTransaction)) {
        let db = Database::open(self.path()).expect("opened");
        let tx = db.begin_write().expect("transaction");
        change(&tx);
        tx.commit().expect("committed");
    }

    /// Changes one bit in the first record of a table whose rows end with what is sealed.
    fn flip_first<K: Key + 'static, V: Value + 'static>(&self, name: &str) {
        self.tamper(|tx| {
            let mut table = open::<K, V>(tx, name);
            let (key, mut bytes) = {
                let (key, value) = table.first().expect("readable").expect("there is one");
                let key = K::as_bytes(&key.value()).as_ref().to_vec();
                (key, V::as_bytes(&value.value()).as_ref().to_vec())
            };
            *bytes.last_mut().expect("sealed") ^= 1;
            table
                .insert(K::from_bytes(&key), V::from_bytes(&bytes))
                .expect("written");
        });
    }

    fn flip_delivery(&self, id: EventId) {
        self.tamper(|tx| {
            let mut table = open::<Id, Bytes>(tx, "deliveries");
            let key = id.to_bytes();
            let mut bytes = {
                let row = table.get(&key).expect("readable");
                row.expect("there").value().to_vec()
            };
            *bytes.last_mut().expect("sealed") ^= 1;
            table.insert(&key, bytes.as_slice()).expect("written");
        });
    }
}

fn open<'t, K: Key + 'static, V: Value + 'static>(
    tx: &'t redb::WriteTransaction,
    name: &str,
) -> redb::Table<'t, K, V> {
    tx.open_table(TableDefinition::<K, V>::new(name))
        .expect("there")
}

fn clear<K: Key + 'static, V: Value + 'static>(tx: &redb::WriteTransaction, name: &str) {
    open::<K, V>(tx, name)
        .retain(|_, _| false)
        .expect("cleared");
}

#[tokio::test]
async fn each_is_named_and_a_repair_leaves_no_trace_of_it_in_an_index() {
    let closed = Closed::new().await;
    closed.check_clean();
    closed.flip_first::<Id, Bytes>("calls");
    closed.flip_first::<Id, Bytes>("refused");
    closed.flip_first::<Digest, (i64, Bytes)>("users");
    closed.flip_first::<(Id, Id), Bytes>("variants");
    let found = closed.inspect();
    assert_eq!((found.damaged, found.contradictions), (4, 0), "{found:?}");
    for name in ["calls", "refused", "users", "variants"] {
        let text = format!("of table `{name}` is damaged");
        let named = |finding: &String| finding.contains(&text);
        assert!(found.findings.iter().any(named), "{text} in {found:?}");
    }
    let repaired = closed.file().repair(START + 9).expect("repaired");
    assert_eq!((repaired.moved.len(), repaired.rebuilt), (4, 0));
    closed.check_clean();
    let store = closed.open();
    assert_eq!(store.counts().await.expect("readable").damaged, 4);
    assert_eq!(store.refused(None, 9).await.expect("readable").len(), 1);
    let of = |n| CallKey::Id(CallId::from_bytes([n; 16]));
    let gone = store.call(of(1), START + 9).await;
    assert!(gone.expect("readable").is_none());
    let other = store.call(of(2), START + 9).await;
    assert!(other.expect("readable").is_some());
    // Counted as long as its bytes are kept.
    let later = START + 9 + 30 * DAY;
    for (at, left) in [(later, 4), (later + 1, 0)] {
        store.prune(at, i64::MAX).await.expect("pruned");
        assert_eq!(store.counts().await.expect("readable").damaged, left);
    }
}

#[tokio::test]
async fn no_authorisation_is_refused_for_a_damaged_note_or_index() {
    let closed = Closed::new().await;
    let store = closed.open();
    let revocation = |at| Revocation {
        app_id: app(),
        auth_app_id: merchant_app(7),
        at,
        estimated: false,
        only: None,
    };
    let revoke = Change::Revoke {
        revocation: revocation(Some(START)),
        entry: None,
    };
    let given = |at| authorize(authorization(7, "token-7", Rank::AuthTime(at)), None);
    store.commit(vec![revoke]).await.expect("remembered");
    drop(store);
    closed.flip_first::<Digest, (i64, Bytes)>("memos");
    let store = closed.open();
    let effects = store.commit(vec![given(START - 1)]).await;
    assert!(matches!(effects.expect("committed")[..], [Effect::Applied]));
    drop(store);
    closed.flip_first::<Digest, Bytes>("by_token");
    let store = closed.open();
    let effects = store.commit(vec![given(START + 1)]).await;
    assert!(matches!(effects.expect("committed")[..], [Effect::Applied]));
    let found = store.find(MerchantKey::Token(secret("token-7"))).await;
    assert_eq!(found.expect("healed").len(), 1);
}

#[tokio::test]
async fn a_damaged_check_value_is_no_wrong_key() {
    let closed = Closed::new().await;
    closed.tamper(|tx| {
        let mut table = open::<&'static str, Bytes>(tx, "meta");
        let mut check = table
            .get("check")
            .expect("readable")
            .expect("there")
            .value()
            .to_vec();
        *check.last_mut().expect("sealed") ^= 1;
        table.insert("check", check.as_slice()).expect("written");
    });
    let other = StoreKey::generate();
    let refused = StoreFile::open(&closed.path(), &other, 1 << 20);
    assert!(matches!(refused, Err(StoreError::WrongKey { .. })));
    closed.check_clean();
    // Written anew, it tells a wrong key from the right one as before.
    let refused = StoreFile::open(&closed.path(), &other, 1 << 20);
    assert!(matches!(refused, Err(StoreError::WrongKey { .. })));
    closed.check_clean();
}

#[tokio::test]
async fn a_login_replaces_a_damaged_user_and_a_cancellation_is_not_refused_for_it() {
    for is_login in [true, false] {
        let closed = Closed::new().await;
        closed.flip_first::<Digest, (i64, Bytes)>("users");
        let store = closed.open();
        let mut damaged = None;
        for name in ["u", "o"] {
            match store.user(user(name)).await {
                Ok(token) => assert!(token.is_some(), "the other name's record is whole"),
                Err(StoreError::Damaged { .. }) => damaged = Some(name),
                Err(other) => panic!("{other}"),
            }
        }
        let key = user(damaged.expect("one of them"));
        if is_login {
            let login = keep(user_token("b", [Some("u"), Some("o")]), None);
            let effects = store.commit(vec![login]).await.expect("committed");
            assert!(matches!(effects[..], [Effect::Applied]));
            let token = store.user(key).await.expect("readable").expect("kept");
            assert_eq!(token.access_token.expose(), "b");
        } else {
            let cancelled = Change::ForgetUser {
                key: key.clone(),
                only: None,
                obtained_until: None,
            };
            let effects = store.commit(vec![cancelled]).await.expect("committed");
            assert!(matches!(effects[..], [Effect::Missing]));
            assert!(store.user(key).await.expect("readable").is_none());
        }
        assert_eq!(store.counts().await.expect("readable").damaged, 1);
        drop(store);
        closed.check_clean();
    }
}

#[tokio::test]
async fn what_waits_for_whoever_pulls_is_owed_anew_and_can_be_claimed() {
    let closed = Closed::new().await;
    closed.flip_delivery(closed.leased);
    closed.flip_delivery(closed.parked);
    let store = closed.open();
    let begun = Instant::now();
    let now = START + 2 * DAY;
    let found = loop {
        let found = store
            .claimable(now, 9, HashSet::new())
            .await
            .expect("readable")
            .now;
        if found.len() == 2 {
            break found;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{found:?}");
        tokio::task::yield_now().await;
    };
    for (entry, delivery) in &found {
        assert_eq!(delivery.state, DeliveryState::Pending);
        assert_eq!((delivery.attempts, delivery.lease), (0, None));
        assert_eq!(delivery.owed_since, START + 9, "owed anew: {}", entry.id);
    }
    assert!(store.lapsed(now, 9).await.expect("readable").is_empty());
    let variants = store.variants(closed.parked).await.expect("readable");
    assert_eq!(variants.len(), 1, "second bodies stay");
    drop(store);
    closed.check_clean();
}

/// Takes rows out of an index, or puts one in, and says what must be found.
type Contradiction = (&'static str, fn(&redb::WriteTransaction));

#[tokio::test]
async fn an_index_that_contradicts_them_is_named() {
    let changes: [Contradiction; 14] = [
        ("`refused_index`", |tx| {
            clear::<Id, (u8, u64, i64, Id, Id)>(tx, "refused_index");
        }),
        ("`refused_index`", |tx| {
            let mut index = open::<Id, (u8, u64, i64, Id, Id)>(tx, "refused_index");
            let row = (0, 1, START, &[1; 16], &[1; 16]);
            index.insert(&[7; 16], row).expect("written");
        }),
        ("`refused_index`", |tx| {
            clear::<Id, Bytes>(tx, "refused");
        }),
        ("`calls`", |tx| {
            clear::<(i64, Id), (Id, u64)>(tx, "calls_at");
        }),
        ("`calls_at`", |tx| {
            let mut times = open::<(i64, Id), (Id, u64)>(tx, "calls_at");
            times
                .insert((START, &[7; 16]), (&[0; 16], 1))
                .expect("written");
        }),
        ("table `meta` says", |tx| {
            let mut meta = open::<&str, Bytes>(tx, "meta");
            meta.insert("calls_size", [0; 8].as_slice())
                .expect("written");
        }),
        ("`calls_named`", |tx| {
            let mut names = open::<Id, Id>(tx, "calls_named");
            names.insert(&[7; 16], &[1; 16]).expect("written");
        }),
        ("`users`", |tx| {
            clear::<(i64, Digest), ()>(tx, "users_end");
        }),
        ("`users_end`", |tx| {
            let mut ends = open::<(i64, Digest), ()>(tx, "users_end");
            ends.insert((START, &[7; 32]), ()).expect("written");
        }),
        ("`variants`", |tx| {
            clear::<Id, Bytes>(tx, "deliveries");
        }),
        ("delivery", |tx| {
            clear::<(i64, Id), ()>(tx, "leased");
        }),
        ("`leased`", |tx| {
            let mut leased = open::<(i64, Id), ()>(tx, "leased");
            leased.insert((START, &[7; 16]), ()).expect("written");
        }),
        ("delivery", |tx| {
            clear::<Id, ()>(tx, "parked");
        }),
        ("`parked`", |tx| {
            let mut parked = open::<Id, ()>(tx, "parked");
            parked.insert(&[7; 16], ()).expect("written");
        }),
    ];
    for (name, change) in changes {
        let closed = Closed::new().await;
        closed.tamper(change);
        let found = closed.inspect();
        assert_eq!(found.damaged, 0, "{name}");
        let named = |finding: &String| finding.contains(name);
        assert!(found.findings.iter().any(named), "{name} in {found:?}");
    }
}
