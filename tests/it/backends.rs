//! The backends of `examples/backends`, run as they are: a user's login, a payment and its
//! notification, an answer that is lost, a refusal.
//!
//! Where a language isn't at hand its test says so and passes, unless `REQUIRE_BACKENDS` names its
//! program: `.ci/run` names those it has installed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use alipay_sidecar::simulator::{Event, FIRST_AUTH_APP_ID, Fault, FaultKind, TriggerOptions};
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::support::{ALIAS, PATIENCE, TestSidecar, json};

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
    let sidecar = TestSidecar::start_with(|config| config.delivery.url = Some(events)).await;
    let mut command = command(port);
    command
        .env("PORT", port.to_string())
        .env("SIDECAR", &sidecar.proxy)
        .env("MERCHANT", ALIAS)
        // What a proxy of the environment would break.
        .env("http_proxy", "http://127.0.0.1:9")
        .env("HTTP_PROXY", "http://127.0.0.1:9")
        .stdin(Stdio::null());
    let mut backend = Backend(command.spawn().expect("started"));
    ready(&format!("127.0.0.1:{port}"), &mut backend).await;
    let user = login(&sidecar, &base).await;
    pay(&sidecar, &base, &user).await;
    lose_an_answer(&sidecar, &base, &user).await;
    other_events(&sidecar).await;
}

/// A user logs in; a code that is none is refused.
async fn login(sidecar: &TestSidecar, base: &str) -> String {
    let code = sidecar
        .simulator
        .auth_code(Some(FIRST_AUTH_APP_ID), None)
        .expect("a code");
    let (status, told) = ask(sidecar, base, Method::GET, &format!("/login?code={code}")).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    let user = told["user"].as_str().expect("a user").to_owned();
    assert!(user.starts_with("2088"), "{user}");
    let (status, told) = ask(sidecar, base, Method::GET, "/login?code=nobodys").await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{told}");
    assert_eq!(told["error"], "isv.code-invalid");
    user
}

async fn pay(sidecar: &TestSidecar, base: &str, user: &str) {
    let path = format!("/orders/one?amount=8.80&user={user}");
    let (status, told) = ask(sidecar, base, Method::POST, &path).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    let trade_no = told["trade_no"].as_str().expect("a trade").to_owned();
    let expected = json!({"order": "one", "amount": "8.80", "trade_no": trade_no, "paid": false});
    let (_, told) = ask(sidecar, base, Method::GET, "/orders/one").await;
    assert_eq!(told, expected);
    let payment = TriggerOptions {
        out_trade_no: Some("one".to_owned()),
        ..TriggerOptions::default()
    };
    let paid = sidecar.simulator.trigger(Event::Payment, &payment).await;
    paid.expect("paid");
    let began = Instant::now();
    loop {
        let (_, told) = ask(sidecar, base, Method::GET, "/orders/one").await;
        if told["paid"] == true {
            assert_eq!(told["trade_no"], trade_no.as_str());
            break;
        }
        assert!(began.elapsed() < PATIENCE, "{told}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Alipay acts, and its answer is lost: the backend asks, and doesn't order twice.
async fn lose_an_answer(sidecar: &TestSidecar, base: &str, user: &str) {
    let lost = Fault::once(FaultKind::Reset).on("alipay.trade.create");
    sidecar.simulator.fault(lost);
    let path = format!("/orders/two?amount=1.00&user={user}");
    let (status, told) = ask(sidecar, base, Method::POST, &path).await;
    assert_eq!(status, StatusCode::OK, "{told}");
    assert!(told["trade_no"].is_string(), "{told}");
    let of = |method: &str| {
        let requests = sidecar.simulator.requests();
        requests.iter().filter(|r| r.method == method).count()
    };
    assert_eq!(of("alipay.trade.create"), 2, "one for each order");
    assert_eq!(of("alipay.trade.query"), 1);
}

/// What a backend doesn't act upon it takes all the same, or it would come for three days.
async fn other_events(sidecar: &TestSidecar) {
    let order = TriggerOptions::default();
    let ordered = sidecar.simulator.trigger(Event::PluginOrder, &order).await;
    ordered.expect("ordered");
    let taken = "alipay_sidecar_delivery_attempts_total{outcome=\"delivered\"}";
    let began = Instant::now();
    while sidecar.metric(taken).await < 2.0 {
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
        walk(|port| {
            let mut command = Command::new("php");
            command.args(["-q", "-S", &format!("127.0.0.1:{port}")]);
            command.arg(directory("php").join("backend.php"));
            command.env("ORDERS", orders.path().join("orders.json"));
            command.stdout(Stdio::null()).stderr(Stdio::null());
            command
        })
        .await;
    }
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
    let code = sidecar
        .simulator
        .auth_code(Some(FIRST_AUTH_APP_ID), None)
        .expect("a code");
    let user = say(&sidecar, &["login", &code]).await;
    assert!(user.starts_with("2088"), "{user}");
    let trade = say(&sidecar, &["pay", "one", "8.80", &user]).await;
    assert!(trade.starts_with("20"), "{trade}");
    let lost = Fault::once(FaultKind::Reset).on("alipay.trade.create");
    sidecar.simulator.fault(lost);
    let trade = say(&sidecar, &["pay", "two", "1.00", &user]).await;
    assert!(trade.starts_with("20"), "{trade}");
    let payment = TriggerOptions {
        out_trade_no: Some("two".to_owned()),
        ..TriggerOptions::default()
    };
    let paid = sidecar.simulator.trigger(Event::Payment, &payment).await;
    paid.expect("paid");
    assert_eq!(say(&sidecar, &["events"]).await, "two");
}

/// What the script prints.
async fn say(sidecar: &TestSidecar, arguments: &[&str]) -> String {
    let mut command = Command::new("bash");
    command
        .arg(directory("curl").join("backend.sh"))
        .args(arguments)
        .env("SIDECAR", &sidecar.proxy)
        .env("MERCHANT", ALIAS);
    let ran = tokio::task::spawn_blocking(move || command.output()).await;
    let output = ran.expect("no panic").expect("bash runs");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {complaint}");
    let said = String::from_utf8(output.stdout).expect("text");
    said.trim().to_owned()
}
