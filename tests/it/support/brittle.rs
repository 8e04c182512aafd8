//! A store that can be told to fail, and a signer that always does.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use alipay_sidecar::clock::SystemClock;
use alipay_sidecar::config::Config;
use alipay_sidecar::gateway::app::Signers;
use alipay_sidecar::gateway::signer::{SignError, Signer};
use alipay_sidecar::model::app::App;
use alipay_sidecar::model::app_keys::SigningKey;
use alipay_sidecar::model::call::{CallKey, CallRecord};
use alipay_sidecar::model::certificate::KeptCertificate;
use alipay_sidecar::model::delivery::{Delivery, DeliveryState};
use alipay_sidecar::model::id::{AppId, AuthAppId, EventId};
use alipay_sidecar::model::merchant::Merchant;
use alipay_sidecar::model::notification::InboxEntry;
use alipay_sidecar::model::refused::{RefusedNotification, Variant};
use alipay_sidecar::model::user_token::{UserKey, UserToken};
use alipay_sidecar::protocol::key::AppPrivateKey;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::store::embedded::{EmbeddedStore, OpenOptions};
use alipay_sidecar::store::error::StoreError;
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar::store::{
    Change, Counts, Directory, Due, Effect, Found, Inbox, Mark, MemoKey, MerchantKey, Parked,
    Pruned, Store,
};
use futures_util::future::BoxFuture;

/// The configured store, until it is broken.
#[derive(Clone)]
pub struct BrittleStore {
    inner: Arc<EmbeddedStore>,
    broken: Arc<AtomicBool>,
    /// Only reads succeed.
    full: Arc<AtomicBool>,
    /// Commits wait.
    stuck: Arc<AtomicBool>,
    /// Commits wait that forget what was remembered.
    keeping: Arc<AtomicBool>,
    /// The next commit panics that forgets what was remembered.
    buggy_returns: Arc<AtomicBool>,
    /// Whoever looks for a merchant waits.
    lost: Arc<AtomicBool>,
    /// The next commit of records of calls panics.
    buggy: Arc<AtomicBool>,
    /// The next commit of refused notifications panics.
    buggy_refusals: Arc<AtomicBool>,
    /// All that requests ask of it panics.
    panicking: Arc<AtomicBool>,
    /// All that nobody asks for panics: what is due, and what is old.
    panicking_by_itself: Arc<AtomicBool>,
    /// How often it did, over what is due and over what is old.
    panics: Arc<[AtomicUsize; 2]>,
    bugs: Arc<Mutex<Bugs>>,
    /// The most that it was told to pass over at a look at what is due.
    passed_over: Arc<AtomicUsize>,
    /// Merchants' records can't be read back.
    scratched: Arc<AtomicBool>,
    /// How often it was asked what may be claimed.
    looks: Arc<AtomicUsize>,
    /// How many commits it refused because nothing could be written.
    refused: Arc<AtomicUsize>,
}

/// What panics, of one entry or merchant.
#[derive(Default)]
pub struct Bugs {
    /// The next who looks for this merchant.
    pub find_of: Option<AuthAppId>,
    /// The next who writes down what became of an attempt.
    pub settle: bool,
    /// Whoever reads this entry by its id.
    pub entry: Option<EventId>,
}

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

impl BrittleStore {
    /// The store of this configuration.
    pub fn open(config: &Config) -> Self {
        let key = config.store.key.as_ref().expect("a key");
        let options = OpenOptions {
            path: config.store.path.clone(),
            key: StoreKey::from_base64(key.expose()).expect("a key"),
            cache_bytes: 1 << 20,
            clock: Arc::new(SystemClock),
        };
        let inner = Arc::new(EmbeddedStore::open(options).expect("a store"));
        Self {
            inner,
            broken: Arc::default(),
            full: Arc::default(),
            stuck: Arc::default(),
            keeping: Arc::default(),
            buggy_returns: Arc::default(),
            lost: Arc::default(),
            buggy: Arc::default(),
            buggy_refusals: Arc::default(),
            panicking: Arc::default(),
            panicking_by_itself: Arc::default(),
            panics: Arc::default(),
            bugs: Arc::default(),
            passed_over: Arc::default(),
            scratched: Arc::default(),
            looks: Arc::default(),
            refused: Arc::default(),
        }
    }

    /// How often it was asked what may be claimed.
    pub fn looks(&self) -> usize {
        self.looks.load(Ordering::Relaxed)
    }

