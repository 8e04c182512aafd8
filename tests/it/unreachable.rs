//! A backend that no connection can be made to isn't tried with all that is owed to it.

use std::time::Duration;

use alipay_sidecar::config::delivery::DeliveryConfig;
use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::net::body::RequestBody;
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::serve::serve;
use alipay_sidecar::net::shutdown::{Shutdown, ShutdownTrigger};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;

use crate::delivery::{ATTEMPTS, owe, route, running};
use crate::parts::{FakeBackend, Parts};
use crate::support::free_port;

const UNREACHABLE: &str = "alipay_sidecar_backends_unreachable";
/// How many attempts may be made before it is noticed that nobody is there: as many as run at once,
/// and those that took the places of the first four that failed.
const UNTIL_NOTICED: f64 = 36.0;

/// An address where nobody listens.
fn nobody() -> String {
    format!("127.0.0.1:{}", free_port())
}

/// Somebody listens there, and takes everything.
async fn appear(address: &str) -> ShutdownTrigger {
    let listener = Listener::bind(&Listen::Tcp(address.to_owned())).await;
    let handle = |_: Request<RequestBody>| async {
        Response::new(Full::new(Bytes::from_static(b"success")))
    };
    let (trigger, shutdown) = Shutdown::new();
    tokio::spawn(serve(listener.expect("its port"), None, handle, shutdown));
    trigger
}

fn held_back(parts: &Parts) -> f64 {
    let families = parts.registry.gather();
    let family = families.iter().find(|family| family.name() == UNREACHABLE);
    let metric = family.and_then(|family| family.get_metric().first());
    metric.expect("registered").get_gauge().get_value()
}

async fn until(what: &str, done: impl Fn() -> bool) {
    let watch = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let watched = tokio::time::timeout(Duration::from_secs(30), watch).await;
    watched.unwrap_or_else(|_| panic!("never {what}"));
}

#[tokio::test]
async fn a_backlog_waits_for_a_backend_that_is_away_and_goes_out_when_it_is_back() {
    let address = nobody();
    let config = DeliveryConfig {
        url: Some(format!("http://{address}/")),
        ..DeliveryConfig::default()
    };
    let running = running(config).await;
    owe(&running, "/orders", 500).await;
    let failed = || running.parts.count(ATTEMPTS, "connect");
    until("held back", || held_back(&running.parts) > 0.0).await;
    let noticed = failed();
    assert!(noticed <= UNTIL_NOTICED, "{noticed}");
    // One at a time tries on; the rest counts no attempt.
    until("tried", || failed() >= noticed + 2.0).await;
    let inbox = running.parts.inbox().await;
    let attempted = inbox.iter().filter(|(_, delivery)| delivery.attempts > 0);
    assert!((attempted.count() as f64) < noticed + 10.0);
    let _backend = appear(&address).await;
    let delivered = || running.parts.count(ATTEMPTS, "delivered");
    until("taken", || delivered() >= 450.0).await;
    assert_eq!(held_back(&running.parts), 0.0);
    // What was tried has its own delay, on the clock of the test.
    running.later(10_000);
    until("all taken", || delivered() >= 500.0).await;
}

#[tokio::test]
async fn what_is_owed_to_others_goes_past_a_backlog_for_one_that_is_away() {
    let mut backend = FakeBackend::new().await;
    let away = format!("http://{}/", nobody());
    let config = DeliveryConfig {
        routes: vec![route("/away", &away), route("/orders/*", &backend.url)],
        ..DeliveryConfig::default()
    };
    let running = running(config).await;
    owe(&running, "/away", 1_500).await;
    until("held back", || held_back(&running.parts) > 0.0).await;
    let body = running.pay("T1").await;
    assert_eq!(backend.next().await.body, body);
    let failed = running.parts.count(ATTEMPTS, "connect");
    assert!(failed < UNTIL_NOTICED + 10.0, "{failed}");
}

#[tokio::test]
async fn a_backend_that_answers_errors_is_not_held_back() {
    let backend = FakeBackend::new().await;
    backend.answer(500, "fail");
    let config = DeliveryConfig {
        url: Some(backend.url.clone()),
        ..DeliveryConfig::default()
    };
    let running = running(config).await;
    owe(&running, "/orders", 200).await;
    let failed = || running.parts.count(ATTEMPTS, "status");
    until("all tried", || failed() >= 200.0).await;
    assert_eq!(held_back(&running.parts), 0.0);
}

#[tokio::test]
async fn a_dispatcher_that_ends_holds_nobody_back() {
    let config = DeliveryConfig {
        url: Some(format!("http://{}/", nobody())),
        ..DeliveryConfig::default()
    };
    let running = running(config).await;
    owe(&running, "/orders", 50).await;
    until("held back", || held_back(&running.parts) > 0.0).await;
    running.end.trigger();
    running.ended.await.expect("no panic");
    assert_eq!(held_back(&running.parts), 0.0);
}
