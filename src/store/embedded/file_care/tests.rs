//! What damage, a disk that fails and old files do to work on the file itself.

use std::cell::Cell;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, TableHandle, WriteTransaction};

use crate::clock::ManualClock;
use crate::model::call::CallId;
use crate::model::call::CallKey;
use crate::model::id::{AppId, AuthAppId, EventId};
use crate::model::notification::InboxEntry;
use crate::model::notification::{Body, DeliveryForm};
use crate::model::user_token::UserKey;
use crate::model::user_token::UserName;
use crate::protocol::secret::Secret;
use crate::store::care::Inspection;
use crate::store::embedded::faulty::authorize;
use crate::store::embedded::inbox_records::seal_entry;
use crate::store::embedded::lookup::{delivery_place, entry_place};
use crate::store::embedded::tables::Tables;
use crate::store::embedded::*;
use crate::store::{Change, Directory, Inbox, MerchantKey, Store};

const START: i64 = 1_700_000_000_000;

/// A store that is opened and closed.
struct Kept {
    options: OpenOptions,
    _dir: tempfile::TempDir,
}

impl Kept {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = OpenOptions {
            path: dir.path().join("store.redb"),
            key: StoreKey::generate(),
            cache_bytes: 1 << 20,
            clock: Arc::new(ManualClock::new(START)),
        };
        EmbeddedStore::create(&options.path, &options.key).expect("created");
        Self { options, _dir: dir }
    }

    fn open(&self) -> EmbeddedStore {
        EmbeddedStore::open(self.options.clone()).expect("opened")
    }

    fn file(&self) -> StoreFile {
        StoreFile::open(&self.options.path, &self.options.key, 1 << 20).expect("opened")
    }

    fn sealer(&self) -> Sealer {
        let file = self.file();
        let keys = open::index_keys(&file.db, &self.options.path, &file.sealer);
        Sealer::new(&self.options.key).with_index_keys(keys.expect("there"))
    }

    /// Changes the file behind the store's back.
    fn tamper(&self, change: impl FnOnce(&WriteTransaction)) {
        let db = Database::open(&self.options.path).expect("opened");
        let tx = db.begin_write().expect("transaction");
        change(&tx);
        tx.commit().expect("committed");
    }
}

fn app() -> AppId {
    AppId::new("2021000000000001").expect("an id")
}

fn entry(received_at: i64) -> InboxEntry {
    InboxEntry {
        id: EventId::new(received_at),
        app_id: app(),
        notify_id: None,
        event_type: "trade_status_sync".to_owned(),
        auth_app_id: None,
        pid: None,
        received_at,
        notify_path: "/orders".to_owned(),
        notify_query: String::new(),
        order_key: None,
        opened_content: None,
        scheme: None,
        body: Some(Body {
            content_type: "application/x-www-form-urlencoded".to_owned(),
            bytes: bytes::Bytes::from_static(b"a=b"),
        }),
        event: None,
        form: DeliveryForm::AsConfigured,
    }
}

/// What opens but means nothing to this program.
fn strange(sealer: &Sealer, place: crate::store::seal::Place<'_>) -> Vec<u8> {
    sealer.seal(place, b"\0\0\0\x02{}").expect("sealed")
}

#[test]
fn who_reads_for_long_keeps_nobody_from_opening_the_store_anew() {
    let kept = Kept::new();
    let store = kept.open();
    let shared = &store.0.shared;
    let read = shared.with_long_snapshot(|tx| {
        // Would wait for ever for a reader that holds the database.
        shared.reopen(Access::Full).expect("opened anew");
        for table in catalogue::TABLES {
            table.walk(tx, &mut |_, _| Ok(()))?;
        }
        Ok(())
    });
    let error = read.expect_err("the file was closed").into_error();
    assert!(error.to_string().contains("opened anew"), "{error}");
    let counted = shared.with_snapshot(|tx| copy::count(tx, &shared.sealer));
    assert!(counted.is_ok(), "{counted:?}");
}

#[test]
fn a_look_at_the_indexes_asks_at_every_row_whether_to_go_on() {
    let kept = Kept::new();
    for fill in [
        |tables: &mut Tables<'_>, n: u16| {
            let key = n.to_be_bytes();
            drop(tables.by_alias.insert(key.as_slice(), key.as_slice()));
        },
        |tables: &mut Tables<'_>, n: u16| {
            let key = EventId::new(i64::from(n)).to_bytes();
            drop(tables.notifications.insert(&key, b"".as_slice()));
        },
        |tables: &mut Tables<'_>, n: u16| {
            let key = EventId::new(i64::from(n)).to_bytes();
            let row = (0, 0, 0, &[0; 16], &[0; 16]);
            drop(tables.refused_index.insert(&key, row));
        },
    ] {
        let db = Database::builder()
            .create_with_backend(redb::backends::InMemoryBackend::new())
            .expect("in memory");
        let tx = db.begin_write().expect("transaction");
        Tables::create(&tx).expect("created");
        let mut tables = Tables::new(&tx);
        (0..100).for_each(|n| fill(&mut tables, n));
        drop(tables);
        tx.commit().expect("committed");
        let asked = Cell::new(0);
        let go_on = || {
            asked.set(asked.get() + 1);
            Ok(())
        };
        let tx = db.begin_read().expect("transaction");
        let mut found = Inspection::default();
        inspect_indexes::inspect(&tx, &kept.sealer(), &go_on, &mut found).expect("inspected");
        assert!(asked.get() >= 100, "{} of 100 rows", asked.get());
    }
}

