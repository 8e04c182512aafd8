//! The file of the store is moved away, removed or replaced while the program runs: nothing is acknowledged into it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use alipay_sidecar::simulator::{DEFAULT_APP_ID, FIRST_AUTH_APP_ID, SECOND_AUTH_APP_ID};
use alipay_sidecar::store::Inbox;
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;

use crate::cli_live;
use crate::support::program::{Installation, Program};
use crate::support::raw::authority;
use crate::support::signed::{Platform, Signed};
use crate::support::{PATIENCE, TestSidecar, client, header, json, text};

/// Nobody takes deliveries: what was acknowledged stays pending.
const NO_BACKEND: &str = "http://127.0.0.1:9/";

struct World {
    installation: Installation,
    platform: Platform,
}

impl World {
    fn new() -> Self {
        Self {
            installation: Installation::new(NO_BACKEND),
            platform: Platform::new(),
        }
    }

    async fn start(&self) -> Program {
        let program = self.installation.start();
        program.ready(&client()).await;
        program
    }

    fn payment(&self, notify_id: &str) -> Signed {
        self.platform.payment(notify_id, notify_id)
    }

    /// Posts a notification; tells whether it was acknowledged. If not, then in Alipay's words.
    async fn post(&self, program: &Program, notify_id: &str) -> bool {
        let request = Request::post(format!("{}/alipay/notify/orders", program.webhook))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::<Bytes>::from(self.payment(notify_id).body));
        let answer = client()
            .send(request.expect("a request"), PATIENCE)
            .await
            .expect("answered");
        match (answer.status, text(&answer).as_str()) {
            (StatusCode::OK, "success") => true,
            (StatusCode::SERVICE_UNAVAILABLE, "fail") => false,
            other => panic!("{other:?}"),
        }
    }

    /// Has the program that runs give a copy of its store: the verb ends with `code` and says `text`.
    fn back_up(&self, program: &Program, to: &str, code: i32, text: &str) {
        let mut verb = cli_live::command(self.installation.path(), &["store", "backup", to]);
        verb.env("ALIPAY_SIDECAR_ADMIN__LISTEN", authority(&program.admin));
        let output = verb.output().expect("started");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{to}: {said}");
        assert!(said.contains(text), "{to}: {said}");
    }

    /// Every notification that the store holds; no program runs.
    async fn stored(&self) -> BTreeSet<String> {
        let store = self.installation.open_store();
        let entries = store.entries(None, None, usize::MAX).await;
        let entries = entries.expect("readable").into_iter();
        entries.filter_map(|(entry, _)| entry.notify_id).collect()
    }
}

