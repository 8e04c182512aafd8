//! What the embedded store promises about its file.

use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use alipay_sidecar::clock::ManualClock;
use alipay_sidecar::model::authorization::Rank;
use alipay_sidecar::model::delivery::Lease;
use alipay_sidecar::model::id::EventId;
use alipay_sidecar::store::embedded::{EmbeddedStore, OpenOptions};
use alipay_sidecar::store::error::StoreError;
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar::store::{Change, Directory, Inbox, MerchantKey, Store};
use redb::{Database, ReadableTable, TableDefinition};

use crate::store::{Fixture, START, app, authorization, authorize, entry, merchant_app};

const MERCHANTS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("merchants");
const DELIVERIES: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("deliveries");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");

/// A store's file and key, with nothing open.
struct Closed {
    dir: tempfile::TempDir,
    key: StoreKey,
    entries: Vec<EventId>,
}

impl Closed {
    /// A store with two merchants and their entries.
    async fn filled() -> Self {
        let fixture = Fixture::embedded();
        let mut entries = Vec::new();
        for n in [1, 2] {
            let given = authorization(n, &format!("token-of-{n}"), Rank::AfterStored);
            let entry = entry(START + i64::from(n), Some("notify-1").filter(|_| n == 1));
            entries.push(entry.id);
            fixture.commit(authorize(given, Some(entry))).await;
        }
        let Fixture {
            store, key, dir, ..
        } = fixture;
        drop(store);
        Self { dir, key, entries }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("store.redb")
    }

    fn open(&self) -> Result<EmbeddedStore, StoreError> {
        open(&self.path(), &self.key)
    }

    /// Changes the file behind the store's back.
    fn tamper(&self, change: impl FnOnce(&redb::WriteTransaction)) {
        let db = Database::open(self.path()).expect("opened");
        let tx = db.begin_write().expect("transaction");
        change(&tx);
        tx.commit().expect("committed");
    }
}

fn open(path: &Path, key: &StoreKey) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::open(OpenOptions {
        path: path.to_owned(),
        key: key.clone(),
        cache_bytes: 1 << 20,
        clock: Arc::new(ManualClock::new(START)),
    })
}