#[test]
fn a_copy_that_takes_too_long_is_given_up_however_fast_each_piece_is_taken() {
    let kept = Kept::new();
    let store = kept.open();
    let (sender, _receiver) = tokio::sync::mpsc::channel(8);
    let send = |end| backup::send(&store.0.shared, &sender, vec![1], end);
    send(Instant::now() + Duration::from_secs(60)).expect("sent");
    let refused = send(Instant::now()).expect_err("too late").into_error();
    assert!(refused.to_string().contains("hour"), "{refused}");
}

#[tokio::test]
async fn a_merchant_that_is_removed_takes_no_other_ones_token_along() {
    let kept = Kept::new();
    let store = kept.open();
    let both = vec![authorize("1", "first"), authorize("2", "second")];
    store.commit(both).await.expect("committed");
    drop(store);
    let digest = kept
        .sealer()
        .token_digest(&Secret::new("second".to_owned()));
    kept.tamper(|tx| {
        let mut row = tables::prefix(&[app().as_str(), "1"]);
        row.extend(digest);
        let mut table = tx.open_table(tables::TOKENS_OF).expect("there");
        table.insert(row.as_slice(), ()).expect("written");
    });
    let store = kept.open();
    let first = AuthAppId::new("1").expect("an id");
    let remove = Change::RemoveMerchant(app(), first);
    store.commit(vec![remove]).await.expect("committed");
    for (token, owners) in [("first", 0), ("second", 1)] {
        let key = MerchantKey::Token(Secret::new(token.to_owned()));
        let found = store.find(key).await.expect("readable");
        assert_eq!(found.len(), owners, "{token}");
    }
}

#[tokio::test]
async fn what_only_a_newer_program_understands_keeps_nothing_else_from_being_due() {
    let kept = Kept::new();
    let sealer = kept.sealer();
    kept.tamper(|tx| {
        let mut tables = Tables::new(tx);
        // More than one look takes to be moved aside.
        for n in 0..600 {
            let key = EventId::new(START - 1000 + n).to_bytes();
            let record = strange(&sealer, entry_place(&key));
            let done = tables.notifications.insert(&key, record.as_slice());
            drop(done.expect("written"));
            let record = strange(&sealer, delivery_place(&key));
            let done = tables.deliveries.insert(&key, record.as_slice());
            drop(done.expect("written"));
            tables
                .due
                .insert((START - 1000 + n, &key), ())
                .expect("written");
        }
    });
    let store = kept.open();
    let own = entry(START);
    let receive = Change::Receive(Box::new(own.clone()));
    store.commit(vec![receive]).await.expect("committed");
    let due = store
        .due(START, 10, HashSet::new())
        .await
        .expect("readable");
    let due: Vec<_> = due.now.iter().map(|(entry, _)| entry.id).collect();
    assert_eq!(due, [own.id]);
}

#[tokio::test]
async fn a_row_of_the_queue_without_a_record_is_mended_or_removed() {
    let kept = Kept::new();
    let store = kept.open();
    let own = entry(START - 2);
    let receive = Change::Receive(Box::new(own.clone()));
    store.commit(vec![receive]).await.expect("committed");
    drop(store);
    let nobody = EventId::new(START - 3).to_bytes();
    kept.tamper(|tx| {
        let mut tables = Tables::new(tx);
        drop(tables.deliveries.remove(&own.id.to_bytes()).expect("there"));
        tables
            .due
            .insert((START - 3, &nobody), ())
            .expect("written");
    });
    let store = kept.open();
    let due = loop {
        let due = store
            .due(START, 10, HashSet::new())
            .await
            .expect("readable");
        if !due.now.is_empty() {
            break due;
        }
    };
    assert_eq!(due.now.len(), 1);
    drop(store);
    let found = kept.file().inspect().expect("readable");
    assert!(found.is_clean(), "{:?}", found.findings);
}

