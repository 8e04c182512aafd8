//! Parts that a host handed in, and that have a bug: nobody but who asked hears of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use alipay_sidecar::clock::{Clock, SystemClock};
use alipay_sidecar::config::delivery::DeliveryRoute;
use alipay_sidecar::gateway::app::Signers;
use alipay_sidecar::gateway::signer::{SignError, Signer};
use alipay_sidecar::model::app::App;
use alipay_sidecar::model::app_keys::SigningKey;
use alipay_sidecar::model::delivery::{Delivery, DeliveryState};
use alipay_sidecar::model::id::{AuthAppId, EventId};
use alipay_sidecar::model::notification::InboxEntry;
use alipay_sidecar::protocol::key::AppPrivateKey;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::sidecar::Sidecar;
use alipay_sidecar::simulator::{Event, SpiCall, TriggerOptions};
use alipay_sidecar::store::Change;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tower_service::Service;

use crate::calls::brittle_with;
use crate::store::{START, entry};
use crate::support::brittle::BrittleStore;
use crate::support::{
    ALIAS, PATIENCE, TestSidecar, add_merchant, header, json, merchant, text, until,
};

const UNAVAILABLE: &str =
    r#"alipay_sidecar_notifications_total{kind="other",outcome="unavailable"}"#;

const DELIVERED: &str = r#"alipay_sidecar_delivery_attempts_total{outcome="delivered"}"#;

/// What an answer of the proxy says, in words.
fn told(response: &Response<Full<Bytes>>) -> (u16, String, String) {
    let said = |name: &str| {
        let value = response.headers().get(name);
        let value = value.and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let (code, outcome) = ("alipay-sidecar-error", "alipay-sidecar-outcome");
    (response.status().as_u16(), said(code), said(outcome))
}

fn not_sent(status: u16) -> (u16, String, String) {
    (status, "internal".to_owned(), "not-sent".to_owned())
}

async fn ask_proxy(sidecar: &Sidecar, method: &str, path: &str) -> Response<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path);
    let request = request.header("host", "localhost");
    let request = match path.starts_with("/calls") || path.starts_with("/events") {
        true => request,
        false => request.header("alipay-merchant", ALIAS),
    };
    let body = if method == "GET" { "" } else { "{}" };
    let request = request.body(Full::new(Bytes::from(body)));
    let answer = sidecar
        .proxy_service()
        .call(request.expect("a request"))
        .await;
    answer.expect("infallible")
}