    /// How many commits it refused because nothing could be written.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// From now on everything fails.
    pub fn break_down(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// From now on nothing can be written.
    pub fn break_commits(&self) {
        self.full.store(true, Ordering::Relaxed);
    }

    /// From now on whoever gives something back waits until it works again.
    pub fn stop_returns(&self) {
        self.keeping.store(true, Ordering::Relaxed);
    }

    /// The next who gives something back finds a bug.
    pub fn panic_on_returns(&self) {
        self.buggy_returns.store(true, Ordering::Relaxed);
    }

    /// From now on a merchant is looked for until it works again.
    pub fn stop_finds(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    /// From now on a commit waits until it works again.
    pub fn stop_commits(&self) {
        self.stuck.store(true, Ordering::Relaxed);
    }

    /// The next commit of records of calls panics.
    pub fn panic_on_records(&self) {
        self.buggy.store(true, Ordering::Relaxed);
    }

    /// The next commit of refused notifications panics.
    pub fn panic_on_refusals(&self) {
        self.buggy_refusals.store(true, Ordering::Relaxed);
    }

    /// From now on all that requests ask of it panics, until it works again.
    pub fn panic_on_requests(&self) {
        self.panicking.store(true, Ordering::Relaxed);
    }

    /// From now on what works in the background finds bugs, until it works again.
    pub fn panic_by_itself(&self) {
        self.panicking_by_itself.store(true, Ordering::Relaxed);
    }

    /// How many bugs were found by who looked for what is due, and for what is old.
    pub fn panics(&self) -> [usize; 2] {
        let [due, old] = &*self.panics;
        [due, old].map(|many| many.load(Ordering::Relaxed))
    }

    /// Which there are.
    pub fn bugs(&self) -> MutexGuard<'_, Bugs> {
        self.bugs.lock().expect("no panic")
    }

    /// The most that it was told to pass over at a look at what is due.
    pub fn passed_over(&self) -> usize {
        self.passed_over.load(Ordering::Relaxed)
    }

    fn panic_if_by_itself(&self, over: usize) {
        if self.panicking_by_itself.load(Ordering::Relaxed) {
            self.panics[over].fetch_add(1, Ordering::Relaxed);
            panic!("a bug of the store");
        }
    }

    fn panic_if_told(&self) {
        if self.panicking.load(Ordering::Relaxed) {
            panic!("a bug of the store");
        }
    }

    /// From now on every merchant's record is damaged.
    pub fn scratch_merchants(&self) {
        self.scratched.store(true, Ordering::Relaxed);
    }

    /// From now on it works again.
    pub fn heal(&self) {
        self.panicking.store(false, Ordering::Relaxed);
        self.panicking_by_itself.store(false, Ordering::Relaxed);
        self.full.store(false, Ordering::Relaxed);
        self.stuck.store(false, Ordering::Relaxed);
        self.keeping.store(false, Ordering::Relaxed);
        self.lost.store(false, Ordering::Relaxed);
        self.broken.store(false, Ordering::Relaxed);
    }

    fn unless_broken<'a, T: Send + 'a>(&self, answer: Answer<'a, T>) -> Answer<'a, T> {
        if !self.broken.load(Ordering::Relaxed) {
            return answer;
        }
        let reason = "the disk is on fire".to_owned();
        Box::pin(async { Err(StoreError::Unavailable { reason }) })
    }
}

impl Store for BrittleStore {
    fn commit(&self, changes: Vec<Change>) -> Answer<'_, Vec<Effect>> {
        if self.full.load(Ordering::Relaxed) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            let reason = "no space left on device".to_owned();
            return Box::pin(async { Err(StoreError::Unavailable { reason }) });
        }
        if matches!(changes.as_slice(), [Change::Receive(_), ..]) {
            self.panic_if_told();
        }
        let are_records = matches!(changes.as_slice(), [Change::RecordCalls { .. }]);
        let are_refusals = matches!(changes.as_slice(), [Change::Refuse(_), ..]);
        if are_refusals && self.buggy_refusals.swap(false, Ordering::Relaxed) {
            panic!("a bug of the store");
        }
        if are_records && self.buggy.swap(false, Ordering::Relaxed) {
            return Box::pin(async { panic!("a bug of the store") });
        }
        let gives_back = matches!(changes.as_slice(), [Change::Unremember(_)]);
        if gives_back && self.buggy_returns.swap(false, Ordering::Relaxed) {
            return Box::pin(async { panic!("a bug of the store") });
        }
        let settles = matches!(changes.as_slice(), [Change::Settle { .. }]);
        if settles && std::mem::take(&mut self.bugs().settle) {
            return Box::pin(async { panic!("a bug of the store") });
        }
        let committed = self.unless_broken(self.inner.commit(changes));
        let stuck = match gives_back && self.keeping.load(Ordering::Relaxed) {
            true => Arc::clone(&self.keeping),
            false => Arc::clone(&self.stuck),
        };
        Box::pin(async move {
            while stuck.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            committed.await
        })
    }

