//! Spans of calls, notifications and deliveries, and what becomes of all three without a collector.

use std::time::{Duration, Instant};

use alipay_sidecar::config::Config;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, FIRST_APP_AUTH_TOKEN, FIRST_APP_REFRESH_TOKEN, FIRST_AUTH_APP_ID,
};
use http::{Method, Request, StatusCode};

use crate::collector::{CLIENT, Collector, INTERNAL, SERVER, Span};
use crate::support::signed::Platform;
use crate::support::{ADMIN_TOKEN, ALIAS, TestSidecar, header, keys};

const TRACE_ID: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLERS_SPAN: &str = "b7ad6b7169203331";
const QUERY: &str = "/v2/alipay.trade.query";
const BODY: &str = r#"{"out_trade_no":"an-order-nobody-else-may-read"}"#;
/// A call that was made: its own span, and those of resolve, sign, upstream and verify.
const OF_CALL: usize = 5;

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE_ID}-{CALLERS_SPAN}-{flags}")
}

async fn traced(collector: &Collector) -> TestSidecar {
    let endpoint = collector.endpoint();
    TestSidecar::start_with(|config| config.telemetry.otlp_endpoint = endpoint).await
}

async fn call(sidecar: &TestSidecar, traceparent: Option<String>) -> String {
    let mut request = Request::post(QUERY).header("alipay-merchant", ALIAS);
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent);
    }
    let reply = sidecar.proxy(request, BODY).await;
    assert_eq!(reply.status, StatusCode::OK);
    header(&reply, "alipay-sidecar-request-id").to_owned()
}

async fn notify(sidecar: &TestSidecar, notify_id: &str) -> StatusCode {
    let signed = Platform::new().payment(notify_id, notify_id);
    post(sidecar, signed.body).await
}

async fn post(sidecar: &TestSidecar, body: String) -> StatusCode {
    let request = Request::post("/alipay/notify/pay")
        .header("content-type", "application/x-www-form-urlencoded")
        .header("traceparent", traceparent("01"));
    sidecar.webhook(request, body).await.status
}

fn of_kind(spans: &[Span], kind: u64) -> Vec<&Span> {
    spans.iter().filter(|span| span.kind == kind).collect()
}

fn only(spans: &[Span], kind: u64) -> &Span {
    let found = of_kind(spans, kind);
    assert_eq!(found.len(), 1, "{spans:#?}");
    found[0]
}

/// `child` is a part of `parent`, and within its time.
fn check_part(child: &Span, parent: &Span) {
    assert_eq!(child.parent, parent.span_id, "{child:#?}");
    assert_eq!(child.trace_id, parent.trace_id, "{child:#?}");
    assert!(parent.began <= child.began, "{parent:#?} {child:#?}");
    assert!(child.began <= child.ended, "{child:#?}");
    assert!(child.ended <= parent.ended, "{parent:#?} {child:#?}");
}

