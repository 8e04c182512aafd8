//! What happens when the disk fails (the faults are put between redb and the file), and within one
//! transaction that several commits share.

use std::fs::File;
use std::io::Error;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use futures_util::FutureExt;
use redb::StorageBackend;
use redb::backends::FileBackend;

use super::*;
use crate::clock::ManualClock;
use crate::model::authorization::{Authorization, Rank, Source};
use crate::model::id::{AppId, AuthAppId, EventId};
use crate::model::notification::DeliveryForm;
use crate::model::notification::InboxEntry;
use crate::model::token::AppAuthToken;
use crate::protocol::secret::Secret;
use crate::store::embedded::writer::Commit;
use crate::store::{Change, Directory, Effect, MemoKey, MerchantKey, Store};

const START: i64 = 1_700_000_000_000;

/// What fails. Clones share it.
#[derive(Debug, Clone, Default)]
struct Switches {
    writes_fail: Arc<AtomicBool>,
    writes_hang: Arc<Hang>,
    syncs_hang: Arc<Hang>,
    reads_fail: Arc<AtomicBool>,
    reads_hang: Arc<Hang>,
    /// Which fsync from now on fails, once; 0: none.
    failing_sync: Arc<AtomicU8>,
}

impl Switches {
    /// A store on a disk that has these.
    fn open(&self, options: OpenOptions) -> EmbeddedStore {
        let (path, switches) = (options.path.clone(), self.clone());
        let disk = move || {
            let file = File::options().read(true).write(true).open(&path)?;
            Ok(FaultyDisk {
                file: FileBackend::new(file).map_err(Error::other)?,
                switches: switches.clone(),
            })
        };
        EmbeddedStore::open_on(options, disk).expect("opened")
    }
}

/// Whether something hangs, and how many wait for its end.
#[derive(Debug, Default)]
struct Hang {
    is_on: AtomicBool,
    waiting: AtomicU8,
}