    fn recall(&self, key: MemoKey, now: i64) -> Answer<'_, Option<Secret<Vec<u8>>>> {
        self.unless_broken(self.inner.recall(key, now))
    }

    fn call(&self, key: CallKey, now: i64) -> Answer<'_, Option<CallRecord>> {
        self.panic_if_told();
        self.unless_broken(self.inner.call(key, now))
    }

    fn counts(&self) -> Answer<'_, Counts> {
        self.unless_broken(self.inner.counts())
    }

    fn prune(&self, now: i64, retain_delivered_ms: i64) -> Answer<'_, Pruned> {
        self.panic_if_by_itself(1);
        self.unless_broken(self.inner.prune(now, retain_delivered_ms))
    }

    fn is_writable(&self) -> bool {
        !self.broken.load(Ordering::Relaxed) && !self.full.load(Ordering::Relaxed)
    }
}

impl Directory for BrittleStore {
    fn apps(&self) -> Answer<'_, Vec<App>> {
        self.unless_broken(self.inner.apps())
    }

    fn certificates(&self) -> Answer<'_, Vec<KeptCertificate>> {
        self.unless_broken(self.inner.certificates())
    }

    fn find(&self, key: MerchantKey) -> Answer<'_, Vec<Merchant>> {
        self.panic_if_told();
        if let MerchantKey::Exact(_, auth_app_id) = &key
            && self
                .bugs()
                .find_of
                .take_if(|of| of == auth_app_id)
                .is_some()
        {
            return Box::pin(async { panic!("a bug of the store") });
        }
        if self.scratched.load(Ordering::Relaxed) {
            let record = "merchants/a-scratched-one".to_owned();
            return Box::pin(async { Err(StoreError::Damaged { record }) });
        }
        let lost = Arc::clone(&self.lost);
        let found = self.unless_broken(self.inner.find(key));
        Box::pin(async move {
            while lost.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            found.await
        })
    }

    fn find_all(&self, key: MerchantKey) -> Answer<'_, Found> {
        self.panic_if_told();
        if self.scratched.load(Ordering::Relaxed) {
            let record = "merchants/a-scratched-one".to_owned();
            return Box::pin(async { Err(StoreError::Damaged { record }) });
        }
        self.unless_broken(self.inner.find_all(key))
    }

    fn merchants(
        &self,
        after: Option<(AppId, AuthAppId)>,
        limit: usize,
    ) -> Answer<'_, Vec<Merchant>> {
        self.unless_broken(self.inner.merchants(after, limit))
    }

    fn merchants_page(&self, after: Option<(AppId, AuthAppId)>, limit: usize) -> Answer<'_, Found> {
        self.unless_broken(self.inner.merchants_page(after, limit))
    }

    fn unreadable_merchants(&self) -> Answer<'_, u64> {
        self.unless_broken(self.inner.unreadable_merchants())
    }

    fn user(&self, key: UserKey) -> Answer<'_, Option<UserToken>> {
        self.unless_broken(self.inner.user(key))
    }
}

