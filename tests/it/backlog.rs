//! A backlog that a backend has left behind: what it costs to hold, to start with, and to deliver.
//!
//! A store is filled with pending notifications, and the real program is started on it while the
//! backend is down, each time after a `kill -9`. Against the same program on an empty store it may
//! neither start later nor take more memory than the page cache it is allowed, nor work through the
//! backlog while there is nobody to take it. Then the backend comes back, and everything must
//! arrive, the notifications of an order in their order, while memory stays as it was.
//!
//! `BACKLOG=1000000` (with `--release`) runs the long form.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use alipay_sidecar::clock::{Clock, SystemClock};
use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::model::id::{AppId, AuthAppId, EventIds};
use alipay_sidecar::model::notification::{Body, DeliveryForm, InboxEntry};
use alipay_sidecar::net::body::RequestBody;
use alipay_sidecar::net::client::Client;
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::serve::serve;
use alipay_sidecar::net::shutdown::{Shutdown, ShutdownTrigger};
use alipay_sidecar::protocol::sign_content::Scheme;
use alipay_sidecar::simulator::{DEFAULT_APP_ID, FIRST_AUTH_APP_ID};
use alipay_sidecar::store::embedded::EmbeddedStore;
use alipay_sidecar::store::{Change, Store};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};

use crate::support::program::{Installation, Program};
use crate::support::{client, free_port};

/// How many notifications are pending in the short form.
const SHORT: usize = 1_000;
/// How many are put into the store at once.
const TOGETHER: usize = 5_000;
/// How many belong to one order.
const OF_AN_ORDER: usize = 4;
/// How long the backend stays down while the program tries.
const DOWN: Duration = Duration::from_secs(3);
/// How much more memory than with an empty store may be used, MiB: `store.cache` and as much again.
const MEMORY_MIB: u64 = 64;
/// How often it is started; the quickest start counts, because the machine may be busy.
const STARTS: usize = 3;
/// How much later than with an empty store it may be ready: opening takes milliseconds. A program
/// without optimisation, beside all other tests, is given more.
const READY: Duration = Duration::from_millis(if cfg!(debug_assertions) { 1_000 } else { 250 });
/// How many attempts it may make before it notices that nobody is there and, one at a time, while
/// the backend is down: whatever the backlog.
const TRIED: f64 = 60.0;
/// How long nothing may arrive while something is pending: longer than any pause after a refusal
/// within [`DOWN`].
const STALLED: Duration = Duration::from_secs(30);
const PENDING: &str = "alipay_sidecar_inbox_pending";
const REFUSED: &str = "alipay_sidecar_delivery_attempts_total{outcome=\"connect\"}";

/// What a notification of Alipay's is long.
const FILLER: &str = "&app_id=2021000000000001&buyer_id=2088000000002001&charset=UTF-8&fund_bill_list=%5B%7B%22amount%22%3A%228.80%22%2C%22fundChannel%22%3A%22ALIPAYACCOUNT%22%7D%5D&gmt_create=2026-11-22+10%3A20%3A30&gmt_payment=2026-11-22+10%3A20%3A31&notify_time=2026-11-22+10%3A20%3A31&notify_type=trade_status_sync&seller_id=2088000000001001&subject=tea&total_amount=8.80&trade_no=2026112222001400000000000001&trade_status=TRADE_SUCCESS&version=1.0&sign_type=RSA2&sign=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

fn entry(ids: &EventIds, n: usize, now: i64) -> InboxEntry {
    let (order, number) = (n / OF_AN_ORDER, n % OF_AN_ORDER);
    InboxEntry {
        id: ids.next(now),
        app_id: AppId::new(DEFAULT_APP_ID).expect("an id"),
        notify_id: Some(format!("notify{n}")),
        event_type: "trade_status_sync".to_owned(),
        auth_app_id: Some(AuthAppId::new(FIRST_AUTH_APP_ID).expect("an id")),
        pid: None,
        received_at: now,
        notify_path: "/orders".to_owned(),
        notify_query: String::new(),
        order_key: Some(format!("order{order}")),
        body: Some(Body {
            content_type: "application/x-www-form-urlencoded".to_owned(),
            bytes: Bytes::from(format!("out_trade_no={order}&number={number}{FILLER}")),
        }),
        opened_content: None,
        scheme: Some(Scheme::V1),
        event: None,
        form: DeliveryForm::AsConfigured,
    }
}

/// Puts `count` pending notifications into the store.
async fn fill(store: &EmbeddedStore, count: usize) {
    let (ids, now) = (EventIds::new(), SystemClock.now_ms());
    let mut n = 0;
    while n < count {
        let end = count.min(n + TOGETHER);
        let entries = (n..end).map(|n| Change::Receive(Box::new(entry(&ids, n, now))));
        store.commit(entries.collect()).await.expect("committed");
        n = end;
    }
}

