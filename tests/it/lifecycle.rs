//! How the program ends, is taken out of service, and takes over sockets.

use std::io::Read;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use alipay_sidecar::config::Config;
use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::shutdown::Shutdown;
use alipay_sidecar::sidecar::Listeners;
use alipay_sidecar::simulator::{Fault, FaultKind};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::support::caller::{Caller, Keep, Told};
use crate::support::supervisor::{Program, Supervisor, program};
use crate::support::{PATIENCE, TestSidecar, header, json, raw, text};

const QUERY: &str = "/v2/alipay.trade.query";
const BODY: &str = r#"{"out_trade_no":"1"}"#;
const TAG: &str = "Alipay-Merchant: 2021000000001001\r\n";
const HALF_A_BODY: &str = "POST /v2/alipay.trade.query HTTP/1.1\r\nHost: localhost\r\n\
                           Alipay-Merchant: 2021000000001001\r\nContent-Length: 20\r\n\r\n{\"out";
/// Much longer than an end takes that waits for nothing, much shorter than the bound.
const SOON: Duration = Duration::from_secs(10);

/// A program on sockets of its own, with the merchants known.
fn on_its_own(supervisor: &mut Supervisor) -> Program {
    supervisor.let_go();
    let mut command = program(supervisor.path(), &["run"]);
    command.env("NOTIFY_SOCKET", supervisor.path().join("notify"));
    let log = std::fs::File::create(supervisor.path().join("sidecar.log")).expect("a file");
    let started = command.stderr(log).spawn().expect("started");
    supervisor.noticed("READY=1");
    supervisor.verb(&["merchant", "import", "merchants.jsonl"]);
    Program(started)
}

/// A call that Alipay answers late; ends once Alipay has it.
async fn slow_call(
    supervisor: &Supervisor,
    late: Duration,
) -> tokio::task::JoinHandle<Result<Told, String>> {
    supervisor
        .simulator
        .fault(Fault::once(FaultKind::Slow).delay(late));
    let before = supervisor.simulator.requests().len();
    let mut caller = Caller::new(&supervisor.proxy, Keep::Alive);
    let call = tokio::spawn(async move { caller.ask("POST", QUERY, TAG, BODY).await });
    let asked = async {
        while supervisor.simulator.requests().len() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asked)
        .await
        .expect("Alipay is asked");
    call
}

