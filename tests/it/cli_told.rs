//! What the command line tells of what failed, of what ends, and of where things are.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::cli_live::{Process, World};

const MERCHANT: [&str; 2] = ["--merchant", "2088000000001001"];

/// The one object on standard output of a verb that ends with `code`.
fn told(world: &World, arguments: &[&str], code: i32) -> Value {
    let output = world.output(arguments);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}\n{stdout}{stderr}"
    );
    serde_json::from_str(&stdout).unwrap_or_else(|e| panic!("{arguments:?}: {e}\n{stdout}"))
}

fn check(told: &Value, code: &str, texts: &[&str]) {
    assert_eq!(told["code"], code, "{told}");
    let detail = told["detail"].as_str().unwrap_or_default();
    for text in texts {
        assert!(detail.contains(text), "no `{text}` in: {told}");
    }
}

#[test]
fn what_cannot_be_written_is_a_failure_and_a_closed_pipe_is_none() {
    let ended = |stdout: Stdio| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_alipay-sidecar"));
        let program = program.args(["version", "--json"]).stdout(stdout);
        program.output().expect("started")
    };
    let full = OpenOptions::new().write(true).open("/dev/full");
    let lost = ended(full.expect("a device").into());
    assert_eq!(lost.status.code(), Some(1));
    let said = String::from_utf8_lossy(&lost.stderr);
    assert!(said.contains("standard output can't be written"), "{said}");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    assert_eq!(ended(writer.into()).status.code(), Some(0));
}

#[test]
fn what_fails_is_one_json_object_where_that_was_asked_for() {
    let world = World::start();
    let json = |arguments: &[&str], code| told(&world, &[arguments, &["--json"]].concat(), code);
    check(
        &json(&["health"], 1),
        "not-running",
        &["start one, or mend -c"],
    );
    check(
        &json(&["merchant", "show", "nobody"], 1),
        "store-unavailable",
        &["store create"],
    );
    assert!(json(&["store", "create"], 0)["store"].is_string());
    check(
        &json(&["store", "create"], 1),
        "store-unavailable",
        &["exists already"],
    );
    let unknown = json(&["merchant", "show", "nobody"], 1);
    check(&unknown, "merchant-unknown", &["`nobody`"]);
    assert_eq!(
        (&unknown["status"], &unknown["outcome"]),
        (&404.into(), &"not-sent".into())
    );
    check(
        &json(&["inbox", "show", "nonsense"], 1),
        "event-unknown",
        &["nonsense"],
    );
    check(&json(&["inbox", "replay"], 2), "usage", &["give an id"]);
    check(
        &json(&["inbox", "list", "--state", "x"], 2),
        "usage",
        &["--state"],
    );
    world.edit("[proxy]", "[proxy]\nmax_bodi = \"1MiB\"");
    let wrong = json(&["check"], 78);
    check(&wrong, "config-invalid", &["max_body"]);
    let fault = &wrong["faults"][0];
    assert!(
        fault["line"].is_number() && fault["hint"].is_string(),
        "{wrong}"
    );
    assert!(
        fault["key"]
            .as_str()
            .is_some_and(|key| key.contains("max_bodi")),
        "{wrong}"
    );
}

#[test]
fn who_does_not_answer_is_told_as_json_too() {
    let world = World::start();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    world.edit("unix:admin.sock", &address);
    let health = told(&world, &["health", "--json"], 1);
    check(&health, "not-ready", &[&address, "doesn't answer"]);
    assert_eq!(health["ready"], false);
    // The one that was tried has gone.
    drop(listener.accept().expect("a connection"));
    let refusing = std::thread::spawn(move || refuse_one(&listener));
    let health = told(&world, &["health", "--json"], 1);
    check(&health, "not-ready", &["it answered 500"]);
    assert_eq!(health["ready"], false);
    refusing.join().expect("no panic");
}

#[test]
fn whom_nobody_could_ask_about_is_told_as_json_too() {
    let world = World::start();
    world.check(&["store", "create"], 0, &[]);
    world.check(&["merchant", "import", "merchants.jsonl"], 0, &[]);
    let listed = world.output(&["merchant", "list", "--json"]).stdout;
    let listed = String::from_utf8(listed).expect("UTF-8");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    world.edit("unix:admin.sock", &address);
    std::thread::spawn(move || list_and_nothing_else(&listener, &listed));
    let added = [
        &["merchant", "add", "--app", "2021000000000001"][..],
        &[
            "--auth-app-id",
            "2021000000001001",
            "--token",
            "exec:echo t",
        ],
    ];
    let unknown = "whether app 2021000000000001 is there can't be told: the sidecar answered 503";
    let said = world.check(&added.concat(), 0, &["2021000000001001", unknown]);
    assert!(!said.contains("neither"), "{said}");
    for (verb, text) in [
        (["merchant", "verify"], "2 of 2 records aren't proved"),
        (["app", "subscribe"], "2 subscriptions weren't taken"),
    ] {
        let failed = told(&world, &[&verb[..], &["--all", "--json"]].concat(), 1);
        check(&failed, "failed", &[text]);
    }
}

