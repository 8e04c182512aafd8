//! For tests: a store on a disk that fails or hangs when it is told to, and what is committed to it.

use std::io::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use redb::StorageBackend;
use redb::backends::FileBackend;

use crate::clock::ManualClock;
use crate::model::authorization::{Authorization, Rank, Source};
use crate::model::id::{AppId, AuthAppId, EventId};
use crate::model::notification::{DeliveryForm, InboxEntry};
use crate::model::token::AppAuthToken;
use crate::protocol::secret::Secret;
use crate::store::embedded::shared::Access;
use crate::store::embedded::whereabouts::Whereabouts;
use crate::store::embedded::{EmbeddedStore, OpenOptions};
use crate::store::error::StoreError;
use crate::store::seal::StoreKey;
use crate::store::{Change, Effect, MemoKey, Store};

pub(super) const START: i64 = 1_700_000_000_000;

/// What fails. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Switches {
    pub(super) writes_fail: Arc<AtomicBool>,
    /// There is no room left, whatever fails.
    pub(super) is_full: Arc<AtomicBool>,
    /// What fails does so for another reason than a disk that is full.
    pub(super) is_broken: Arc<AtomicBool>,
    pub(super) writes_hang: Arc<Hang>,
    pub(super) syncs_hang: Arc<Hang>,
    pub(super) reads_fail: Arc<AtomicBool>,
    pub(super) reads_hang: Arc<Hang>,
    /// Which fsync from now on fails, once; 0: none.
    pub(super) failing_sync: Arc<AtomicU8>,
}

impl Switches {
    /// A store on a disk that has these.
    pub(super) fn open(&self, options: OpenOptions) -> EmbeddedStore {
        let place = Arc::new(Whereabouts::of(&options.path));
        let (opened, switches) = (Arc::clone(&place), self.clone());
        let disk = move |access| {
            let file = match access {
                Access::Full => opened.for_writing()?,
                Access::Reading => opened.for_reading()?.0,
            };
            Ok(FaultyDisk {
                file: FileBackend::new(file).map_err(Error::other)?,
                switches: switches.clone(),
            })
        };
        let is_full = Arc::clone(&self.is_full);
        let room = Box::new(move || !is_full.load(Ordering::SeqCst));
        EmbeddedStore::open_in(options, disk, room, Some(place)).expect("opened")
    }
}

/// Whether something hangs, and how many wait for its end.
#[derive(Debug, Default)]
pub(super) struct Hang {
    pub(super) is_on: AtomicBool,
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

    pub(super) async fn is_met(&self) {
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
            let is_broken = self.switches.is_broken.load(Ordering::SeqCst);
            return Err(Error::from(match is_broken {
                true => std::io::ErrorKind::Other,
                false => std::io::ErrorKind::StorageFull,
            }));
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
pub(super) struct Faulty {
    pub(super) store: EmbeddedStore,
    pub(super) options: OpenOptions,
    pub(super) switches: Switches,
    _dir: tempfile::TempDir,
}

pub(super) fn options_in(dir: &tempfile::TempDir, cache_bytes: usize) -> OpenOptions {
    OpenOptions {
        path: dir.path().join("store.redb"),
        key: StoreKey::generate(),
        cache_bytes,
        clock: Arc::new(ManualClock::new(START)),
    }
}

impl Faulty {
    pub(super) fn new() -> Self {
        // Nothing is cached, so that every read meets the disk.
        Self::with_cache(0)
    }

    pub(super) fn with_cache(cache_bytes: usize) -> Self {
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

    pub(super) async fn remember(&self, name: &str) -> Result<Vec<Effect>, StoreError> {
        let change = Change::Remember {
            key: MemoKey::new("test", &[name]),
            value: Secret::new(name.as_bytes().to_vec()),
            expires_at: START + 1000,
        };
        self.store.commit(vec![change]).await
    }

    pub(super) async fn receive(&self, received_at: i64) -> Result<Vec<Effect>, StoreError> {
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

    pub(super) async fn pending(&self) -> u64 {
        self.store.backlog().await.expect("known").pending
    }

    pub(super) async fn recalls(&self, name: &str) -> Result<bool, StoreError> {
        let key = MemoKey::new("test", &[name]);
        Ok(self.store.recall(key, START).await?.is_some())
    }

    /// The same on the spot; nothing where a reading thread has to look.
    pub(super) fn recalls_at_once(&self, name: &str) -> Option<bool> {
        self.recalls(name)
            .now_or_never()
            .map(|found| found.expect("readable"))
    }

    pub(super) async fn healed_within(&self, time: Duration) {
        let healed = tokio::time::timeout(time, self.healed());
        healed.await.expect("healed by itself");
    }

    /// Waits until the writer has mended the store by itself; its pauses are short.
    pub(super) async fn healed(&self) {
        while !self.store.is_writable() {
            tokio::task::yield_now().await;
        }
    }
}

pub(super) fn authorize(auth_app_id: &str, token: &str) -> Change {
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
        renews: None,
        trigger: None,
        error: None,
        encrypt_key: None,
    };
    Change::Authorize {
        authorization: Box::new(authorization),
        entry: None,
    }
}