#[tokio::test]
async fn a_lease_outlives_the_program() {
    let closed = Closed::filled().await;
    let id = closed.entries[0];
    let since = START + 100;
    let lease = Lease {
        since,
        until: since + 1_000,
    };
    let store = closed.open().expect("opened");
    store
        .commit(vec![Change::Claim { id, lease }])
        .await
        .expect("stored");
    drop(store);
    let store = closed.open().expect("opened");
    let ids = async |now| {
        let found = store
            .claimable(now, 10, HashSet::new())
            .await
            .expect("readable")
            .now;
        found.iter().map(|(entry, _)| entry.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(lease.until - 1).await, [closed.entries[1]]);
    assert!(ids(lease.until).await.contains(&id));
    let (_, delivery) = store.entry(id).await.expect("readable").expect("there");
    assert_eq!((delivery.attempts, delivery.lease), (1, Some(lease)));
}

#[tokio::test]
async fn what_was_committed_is_there_when_opened_again() {
    let closed = Closed::filled().await;
    let store = closed.open().expect("opened");
    assert_eq!(store.merchants(None, 10).await.expect("readable").len(), 2);
    assert_eq!(store.counts().await.expect("readable").pending, 2);
    assert!(store.is_writable());
}

#[tokio::test]
async fn no_secret_and_no_body_stands_in_the_file() {
    let closed = Closed::filled().await;
    let bytes = std::fs::read(closed.path()).expect("readable");
    for secret in ["token-of-1", "refresh-", "plain-to-see", "notify-1"] {
        let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
        assert!(!found, "`{secret}` stands in the file");
    }
}

#[tokio::test]
async fn the_file_is_its_owners_alone_and_nothing_is_left_beside_it() {
    let closed = Closed::filled().await;
    let mode = std::fs::metadata(closed.path())
        .expect("there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    assert_eq!(
        std::fs::read_dir(closed.dir.path())
            .expect("readable")
            .count(),
        1
    );
}

#[tokio::test]
async fn creating_never_overwrites_and_opening_never_creates() {
    let closed = Closed::filled().await;
    let created = EmbeddedStore::create(&closed.path(), &closed.key);
    assert!(matches!(created, Err(StoreError::Exists { .. })));
    let elsewhere = closed.dir.path().join("mistyped.redb");
    assert!(matches!(
        open(&elsewhere, &closed.key),
        Err(StoreError::Missing { .. })
    ));
    assert!(!elsewhere.exists());
    let empty = closed.dir.path().join("empty.redb");
    std::fs::write(&empty, b"").expect("written");
    assert!(matches!(
        open(&empty, &closed.key),
        Err(StoreError::DamagedFile { .. })
    ));
    assert_eq!(std::fs::metadata(&empty).expect("there").len(), 0);
    assert!(matches!(
        open(closed.dir.path(), &closed.key),
        Err(StoreError::DamagedFile { .. })
    ));
}

#[tokio::test]
async fn another_key_is_named_as_the_cause() {
    let closed = Closed::filled().await;
    let opened = open(&closed.path(), &StoreKey::generate());
    assert!(matches!(opened, Err(StoreError::WrongKey { .. })));
    assert!(closed.open().is_ok());
}

#[tokio::test]
async fn a_store_in_use_is_locked_until_it_is_dropped() {
    let closed = Closed::filled().await;
    let store = closed.open().expect("opened");
    assert!(matches!(closed.open(), Err(StoreError::Locked { .. })));
    let clone = store.clone();
    drop(store);
    assert!(matches!(closed.open(), Err(StoreError::Locked { .. })));
    drop(clone);
    assert!(closed.open().is_ok());
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let closed = Closed::filled().await;
    closed.tamper(|tx| {
        let mut meta = tx.open_table(META).expect("there");
        let version = 99_u64.to_be_bytes();
        meta.insert("schema", version.as_slice()).expect("written");
    });
    assert!(matches!(
        closed.open(),
        Err(StoreError::SchemaTooNew {
            found: 99,
            known: 7,
            ..
        })
    ));
}

#[tokio::test]
async fn swapped_records_are_noticed_and_named() {
    let closed = Closed::filled().await;
    let keys = [1, 2].map(|n| {
        [app().as_str(), merchant_app(n).as_str()]
            .join("\0")
            .into_bytes()
    });
    closed.tamper(|tx| {
        let mut table = tx.open_table(MERCHANTS).expect("there");
        let [one, two] = keys.each_ref().map(|key| {
            let row = table.get(key.as_slice()).expect("readable");
            row.expect("there").value().to_vec()
        });
        table
            .insert(keys[0].as_slice(), two.as_slice())
            .expect("written");
        table
            .insert(keys[1].as_slice(), one.as_slice())
            .expect("written");
    });
    let store = closed.open().expect("opened");
    let found = store.find(MerchantKey::AuthAppId(merchant_app(1))).await;
    let expected = format!("record {}/{} of table `merchants`", app(), merchant_app(1));
    assert!(matches!(found, Err(StoreError::Damaged { record }) if record == expected));
    assert!(
        store
            .merchants(None, 10)
            .await
            .expect("a list goes on")
            .is_empty()
    );
}

#[tokio::test]
async fn a_damaged_row_hides_no_other_from_a_list() {
    let closed = Closed::filled().await;
    let [damaged, whole] = closed.entries[..] else {
        panic!("two entries were stored");
    };
    closed.tamper(|tx| {
        let mut table = tx.open_table(DELIVERIES).expect("there");
        table
            .insert(&damaged.to_bytes(), b"{}".as_slice())
            .expect("written");
    });
    let store = closed.open().expect("opened");
    assert!(
        matches!(store.entry(damaged).await, Err(StoreError::Damaged { record })
        if record.contains(&damaged.to_string()))
    );
    let listed = store.entries(None, None, 10).await.expect("a list goes on");
    assert_eq!(
        listed.iter().map(|(e, _)| e.id).collect::<Vec<_>>(),
        [whole]
    );
    let due = store
        .due(START + 100, 10, HashSet::new())
        .await
        .expect("a list goes on");
    assert_eq!(due.now.len(), 1);
}

/// Opens and reads everything there is; all that may happen is an error.
async fn read_all(closed: &Closed) -> Result<(), StoreError> {
    let store = closed.open()?;
    store.merchants(None, 10).await?;
    store.entries(None, None, 10).await?;
    store.due(START + 100, 10, HashSet::new()).await?;
    store.find(MerchantKey::AuthAppId(merchant_app(1))).await?;
    store.counts().await?;
    Ok(())
}

#[tokio::test]
async fn random_damage_is_an_error_never_a_panic_and_never_a_new_store() {
    let closed = Closed::filled().await;
    let whole = std::fs::read(closed.path()).expect("readable");
    // A fixed sequence (xorshift), so that a failure can be seen again.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).expect("below a usize")
    };
    let mut refused = 0;
    for round in 0..60 {
        let mut bytes = whole.clone();
        let first = if round % 2 == 0 {
            0
        } else {
            random(bytes.len())
        };
        let span = if round % 2 == 0 {
            4096
        } else {
            bytes.len() - first
        };
        for _ in 0..64 {
            bytes[first + random(span)] = u8::try_from(random(256)).expect("a byte");
        }
        if round % 5 == 0 {
            bytes.truncate(random(whole.len()));
        }
        std::fs::write(closed.path(), &bytes).expect("written");
        match read_all(&closed).await {
            Ok(()) => {}
            Err(StoreError::Missing { .. } | StoreError::Exists { .. }) => {
                panic!("a damaged file isn't a missing one")
            }
            Err(_) => refused += 1,
        }
        assert_eq!(
            std::fs::read_dir(closed.dir.path())
                .expect("readable")
                .count(),
            1
        );
    }
    assert!(refused > 20, "only {refused} damaged files were refused");
}
