//! Ten times as many calls as can be made: as many as can be are, the others hear at once that they
//! may come again, and health still answers.
//!
//! What can be made is bounded by `proxy.max_in_flight` and Alipay's latency, as it is in earnest.
//! `OVERLOAD_SECONDS=20` runs the long form, which holds the goodput to 80 % of the peak; the short
//! form, beside all other tests, to a third.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::net::body::RequestBody;
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::serve::serve;
use alipay_sidecar::net::shutdown::{Shutdown, ShutdownTrigger};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use tokio::task::JoinSet;

use crate::support::caller::{Caller, Keep};
use crate::support::upstream::{SUCCESS, reply_of};
use crate::support::{ALIAS, TestSidecar, raw};

/// How long Alipay takes.
const LATENCY: Duration = Duration::from_millis(160);
/// How many calls may be under way: 50 a second. Few enough that ten times as many don't keep the
/// processors busy: they aren't what is bounded here.
const IN_FLIGHT: usize = 8;
/// How many times more are asked for.
const TIMES: u32 = 10;
/// How many callers ask for them.
const CALLERS: u32 = 100;

/// An Alipay that always takes the same time; gives its address.
async fn slow_alipay() -> (String, ShutdownTrigger) {
    let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".to_owned())).await;
    let listener = listener.expect("a port");
    let address = format!("http://{}/gateway.do", listener.address());
    let reply: Bytes = reply_of("alipay.trade.pay", SUCCESS).into();
    let handle = move |request: Request<RequestBody>| {
        let reply = reply.clone();
        async move {
            request.into_body().collect().await.expect("a body");
            tokio::time::sleep(LATENCY).await;
            Response::new(Full::new(reply))
        }
    };
    let (trigger, shutdown) = Shutdown::new();
    tokio::spawn(serve(listener, None, handle, shutdown));
    (address, trigger)
}

/// What callers were told.
#[derive(Default)]
struct Told {
    made: AtomicUsize,
    overloaded: AtomicUsize,
    /// Who was too late for his next call.
    late: AtomicUsize,
}

/// Calls every `pause` until `end`, or one after another.
async fn call_on(authority: String, pause: Option<Duration>, end: Instant, told: Arc<Told>) {
    let mut caller = Caller::new(&authority, Keep::Alive);
    let tag = format!("Content-Type: application/json\r\nAlipay-Merchant: {ALIAS}\r\n");
    let mut next = Instant::now();
    while Instant::now() < end {
        if let Some(pause) = pause {
            next += pause;
            if next < Instant::now() {
                told.late.fetch_add(1, Ordering::Relaxed);
                next = Instant::now();
            }
            tokio::time::sleep_until(next.into()).await;
        }
        let answer = caller.ask("POST", "/v2/alipay.trade.pay", &tag, "{}").await;
        let answer = answer.expect("an answer");
        match answer.status {
            200 => told.made.fetch_add(1, Ordering::Relaxed),
            503 => {
                assert!(
                    answer.head.contains("alipay-sidecar-error: overloaded"),
                    "{}",
                    answer.head
                );
                assert!(answer.head.contains("retry-after: 1"), "{}", answer.head);
                told.overloaded.fetch_add(1, Ordering::Relaxed)
            }
            other => panic!("{other}: {}", answer.body),
        };
    }
}

/// Lets `callers` call for `seconds`, and asks for the health meanwhile; gives what they were told.
async fn run(
    sidecar: &TestSidecar,
    (callers, pause): (u32, Option<Duration>),
    seconds: Duration,
) -> (f64, Arc<Told>) {
    let (began, told) = (Instant::now(), Arc::new(Told::default()));
    let end = began + seconds;
    let mut calling = JoinSet::new();
    for n in 0..callers {
        let (authority, told) = (raw::authority(&sidecar.proxy).to_owned(), Arc::clone(&told));
        calling.spawn(async move {
            // Not all at the same moment.
            tokio::time::sleep(pause.unwrap_or_default() * n / callers).await;
            call_on(authority, pause, end, told).await;
        });
    }
    let mut health = Caller::new(raw::authority(&sidecar.admin), Keep::Alive);
    let mut slowest = Duration::ZERO;
    while Instant::now() < end {
        for path in ["/livez", "/readyz", "/metrics"] {
            let answer = health.ask("GET", path, "", "").await.expect("an answer");
            assert_eq!(answer.status, 200, "{path}");
            slowest = slowest.max(answer.took);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    while let Some(ended) = calling.join_next().await {
        ended.expect("no panic");
    }
    let goodput = told.made.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    eprintln!(
        "{callers} callers: {goodput:.0} calls/s made, {} told to come again, {} late; health \
         within {slowest:?}",
        told.overloaded.load(Ordering::Relaxed),
        told.late.load(Ordering::Relaxed),
    );
    (goodput, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_times_too_many_calls_keep_none_from_being_made() {
    let long = std::env::var("OVERLOAD_SECONDS").ok();
    let seconds = long.as_deref().map_or(2, |s| s.parse().expect("a number"));
    let seconds = Duration::from_secs(seconds);
    let (gateway, _alipay) = slow_alipay().await;
    let sidecar = TestSidecar::start_with(|config| {
        config.upstream.gateway = Some(gateway);
        config.proxy.max_in_flight = IN_FLIGHT;
    })
    .await;
    let some = u32::try_from(IN_FLIGHT).expect("few");
    let (peak, told) = run(&sidecar, (some, None), seconds).await;
    assert_eq!(told.overloaded.load(Ordering::Relaxed), 0);
    let pause = Duration::from_secs_f64(f64::from(CALLERS) / (peak * f64::from(TIMES)));
    let (goodput, told) = run(&sidecar, (CALLERS, Some(pause)), seconds).await;
    let asked = told.made.load(Ordering::Relaxed) + told.overloaded.load(Ordering::Relaxed);
    let times = asked as f64 / seconds.as_secs_f64() / peak;
    eprintln!(
        "asked for {times:.1} times the peak; goodput: {:.0} % of it",
        goodput / peak * 100.0
    );
    assert!(
        told.overloaded.load(Ordering::Relaxed) > 0,
        "it was too much"
    );
    // Whatever else the machine has to do meanwhile.
    assert!(goodput >= peak / 3.0, "{goodput:.0} of {peak:.0} calls/s");
    if long.is_some() {
        assert!(times >= f64::from(TIMES) * 0.8, "only {times:.1} times");
        assert!(goodput >= peak * 0.8, "{goodput:.0} of {peak:.0} calls/s");
    }
    let (after, told) = run(&sidecar, (some, None), seconds).await;
    assert_eq!(told.overloaded.load(Ordering::Relaxed), 0, "it is over");
    assert!(after > 0.0);
}