impl Hang {
    fn pass(&self) {
        if self.is_on.load(Ordering::SeqCst) {
            self.waiting.fetch_add(1, Ordering::SeqCst);
            while self.is_on.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }

    async fn is_met(&self) {
        while self.waiting.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// A disk that refuses while its switch is on.
#[derive(Debug)]
struct FaultyDisk {
    file: FileBackend,
    switches: Switches,
}

impl FaultyDisk {
    fn refuse_if(switch: &AtomicBool) -> Result<(), Error> {
        if switch.load(Ordering::SeqCst) {
            return Err(Error::from(std::io::ErrorKind::StorageFull));
        }
        Ok(())
    }
}

impl StorageBackend for FaultyDisk {
    fn len(&self) -> Result<u64, Error> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        self.switches.reads_hang.pass();
        Self::refuse_if(&self.switches.reads_fail)?;
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        Self::refuse_if(&self.switches.writes_fail)?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), Error> {
        self.switches.syncs_hang.pass();
        Self::refuse_if(&self.switches.writes_fail)?;
        let counted = |left: u8| left.checked_sub(1);
        let order = Ordering::SeqCst;
        if self
            .switches
            .failing_sync
            .fetch_update(order, order, counted)
            == Ok(1)
        {
            // What was written stays.
            self.file.sync_data()?;
            return Err(Error::from(std::io::ErrorKind::StorageFull));
        }
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.switches.writes_hang.pass();
        Self::refuse_if(&self.switches.writes_fail)?;
        self.file.write(offset, data)
    }

    fn close(&self) -> Result<(), Error> {
        self.file.close()
    }
}

/// A store on a disk with switches.
struct Faulty {
    store: EmbeddedStore,
    options: OpenOptions,
    switches: Switches,
    _dir: tempfile::TempDir,
}

fn options_in(dir: &tempfile::TempDir, cache_bytes: usize) -> OpenOptions {
    OpenOptions {
        path: dir.path().join("store.redb"),
        key: StoreKey::generate(),
        cache_bytes,
        clock: Arc::new(ManualClock::new(START)),
    }
}

impl Faulty {
    fn new() -> Self {
        // Nothing is cached, so that every read meets the disk.
        Self::with_cache(0)
    }

    fn with_cache(cache_bytes: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = options_in(&dir, cache_bytes);
        EmbeddedStore::create(&options.path, &options.key).expect("created");
        let switches = Switches::default();
        Self {
            store: switches.open(options.clone()),
            options,
            switches,
            _dir: dir,
        }
    }

    async fn remember(&self, name: &str) -> Result<Vec<Effect>, StoreError> {
        let change = Change::Remember {
            key: MemoKey::new("test", &[name]),
            value: Secret::new(name.as_bytes().to_vec()),
            expires_at: i64::MAX,
        };
        self.store.commit(vec![change]).await
    }

    async fn receive(&self, received_at: i64) -> Result<Vec<Effect>, StoreError> {
        let entry = InboxEntry {
            id: EventId::new(received_at),
            app_id: AppId::new("2021000000000001").expect("an id"),
            notify_id: None,
            event_type: "trade_status_sync".to_owned(),
            auth_app_id: None,
            pid: None,
            received_at,
            notify_path: String::new(),
            notify_query: String::new(),
            order_key: None,
            opened_content: None,
            scheme: None,
            body: None,
            event: None,
            form: DeliveryForm::AsConfigured,
        };
        let receive = Change::Receive(Box::new(entry));
        self.store.commit(vec![receive]).await
    }

    async fn pending(&self) -> u64 {
        self.store.backlog().await.expect("known").pending
    }

    async fn recalls(&self, name: &str) -> Result<bool, StoreError> {
        let key = MemoKey::new("test", &[name]);
        Ok(self.store.recall(key, START).await?.is_some())
    }

    /// The same on the spot; nothing where a reading thread has to look.
    fn recalls_at_once(&self, name: &str) -> Option<bool> {
        self.recalls(name)
            .now_or_never()
            .map(|found| found.expect("readable"))
    }

    /// Waits until the writer has mended the store by itself; its pauses are short.
    async fn healed(&self) {
        while !self.store.is_writable() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn a_failed_disk_is_answered_at_once_and_heals_by_itself() {
    let faulty = Faulty::new();
    faulty.remember("before").await.expect("committed");
    faulty.switches.writes_fail.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let refused = faulty.remember("lost").await;
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })));
        assert!(!faulty.store.is_writable());
        // What needs no write goes on.
        assert!(faulty.recalls("before").await.expect("readable"));
    }
    faulty.switches.writes_fail.store(false, Ordering::SeqCst);
    faulty.healed().await;
    faulty.remember("after").await.expect("committed");
    for name in ["before", "after"] {
        assert!(faulty.recalls(name).await.expect("readable"), "{name}");
    }
    // Whether the failed commit is there nobody knows; doing it again is safe.
    faulty.remember("lost").await.expect("committed");
    assert!(faulty.recalls("lost").await.expect("readable"));
}

#[tokio::test]
async fn the_backlog_is_known_without_a_look_at_the_disk() {
    let faulty = Faulty::new();
    assert_eq!(faulty.pending().await, 0);
    faulty.receive(START).await.expect("committed");
    faulty.switches.reads_fail.store(true, Ordering::SeqCst);
    assert_eq!(faulty.pending().await, 1);
    faulty.switches.reads_fail.store(false, Ordering::SeqCst);
    // What touches neither table leaves it as it is.
    faulty.remember("other").await.expect("committed");
    assert_eq!(faulty.pending().await, 1);
}

#[tokio::test]
async fn the_backlog_is_what_a_disk_kept_of_a_commit_that_failed() {
    // A commit has two: of the second one only the answer is lost.
    for (sync, kept) in [(1, 0), (2, 1)] {
        let faulty = Faulty::new();
        faulty.receive(START).await.expect("committed");
        faulty.switches.failing_sync.store(sync, Ordering::SeqCst);
        let refused = faulty.receive(START + 1).await;
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })));
        faulty.healed().await;
        assert_eq!(faulty.pending().await, 1 + kept, "fsync {sync}");
        let counts = faulty.store.counts().await.expect("readable");
        assert_eq!(counts.pending, 1 + kept, "fsync {sync}");
        faulty.receive(START + 2).await.expect("committed");
        assert_eq!(faulty.pending().await, 2 + kept, "fsync {sync}");
    }
}