#[tokio::test]
async fn a_call_is_a_tree_below_its_callers_span() {
    let collector = Collector::start().await;
    let sidecar = traced(&collector).await;
    let request_id = call(&sidecar, Some(traceparent("01"))).await;
    let spans = collector.spans(OF_CALL).await;
    assert_eq!(spans.len(), OF_CALL, "{spans:#?}");
    let own = only(&spans, SERVER);
    assert_eq!((&*own.trace_id, &*own.parent), (TRACE_ID, CALLERS_SPAN));
    assert_eq!(own.name, "POST /v2/{method}");
    for (key, value) in [
        ("http.request.method", "POST"),
        ("http.route", "/v2/{method}"),
        ("http.response.status_code", "200"),
        ("alipay.method", "alipay.trade.query"),
        ("alipay.app_id", DEFAULT_APP_ID),
        ("alipay.auth_app_id", FIRST_AUTH_APP_ID),
        ("alipay.sub_code", "ACQ.TRADE_NOT_EXIST"),
        ("alipay_sidecar.outcome", "business-error"),
        ("alipay_sidecar.request_id", &request_id),
        ("error.type", ""),
    ] {
        assert_eq!(own.says(key), value, "{key}");
    }
    assert_ne!(own.says("alipay.trace_id"), "");
    assert!(!own.is_error);
    let parts = of_kind(&spans, INTERNAL);
    let mut names: Vec<_> = parts.iter().map(|part| &*part.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["resolve", "sign", "verify"]);
    let sent = only(&spans, CLIENT);
    for part in parts.into_iter().chain([sent]) {
        check_part(part, own);
    }
    assert_eq!(sent.name, "POST");
    assert_eq!(sent.says("server.address"), "127.0.0.1");
    assert_eq!(sent.says("http.response.status_code"), "200");
    let (service, version) = (
        &own.resource["service.name"],
        &own.resource["service.version"],
    );
    assert_eq!(
        (&**service, &**version),
        ("alipay-sidecar", env!("CARGO_PKG_VERSION"))
    );
    let exported = r#"alipay_sidecar_trace_spans_total{outcome="exported"}"#;
    sidecar.wait_for_metric(exported, 5.0).await;
}

#[tokio::test]
async fn a_caller_that_does_not_record_its_trace_is_followed() {
    let collector = Collector::start().await;
    let sidecar = traced(&collector).await;
    call(&sidecar, Some(traceparent("00"))).await;
    call(&sidecar, Some(traceparent("01").to_uppercase())).await;
    call(&sidecar, None).await;
    let spans = collector.all().await;
    assert_eq!(spans.len(), 2 * OF_CALL, "{spans:#?}");
    for own in of_kind(&spans, SERVER) {
        assert_eq!(own.parent, "", "a trace of its own");
        assert_ne!(own.trace_id, TRACE_ID);
    }
}

#[tokio::test]
async fn what_fails_says_why_and_where() {
    let collector = Collector::start().await;
    let endpoint = collector.endpoint();
    let sidecar = TestSidecar::start_with(|config| {
        config.telemetry.otlp_endpoint = endpoint;
        // Nobody listens there.
        config.upstream.gateway = Some("http://127.0.0.1:1/gateway.do".to_owned());
    })
    .await;
    let request = Request::post("/v2/alipay.trade.pay").header("alipay-merchant", ALIAS);
    let reply = sidecar.proxy(request, BODY).await;
    assert_eq!(reply.status, StatusCode::BAD_GATEWAY);
    let spans = collector.spans(4).await;
    let (own, sent) = (only(&spans, SERVER), only(&spans, CLIENT));
    assert!(own.is_error && sent.is_error, "{spans:#?}");
    assert_eq!(own.says("error.type"), "upstream-unreachable");
    assert_eq!(own.says("http.response.status_code"), "502");
    assert_eq!(sent.says("error.type"), "connect");
    // What is the caller's own fault isn't ours.
    let request = Request::post(QUERY).header("alipay-merchant", "nobody");
    sidecar.proxy(request, BODY).await;
    let spans = collector.spans(6).await;
    let received = of_kind(&spans, SERVER);
    let refused = received
        .iter()
        .find(|span| span.says("error.type") == "merchant-unknown");
    let refused = refused.unwrap_or_else(|| panic!("{spans:#?}"));
    assert_eq!(refused.says("http.response.status_code"), "404");
    assert!(!refused.is_error, "{refused:#?}");
}