#[test]
fn a_repair_ends_where_it_can_move_nothing_and_moves_all_it_can() {
    let kept = Kept::new();
    let sealer = kept.sealer();
    let own = entry(START);
    let (stuck, lone) = (EventId::new(START - 1).to_bytes(), own.id.to_bytes());
    kept.tamper(|tx| {
        let mut tables = Tables::new(tx);
        let record = strange(&sealer, entry_place(&stuck));
        let done = tables.notifications.insert(&stuck, record.as_slice());
        drop(done.expect("written"));
        let done = tables.deliveries.insert(&stuck, b"damaged".as_slice());
        drop(done.expect("written"));
        // A whole notification without a delivery.
        let record = seal_entry(&sealer, entry_place(&lone), &own).expect("sealed");
        let done = tables.notifications.insert(&lone, record.as_slice());
        drop(done.expect("written"));
        let done = tables.apps.insert(b"app".as_slice(), b"damaged".as_slice());
        drop(done.expect("written"));
    });
    let mut file = kept.file();
    let repaired = file.repair(START).expect("it ends");
    assert_eq!(repaired.moved, ["record app of table `apps`"]);
    assert_eq!(repaired.rebuilt, 1, "the lone one");
    let found = file.inspect().expect("readable");
    assert!(
        !found
            .findings
            .iter()
            .any(|f| f.contains(&own.id.to_string())),
        "{:?}",
        found.findings
    );
    assert!(found.damaged >= 1, "what is stuck is still named");
    let stats = file.stats().expect("readable");
    assert_eq!((stats.pending, stats.damaged), (1, 1));
}

/// Deletes the tables that a schema version added.
fn delete_added(tx: &WriteTransaction, version: u64) {
    let delete = |name: &str| {
        let tables = tx.list_tables().expect("listed");
        let mut named = tables.filter(|table| table.name() == name);
        let table = named.next().expect("it was there");
        drop(named);
        assert!(tx.delete_table(table).expect("deleted"), "{name}");
    };
    let added: &[&str] = match version {
        2 => &["certificates"],
        3 => &["damaged"],
        4 => &["refused", "refused_index", "variants"],
        5 => &["leased", "parked"],
        6 => &[
            "calls",
            "calls_at",
            "calls_named",
            "users",
            "users_end",
            "users_forgotten",
        ],
        7 => &["suspect"],
        _ => panic!("what version {version} added belongs here"),
    };
    added.iter().for_each(|name| delete(name));
}

/// Makes the file one of schema `version` as the program of that time left it, with one merchant
/// and one notification in it.
async fn aged(version: u64) -> Kept {
    let kept = Kept::new();
    // Versions 1 and 2 had digests of keys that were derived from the store key.
    kept.tamper(|tx| {
        let sealer = Sealer::new(&kept.options.key);
        open::write_index_keys(tx, &sealer, sealer.index_keys()).expect("written");
    });
    let store = kept.open();
    let receive = Change::Receive(Box::new(entry(START)));
    let changes = vec![authorize("1", "a token"), receive];
    store.commit(changes).await.expect("committed");
    drop(store);
    kept.tamper(|tx| {
        (version + 1..=tables::SCHEMA).for_each(|added| delete_added(tx, added));
        tables::write_schema(tx, version).expect("written");
        let mut meta = tx.open_table(tables::META).expect("there");
        if version < 3 {
            drop(meta.remove(tables::INDEX_KEY).expect("removed"));
        }
        drop(meta.remove(tables::CALLS_SIZE_KEY).expect("removed"));
    });
    kept
}

#[tokio::test]
async fn a_file_of_every_older_schema_has_all_that_is_used_before_the_first_write() {
    for version in 1..tables::SCHEMA {
        let kept = aged(version).await;
        let store = kept.open();
        let told = store.migrated().map(|it| (it.from, it.to));
        assert_eq!(told, Some((version, tables::SCHEMA)));
        if let Err(error) = use_all(&store).await {
            panic!("from version {version}: {error}");
        }
        drop(store);
        let file = kept.file();
        assert_eq!(file.migrated(), None, "it was before");
        let found = file.inspect().expect("readable");
        assert!(found.is_clean(), "from {version}: {:?}", found.findings);
    }
}

async fn use_all(store: &EmbeddedStore) -> Result<(), StoreError> {
    let counts = store.counts().await?;
    assert_eq!((counts.merchants_authorized, counts.pending), (1, 1));
    assert_eq!((counts.damaged, counts.refused), (0, 0));
    let token = MerchantKey::Token(Secret::new("a token".to_owned()));
    assert_eq!(store.find(token).await?.len(), 1);
    assert_eq!(store.due(START, 10, HashSet::new()).await?.now.len(), 1);
    let claimable = store.claimable(START, 10, HashSet::new()).await?;
    assert_eq!(claimable.now.len(), 1);
    assert!(store.lapsed(START, 10).await?.is_empty());
    assert!(store.certificates().await?.is_empty());
    assert!(store.refused(None, 10).await?.is_empty());
    assert!(store.variants(EventId::new(START)).await?.is_empty());
    for key in [
        CallKey::Id(CallId::from_bytes([1; 16])),
        CallKey::Named {
            caller: None,
            caller_request_id: "a".to_owned(),
        },
    ] {
        assert!(store.call(key, START).await?.is_none());
    }
    let user = UserKey {
        app_id: app(),
        auth_app_id: None,
        name: UserName::new("2088").expect("a name"),
    };
    assert!(store.user(user).await?.is_none());
    assert_eq!(store.stats().await?.schema, tables::SCHEMA);
    Ok(())
}
