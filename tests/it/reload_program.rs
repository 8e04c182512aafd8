//! SIGHUP and `POST /api/reload` of the real program, and what `/api/config` shows of it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use alipay_sidecar::net::client::Reply;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::Value;

use crate::support::caller::{Caller, Keep};
use crate::support::supervisor::{Program, Supervisor, program};
use crate::support::{PATIENCE, client, header, json, text};

const QUERY: &str = "/v2/alipay.trade.query";
const BODY: &str = r#"{"out_trade_no":"1"}"#;
const TAG: &str = "Alipay-Merchant: 2021000000001001\r\n";
/// Every secret of these tests holds it.
const CANARY: &str = "canary";
const ADMIN: &str = "canary-of-admin";

/// Writes a file that its owner alone can read.
fn secret(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("narrowed");
}

/// The program on sockets of its own, with secrets of several kinds, and the merchants known.
fn started(supervisor: &mut Supervisor) -> Program {
    supervisor.let_go();
    let directory = supervisor.path();
    secret(directory, "signing", "canary-of-signing");
    secret(directory, "caller", "canary-of-caller");
    supervisor.edit(
        "[admin]\n",
        "[delivery]\nsigning_secret = \"exec:cat signing\"\n[admin]\ntoken = \"env:ADMIN_OF_TEST\"\n",
    );
    let mut command = program(directory, &["run"]);
    command
        .env("PATH", "/usr/bin:/bin")
        .env("ADMIN_OF_TEST", ADMIN)
        .env("ALIPAY_SIDECAR_PROXY__MAX_BODY", "512KiB")
        .env("NOTIFY_SOCKET", directory.join("notify"));
    let log = std::fs::File::create(directory.join("sidecar.log")).expect("a file");
    let started = command.stderr(log).spawn().expect("started");
    supervisor.noticed("READY=1");
    let mut import = program(directory, &["merchant", "import", "merchants.jsonl"]);
    let import = import
        .env("ADMIN_OF_TEST", ADMIN)
        .env("PATH", "/usr/bin:/bin")
        .status();
    assert!(import.expect("started").success());
    Program(started)
}

async fn admin(supervisor: &Supervisor, method: Method, path: &str) -> Reply {
    let request = Request::builder()
        .method(method)
        .uri(format!("http://{}{path}", supervisor.admin))
        .header("authorization", format!("Bearer {ADMIN}"))
        .body(Full::<Bytes>::default());
    let reply = client().send(request.expect("a request"), PATIENCE).await;
    reply.expect("an answer")
}

async fn shown(supervisor: &Supervisor) -> Value {
    json(&admin(supervisor, Method::GET, "/api/config").await)
}

/// Sends SIGHUP, and waits until the program says that it serves again.
fn hang_up(supervisor: &Supervisor, program: &Program) {
    program.signal("HUP");
    supervisor.noticed("RELOADING=1");
    supervisor.noticed("READY=1");
}