impl Inbox for BrittleStore {
    fn entry(&self, id: EventId) -> Answer<'_, Option<(InboxEntry, Delivery)>> {
        if self.bugs().entry == Some(id) {
            return Box::pin(async { panic!("a bug of the store") });
        }
        self.unless_broken(self.inner.entry(id))
    }

    fn known(&self, app_id: AppId, notify_id: String) -> Answer<'_, Option<EventId>> {
        self.unless_broken(self.inner.known(app_id, notify_id))
    }

    fn entries(
        &self,
        state: Option<DeliveryState>,
        after: Option<EventId>,
        limit: usize,
    ) -> Answer<'_, Vec<(InboxEntry, Delivery)>> {
        self.unless_broken(self.inner.entries(state, after, limit))
    }

    fn entries_before(
        &self,
        state: Option<DeliveryState>,
        before: Option<EventId>,
        limit: usize,
    ) -> Answer<'_, Vec<(InboxEntry, Delivery)>> {
        self.unless_broken(self.inner.entries_before(state, before, limit))
    }

    fn due(&self, now: i64, limit: usize, but: HashSet<EventId>) -> Answer<'_, Due> {
        self.panic_if_by_itself(0);
        self.passed_over.fetch_max(but.len(), Ordering::Relaxed);
        self.unless_broken(self.inner.due(now, limit, but))
    }

    fn refused(
        &self,
        after: Option<EventId>,
        limit: usize,
    ) -> Answer<'_, Vec<RefusedNotification>> {
        self.unless_broken(self.inner.refused(after, limit))
    }

    fn refused_before(
        &self,
        before: Option<EventId>,
        limit: usize,
    ) -> Answer<'_, Vec<RefusedNotification>> {
        self.unless_broken(self.inner.refused_before(before, limit))
    }

    fn refused_one(&self, id: EventId) -> Answer<'_, Option<RefusedNotification>> {
        self.unless_broken(self.inner.refused_one(id))
    }

    fn variants(&self, of: EventId) -> Answer<'_, Vec<Variant>> {
        self.unless_broken(self.inner.variants(of))
    }

    fn parked(&self, after: Option<EventId>, limit: usize) -> Answer<'_, Parked> {
        self.unless_broken(self.inner.parked(after, limit))
    }

    fn claimable_after(
        &self,
        after: Option<Mark>,
        at_most: (i64, usize),
        but: HashSet<EventId>,
    ) -> Answer<'_, Due> {
        self.panic_if_told();
        self.looks.fetch_add(1, Ordering::Relaxed);
        self.unless_broken(self.inner.claimable_after(after, at_most, but))
    }

    fn lapsed(&self, now: i64, limit: usize) -> Answer<'_, Vec<Delivery>> {
        self.unless_broken(self.inner.lapsed(now, limit))
    }
}

/// How a [`BrittleSigner`] fails.
#[derive(Clone, Copy)]
pub enum Failing {
    /// As a KMS that can't be reached.
    Error,
    /// As a full queue.
    Overloaded,
    /// As a KMS that doesn't answer.
    Hang,
    /// As a bug.
    Panic,
    /// As a KMS that is down for a while.
    Unavailable,
}

/// Signs that many requests, and then nothing more.
pub struct TiringSigner(pub usize);

struct Tiring {
    key: AppPrivateKey,
    left: AtomicUsize,
}

impl Signers for TiringSigner {
    fn signer(&self, _: &App, key: &SigningKey) -> Arc<dyn Signer> {
        Arc::new(Tiring {
            key: key.private.clone().expect("it is here"),
            left: AtomicUsize::new(self.0),
        })
    }
}

impl Signer for Tiring {
    fn sign(
        &self,
        sign_type: SignType,
        content: Vec<u8>,
    ) -> BoxFuture<'_, Result<String, SignError>> {
        let is_tired = self.left.load(Ordering::Relaxed) == 0;
        if is_tired {
            return Box::pin(async { Err(SignError::Overloaded) });
        }
        self.left.fetch_sub(1, Ordering::Relaxed);
        let signed = self.key.sign(sign_type, &content).map_err(SignError::from);
        Box::pin(async { signed })
    }
}

/// Signs nothing, ever.
pub struct BrittleSigner(pub Failing);

impl Signers for BrittleSigner {
    fn signer(&self, _: &App, _: &SigningKey) -> Arc<dyn Signer> {
        Arc::new(Self(self.0))
    }
}

impl Signer for BrittleSigner {
    fn sign(&self, _: SignType, _: Vec<u8>) -> BoxFuture<'_, Result<String, SignError>> {
        Box::pin(async {
            match self.0 {
                Failing::Error => Err(SignError::Failed("the KMS is gone".to_owned())),
                Failing::Overloaded => Err(SignError::Overloaded),
                Failing::Hang => std::future::pending().await,
                Failing::Panic => panic!("a bug of the signer"),
                Failing::Unavailable => {
                    let cause = std::io::Error::other("connection refused");
                    Err(SignError::Unavailable(Box::new(cause)))
                }
            }
        })
    }
}
