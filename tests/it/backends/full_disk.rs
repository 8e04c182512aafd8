//! The backends that keep their orders in a file: what can't be written there is no success and costs none
//! of the others, and where Alipay has acted by then it isn't told as if it hadn't.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use alipay_sidecar::simulator::{Event, TriggerOptions};
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Backend, Script, ask, counts, has, order, ready, served_by_php};
use crate::support::{ALIAS, TestSidecar};

const USER: &str = "2088000000000001";

/// What no file may outgrow, in bytes.
const DISK: usize = 1024;

/// Begins `program` so that no file of its may outgrow that.
fn limited(program: &str) -> Command {
    let limit = "trap '' XFSZ; ulimit -f 1; exec \"$@\"";
    let mut command = Command::new("bash");
    command.args(["-c", limit, "limited", program]);
    command
}

/// The backend in PHP, on such a disk.
struct Php {
    sidecar: TestSidecar,
    base: String,
    folder: TempDir,
    _backend: Backend,
}

impl Php {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a directory");
        let port = crate::support::free_port();
        let sidecar = TestSidecar::start().await;
        let mut command = served_by_php(limited("php"), port, folder.path());
        command
            .env("SIDECAR", &sidecar.proxy)
            .env("MERCHANT", ALIAS)
            .stdin(Stdio::null());
        let mut backend = Backend(command.spawn().expect("started"));
        ready(&format!("127.0.0.1:{port}"), &mut backend).await;
        Self {
            sidecar,
            base: format!("http://127.0.0.1:{port}"),
            folder,
            _backend: backend,
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("orders.json")
    }

    /// Keeps `orders` and one that leaves this much room.
    fn keep(&self, mut orders: Value, room: usize) {
        let filler = |trade_no| json!({"order": "filler", "amount": "1.00", "trade_no": trade_no, "paid": false});
        orders["filler"] = filler(String::new());
        let pad = DISK - room - orders.to_string().len();
        orders["filler"] = filler("0".repeat(pad));
        fs::write(self.file(), orders.to_string()).expect("written");
    }

    fn kept(&self) -> Value {
        let kept = fs::read(self.file()).expect("read");
        serde_json::from_slice(&kept).expect("JSON")
    }

    async fn order(&self, name: &str) -> (StatusCode, Value) {
        order(&self.sidecar, &self.base, USER, (name, "1.00")).await
    }
}

/// Before Alipay is asked it is an error like another, after that nobody knows: both can be told apart, and
/// the order can be had once there is room.
#[tokio::test(flavor = "multi_thread")]
async fn php_on_a_full_disk_refuses_and_keeps_what_it_has() {
    if !has("php", "--version") {
        return;
    }
    let php = Php::start().await;
    php.keep(json!({}), 40);
    let before = php.kept();
    let (status, told) = php.order("made").await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{told}");
    assert_eq!(counts(&php.sidecar), (0, 0));
    assert_eq!(php.kept(), before);

    // Room for the order, and none for its trade's number.
    let made = json!({"order": "made", "amount": "1.00", "trade_no": null, "paid": false});
    php.keep(json!({}), made.to_string().len() + 20);
    let (status, told) = php.order("made").await;
    assert_eq!(status, StatusCode::BAD_GATEWAY, "{told}");
    let unknown = json!({"error": "order-not-kept", "outcome": "unknown"});
    assert_eq!(told, unknown);
    assert_eq!(counts(&php.sidecar), (1, 0));
    assert_eq!(php.kept()["made"], made);
    let (status, _) = ask(&php.sidecar, &php.base, Method::GET, "/orders/filler").await;
    assert_eq!(status, StatusCode::OK);

    php.keep(json!({"made": made}), 500);
    let (status, told) = php.order("made").await;
    assert_eq!(status, StatusCode::OK, "{told}");
    assert_eq!(php.kept()["made"], told);
}

/// A file that is no JSON, or empty, isn't one without orders: what is left in it stays.
#[tokio::test(flavor = "multi_thread")]
async fn php_writes_over_nothing_that_it_cannot_read() {
    if !has("php", "--version") {
        return;
    }
    let php = Php::start().await;
    for torn in ["", r#"{"one":{"order":"#] {
        fs::write(php.file(), torn).expect("written");
        let (status, told) = php.order("made").await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{told}");
        let kept = fs::read_to_string(php.file()).expect("read");
        assert_eq!(kept, torn);
    }
    assert_eq!(counts(&php.sidecar), (0, 0));
}

/// A line that is cut off is none, and spoils none that comes after it.
#[tokio::test(flavor = "multi_thread")]
async fn curl_on_a_full_disk_says_whether_alipay_was_asked() {
    if !has("curl", "--version") {
        return;
    }
    let sidecar = TestSidecar::start_with(|config| config.delivery.url = None).await;
    let folder = tempfile::tempdir().expect("a directory");
    let script = Script {
        start: limited,
        sidecar: sidecar.proxy.clone(),
        orders: folder.path().join("orders"),
    };
    let pay = ["pay", "made", "1.00", USER];
    // Half of `made 100`, before anything is asked.
    fill(&script.orders, 6);
    script.fail(1, &pay, "write error").await;
    assert_eq!(counts(&sidecar), (0, 0));
    empty(&script.orders);
    // It, and half of the one with its trade's number.
    fill(
        &script.orders,
        "made 100\nmade 100 2026".len() + " ?\n".len(),
    );
    script.fail(3, &pay, "order-not-kept").await;
    assert_eq!(counts(&sidecar), (1, 0));
    script.fail(1, &pay, "write error").await;
    assert_eq!(counts(&sidecar), (1, 0));
    empty(&script.orders);
    script.say(&pay).await;
    let payment = TriggerOptions {
        out_trade_no: Some("made".to_owned()),
        ..TriggerOptions::default()
    };
    let paid = sidecar.simulator.trigger(Event::Payment, &payment).await;
    paid.expect("paid");
    assert_eq!(script.say(&["events"]).await, "made");
}

const FILLER: &str = "filler 1";

/// Leaves this much room behind what is kept.
fn fill(orders: &Path, room: usize) {
    let kept = fs::read_to_string(orders).unwrap_or_default();
    let pad = DISK - room - kept.len() - FILLER.len() - 1;
    let filled = format!("{FILLER}{}\n{kept}", "0".repeat(pad));
    fs::write(orders, filled).expect("written");
}

/// Takes that away, and nothing else.
fn empty(orders: &Path) {
    let filled = fs::read_to_string(orders).expect("read");
    let (filler, kept) = filled.split_once('\n').expect("lines");
    assert!(filler.starts_with(FILLER), "{filled}");
    fs::write(orders, kept).expect("written");
}