/// Waits for the program's end without holding up the simulator.
async fn end(program: Program) -> Option<i32> {
    let mut program = program;
    tokio::task::spawn_blocking(move || program.end())
        .await
        .expect("waited for")
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_refuses_what_is_new_and_finishes_what_is_under_way() {
    let mut supervisor = Supervisor::start().await;
    let program = on_its_own(&mut supervisor);
    let call = slow_call(&supervisor, Duration::from_secs(5)).await;
    program.signal("TERM");
    supervisor.noticed("STOPPING=1");
    let mut probe = Caller::new(&supervisor.admin, Keep::Fresh);
    let told = probe
        .ask("GET", "/readyz", "", "")
        .await
        .expect("still there");
    assert_eq!(told.status, 503);
    assert!(told.body.contains("\"draining\":true"), "{told:?}");
    let live = probe
        .ask("GET", "/livez", "", "")
        .await
        .expect("still there");
    assert_eq!(live.status, 200);
    for listener in [&supervisor.proxy, &supervisor.webhook] {
        // With pauses: who knocks at a full backlog is heard again a second later.
        let refused = async {
            while TcpStream::connect(listener).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, refused).await;
        waited.expect("nothing more is accepted");
    }
    assert!(!call.is_finished(), "refused while a call is under way");
    let told = call.await.expect("no panic").expect("answered");
    assert_eq!(told.status, 200, "{told:?}");
    assert!(told.head.contains("connection: close"), "{told:?}");
    assert_eq!(end(program).await, Some(0));
    assert!(supervisor.log().contains("\"stopped\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_caller_has_gone_is_finished_before_the_end() {
    let mut supervisor = Supervisor::start().await;
    let program = on_its_own(&mut supervisor);
    let call = slow_call(&supervisor, Duration::from_secs(2)).await;
    call.abort();
    let began = Instant::now();
    program.signal("INT");
    assert_eq!(end(program).await, Some(0));
    assert!(
        began.elapsed() > Duration::from_secs(1),
        "{:?}",
        began.elapsed()
    );
    let log = supervisor.log();
    assert!(log.contains("alipay.trade.query"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let mut supervisor = Supervisor::start().await;
    let program = on_its_own(&mut supervisor);
    let call = slow_call(&supervisor, Duration::from_secs(14)).await;
    program.signal("TERM");
    supervisor.noticed("STOPPING=1");
    let began = Instant::now();
    program.signal("INT");
    assert_eq!(end(program).await, Some(1));
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "{:?}",
        began.elapsed()
    );
    call.await.expect("no panic").expect_err("broken off");
    assert!(supervisor.log().contains("a second signal"));
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_half_requests_and_readers_that_do_not_read_hold_up_no_end() {
    let mut supervisor = Supervisor::start().await;
    let program = on_its_own(&mut supervisor);
    let mut idle = Caller::new(&supervisor.proxy, Keep::Alive);
    idle.ask("POST", QUERY, TAG, BODY).await.expect("answered");
    let mut unasked = Vec::new();
    for listener in [&supervisor.proxy, &supervisor.webhook, &supervisor.admin] {
        unasked.push(TcpStream::connect(listener).await.expect("accepted"));
    }
    let deaf = deaf_reader(&supervisor.admin).await;
    let mut halves = Vec::new();
    for (listener, half) in [
        (&supervisor.proxy, "POST /v2/alipay.tra"),
        (&supervisor.proxy, HALF_A_BODY),
        (&supervisor.webhook, "POST /alipay/notify HTTP/1.1\r\nHo"),
        (&supervisor.admin, "GET /livez HTTP/1.1\r\nHo"),
    ] {
        let mut stream = TcpStream::connect(listener).await.expect("accepted");
        let written = stream.write_all(half.as_bytes()).await;
        written.expect("room");
        halves.push(stream);
    }
    let began = Instant::now();
    program.signal("TERM");
    assert_eq!(end(program).await, Some(0));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
    drop((idle, unasked, deaf, halves));
}

/// Asks for `/metrics` over and over and reads nothing, until the sidecar can write no more.
async fn deaf_reader(admin: &str) -> TcpStream {
    let stream = TcpStream::connect(admin).await.expect("accepted");
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\n\r\n").repeat(64);
    let full = async {
        loop {
            stream.writable().await.expect("open");
            // Would block: the sidecar reads no more because it can't write.
            let _ = stream.try_write(request.as_bytes());
        }
    };
    let filled = tokio::time::timeout(Duration::from_secs(3), full).await;
    assert!(filled.is_err());
    stream
}

#[tokio::test]
async fn a_request_on_an_idle_connection_is_answered_while_the_end_begins() {
    let sidecar = TestSidecar::start().await;
    let address = |base: &str| base.replace("http://", "");
    let mut caller = Caller::new(&address(&sidecar.proxy), Keep::Alive);
    let tag = "Alipay-Merchant: shop\r\n";
    let first = caller
        .ask("POST", QUERY, tag, BODY)
        .await
        .expect("answered");
    assert!(!first.head.contains("connection: close"), "{first:?}");
    sidecar.stop();
    let ready = Request::builder().uri("/readyz");
    let told = sidecar.send(&sidecar.admin, ready, "".into()).await;
    assert_eq!(json(&told)["draining"], true);
    let last = caller
        .ask("POST", QUERY, tag, BODY)
        .await
        .expect("answered");
    assert_eq!(last.status, 200, "{last:?}");
    assert!(last.head.contains("connection: close"), "{last:?}");
}

#[tokio::test]
async fn the_end_is_bounded_whatever_hangs() {
    let sidecar = TestSidecar::start().await;
    let listener = async || {
        Listener::bind(&Listen::Tcp("127.0.0.1:0".to_owned()))
            .await
            .expect("a port")
    };
    let bound = sidecar.sidecar.bind_on(Listeners {
        proxy: listener().await,
        webhook: listener().await,
        admin: listener().await,
    });
    let bound = bound.expect("bound");
    let at_most = bound.end_takes_at_most();
    assert_eq!(at_most, Duration::from_secs(25));
    let proxy = bound.proxy_address().to_string();
    let (end, ends) = Shutdown::new();
    let run = tokio::spawn(bound.run(ends.wait()));
    // A body that never comes; behind it a whole request, which shows that the first is being read.
    let half = format!("POST {QUERY} HTTP/1.1\r\nHost: {proxy}\r\nContent-Length: 10\r\n\r\nabc");
    let hanging = raw::open(&format!("http://{proxy}"), half.as_bytes()).await;
    let mut caller = Caller::new(&proxy, Keep::Fresh);
    let tag = "Alipay-Merchant: shop\r\n";
    assert_eq!(
        caller
            .ask("POST", QUERY, tag, BODY)
            .await
            .expect("answered")
            .status,
        200
    );
    tokio::time::pause();
    let began = tokio::time::Instant::now();
    end.trigger();
    let ended = run.await.expect("no panic");
    let unclean = ended.expect_err("what hung was broken off").to_string();
    assert!(unclean.contains("25 s"), "{unclean}");
    let took = began.elapsed();
    assert!(
        took >= at_most && took < at_most + Duration::from_secs(1),
        "{took:?}"
    );
    drop(hanging);
}

#[tokio::test]
async fn a_drain_refuses_calls_and_notifications_and_leaves_admin_and_process_up() {
    let sidecar = TestSidecar::start().await;
    sidecar
        .simulator
        .fault(Fault::once(FaultKind::Slow).delay(Duration::from_secs(2)));
    let (call, (progress, again)) = tokio::join!(sidecar.post(QUERY, BODY), async {
        sidecar
            .wait_for_metric("alipay_sidecar_in_flight_requests", 1.0)
            .await;
        let progress = sidecar.admin(Method::POST, "/api/drain?wait=0s", "").await;
        let again = sidecar.admin(Method::POST, "/api/drain?wait=300ms", "");
        (progress, again.await)
    });
    assert_eq!(progress.status, StatusCode::ACCEPTED);
    let said = json(&progress);
    assert_eq!(
        (&said["draining"], &said["drained"], &said["calls"]),
        (&true.into(), &false.into(), &1.into()),
        "{said}"
    );
    let said = json(&again);
    assert_eq!(said["calls"], 1, "whoever waits isn't counted: {said}");
    assert_eq!(
        call.status,
        StatusCode::OK,
        "what was under way is finished"
    );

    let refused = sidecar.post(QUERY, BODY).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(header(&refused, "alipay-sidecar-error"), "overloaded");
    assert_eq!(header(&refused, "alipay-sidecar-outcome"), "not-sent");
    assert_eq!(header(&refused, "retry-after"), "1");
    let notification = Request::builder()
        .method(Method::POST)
        .uri("/alipay/notify");
    let refused = sidecar.webhook(notification, "a=1").await;
    assert_eq!(
        (refused.status, text(&refused)),
        (StatusCode::SERVICE_UNAVAILABLE, "fail".to_owned())
    );

    let browser = Request::builder().uri("/alipay/auth?state=x");
    let page = sidecar.webhook(browser, "").await;
    assert_eq!(page.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(header(&page, "retry-after"), "1");
    assert!(
        text(&page).starts_with("<!DOCTYPE html>"),
        "{}",
        text(&page)
    );
    let mut embedded = sidecar.sidecar.webhook_service();
    let notification = Request::post("/alipay/notify").body(Full::<Bytes>::from("a=1"));
    let refused = embedded.call(notification.expect("a request")).await;
    let refused = refused.expect("it can't fail");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);

    for _ in 0..2 {
        let drained = sidecar.admin(Method::POST, "/api/drain", "").await;
        assert_eq!(drained.status, StatusCode::OK, "{}", text(&drained));
        let said = json(&drained);
        assert_eq!(
            (&said["drained"], &said["deliveries_ended"]),
            (&true.into(), &true.into()),
            "{said}"
        );
    }
    let ready = sidecar.admin(Method::GET, "/readyz", "").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    let merchants = sidecar.admin(Method::GET, "/api/merchants", "").await;
    assert_eq!(merchants.status, StatusCode::OK);
}

#[tokio::test]
async fn a_drain_is_asked_for_by_post_with_a_token_and_a_duration() {
    let sidecar = TestSidecar::start().await;
    let got = sidecar.admin(Method::GET, "/api/drain", "").await;
    assert_eq!(
        (got.status, header(&got, "allow")),
        (StatusCode::METHOD_NOT_ALLOWED, "POST")
    );
    let wrong = sidecar
        .admin(Method::POST, "/api/drain?wait=soon", "")
        .await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert!(
        text(&wrong).contains("expected a duration"),
        "{}",
        text(&wrong)
    );
    let request = Request::builder().method(Method::POST).uri("/api/drain");
    let stranger = sidecar.send(&sidecar.admin, request, "".into()).await;
    assert_eq!(stranger.status, StatusCode::UNAUTHORIZED);
    assert_eq!(sidecar.post(QUERY, BODY).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_program_waits_for_the_store_no_longer_than_it_is_told() {
    let supervisor = Supervisor::start().await;
    let first = supervisor.run_first();
    let began = Instant::now();
    let hasty = supervisor.run("proxy:webhook:admin", &["--wait-for-store", "300ms"]);
    assert_eq!(end(hasty).await, Some(1));
    let took = began.elapsed();
    assert!(
        took >= Duration::from_millis(300) && took < SOON,
        "{took:?}"
    );
    assert!(
        supervisor.log().contains("in use by another process"),
        "{}",
        supervisor.log()
    );
    supervisor.noticed("STATUS=opening the store");
    let waiting = supervisor.run("proxy:webhook:admin", &[]);
    supervisor.noticed("STATUS=opening the store");
    waiting.signal("TERM");
    assert_eq!(end(waiting).await, Some(0));
    let second = supervisor.run("proxy:webhook:admin", &[]);
    first.signal("TERM");
    assert_eq!(end(first).await, Some(0));
    supervisor.noticed("READY=1");
    let mut caller = Caller::new(&supervisor.proxy, Keep::Fresh);
    assert_eq!(
        caller
            .ask("POST", QUERY, TAG, BODY)
            .await
            .expect("answered")
            .status,
        200
    );
    second.signal("TERM");
    assert_eq!(end(second).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_without_names_are_known_by_their_address_or_by_their_order() {
    for (names, are_others) in [
        ("", false),
        (
            "alipay-sidecar.socket:alipay-sidecar.socket:alipay-sidecar.socket",
            false,
        ),
        ("::admin", false),
        ("", true),
    ] {
        let supervisor = Supervisor::start().await;
        if are_others {
            let addresses = [&supervisor.proxy, &supervisor.webhook, &supervisor.admin];
            for (address, port) in addresses.into_iter().zip(1..) {
                supervisor.edit(
                    &format!("listen = \"{address}\""),
                    &format!("listen = \"127.0.0.1:{port}\""),
                );
            }
        }
        let program = supervisor.run(names, &[]);
        supervisor.noticed("READY=1");
        let status = async |address: &str, method: &str, path: &str| {
            let told = Caller::new(address, Keep::Fresh)
                .ask(method, path, "", "")
                .await;
            told.expect("answered").status
        };
        assert_eq!(
            status(&supervisor.admin, "GET", "/livez").await,
            200,
            "{names}"
        );
        assert_eq!(
            status(&supervisor.webhook, "GET", "/alipay/gateway").await,
            405,
            "{names}"
        );
        assert_eq!(
            status(&supervisor.proxy, "GET", QUERY).await,
            405,
            "{names}"
        );
        program.signal("TERM");
        assert_eq!(end(program).await, Some(0));
    }
}

/// The program refuses sockets with exit code 78, and says why.
fn check_refused(supervisor: &Supervisor, names: &str, texts: &[&str]) {
    let mut program = supervisor.run(names, &[]);
    assert_eq!(program.end(), Some(78), "{}", supervisor.log());
    for text in texts {
        assert!(
            supervisor.log().contains(text),
            "no {text} in {}",
            supervisor.log()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_do_not_fit_are_refused() {
    let supervisor = Supervisor::start().await;
    check_refused(
        &supervisor,
        "proxy:proxy:admin",
        &["LISTEN_FDNAMES", "two sockets named \"proxy\""],
    );
    let elsewhere = format!("listen = \"{}\"", supervisor.webhook);
    supervisor.edit(&elsewhere, "listen = \"127.0.0.1:1\"");
    check_refused(
        &supervisor,
        "proxy:other:admin",
        &[
            "LISTEN_FDS",
            "socket \"other\"",
            &supervisor.webhook,
            "`webhook.listen` (127.0.0.1:1)",
            "FileDescriptorName",
        ],
    );
}

/// Starts `run` with one descriptor in the place of a socket, and gives its exit code and words.
fn with_one(supervisor: &Supervisor, handed: Stdio, count: &str) -> (Option<i32>, String) {
    let script = r#"exec 3<&0 0</dev/null; LISTEN_PID=$$ exec "$0" run"#;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_alipay-sidecar")]);
    command.current_dir(supervisor.path()).env_clear();
    command
        .env("LISTEN_FDS", count)
        .env("LISTEN_FDNAMES", "proxy");
    let output = command.stdin(handed).output().expect("started");
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_listening_stream_socket_is_refused() {
    let supervisor = Supervisor::start().await;
    let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let connected = std::net::TcpStream::connect(listener.local_addr().expect("bound"));
    let handed: [(Stdio, &str, &str); 4] = [
        (Stdio::null(), "1", "a listening TCP or unix stream socket"),
        (
            OwnedFd::from(datagrams).into(),
            "1",
            "a listening TCP or unix stream socket",
        ),
        (
            OwnedFd::from(connected.expect("accepted")).into(),
            "1",
            "Accept=no",
        ),
        (OwnedFd::from(listener).into(), "x", "the number of sockets"),
    ];
    for (handed, count, text) in handed {
        let (code, said) = with_one(&supervisor, handed, count);
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains(text), "no {text} in {said}");
    }
    let exposed = TcpListener::bind("0.0.0.0:0").expect("a port");
    let (code, said) = with_one(&supervisor, OwnedFd::from(exposed).into(), "1");
    assert_eq!(
        code,
        Some(78),
        "the proxy off loopback needs callers: {said}"
    );
    assert!(said.contains("proxy.listen"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_is_served_and_left_to_its_supervisor() {
    let supervisor = Supervisor::start().await;
    let path = supervisor.path().join("held.sock");
    let held = UnixListener::bind(&path).expect("bound");
    let script = r#"exec 3<&0 0</dev/null 2>>sidecar.log; LISTEN_PID=$$ exec "$0" run"#;
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script, env!("CARGO_BIN_EXE_alipay-sidecar")]);
    command.current_dir(supervisor.path()).env_clear();
    command
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "admin");
    command.env("NOTIFY_SOCKET", supervisor.path().join("notify"));
    let mut supervisor = supervisor;
    supervisor.let_go();
    let started = command.stdin(Stdio::from(OwnedFd::from(
        held.try_clone().expect("a descriptor"),
    )));
    let program = Program(started.spawn().expect("started"));
    supervisor.noticed("READY=1");
    let told = tokio::task::spawn_blocking({
        let path = path.clone();
        move || {
            use std::io::Write;
            let mut stream = std::os::unix::net::UnixStream::connect(path).expect("accepted");
            let request = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
            stream.write_all(request).expect("written");
            let mut told = String::new();
            stream.read_to_string(&mut told).expect("answered");
            told
        }
    });
    assert!(told.await.expect("no panic").starts_with("HTTP/1.1 200"));
    program.signal("TERM");
    assert_eq!(end(program).await, Some(0));
    assert!(path.exists(), "the file is the supervisor's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watchdog_hears_of_it_until_it_ends() {
    let supervisor = Supervisor::start().await;
    let mut command = supervisor.command("proxy:webhook:admin", &[]);
    command.env("WATCHDOG_USEC", "400000");
    let program = Program(command.spawn().expect("started"));
    supervisor.noticed("READY=1");
    for _ in 0..3 {
        supervisor.noticed("WATCHDOG=1");
    }
    // One that is held up says nothing.
    program.signal("STOP");
    tokio::time::sleep(Duration::from_millis(100)).await;
    supervisor.forget_notices();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!supervisor.has_notice());
    program.signal("CONT");
    supervisor.noticed("WATCHDOG=1");
    program.signal("TERM");
    assert_eq!(end(program).await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_that_print_secrets_inherit_neither_sockets_nor_their_variables() {
    let supervisor = Supervisor::start().await;
    let script =
        "#!/bin/sh\nenv >child.env\nls -l /proc/self/fd >child.fds\necho a-token-of-a-test\n";
    let path = supervisor.path().join("secret");
    std::fs::write(&path, script).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("set");
    supervisor.edit("[admin]\n", "[admin]\ntoken = \"exec:./secret\"\n");
    let program = supervisor.run("proxy:webhook:admin", &[]);
    supervisor.noticed("READY=1");
    let left = |name| std::fs::read_to_string(supervisor.path().join(name)).expect("left");
    let environment = left("child.env");
    for variable in ["LISTEN_", "NOTIFY_SOCKET"] {
        assert!(!environment.contains(variable), "{environment}");
    }
    assert!(
        !left("child.fds").contains("socket:"),
        "{}",
        left("child.fds")
    );
    program.signal("TERM");
    assert_eq!(end(program).await, Some(0));
}

/// The value of `key` in a unit file.
fn unit_value(unit: &str, key: &str) -> String {
    let found = unit
        .lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    found
        .unwrap_or_else(|| panic!("no {key} in\n{unit}"))
        .to_owned()
}

#[test]
fn the_systemd_units_fit_the_program() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/deploy/systemd");
    let unit = |name: &str| std::fs::read_to_string(folder.join(name)).expect("a unit");
    let config = Config::default();
    for (name, listen) in [
        ("proxy", &config.proxy.listen),
        ("webhook", &config.webhook.listen),
        ("admin", &config.admin.listen),
    ] {
        let socket = unit(&format!("alipay-sidecar-{name}.socket"));
        assert_eq!(unit_value(&socket, "FileDescriptorName"), name);
        assert_eq!(unit_value(&socket, "ListenStream"), listen.to_string());
    }
    let service = unit("alipay-sidecar.service");
    let patience = unit_value(&service, "TimeoutStopSec");
    let patience: u64 = patience.trim_end_matches('s').parse().expect("seconds");
    let bound = config.upstream.timeout.as_secs() + 10;
    assert!(
        patience > bound.max(25),
        "systemd would kill it while it ends"
    );
    assert_eq!(unit_value(&service, "Type"), "notify");
    assert_eq!(unit_value(&service, "WatchdogSec"), "60s");
    verify_units(&folder);
}

/// Lets systemd itself judge the units, where it is installed; `.ci/run` installs it, and sets
/// `REQUIRE_SYSTEMD`.
fn verify_units(folder: &Path) {
    let copies = tempfile::tempdir().expect("a folder");
    let mut units = Vec::new();
    for unit in std::fs::read_dir(folder).expect("units") {
        let unit = unit.expect("readable");
        let text = std::fs::read_to_string(unit.path()).expect("read");
        let copy = copies.path().join(unit.file_name());
        let installed = text.replace(
            "/usr/local/bin/alipay-sidecar",
            env!("CARGO_BIN_EXE_alipay-sidecar"),
        );
        std::fs::write(&copy, installed).expect("written");
        units.push(copy);
    }
    let mut judge = Command::new("systemd-analyze");
    let Ok(output) = judge.arg("verify").arg("--man=no").args(&units).output() else {
        let required = std::env::var_os("REQUIRE_SYSTEMD");
        assert!(required.is_none(), "there is no systemd-analyze");
        crate::support::skipped(
            "there is no systemd-analyze (Debian package systemd), so the units weren't judged by it",
        );
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let about_ours: Vec<_> = said
        .lines()
        .filter(|line| line.contains("alipay-sidecar"))
        .collect();
    assert!(output.status.success() && about_ours.is_empty(), "{said}");
    let service = units
        .iter()
        .find(|unit| unit.ends_with("alipay-sidecar.service"));
    let mut judge = Command::new("systemd-analyze");
    judge.args(["security", "--offline=yes", MOST_EXPOSED]);
    let output = judge.args(service).output().expect("it was there");
    assert!(output.status.success(), "{output:?}");
}

/// Of 100, as systemd counts what a service could do.
const MOST_EXPOSED: &str = "--threshold=16";
