//! Clients that send slowly, or don't read, beside those that do: the slow ones are closed in time,
//! and nobody else notices them.
//!
//! The short form has deadlines of some seconds, so that it takes little longer. `SLOW_CLIENTS=500`, with
//! `--release`, runs the long form: as many of each kind against the real program with the real
//! deadlines, whose memory is looked at, too. It needs some 4,000 descriptors (`ulimit -n`).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use alipay_sidecar::net::terms::Terms;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

use crate::support::caller::{Caller, Keep};
use crate::support::signed::Platform;
use crate::support::{ALIAS, TestSidecar, hold_time, raw};

/// How many of each kind the short form has.
const FEW: usize = 30;
/// How many of them are readers: what fills the buffers before each has to be answered first.
const FEW_READERS: usize = 6;
/// How long a reader's buffers may take to fill.
const FILLING: Duration = Duration::from_secs(120);
/// Without how long no room, they are full.
const FULL: Duration = Duration::from_millis(300);
/// How late a slow client may be closed, for want of processors.
const LATE: Duration = Duration::from_secs(10);
/// How many requests of each kind the normal traffic has, before and beside the slow clients.
const REQUESTS: usize = 200;
/// How many latencies a percentile of the long form is made of, at the least.
const ENOUGH: usize = 300;
/// How many of the short form's tell that anybody was served at all.
const SOME: usize = 24;

/// What is attacked.
#[derive(Clone)]
struct Target {
    proxy: String,
    webhook: String,
    admin: String,
    terms: Terms,
}

/// A way to be slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slow {
    Body,
    Head,
    Reader,
}

impl Target {
    /// The ports that clients of this kind go to, and a path that each has.
    fn places(&self, slow: Slow) -> Vec<(String, &'static str)> {
        let all = [
            (self.proxy.clone(), "/v2/alipay.trade.pay"),
            (self.webhook.clone(), "/alipay/notify"),
            (self.admin.clone(), "/livez"),
        ];
        // A body on the admin port needs its token first.
        let ports = if slow == Slow::Body { 2 } else { 3 };
        all.into_iter().take(ports).collect()
    }

    /// How long a client of this kind is borne with.
    fn deadline(&self, slow: Slow) -> Duration {
        match slow {
            Slow::Body => self.terms.body,
            Slow::Head => self.terms.head,
            Slow::Reader => self.terms.stall,
        }
    }
}

/// What slow senders write first, and go on with.
fn words(slow: Slow) -> (&'static str, &'static [u8]) {
    match slow {
        Slow::Head | Slow::Reader => ("POST {path} HTTP/1.1\r\nHost: localhost\r\nX-", b"a"),
        Slow::Body => (
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n",
            b"b",
        ),
    }
}

