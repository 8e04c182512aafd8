//! SPI calls: what is verified, what the backend is asked, what is signed and answered.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use alipay_sidecar::config::delivery::{DeliveryConfig, DeliveryFormat, DeliveryRoute};
use alipay_sidecar::config::upstream::UpstreamConfig;
use alipay_sidecar::model::app::{App, AppCertificates, Environment};
use alipay_sidecar::model::id::{AppId, EventId};
use alipay_sidecar::net::body::RequestBody;
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::serve::serve;
use alipay_sidecar::net::shutdown::{Shutdown, ShutdownTrigger};
use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::json;
use alipay_sidecar::protocol::key::AppPrivateKey;
use alipay_sidecar::protocol::params::Params;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::protocol::signed_answer::SpiShape;
use alipay_sidecar::simulator::{DEFAULT_APP_ID, SpiCall};
use alipay_sidecar::telemetry::trace_context::TraceParent;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};

use crate::certificates;
use crate::parts::{NOW, Parts, Setting, key};
use crate::support::{TestSidecar, hold_time, until};

const NOTIFICATIONS: &str = "alipay_sidecar_notifications_total";
const METHOD: &str = "spi.alipay.order.stock.query";
/// What a good backend says: digits, escapes and order that a JSON library would change.
const ANSWER: &str = r#"{ "msg":"Success" ,"code":"10000","big":12345678901234567890.10,"b":"\/\u4e2d","a":{"z":1,"a":[]}}"#;
const FORM: &str = "application/x-www-form-urlencoded";

/// How the backend answers.
#[derive(Clone)]
struct Says {
    status: u16,
    content_type: &'static str,
    body: Bytes,
    /// It says so once this is closed.
    held: Option<Arc<Semaphore>>,
}

impl Says {
    fn json(body: &str) -> Self {
        Self {
            status: 200,
            content_type: "application/json",
            body: Bytes::from(body.to_owned()),
            held: None,
        }
    }
}

struct Got {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

/// A backend that can be asked.
struct Backend {
    url: String,
    got: tokio::sync::Mutex<mpsc::UnboundedReceiver<Got>>,
    says: Arc<Mutex<Says>>,
    _running: ShutdownTrigger,
}

impl Backend {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let says = Arc::new(Mutex::new(Says::json(ANSWER)));
        let (tells, got) = mpsc::unbounded_channel();
        let (running, shutdown) = Shutdown::new();
        let told = Arc::clone(&says);
        let handle = move |request: Request<RequestBody>| {
            let (told, tells) = (Arc::clone(&told), tells.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.expect("whole").to_bytes();
                let says = told.lock().expect("no panic").clone();
                tells
                    .send(Got {
                        path: head.uri.path().to_owned(),
                        headers: head.headers,
                        body,
                    })
                    .ok();
                if let Some(held) = says.held {
                    // It has no place for anybody: its end is what is waited for.
                    let _ = held.acquire().await;
                }
                Response::builder()
                    .status(says.status)
                    .header("content-type", says.content_type)
                    .body(Full::new(says.body))
                    .expect("an answer")
            }
        };
        tokio::spawn(serve(Listener::from_tcp(listener), None, handle, shutdown));
        Self {
            url,
            got: tokio::sync::Mutex::new(got),
            says,
            _running: running,
        }
    }

    fn says(&self, says: Says) {
        *self.says.lock().expect("no panic") = says;
    }

    async fn next(&self) -> Got {
        let mut got = self.got.lock().await;
        let next = tokio::time::timeout(Duration::from_secs(10), got.recv());
        next.await.expect("a question").expect("the backend runs")
    }

    async fn was_not_asked(&self) {
        let nothing = self.got.lock().await.try_recv().is_err();
        assert!(nothing, "the backend was asked");
    }
}

struct World {
    parts: Parts,
    backend: Backend,
}

impl World {
    async fn new() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(change: impl FnOnce(&mut Setting)) -> Self {
        let backend = Backend::new().await;
        let mut setting = Setting::default();
        setting.delivery.routes = vec![DeliveryRoute {
            url: format!("{}/spi", backend.url),
            event_type: Some("spi.alipay.*".to_owned()),
            ..DeliveryRoute::default()
        }];
        change(&mut setting);
        let parts = Parts::new(setting).await;
        Self { parts, backend }
    }

