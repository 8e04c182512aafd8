//! Damage: named record by record, moved aside, and in nobody's way.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alipay_sidecar::clock::ManualClock;
use alipay_sidecar::model::authorization::{Authorization, Purchase, Rank, Revocation, Source};
use alipay_sidecar::model::delivery::{DeliveryState, Settlement};
use alipay_sidecar::model::id::{Alias, AuthAppId, EventId};
use alipay_sidecar::model::merchant::Merchant;
use alipay_sidecar::model::notification::InboxEntry;
use alipay_sidecar::store::care::Inspection;
use alipay_sidecar::store::embedded::{EmbeddedStore, OpenOptions, StoreFile};
use alipay_sidecar::store::error::StoreError;
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar::store::{Change, Directory, Effect, Inbox, MemoKey, MerchantKey, Store};
use redb::{Database, Key, ReadableTable, TableDefinition};

use crate::store::{
    Fixture, START, app, attempt, authorization, authorize, entry, merchant_app, pid, remember,
    secret,
};

type Bytes = &'static [u8];
type Id = &'static [u8; 16];

const NOTIFICATIONS: TableDefinition<'_, Id, Bytes> = TableDefinition::new("notifications");
const DELIVERIES: TableDefinition<'_, Id, Bytes> = TableDefinition::new("deliveries");
const MERCHANTS: TableDefinition<'_, Bytes, Bytes> = TableDefinition::new("merchants");
const BY_TOKEN: TableDefinition<'_, &[u8; 32], Bytes> = TableDefinition::new("by_token");
const MEMOS: TableDefinition<'_, &[u8; 32], (i64, Bytes)> = TableDefinition::new("memos");
const DAMAGED: TableDefinition<'_, Bytes, (i64, Bytes)> = TableDefinition::new("damaged");

/// A closed store: two merchants, and four notifications, two of one order.
struct Closed {
    dir: tempfile::TempDir,
    key: StoreKey,
    first: EventId,
    second: EventId,
    other: EventId,
    done: EventId,
}

fn received(at: i64, notify_id: &str, order_key: Option<&str>) -> InboxEntry {
    InboxEntry {
        order_key: order_key.map(str::to_owned),
        ..entry(at, Some(notify_id))
    }
}

impl Closed {
    async fn new() -> Self {
        let fixture = Fixture::embedded();
        for n in [1, 2] {
            let given = authorization(n, &format!("token-{n}"), Rank::AuthTime(START));
            fixture.commit(authorize(given, None)).await;
        }
        let entries = [
            received(START, "first", Some("order")),
            received(START + 1, "second", Some("order")),
            received(START + 2, "other", None),
            received(START + 3, "done", None),
        ];
        let [first, second, other, done] = entries.each_ref().map(|entry| entry.id);
        for entry in entries {
            fixture.commit(Change::Receive(Box::new(entry))).await;
        }
        fixture
            .commit(Change::Settle {
                id: done,
                attempt: attempt(START),
                owed_since: None,
                settlement: Settlement::Delivered,
            })
            .await;
        let memo = MemoKey::new("test", &["m"]);
        fixture
            .commit(remember(memo, "memo", START + 1_000_000))
            .await;
        let Fixture {
            store, key, dir, ..
        } = fixture;
        drop(store);
        Self {
            dir,
            key,
            first,
            second,
            other,
            done,
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
            clock: Arc::new(ManualClock::new(START)),
        })
        .expect("opened")
    }

    fn file(&self) -> StoreFile {
        StoreFile::open(&self.path(), &self.key, 1 << 20).expect("opened")
    }

    fn inspect(&self) -> Inspection {
        self.file().inspect().expect("readable")
    }

    /// Changes the file behind the store's back.
    fn tamper(&self, change: impl FnOnce(&redb::WriteTransaction)) {
        let db = Database::open(self.path()).expect("opened");
        let tx = db.begin_write().expect("transaction");
        change(&tx);
        tx.commit().expect("committed");
    }

    fn flip_merchant(&self, n: u32) {
        self.tamper(|tx| {
            let mut table = tx.open_table(MERCHANTS).expect("there");
            let key = merchant_key(n);
            let bytes = {
                let row = table.get(key.as_slice()).expect("readable");
                flipped(row.expect("there").value())
            };
            table
                .insert(key.as_slice(), bytes.as_slice())
                .expect("written");
        });
    }

    fn flip_entry(&self, table: TableDefinition<'static, Id, Bytes>, id: EventId) {
        self.tamper(|tx| {
            let mut table = tx.open_table(table).expect("there");
            let key = id.to_bytes();
            let bytes = {
                let row = table.get(&key).expect("readable");
                flipped(row.expect("there").value())
            };
            table.insert(&key, bytes.as_slice()).expect("written");
        });
    }
}

