//! The program and what was refused: against a running sidecar, and against the store alone.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::cli_live::{PATIENCE, World};
use crate::support::keys;

#[test]
fn what_was_refused_is_verified_again_by_a_sidecar_that_runs_and_without_one() {
    let world = World::start();
    let key = world.path().join("keys/alipay_public_key.pem");
    let right = std::fs::read_to_string(&key).expect("read");
    std::fs::write(&key, keys::public("alipay2048")).expect("written");
    let (sidecar, _) = world.run();
    let simulator = ["--simulator", &world.simulator];
    let trigger = [&["trigger", "order-message"][..], &simulator].concat();
    world.check(&trigger, 1, &["wasn't taken", "fail"]);
    let list = ["inbox", "list", "--state", "refused", "--json"];
    let listed = || {
        let page: serde_json::Value =
            serde_json::from_str(&world.check(&list, 0, &[])).expect("JSON");
        let items = page["items"].as_array().expect("a list").clone();
        let ids = items
            .into_iter()
            .map(|item| item["id"].as_str().map(str::to_owned));
        ids.map(|id| id.expect("an id")).collect::<Vec<_>>()
    };
    let begun = std::time::Instant::now();
    while listed().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "it is never kept");
    }
    let id = listed().remove(0);
    let show = ["inbox", "show", &id, "--explain"];
    let said = [
        "refused",
        "forged: it could not be verified",
        "127.0.0.1",
        "signature ",
    ];
    world.check(&show, 0, &said);
    let again = ["inbox", "reverify", &id];
    let still = format!("alipay-sidecar: {id} is still refused: it could not be verified");
    world.check(&again, 1, &["refused: ", "1 still refused", &still]);
    world.check(&["inbox", "reverify", "--help"], 0, &["Ends with 1"]);
    world.check(
        &["inbox", "reverify"],
        0,
        &["0 accepted", "1 still refused"],
    );
    world.check(&["inbox", "reverify", "nonsense"], 1, &["nonsense"]);
    assert_eq!(sidecar.terminate(), Some(0));

    world.check(&["inbox", "reverify"], 0, &["1 still refused"]);
    world.check(&again, 1, &["1 still refused", &still]);
    world.check(&show, 0, &["refused", "forged"]);
    std::fs::write(&key, right).expect("written");
    let (sidecar, _) = world.run();
    sidecar.line("refused notifications verify now");
    assert_eq!(listed().len(), 1, "nothing happens by itself");
    assert_eq!(sidecar.terminate(), Some(0));
    let said = world.check(&["inbox", "reverify", "--json"], 0, &[]);
    let report: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(report["accepted"], 1, "{said}");
    assert_eq!(report["items"][0]["id"], id);
    assert!(listed().is_empty());
    world.check(&show, 0, &["pending", "holds"]);
    world.check(&["inbox", "reverify", &id], 1, &["no refused notification"]);
}

#[test]
fn what_a_stranger_wrote_reaches_no_terminal() {
    let world = World::start();
    let (sidecar, said) = world.run();
    // CSI of eight bits, an order from right to left, an escape sequence, a line of its own.
    let form = "notify_type=trade%E2%80%AEsync&subject=%C2%9B31m%E2%80%AE%1B%5B2J%0Arow&\
        app_id=2021%E2%80%AE&notify_id=n%C2%9B1&sign_type=RSA2&sign=AAAA";
    let address = said["webhook"].as_str().expect("an address");
    let mut stream = TcpStream::connect(address).expect("connected");
    let length = form.len();
    let request = format!(
        "POST /alipay/notify/orders HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\ncontent-length: {length}\r\n\r\n{form}"
    );
    stream.write_all(request.as_bytes()).expect("sent");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).expect("answered");
    assert!(reply.ends_with("fail"), "{reply}");
    let is_plain = |text: &str| {
        let misleads = |c: char| c != '\n' && c.is_control() || c == '\u{202e}';
        assert!(!text.contains(misleads), "{text:?}");
    };
    let list = ["inbox", "list", "--state", "refused"];
    let begun = std::time::Instant::now();
    let listed = loop {
        let listed = world.check(&list, 0, &[]);
        if listed.contains("trade") {
            break listed;
        }
        assert!(begun.elapsed() < PATIENCE, "it is never kept");
    };
    is_plain(&listed);
    assert_eq!(listed.lines().count(), 2, "{listed}");
    let row = listed.lines().last().expect("a row");
    let id = row.split_whitespace().next().expect("an id");
    let subject = "  subject = \"\\u{9b}31m\\u{202e}\\u001b[2J\\nrow\"\n";
    is_plain(&world.check(&["inbox", "show", id], 0, &[subject]));
    let shown = world.check(&["inbox", "show", id, "--json"], 0, &[]);
    is_plain(&shown);
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    let subject = "\u{9b}31m\u{202e}\u{1b}[2J\nrow";
    assert_eq!(shown["params"]["subject"], subject);
    assert_eq!(sidecar.terminate(), Some(0));
}
