//! Kills the real program (`kill -9`) under a mixed load of notifications, again and again.
//!
//! Payments of shared orders, platform messages, authorisations and repetitions come in over HTTP
//! while the backend takes, refuses and delays deliveries. Of what was acknowledged nothing may be
//! lost; what is delivered must be what came, byte for byte, and the payments of an order in their
//! order; and each time the program must be ready again within [`READY`].
//!
//! `KILL_CYCLES=1000` (with `--release`) runs the long form.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::model::delivery::DeliveryState;
use alipay_sidecar::model::id::EventId;
use alipay_sidecar::net::body::RequestBody;
use alipay_sidecar::net::client::Client;
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::serve::serve;
use alipay_sidecar::net::shutdown::{Shutdown, ShutdownTrigger};
use alipay_sidecar::store::{Directory, Inbox, Store};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};

use crate::support::program::{Installation, Program};
use crate::support::signed::{Platform, Signed};
use crate::support::{PATIENCE, client};

/// How soon a killed program must be ready again. One without optimisation, beside all other tests,
/// is given more.
const READY: Duration = Duration::from_secs(if cfg!(debug_assertions) { 15 } else { 2 });
/// How many kills the short form makes.
const SHORT: usize = 5;
/// How many orders are paid at a time.
const LANES: usize = 8;
/// How many notifications there are of an order.
const OF_AN_ORDER: usize = 5;
/// The least and the longest time under load, milliseconds; chance chooses.
const LOAD_MS: std::ops::Range<u64> = 20..276;
/// How long all deliveries may take in the end: the backend's refusals come again after 1, 2, 4 s.
const DRAIN: Duration = Duration::from_secs(120);

/// What the test knows of all that was sent, acknowledged and delivered.
#[derive(Default)]
struct Book {
    /// The body of everything that was ever sent.
    sent: HashMap<String, Bytes>,
    acked: HashSet<String>,
    delivered: HashSet<String>,
    /// How many notifications of an order came to the backend.
    of_order: HashMap<String, usize>,
    /// What was wrong with deliveries.
    wrong: Vec<String>,
    deliveries: usize,
    answers: usize,
}

#[derive(Clone, Default)]
struct Ledger(Arc<Mutex<Book>>);

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().expect("nobody panics with it")
    }
}

impl Book {
    fn send(&mut self, signed: &Signed) {
        let body = Bytes::from(signed.body.clone());
        self.sent.insert(signed.notify_id.clone(), body);
    }

    fn ack(&mut self, notify_id: &str) {
        self.acked.insert(notify_id.to_owned());
        self.answers += 1;
    }

    /// Takes a delivery down.
    fn deliver(&mut self, body: &Bytes) {
        self.deliveries += 1;
        let text = String::from_utf8_lossy(body);
        let id = match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(event) => self.event(&event),
            Err(_) => {
                let id = text.split('&').find_map(|p| p.strip_prefix("notify_id="));
                id.unwrap_or_default().to_owned()
            }
        };
        match self.sent.get(&id) {
            None => return self.wrong.push(format!("nobody sent {text}")),
            Some(sent) if sent != body && !id.starts_with("auth") => {
                self.wrong.push(format!("{id} was changed to {text}"));
            }
            Some(_) => {}
        }
        if self.delivered.insert(id.clone()) {
            self.in_order(&id);
        }
    }

    /// The `notify_id` that an event of ours goes back to: the test gives both one number.
    fn event(&mut self, event: &serde_json::Value) -> String {
        if event.to_string().contains("token-") {
            self.wrong.push(format!("a token in {event}"));
        }
        let merchant = event["auth_app_id"].as_str().unwrap_or_default();
        format!(
            "auth{}",
            merchant.strip_prefix("20210000").unwrap_or_default()
        )
    }

    /// The first delivery of each notification of an order comes after that of the one before.
    fn in_order(&mut self, id: &str) {
        let Some((order, number)) = id.rsplit_once('n') else {
            return;
        };
        let expected = self.of_order.entry(order.to_owned()).or_default();
        if number.parse() != Ok(*expected) {
            self.wrong.push(format!("{id} came as number {expected}"));
        }
        *expected += 1;
    }

    fn owed(&self) -> usize {
        self.acked.difference(&self.delivered).count()
    }
}