#[test]
fn the_verbs_of_the_store_tell_in_json_what_they_did() {
    let world = World::start();
    let json = |arguments: &[&str]| told(&world, &[arguments, &["--json"]].concat(), 0);
    json(&["store", "create"]);
    assert!(json(&["store", "backup", "copy.redb"])["rows"].is_number());
    let restored = json(&["store", "restore", "copy.redb", "--replace"]);
    assert!(restored["kept"].is_string() && restored["warnings"].is_array());
    assert!(json(&["store", "compact"])["after_bytes"].is_number());
    json(&["merchant", "import", "merchants.jsonl"]);
    let removed = json(&["merchant", "remove", "2021000000001002"]);
    assert_eq!(removed["removed"], true);
}

#[test]
fn what_the_running_sidecar_says_is_passed_on_as_it_is() {
    let world = World::start();
    let (sidecar, said) = world.run();
    let gone = told(&world, &["app", "remove", "2021000000000001", "--json"], 1);
    check(&gone, "app-unknown", &["app list"]);
    assert!(gone["request_id"].is_string(), "{gone}");
    let progress = post(world.path(), &said["admin"], "/api/drain");
    assert!(progress.contains("\"drained\":true"), "{progress}");
    sidecar.line("a drain begins: new calls and notifications are refused");
    sidecar.line("drained: nothing is under way");
    let health = told(&world, &["health", "--json"], 1);
    check(&health, "not-ready", &["it was taken out of service"]);
    assert_eq!(
        (&health["ready"], &health["draining"]),
        (&false.into(), &true.into())
    );
}

/// One order to the admin API, and its answer.
fn post(directory: &Path, listen: &Value, path: &str) -> String {
    let listen = listen.as_str().expect("an address");
    let socket = listen.strip_prefix("unix:").expect("a unix socket");
    let token = std::fs::read_to_string(directory.join("data/admin.token")).expect("a token");
    let mut stream = UnixStream::connect(directory.join(socket)).expect("it listens");
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n",
        token.trim()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("answered");
    answer
}

