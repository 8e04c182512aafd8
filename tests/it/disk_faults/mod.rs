//! A disk that refuses the n-th write, fsync or read, for every n, under a whole sidecar.
//!
//! Whatever the disk does, `success` is said only of what is there when the file is opened again, and
//! when the power goes at that moment; everything else is `fail` with 503, calls that need no write
//! go through, `/readyz` tells, and the sidecar heals by itself within [`HEALED`] of the fault's end.
//! A refused fsync keeps what was written for the next one, or drops it, as kernels do: then the next
//! one says that all is well, and the data is gone.
//!
//! `DISK_FAULTS=1000` runs the long form, and `DISK_OUTAGE=30` lets the disk be full for 30 s.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use alipay_sidecar::clock::SystemClock;
use alipay_sidecar::config::Config;
use alipay_sidecar::store::embedded::{EmbeddedStore, OpenOptions};
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar::store::{Inbox, Store};
use http::{Method, Request, StatusCode};

use crate::support::signed::{Platform, Signed};
use crate::support::{TestSidecar, text};

mod disk;

use disk::{Dropped, Fault, FaultyDisk, On};

/// How long after the fault's end a notification must be taken again.
const HEALED: Duration = Duration::from_secs(5);
/// How soon a fault of several failures is over: between two of them the store waits.
const MET: Duration = Duration::from_secs(60);
/// How many faults the short form makes.
const SHORT: usize = 40;
/// How long the disk is full in the short form, seconds.
const SHORT_OUTAGE: u64 = 2;
/// The longest distance to a fault: some six commits. Nothing else that changes from fault to fault
/// comes round with it, so that each distance meets all of the rest.
const FARTHEST: usize = 51;
/// The same in fsyncs.
const FARTHEST_SYNC: usize = 11;
/// The same in reads: some four commits, and what reads on the side.
const FARTHEST_READ: usize = 1000;
/// How much of its file a store holds in memory, bytes.
const CACHE: usize = 1 << 20;
/// How many notifications come at once.
const AT_ONCE: usize = 4;
const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// A sidecar on a faulty disk, and what it has acknowledged.
struct World {
    disk: FaultyDisk,
    key: StoreKey,
    sidecar: TestSidecar,
    platform: Platform,
    sent: usize,
    acked: HashSet<String>,
}

impl World {
    /// On a store that holds so much of its file in memory, bytes.
    async fn start(cache: usize) -> Self {
        let (mut disk, mut key) = (FaultyDisk::default(), None);
        let sidecar = TestSidecar::start_built(
            |_| (),
            |config, builder| {
                let bytes = std::fs::read(&config.store.path).expect("created");
                disk = FaultyDisk::holding(bytes);
                key = Some(store_key(config));
                let store = open(&disk, store_key(config), cache);
                builder.store(Arc::new(store))
            },
        )
        .await;
        Self {
            disk,
            key: key.expect("built"),
            sidecar,
            platform: Platform::new(),
            sent: 0,
            acked: HashSet::new(),
        }
    }

    fn next(&mut self) -> Signed {
        self.sent += 1;
        let order = format!("order-{}", self.sent % 7);
        self.platform
            .payment(&format!("notify{:08}", self.sent), &order)
    }

    /// Posts several notifications at once; tells how many were acknowledged.
    async fn post(&mut self) -> usize {
        let all: Vec<_> = (0..AT_ONCE).map(|_| self.next()).collect();
        let answers = all.iter().map(|signed| self.send(signed));
        let answers = futures_util::future::join_all(answers).await;
        let acked = all.into_iter().zip(answers).filter(|(_, acked)| *acked);
        let before = self.acked.len();
        self.acked.extend(acked.map(|(signed, _)| signed.notify_id));
        self.acked.len() - before
    }

    /// Posts one; tells whether it was acknowledged. If not, then in Alipay's words.
    async fn send(&self, signed: &Signed) -> bool {
        let request = Request::post("/alipay/notify/orders")
            .header("content-type", "application/x-www-form-urlencoded");
        let answer = self.sidecar.webhook(request, signed.body.clone()).await;
        match (answer.status, text(&answer).as_str()) {
            (StatusCode::OK, "success") => true,
            (StatusCode::SERVICE_UNAVAILABLE, "fail") => false,
            (status, body) => panic!("{status} {body}"),
        }
    }