    async fn get(&self, query: &str) -> Reply {
        self.send(Request::get(format!("/alipay/spi/stock?{query}")), "")
            .await
    }

    async fn post(&self, query: &str, body: &str) -> Reply {
        let request =
            Request::post(format!("/alipay/spi/stock?{query}")).header("content-type", FORM);
        self.send(request, body).await
    }

    async fn send(&self, request: http::request::Builder, body: &str) -> Reply {
        let request = request.body(Full::new(Bytes::from(body.to_owned())));
        let request = request.expect("a request");
        let (head, body) = self.parts.webhook.handle(request).await.into_parts();
        Reply {
            status: head.status,
            content_type: head.headers["content-type"]
                .to_str()
                .expect("text")
                .to_owned(),
            body: body.collect().await.expect("in memory").to_bytes(),
        }
    }

    /// Checks that the answer is signed by us over exactly `response`.
    fn check_signed(&self, reply: &Reply, response: &[u8], charset: Charset) {
        assert_eq!(reply.status, StatusCode::OK);
        let members = json::members(&reply.body, charset).expect("an object");
        let names: Vec<_> = members.iter().map(|m| &*m.name).collect();
        assert_eq!(names, ["response", "sign"]);
        let raw = &reply.body[members[0].value.clone()];
        assert_eq!(
            raw.escape_ascii().to_string(),
            response.escape_ascii().to_string()
        );
        let sign = &reply.body[members[1].value.clone()];
        let sign = json::decode_string(sign, charset).expect("a text");
        check_sign(response, &sign);
    }

    fn count(&self, outcome: &str) -> u32 {
        // No other kind is counted in these tests.
        assert!(self.parts.count(NOTIFICATIONS, "spi") >= self.parts.count(NOTIFICATIONS, outcome));
        format!("{:.0}", self.parts.count(NOTIFICATIONS, outcome).abs())
            .parse()
            .expect("a count")
    }
}

struct Reply {
    status: StatusCode,
    content_type: String,
    body: Bytes,
}

impl Reply {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// The signature is deterministic, so that ours can be made again.
fn check_sign(content: &[u8], sign: &str) {
    let app = AppPrivateKey::from_text(&key("app")).expect("a key");
    let expected = app.sign(SignType::Rsa2, content).expect("signed");
    assert_eq!(sign, expected, "not signed by the app");
}

/// A call's parameters, unsigned.
fn call(more: &[(&str, &str)]) -> Params {
    let seconds = (NOW / 1000).to_string();
    let mut params = Params::new();
    for (name, value) in [
        ("method", METHOD),
        ("charset", "utf-8"),
        ("version", "1.0"),
        ("biz_app_id", "2021000000000101"),
        ("invoke_app_id", DEFAULT_APP_ID),
        ("utc_timestamp", &seconds),
        ("sign_type", "RSA2"),
        ("item", "苹果 +%"),
        ("empty", ""),
    ]
    .iter()
    .chain(more)
    {
        params.set(*name, *value);
    }
    params
}

/// Signs as Alipay does (V1), with rules of its own: sorted, without `sign` and `sign_type`.
fn sign_by(key_name: &str, mut params: Params, charset: Charset) -> Params {
    let mut pairs: Vec<_> = params
        .iter()
        .filter(|(name, value)| !value.is_empty() && *name != "sign_type")
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    pairs.sort();
    let sign_type = params.get("sign_type").unwrap_or("RSA2").parse();
    let content = charset.encode(&pairs.join("&")).expect("encodable");
    let platform = AppPrivateKey::from_text(&key(key_name)).expect("a key");
    let sign = platform.sign(sign_type.expect("known"), &content);
    params.set("sign", sign.expect("signed"));
    params
}

fn signed(params: Params) -> String {
    let signed = sign_by("platform", params, Charset::Utf8);
    signed.to_form(Charset::Utf8).expect("UTF-8")
}

/// `params` in two halves: the system parameters and the business ones.
fn split(form: &str) -> (String, String) {
    let is_business = |pair: &&str| pair.starts_with("item=") || pair.starts_with("empty=");
    let (body, query): (Vec<_>, Vec<_>) = form.split('&').partition(is_business);
    (query.join("&"), body.join("&"))
}

fn is_refused(reply: &Reply, why: &str) {
    let text = reply.text();
    assert_eq!(reply.status, StatusCode::OK, "{why}: {text}");
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["code"], "40004", "{why}: {text}");
    assert_eq!(value["msg"], "Business Failed");
    assert_eq!(value["sub_code"], "ISV-VERIFICATION-FAILED");
    assert!(value.get("sign").is_none(), "a stranger made us sign");
}