/// Says no, and why.
async fn is_not_ready(program: &Program) {
    let request = Request::get(format!("{}/readyz", program.admin)).body(Full::<Bytes>::default());
    let answer = client()
        .send(request.expect("a request"), PATIENCE)
        .await
        .expect("answered");
    let said = json(&answer);
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{said}");
    assert_eq!(said["store_writable"], false, "{said}");
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn rename(from: &Path, to: &Path) {
    fs::rename(from, to).expect("renamed");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_acknowledged_while_the_path_leads_elsewhere_and_it_goes_on_with_the_same_file()
{
    let world = World::new();
    let path = world.installation.store_path();
    let away = path.with_file_name("away.redb");
    let program = world.start().await;
    assert!(world.post(&program, "before").await);
    rename(&path, &away);
    for _ in 0..2 {
        assert!(!world.post(&program, "lost").await);
        // Nor is one acknowledged again that stands in it.
        assert!(!world.post(&program, "before").await);
        is_not_ready(&program).await;
    }
    // What is put there is another one, though it says of itself that it is the same, and opens by the same key.
    fs::copy(&away, &path).expect("copied");
    let copy = fs::read(&path).expect("there");
    for _ in 0..2 {
        assert!(!world.post(&program, "lost").await);
        is_not_ready(&program).await;
    }
    assert!(fs::read(&path).expect("there") == copy, "it was adopted");
    rename(&away, &path);
    program.ready(&client()).await;
    assert!(world.post(&program, "after").await);
    assert!(world.post(&program, "before").await);
    let (code, log) = program.terminate_and_tell();
    assert_eq!(code, Some(0));
    for (said, times) in [("leads to nothing", 1), ("leads to another file", 1)] {
        let lines = log.lines().filter(|line| line.contains("\"ERROR\""));
        let lines: Vec<_> = lines.filter(|line| line.contains(said)).collect();
        assert_eq!(lines.len(), times, "{said}: {lines:#?}");
    }
    assert_eq!(world.stored().await, set(&["before", "after"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_file_takes_nothing_and_is_backed_up_before_the_end() {
    let world = World::new();
    let path = world.installation.store_path();
    let program = world.start().await;
    assert!(world.post(&program, "before").await);
    fs::remove_file(&path).expect("removed");
    assert!(!world.post(&program, "later").await);
    is_not_ready(&program).await;
    // All of it can still be read.
    world.back_up(&program, "b.redb", 0, "backed up to b.redb");
    program.kill();
    assert!(!path.exists(), "it made another");
    world.installation.check(&["run"], 1);
    world.installation.check(&["store", "restore", "b.redb"], 0);
    assert_eq!(world.stored().await, set(&["before"]));
    let program = world.start().await;
    assert!(world.post(&program, "before").await);
    assert!(world.post(&program, "later").await);
    assert_eq!(program.terminate(), Some(0));
    assert_eq!(world.stored().await, set(&["before", "later"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_bought_for_a_file_that_went_while_nothing_was_written() {
    let sidecar = TestSidecar::start().await;
    let path = &sidecar.config.store.path;
    let away = path.with_file_name("away.redb");
    rename(path, &away);
    wait_until_ready_is(&sidecar, StatusCode::SERVICE_UNAVAILABLE).await;
    let code = sidecar.simulator.app_auth_code(None, &[SECOND_AUTH_APP_ID]);
    let body = serde_json::json!({ "code": code.expect("a known merchant") }).to_string();
    let exchange = format!("/api/apps/{DEFAULT_APP_ID}/exchange");
    let refresh = format!("/api/merchants/{DEFAULT_APP_ID}/{FIRST_AUTH_APP_ID}/refresh");
    let buy = [(exchange, body), (refresh, String::new())];
    for (target, body) in &buy {
        let answer = sidecar.admin(Method::POST, target, body.clone()).await;
        let said = text(&answer);
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{said}");
        assert_eq!(header(&answer, "alipay-sidecar-error"), "store-unavailable");
    }
    assert!(sidecar.simulator.requests().is_empty(), "it asked Alipay");
    rename(&away, path);
    wait_until_ready_is(&sidecar, StatusCode::OK).await;
    for (target, body) in &buy {
        let answer = sidecar.admin(Method::POST, target, body.clone()).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", text(&answer));
    }
}

async fn wait_until_ready_is(sidecar: &TestSidecar, status: StatusCode) {
    let since = Instant::now();
    while sidecar.admin(Method::GET, "/readyz", "").await.status != status {
        assert!(since.elapsed() < PATIENCE, "it never was {status}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_backup_is_made_in_the_place_of_the_store_itself() {
    let world = World::new();
    let path = world.installation.store_path();
    let folder = world.installation.path();
    for folder_name in ["other", "deep"] {
        fs::create_dir(folder.join(folder_name)).expect("made");
    }
    symlink(folder, folder.join("other/link")).expect("linked");
    symlink(&path, folder.join("link.redb")).expect("linked");
    fs::hard_link(&path, folder.join("hard.redb")).expect("linked");
    let names = [
        "store.redb",
        "./store.redb",
        "deep/../store.redb",
        "other/link/store.redb",
        "link.redb",
        "hard.redb",
    ];
    let before = names_in(folder);
    let itself = "is the place of the store itself";
    for name in names {
        let said = world.installation.check(&["store", "backup", name], 1);
        assert!(said.contains(itself), "{name}: {said}");
    }
    assert_eq!(names_in(folder), before);
    let program = world.start().await;
    let before = names_in(folder);
    for name in names {
        world.back_up(&program, name, 1, itself);
    }
    assert_eq!(names_in(folder), before);
    // Nor where it stood.
    rename(&path, &folder.join("away.redb"));
    for name in names.iter().filter(|name| **name != "hard.redb") {
        world.back_up(&program, name, 1, itself);
    }
    assert!(!path.exists());
    world.back_up(&program, "hard.redb", 1, "exists already");
    world.back_up(&program, "other/store.redb", 0, "backed up");
    rename(&folder.join("away.redb"), &path);
    assert!(world.post(&program, "after").await);
    assert_eq!(program.terminate(), Some(0));
    assert_eq!(world.stored().await, set(&["after"]));
}

fn names_in(folder: &Path) -> BTreeSet<OsString> {
    let names = fs::read_dir(folder).expect("readable");
    names
        .map(|name| name.expect("a name").file_name())
        .collect()
}
