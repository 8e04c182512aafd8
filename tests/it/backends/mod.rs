//! The backends of `examples/backends`, run as they are: a user's login, payments and their
//! notifications, answers that are lost or say nothing for sure, refusals, deliveries of strangers.
//!
//! Where a language isn't at hand its test says so and passes, unless `REQUIRE_BACKENDS` names its
//! program: `.ci/run` names those it has installed.

mod between;
mod full_disk;
mod refused;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use alipay_sidecar::clock::{Clock as _, SystemClock};
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::simulator::{Event, FIRST_AUTH_APP_ID, Fault, FaultKind, TriggerOptions};
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::support::{ALIAS, PATIENCE, TestSidecar, json};
use between::{Between, Instead};

/// `delivery.signing_secret`, and the key that it means.
const SECRET: (&str, &[u8]) = ("whsec_c2VjcmV0", b"secret");

/// How long a language may take to start; Go compiles first.
const STARTING: Duration = Duration::from_secs(240);

fn directory(language: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("examples/backends").join(language)
}

/// Whether `program` is here; says so where it isn't.
fn has(program: &str, version: &str) -> bool {
    let asked = Command::new(program)
        .arg(version)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if asked.is_ok_and(|status| status.success()) {
        return true;
    }
    let required = std::env::var("REQUIRE_BACKENDS").unwrap_or_default();
    assert!(
        !required.split_whitespace().any(|name| name == program),
        "{program} is required, and isn't there"
    );
    crate::support::skipped(&format!(
        "there is no {program}, so its example backend wasn't run"
    ));
    false
}

/// A running backend; it is killed when this is dropped, and what it started with it.
struct Backend(Child);