fn is_unavailable(reply: &Reply) {
    let value: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!(value["response"]["code"], "20000", "{}", reply.text());
    assert_eq!(value["response"]["sub_code"], "isp.unknow-error");
    let content = reply.text();
    let content = content.split_once("\"response\":").expect("there").1;
    let content = content.split_once(",\"sign\"").expect("there").0;
    let sign = value["sign"].as_str().expect("signed");
    check_sign(content.as_bytes(), sign);
}

#[tokio::test]
async fn a_call_by_post_is_answered_with_the_backends_bytes_signed() {
    let world = World::new().await;
    let form = signed(call(&[]));
    let reply = world.post("", &form).await;
    world.check_signed(&reply, ANSWER.as_bytes(), Charset::Utf8);
    assert_eq!(reply.content_type, "application/json;charset=utf-8");
    let got = world.backend.next().await;
    assert_eq!(got.path, "/spi");
    assert_eq!(got.body, form);
    assert_eq!(got.header("content-type"), FORM);
    assert_eq!(got.header("alipay-event-type"), METHOD);
    assert_eq!(got.header("alipay-merchant"), "2021000000000101");
    assert_eq!(got.header("alipay-notify-path"), "/spi/stock");
    let id: EventId = got.header("alipay-event-id").parse().expect("an id");
    let told = TraceParent::parse(got.header("traceparent")).expect("a place");
    assert_eq!(told.trace_id, TraceParent::of_event(id.to_bytes()).trace_id);
    world.backend.was_not_asked().await;
    assert_eq!(world.count("accepted"), 1);
    assert!(world.parts.inbox().await.is_empty(), "an SPI call was kept");
}

#[tokio::test]
async fn a_call_by_get_reaches_the_backend_as_a_form() {
    let world = World::new().await;
    let form = signed(call(&[]));
    let reply = world.get(&form).await;
    world.check_signed(&reply, ANSWER.as_bytes(), Charset::Utf8);
    let got = world.backend.next().await;
    assert_eq!(got.body, form);
    let ours = "application/x-www-form-urlencoded;charset=utf-8";
    assert_eq!(got.header("content-type"), ours);
}

#[tokio::test]
async fn query_and_body_together_are_what_is_signed() {
    let world = World::new().await;
    let (query, body) = split(&signed(call(&[])));
    for body in [body.clone(), format!("{body}&method={METHOD}")] {
        let reply = world.post(&query, &body).await;
        world.check_signed(&reply, ANSWER.as_bytes(), Charset::Utf8);
        let got = world.backend.next().await;
        let params = Params::from_form(&got.body, Charset::Utf8).expect("a form");
        assert_eq!(params.get("item"), Some("苹果 +%"));
        assert_eq!(params.get("method"), Some(METHOD));
        assert!(params.get("sign").is_some());
    }
}

#[tokio::test]
async fn gbk_is_spoken_both_ways() {
    let world = World::new().await;
    let params = sign_by("platform", call(&[("charset", "GBK")]), Charset::Gbk);
    let form = params.to_form(Charset::Gbk).expect("GBK");
    let gbk = b"{\"name\":\"\xd6\xd0\"}".as_slice();
    for (content_type, body) in [
        ("application/json", "{\"name\":\"中\"}".as_bytes()),
        ("application/json;charset=GBK", gbk),
    ] {
        world.backend.says(Says {
            content_type,
            body: Bytes::from_static(body),
            ..Says::json("")
        });
        let (query, body) = split(&form);
        let reply = world.post(&query, &body).await;
        world.check_signed(&reply, gbk, Charset::Gbk);
        assert_eq!(reply.content_type, "application/json;charset=GBK");
        let got = world.backend.next().await;
        let params = Params::from_form(&got.body, Charset::Gbk).expect("GBK");
        assert_eq!(params.get("item"), Some("苹果 +%"));
        let ours = "application/x-www-form-urlencoded;charset=GBK";
        assert_eq!(got.header("content-type"), ours);
    }
    // A character that GBK lacks is never replaced.
    world.backend.says(Says::json("{\"name\":\"😀\"}"));
    let reply = world.get(&form).await;
    is_unavailable(&reply);
    assert_eq!(world.count("unavailable"), 1);
}

