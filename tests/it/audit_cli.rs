//! `audit verify` of the program, and a program that is killed or whose disk is full.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use alipay_sidecar::audit::chain::ChainKey;
use alipay_sidecar::audit::entry::{Entry, Event};
use alipay_sidecar::audit::metrics::AuditMetrics;
use alipay_sidecar::audit::{Audit, AuditOptions};
use alipay_sidecar::clock::SystemClock;
use alipay_sidecar::store::Store;
use http::{Request, StatusCode};
use http_body_util::Full;
use prometheus::Registry;

use crate::cli_live::World;
use crate::support::program::{Installation, Program};
use crate::support::signed::Platform;
use crate::support::{PATIENCE, client};

const VERIFY: [&str; 2] = ["audit", "verify"];
/// How often the short form kills.
const KILLS: usize = 3;

fn log(world: &World) -> PathBuf {
    world.path().join("data/audit.jsonl")
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).expect("text")
}

#[test]
fn a_log_is_checked_while_the_sidecar_runs_and_after() {
    let world = World::start();
    world.check(&VERIFY, 1, &["there is no store"]);
    let (sidecar, _) = world.run();
    world.check(
        &["merchant", "import", "merchants.jsonl"],
        0,
        &["2 imported"],
    );
    world.check(&["merchant", "remove", "2021000000001002"], 0, &[]);
    world.check(&["audit", "verify"], 0, &["follow from each other"]);
    assert_eq!(sidecar.terminate(), Some(0));
    let said = world.check(&["audit", "verify", "--json"], 0, &[]);
    let report: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(report["good"], true);
    assert_eq!(report["anchored"], report["lines"]);
    assert_eq!(report["authenticated"], report["lines"]);
    world.check(&["check"], 0, &["is good"]);
    let whole = text(&log(&world));
    assert!(
        whole.contains("\"path\":\"/api/merchants/import"),
        "{whole}"
    );
    // Edited, by itself and without the configuration.
    std::fs::write(log(&world), whole.replace("import", "export")).expect("written");
    world.check(
        &VERIFY,
        1,
        &["audit.jsonl:2: line 2 was changed", "not what was written"],
    );
    let alone = ["-c", "none.toml", "audit", "verify", "data/audit.jsonl"];
    let found = world.check(
        &alone,
        1,
        &["line 3 doesn't follow", "without the store key"],
    );
    assert!(found.contains("audit.jsonl:3:"), "{found}");
    // Cut: only the store knows.
    let mut lines: Vec<&str> = whole.lines().collect();
    lines.pop();
    std::fs::write(log(&world), lines.join("\n") + "\n").expect("written");
    world.check(
        &["audit", "verify", "data/audit.jsonl"],
        0,
        &["follow from each other"],
    );
    world.check(
        &VERIFY,
        1,
        &["are missing at the end; the store knows them"],
    );
    std::fs::remove_file(log(&world)).expect("removed");
    world.check(&VERIFY, 1, &["missing at the end"]);
    world.check(
        &["audit", "verify", "nowhere"],
        2,
        &["nowhere isn't a file"],
    );
    std::fs::write(log(&world), whole).expect("written");
    world.check(&VERIFY, 0, &[]);
}

#[test]
fn what_is_in_the_way_of_a_log_is_said() {
    let world = World::start();
    std::fs::create_dir_all(log(&world)).expect("in the way");
    world.check(&["store", "create"], 0, &[]);
    let why = ["data/audit.jsonl isn't a regular file; set audit.file"];
    world.check(&["check"], 1, &why);
    world.check(&["run"], 1, &why);
    world.edit(
        "[proxy]",
        "[audit]\nfile = \"far/away/audit.jsonl\"\n[proxy]",
    );
    let why = [
        "far/away/audit.jsonl can't be opened",
        "create its directory",
    ];
    world.check(&["check"], 1, &why);
    world.check(&["run"], 1, &why);
    world.edit("file = \"far/away/audit.jsonl\"", "file = \"\"");
    world.check(&["check"], 0, &["is good"]);
    world.check(&VERIFY, 1, &["audit.file is empty"]);
}