#[tokio::test]
async fn a_notification_its_repetition_and_its_deliveries_are_one_trace() {
    let collector = Collector::start().await;
    let sidecar = traced(&collector).await;
    sidecar.backend.answer_next(500, "fail");
    assert_eq!(notify(&sidecar, "first").await, StatusCode::OK);
    let (failed, taken) = (sidecar.backend.next().await, sidecar.backend.next().await);
    assert_eq!(notify(&sidecar, "first").await, StatusCode::OK);
    let spans = collector.spans(4).await;
    let mut received = of_kind(&spans, SERVER);
    received.sort_by_key(|span| span.began);
    let [receipt, repeated] = received[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!(receipt.name, "POST /alipay/notify/{path}");
    assert_eq!((&*receipt.parent, &*receipt.link), ("", TRACE_ID));
    assert_eq!(receipt.says("alipay_sidecar.outcome"), "accepted");
    assert_eq!(receipt.says("alipay.notify_id"), "first");
    assert_eq!(repeated.says("alipay_sidecar.outcome"), "duplicate");
    let mut attempts = of_kind(&spans, CLIENT);
    attempts.sort_by_key(|span| span.began);
    let [first, second] = attempts[..] else {
        panic!("{spans:#?}");
    };
    assert!(first.is_error && !second.is_error);
    assert_eq!(first.says("error.type"), "500");
    for (attempt, seen) in [(first, failed), (second, taken)] {
        let told = format!("00-{}-{}-01", receipt.trace_id, attempt.span_id);
        assert_eq!(seen.header("traceparent"), told);
        assert_eq!(
            attempt.says("alipay_sidecar.event_id"),
            seen.header("alipay-event-id")
        );
        assert_eq!(
            attempt.says("alipay_sidecar.attempt"),
            seen.header("alipay-delivery-attempt")
        );
    }
    for later in [repeated, first, second] {
        assert_eq!(later.trace_id, receipt.trace_id);
        assert_eq!(later.parent, receipt.span_id);
    }
}

#[tokio::test]
async fn what_strangers_send_is_not_recorded() {
    let collector = Collector::start().await;
    let sidecar = traced(&collector).await;
    let signed = Platform::new().payment("notify-1", "8001");
    let forged = signed.body.replace("8%2E80", "9%2E90");
    assert_ne!(forged, signed.body);
    assert_eq!(post(&sidecar, forged).await, StatusCode::BAD_REQUEST);
    let from_a_page = Request::post(QUERY)
        .header("alipay-merchant", ALIAS)
        .header("origin", "https://evil.example");
    let reply = sidecar.proxy(from_a_page, BODY).await;
    assert_eq!(reply.status, StatusCode::FORBIDDEN);
    sidecar.proxy(Request::get("/nothing/there"), "").await;
    assert_eq!(collector.all().await, []);
}

#[tokio::test]
async fn nothing_secret_and_nothing_of_a_body_reaches_the_collector() {
    let collector = Collector::start().await;
    let sidecar = traced(&collector).await;
    call(&sidecar, None).await;
    let user_token = "a-users-access-token-of-this-test";
    for path in [
        format!("/v2/alipay.user.info.share?auth_token={user_token}"),
        format!("/gateway.do?method=alipay.trade.query&app_auth_token={FIRST_APP_AUTH_TOKEN}"),
        format!("/v3/alipay/user/info/share?auth_token={user_token}"),
        format!("/v2/alipay.trade.app.pay/order-string?notify_url=/{user_token}"),
    ] {
        let request = Request::post(&path)
            .header("alipay-merchant", ALIAS)
            .header("authorization", "Bearer a-callers-bearer-token");
        sidecar.proxy(request, BODY).await;
    }
    assert_eq!(notify(&sidecar, "first").await, StatusCode::OK);
    let push = Platform::new().authorization("second", FIRST_AUTH_APP_ID, 1_795_335_630_000);
    assert_eq!(post(&sidecar, push.body).await, StatusCode::OK);
    for _ in 0..2 {
        sidecar.backend.next().await;
    }
    sidecar.admin(Method::GET, "/api/merchants", "").await;
    let spans = collector.all().await;
    assert!(of_kind(&spans, SERVER).len() >= 7, "{spans:#?}");
    let bytes = collector.bytes().await;
    let text = String::from_utf8_lossy(&bytes);
    for secret in [
        FIRST_APP_AUTH_TOKEN,
        FIRST_APP_REFRESH_TOKEN,
        ADMIN_TOKEN,
        user_token,
        "token-second",
        "refresh-second",
        "a-callers-bearer-token",
        "an-order-nobody-else-may-read",
        "8.80",
    ] {
        assert!(!text.contains(secret), "{secret}");
    }
    #[cfg(all(feature = "cli", target_os = "linux"))]
    {
        let mut secrets = crate::canaries::search::Secrets::default();
        secrets.add_private_key("app", &keys::private("app2048"));
        let key = sidecar.config.store.key.as_ref().expect("a key");
        secrets.add("store key", key.expose().as_bytes());
        assert_eq!(secrets.found_in(&bytes).len(), 0);
    }
}

/// Calls and notifications as ever.
async fn check_at_work(sidecar: &TestSidecar) {
    let began = Instant::now();
    for number in 0..20 {
        call(sidecar, None).await;
        assert_eq!(notify(sidecar, &format!("n{number}")).await, StatusCode::OK);
        sidecar.backend.next().await;
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
}

#[tokio::test]
async fn without_its_collector_a_sidecar_works_and_ends_as_ever() {
    let sidecar = TestSidecar::start_with(|config| {
        // Nobody listens there.
        config.telemetry.otlp_endpoint = Some("http://127.0.0.1:1".to_owned());
    })
    .await;
    check_at_work(&sidecar).await;
    sidecar.ended().await;
}

#[tokio::test]
async fn a_collector_that_hangs_holds_up_nothing_but_the_end_for_a_moment() {
    // It takes connections, and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = silent.local_addr().expect("bound");
    let sidecar = TestSidecar::start_with(|config| {
        config.telemetry.otlp_endpoint = Some(format!("http://{address}"));
    })
    .await;
    check_at_work(&sidecar).await;
    let began = Instant::now();
    sidecar.ended().await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(8), "{took:?}");
    drop(silent);
}

#[tokio::test]
async fn a_collector_that_asks_to_wait_gets_the_same_spans_again() {
    let collector = Collector::start().await;
    let sidecar = traced(&collector).await;
    collector.server.answer_next(503, "later");
    call(&sidecar, None).await;
    // What was refused is read as well, so each comes twice.
    let spans = collector.spans(2 * OF_CALL).await;
    let (first, second) = spans.split_at(OF_CALL);
    assert_eq!(first, second);
}

#[tokio::test]
async fn what_a_collector_refuses_for_good_is_lost_and_counted() {
    let collector = Collector::start().await;
    let sidecar = traced(&collector).await;
    collector.server.answer_next(400, "no");
    call(&sidecar, None).await;
    let dropped = r#"alipay_sidecar_trace_spans_total{outcome="dropped"}"#;
    sidecar.wait_for_metric(dropped, 5.0).await;
    call(&sidecar, None).await;
    let exported = r#"alipay_sidecar_trace_spans_total{outcome="exported"}"#;
    sidecar.wait_for_metric(exported, 5.0).await;
}

#[tokio::test]
async fn what_waits_at_the_end_is_sent() {
    let collector = Collector::start().await;
    let sidecar = traced(&collector).await;
    call(&sidecar, None).await;
    sidecar.ended().await;
    assert_eq!(collector.spans(OF_CALL).await.len(), OF_CALL);
}

#[tokio::test]
async fn a_reload_changes_where_spans_go() {
    let (former, next) = (Collector::start().await, Collector::start().await);
    let sidecar = traced(&former).await;
    call(&sidecar, None).await;
    former.spans(OF_CALL).await;
    let with = |endpoint| {
        let mut config: Config = sidecar.config.clone();
        config.telemetry.otlp_endpoint = endpoint;
        config
    };
    sidecar.sidecar.reload(with(None)).await.expect("reloaded");
    call(&sidecar, None).await;
    let reloaded = sidecar.sidecar.reload(with(next.endpoint())).await;
    assert_eq!(
        reloaded.expect("reloaded").changed,
        ["telemetry.otlp_endpoint"]
    );
    call(&sidecar, None).await;
    assert_eq!(next.all().await.len(), OF_CALL);
    assert_eq!(former.all().await.len(), OF_CALL);
}