#[tokio::test]
async fn what_cant_be_verified_is_refused_as_alipays_demo_does() {
    let world = World::new().await;
    let good = signed(call(&[]));
    let replaced = |old: &str, new: &str| {
        let other = good.replace(old, new);
        assert_ne!(other, good);
        other
    };
    let own_key = sign_by("app", call(&[]), Charset::Utf8);
    let (late, early) = (NOW / 1000 - 26 * 3600, NOW / 1000 + 26 * 3600);
    let at = |seconds: i64| signed(call(&[("utc_timestamp", &seconds.to_string())]));
    for (form, outcome) in [
        (replaced("stock.query", "stock.delete"), "forged"),
        (replaced("&empty=", "&extra=1"), "forged"),
        (own_key.to_form(Charset::Utf8).expect("UTF-8"), "forged"),
        (signed(call(&[("sign_type", "RSA")])), "forged"),
        (call(&[]).to_form(Charset::Utf8).expect("UTF-8"), "forged"),
        (
            signed(call(&[("invoke_app_id", "2021000000000009")])),
            "foreign",
        ),
        (signed(call(&[("invoke_app_id", "")])), "foreign"),
        (format!("{good}&item=2"), "malformed"),
        (replaced("item=", "item=%zz"), "malformed"),
        (signed(call(&[("method", "")])), "malformed"),
        (signed(call(&[("notify_id", "1")])), "malformed"),
        (signed(call(&[("utc_timestamp", "")])), "malformed"),
        (String::new(), "malformed"),
        (at(late), "refused"),
        (at(early), "refused"),
    ] {
        let before = world.count(outcome);
        is_refused(&world.post("", &form).await, &form);
        assert_eq!(world.count(outcome), before + 1, "{outcome}: {form}");
    }
    let (query, body) = split(&good);
    let reply = world
        .post(&query, &format!("{body}&method=spi.other"))
        .await;
    is_refused(&reply, "one parameter with two values");
    world.backend.was_not_asked().await;
}

#[tokio::test]
async fn an_app_id_serves_where_no_other_is_named_and_clocks_may_differ_by_a_day() {
    let world = World::new().await;
    let seconds = (NOW / 1000 - 24 * 3600).to_string();
    let form = signed(call(&[
        ("invoke_app_id", ""),
        ("app_id", DEFAULT_APP_ID),
        ("utc_timestamp", &seconds),
    ]));
    let reply = world.get(&form).await;
    world.check_signed(&reply, ANSWER.as_bytes(), Charset::Utf8);
}

