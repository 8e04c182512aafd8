//! What the command line tells of what failed, of what ends, and of where things are.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::Value;

use crate::cli_live::World;

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
    let (_sidecar, said) = world.run();
    let gone = told(&world, &["app", "remove", "2021000000000001", "--json"], 1);
    check(&gone, "app-unknown", &["app list"]);
    assert!(gone["request_id"].is_string(), "{gone}");
    let progress = post(world.path(), &said["admin"], "/api/drain");
    assert!(progress.contains("\"drained\":true"), "{progress}");
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
