//! `audit verify` of the program, and a program that is killed or whose disk is full.

use std::os::unix::fs::MetadataExt as _;
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
use alipay_sidecar::store::seal::StoreKey;
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
    let found = world.check(&VERIFY, 1, &["missing at the end"]);
    let place = found.lines().next().expect("a problem");
    assert!(place.contains("data/audit.jsonl: lines 1 to"), "{found}");
    world.check(
        &["audit", "verify", "nowhere"],
        2,
        &["nowhere isn't a file"],
    );
    std::fs::write(log(&world), whole).expect("written");
    world.check(&VERIFY, 0, &[]);
}

#[test]
fn of_all_secrets_only_the_store_key_is_needed_to_check_a_log() {
    let world = World::start();
    let (sidecar, _) = world.run();
    let import = ["merchant", "import", "merchants.jsonl"];
    world.check(&import, 0, &["2 imported"]);
    // As where they are credentials, or in the environment, of the service alone.
    world.edit("file:keys/app_private_key.pem", "env:APP_KEY");
    world.check(&VERIFY, 0, &["follow from each other"]);
    let log = "data/audit.jsonl";
    world.check(&["audit", "verify", log], 0, &["have a mac of this key"]);
    // Who asks a sidecar that runs needs its token, too.
    world.edit("[admin]\n", "[admin]\ntoken = \"env:ADMIN_TOKEN\"\n");
    world.check(&VERIFY, 78, &["`admin.token`", "ADMIN_TOKEN"]);
    world.check(&["audit", "verify", log], 0, &["have a mac of this key"]);
    assert_eq!(sidecar.terminate(), Some(0));
    world.check(&VERIFY, 0, &["follow from each other"]);
    let key = world.path().join("store.key");
    std::fs::rename(&key, world.path().join("elsewhere")).expect("renamed");
    for verify in [&VERIFY[..], &["audit", "verify", log]] {
        world.check(verify, 78, &["store.key"]);
    }
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
        max_size: None,
        by: None,
        key: Some(ChainKey::derive(installation.key().expose().as_bytes())),
        clock: Arc::new(SystemClock),
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

/// The lines of commands: verb, subject, outcome.
fn commands(log: &str) -> Vec<(String, String, String)> {
    let line = |line: &str| -> Option<(String, String, String)> {
        let line: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        (line["kind"] == "command").then(|| {
            assert!(line["uid"].is_u64(), "{line}");
            (text("action"), text("subject"), text("outcome"))
        })
    };
    log.lines().filter_map(line).collect()
}

#[test]
fn changes_that_are_made_without_a_sidecar_are_told_too() {
    let world = World::start();
    let unknown = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f";
    world.check(&["store", "create"], 0, &[]);
    let import = ["merchant", "import", "merchants.jsonl"];
    world.check(&[&import[..], &["--dry-run"]].concat(), 0, &[]);
    world.check(&["merchant", "list"], 0, &[]);
    assert!(!log(&world).exists(), "nothing was changed");
    world.check(&import, 0, &["2 imported"]);
    world.check(&["merchant", "remove", "2021000000001002"], 0, &[]);
    world.check(&["app", "remove", "2021000000000009"], 1, &["no app"]);
    world.check(&["inbox", "prune"], 0, &[]);
    world.check(&["inbox", "replay", unknown], 1, &[]);
    world.check(&["inbox", "replay", "--state", "dead"], 0, &[]);
    world.check(&["store", "check", "--repair"], 0, &[]);
    world.check(&["store", "backup", "kept.backup"], 0, &[]);
    let restore = ["store", "restore", "kept.backup", "--replace"];
    world.check(&restore, 0, &["restored"]);
    let of_app = "2021000000000001/2021000000001002";
    let expected = [
        ("merchant import", "", "ok"),
        ("merchant remove", of_app, "ok"),
        ("app remove", "2021000000000009", "refused"),
        ("inbox prune", "", "ok"),
        ("inbox replay", unknown, "refused"),
        ("inbox replay", "", "ok"),
        ("store check --repair", "", "ok"),
        ("store restore", "kept.backup", "ok"),
    ];
    let told = commands(&text(&log(&world)));
    let told: Vec<_> = told
        .iter()
        .map(|(verb, subject, outcome)| (verb.as_str(), subject.as_str(), outcome.as_str()))
        .collect();
    assert_eq!(told, expected);
    // What asks Alipay is answered by the same code as `/api`, in the process itself.
    world.check(
        &["token", "query", "--merchant", "2021000000001001"],
        0,
        &[],
    );
    let whole = text(&log(&world));
    assert!(whole.contains("\"path\":\"/api/merchants/"), "{whole}");
    let starts = whole.matches("\"outcome\":\"started\"").count();
    assert_eq!(whole.matches("\"by\":\"command\"").count(), starts);
    let said = world.check(&["audit", "verify", "--json"], 0, &[]);
    let report: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(report["anchored"], report["lines"]);
    // A sidecar goes on with it.
    let (sidecar, _) = world.run();
    world.check(&VERIFY, 0, &["follow from each other"]);
    assert_eq!(sidecar.terminate(), Some(0));
}

#[test]
fn a_log_that_root_begins_belongs_to_whom_its_folder_belongs_to() {
    const SERVICE: u32 = 65_532;
    let world = World::start();
    world.check(&["store", "create"], 0, &[]);
    let folder = world.path().join("data");
    if std::os::unix::fs::chown(&folder, Some(SERVICE), Some(SERVICE)).is_err() {
        crate::support::skipped("only root gives files away, so no log was begun for another user");
        return;
    }
    let import = ["merchant", "import", "merchants.jsonl"];
    world.check(&import, 0, &["2 imported"]);
    let about = std::fs::metadata(log(&world)).expect("begun");
    assert_eq!((about.uid(), about.gid()), (SERVICE, SERVICE));
    assert_eq!(about.mode() & 0o777, 0o600);
}

#[test]
fn what_could_not_be_told_is_not_done() {
    let world = World::start();
    world.check(&["store", "create"], 0, &[]);
    world.check(&["store", "backup", "kept.backup"], 0, &[]);
    std::fs::create_dir_all(log(&world)).expect("in the way");
    world.check(&["merchant", "list"], 0, &[]);
    let why = ["nothing was changed", "isn't a regular file"];
    world.check(&["merchant", "import", "merchants.jsonl"], 1, &why);
    world.check(&["store", "check", "--repair"], 1, &why);
    world.check(
        &["store", "rekey", "--new-key", "file:store.key"],
        0,
        &["already"],
    );
    let restore = ["store", "restore", "kept.backup", "--replace"];
    world.check(&restore, 1, &why);
    let listed = world.check(&["merchant", "list", "--json"], 0, &[]);
    assert!(!listed.contains("auth_app_id"), "{listed}");
    world.edit("[proxy]", "[audit]\nfile = \"\"\n[proxy]");
    let import = ["merchant", "import", "merchants.jsonl"];
    world.check(&import, 0, &["2 imported"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_store_key_right_after_a_crash_leaves_no_line_unproved() {
    let installation = Installation::new("http://127.0.0.1:9/");
    let platform = Platform::new();
    let program = installation.start();
    program.ready(&client()).await;
    let ids = (0..30).map(|count| format!("rekey-{count}"));
    load(&program, &platform, ids).await;
    // The last lines are on disk before an answer is given for long; the store doesn't know them yet.
    let log = installation.path().join("data/audit.jsonl");
    let until = std::time::Instant::now() + PATIENCE;
    while text(&log).matches("\"event\":\"notification\"").count() < 30 {
        assert!(std::time::Instant::now() < until, "lines are written");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    program.kill();
    let old = text(&installation.path().join("store.key"));
    installation.write("new.key", StoreKey::generate().to_base64().expose());
    let rekey = ["store", "rekey", "--new-key", "file:new.key"];
    installation.check(&rekey, 0);
    installation.write("store.key", &text(&installation.path().join("new.key")));
    let report = installation.check(&["audit", "verify", "--json"], 0);
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["anchored"], report["lines"], "{report}");
    let program = installation.start();
    program.ready(&client()).await;
    assert_eq!(program.terminate(), Some(0));
    let said = installation.check(&VERIFY, 0);
    let told = commands(&text(&log));
    let told: Vec<_> = told
        .iter()
        .map(|(verb, _, outcome)| format!("{verb} {outcome}"))
        .collect();
    assert_eq!(told, ["store rekey begun", "store rekey ok"], "{said}");
    assert!(!text(&log).contains("unvouched") && !text(&log).contains(old.trim()));
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