#[tokio::test]
async fn bodies_that_are_too_large_or_encoded_are_refused() {
    let world = World::with(|setting| setting.webhook.max_body = 2000).await;
    is_refused(&world.post("", &"x".repeat(2001)).await, "too large");
    let encoded = Request::post("/alipay/spi/stock").header("content-encoding", "gzip");
    is_refused(&world.send(encoded, &signed(call(&[]))).await, "encoded");
    let head = Request::put("/alipay/spi/stock");
    let reply = world.send(head, "").await;
    assert_eq!(reply.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn a_backend_that_gives_no_object_is_answered_for() {
    let world = World::new().await;
    let form = signed(call(&[]));
    for (status, body) in [
        (200, "success"),
        (200, ""),
        (200, "[]"),
        (200, "{} {}"),
        (200, r#"{"a":1},"sign":"x""#),
        (200, "\u{feff}{}"),
        (500, "{}"),
        (302, "{}"),
        (404, "{}"),
    ] {
        world.backend.says(Says {
            status,
            ..Says::json(body)
        });
        let reply = world.post("", &form).await;
        is_unavailable(&reply);
        world.backend.next().await;
        world.backend.was_not_asked().await;
    }
    assert_eq!(world.count("unavailable"), 9);
    assert!(world.parts.inbox().await.is_empty());
}

#[tokio::test]
async fn a_slow_backend_is_not_waited_for() {
    let world = Arc::new(World::new().await);
    world.backend.says(Says {
        held: Some(Arc::new(Semaphore::new(0))),
        ..Says::json(ANSWER)
    });
    let asking = Arc::clone(&world);
    let call = tokio::spawn(async move { asking.post("", &signed(call(&[]))).await });
    world.backend.next().await;
    hold_time();
    tokio::time::advance(Duration::from_secs(1)).await;
    // Long enough for whoever gave up to sign and answer.
    let turn = std::time::Instant::now();
    while turn.elapsed() < Duration::from_millis(300) {
        tokio::task::yield_now().await;
    }
    assert!(!call.is_finished(), "it may still answer");
    tokio::time::advance(Duration::from_secs(3)).await;
    until("it is answered for", || call.is_finished()).await;
    is_unavailable(&call.await.expect("no panic"));
    world.backend.was_not_asked().await;
}

#[tokio::test]
async fn too_many_calls_at_once_are_turned_away_at_once() {
    const WAITING: usize = 128;
    let world = Arc::new(World::new().await);
    let held = Arc::new(Semaphore::new(0));
    world.backend.says(Says {
        held: Some(Arc::clone(&held)),
        ..Says::json(ANSWER)
    });
    let form = signed(call(&[]));
    let calls: Vec<_> = (0..WAITING)
        .map(|_| {
            let (world, form) = (Arc::clone(&world), form.clone());
            tokio::spawn(async move { world.post("", &form).await })
        })
        .collect();
    for _ in 0..WAITING {
        world.backend.next().await;
    }
    is_unavailable(&world.post("", &form).await);
    assert_eq!(world.count("refused"), 1);
    held.close();
    for call in calls {
        let reply = call.await.expect("no panic");
        world.check_signed(&reply, ANSWER.as_bytes(), Charset::Utf8);
    }
}

#[tokio::test]
async fn nobody_to_ask_is_answered_for() {
    let world = World::with(|setting| setting.delivery.routes.clear()).await;
    let reply = world.post("", &signed(call(&[]))).await;
    is_unavailable(&reply);
}

#[tokio::test]
async fn routes_choose_by_path_app_and_merchant_else_the_url() {
    let backend = Backend::new().await;
    let url = |path: &str| format!("{}{path}", backend.url);
    let mut setting = Setting {
        delivery: DeliveryConfig {
            url: Some(url("/rest")),
            format: DeliveryFormat::Json,
            signing_secret: Some(Secret::new("whsec_c2VjcmV0".to_owned())),
            ..DeliveryConfig::default()
        },
        ..Setting::default()
    };
    setting.webhook.spi_response = SpiShape::Text;
    let route = |name: &str| DeliveryRoute {
        url: url(name),
        ..DeliveryRoute::default()
    };
    setting.delivery.routes = vec![
        DeliveryRoute {
            path: Some("/spi/other".to_owned()),
            ..route("/other")
        },
        DeliveryRoute {
            merchant: Some("2021000000000102".to_owned()),
            ..route("/merchant")
        },
    ];
    let parts = Parts::new(setting).await;
    let world = World { parts, backend };
    let merchant = [("biz_app_id", "2021000000000102")];
    for (name, form, path) in [
        ("other", signed(call(&[])), "/other"),
        ("stock", signed(call(&merchant)), "/merchant"),
        ("stock", signed(call(&[])), "/rest"),
    ] {
        let request = Request::get(format!("/alipay/spi/{name}?{form}"));
        let reply = world.send(request, "").await;
        let value: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
        assert_eq!(value["response"], ANSWER);
        let sign = value["sign"].as_str().expect("signed");
        check_sign(ANSWER.as_bytes(), sign);
        let got = world.backend.next().await;
        assert_eq!(got.path, path);
        let json: serde_json::Value = serde_json::from_slice(&got.body).expect("JSON");
        assert_eq!(json["type"], METHOD);
        assert_eq!(json["app_id"], DEFAULT_APP_ID);
        assert_eq!(json["params"]["item"], "苹果 +%");
        assert_eq!(json["id"], got.header("webhook-id"));
        assert!(got.header("webhook-signature").starts_with("v1,"));
    }
}

#[tokio::test]
async fn white_space_around_the_object_is_no_part_of_it() {
    let world = World::new().await;
    world.backend.says(Says::json(&format!("\r\n {ANSWER}\n")));
    let reply = world.post("", &signed(call(&[]))).await;
    world.check_signed(&reply, ANSWER.as_bytes(), Charset::Utf8);
}

/// The app in certificate mode, with certificates of both sides' keys.
fn certified() -> App {
    let read = |name| AppPrivateKey::from_text(&key(name)).expect("a key");
    let rsa = |key: &AppPrivateKey| {
        rcgen::KeyPair::from_pem(key.to_pkcs8_pem().expose()).expect("an RSA key")
    };
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let root_key = rsa(&AppPrivateKey::generate(2048).expect("a key"));
    let root = authority.self_signed(&root_key).expect("a certificate");
    let issuer = rcgen::Issuer::new(authority, root_key);
    let issue = |name| {
        let issued = rcgen::CertificateParams::default().signed_by(&rsa(&read(name)), &issuer);
        issued.expect("a certificate").pem()
    };
    App {
        app_id: AppId::new(DEFAULT_APP_ID).expect("id"),
        private_key: Secret::new(key("app")).into(),
        private_key_next: None,
        alipay_public_keys: Vec::new(),
        certificates: Some(AppCertificates {
            app: vec![issue("app")],
            alipay: vec![issue("platform")],
            roots: root.pem(),
        }),
        encrypt_key: None,
        environment: Environment::Production,
        sign_type: SignType::Rsa2,
    }
}

#[tokio::test]
async fn in_certificate_mode_the_answer_names_the_apps_certificate() {
    let world = World::new().await;
    let (apps, upstream) = (&world.parts.apps, UpstreamConfig::default());
    apps.replace(&[certified()], &upstream).expect("good keys");
    let reply = world.post("", &signed(call(&[]))).await;
    let app = world.parts.app();
    let expected = app.app_cert_sn().expect("certificate mode");
    let value: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
    assert_eq!(value["app_cert_sn"], expected);
    let sign = value["sign"].as_str().expect("signed");
    check_sign(ANSWER.as_bytes(), sign);
    let head = format!("{{\"response\":{ANSWER},\"sign\":");
    assert!(reply.text().starts_with(&head), "{}", reply.text());
}

#[tokio::test]
async fn the_simulator_which_signs_and_checks_by_itself_agrees() {
    let world = World::new().await;
    let url = format!("{}/alipay/spi/stock", world.parts.address);
    for (charset, http_method) in [
        ("UTF-8", "POST"),
        ("UTF-8", "GET"),
        ("GBK", "POST"),
        ("GBK", "GET"),
    ] {
        let answer = r#"{ "a":"中\/" ,"n":1.0}"#;
        world.backend.says(Says::json(answer));
        let mut call = SpiCall {
            method: METHOD.to_owned(),
            charset: Some(charset.to_owned()),
            http_method: Some(http_method.to_owned()),
            ..SpiCall::default()
        };
        let item = ("item".to_owned(), "苹果 +%&=".to_owned());
        call.params.extend([item]);
        let record = world.parts.simulator.spi(&url, &call).await.expect("made");
        assert_eq!(record.problem, None, "{}", record.body);
        assert!(record.body.contains(answer), "{}", record.body);
        let got = world.backend.next().await;
        let read = Charset::from_label(charset).expect("known");
        let params = Params::from_form(&got.body, read).expect("a form");
        assert_eq!(params.get("item"), Some("苹果 +%&="));
        call.tampered = true;
        let record = world.parts.simulator.spi(&url, &call).await.expect("made");
        assert!(!record.verified && record.body.contains("ISV-VERIFICATION-FAILED"));
        world.backend.was_not_asked().await;
    }
}

#[tokio::test]
async fn a_renewed_platform_certificate_is_fetched_while_alipay_waits() {
    let sidecar = TestSidecar::start_before(certificates::certified).await;
    let rotated = sidecar.simulator.rotate_platform_certificate();
    rotated.expect("certificates");
    let url = format!("{}/alipay/spi/stock", sidecar.webhook);
    let call = SpiCall {
        method: METHOD.to_owned(),
        ..SpiCall::default()
    };
    for _ in 0..2 {
        sidecar.backend.answer_next(200, ANSWER);
        let record = sidecar.simulator.spi(&url, &call).await.expect("made");
        assert_eq!(record.problem, None, "{}", record.body);
        assert!(record.body.contains("\"app_cert_sn\":"), "{}", record.body);
    }
}