/// What the program has logged, once `text` is there: lines are written by a thread of their own.
async fn logged(supervisor: &Supervisor, text: &str) -> String {
    let there = async {
        loop {
            let log = supervisor.log();
            if log.contains(text) {
                return log;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, there).await;
    waited.unwrap_or_else(|_| panic!("no {text} in\n{}", supervisor.log()))
}

/// What an untagged call is answered.
async fn untagged(supervisor: &Supervisor) -> u16 {
    let mut caller = Caller::new(&supervisor.proxy, Keep::Fresh);
    caller
        .ask("POST", QUERY, "", BODY)
        .await
        .expect("an answer")
        .status
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_the_file_again_and_what_it_names() {
    let mut supervisor = Supervisor::start().await;
    let program = started(&mut supervisor);
    let before = shown(&supervisor).await;
    assert_eq!(before["generation"], 1);
    assert_eq!(untagged(&supervisor).await, 400);
    supervisor.edit(
        "[proxy]\n",
        "[proxy]\ndefault_merchant = \"2021000000001001\"\n",
    );
    hang_up(&supervisor, &program);
    assert_eq!(untagged(&supervisor).await, 200);
    let after = shown(&supervisor).await;
    assert_eq!(after["generation"], 2);
    assert_ne!(after["fingerprint"], before["fingerprint"]);
    assert!(after["loaded_at"].as_i64() > before["loaded_at"].as_i64());
    let file = supervisor.path().join("config.toml");
    assert!(
        file.ends_with(after["file"].as_str().expect("a path")),
        "{}",
        after["file"]
    );
    assert_eq!(
        after["config"]["proxy"]["default_merchant"],
        "2021000000001001"
    );
    let log = logged(&supervisor, "configuration reloaded").await;
    let line = log
        .lines()
        .find(|line| line.contains("configuration reloaded"));
    let line: Value = serde_json::from_str(line.expect("told")).expect("JSON");
    assert_eq!(line["generation"], 2);
    assert_eq!(line["fingerprint"], after["fingerprint"]);
    assert_eq!(line["changed"], "proxy.default_merchant");
    // The same file, but another secret in what it names.
    secret(supervisor.path(), "signing", "canary-of-signing-2");
    hang_up(&supervisor, &program);
    let renewed = shown(&supervisor).await;
    assert_eq!(renewed["generation"], 3);
    assert_ne!(renewed["fingerprint"], after["fingerprint"]);
    assert!(!supervisor.log().contains(CANARY));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_reloads_or_says_what_is_wrong_and_changes_nothing() {
    let mut supervisor = Supervisor::start().await;
    let program = started(&mut supervisor);
    let before = shown(&supervisor).await;
    supervisor.edit(
        "[proxy]\n",
        "[proxy]\nmax_in_fligth = 3\ndefault_merchant = \"2021000000001001\"\n",
    );
    let wrong = "[tokens]\nrefresh = \"sometimes\"\n[x]\n";
    supervisor.edit("[webhook]\n", &format!("{wrong}[webhook]\n"));
    let refused = admin(&supervisor, Method::POST, "/api/reload").await;
    assert_eq!(refused.status, 422, "{}", text(&refused));
    assert_eq!(header(&refused, "content-type"), "application/problem+json");
    assert_eq!(header(&refused, "alipay-sidecar-error"), "config-invalid");
    let problem = json(&refused);
    assert_eq!(
        (problem["code"].as_str(), problem["outcome"].as_str()),
        (Some("config-invalid"), Some("not-sent"))
    );
    let faults = problem["faults"].as_array().expect("a list");
    let named: Vec<_> = faults
        .iter()
        .map(|fault| fault["key"].as_str().expect("a key"))
        .collect();
    for key in ["proxy.max_in_fligth", "tokens.refresh", "x"] {
        assert!(named.contains(&key), "{key}: {problem:#}");
    }
    let unknown = &faults[named
        .iter()
        .position(|key| *key == "proxy.max_in_fligth")
        .expect("there")];
    assert_eq!(unknown["hint"], "did you mean `max_in_flight`?");
    assert!(
        unknown["line"].is_u64()
            && unknown["file"]
                .as_str()
                .expect("a file")
                .ends_with("config.toml")
    );
    hang_up(&supervisor, &program);
    assert_eq!(untagged(&supervisor).await, 400);
    let after = shown(&supervisor).await;
    assert_eq!(after, before);
    let log = logged(&supervisor, "stays in force").await;
    assert!(log.contains("did you mean `max_in_flight`?"), "{log}");
    let metrics = text(&admin(&supervisor, Method::GET, "/metrics").await);
    assert!(metrics.contains("alipay_sidecar_config_last_reload_successful 0"));
    supervisor.edit("max_in_fligth", "max_in_flight");
    supervisor.edit(wrong, "");
    let reloaded = json(&admin(&supervisor, Method::POST, "/api/reload").await);
    assert_eq!(reloaded["generation"], 2, "{reloaded:#}");
    let changed = serde_json::json!(["proxy.default_merchant", "proxy.max_in_flight"]);
    assert_eq!(reloaded["changed"], changed);
    assert_eq!(untagged(&supervisor).await, 200);
    assert_eq!(
        reloaded["fingerprint"],
        shown(&supervisor).await["fingerprint"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environment_of_the_start_counts_and_secrets_are_shown_nowhere() {
    let mut supervisor = Supervisor::start().await;
    let _program = started(&mut supervisor);
    let caller = "[[caller]]\nname = \"shop\"\ntoken = \"file:caller\"\nmerchants = [\"*\"]\nmethods = [\"*\"]\n";
    supervisor.edit("[[app]]\n", &format!("{caller}[[app]]\n"));
    let reloaded = admin(&supervisor, Method::POST, "/api/reload").await;
    assert_eq!(reloaded.status, 200, "{}", text(&reloaded));
    // The admin token came from the environment, and was taken out of it.
    let shown = shown(&supervisor).await;
    let config = &shown["config"];
    assert_eq!(config["admin"]["token"], "env:ADMIN_OF_TEST");
    assert_eq!(config["delivery"]["signing_secret"], "exec:…");
    assert_eq!(config["caller"][0]["token"], "file:caller");
    assert_eq!(
        config["app"][0]["private_key"],
        "file:keys/app_private_key.pem"
    );
    assert_eq!(config["store"]["key"], "file:store.key");
    assert_eq!(config["proxy"]["max_body"], "512KiB");
    assert_eq!(
        shown["sources"]["proxy.max_body"],
        "env:ALIPAY_SIDECAR_PROXY__MAX_BODY"
    );
    assert!(
        shown["sources"]["admin.token"]
            .as_str()
            .expect("set")
            .starts_with("file:")
    );
    let store_key = std::fs::read_to_string(supervisor.path().join("store.key")).expect("read");
    for said in [shown.to_string(), text(&reloaded), supervisor.log()] {
        assert!(
            !said.contains(CANARY) && !said.contains(store_key.trim()),
            "{said}"
        );
        assert!(!said.contains("PRIVATE KEY"), "{said}");
    }
    let mut caller = Caller::new(&supervisor.proxy, Keep::Fresh);
    let ask = caller
        .ask("POST", QUERY, TAG, BODY)
        .await
        .expect("an answer");
    assert_eq!(ask.status, 401);
    let bearer = format!("{TAG}Authorization: Bearer canary-of-caller\r\n");
    let ask = caller
        .ask("POST", QUERY, &bearer, BODY)
        .await
        .expect("an answer");
    assert_eq!(ask.status, 200, "{ask:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_command_holds_up_no_call() {
    let mut supervisor = Supervisor::start().await;
    let _program = started(&mut supervisor);
    supervisor.edit("exec:cat signing", "exec:./slow");
    let script = "#!/bin/sh\nuntil test -e go; do sleep 0.05; done\ncat signing\n";
    let path = supervisor.path().join("slow");
    std::fs::write(&path, script).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).expect("set");
    let url = format!("http://{}/api/reload", supervisor.admin);
    let reload = tokio::spawn(async move {
        let request = Request::post(url).header("authorization", format!("Bearer {ADMIN}"));
        let request = request.body(Full::<Bytes>::default()).expect("a request");
        client().send(request, PATIENCE).await.expect("an answer")
    });
    let mut caller = Caller::new(&supervisor.proxy, Keep::Alive);
    for _ in 0..10 {
        let told = caller
            .ask("POST", QUERY, TAG, BODY)
            .await
            .expect("an answer");
        assert_eq!(told.status, 200);
        assert!(told.took < Duration::from_secs(2), "{told:?}");
    }
    assert!(!reload.is_finished());
    assert_eq!(shown(&supervisor).await["generation"], 1);
    std::fs::write(supervisor.path().join("go"), "").expect("written");
    assert_eq!(json(&reload.await.expect("no panic"))["generation"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_follows_and_what_needs_a_restart_is_named_with_its_line() {
    let mut supervisor = Supervisor::start().await;
    let program = started(&mut supervisor);
    supervisor.edit(
        "[admin]\n",
        "[telemetry]\nlog = \"error\"\nlog_format = \"human\"\n[admin]\n",
    );
    hang_up(&supervisor, &program);
    // That it was reloaded isn't told at this level.
    supervisor.edit("log = \"error\"", "log = \"info\"");
    hang_up(&supervisor, &program);
    let log = logged(&supervisor, "configuration reloaded").await;
    let mut told = log
        .lines()
        .filter(|line| line.contains("configuration reloaded"));
    let line = told.next().expect("logged");
    assert!(
        !line.starts_with('{') && line.contains("generation=3"),
        "{log}"
    );
    assert_eq!(told.next(), None, "{log}");
    supervisor.edit("[webhook]\n", "[webhook]\nbase_path = \"/pay\"\n");
    let refused = json(&admin(&supervisor, Method::POST, "/api/reload").await);
    let fault = &refused["faults"][0];
    assert_eq!(fault["key"], "webhook.base_path", "{refused:#}");
    let line = fault["line"].as_u64().expect("a line");
    let file = std::fs::read_to_string(supervisor.path().join("config.toml")).expect("read");
    let named = file.lines().nth(usize::try_from(line).expect("small") - 1);
    assert_eq!(named, Some("base_path = \"/pay\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_that_were_handed_over_stay_what_they_are() {
    let supervisor = Supervisor::start().await;
    let proxy = supervisor.proxy.clone();
    // The file names other addresses than the sockets that are handed over.
    supervisor.edit(&format!("listen = \"{proxy}\""), "listen = \"127.0.0.1:1\"");
    let program = supervisor.run("proxy:webhook:admin", &[]);
    supervisor.noticed("READY=1");
    supervisor.edit("[proxy]\n", "[proxy]\nmax_in_flight = 9\n");
    hang_up(&supervisor, &program);
    logged(&supervisor, "configuration reloaded").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_from_a_pipe_cannot_be_read_again() {
    let mut supervisor = Supervisor::start().await;
    supervisor.let_go();
    let (directory, config) = (
        supervisor.path().to_owned(),
        supervisor.path().join("piped"),
    );
    let made = std::process::Command::new("mkfifo").arg(&config).status();
    assert!(made.expect("mkfifo").success());
    let text = std::fs::read_to_string(directory.join("config.toml")).expect("read");
    let (writer, pipe) = (
        std::thread::spawn({
            let config = config.clone();
            move || std::fs::write(config, text).expect("read")
        }),
        config,
    );
    let mut command = program(&directory, &["-c", pipe.to_str().expect("text"), "run"]);
    command.env("NOTIFY_SOCKET", directory.join("notify"));
    let log = std::fs::File::create(directory.join("sidecar.log")).expect("a file");
    let program = Program(command.stderr(log).spawn().expect("started"));
    supervisor.noticed("READY=1");
    writer.join().expect("no panic");
    hang_up(&supervisor, &program);
    logged(&supervisor, "no file that can be read again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_ends_no_program_that_waits_for_its_store() {
    let mut supervisor = Supervisor::start().await;
    let _first = started(&mut supervisor);
    let path = supervisor.path().join("second.log");
    let mut command = program(supervisor.path(), &["run", "--wait-for-store", "1m"]);
    command
        .env("PATH", "/usr/bin:/bin")
        .env("ADMIN_OF_TEST", ADMIN);
    let log = std::fs::File::create(&path).expect("a file");
    let mut second = Program(command.stderr(log).spawn().expect("started"));
    let waits = async {
        let text = || std::fs::read_to_string(&path).expect("read");
        while !text().contains("waiting for another process") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waits = tokio::time::timeout(PATIENCE, waits).await;
    waits.expect("the store is taken");
    second.signal("HUP");
    second.signal("TERM");
    let ended = tokio::task::spawn_blocking(move || second.end()).await;
    assert_eq!(ended.expect("no panic"), Some(0));
}