#[tokio::test]
async fn a_store_that_is_opened_on_a_full_disk_is_read_and_heals_by_itself() {
    let mut faulty = Faulty::new();
    faulty.remember("before").await.expect("committed");
    // As a crash leaves it: not closed, so that redb has to write when it opens it.
    let path = faulty.store.0.shared.path().with_file_name("crashed");
    std::fs::copy(faulty.store.0.shared.path(), &path).expect("copied");
    faulty.switches.writes_fail.store(true, Ordering::SeqCst);
    let options = OpenOptions {
        path,
        ..faulty.options.clone()
    };
    faulty.store = faulty.switches.open(options);
    assert!(!faulty.store.is_writable(), "/readyz tells it");
    assert!(faulty.recalls("before").await.expect("readable"));
    let refused = faulty.remember("lost").await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })));
    faulty.switches.writes_fail.store(false, Ordering::SeqCst);
    faulty.healed().await;
    faulty.remember("after").await.expect("committed");
    for name in ["before", "after"] {
        assert!(faulty.recalls(name).await.expect("readable"), "{name}");
    }
}

#[tokio::test]
async fn a_reader_that_meets_a_failure_has_the_store_mended() {
    let faulty = Faulty::new();
    faulty.remember("before").await.expect("committed");
    faulty.switches.reads_fail.store(true, Ordering::SeqCst);
    let refused = faulty.recalls("before").await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })));
    faulty.switches.reads_fail.store(false, Ordering::SeqCst);
    loop {
        match faulty.recalls("before").await {
            Ok(found) => break assert!(found),
            Err(StoreError::Unavailable { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    faulty.healed().await;
    faulty.remember("after").await.expect("committed");
}

#[tokio::test]
async fn a_file_is_read_without_a_change_to_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = options_in(&dir, 0);
    EmbeddedStore::create(&options.path, &options.key).expect("created");
    let store = EmbeddedStore::open(options.clone()).expect("opened");
    store
        .commit(vec![authorize("1", "a")])
        .await
        .expect("committed");
    let shared = &store.0.shared;
    shared.reopen(Access::Reading).expect("readable");
    let before = std::fs::read(&options.path).expect("readable");
    assert_eq!(store.merchants(None, 10).await.expect("readable").len(), 1);
    let again = EmbeddedStore::open(options.clone());
    assert!(matches!(again, Err(StoreError::Locked { .. })));
    // Not even closing it writes.
    shared.reopen(Access::Reading).expect("readable");
    assert_eq!(std::fs::read(&options.path).expect("readable"), before);
    shared.reopen(Access::Full).expect("writable");
    store
        .commit(vec![authorize("2", "b")])
        .await
        .expect("committed");
    assert_eq!(store.merchants(None, 10).await.expect("readable").len(), 2);
}

#[tokio::test]
async fn waiting_commits_are_finished_before_the_file_is_closed() {
    let faulty = Faulty::new();
    let store = faulty.store.clone();
    let change = Change::Remember {
        key: MemoKey::new("test", &["late"]),
        value: Secret::new(Vec::new()),
        expires_at: i64::MAX,
    };
    let (reply, answer) = oneshot::channel();
    let changes = vec![change];
    store
        .0
        .send(Job::Commit(Commit { changes, reply }))
        .expect("queued");
    drop((store, faulty));
    answer.await.expect("answered").expect("committed");
}

fn commit(changes: Vec<Change>) -> Commit {
    let (reply, _) = oneshot::channel();
    Commit { changes, reply }
}

fn authorize(auth_app_id: &str, token: &str) -> Change {
    let authorization = Authorization {
        app_id: AppId::new("2021000000000001").expect("an id"),
        auth_app_id: AuthAppId::new(auth_app_id).expect("an id"),
        pid: None,
        alias: None,
        reference: None,
        token: AppAuthToken {
            app_auth_token: Secret::new(token.to_owned()),
            app_refresh_token: None,
            stated_expiry: None,
        },
        rank: Rank::AfterStored,
        source: Source::Import,
        bound: true,
        is_plugin: false,
        agent_app_id: None,
        trigger: None,
        error: None,
        encrypt_key: None,
    };
    Change::Authorize {
        authorization: Box::new(authorization),
        entry: None,
    }
}

#[tokio::test]
async fn commits_refused_within_a_group_leave_no_trace_and_harm_no_neighbour() {
    let faulty = Faulty::new();
    let group = [
        commit(vec![authorize("1", "a")]),
        // Refused at once, with nothing written.
        commit(vec![authorize("2", "a")]),
        // Refused after it has written.
        commit(vec![authorize("3", "c"), authorize("4", "a")]),
        // Would be refused if the one before had left its token.
        commit(vec![authorize("5", "c")]),
        commit(vec![
            authorize("6", "d"),
            authorize("7", "e"),
            authorize("6", "e"),
        ]),
    ];
    let answers = writer::write_all(&faulty.store.0.shared, &group).expect("written");
    let taken: Vec<_> = answers
        .iter()
        .map(|answer| answer.as_ref().expect("answered").is_ok())
        .collect();
    assert_eq!(taken, [true, false, false, true, false]);
    let merchants = faulty.store.merchants(None, 10).await.expect("readable");
    let stored: Vec<_> = merchants.iter().map(|m| m.auth_app_id.as_str()).collect();
    assert_eq!(stored, ["1", "5"]);
}

/// Makes the file of `options` one of schema version 2: the digests of its indexes are made with
/// keys that are derived from the store key, and it keeps neither those nor damaged records.
fn age(options: &OpenOptions, change: impl FnOnce(&redb::WriteTransaction)) {
    let db = redb::Database::open(&options.path).expect("opened");
    let tx = db.begin_write().expect("transaction");
    change(&tx);
    tx.commit().expect("committed");
}

#[tokio::test]
async fn a_file_whose_index_keys_were_derived_gets_them_sealed_and_forgets_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = options_in(&dir, 0);
    EmbeddedStore::create(&options.path, &options.key).expect("created");
    age(&options, |tx| {
        let sealer = Sealer::new(&options.key);
        open::write_index_keys(tx, &sealer, sealer.index_keys()).expect("written");
    });
    let store = EmbeddedStore::open(options.clone()).expect("opened");
    let done = store.commit(vec![authorize("1", "a token")]).await;
    done.expect("committed");
    drop(store);
    age(&options, |tx| {
        tables::write_schema(tx, 2).expect("written");
        let mut meta = tx.open_table(tables::META).expect("there");
        meta.remove(tables::INDEX_KEY).expect("removed");
        drop(meta);
        tx.delete_table(tables::DAMAGED).expect("deleted");
    });
    for _ in 0..2 {
        let store = EmbeddedStore::open(options.clone()).expect("opened");
        let key = MerchantKey::Token(Secret::new("a token".to_owned()));
        let found = store.find(key).await.expect("readable");
        assert_eq!(found.len(), 1, "the token's digest is the same");
        let stats = store.stats().await.expect("readable");
        assert_eq!((stats.schema, stats.damaged), (tables::SCHEMA, 0));
    }
    age(&options, |tx| {
        let mut meta = tx.open_table(tables::META).expect("there");
        meta.remove(tables::INDEX_KEY).expect("removed");
    });
    let opened = EmbeddedStore::open(options.clone());
    assert!(
        matches!(&opened, Err(StoreError::DamagedFile { reason, .. }) if reason.contains("index keys")),
        "new keys would make every digest wrong: {opened:?}"
    );
}

#[tokio::test]
async fn a_store_that_is_dropped_ends_its_backup() {
    let faulty = Faulty::new();
    let rows = faulty.store.backup().await.expect("begun");
    let shared = Arc::downgrade(&faulty.store.0.shared);
    drop(faulty);
    assert!(shared.upgrade().is_none(), "nobody holds the file any more");
    drop(rows);
}

#[tokio::test]
async fn a_look_up_that_needs_no_disk_is_made_on_the_spot_and_misses_no_commit() {
    let faulty = Faulty::with_cache(1 << 20);
    for name in ["one", "two", "three"] {
        faulty.remember(name).await.expect("committed");
        // The page is in the cache: it was just written.
        assert_eq!(faulty.recalls_at_once(name), Some(true), "{name}");
    }
    assert_eq!(faulty.recalls_at_once("four"), Some(false));
    // Nor does it need one that can't be read, or isn't.
    faulty.switches.reads_fail.store(true, Ordering::SeqCst);
    assert_eq!(faulty.recalls_at_once("one"), Some(true));
}

#[tokio::test]
async fn a_look_up_that_needs_the_disk_is_made_by_a_reading_thread() {
    let faulty = Faulty::new();
    for name in ["one", "two", "three"] {
        faulty.remember(name).await.expect("committed");
        // What a reading thread finds meanwhile isn't found at once.
        faulty
            .switches
            .reads_hang
            .is_on
            .store(true, Ordering::SeqCst);
        assert_eq!(faulty.recalls_at_once(name), None, "{name}");
        faulty
            .switches
            .reads_hang
            .is_on
            .store(false, Ordering::SeqCst);
        assert!(faulty.recalls(name).await.expect("readable"));
    }
}

#[tokio::test]
async fn look_ups_on_the_spot_go_on_in_a_store_that_was_opened_anew() {
    let faulty = Faulty::with_cache(1 << 20);
    faulty.remember("before").await.expect("committed");
    faulty.switches.writes_fail.store(true, Ordering::SeqCst);
    faulty.remember("lost").await.expect_err("the disk is full");
    // The writer opens it again and again, and its cache is empty each time.
    while faulty.recalls_at_once("lost").is_none() {
        assert!(faulty.recalls("before").await.expect("readable"));
    }
    assert!(!faulty.recalls("lost").await.expect("readable"));
    faulty.switches.writes_fail.store(false, Ordering::SeqCst);
    faulty.healed().await;
    faulty.remember("after").await.expect("committed");
    assert_eq!(faulty.recalls_at_once("after"), Some(true));
}

#[tokio::test]
async fn a_look_up_does_not_wait_for_a_writer_that_is_stuck() {
    let faulty = Faulty::with_cache(1 << 20);
    faulty.remember("one").await.expect("committed");
    let switches = &faulty.switches;
    for (name, hang) in [
        ("two", &switches.writes_hang),
        ("three", &switches.syncs_hang),
    ] {
        hang.is_on.store(true, Ordering::SeqCst);
        let look = async {
            hang.is_met().await;
            let found = faulty.recalls_at_once("one");
            hang.is_on.store(false, Ordering::SeqCst);
            found
        };
        let (committed, found) = tokio::join!(faulty.remember(name), look);
        committed.expect("committed");
        assert_eq!(found, Some(true));
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_page_that_the_system_has_in_memory_is_read_on_the_spot() {
    let mut faulty = Faulty::new();
    faulty.remember("one").await.expect("committed");
    let path = faulty.options.path.with_file_name("copy");
    // So that it is in memory; a copy may be none until it is read.
    let content = std::fs::read(&faulty.options.path).expect("read");
    std::fs::write(&path, content).expect("written");
    let file = File::open(&path).expect("there");
    let options = OpenOptions {
        path,
        ..faulty.options.clone()
    };
    faulty.store = EmbeddedStore::open(options).expect("opened");
    let expected = crate::in_memory::tells(&file).then_some(true);
    assert_eq!(faulty.recalls_at_once("one"), expected);
}

#[test]
fn an_empty_file_is_no_store_and_stays_as_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = options_in(&dir, 0);
    File::create(&options.path).expect("made");
    let refused = EmbeddedStore::open(options.clone());
    assert!(matches!(refused, Err(StoreError::DamagedFile { .. })));
    assert_eq!(options.path.metadata().expect("there").len(), 0);
}