/// What readers ask for on each port: answers as large as there are, so that few of them fill all
/// the buffers between.
fn question(path: &str) -> String {
    let long = "x".repeat(40_000);
    match path {
        "/alipay/notify" => {
            format!("GET /alipay/auth?auth_code={long} HTTP/1.1\r\nHost: localhost\r\n\r\n")
        }
        "/livez" => "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned(),
        _ => {
            let body = format!("{{\"x\":\"{long}\"}}");
            format!(
                "POST /v2/alipay.trade.app.pay/order-string HTTP/1.1\r\nHost: localhost\r\n\
                 Alipay-Merchant: self\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
        }
    }
}

/// Is slow until it is closed; gives how long that took. `ready` is told once it is in the way.
async fn be_slow(
    slow: Slow,
    (base, path): (&str, &str),
    deadline: Duration,
    ready: &AtomicUsize,
) -> Duration {
    let address = raw::authority(base).parse().expect("an address");
    let socket = TcpSocket::new_v4().expect("a socket");
    if slow == Slow::Reader {
        // So that what isn't read soon stays with the sidecar.
        socket.set_recv_buffer_size(4096).expect("set");
    }
    let stream = socket.connect(address).await.expect("a connection");
    if slow == Slow::Reader {
        return ask_on(stream, &question(path), ready).await;
    }
    ready.fetch_add(1, Ordering::Relaxed);
    let began = Instant::now();
    let trickled = trickle(stream, slow, path, deadline / 20);
    let closed = tokio::time::timeout(deadline + LATE * 4, trickled).await;
    closed.unwrap_or_else(|_| panic!("{slow:?} at {base} was never closed"));
    began.elapsed()
}

/// Sends a byte now and then, until the connection ends.
async fn trickle(mut stream: TcpStream, slow: Slow, path: &str, pause: Duration) {
    let (first, then) = words(slow);
    let _ = stream
        .write_all(first.replace("{path}", path).as_bytes())
        .await;
    let (mut reading, mut writing) = stream.into_split();
    let writes = tokio::spawn(async move {
        while writing.write_all(then).await.is_ok() {
            tokio::time::sleep(pause).await;
        }
    });
    let mut answer = Vec::new();
    let _ = reading.read_to_end(&mut answer).await;
    writes.abort();
}

/// Asks without end and reads nothing, until the connection ends; gives how long that took from
/// where there was no room for a further question.
async fn ask_on(mut stream: TcpStream, question: &str, ready: &AtomicUsize) -> Duration {
    let (mut last, mut is_full) = (Instant::now(), false);
    let asking = async {
        let mut rest = question.as_bytes();
        loop {
            match tokio::time::timeout(FULL, stream.write(rest)).await {
                Ok(Err(_)) => {
                    ready.fetch_add(usize::from(!is_full), Ordering::Relaxed);
                    return last.elapsed();
                }
                Ok(Ok(written)) => {
                    last = Instant::now();
                    rest = &rest[written..];
                    if rest.is_empty() {
                        rest = question.as_bytes();
                    }
                }
                Err(_) if is_full => {}
                Err(_) => {
                    is_full = true;
                    ready.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    };
    let closed = tokio::time::timeout(FILLING, asking).await;
    closed.expect("a reader was never closed")
}

/// The latencies of normal traffic on all three ports, sorted; less of it once `ended` says so.
async fn traffic(target: &Target, round: &str, ended: impl Fn() -> bool) -> Vec<Duration> {
    let platform = Platform::new();
    let mut took = Vec::new();
    let mut callers = [&target.proxy, &target.webhook, &target.admin]
        .map(|base| Caller::new(raw::authority(base), Keep::Alive));
    for n in 0..REQUESTS {
        let id = format!("{round}{n}");
        let signed = platform.payment(&id, &id).body;
        let json = "Content-Type: application/json\r\nAlipay-Merchant: self\r\n";
        let form = "Content-Type: application/x-www-form-urlencoded\r\n";
        let [proxy, webhook, admin] = &mut callers;
        let order = "/v2/alipay.trade.app.pay/order-string";
        for told in [
            proxy.ask("POST", order, json, "{}").await,
            webhook.ask("POST", "/alipay/notify", form, &signed).await,
            admin.ask("GET", "/livez", "", "").await,
        ] {
            let told = told.expect("an answer");
            assert_eq!(told.status, 200, "{}", told.body);
            if ended() {
                took.sort();
                return took;
            }
            took.push(told.took);
        }
    }
    took.sort();
    took
}

/// Zero where there was no time for a single one.
fn p99(sorted: &[Duration]) -> Duration {
    let at = sorted.len() * 99 / 100;
    sorted.get(at).copied().unwrap_or_default()
}

/// What became of normal traffic.
struct Measured {
    before: Duration,
    beside: Duration,
    /// How many requests `beside` is made of: those answered while every slow client was there.
    requests: usize,
}

/// Lets so many clients of each kind be slow, and looks at everybody else meanwhile.
async fn siege(target: &Target, counts: [(Slow, usize); 3]) -> Measured {
    traffic(target, "warm", || false).await;
    let before = p99(&traffic(target, "before", || false).await);
    let ready = Arc::new(AtomicUsize::new(0));
    let gone = Arc::new(AtomicUsize::new(0));
    let (mut clients, mut all) = (JoinSet::new(), 0);
    for (slow, count) in counts {
        let places = target.places(slow);
        let deadline = target.deadline(slow);
        for n in 0..count {
            let (base, path) = places[n % places.len()].clone();
            let (ready, gone) = (Arc::clone(&ready), Arc::clone(&gone));
            clients.spawn(async move {
                let took = be_slow(slow, (&base, path), deadline, &ready).await;
                gone.fetch_add(1, Ordering::Relaxed);
                (slow, took)
            });
        }
        // Readers first: what fills their buffers has to be answered before they are in the way.
        all += count;
        while ready.load(Ordering::Relaxed) < all {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let beside = traffic(target, "beside", || gone.load(Ordering::Relaxed) > 0).await;
    let (requests, beside) = (beside.len(), p99(&beside));
    let mut latest = [Duration::ZERO; 3];
    while let Some(closed) = clients.join_next().await {
        let (slow, took) = closed.expect("closed");
        // What a reader asked before is answered first, as far as there is room for the answers.
        let late = if slow == Slow::Reader { LATE * 3 } else { LATE };
        let most = target.deadline(slow) + late;
        assert!(took <= most, "{slow:?} was closed after {took:?}");
        latest[slow as usize] = latest[slow as usize].max(took);
    }
    let [body, head, reader] = latest;
    eprintln!(
        "{counts:?}, the last closed after: heads {head:?}, bodies {body:?}, \
         readers {reader:?}; p99 of others {before:?} before, {beside:?} beside ({requests} \
         requests): ×{:.2}",
        beside.as_secs_f64() / before.as_secs_f64()
    );
    Measured {
        before,
        beside,
        requests,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_is_closed_in_time_and_everybody_else_is_served() {
    let terms = Terms {
        head: Duration::from_secs(4),
        body: Duration::from_secs(4),
        stall: Duration::from_secs(8),
        ..Terms::default()
    };
    let sidecar = TestSidecar::start_on(
        terms,
        |_, config| {
            config.delivery.url = None;
            config.webhook.user_auth_return_url = Some("https://isv.example.com/login".to_owned());
        },
        |_, builder| builder,
    )
    .await;
    let target = Target {
        proxy: sidecar.proxy.clone(),
        webhook: sidecar.webhook.clone(),
        admin: sidecar.admin.clone(),
        terms,
    };
    let few = [
        (Slow::Reader, FEW_READERS),
        (Slow::Head, FEW),
        (Slow::Body, FEW),
    ];
    let measured = siege(&target, few).await;
    // The ratio is the long form's: other tests run beside this one.
    assert!(
        measured.beside < Duration::from_secs(5),
        "{:?}",
        measured.beside
    );
    assert!(
        measured.requests >= SOME,
        "{} while all were there",
        measured.requests
    );
}

/// What a listener is asked for, and whether a body is waited for there.
const ASKED: [(&str, bool); 3] = [
    ("/v2/alipay.trade.pay", true),
    ("/alipay/notify", true),
    // A body on the admin port needs its token first.
    ("/livez", false),
];

/// What has come and what comes within some seconds, until the connection ends.
async fn rest(mut stream: TcpStream) -> String {
    let mut rest = Vec::new();
    let read = stream.read_to_end(&mut rest);
    let ended = tokio::time::timeout(Duration::from_secs(5), read).await;
    ended.expect("it is closed").expect("no reset");
    String::from_utf8_lossy(&rest).into_owned()
}

#[tokio::test]
async fn half_a_minute_is_given_for_a_head_or_body_and_five_minutes_between_requests() {
    let sidecar = TestSidecar::start().await;
    let bases = [&sidecar.proxy, &sidecar.webhook, &sidecar.admin];
    let mut callers = bases.map(|base| Caller::new(raw::authority(base), Keep::Alive));
    // Whoever is answered on the same listener later shows that what came before was read.
    let mut ask_all = async || {
        for (caller, (path, _)) in callers.iter_mut().zip(ASKED) {
            let told = caller.ask("GET", path, "", "").await;
            let told = told.expect("the connection is still there");
            assert!(!told.head.contains("connection: close"), "{}", told.head);
        }
    };
    hold_time();
    ask_all().await;
    tokio::time::advance(Duration::from_secs(300)).await;
    ask_all().await;

    let mut halves = Vec::new();
    for (base, (path, has_body)) in bases.into_iter().zip(ASKED) {
        let head =
            format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nAlipay-Merchant: {ALIAS}\r\n");
        halves.push((path, raw::open(base, head.as_bytes()).await));
        if has_body {
            let body = format!("{head}Content-Length: 10\r\n\r\nhalf");
            halves.push((path, raw::open(base, body.as_bytes()).await));
        }
    }
    ask_all().await;
    tokio::time::advance(Duration::from_secs(28)).await;
    ask_all().await;
    for (path, half) in &halves {
        let read = half.try_read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(read, Err(std::io::ErrorKind::WouldBlock), "{path}");
    }
    tokio::time::advance(Duration::from_secs(3)).await;
    tokio::time::resume();
    for (path, half) in halves {
        let rest = rest(half).await;
        assert!(!rest.contains(" 200 "), "{path}: {rest}");
    }
}

#[cfg(feature = "cli")]
#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_of_each_kind_against_the_real_program() {
    use crate::support::program::Installation;

    let Some(count) = std::env::var("SLOW_CLIENTS").ok() else {
        return;
    };
    let count = count.parse().expect("SLOW_CLIENTS is a number");
    let backend = crate::support::backend::FakeBackend::start().await;
    let installation = Installation::new(&backend.url("/events"));
    let program = installation.start();
    program.ready(&crate::support::client()).await;
    let target = Target {
        proxy: program.proxy.clone(),
        webhook: program.webhook.clone(),
        admin: program.admin.clone(),
        terms: Terms::default(),
    };
    let rested = program.memory_mib("VmRSS:");
    let kinds = [Slow::Reader, Slow::Head, Slow::Body];
    let measured = siege(&target, kinds.map(|slow| (slow, count))).await;
    let most = program.memory_mib("VmHWM:");
    eprintln!("resident: {rested} MiB at rest, {most} MiB at the most");
    assert!(most < rested + 256, "{rested} MiB became {most} MiB");
    let Measured {
        before,
        beside,
        requests,
    } = measured;
    assert!(requests >= ENOUGH, "{requests} while all were there");
    assert!(beside <= before * 3, "p99 {before:?} became {beside:?}");
}