/// What arrived at the backend.
#[derive(Default)]
struct Arrived {
    count: usize,
    /// How many of an order.
    of_order: HashMap<usize, usize>,
    wrong: Vec<String>,
}

impl Arrived {
    fn take(&mut self, body: &Bytes) {
        let text = String::from_utf8_lossy(body);
        let mut fields = text.split('&').filter_map(|pair| pair.split_once('='));
        let mut next = || fields.next().and_then(|(_, value)| value.parse().ok());
        let (order, number) = (next().expect("an order"), next().expect("a number"));
        let expected = self.of_order.entry(order).or_insert(0);
        // A repetition of one whose settlement was lost is allowed: at least once.
        if number > *expected {
            self.wrong
                .push(format!("{number} of order {order} came as {expected}"));
        }
        if number == *expected {
            *expected += 1;
            self.count += 1;
        }
    }
}

/// The backend's address, where nobody listens yet.
fn address() -> String {
    format!("127.0.0.1:{}", free_port())
}

async fn come_back(address: &str, arrived: Arc<Mutex<Arrived>>) -> ShutdownTrigger {
    let listener = Listener::bind(&Listen::Tcp(address.to_owned())).await;
    let (trigger, shutdown) = Shutdown::new();
    let handle = move |request: Request<RequestBody>| {
        let arrived = Arc::clone(&arrived);
        async move {
            let body = request.into_body().collect().await.expect("whole");
            arrived.lock().expect("no panic").take(&body.to_bytes());
            Response::new(Full::new(Bytes::from_static(b"success")))
        }
    };
    tokio::spawn(serve(listener.expect("its port"), None, handle, shutdown));
    trigger
}

/// A program that is ready, how long that took at best, and its memory, MiB. Those before it were
/// killed.
async fn start(installation: &Installation, client: &Client) -> (Program, Duration, u64) {
    let mut best = Duration::MAX;
    for _ in 1..STARTS {
        let program = installation.start();
        best = best.min(program.ready(client).await);
        program.kill();
    }
    let program = installation.start();
    let ready = program.ready(client).await.min(best);
    let memory = program.memory_mib("VmRSS:");
    (program, ready, memory)
}

/// Waits until nothing is pending; gives how long that took.
async fn drained(program: &Program, client: &Client, arrived: &Mutex<Arrived>) -> Duration {
    let began = Instant::now();
    let mut last = (0, Instant::now());
    while program.metric(client, PENDING).await != Some(0.0) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let count = arrived.lock().expect("no panic").count;
        if count > last.0 {
            last = (count, Instant::now());
        }
        assert!(last.1.elapsed() < STALLED, "nothing came after {count}");
    }
    began.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_costs_neither_memory_nor_start_up_time_and_drains_in_order() {
    let count = std::env::var("BACKLOG").map_or(SHORT, |n| n.parse().expect("a number"));
    let (client, address) = (client(), address());
    let installation = Installation::new(&format!("http://{address}/events"));
    let (empty, ready_empty, memory_empty) = start(&installation, &client).await;
    assert_eq!(empty.terminate(), Some(0));

    let began = Instant::now();
    fill(&installation.open_store(), count).await;
    let size = std::fs::metadata(installation.store_path())
        .expect("there")
        .len()
        >> 20;
    println!(
        "{count} put into the store in {:?}: {size} MiB",
        began.elapsed()
    );

    let (program, ready, memory) = start(&installation, &client).await;
    println!("ready after {ready:?} with {memory} MiB; empty: {ready_empty:?}, {memory_empty} MiB");
    tokio::time::sleep(DOWN).await;
    assert_eq!(program.metric(&client, PENDING).await, Some(count as f64));
    let tried = program.metric(&client, REFUSED).await.expect("counted");
    let down = program.memory_mib("VmRSS:");

    let arrived = Arc::new(Mutex::new(Arrived::default()));
    let _backend = come_back(&address, Arc::clone(&arrived)).await;
    let took = drained(&program, &client, &arrived).await;
    let (after, peak) = (program.memory_mib("VmRSS:"), program.memory_mib("VmHWM:"));
    println!(
        "{tried} attempts in {DOWN:?} without a backend; drained in {took:?}, {:.0} a second; {down} MiB while the backend was down, {after} MiB after, {peak} MiB at most",
        count as f64 / took.as_secs_f64()
    );
    assert_eq!(program.terminate(), Some(0));
    let arrived = arrived.lock().expect("no panic");
    assert_eq!((arrived.count, &arrived.wrong), (count, &Vec::new()));
    assert!(tried <= TRIED, "{tried} attempts while nobody was there");
    assert!(
        ready < ready_empty + READY,
        "{ready:?}, not {ready_empty:?}"
    );
    assert!(
        peak < memory_empty + MEMORY_MIB,
        "{peak} MiB, not {memory_empty}"
    );
}