/// A backend that takes most of what comes, some of it late, and refuses the rest for now.
async fn backend(ledger: Ledger) -> (String, ShutdownTrigger) {
    let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".to_owned())).await;
    let listener = listener.expect("a port");
    let url = format!("http://{}/events", listener.address());
    let (trigger, shutdown) = Shutdown::new();
    let count = Arc::new(AtomicUsize::new(0));
    let handle = move |request: Request<RequestBody>| {
        let (ledger, count) = (ledger.clone(), Arc::clone(&count));
        async move {
            let body = request.into_body().collect().await;
            let number = count.fetch_add(1, Ordering::Relaxed);
            let mut response = Response::new(Full::new(Bytes::from_static(b"success")));
            // The sender may be killed in the middle of it.
            let Ok(body) = body else { return response };
            ledger.book().deliver(&body.to_bytes());
            if number % 40 == 39 {
                *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            }
            if number % 10 == 9 {
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
            response
        }
    };
    tokio::spawn(serve(listener, None, handle, shutdown));
    (url, trigger)
}

/// Which notifications a lane sends.
#[derive(Clone, Copy)]
enum Kind {
    Authorization,
    Message,
    Payment,
    /// What others have sent, and had acknowledged, once more.
    Repetition,
}

/// Sends one notification after the other, each until it is acknowledged.
struct Lane {
    kind: Kind,
    number: usize,
    sent: usize,
    /// Not acknowledged yet.
    open: Option<Signed>,
    platform: Platform,
    ledger: Ledger,
}

impl Lane {
    fn all(ledger: &Ledger) -> Vec<Self> {
        let payments = std::iter::repeat_n(Kind::Payment, LANES);
        let others = [Kind::Authorization, Kind::Message, Kind::Repetition];
        let platform = Platform::new();
        let all = payments.chain(others).enumerate();
        all.map(|(number, kind)| Self {
            kind,
            number,
            sent: 0,
            open: None,
            platform: platform.clone(),
            ledger: ledger.clone(),
        })
        .collect()
    }

    fn next(&mut self) -> Option<Signed> {
        if let Some(open) = self.open.take() {
            return Some(open);
        }
        let n = self.sent;
        self.sent += 1;
        let signed = match self.kind {
            Kind::Authorization => {
                let merchant = format!("20210000{n:08}");
                self.platform
                    .authorization(&format!("auth{n:08}"), &merchant, 1_795_335_630_000)
            }
            Kind::Message => self.platform.message(&format!("message{n}")),
            Kind::Payment => {
                let order = format!("order{}x{}", self.number, n / OF_AN_ORDER);
                let id = format!("{order}n{}", n % OF_AN_ORDER);
                self.platform.payment(&id, &order)
            }
            Kind::Repetition => return self.known(),
        };
        self.ledger.book().send(&signed);
        Some(signed)
    }

    fn known(&self) -> Option<Signed> {
        let book = self.ledger.book();
        let notify_id = book.acked.iter().next()?.clone();
        let body = book.sent.get(&notify_id)?;
        let body = String::from_utf8_lossy(body).into_owned();
        Some(Signed { notify_id, body })
    }

    /// Sends until the program is gone.
    async fn run(&mut self, client: &Client, webhook: &str) {
        while let Some(signed) = self.next() {
            let request = Request::post(format!("{webhook}/alipay/notify/orders"))
                .header("content-type", "application/x-www-form-urlencoded")
                .body(Full::new(Bytes::from(signed.body.clone())));
            let answer = client.send(request.expect("a request"), PATIENCE).await;
            match answer {
                Ok(answer) if answer.body == "success" => {
                    self.ledger.book().ack(&signed.notify_id);
                }
                Ok(answer) => panic!("{} for {}", answer.status, signed.notify_id),
                Err(_) => {
                    self.open = Some(signed);
                    return;
                }
            }
        }
    }
}

/// Lets all lanes send for a while, then kills the program.
async fn load(program: Program, lanes: Vec<Lane>) -> Vec<Lane> {
    let [.., random] = EventId::new(0).to_bytes();
    let load = Duration::from_millis(LOAD_MS.start + u64::from(random));
    assert!(load.as_millis() < u128::from(LOAD_MS.end));
    let client = client();
    let tasks: Vec<_> = lanes
        .into_iter()
        .map(|mut lane| {
            let (client, webhook) = (client.clone(), program.webhook.clone());
            tokio::spawn(async move {
                lane.run(&client, &webhook).await;
                lane
            })
        })
        .collect();
    tokio::time::sleep(load).await;
    program.kill();
    let lanes = futures_util::future::join_all(tasks).await;
    lanes
        .into_iter()
        .map(|lane| lane.expect("no panic"))
        .collect()
}

/// Waits until all that was acknowledged is delivered, and nothing else is owed.
async fn drained(ledger: &Ledger, program: &Program) {
    let (began, client) = (Instant::now(), client());
    let pending = async || {
        program
            .metric(&client, "alipay_sidecar_inbox_pending")
            .await
    };
    while ledger.book().owed() > 0 || pending().await != Some(0.0) {
        let owed = ledger.book().owed();
        assert!(began.elapsed() < DRAIN, "{owed} acked were never delivered");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn percentile_99(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_program_loses_nothing_it_acknowledged() {
    let cycles = std::env::var("KILL_CYCLES").map_or(SHORT, |n| n.parse().expect("a number"));
    let ledger = Ledger::default();
    let (url, _backend) = backend(ledger.clone()).await;
    let installation = Installation::new(&url);
    let mut lanes = Lane::all(&ledger);
    let (mut times, began) = (Vec::new(), Instant::now());
    for _ in 0..cycles {
        let program = installation.start();
        times.push(program.ready(&client()).await);
        lanes = load(program, lanes).await;
        assert_eq!(ledger.book().wrong, Vec::<String>::new());
    }
    let took = began.elapsed();
    let program = installation.start();
    drained(&ledger, &program).await;
    assert_eq!(program.terminate(), Some(0));
    let (slowest, p99) = (times.iter().max().copied(), percentile_99(&mut times));
    {
        let book = ledger.book();
        println!(
            "{cycles} kills in {took:?}: {} acked ({} acks), {} deliveries; ready after {slowest:?} at the latest, {p99:?} at p99",
            book.acked.len(),
            book.answers,
            book.deliveries,
        );
        assert_eq!(book.wrong, Vec::<String>::new());
        assert!(book.acked.len() > cycles, "hardly anything was acked");
    }
    assert!(slowest < Some(READY), "ready again only after {slowest:?}");
    settled(&installation, &ledger).await;
}

/// The store agrees: everything acknowledged is in it, and nothing is owed.
async fn settled(installation: &Installation, ledger: &Ledger) {
    let store = installation.open_store();
    assert_eq!(store.counts().await.expect("readable").pending, 0);
    let delivered = Some(DeliveryState::Delivered);
    let entries = store.entries(delivered, None, usize::MAX).await;
    let entries = entries.expect("readable");
    let stored: HashSet<_> = entries
        .into_iter()
        .filter_map(|(e, _)| e.notify_id)
        .collect();
    let merchants = store.merchants(None, usize::MAX).await.expect("readable");
    let book = ledger.book();
    assert!(book.acked.is_subset(&stored));
    let authorised = book.acked.iter().filter(|id| id.starts_with("auth"));
    assert!(authorised.count() <= merchants.len());
}