#[test]
fn an_end_tells_every_few_seconds_what_is_left() {
    let world = World::start();
    let (sidecar, _) = world.run();
    world.check(&["merchant", "import", "merchants.jsonl"], 0, &[]);
    world.control("fault", r#"{"name":"slow","delay_ms":5000}"#.to_owned());
    let path = world.path().to_owned();
    let call = std::thread::spawn(move || {
        let call = [&["call", "alipay.trade.query"][..], &MERCHANT].concat();
        crate::cli_live::output(&path, &call).status.code()
    });
    wait_for_a_call(&world);
    sidecar.ask_to_end();
    sidecar.line("ending what is under way");
    let line = sidecar.line("still ending what is under way");
    let left: Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(left["calls"], 1, "{line}");
    sidecar.line("\"stopped\"");
    let code = call.join().expect("no panic");
    assert_eq!(code, Some(0), "what was under way is finished");
}

/// Until the simulator has one.
fn wait_for_a_call(world: &World) {
    let since = std::time::Instant::now();
    while !world.requests().contains("alipay.trade.query") {
        assert!(since.elapsed() < crate::cli_live::PATIENCE);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn an_attempt_names_its_address_and_what_went_wrong() {
    let world = World::start();
    let address = format!("127.0.0.1:{}", crate::support::free_port());
    let path = world.path().join("config.toml");
    let text = std::fs::read_to_string(&path).expect("read");
    let url = format!("[delivery]\nurl = \"http://{address}/events?key=hunter2\"\n");
    std::fs::write(&path, format!("{text}\n{url}")).expect("written");
    let (_sidecar, _) = world.run();
    let trigger = ["trigger", "order-message", "--simulator", &world.simulator];
    world.check(&trigger, 0, &["was taken by http://"]);
    let page = told(&world, &["inbox", "list", "--json"], 0);
    let id = page["items"][0]["id"].as_str().expect("an id").to_owned();
    let since = std::time::Instant::now();
    while told(&world, &["inbox", "show", &id, "--json"], 0)["history"][0].is_null() {
        assert!(since.elapsed() < crate::cli_live::PATIENCE);
    }
    let said = world.check(
        &["inbox", "show", &id],
        0,
        &[
            &format!("push to http://{address}/events - connect ("),
            &format!("no connection to {address} could be made: Connection refused"),
        ],
    );
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn the_other_verbs_reach_what_dev_runs() {
    let directory = tempfile::tempdir().expect("a directory");
    let dev = Process::start(directory.path(), &["dev", "--listen-base", "0"]);
    let line = dev.line("alipay-sidecar -c ");
    let config = line.split_whitespace().nth(2).expect("a path").to_owned();
    let run = |arguments: &[&str]| {
        let arguments = [&["-c", &config], arguments].concat();
        crate::cli_live::check(directory.path(), &arguments, 0, &[])
    };
    assert!(run(&["inbox", "list"]).contains("received_at"));
    assert!(run(&["health"]).contains("ready"));
    assert!(run(&["check", "--online"]).contains("is good"));
    let folder = Path::new(&config).parent().expect("a folder").to_owned();
    assert_eq!(dev.terminate(), Some(0));
    assert!(!folder.exists(), "everything goes when it ends");
}

#[test]
fn dev_leaves_nothing_behind_however_it_is_ended() {
    let directory = tempfile::tempdir().expect("a directory");
    let start = |arguments: &[&str]| {
        let arguments = [&["dev", "--listen-base", "0"], arguments].concat();
        let mut command = crate::cli_live::command(directory.path(), &arguments);
        command.env("TMPDIR", directory.path());
        Process::of(command)
    };
    let left = || std::fs::read_dir(directory.path()).expect("read").count();
    let stays = start(&[]);
    stays.line("alipay-sidecar -c ");
    assert_eq!(left(), 1);
    assert_eq!(stays.ended_by(hang_up()), Some(0));
    assert_eq!(left(), 0);
    // The reply that is slow is that of the second step.
    let tour = start(&["--tour", "--fault", "slow"]);
    tour.line("2. Another merchant");
    assert_eq!(left(), 1);
    assert_eq!(tour.ended_by("-TERM"), Some(1));
    assert_eq!(left(), 0);
}

/// SIGHUP, unless the tests themselves run under `nohup`: then the program is to stay at it.
fn hang_up() -> &'static str {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let is_ignored =
        ignored.is_some_and(|mask| mask.ends_with(['1', '3', '5', '7', '9', 'b', 'd', 'f']));
    if is_ignored { "-INT" } else { "-HUP" }
}

#[test]
fn the_simulator_notifies_where_it_is_told_to() {
    let directory = tempfile::tempdir().expect("a directory");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let webhook = listener.local_addr().expect("bound").to_string();
    let arguments = [
        "simulator",
        "--dir",
        ".",
        "--listen-base",
        "0",
        "--webhook",
        &webhook,
    ];
    let simulator = Process::start(directory.path(), &arguments);
    let line = simulator.line("simulator  http://");
    let url = line.split_whitespace().nth(1).expect("a URL").to_owned();
    simulator.line(&format!("notifies   http://{webhook}/alipay/gateway"));
    let text = std::fs::read_to_string(directory.path().join("config.toml")).expect("written");
    assert!(text.contains(&format!("listen = \"{webhook}\"")), "{text}");
    let refusing = std::thread::spawn(move || refuse_one(&listener));
    let arguments = ["trigger", "order-message", "--simulator", &url];
    let said = crate::cli_live::check(directory.path(), &arguments, 1, &["--webhook"]);
    assert!(
        said.contains(&format!("to http://{webhook}/alipay/gateway")),
        "{said}"
    );
    assert!(said.contains("--webhook HOST:PORT"), "{said}");
    assert!(said.contains(&format!("{url}/simulator/app")), "{said}");
    refusing.join().expect("no panic");
}

#[test]
fn the_simulator_says_where_it_has_put_a_config_that_led_elsewhere() {
    let directory = tempfile::tempdir().expect("a directory");
    let start = || {
        let arguments = ["simulator", "--dir", ".", "--listen-base", "0"];
        Process::start(directory.path(), &arguments)
    };
    let first = start();
    first.line("A notification:");
    drop(first);
    let config = directory.path().join("config.toml");
    let edited = std::fs::read_to_string(&config).expect("written") + "# by hand\n";
    std::fs::write(&config, &edited).expect("written");
    start().line("it is kept as ./config.toml.old");
    let kept = std::fs::read_to_string(directory.path().join("config.toml.old"));
    assert_eq!(kept.expect("kept"), edited);
}

/// Has the merchants of an admin listener, takes the first of them again, and can do nothing with them.
fn list_and_nothing_else(listener: &TcpListener, listed: &str) {
    let page: Value = serde_json::from_str(listed).expect("JSON");
    let first = page["items"][0].to_string();
    for stream in listener.incoming() {
        let mut stream: TcpStream = stream.expect("a connection");
        let mut seen = [0; 4096];
        let length = stream.read(&mut seen).expect("a request");
        let head = String::from_utf8_lossy(&seen[..length]).into_owned();
        let (status, body) = match head.split(' ').nth(1).unwrap_or_default() {
            "/livez" => ("200 OK", "{}"),
            path if path.starts_with("/api/merchants?") => ("200 OK", listed),
            path if path.starts_with("/api/merchants/") => ("200 OK", first.as_str()),
            _ => ("503 Not now", "{}"),
        };
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n");
        let answer = format!("{head}Connection: close\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).expect("answered");
    }
}

/// Takes one request, and says no.
fn refuse_one(listener: &TcpListener) {
    let (mut stream, _): (TcpStream, _) = listener.accept().expect("a connection");
    let mut seen = [0; 4096];
    let _ = stream.read(&mut seen).expect("a request");
    let refusal = b"HTTP/1.1 500 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    stream.write_all(refusal).expect("answered");
}