/// A record with one bit changed in its middle.
fn flipped(record: &[u8]) -> Vec<u8> {
    let mut bytes = record.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes
}

fn merchant_key(n: u32) -> Vec<u8> {
    [app().as_str(), merchant_app(n).as_str()]
        .join("\0")
        .into_bytes()
}

async fn due(store: &EmbeddedStore) -> Vec<EventId> {
    let due = store
        .due(START + 100, 100, HashSet::new())
        .await
        .expect("readable");
    due.now.iter().map(|(entry, _)| entry.id).collect()
}

/// Looks at what is due until so many records have been moved aside.
async fn moved_aside(store: &EmbeddedStore, count: u64) {
    let begun = Instant::now();
    loop {
        due(store).await;
        let counts = store.counts().await.expect("readable");
        if counts.damaged >= count {
            assert_eq!(counts.damaged, count);
            return;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{counts:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_damaged_notification_is_moved_aside_and_its_followers_go_on() {
    let closed = Closed::new().await;
    closed.flip_entry(NOTIFICATIONS, closed.first);
    let store = closed.open();
    assert_eq!(
        due(&store).await,
        [closed.other],
        "others don't wait for it"
    );
    // The record itself and its delivery.
    moved_aside(&store, 2).await;
    assert_eq!(due(&store).await, [closed.second, closed.other]);
    assert_eq!(store.counts().await.expect("readable").pending, 2);
    assert!(store.entry(closed.first).await.expect("gone").is_none());
    // Alipay's resend is taken: the first one is lost.
    let again = received(START + 50, "first", Some("order"));
    let effects = store.commit(vec![Change::Receive(Box::new(again))]).await;
    assert!(matches!(effects.expect("committed")[..], [Effect::Applied]));
    drop(store);
    let inspection = closed.inspect();
    assert!(inspection.is_clean(), "{:?}", inspection.findings);
    let db = Database::open(closed.path()).expect("opened");
    let tx = redb::ReadableDatabase::begin_read(&db).expect("transaction");
    let table = tx.open_table(DAMAGED).expect("there");
    let key = [&b"notifications\0"[..], &closed.first.to_bytes()].concat();
    let row = table.get(key.as_slice()).expect("readable");
    let row = row.expect("its bytes are kept");
    assert_eq!(row.value().0, START);
    assert!(row.value().1.len() > 100);
}

#[tokio::test]
async fn a_delivered_one_that_is_damaged_is_not_taken_again() {
    for delivery_is_damaged in [false, true] {
        let closed = Closed::new().await;
        closed.flip_entry(NOTIFICATIONS, closed.done);
        if delivery_is_damaged {
            closed.flip_entry(DELIVERIES, closed.done);
        }
        closed.file().repair(START + 7).expect("repaired");
        let inspection = closed.inspect();
        assert!(inspection.is_clean(), "{:?}", inspection.findings);
        let store = closed.open();
        let again = received(START + 50, "done", None);
        let effects = store.commit(vec![Change::Receive(Box::new(again))]).await;
        let effects = effects.expect("committed");
        assert!(matches!(effects[..], [Effect::Duplicate(id)] if id == closed.done));
    }
}

#[tokio::test]
async fn a_damaged_delivery_is_made_anew_from_its_notification() {
    let closed = Closed::new().await;
    closed.flip_entry(DELIVERIES, closed.first);
    let store = closed.open();
    moved_aside(&store, 1).await;
    // It is still the first of its order.
    assert_eq!(due(&store).await, [closed.first, closed.other]);
    assert_eq!(store.counts().await.expect("readable").pending, 3);
    let settled = Change::Settle {
        id: closed.first,
        attempt: attempt(START + 60),
        owed_since: None,
        settlement: Settlement::Delivered,
    };
    store.commit(vec![settled]).await.expect("committed");
    assert_eq!(due(&store).await, [closed.second, closed.other]);
    drop(store);
    let inspection = closed.inspect();
    assert!(inspection.is_clean(), "{:?}", inspection.findings);
}

#[tokio::test]
async fn a_damaged_parked_one_is_not_taken_back() {
    let closed = Closed::new().await;
    let store = closed.open();
    let park = |id| Change::Park {
        id,
        until: START + 1_000,
    };
    let changes = vec![park(closed.first), park(closed.second), park(closed.other)];
    store.commit(changes).await.expect("committed");
    let parked = async |store: &EmbeddedStore| {
        let parked = store.parked(None, 9).await;
        parked.expect("readable").of_an_order
    };
    // The other has no order.
    assert_eq!(parked(&store).await, [closed.first, closed.second]);
    drop(store);
    closed.flip_entry(DELIVERIES, closed.first);
    let store = closed.open();
    assert_eq!(parked(&store).await, [closed.second]);
    // Nor is it waited for: it may be owed, and its time may be an hour away.
    moved_aside(&store, 1).await;
    assert_eq!(due(&store).await, [closed.first]);
}

#[tokio::test]
async fn a_notification_whose_both_records_are_damaged_is_in_nobodys_way() {
    let closed = Closed::new().await;
    closed.flip_entry(NOTIFICATIONS, closed.first);
    closed.flip_entry(DELIVERIES, closed.first);
    let store = closed.open();
    moved_aside(&store, 2).await;
    assert_eq!(due(&store).await, [closed.second, closed.other]);
    drop(store);
    let inspection = closed.inspect();
    assert!(inspection.is_clean(), "{:?}", inspection.findings);
}

#[tokio::test]
async fn a_damaged_merchant_stops_nobody_and_a_new_authorisation_heals_it() {
    let closed = Closed::new().await;
    closed.flip_merchant(1);
    let store = closed.open();
    assert_eq!(store.merchants(None, 9).await.expect("readable").len(), 1);
    assert_eq!(store.unreadable_merchants().await.expect("readable"), 1);
    let found = store.find(MerchantKey::AuthAppId(merchant_app(1))).await;
    let name = format!("{}/{}", app(), merchant_app(1));
    assert!(matches!(found, Err(StoreError::Damaged { record }) if record.contains(&name)));
    let other = store.find(MerchantKey::Token(secret("token-2"))).await;
    assert_eq!(other.expect("readable").len(), 1);
    assert_eq!(due(&store).await, [closed.first, closed.other]);
    let given = authorization(1, "token-new", Rank::AuthTime(START + 1));
    let effects = store.commit(vec![authorize(given, None)]).await;
    assert!(matches!(effects.expect("committed")[..], [Effect::Applied]));
    let found = store.find(MerchantKey::Token(secret("token-1"))).await;
    let found = found.expect("its old token is still its own");
    assert_eq!(found[0].token.app_auth_token.expose(), "token-new");
    assert_eq!(store.counts().await.expect("readable").damaged, 1);
    drop(store);
    let inspection = closed.inspect();
    assert!(inspection.is_clean(), "{:?}", inspection.findings);
}

#[tokio::test]
async fn what_a_refresh_bought_takes_the_place_of_a_damaged_merchant_and_not_of_a_removed_one() {
    let closed = Closed::new().await;
    closed.flip_merchant(1);
    let store = closed.open();
    store
        .commit(vec![Change::RemoveMerchant(app(), merchant_app(2))])
        .await
        .expect("committed");
    for (n, is_stored) in [(1, true), (2, false)] {
        let rank = Rank::Bought {
            purchase: Purchase::Renewal,
            at: START + 1,
            over: None,
        };
        let given = authorization(n, &format!("token-new-{n}"), rank);
        let effects = store.commit(vec![authorize(given, None)]).await;
        let is_applied = matches!(effects.expect("committed")[..], [Effect::Applied]);
        assert_eq!(is_applied, is_stored, "{n}");
        let key = MerchantKey::Exact(app(), merchant_app(n));
        let found = store.find(key).await.expect("readable");
        assert_eq!(found.len(), usize::from(is_stored), "{n}");
    }
}

/// Whose records can't be read of those that `key` names.
async fn unread(store: &EmbeddedStore, key: MerchantKey) -> Vec<String> {
    let found = store.find_all(key).await.expect("readable");
    found.damaged.iter().map(ToString::to_string).collect()
}

fn name(n: u32) -> String {
    format!("{}/{}", app(), merchant_app(n))
}

#[tokio::test]
async fn a_damaged_merchant_is_named_beside_the_others_of_its_pid() {
    let closed = Closed::new().await;
    closed.flip_merchant(1);
    let store = closed.open();
    let key = || MerchantKey::Pid(pid());
    let found = store.find_all(key()).await.expect("readable");
    let whole = found.merchants.iter().map(|it| it.auth_app_id.clone());
    assert_eq!(whole.collect::<Vec<_>>(), [merchant_app(2)]);
    assert_eq!(unread(&store, key()).await, [name(1)]);
    let strict = store.find(key()).await;
    assert!(matches!(strict, Err(StoreError::Damaged { record }) if record.contains(&name(1))));
}

#[tokio::test]
async fn a_row_that_does_not_tell_whose_it_is_counts_as_a_merchant() {
    let closed = Closed::new().await;
    let by_id = merchant_app(1);
    let rows = [
        ("by_pid", pid().to_string(), MerchantKey::Pid(pid())),
        (
            "by_auth_app_id",
            by_id.to_string(),
            MerchantKey::AuthAppId(by_id),
        ),
    ];
    closed.tamper(|tx| {
        for (table, prefix, _) in &rows {
            let row = format!("{prefix}\0\u{7}");
            let mut table = open::<Bytes, ()>(tx, table);
            table.insert(row.as_bytes(), ()).expect("written");
        }
    });
    let store = closed.open();
    for (table, _, key) in rows {
        let found = store.find_all(key.clone()).await.expect("readable");
        let [damaged] = found.damaged.as_slice() else {
            panic!("{:?}", found.damaged);
        };
        assert!(damaged.to_string().contains(table), "{damaged}");
        assert!(damaged.may_be_of("any"), "{damaged}");
        assert!(!found.merchants.is_empty());
        let strict = store.find(key).await;
        assert!(matches!(strict, Err(StoreError::Damaged { record }) if record.contains(table)));
    }
}

#[tokio::test]
async fn the_cancellation_of_a_damaged_merchant_is_taken() {
    let closed = Closed::new().await;
    let store = closed.open();
    let found = store.find(MerchantKey::AuthAppId(merchant_app(1))).await;
    let revocation = Revocation::new(&found.expect("readable")[0], Some(START + 9));
    drop(store);
    closed.flip_merchant(1);
    let store = closed.open();
    let change = Change::Revoke {
        revocation,
        entry: Some(Box::new(received(START + 9, "cancel", None))),
    };
    let effects = store.commit(vec![change]).await.expect("committed");
    assert!(matches!(effects[..], [Effect::Missing]));
    assert_eq!(store.counts().await.expect("readable").pending, 4);
    // It still counts as one that its PID names.
    assert_eq!(unread(&store, MerchantKey::Pid(pid())).await, [name(1)]);
    let by_id = MerchantKey::AuthAppId(merchant_app(1));
    assert_eq!(unread(&store, by_id).await, [name(1)]);
    drop(store);
    let found = closed.inspect();
    assert_eq!((found.damaged, found.contradictions), (0, 2));
    // Until that is removed by name.
    let repaired = closed.file().repair(START + 7).expect("repaired");
    let mut named = repaired.removed;
    named
        .iter_mut()
        .for_each(|row| row.push_str(" contradicts the records"));
    named.sort();
    let mut findings = found.findings;
    findings.sort();
    assert_eq!(named, findings);
    let inspection = closed.inspect();
    assert!(inspection.is_clean(), "{:?}", inspection.findings);
    let store = closed.open();
    assert!(unread(&store, MerchantKey::Pid(pid())).await.is_empty());
}

/// The record of merchant `n`.
async fn record(store: &EmbeddedStore, n: u32) -> Merchant {
    let found = store.find(MerchantKey::AuthAppId(merchant_app(n))).await;
    found.expect("readable").remove(0)
}

/// Damages the record of merchant `n` and has a cancellation move it aside.
async fn set_aside(closed: &Closed, n: u32) {
    let store = closed.open();
    let revocation = Revocation::new(&record(&store, n).await, Some(START + 9));
    drop(store);
    closed.flip_merchant(n);
    let store = closed.open();
    let change = Change::Revoke {
        revocation,
        entry: None,
    };
    store.commit(vec![change]).await.expect("committed");
}

#[tokio::test]
async fn a_damaged_merchant_that_authorises_anew_takes_no_pid_from_a_row() {
    let closed = Closed::new().await;
    closed.flip_merchant(1);
    set_aside(&closed, 2).await;
    let nameless = |n| {
        let mut given = authorization(n, &format!("token-new-{n}"), Rank::AfterStored);
        given.pid = None;
        authorize(given, None)
    };
    let store = closed.open();
    let anew = vec![nameless(1), nameless(2)];
    store.commit(anew).await.expect("committed");
    for n in [1, 2] {
        assert_eq!(record(&store, n).await.pid, None, "a row isn't sealed");
    }
    let found = store.find(MerchantKey::Pid(pid())).await.expect("whole");
    assert!(found.is_empty());
    // Alipay says it, as of everybody else of whom it isn't known.
    let fill = Change::FillPid {
        app_id: app(),
        auth_app_id: merchant_app(1),
        pid: pid(),
    };
    store.commit(vec![fill]).await.expect("committed");
    let found = store.find(MerchantKey::Pid(pid())).await.expect("whole");
    assert_eq!(found[0].auth_app_id, merchant_app(1));
    drop(store);
    let inspection = closed.inspect();
    assert!(inspection.is_clean(), "{:?}", inspection.findings);
}

#[tokio::test]
async fn a_row_without_a_record_counts_only_where_one_was_moved_aside() {
    let closed = Closed::new().await;
    // As an earlier version removed a damaged merchant.
    closed.tamper(|tx| {
        let mut merchants = tx.open_table(MERCHANTS).expect("there");
        merchants
            .remove(merchant_key(1).as_slice())
            .expect("removed");
        let mut by_id = open::<Bytes, ()>(tx, "by_auth_app_id");
        let row = format!("{}\0{}", merchant_app(1), app());
        by_id.remove(row.as_bytes()).expect("removed");
    });
    let store = closed.open();
    let of_pid = async |store: &EmbeddedStore| {
        let found = store.find(MerchantKey::Pid(pid())).await.expect("whole");
        let ids = found.iter().map(|it| it.auth_app_id.clone());
        ids.collect::<Vec<_>>()
    };
    assert_eq!(of_pid(&store).await, [merchant_app(2)]);
    let given = authorization(1, "token-new", Rank::AuthTime(START + 1));
    store
        .commit(vec![authorize(given, None)])
        .await
        .expect("committed");
    drop(store);
    // One that was moved aside counts, however long ago that is.
    set_aside(&closed, 1).await;
    let store = closed.open();
    let late = START + 90 * 24 * 3_600_000;
    store.prune(late, 0).await.expect("pruned");
    assert_eq!(unread(&store, MerchantKey::Pid(pid())).await, [name(1)]);
    // And no longer once it authorised again, whatever becomes of it then.
    let given = authorization(1, "token-newer", Rank::AfterStored);
    let changes = vec![
        authorize(given, None),
        Change::RemoveMerchant(app(), merchant_app(1)),
    ];
    store.commit(changes).await.expect("committed");
    drop(store);
    closed.tamper(|tx| {
        let mut by_pid = open::<Bytes, ()>(tx, "by_pid");
        let row = format!("{}\0{}\0{}", pid(), app(), merchant_app(1));
        by_pid.insert(row.as_bytes(), ()).expect("written");
    });
    let store = closed.open();
    assert_eq!(of_pid(&store).await, [merchant_app(2)]);
    // What was damaged is kept to be looked at as long as ever.
    assert_eq!(store.counts().await.expect("readable").damaged, 1);
    store.prune(late, 0).await.expect("pruned");
    assert_eq!(store.counts().await.expect("readable").damaged, 0);
}

fn shop() -> Alias {
    Alias::new("shop").expect("an alias")
}

/// Merchant `n` under that alias from now on, or under none.
fn named(n: u32, alias: Option<Alias>) -> Change {
    Change::NameMerchant {
        app_id: app(),
        auth_app_id: merchant_app(n),
        alias,
    }
}

/// Whom the alias `shop` finds.
async fn of_shop(store: &EmbeddedStore) -> Vec<AuthAppId> {
    let found = store.find(MerchantKey::Alias(shop())).await;
    let found = found.expect("readable");
    found.iter().map(|it| it.auth_app_id.clone()).collect()
}

fn given_as_shop(n: u32, token: &str) -> Change {
    let mut given = authorization(n, token, Rank::AfterStored);
    given.alias = Some(shop());
    authorize(given, None)
}

#[tokio::test]
async fn an_alias_that_was_given_away_within_a_commit_stays_given() {
    let closed = Closed::new().await;
    let store = closed.open();
    let named = given_as_shop(1, "token-1");
    store.commit(vec![named]).await.expect("committed");
    drop(store);
    set_aside(&closed, 1).await;
    closed.flip_merchant(2);
    let store = closed.open();
    let given = authorization(1, "token-new-1", Rank::AfterStored);
    let import = vec![given_as_shop(2, "token-new-2"), authorize(given, None)];
    store.commit(import).await.expect("committed");
    assert_eq!(of_shop(&store).await, [merchant_app(2)]);
    drop(store);
    let inspection = closed.inspect();
    assert!(inspection.is_clean(), "{:?}", inspection.findings);
}

#[tokio::test]
async fn of_two_that_claim_an_alias_neither_takes_it_nor_loses_what_was_bought() {
    let closed = Closed::new().await;
    both_named(&closed).await;
    let bought = async |store: &EmbeddedStore, n: u32, token: &str| {
        let given = authorization(n, token, Rank::AfterStored);
        let effects = store.commit(vec![authorize(given, None)]).await;
        let effects = effects.expect("what was bought is kept");
        assert!(matches!(effects[..], [Effect::Applied]));
        assert_eq!(
            record(store, n).await.token.app_auth_token.expose(),
            token,
            "{n}"
        );
    };
    let store = closed.open();
    bought(&store, 2, "token-b").await;
    assert_eq!(of_shop(&store).await, [merchant_app(2)], "it was free");
    bought(&store, 1, "token-a").await;
    assert_eq!(of_shop(&store).await, [merchant_app(2)]);
    let fetched = Change::FetchedKey {
        app_id: app(),
        auth_app_id: merchant_app(1),
        encrypt_key: secret("key"),
    };
    store.commit(vec![fetched]).await.expect("committed");
    assert_eq!(of_shop(&store).await, [merchant_app(2)]);
    // Who says that it is the alias is told that it is taken.
    let said = store.commit(vec![given_as_shop(1, "token-c")]).await;
    assert!(matches!(said, Err(StoreError::AliasTaken { .. })));
    let remove = |n| Change::RemoveMerchant(app(), merchant_app(n));
    // Nor does the row go with the one that hasn't got it.
    store.commit(vec![remove(1)]).await.expect("committed");
    assert_eq!(of_shop(&store).await, [merchant_app(2)]);
    store.commit(vec![remove(2)]).await.expect("committed");
    assert!(of_shop(&store).await.is_empty());
}

#[tokio::test]
async fn an_alias_that_is_free_again_is_given_to_whoever_claims_it_already() {
    let closed = Closed::new().await;
    both_named(&closed).await;
    let store = closed.open();
    for n in [1, 2] {
        let effects = store.commit(vec![named(n, Some(shop()))]).await;
        assert_eq!(effects.is_ok(), n == 1, "it is the first one's");
        assert_eq!(of_shop(&store).await, [merchant_app(1)]);
    }
    let changes = vec![named(1, None), named(2, Some(shop()))];
    store.commit(changes).await.expect("committed");
    assert_eq!(of_shop(&store).await, [merchant_app(2)]);
    drop(store);
    let inspection = closed.inspect();
    assert!(inspection.is_clean(), "{:?}", inspection.findings);
}

#[tokio::test]
async fn an_import_lists_a_merchant_under_the_alias_that_its_record_claims_already() {
    let closed = Closed::new().await;
    let import = |alias| {
        let given = authorization(2, "token-2", Rank::AfterStored);
        let source = Source::Import;
        let given = Authorization {
            alias,
            source,
            ..given
        };
        vec![authorize(given, None)]
    };
    let store = closed.open();
    store.commit(import(None)).await.expect("committed");
    drop(store);
    both_named(&closed).await;
    let store = closed.open();
    store.commit(vec![named(1, None)]).await.expect("committed");
    assert!(of_shop(&store).await.is_empty());
    store.commit(import(Some(shop()))).await.expect("committed");
    assert_eq!(of_shop(&store).await, [merchant_app(2)]);
}

#[tokio::test]
async fn a_damaged_merchant_that_is_removed_is_found_by_nothing() {
    let closed = Closed::new().await;
    let store = closed.open();
    let found = store.find(MerchantKey::AuthAppId(merchant_app(1))).await;
    let revocation = Revocation::new(&found.expect("readable")[0], Some(START + 9));
    drop(store);
    closed.flip_merchant(1);
    closed.flip_merchant(2);
    let store = closed.open();
    let change = Change::Revoke {
        revocation,
        entry: None,
    };
    store.commit(vec![change]).await.expect("committed");
    // One is moved aside by now, the other is not.
    let remove = |n| Change::RemoveMerchant(app(), merchant_app(n));
    let effects = store.commit(vec![remove(1), remove(2), remove(1)]).await;
    let effects = effects.expect("committed");
    assert!(matches!(
        effects[..],
        [Effect::Applied, Effect::Applied, Effect::Missing]
    ));
    assert!(unread(&store, MerchantKey::Pid(pid())).await.is_empty());
    drop(store);
    let inspection = closed.inspect();
    assert!(inspection.is_clean(), "{:?}", inspection.findings);
}

/// Gives both merchants the alias `shop`, of which no row is left.
async fn both_named(closed: &Closed) {
    for n in [1, 2] {
        let store = closed.open();
        let change = named(n, Some(shop()));
        store.commit(vec![change]).await.expect("committed");
        drop(store);
        closed.tamper(|tx| clear::<Bytes, Bytes>(tx, "by_alias"));
    }
}

#[tokio::test]
async fn a_repair_lists_nobody_under_an_alias_that_two_claim() {
    let closed = Closed::new().await;
    both_named(&closed).await;
    let repaired = closed.file().repair(START + 7).expect("repaired");
    let [contested] = repaired.contested.as_slice() else {
        panic!("{:?}", repaired.contested);
    };
    for text in ["`shop`", &name(1), &name(2)] {
        assert!(contested.contains(text), "no {text} in {contested}");
    }
    assert_eq!(repaired.relisted, 0);
    let store = closed.open();
    let key = MerchantKey::Alias(Alias::new("shop").expect("an alias"));
    assert!(store.find(key.clone()).await.expect("readable").is_empty());
    // Once one has another, the other gets it.
    store.commit(vec![named(1, None)]).await.expect("committed");
    drop(store);
    let repaired = closed.file().repair(START + 8).expect("repaired");
    assert_eq!((repaired.relisted, repaired.contested.len()), (1, 0));
    let found = closed.open().find(key).await.expect("readable");
    assert_eq!(found[0].auth_app_id, merchant_app(2));
}

#[tokio::test]
async fn a_row_that_its_merchant_contradicts_keeps_its_alias_from_nobody() {
    let closed = Closed::new().await;
    let stale = || {
        closed.tamper(|tx| {
            let mut by_alias = open::<Bytes, Bytes>(tx, "by_alias");
            let (row, owner) = (format!("shop\0{}", app()), merchant_app(2).to_string());
            by_alias
                .insert(row.as_bytes(), owner.as_bytes())
                .expect("written");
            let mut by_pid = open::<Bytes, ()>(tx, "by_pid");
            let row = format!("2088000000000009\0{}\0{}", app(), merchant_app(2));
            by_pid.insert(row.as_bytes(), ()).expect("written");
        });
    };
    stale();
    let found = closed.inspect();
    assert_eq!(found.contradictions, 2, "{:?}", found.findings);
    let repaired = closed.file().repair(START + 7).expect("repaired");
    assert_eq!(repaired.removed.len(), 2, "{:?}", repaired.removed);
    let found = closed.inspect();
    assert!(found.is_clean(), "{:?}", found.findings);
    stale();
    let store = closed.open();
    let named = Change::NameMerchant {
        app_id: app(),
        auth_app_id: merchant_app(1),
        alias: Some(Alias::new("shop").expect("an alias")),
    };
    let effects = store.commit(vec![named]).await;
    assert!(matches!(effects.expect("free")[..], [Effect::Applied]));
}

#[tokio::test]
async fn a_damaged_merchant_that_authorises_anew_without_its_alias_keeps_it_from_nobody() {
    let closed = Closed::new().await;
    let named = |n| {
        let mut given = authorization(n, &format!("token-{n}"), Rank::AfterStored);
        given.alias = Some(Alias::new("shop").expect("an alias"));
        authorize(given, None)
    };
    let store = closed.open();
    store.commit(vec![named(1)]).await.expect("committed");
    drop(store);
    closed.flip_merchant(1);
    let store = closed.open();
    let given = authorization(1, "token-new", Rank::AfterStored);
    let anew = authorize(given, None);
    store.commit(vec![anew]).await.expect("committed");
    let effects = store.commit(vec![named(2)]).await;
    assert!(matches!(effects.expect("free")[..], [Effect::Applied]));
}

#[tokio::test]
async fn a_repair_leaves_no_merchant_unfound_and_no_row_that_leads_to_none() {
    let closed = Closed::new().await;
    closed.tamper(|tx| {
        // One bit of the key itself, so that nothing leads to the record any more.
        let mut merchants = tx.open_table(MERCHANTS).expect("there");
        let key = merchant_key(1);
        let record = {
            let row = merchants.remove(key.as_slice()).expect("readable");
            row.expect("there").value().to_vec()
        };
        let mut other = key.clone();
        *other.last_mut().expect("a digit") ^= 0x40;
        merchants
            .insert(other.as_slice(), record.as_slice())
            .expect("written");
        // And the other merchant lost a row, while one was left behind.
        clear::<Bytes, ()>(tx, "by_auth_app_id");
        let mut revoked = open::<Bytes, ()>(tx, "revoked");
        revoked.insert(b"1\x002".as_slice(), ()).expect("written");
    });
    let before = closed.inspect();
    assert_eq!(before.damaged, 1, "{:?}", before.findings);
    let repaired = closed.file().repair(START + 7).expect("repaired");
    assert_eq!((repaired.moved.len(), repaired.relisted), (1, 1));
    assert_eq!(repaired.removed.len(), 2, "{:?}", repaired.removed);
    for row in &repaired.removed {
        let named = format!("{row} contradicts the records");
        assert!(before.findings.contains(&named), "{named} in {before:?}");
    }
    let found = closed.inspect();
    assert!(found.is_clean(), "{:?}", found.findings);
    let store = closed.open();
    let other = store.find(MerchantKey::AuthAppId(merchant_app(2))).await;
    assert_eq!(other.expect("readable").len(), 1);
}

#[tokio::test]
async fn every_damaged_record_is_named_and_a_repair_moves_all_aside() {
    let closed = Closed::new().await;
    assert!(closed.inspect().is_clean());
    closed.flip_entry(NOTIFICATIONS, closed.second);
    closed.flip_entry(DELIVERIES, closed.done);
    closed.flip_merchant(1);
    closed.tamper(|tx| {
        let mut memos = tx.open_table(MEMOS).expect("there");
        let key = MemoKey::new("test", &["m"]).0;
        let (at, mut bytes) = {
            let row = memos.get(&key).expect("readable").expect("there");
            (row.value().0, row.value().1.to_vec())
        };
        bytes[20] ^= 1;
        memos.insert(&key, (at, bytes.as_slice())).expect("written");
        let mut tokens = tx.open_table(BY_TOKEN).expect("there");
        let rows: Vec<_> = tokens
            .iter()
            .expect("readable")
            .map(|row| *row.expect("readable").0.value())
            .collect();
        for key in rows {
            tokens
                .insert(&key, b"\x01nonsense".as_slice())
                .expect("written");
        }
    });
    let found = closed.inspect();
    assert_eq!(found.damaged, 6, "{:?}", found.findings);
    for name in [
        format!(
            "record {} of table `notifications` is damaged",
            closed.second
        ),
        format!("record {} of table `deliveries` is damaged", closed.done),
        format!("record {}/{} of table `merchants`", app(), merchant_app(1)),
        "of table `memos` is damaged".to_owned(),
        "of table `by_token` is damaged".to_owned(),
    ] {
        assert!(
            found.findings.iter().any(|finding| finding.contains(&name)),
            "{name} in {:?}",
            found.findings
        );
    }
    let rekeyed = closed.file().rekey(
        &StoreKey::generate(),
        &closed.dir.path().join("kept"),
        &mut |_| {},
    );
    let Err(StoreError::Unavailable { reason }) = rekeyed else {
        panic!("a damaged record can't be sealed anew: {rekeyed:?}");
    };
    assert!(reason.contains("store check --repair"), "{reason}");
    let repaired = closed.file().repair(START + 7).expect("repaired");
    assert_eq!((repaired.moved.len(), repaired.rebuilt), (6, 0));
    assert!(
        repaired
            .moved
            .iter()
            .all(|record| found.findings.contains(&format!("{record} is damaged")))
    );
    let found = closed.inspect();
    assert!(found.is_clean(), "{:?}", found.findings);
    let store = closed.open();
    let (_, delivery) = store
        .entry(closed.done)
        .await
        .expect("readable")
        .expect("made anew");
    assert_eq!(delivery.state, DeliveryState::Delivered);
    let other = store.find(MerchantKey::Token(secret("token-2"))).await;
    assert_eq!(
        other.expect("readable").len(),
        1,
        "found by its token again"
    );
    let gone = store.find(MerchantKey::AuthAppId(merchant_app(1))).await;
    assert!(gone.expect("readable").is_empty());
}

/// Takes a row out of one index, or puts one in, and says what must be found.
type Contradiction = (&'static str, fn(&redb::WriteTransaction));

#[tokio::test]
async fn an_index_that_contradicts_the_records_is_named() {
    let removed: [Contradiction; 5] = [
        ("by_auth_app_id", |tx| {
            clear::<Bytes, ()>(tx, "by_auth_app_id")
        }),
        ("by_pid", |tx| clear::<Bytes, ()>(tx, "by_pid")),
        ("delivery", |tx| clear::<Id, i64>(tx, "pending")),
        ("delivery", |tx| clear::<(i64, Id), ()>(tx, "due")),
        ("memos", |tx| {
            clear::<(i64, &[u8; 32]), ()>(tx, "memo_expiry")
        }),
    ];
    for (name, change) in removed {
        let closed = Closed::new().await;
        closed.tamper(change);
        let found = closed.inspect();
        assert_eq!(found.damaged, 0);
        assert!(found.contradictions > 0, "{name}");
        assert!(
            found.findings.iter().any(|finding| finding.contains(name)),
            "{name} in {:?}",
            found.findings
        );
    }
    let added: [Contradiction; 4] = [
        ("`due`", |tx| {
            let mut due = open::<(i64, Id), ()>(tx, "due");
            due.insert((START, &[9; 16]), ()).expect("written");
        }),
        ("`settled`", |tx| {
            let mut settled = open::<(i64, Id), ()>(tx, "settled");
            settled.insert((START, &[9; 16]), ()).expect("written");
        }),
        ("`revoked`", |tx| {
            let mut revoked = open::<Bytes, ()>(tx, "revoked");
            revoked.insert(b"1\x002".as_slice(), ()).expect("written");
        }),
        ("`by_alias`", |tx| {
            let mut aliases = open::<Bytes, Bytes>(tx, "by_alias");
            let row = (b"shop\x001".as_slice(), b"2".as_slice());
            aliases.insert(row.0, row.1).expect("written");
        }),
    ];
    for (name, change) in added {
        let closed = Closed::new().await;
        closed.tamper(change);
        let found = closed.inspect();
        assert_eq!((found.damaged, found.contradictions), (0, 1), "{name}");
        assert!(found.findings[0].contains(name), "{:?}", found.findings);
    }
}

fn open<'t, K: Key + 'static, V: redb::Value + 'static>(
    tx: &'t redb::WriteTransaction,
    name: &str,
) -> redb::Table<'t, K, V> {
    tx.open_table(TableDefinition::<K, V>::new(name))
        .expect("there")
}

fn clear<K: Key + 'static, V: redb::Value + 'static>(tx: &redb::WriteTransaction, name: &str) {
    open::<K, V>(tx, name)
        .retain(|_, _| false)
        .expect("cleared");
}