/// Posts notifications one after the other.
async fn load(program: &Program, platform: &Platform, ids: impl Iterator<Item = String>) {
    let client = client();
    for id in ids {
        let request = Request::post(format!("{}/alipay/notify", program.webhook))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::from(platform.payment(&id, &id).body));
        let reply = client.send(request.expect("a request"), PATIENCE).await;
        assert_eq!(reply.expect("answered").status, StatusCode::OK, "{id}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_program_leaves_a_log_that_verifies_and_goes_on() {
    let kills = std::env::var("AUDIT_KILLS").map_or(KILLS, |n| n.parse().expect("a number"));
    let installation = Installation::new("http://127.0.0.1:9/");
    let platform = Platform::new();
    for run in 0..kills {
        let program = installation.start();
        program.ready(&client()).await;
        // Each time at another point of a group.
        let ids = (0..60 + run % 20).map(|count| format!("kill-{run}-{count}"));
        load(&program, &platform, ids).await;
        program.kill();
        let report = installation.check(&["audit", "verify", "--json"], 0);
        assert!(report.contains("\"good\": true"), "{report}");
    }
    let log = text(&installation.path().join("data/audit.jsonl"));
    assert_eq!(log.matches("\"outcome\":\"started\"").count(), kills);
    let told = log.matches("\"event\":\"notification\"").count();
    assert!(told > kills * 20, "{told}");
}

/// Tells calls until the log is as large as `size`, but for a few lines.
async fn fill(installation: &Installation, size: u64) {
    let path = installation.path().join("data/audit.jsonl");
    let store: Arc<dyn Store> = Arc::new(installation.open_store());
    let options = AuditOptions {
        path: path.clone(),
        retain: Duration::from_hours(24),
        key: Some(ChainKey::derive(installation.key().expose().as_bytes())),
        clock: Arc::new(SystemClock),
        max_size: None,
        by: None,
        metrics: AuditMetrics::register(&Registry::new()).expect("registered"),
        store,
    };
    let audit = Audit::open(options).await.expect("opened");
    let length = || std::fs::metadata(&path).map_or(0, |there| there.len());
    let padding = "x".repeat(200);
    while length() + 4096 < size {
        let lines = ((size - 4096 - length()) / 500).clamp(1, 4000);
        for _ in 0..lines {
            audit.tell(|| Entry::new(Event::Call, "v2", "ok").with("method", &padding));
        }
        audit.finished().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_no_notification_and_leaves_no_half_a_line() {
    const LIMIT: u64 = 8 << 20;
    let installation = Installation::new("http://127.0.0.1:9/");
    fill(&installation, LIMIT).await;
    // No file may become larger: the log is almost, the store is far from it.
    let program = installation.start_by(|program| {
        let mut shell = Command::new("sh");
        let limited = format!(
            "trap '' XFSZ; ulimit -f {}; exec {program} run",
            LIMIT / 512
        );
        shell.args(["-c", &limited]).stdin(Stdio::null());
        shell
    });
    let platform = Platform::new();
    program.ready(&client()).await;
    load(
        &program,
        &platform,
        (0..40).map(|count| format!("full-{count}")),
    )
    .await;
    assert_eq!(program.terminate(), Some(0));
    let log = installation.path().join("data/audit.jsonl");
    let whole = text(&log);
    assert!(whole.len() <= usize::try_from(LIMIT).expect("small") && whole.ends_with('\n'));
    let told = whole.matches("\"event\":\"notification\"").count();
    assert!(told < 40, "the disk was never full");
    installation.check(&VERIFY, 0);
    let program = installation.start();
    program.ready(&client()).await;
    assert_eq!(program.terminate(), Some(0));
    installation.check(&VERIFY, 0);
}