impl Drop for Backend {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a backend says to one request.
async fn ask(sidecar: &TestSidecar, base: &str, method: Method, path: &str) -> (StatusCode, Value) {
    let request = Request::builder().method(method).uri(path);
    let reply = sidecar.send(base, request, Default::default()).await;
    (reply.status, json(&reply))
}

/// Waits until it answers.
async fn ready(address: &str, backend: &mut Backend) {
    let began = Instant::now();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(began.elapsed() < STARTING, "it never listened");
        let ended = backend.0.try_wait().expect("asked");
        assert!(ended.is_none(), "it ended: {ended:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Starts what `command` makes of a port, and walks through all that an example shows.
async fn walk(command: impl FnOnce(u16) -> Command) {
    let port = crate::support::free_port();
    let base = format!("http://127.0.0.1:{port}");
    let events = format!("{base}/alipay/events");
    let sidecar = TestSidecar::start_with(|config| {
        config.delivery.url = Some(events);
        config.delivery.signing_secret = Some(Secret::new(SECRET.0.to_owned()));
    })
    .await;
    let between = Between::start(&sidecar.proxy).await;
    let mut command = command(port);
    command
        .env("PORT", port.to_string())
        .env("SIDECAR", &between.url)
        .env("MERCHANT", ALIAS)
        .env("WEBHOOK_SECRET", SECRET.0)
        // What a proxy of the environment would break.
        .env("http_proxy", "http://127.0.0.1:9")
        .env("HTTP_PROXY", "http://127.0.0.1:9")
        .stdin(Stdio::null());
    let mut backend = Backend(command.spawn().expect("started"));
    ready(&format!("127.0.0.1:{port}"), &mut backend).await;
    let user = login(&sidecar, &base).await;
    refuse_what_lacks_something(&sidecar, &base, &user).await;
    // Alipay tells of all three with two decimals.
    for (order, amount) in [("one", "8.80"), ("short", "8.8"), ("whole", "88")] {
        pay(&sidecar, &base, &user, (order, amount)).await;
    }
    refused::what_is_no_route(&sidecar, &base, &user).await;
    refused::a_token_of_nobody(&sidecar, &between, &base).await;
    lose_an_answer(&sidecar, &base, &user).await;
    ask_where_nothing_is_sure(&sidecar, &between, &base, &user).await;
    ask_in_vain(&sidecar, &between, &base, &user).await;
    believe_what_is_sure(&sidecar, &between, &base, &user).await;
    ask_for_a_number(&sidecar, &between, &base, &user).await;
    take_nothing_of_strangers(&sidecar, &base, &user).await;
    take_what_says_nothing_of_payments(&sidecar, &base).await;
    other_events(&sidecar).await;
}

/// What a user who logs in brings.
fn code(sidecar: &TestSidecar) -> String {
    let code = sidecar.simulator.auth_code(Some(FIRST_AUTH_APP_ID), None);
    code.expect("a code")
}

/// A user logs in; a code that is none is refused.
async fn login(sidecar: &TestSidecar, base: &str) -> String {
    let code = code(sidecar);
    let (status, told) = ask(sidecar, base, Method::GET, &format!("/login?code={code}")).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    let user = told["user"].as_str().expect("a user").to_owned();
    assert!(user.starts_with("2088"), "{user}");
    let (status, told) = ask(sidecar, base, Method::GET, "/login?code=nobodys").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{told}");
    assert_eq!(told["error"], "isv.code-invalid");
    user
}

/// What is asked for without a code, an amount or a user isn't asked of Alipay, and is no order afterwards.
async fn refuse_what_lacks_something(sidecar: &TestSidecar, base: &str, user: &str) {
    let called = sidecar.simulator.requests().len();
    let no_amount = format!("/orders/lacking?user={user}");
    for (method, path, expected) in [
        (Method::GET, "/login", StatusCode::BAD_REQUEST),
        (Method::GET, "/login?code=", StatusCode::BAD_REQUEST),
        (Method::POST, &no_amount, StatusCode::BAD_REQUEST),
        (
            Method::POST,
            "/orders/lacking?amount=1",
            StatusCode::BAD_REQUEST,
        ),
        (
            Method::POST,
            "/orders/lacking?amount=1&user=",
            StatusCode::BAD_REQUEST,
        ),
        (Method::GET, "/orders/lacking", StatusCode::NOT_FOUND),
    ] {
        let request = Request::builder().method(&method).uri(path);
        let reply = sidecar.send(base, request, Default::default()).await;
        assert_eq!(reply.status, expected, "{method} {path}");
    }
    assert_eq!(sidecar.simulator.requests().len(), called);
}

/// Orders `order`, which costs `amount`.
async fn order(
    sidecar: &TestSidecar,
    base: &str,
    user: &str,
    (order, amount): (&str, &str),
) -> (StatusCode, Value) {
    let path = format!("/orders/{order}?amount={amount}&user={user}");
    ask(sidecar, base, Method::POST, &path).await
}

async fn pay(sidecar: &TestSidecar, base: &str, user: &str, (name, amount): (&str, &str)) {
    let (status, told) = order(sidecar, base, user, (name, amount)).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    let trade_no = told["trade_no"].as_str().expect("a trade").to_owned();
    let path = format!("/orders/{name}");
    let expected = json!({"order": name, "amount": amount, "trade_no": trade_no, "paid": false});
    let (_, told) = ask(sidecar, base, Method::GET, &path).await;
    assert_eq!(told, expected);
    let payment = TriggerOptions {
        out_trade_no: Some(name.to_owned()),
        ..TriggerOptions::default()
    };
    let paid = sidecar.simulator.trigger(Event::Payment, &payment).await;
    paid.expect("paid");
    let began = Instant::now();
    loop {
        let (_, told) = ask(sidecar, base, Method::GET, &path).await;
        if told["paid"] == true {
            assert_eq!(told["trade_no"], trade_no.as_str());
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{told}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// How often Alipay was called by `method`.
fn calls(sidecar: &TestSidecar, method: &str) -> usize {
    let requests = sidecar.simulator.requests();
    requests.iter().filter(|r| r.method == method).count()
}

/// How often it was asked to make a trade, and how often about one.
fn counts(sidecar: &TestSidecar) -> (usize, usize) {
    let of = |method| calls(sidecar, method);
    (of("alipay.trade.create"), of("alipay.trade.query"))
}

/// Alipay acts, and its answer is lost: the backend asks, and doesn't order twice.
async fn lose_an_answer(sidecar: &TestSidecar, base: &str, user: &str) {
    let lost = Fault::once(FaultKind::Reset).on("alipay.trade.create");
    sidecar.simulator.fault(lost);
    let (made, asked) = counts(sidecar);
    let (status, told) = order(sidecar, base, user, ("lost", "1.00")).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    assert!(told["trade_no"].is_string(), "{told}");
    assert_eq!(counts(sidecar), (made + 1, asked + 1));
}

/// Answers after which nobody knows whether Alipay acted.
fn unsure() -> [Instead; 6] {
    let node = |verified, node| Instead::Node { verified, node };
    [
        node(
            "unsigned-error",
            r#"{"code":"20000","msg":"Service Currently Unavailable"}"#,
        ),
        node(
            "unsigned-error",
            r#"{"code":"40004","sub_code":"ACQ.ACCESS_FORBIDDEN"}"#,
        ),
        node("true", r#"{"code":"20000","sub_code":"aop.unknow-error"}"#),
        node("true", r#"{"code":"40004","sub_code":"ACQ.SYSTEM_ERROR"}"#),
        node("true", r#"{"code":"40004","sub_code":"isp.unknow-error"}"#),
        Instead::CutOff,
    ]
}

/// Alipay acts, and what is said of it says nothing for sure: the backend asks.
async fn ask_where_nothing_is_sure(
    sidecar: &TestSidecar,
    between: &Between,
    base: &str,
    user: &str,
) {
    for (number, answer) in unsure().into_iter().enumerate() {
        between.tell(answer);
        let (made, asked) = counts(sidecar);
        let name = format!("unsure-{number}");
        let (status, told) = order(sidecar, base, user, (&name, "1.00")).await;
        assert_eq!(status, StatusCode::OK, "{number}: {told}");
        assert!(told["trade_no"].is_string(), "{number}: {told}");
        assert_eq!(counts(sidecar), (made + 1, asked + 1), "{number}");
    }
}

/// What a query can say after which nobody knows more: that it wasn't sent itself, and that there is no
/// such trade, so soon.
fn in_vain() -> [(Instead, &'static str); 3] {
    let unreachable = "upstream-unreachable";
    let node = r#"{"code":"40004","sub_code":"ACQ.TRADE_NOT_EXIST"}"#;
    let verified = "true";
    [
        (
            Instead::NotSent(StatusCode::BAD_GATEWAY, unreachable),
            unreachable,
        ),
        (
            Instead::NotSent(StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
            "overloaded",
        ),
        (Instead::Node { verified, node }, "ACQ.TRADE_NOT_EXIST"),
    ]
}

/// Alipay acts, nothing says so, and the query fails: nobody knows, and the order can be had again.
async fn ask_in_vain(sidecar: &TestSidecar, between: &Between, base: &str, user: &str) {
    for (number, (answer, error)) in in_vain().into_iter().enumerate() {
        between.tell(Instead::CutOff);
        between.tell_of("/alipay.trade.query", answer);
        let name = format!("in-vain-{number}");
        let (status, told) = order(sidecar, base, user, (&name, "1.00")).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{told}");
        assert_eq!(told, json!({"error": error, "outcome": "unknown"}));
        let (_, told) = ask(sidecar, base, Method::GET, &format!("/orders/{name}")).await;
        let known = json!({"order": name, "amount": "1.00", "trade_no": null, "paid": false});
        assert_eq!(told, known);
        let (status, told) = order(sidecar, base, user, (&name, "1.0")).await;
        assert_eq!(status, StatusCode::OK, "{told}");
        assert!(told["trade_no"].is_string(), "{told}");
    }
}

/// What Alipay has taken and not finished is no failure, a signed no is one, and an amount that is
/// none, or another than before, isn't sent.
async fn believe_what_is_sure(sidecar: &TestSidecar, between: &Between, base: &str, user: &str) {
    let (_, asked) = counts(sidecar);
    between.tell(Instead::Node {
        verified: "true",
        node: r#"{"code":"10003","msg":"order success pay inprocess","trade_no":"2026"}"#,
    });
    let (status, told) = order(sidecar, base, user, ("under-way", "1.00")).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    assert_eq!(
        (&told["trade_no"], &told["paid"]),
        (&json!("2026"), &json!(false))
    );
    // Without `trade_no`, and with nothing in it, a reply takes nothing back.
    for node in NUMBERLESS {
        let verified = "true";
        between.tell(Instead::Node { verified, node });
        let (status, told) = order(sidecar, base, user, ("under-way", "1.00")).await;
        assert_eq!(
            (status, &told["trade_no"]),
            (StatusCode::OK, &json!("2026"))
        );
    }
    between.tell(Instead::Node {
        verified: "true",
        node: r#"{"code":"40004","sub_code":"ACQ.ACCESS_FORBIDDEN"}"#,
    });
    let (status, told) = order(sidecar, base, user, ("refused", "1.00")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{told}");
    assert_eq!(told["error"], "ACQ.ACCESS_FORBIDDEN");
    let (made, _) = counts(sidecar);
    let (status, told) = order(sidecar, base, user, ("none", "8.888")).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{told}");
    let (status, told) = order(sidecar, base, user, ("refused", "1.01")).await;
    assert_eq!(status, StatusCode::CONFLICT, "{told}");
    assert_eq!(counts(sidecar), (made, asked));
}

/// Without a number no notification of the order could be taken: who wasn't told one asks, and where
/// nobody tells one, nobody knows. One that is known stays, also where nothing else is sure.
async fn ask_for_a_number(sidecar: &TestSidecar, between: &Between, base: &str, user: &str) {
    for node in NUMBERLESS {
        let verified = "true";
        between.tell(Instead::Node { verified, node });
        between.tell_of("/alipay.trade.query", Instead::Node { verified, node });
        let (status, told) = order(sidecar, base, user, ("numberless", "1.00")).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{told}");
        let unknown = json!({"error": "trade-no-missing", "outcome": "unknown"});
        assert_eq!(told, unknown);
    }
    let (verified, node) = ("true", NUMBERLESS[0]);
    between.tell(Instead::Node { verified, node });
    let (made, asked) = counts(sidecar);
    let (status, told) = order(sidecar, base, user, ("numberless", "1.00")).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    let trade_no = told["trade_no"].as_str().expect("a trade").to_owned();
    assert_eq!(counts(sidecar), (made + 1, asked + 1));
    for node in NUMBERLESS {
        between.tell(Instead::CutOff);
        between.tell_of("/alipay.trade.query", Instead::Node { verified, node });
        let (status, told) = order(sidecar, base, user, ("numberless", "1.00")).await;
        assert_eq!(status, StatusCode::OK, "{told}");
        assert_eq!(told["trade_no"], trade_no.as_str());
    }
}

/// What Alipay has taken, and doesn't number.
const NUMBERLESS: [&str; 2] = [
    r#"{"code":"10003","msg":"order success pay inprocess"}"#,
    r#"{"code":"10003","trade_no":""}"#,
];

/// Whoever reaches the backend may say that an order is paid: the sidecar alone is believed, and only of
/// this order's own trade.
async fn take_nothing_of_strangers(sidecar: &TestSidecar, base: &str, user: &str) {
    let (status, told) = order(sidecar, base, user, ("forged", "3.00")).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    let trade_no = told["trade_no"].as_str().expect("a trade");
    let form = |amount, trade_no| {
        format!(
            "out_trade_no=forged&total_amount={amount}&trade_status=TRADE_SUCCESS&trade_no={trade_no}"
        )
    };
    let paid = &form("3.00", trade_no);
    let now = SystemClock.now_ms() / 1000;
    let ours = Some((SECRET.1, now));
    for (signed, form, expected) in [
        (None, paid, StatusCode::UNAUTHORIZED),
        (Some((&b"another"[..], now)), paid, StatusCode::UNAUTHORIZED),
        (Some((SECRET.1, now - 3600)), paid, StatusCode::UNAUTHORIZED),
        (
            ours,
            &form("3.01", trade_no),
            StatusCode::INTERNAL_SERVER_ERROR,
        ),
        (ours, &form("3.00", "1"), StatusCode::INTERNAL_SERVER_ERROR),
        // Of no order at all.
        (
            ours,
            &"total_amount=3.00&trade_status=TRADE_SUCCESS".to_owned(),
            StatusCode::INTERNAL_SERVER_ERROR,
        ),
    ] {
        let status = deliver(sidecar, base, signed, (FORM, form.as_bytes())).await;
        assert_eq!(status, expected, "{signed:?}: {form}");
        let (_, told) = ask(sidecar, base, Method::GET, "/orders/forged").await;
        assert_eq!(told["paid"], false, "{signed:?}: {form}");
    }
    let status = deliver(sidecar, base, ours, (FORM, paid.as_bytes())).await;
    assert_eq!(status, StatusCode::OK);
    let (_, told) = ask(sidecar, base, Method::GET, "/orders/forged").await;
    assert_eq!(told["paid"], true, "else nothing was shown above");
}

/// A form in another charset, and what is none at all, are taken when nothing is to be done about them.
async fn take_what_says_nothing_of_payments(sidecar: &TestSidecar, base: &str) {
    let now = SystemClock.now_ms() / 1000;
    for (kind, body) in [
        (FORM, &b"subject=\xb2\xe8&trade_status=WAIT_BUYER_PAY"[..]),
        ("application/json", br#"{"params":"100%, or a;b=%zz"}"#),
    ] {
        let status = deliver(sidecar, base, Some((SECRET.1, now)), (kind, body)).await;
        assert_eq!(status, StatusCode::OK, "{kind}");
    }
}

/// What a notification of Alipay's is.
const FORM: &str = "application/x-www-form-urlencoded";

/// What a backend answers to a body of that type as a delivery, signed with that key at that second, or
/// not.
async fn deliver(
    sidecar: &TestSidecar,
    base: &str,
    signed: Option<(&[u8], i64)>,
    (kind, body): (&str, &[u8]),
) -> StatusCode {
    let mut request = Request::post("/alipay/events")
        .header("alipay-event-type", "trade_status_sync")
        .header("content-type", kind);
    if let Some((key, at)) = signed {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key);
        let signed = [format!("event.{at}.").as_bytes(), body].concat();
        let sign = hmac::sign(&key, &signed);
        request = request
            .header("webhook-id", "event")
            .header("webhook-timestamp", at.to_string())
            .header("webhook-signature", format!("v1,{}", STANDARD.encode(sign)));
    }
    let body = body.to_vec().into();
    sidecar.send(base, request, body).await.status
}

/// What a backend doesn't act upon it takes all the same, or it would come for three days.
async fn other_events(sidecar: &TestSidecar) {
    let order = TriggerOptions::default();
    let ordered = sidecar.simulator.trigger(Event::PluginOrder, &order).await;
    ordered.expect("ordered");
    let taken = "alipay_sidecar_delivery_attempts_total{outcome=\"delivered\"}";
    let began = Instant::now();
    // It, and the three payments.
    while sidecar.metric(taken).await < 4.0 {
        assert!(began.elapsed() < PATIENCE, "it wasn't taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn python() {
    if has("python3", "--version") {
        walk(|_| script("python3", "python", "backend.py")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node() {
    if has("node", "--version") {
        walk(|_| script("node", "node", "backend.mjs")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn java() {
    // A runtime alone can't run a source file.
    if has("javac", "-version") && has("java", "-version") {
        walk(|_| script("java", "java", "Backend.java")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn php() {
    if has("php", "--version") {
        let orders = tempfile::tempdir().expect("a directory");
        walk(|port| served_by_php(Command::new("php"), port, orders.path())).await;
    }
}

/// What `php` runs: without a php.ini, so that warnings and errors would go into answers, and be 200.
fn served_by_php(mut php: Command, port: u16, orders: &Path) -> Command {
    php.args(["-n", "-q", "-S", &format!("127.0.0.1:{port}")])
        .arg(directory("php").join("backend.php"))
        .env("ORDERS", orders.join("orders.json"))
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    php
}

#[tokio::test(flavor = "multi_thread")]
async fn go() {
    if has("go", "version") {
        let built = tempfile::tempdir().expect("a directory");
        let program = built.path().join("backend");
        let compiled = Command::new("go")
            .args(["build", "-o"])
            .arg(&program)
            .arg(directory("go").join("backend.go"))
            .env("GOCACHE", built.path().join("cache"))
            .env("GO111MODULE", "off")
            .status();
        assert!(compiled.expect("go runs").success(), "it compiles");
        walk(|_| Command::new(&program)).await;
    }
}

fn script(program: &str, language: &str, file: &str) -> Command {
    let mut command = Command::new(program);
    command.arg(directory(language).join(file));
    command
}

/// A script of curl can't be called: it claims its events.
#[tokio::test(flavor = "multi_thread")]
async fn curl() {
    if !has("curl", "--version") {
        return;
    }
    let sidecar = TestSidecar::start_with(|config| config.delivery.url = None).await;
    let between = Between::start(&sidecar.proxy).await;
    let folder = tempfile::tempdir().expect("a directory");
    let script = Script {
        start: |program| Command::new(program),
        sidecar: between.url.clone(),
        orders: folder.path().join("orders"),
    };
    let user = script.say(&["login", &code(&sidecar)]).await;
    assert!(user.starts_with("2088"), "{user}");
    for node in refused::NOBODYS {
        let verified = "true";
        between.tell_of(refused::TOKEN, Instead::Node { verified, node });
        let login = ["login", &code(&sidecar)];
        script.fail(3, &login, "user-missing").await;
    }
    let first = script.say(&["pay", "one", "8.80", &user]).await;
    assert!(first.starts_with("20"), "{first}");
    let lost = Fault::once(FaultKind::Reset).on("alipay.trade.create");
    sidecar.simulator.fault(lost);
    let trade = script.say(&["pay", "two", "1", &user]).await;
    assert!(trade.starts_with("20"), "{trade}");
    for (number, answer) in unsure().into_iter().enumerate() {
        between.tell(answer);
        let name = format!("unsure-{number}");
        let trade = script.say(&["pay", &name, "1.00", &user]).await;
        assert!(trade.starts_with("20"), "{number}: {trade}");
    }
    for (answer, error) in in_vain() {
        between.tell(Instead::CutOff);
        between.tell_of("/alipay.trade.query", answer);
        script
            .fail(3, &["pay", "in-vain", "1.00", &user], error)
            .await;
    }
    let (verified, node) = ("true", NUMBERLESS[0]);
    between.tell(Instead::Node { verified, node });
    let again = script.say(&["pay", "one", "8.80", &user]).await;
    assert_eq!(
        again, first,
        "a reply without `trade_no` takes nothing back"
    );
    between.tell(Instead::CutOff);
    between.tell_of("/alipay.trade.query", Instead::Node { verified, node });
    let again = script.say(&["pay", "one", "8.80", &user]).await;
    assert_eq!(again, first, "nor does one to the query");
    let numberless = ["pay", "numberless", "1.00", &user];
    between.tell(Instead::Node { verified, node });
    between.tell_of("/alipay.trade.query", Instead::Node { verified, node });
    script.fail(3, &numberless, "trade-no-missing").await;
    between.tell(Instead::Node { verified, node });
    let trade = script.say(&numberless).await;
    assert!(trade.starts_with("20"), "{trade}");
    let made = calls(&sidecar, "alipay.trade.create");
    let other_amount = ["pay", "one", "8.81", &user];
    script.fail(2, &other_amount, "another amount").await;
    assert_eq!(calls(&sidecar, "alipay.trade.create"), made);
    let refused = Instead::NotSent(StatusCode::SERVICE_UNAVAILABLE, "overloaded");
    between.tell_of("/events/claim", refused);
    script.fail(1, &["events"], "overloaded").await;
    for status in ["TRADE_SUCCESS", "TRADE_FINISHED"] {
        let payment = TriggerOptions {
            out_trade_no: Some("two".to_owned()),
            trade_status: Some(status.to_owned()),
            ..TriggerOptions::default()
        };
        let paid = sidecar.simulator.trigger(Event::Payment, &payment).await;
        paid.expect("paid");
        assert_eq!(script.say(&["events"]).await, "two", "{status}");
    }
    // As if another amount had been ordered, and the order were another merchant's.
    let others = format!("one 881\none 881 {first}\none 880 1\n");
    std::fs::write(&script.orders, others).expect("written");
    let payment = TriggerOptions {
        out_trade_no: Some("one".to_owned()),
        ..TriggerOptions::default()
    };
    let paid = sidecar.simulator.trigger(Event::Payment, &payment).await;
    paid.expect("paid");
    script.fail(1, &["events"], "another amount or trade").await;
}

/// The script of curl, and what it is told by its environment.
struct Script {
    /// What begins a program.
    start: fn(&str) -> Command,
    sidecar: String,
    orders: PathBuf,
}

impl Script {
    /// What it prints.
    async fn say(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {complaint}");
        let said = String::from_utf8(output.stdout).expect("text");
        said.trim().to_owned()
    }

    /// It ends with `code`, says `why` as a complaint, and prints nothing else.
    async fn fail(&self, code: i32, arguments: &[&str], why: &str) {
        let output = self.run(arguments).await;
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(complaint.contains(why), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = (self.start)("bash");
        command
            .arg(directory("curl").join("backend.sh"))
            .args(arguments)
            .env("SIDECAR", &self.sidecar)
            .env("MERCHANT", ALIAS)
            .env("ORDERS", &self.orders);
        let ran = tokio::task::spawn_blocking(move || command.output()).await;
        ran.expect("no panic").expect("bash runs")
    }
}
