//! Calls from within a host's own process, and services mounted without our listeners.

use std::path::{Path, PathBuf};
use std::time::Duration;

use alipay_sidecar::admin::configuration::ReloadError;
use alipay_sidecar::config::Config;
use alipay_sidecar::config::delivery::{AuthorizationDelivery, DeliveryRoute};
use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::model::call::CallKey;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::proxy::error::ErrorCode;
use alipay_sidecar::sidecar::{BuildError, Sidecar};
use bytes::Bytes;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};
use tower_service::Service;

use crate::proxy::watched;
use crate::store::START;
use crate::support::callers::{bearer, with_token};
use crate::support::upstream::{Answer, FakeAlipay};
use crate::support::{ALIAS, TestSidecar};

const NODE: &str = r#"{"code":"10000","msg":"Success","trade_no":"1"}"#;

#[tokio::test]
async fn a_call_in_process_is_made_and_counted_like_one_over_http() {
    let (alipay, sidecar) = watched().await;
    alipay.answer(Answer::Node(NODE.to_owned()));
    let reply = sidecar
        .sidecar
        .request("alipay.trade.create")
        .merchant(ALIAS)
        .biz_content(r#"{ "out_trade_no":"1" }"#)
        .notify_url("/orders/1")
        .param("return_url", "https://shop.example/back")
        .timeout(Duration::from_secs(5))
        .send()
        .await
        .expect("a verified reply");
    assert_eq!(reply.node(), NODE);
    assert_eq!((reply.code(), reply.is_signed()), (Some("10000"), true));
    let sent = alipay.next().await;
    assert_eq!(sent.param("biz_content"), r#"{ "out_trade_no":"1" }"#);
    let notify_url = format!("{}/alipay/notify/orders/1", sidecar.webhook);
    assert_eq!(sent.param("notify_url"), notify_url);
    for series in [
        r#"alipay_sidecar_requests_total{api="v2",method="alipay.trade.create",outcome="ok"}"#,
        r#"alipay_sidecar_request_duration_seconds_count{api="v2",phase="total"}"#,
    ] {
        assert!(sidecar.metric(series).await >= 1.0, "{series}");
    }
}

#[tokio::test]
async fn what_became_of_a_call_in_process_can_be_asked() {
    let (alipay, sidecar) = watched().await;
    let create = || {
        let call = sidecar.sidecar.request("alipay.trade.create");
        call.merchant(ALIAS).biz_content("{}")
    };
    alipay.answer(Answer::Node(NODE.to_owned()));
    let reply = create().send().await.expect("a verified reply");
    let found = became_of(&sidecar, &reply.request_id().to_string()).await;
    assert_eq!(
        (&found["outcome"], &found["reply"]["trade_no"]),
        (&"ok".into(), &"1".into())
    );
    // Whoever doesn't wait for it, or is told an error, knows it, too.
    alipay.answer(Answer::Held);
    let call = create();
    let id = call.request_id().to_string();
    let gone = tokio::time::timeout(Duration::from_millis(1), call.send()).await;
    assert!(gone.is_err(), "its caller has gone");
    alipay.next().await;
    alipay.next().await;
    assert_eq!(became_of(&sidecar, &id).await["outcome"], "pending");
    alipay.release();
    sidecar
        .wait_for_metric("alipay_sidecar_in_flight_requests", 0.0)
        .await;
    assert_eq!(became_of(&sidecar, &id).await["outcome"], "ok");
    alipay.answer(Answer::Body(200, "forged".to_owned()));
    let call = create();
    let id = call.request_id().to_string();
    let error = call.send().await.expect_err("nothing verified");
    assert!(
        error.detail.contains(&format!("`GET /calls/{id}`")),
        "{error}"
    );
    assert_eq!(became_of(&sidecar, &id).await["outcome"], "unknown");
}

/// A hint that nobody can follow is none.
#[tokio::test]
async fn where_callers_are_named_a_host_is_not_sent_to_their_route() {
    let alipay = FakeAlipay::start().await;
    let sidecar = TestSidecar::start_with(|config| {
        config.upstream.gateway = Some(alipay.gateway());
        config.callers = vec![with_token("till")];
    })
    .await;
    let forged = || alipay.answer(Answer::Body(200, "forged".to_owned()));
    forged();
    let call = sidecar.sidecar.request("alipay.trade.create");
    let call = call.merchant(ALIAS).biz_content("{}");
    let id = call.request_id();
    let error = call.send().await.expect_err("nothing verified");
    assert!(error.detail.contains("ask by a query"), "{error}");
    assert!(!error.detail.contains("/calls/"), "{error}");
    let till = |request: http::request::Builder| request.header("authorization", bearer("till"));
    let asked = till(Request::get(format!("/calls/{id}")));
    assert_eq!(sidecar.proxy(asked, "").await.status, 404);
    // Whoever it names can.
    forged();
    let create = till(Request::post("/v2/alipay.trade.create")).header("alipay-merchant", ALIAS);
    let reply = sidecar.proxy(create, "{}").await;
    let told = crate::support::text(&reply);
    assert!(told.contains("`GET /calls/"), "{told}");
    // What is refused before it is a call leaves nothing.
    let call = sidecar.sidecar.request("alipay.trade.create");
    let call = call.merchant("nobody").biz_content("{}");
    let id = call.request_id();
    call.send().await.expect_err("nobody");
    let found = sidecar.sidecar.store().call(CallKey::Id(id), START).await;
    assert!(found.expect("readable").is_none());
}

async fn became_of(sidecar: &TestSidecar, id: &str) -> serde_json::Value {
    let request = Request::get(format!("/calls/{id}"));
    crate::support::json(&sidecar.proxy(request, "").await)
}

#[tokio::test]
async fn what_the_routes_refuse_is_refused_in_process() {
    let sidecar = TestSidecar::start().await;
    let request = |method: &str| sidecar.sidecar.request(method).merchant(ALIAS);
    let pay = "alipay.trade.pay";
    for (request, code) in [
        (request(""), ErrorCode::MethodRequired),
        (request("alipay"), ErrorCode::MethodInvalid),
        (request(pay).biz_content("[]"), ErrorCode::BodyInvalid),
        (
            request(pay).param("app_auth_token", "x"),
            ErrorCode::ParameterReserved,
        ),
        (request(pay).param("a b", "x"), ErrorCode::ParameterInvalid),
        (
            request(pay).param("Notify_Url", "//evil.example"),
            ErrorCode::NotifyUrlForbidden,
        ),
        (
            request(pay).notify_url("//evil.example"),
            ErrorCode::NotifyUrlForbidden,
        ),
        (request(pay).merchant("nobody"), ErrorCode::MerchantUnknown),
        (request(pay).app("2021999999999999"), ErrorCode::AppUnknown),
        (sidecar.sidecar.request(pay), ErrorCode::MerchantRequired),
    ] {
        let error = request.send().await.expect_err("refused");
        assert_eq!(error.code, code);
    }
    assert!(sidecar.simulator.requests().is_empty(), "nothing was sent");
}

#[tokio::test]
async fn the_services_answer_without_our_listeners() {
    let (alipay, sidecar) = watched().await;
    alipay.answer(Answer::Node(NODE.to_owned()));
    let request = Request::builder()
        .method("POST")
        .uri("/m/shop/v2/alipay.trade.create")
        .header("host", "localhost")
        .body(Full::new(Bytes::from_static(b"{}")))
        .expect("a request");
    let response = sidecar
        .sidecar
        .proxy_service()
        .call(request)
        .await
        .expect("infallible");
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes(),
        NODE
    );
    let request = Request::builder()
        .method("POST")
        .uri("/alipay/gateway")
        .body(Full::new(Bytes::from_static(
            b"app_id=2021000000000001&sign=x",
        )))
        .expect("a request");
    let response = sidecar
        .sidecar
        .webhook_service()
        .call(request)
        .await
        .expect("infallible");
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert_eq!(
        response
            .into_body()
            .collect()
            .await
            .expect("a body")
            .to_bytes(),
        "fail"
    );
}

#[tokio::test]
async fn a_call_that_its_host_does_not_poll_goes_on() {
    let (alipay, sidecar) = watched().await;
    alipay.answer(Answer::Held);
    let request = || {
        Request::builder()
            .method("POST")
            .uri("/m/shop/v2/alipay.trade.create")
            .header("host", "localhost")
            .body(Full::new(Bytes::from_static(b"{}")))
            .expect("a request")
    };
    let in_process = sidecar.sidecar.request("alipay.trade.create");
    let in_process = in_process.merchant(ALIAS).biz_content("{}");
    let mut kept = std::pin::pin!(in_process.send());
    let mut of_service = std::pin::pin!(sidecar.sidecar.proxy_service().call(request()));
    assert!(futures_util::FutureExt::now_or_never(kept.as_mut()).is_none());
    assert!(futures_util::FutureExt::now_or_never(of_service.as_mut()).is_none());
    for _ in 0..2 {
        alipay.next().await;
    }
    for _ in 0..2 {
        alipay.release();
    }
    sidecar
        .wait_for_metric("alipay_sidecar_in_flight_requests", 0.0)
        .await;
    assert!(kept.await.is_ok());
    let answer = of_service.await.expect("infallible");
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_hosts_own_http_2_server_needs_no_host() {
    let (alipay, sidecar) = watched().await;
    alipay.answer(Answer::Node(NODE.to_owned()));
    for (authority, expected) in [
        ("localhost:8443", StatusCode::OK),
        ("evil.example", StatusCode::FORBIDDEN),
    ] {
        let request = Request::builder()
            .version(Version::HTTP_2)
            .method("POST")
            .uri(format!("https://{authority}/m/shop/v2/alipay.trade.create"))
            .body(Full::new(Bytes::from_static(b"{}")))
            .expect("a request");
        let response = sidecar.sidecar.proxy_service().call(request).await;
        assert_eq!(
            response.expect("infallible").status(),
            expected,
            "{authority}"
        );
    }
}

#[tokio::test]
async fn a_sidecar_that_could_not_be_built_leaves_no_metric_behind() {
    let sidecar = TestSidecar::start().await;
    let registry = Registry::new();
    let hosts = IntCounter::new("host_requests_total", "The host's own.").expect("a name");
    registry.register(Box::new(hosts)).expect("new");
    let folder = tempfile::tempdir().expect("a folder");
    let build = async |audit_file| {
        let mut config = sidecar.config.clone();
        config.telemetry.audit_file = audit_file;
        let builder = Sidecar::builder(config).store(sidecar.sidecar.store());
        builder.registry(registry.clone()).build().await
    };
    // A folder isn't made, but for the log's own.
    let nowhere = folder.path().join("no/such/audit.jsonl");
    let refused = build(Some(nowhere)).await;
    assert!(matches!(refused, Err(BuildError::Audit(_))), "{refused:?}");
    assert_eq!(registry.gather().len(), 1, "the host's own");
    let built = build(None).await.expect("a second attempt");
    let request = Request::get("/metrics").body(Full::default());
    let shown = built.ask_admin(request.expect("a request")).await;
    let shown = shown
        .into_body()
        .collect()
        .await
        .expect("a body")
        .to_bytes();
    let shown = String::from_utf8(shown.into()).expect("text");
    for name in ["host_requests_total 0", "alipay_sidecar_build_info{"] {
        assert_eq!(shown.matches(&format!("\n{name}")).count(), 1, "{shown}");
    }
    let taken = build(None).await;
    assert!(matches!(taken, Err(BuildError::Metrics(_))), "{taken:?}");
}

/// Makes a configuration wrong.
type Change<'c> = &'c dyn Fn(&mut Config);

/// What a file would be refused for because it is dangerous, or can't be served.
#[tokio::test]
async fn a_dangerous_configuration_is_refused_before_anything_is_opened() {
    let sidecar = TestSidecar::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let (cert, key) = pair_of_two(folder.path());
    let text = |text: &str| Some(text.to_owned());
    let secret = |text: &str| Some(Secret::new(text.to_owned()));
    let tcp = |address: &str| Listen::Tcp(address.to_owned());
    let verbatim = AuthorizationDelivery::Verbatim;
    let changes: [(&str, Change<'_>); 11] = [
        ("proxy.tls_cert", &|c| {
            (c.proxy.tls_cert, c.proxy.tls_key) = (Some(cert.clone()), Some(key.clone()));
        }),
        ("webhook.tls_key", &|c| {
            c.webhook.tls_cert = Some(cert.clone());
        }),
        ("admin.tls_cert", &|c| c.admin.tls_key = Some(key.clone())),
        ("admin.token", &|c| {
            (c.admin.listen, c.admin.token) = (tcp("0.0.0.0:2090"), None);
        }),
        ("admin.token", &|c| c.admin.token = secret("")),
        ("proxy.listen", &|c| c.proxy.listen = tcp("0.0.0.0:2088")),
        ("upstream.proxy", &|c| c.upstream.proxy = text("nonsense")),
        ("delivery.authorization", &|c| {
            c.delivery.url = text("http://10.1.2.3/");
            c.delivery.authorization = verbatim;
        }),
        ("delivery.authorization", &|c| {
            let route = DeliveryRoute {
                url: "http://10.1.2.3/".to_owned(),
                event_type: text("trade_*"),
                ..DeliveryRoute::default()
            };
            c.delivery.routes = vec![route];
            c.delivery.authorization = verbatim;
        }),
        ("delivery.signing_secret", &|c| {
            c.delivery.signing_secret = secret("");
        }),
        ("delivery.signing_secret", &|c| {
            c.delivery.signing_secret = secret("whsec_?");
        }),
    ];
    for (key, change) in changes {
        let mut config = sidecar.config.clone();
        // Another process has it: whoever got as far as the store would say so.
        change(&mut config);
        let built = Sidecar::builder(config.clone()).build().await;
        let Err(BuildError::Configuration(errors)) = built else {
            panic!("{key}: {built:?}");
        };
        let keys: Vec<_> = errors.faults().iter().map(|f| f.key.as_str()).collect();
        assert_eq!(keys, [key], "{errors}");
        let reloaded = sidecar.sidecar.reload(config).await;
        let Err(ReloadError::Configuration(errors)) = reloaded else {
            panic!("{key}: {reloaded:?}");
        };
        assert!(errors.faults().iter().any(|f| f.key == key), "{errors}");
    }
}

/// What a file may say, and is kept in another form.
#[test]
fn what_a_file_would_put_into_its_form_is_no_misfit() {
    let text = |text: &str| Some(text.to_owned());
    let mut config = Config::default();
    config.webhook.public_url = text("https://isv.example/");
    config.proxy.notify_url_allow = vec!["https://shop.example".to_owned()];
    config.upstream.v3 = text("https://openapi.alipay.com/");
    assert_eq!(config.misfits(), []);
}

/// The certificate of one key, and another key.
fn pair_of_two(folder: &Path) -> (PathBuf, PathBuf) {
    let made = || rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made");
    let (cert, key) = (folder.join("tls.crt"), folder.join("tls.key"));
    std::fs::write(&cert, made().cert.pem()).expect("written");
    std::fs::write(&key, made().signing_key.serialize_pem()).expect("written");
    (cert, key)
}

/// Two metrics of one name would be shown as one, once both have a series.
#[tokio::test]
async fn a_name_that_the_host_took_is_found_before_a_log_is_begun() {
    let sidecar = TestSidecar::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("audit.jsonl");
    // Of ours it has no series before there was a request, and neither has the host's.
    let name = "alipay_sidecar_request_duration_seconds";
    let ours = HistogramOpts::new(name, "How long the phases of a call take.");
    let ours = HistogramVec::new(ours, &["api", "phase"]).expect("a name");
    let other = IntCounterVec::new(Opts::new(name, "The host's own."), &["of"]).expect("a name");
    let hosts: [Box<dyn Collector>; 2] = [Box::new(ours), Box::new(other)];
    for hosts in hosts {
        let registry = Registry::new();
        registry.register(hosts).expect("new");
        let mut config = sidecar.config.clone();
        config.telemetry.audit_file = Some(log.clone());
        let builder = Sidecar::builder(config).store(sidecar.sidecar.store());
        let taken = builder.registry(registry).build().await;
        assert!(matches!(taken, Err(BuildError::Metrics(_))), "{taken:?}");
        assert!(!log.exists(), "it tells of a start");
    }
}