    /// Whether a call that writes nothing goes through.
    async fn call(&self) -> StatusCode {
        let body = r#"{"out_trade_no":"1"}"#;
        let answer = self.sidecar.post("/v2/alipay.trade.query", body).await;
        if answer.status != StatusCode::OK {
            let why = text(&answer);
            assert!(why.contains("store-unavailable"), "{why}");
        }
        answer.status
    }

    /// It does.
    async fn calls_go_on(&self) {
        assert_eq!(self.call().await, StatusCode::OK);
    }

    async fn ready(&self) -> StatusCode {
        self.sidecar.admin(Method::GET, "/readyz", "").await.status
    }

    /// Waits until one is acknowledged; gives when.
    async fn healed(&mut self) -> Instant {
        loop {
            let signed = self.next();
            if self.send(&signed).await {
                self.acked.insert(signed.notify_id);
                return Instant::now();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What is on the disk now is whole, and all that was acknowledged is there.
    async fn all_acked_are_there(&self) {
        for image in self.disk.images() {
            self.holds(image.bytes, &self.acked, image.how).await;
        }
    }

    /// An image is whole, and what was acknowledged is in it.
    async fn holds(&self, image: Vec<u8>, acked: &HashSet<String>, how: &str) {
        let stored = self.stored(image, how).await;
        let lost: Vec<_> = acked.difference(&stored).collect();
        assert!(lost.is_empty(), "{how}, acked and gone: {lost:?}");
    }

    /// What is in an image, opened on a good disk; every record and every index of it is well.
    async fn stored(&self, image: Vec<u8>, how: &str) -> HashSet<String> {
        let good = FaultyDisk::holding(image);
        let store = open(&good, self.key.clone(), CACHE);
        let found = store.inspect().await.expect("readable");
        assert!(found.is_clean(), "{how}: {found:?}");
        let entries = store.entries(None, None, usize::MAX).await;
        let entries = entries.expect("readable").into_iter();
        entries.filter_map(|(entry, _)| entry.notify_id).collect()
    }

    /// Waits until the backend has seen all that was acknowledged.
    async fn all_acked_are_delivered(&self) {
        let mut waiting = self.acked.clone();
        while !waiting.is_empty() {
            let seen = self.sidecar.backend.next().await;
            let body = String::from_utf8_lossy(&seen.body).into_owned();
            let id = body.split('&').find_map(|p| p.strip_prefix("notify_id="));
            waiting.remove(id.expect("a notification"));
        }
    }
}

fn store_key(config: &Config) -> StoreKey {
    let key = config.store.key.as_ref().expect("a key");
    StoreKey::from_base64(key.expose()).expect("a key")
}

fn open(disk: &FaultyDisk, key: StoreKey, cache_bytes: usize) -> EmbeddedStore {
    let options = OpenOptions {
        path: "the disk".into(),
        key,
        cache_bytes,
        clock: Arc::new(SystemClock),
    };
    let disk = disk.clone();
    EmbeddedStore::open_on(options, move || Ok(disk.clone())).expect("opened")
}

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |n| n.parse().expect("a number"))
}

/// How many operations in a row the fault of that number refuses. Between two of them the store waits,
/// and longer each time: the longest fault takes a quarter of a minute, and so it is rare.
fn length(number: usize) -> usize {
    match number % 29 {
        28 => 12,
        _ => [1, 2, 1, 5][number % 4],
    }
}

/// Meets one fault after the other, of which some must be met by a notification; tells how it went.
async fn meet(world: &mut World, faults: impl Iterator<Item = Fault>) -> String {
    let (mut slowest, mut refused) = (Duration::ZERO, 0);
    for fault in faults {
        let before = world.acked.clone();
        world.disk.arm(fault);
        let began = Instant::now();
        while !world.disk.is_over() {
            assert!(began.elapsed() < MET, "{fault:?} isn't met");
            let sent = world.sent;
            let acked = world.post().await;
            refused += world.sent - sent - acked;
            if acked == 0 {
                // The store opens itself again in its own time.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            match fault.on {
                // What reads from the disk may have to wait for it, too.
                On::Reads => drop(world.call().await),
                On::Changes | On::Syncs(_) => world.calls_go_on().await,
            }
        }
        let end = world.disk.last_refused().expect("it was met");
        let healed = world.healed().await.duration_since(end);
        assert!(healed < HEALED, "{fault:?} healed after {healed:?}");
        slowest = slowest.max(healed);
        world.calls_go_on().await;
        world.all_acked_are_there().await;
        for cut in world.disk.take_cuts() {
            let how = format!("{fault:?}, and the power goes");
            world.holds(cut, &before, &how).await;
        }
    }
    world.all_acked_are_delivered().await;
    assert!(refused > 0, "no fault was met by a notification");
    format!(
        "{} acked, {refused} refused, healed after {slowest:?} at the latest",
        world.acked.len()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_the_disk_makes_a_false_success() {
    let mut world = World::start(CACHE).await;
    let faults = (0..number("DISK_FAULTS", SHORT)).map(|n| Fault {
        on: On::Changes,
        after: n % FARTHEST,
        length: length(n),
        errno: [ENOSPC, EIO][n / 4 % 2],
    });
    println!("{}", meet(&mut world, faults).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fsync_that_drops_what_was_written_makes_no_false_success() {
    let mut world = World::start(CACHE).await;
    let faults = (0..number("DISK_FAULTS", SHORT * 3 / 4)).map(|n| Fault {
        on: On::Syncs([Dropped::Cached, Dropped::Gone, Dropped::HalfGone][n % 3]),
        after: n / 3 % FARTHEST_SYNC,
        length: length(n),
        errno: EIO,
    });
    println!("{}", meet(&mut world, faults).await);
}

/// The control: acks that stand in a cache alone are seen.
#[tokio::test(flavor = "multi_thread")]
async fn a_fsync_that_lies_is_found_out() {
    let mut world = World::start(CACHE).await;
    world.post().await;
    let before = world.acked.clone();
    world.disk.lie();
    assert!(world.post().await > 0, "it says that it writes");
    let [kill, cut, _] = world.disk.images();
    world.holds(kill.bytes, &world.acked, kill.how).await;
    world.holds(cut.bytes.clone(), &before, cut.how).await;
    let left = world.stored(cut.bytes, cut.how).await;
    assert!(!world.acked.is_subset(&left), "nothing was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_cannot_be_read_is_no_loss() {
    // Nothing is held in memory, so that everything is read from the disk.
    let mut world = World::start(0).await;
    let faults = (0..number("DISK_FAULTS", SHORT / 2)).map(|n| Fault {
        on: On::Reads,
        after: n * 7 % FARTHEST_READ,
        // Each opening that is tried in vain meets two.
        length: [1, 2, 1, 5][n % 4],
        errno: EIO,
    });
    println!("{}", meet(&mut world, faults).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_notifications_alone_and_heals_by_itself() {
    let mut world = World::start(CACHE).await;
    world.post().await;
    let outage = number("DISK_OUTAGE", SHORT_OUTAGE as usize);
    let outage = Duration::from_secs(outage as u64);
    world.disk.arm(Fault {
        on: On::Changes,
        after: 0,
        length: usize::MAX,
        errno: ENOSPC,
    });
    let began = Instant::now();
    let mut calls = 0;
    while began.elapsed() < outage {
        assert_eq!(world.post().await, 0);
        assert_eq!(world.ready().await, StatusCode::SERVICE_UNAVAILABLE);
        world.calls_go_on().await;
        calls += 1;
    }
    let end = world.disk.heal();
    let healed = world.healed().await.duration_since(end);
    println!("{calls} calls in an outage of {outage:?}, healed after {healed:?}");
    assert!(healed < HEALED, "{healed:?}");
    assert_eq!(world.ready().await, StatusCode::OK);
    world.all_acked_are_there().await;
    world.all_acked_are_delivered().await;
}