async fn ask_webhook(sidecar: &Sidecar, request: http::request::Builder) -> (StatusCode, String) {
    let form = "app_id=2021000000000001&sign=x&sign_type=RSA2&notify_type=t";
    let request = request.body(Full::new(Bytes::from(form)));
    let answer = sidecar
        .webhook_service()
        .call(request.expect("a request"))
        .await;
    let (head, body) = answer.expect("infallible").into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    (head.status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn a_store_that_panics_is_an_answer_and_alipay_sends_again() {
    let (sidecar, brittle) = brittle_with(|config| config.delivery.url = None).await;
    brittle.panic_on_requests();
    for (method, path) in [
        ("POST", "/v2/alipay.trade.create"),
        ("POST", "/v2/alipay.trade.app.pay/order-string"),
        ("POST", "/v3/alipay/trade/create"),
        ("GET", "/calls/01938b2e-0000-7000-8000-000000000001"),
        ("POST", "/events/claim"),
    ] {
        let response = ask_proxy(&sidecar.sidecar, method, path).await;
        assert_eq!(told(&response), not_sent(500), "{path}");
    }
    let call = sidecar.sidecar.request("alipay.trade.create");
    let error = call.merchant(ALIAS).send().await.expect_err("a bug");
    assert_eq!(error.outcome.as_str(), "not-sent");
    assert!(sidecar.simulator.requests().is_empty());
    let options = TriggerOptions::default();
    for answer in [(Some(503), "fail"), (Some(200), "success")] {
        let sent = sidecar.simulator.trigger(Event::Payment, &options);
        let id = sent.await.expect("sent").notify_id;
        let first = || {
            let sent = sidecar.simulator.notifications().into_iter();
            let mut sent = sent.filter(|sent| sent.notify_id == id);
            let attempts = sent.next().expect("sent").attempts;
            attempts.into_iter().next().filter(|it| it.status.is_some())
        };
        until("it is answered", || first().is_some()).await;
        let first = first().expect("answered");
        assert_eq!((first.status, &*first.answer), answer);
        brittle.heal();
    }
    assert!(sidecar.metric(UNAVAILABLE).await >= 1.0);
}

/// A clock of a host's that has a bug once it is told so.
#[derive(Default)]
struct BrittleClock(AtomicBool);

impl Clock for BrittleClock {
    fn now_ms(&self) -> i64 {
        assert!(!self.0.load(Ordering::Relaxed), "a bug of the clock");
        SystemClock.now_ms()
    }
}

/// A call that may have changed something is recorded at its end, by the clock: a second panic there
/// would end the process.
#[tokio::test]
async fn a_clock_that_panics_is_an_answer() {
    let sidecar = TestSidecar::start().await;
    let clock = Arc::new(BrittleClock::default());
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = sidecar.config.clone();
    config.telemetry.audit_file = Some(folder.path().join("audit.jsonl"));
    let builder = Sidecar::builder(config).store(sidecar.sidecar.store());
    let built = builder.clock(clock.clone()).build().await.expect("built");
    clock.0.store(true, Ordering::Relaxed);
    for (method, path) in [
        ("POST", "/v2/alipay.trade.create"),
        ("POST", "/v2/alipay.trade.app.pay/order-string"),
        ("POST", "/v3/alipay/trade/create"),
        ("GET", "/calls/01938b2e-0000-7000-8000-000000000001"),
    ] {
        let response = ask_proxy(&built, method, path).await;
        assert_eq!(told(&response), not_sent(500), "{path}");
    }
    assert!(sidecar.simulator.requests().is_empty());
    let fail = (StatusCode::SERVICE_UNAVAILABLE, "fail".to_owned());
    for path in ["/alipay/notify/x", "/alipay/spi/x"] {
        let answer = ask_webhook(&built, Request::post(path)).await;
        assert_eq!(answer, fail, "{path}");
    }
    let (status, page) = ask_webhook(&built, Request::get("/alipay/auth/start")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{page}");
    assert!(page.contains("<html"), "{page}");
    // The next one is answered as ever.
    clock.0.store(false, Ordering::Relaxed);
    let response = ask_proxy(&built, "POST", "/v2/alipay.trade.query").await;
    assert_eq!(response.status(), StatusCode::OK);
}

/// Signs so often, and then has a bug.
#[derive(Clone)]
struct TiredSigner(Arc<AtomicUsize>);

impl Signers for TiredSigner {
    fn signer(&self, _: &App, _: &SigningKey) -> Arc<dyn Signer> {
        Arc::new(self.clone())
    }
}

impl Signer for TiredSigner {
    fn sign(&self, _: SignType, content: Vec<u8>) -> BoxFuture<'_, Result<String, SignError>> {
        let one_less = |left: usize| left.checked_sub(1);
        let (set, read) = (Ordering::Relaxed, Ordering::Relaxed);
        let left = self.0.fetch_update(set, read, one_less);
        assert!(left.is_ok(), "a bug of the signer");
        let key = AppPrivateKey::from_text(&crate::support::keys::private("app2048"));
        let signed = key.expect("a key").sign(SignType::Rsa2, &content);
        Box::pin(async { Ok(signed?) })
    }
}

#[tokio::test]
async fn what_a_signer_that_panics_left_behind_is_said_as_it_is() {
    let (alipay, _) = crate::proxy_faults::broken_alipay().await;
    for (signatures, outcome) in [(0, "not-sent"), (1, "unknown")] {
        let signer = TiredSigner(Arc::new(AtomicUsize::new(signatures)));
        let sidecar = TestSidecar::start_built(
            |config| config.upstream.v3 = Some(alipay.clone()),
            |_, builder| builder.signers(Arc::new(signer)),
        )
        .await;
        // A pure query is signed anew for each try.
        let request = Request::get("/v3/alipay/trade/query?out_trade_no=1");
        let request = request.header("alipay-merchant", ALIAS);
        let reply = sidecar.proxy(request, "").await;
        assert_eq!(header(&reply, "alipay-sidecar-error"), "internal");
        let said = header(&reply, "alipay-sidecar-outcome");
        assert_eq!(said, outcome, "{}", text(&reply));
    }
    let signer = TiredSigner(Arc::default());
    let sidecar =
        TestSidecar::start_built(|_| (), |_, builder| builder.signers(Arc::new(signer))).await;
    let reply = sidecar.post("/v2/alipay.trade.create", "{}").await;
    assert_eq!(header(&reply, "alipay-sidecar-outcome"), "not-sent");
    let id = header(&reply, "alipay-sidecar-request-id");
    let found = sidecar
        .proxy(Request::get(format!("/calls/{id}")), "")
        .await;
    let recorded = &json(&found)["outcome"];
    assert_eq!(recorded, "not-sent", "{}", text(&found));
}

/// What waits for an answer of ours is told the same as by a signer that fails.
#[tokio::test]
async fn a_signer_that_panics_leaves_answers_unsigned() {
    let signer = TiredSigner(Arc::default());
    let sidecar =
        TestSidecar::start_built(|_| (), |_, builder| builder.signers(Arc::new(signer))).await;
    sidecar.backend.answer_next(200, "{}");
    let url = format!("{}/alipay/spi/stock", sidecar.webhook);
    let call = SpiCall {
        method: "spi.alipay.order.stock.query".to_owned(),
        ..SpiCall::default()
    };
    let record = sidecar.simulator.spi(&url, &call).await.expect("made");
    assert!(record.body.contains("isp.unknow-error"), "{}", record.body);
    let options = TriggerOptions {
        attempts: Some(1),
        wait: true,
        ..TriggerOptions::default()
    };
    let sent = sidecar.simulator.trigger(Event::ServiceCheck, &options);
    let attempts = sent.await.expect("sent").attempts;
    assert_ne!(attempts[0].status, Some(200), "{attempts:?}");
    let series =
        r#"alipay_sidecar_notifications_total{kind="service-check",outcome="unavailable"}"#;
    assert!(sidecar.metric(series).await >= 1.0);
}

/// What a sidecar does by itself goes on once the bug is gone, and meanwhile requests are answered.
#[tokio::test]
async fn a_bug_met_in_the_background_ends_neither_run_nor_deliveries() {
    let mut brittle = None;
    let sidecar = TestSidecar::start_built(
        |_| (),
        |config, builder| {
            let store = BrittleStore::open(config);
            store.panic_by_itself();
            brittle = Some(store.clone());
            builder.store(Arc::new(store))
        },
    )
    .await;
    let brittle = brittle.expect("built");
    // Of deliveries one, and one of what is old.
    let are_met = || brittle.panics().iter().all(|&many| many >= 1);
    until("bugs are met", are_met).await;
    let options = TriggerOptions::default();
    let sent = sidecar.simulator.trigger(Event::Payment, &options);
    let sent = sent.await.expect("sent");
    let is_acked = || {
        let mut all = sidecar.simulator.notifications().into_iter();
        let sent = all.find(|one| one.notify_id == sent.notify_id);
        sent.is_some_and(|sent| sent.attempts.iter().any(|it| it.status == Some(200)))
    };
    until("it is acked", is_acked).await;
    brittle.heal();
    sidecar.wait_for_metric(DELIVERED, 1.0).await;
    sidecar.ended().await;
}

/// The merchant that the one route is for.
const OTHER: &str = "2021000000007777";

/// A sidecar that has a route for one merchant alone, and its store.
async fn with_one_route() -> (TestSidecar, BrittleStore) {
    let (sidecar, brittle) = brittle_with(|config| {
        config.delivery.routes = vec![DeliveryRoute {
            url: config.delivery.url.take().expect("a backend"),
            merchant: Some("other".to_owned()),
            ..DeliveryRoute::default()
        }];
    })
    .await;
    let other = merchant(OTHER, "2088000000007777", "its token", Some("other"));
    add_merchant(&*sidecar.sidecar.store(), other).await;
    (sidecar, brittle)
}

/// The nth of an order, of that merchant, if of any.
fn nth(n: i64, order: Option<&str>, of: Option<&str>) -> InboxEntry {
    let mut owed = entry(START + n, None);
    owed.order_key = order.map(str::to_owned);
    owed.auth_app_id = of.map(|of| AuthAppId::new(of).expect("an id"));
    owed
}

/// Has these owed, and the dispatcher look.
async fn owe(sidecar: &TestSidecar, owed: impl IntoIterator<Item = InboxEntry>) {
    let receive = |entry| Change::Receive(Box::new(entry));
    let owed = owed.into_iter().map(receive).collect();
    let stored = sidecar.sidecar.store().commit(owed).await;
    stored.expect("stored");
    look(sidecar).await;
}

/// Has the dispatcher look: something arrives that no route fits.
async fn look(sidecar: &TestSidecar) {
    let options = TriggerOptions {
        attempts: Some(1),
        wait: true,
        ..TriggerOptions::default()
    };
    let sent = sidecar.simulator.trigger(Event::Payment, &options);
    sent.await.expect("sent");
}

async fn until_stored(sidecar: &TestSidecar, id: EventId, is_so: impl Fn(&Delivery) -> bool) {
    let store = sidecar.sidecar.store();
    let watched = async {
        loop {
            let found = store.entry(id).await.expect("readable");
            if is_so(&found.expect("there").1) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let watched = tokio::time::timeout(PATIENCE, watched).await;
    watched.expect("it is so in the end");
}

/// The order holds however much is set aside already, and what met a bug of the moment comes soon.
#[tokio::test]
async fn a_bug_on_the_way_or_in_an_attempt_leaves_an_order_as_it_is() {
    let (sidecar, brittle) = with_one_route().await;
    owe(&sidecar, (0..100).map(|n| nth(n, None, None))).await;
    let set_aside = async {
        while brittle.passed_over() < 100 {
            look(&sidecar).await;
        }
    };
    let set_aside = tokio::time::timeout(PATIENCE, set_aside).await;
    set_aside.expect("they are set aside");
    brittle.bugs().find_of = Some(AuthAppId::new(OTHER).expect("an id"));
    let of_one = [101, 102, 103].map(|n| nth(n, Some("one"), Some(OTHER)));
    let ids = of_one.each_ref().map(|owed| owed.id);
    owe(&sidecar, of_one).await;
    for id in ids {
        let seen = sidecar.backend.next().await;
        assert_eq!(seen.header("alipay-event-id"), id.to_string());
    }
    assert_eq!(brittle.bugs().find_of, None, "it was met");
    let is_settled = |delivery: &Delivery| delivery.state == DeliveryState::Delivered;
    until_stored(&sidecar, ids[2], is_settled).await;
    brittle.bugs().settle = true;
    let of_two = [201, 202].map(|n| nth(n, Some("two"), Some(OTHER)));
    let [first, _] = of_two.each_ref().map(|owed| owed.id);
    owe(&sidecar, of_two).await;
    let seen = sidecar.backend.next().await;
    assert_eq!(seen.header("alipay-event-id"), first.to_string());
    // It is put off for minutes, and all behind it with it.
    let soon = SystemClock.now_ms() + 60_000;
    until_stored(&sidecar, first, |delivery| delivery.next_attempt_at > soon).await;
    look(&sidecar).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(sidecar.backend.is_quiet().await, "of its order none comes");
}

/// One that can't be looked at again is in nobody's way.
#[tokio::test]
async fn a_bug_over_what_is_parked_holds_up_nothing() {
    let (sidecar, brittle) = with_one_route().await;
    let parked = [1, 2].map(|n| nth(n, Some(&format!("order {n}")), None));
    let ids = parked.each_ref().map(|owed| owed.id);
    brittle.bugs().entry = Some(ids[0]);
    let until = SystemClock.now_ms() + 3_600_000;
    let receive = parked.map(|owed| Change::Receive(Box::new(owed)));
    let park = ids.map(|id| Change::Park { id, until });
    let stored = sidecar.sidecar.store();
    let stored = stored.commit(receive.into_iter().chain(park).collect());
    stored.await.expect("stored");
    let mut config = sidecar.config.clone();
    config.delivery.url = Some(sidecar.backend.url("/all"));
    let reloaded = sidecar.sidecar.reload(config).await;
    reloaded.expect("a good configuration");
    let mut seen = HashSet::new();
    for _ in ids {
        let came = sidecar.backend.next().await;
        seen.insert(came.header("alipay-event-id").to_owned());
    }
    assert_eq!(seen, HashSet::from(ids.map(|id| id.to_string())));
}
