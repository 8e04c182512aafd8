//! A disk that refuses the n-th write or fsync, for every n, under a whole sidecar.
//!
//! Whatever the disk does, `success` is said only of what is there when the file is opened again,
//! everything else is `fail` with 503, calls that need no write go through, `/readyz` tells, and
//! the sidecar heals by itself within [`HEALED`] of the fault's end.
//!
//! `DISK_FAULTS=1000` runs the long form, and `DISK_OUTAGE=30` lets the disk be full for 30 s.

use std::collections::HashSet;
use std::io::Error;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use alipay_sidecar::clock::SystemClock;
use alipay_sidecar::config::Config;
use alipay_sidecar::store::Inbox;
use alipay_sidecar::store::embedded::{EmbeddedStore, OpenOptions};
use alipay_sidecar::store::seal::StoreKey;
use http::{Method, Request, StatusCode};
use redb::StorageBackend;

use crate::support::signed::{Platform, Signed};
use crate::support::{TestSidecar, text};

/// How long after the fault's end a notification must be taken again.
const HEALED: Duration = Duration::from_secs(5);
/// How many faults the short form makes.
const SHORT: usize = 40;
/// How long the disk is full in the short form, seconds.
const SHORT_OUTAGE: u64 = 2;
/// The longest distance to a fault: some six commits.
const FARTHEST: usize = 50;
/// How many notifications come at once.
const AT_ONCE: usize = 4;
const ENOSPC: i32 = 28;
const EIO: i32 = 5;

/// A disk in memory with a fault in it; clones share it.
#[derive(Debug, Clone, Default)]
struct FaultyDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    fault: Option<Fault>,
    /// When an operation was refused last.
    refused: Option<Instant>,
}

/// Refuses writes, fsyncs and changes of length.
#[derive(Debug, Clone, Copy)]
struct Fault {
    /// How many go through before.
    after: usize,
    /// How many it refuses.
    length: usize,
    errno: i32,
}

impl FaultyDisk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no operation panics")
    }

    fn arm(&self, fault: Fault) {
        let mut state = self.state();
        state.refused = None;
        state.fault = Some(fault);
    }

    /// Ends the fault; gives when it ended.
    fn heal(&self) -> Instant {
        self.state().fault = None;
        Instant::now()
    }

    /// Whether the fault has refused all that it will.
    fn is_over(&self) -> bool {
        self.state().fault.is_none()
    }

    fn last_refused(&self) -> Option<Instant> {
        self.state().refused
    }

    fn bytes(&self) -> Vec<u8> {
        self.state().bytes.clone()
    }

    /// Does `work`, or gives the error of the fault; a write that is refused is done in half.
    fn change(
        &self,
        work: impl FnOnce(&mut Vec<u8>),
        half: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), Error> {
        let mut state = self.state();
        match state.strikes() {
            None => {
                work(&mut state.bytes);
                Ok(())
            }
            Some(error) => {
                half(&mut state.bytes);
                Err(error)
            }
        }
    }
}

impl State {
    fn strikes(&mut self) -> Option<Error> {
        let fault = self.fault.as_mut()?;
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        let error = Error::from_raw_os_error(fault.errno);
        fault.length -= 1;
        if fault.length == 0 {
            self.fault = None;
        }
        self.refused = Some(Instant::now());
        Some(error)
    }
}

impl StorageBackend for FaultyDisk {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.state().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let offset = place(offset);
        let state = self.state();
        let found = state.bytes.get(offset..offset + out.len());
        out.copy_from_slice(found.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.change(|bytes| bytes.resize(place(len), 0), |_| ())
    }

    fn sync_data(&self) -> Result<(), Error> {
        self.change(|_| (), |_| ())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let offset = place(offset);
        self.change(
            |bytes| bytes[offset..offset + data.len()].copy_from_slice(data),
            |bytes| {
                let half = &data[..data.len() / 2];
                bytes[offset..offset + half.len()].copy_from_slice(half);
            },
        )
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number).expect("a disk in memory")
}

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
    async fn start() -> Self {
        let (disk, mut key) = (FaultyDisk::default(), None);
        let sidecar = TestSidecar::start_built(
            |_| (),
            |config, builder| {
                disk.state().bytes = std::fs::read(&config.store.path).expect("created");
                key = Some(store_key(config));
                let store = open(&disk, store_key(config));
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

    /// A call that writes nothing goes through.
    async fn calls_go_on(&self) {
        let body = r#"{"out_trade_no":"1"}"#;
        let answer = self.sidecar.post("/v2/alipay.trade.query", body).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", text(&answer));
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

    /// Opens what is on the disk now, on a good one: all that was acknowledged is there.
    async fn all_acked_are_there(&self) {
        let good = FaultyDisk::default();
        good.state().bytes = self.disk.bytes();
        let store = open(&good, self.key.clone());
        let entries = store.entries(None, None, usize::MAX).await;
        let entries = entries.expect("readable");
        let stored: HashSet<_> = entries
            .into_iter()
            .filter_map(|(entry, _)| entry.notify_id)
            .collect();
        let lost: Vec<_> = self.acked.difference(&stored).collect();
        assert!(lost.is_empty(), "acked and gone: {lost:?}");
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

fn open(disk: &FaultyDisk, key: StoreKey) -> EmbeddedStore {
    let options = OpenOptions {
        path: "the disk".into(),
        key,
        cache_bytes: 1 << 20,
        clock: Arc::new(SystemClock),
    };
    let disk = disk.clone();
    EmbeddedStore::open_on(options, move || Ok(disk.clone())).expect("opened")
}

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |n| n.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_of_the_disk_makes_a_false_success() {
    let mut world = World::start().await;
    let (mut slowest, mut refused) = (Duration::ZERO, 0);
    for n in 0..number("DISK_FAULTS", SHORT) {
        let fault = Fault {
            after: n % FARTHEST,
            length: [1, 2, 5, 12][n / FARTHEST % 4],
            errno: [ENOSPC, EIO][n % 2],
        };
        world.disk.arm(fault);
        while !world.disk.is_over() {
            let sent = world.sent;
            let acked = world.post().await;
            refused += world.sent - sent - acked;
            world.calls_go_on().await;
        }
        let end = world.disk.last_refused().expect("it was met");
        let healed = world.healed().await.duration_since(end);
        assert!(healed < HEALED, "{fault:?} healed after {healed:?}");
        slowest = slowest.max(healed);
        world.all_acked_are_there().await;
    }
    world.all_acked_are_delivered().await;
    println!(
        "{} acked, {refused} refused, healed after {slowest:?} at the latest",
        world.acked.len()
    );
    assert!(refused > 0, "no fault was met by a notification");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_notifications_alone_and_heals_by_itself() {
    let mut world = World::start().await;
    world.post().await;
    let outage = number("DISK_OUTAGE", SHORT_OUTAGE as usize);
    let outage = Duration::from_secs(outage as u64);
    world.disk.arm(Fault {
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
