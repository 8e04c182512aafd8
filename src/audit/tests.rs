//! The log as a whole, on a real disk.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;

use super::anchor;
use super::chain::ChainKey;
use super::entry::{Entry, Event};
use super::error::AuditError;
use super::metrics::AuditMetrics;
use super::verify::{Extent, Report, verify};
use super::{Audit, AuditOptions, Layout, OpenError, QUEUE, all_files};
use crate::clock::ManualClock;
use crate::store::Store;
use crate::store::embedded::{EmbeddedStore, OpenOptions};
use crate::store::seal::StoreKey;

pub(super) const DAY_MS: i64 = 24 * 3600 * 1000;
/// 2026-11-26T00:00:00Z.
const START: i64 = 1_795_651_200_000;
const LAYOUT: Layout = Layout {
    places: QUEUE,
    largest: 1 << 20,
};

/// A place for a log, with a store beside it.
pub(super) struct World {
    directory: tempfile::TempDir,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: ManualClock,
    pub(super) key: Option<ChainKey>,
    pub(super) layout: Layout,
    pub(super) max_size: Option<u64>,
}

impl World {
    pub(super) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, key) = (directory.path().join("store"), StoreKey::generate());
        let clock = ManualClock::new(START);
        let options = OpenOptions {
            path: path.clone(),
            key: key.clone(),
            cache_bytes: 1 << 20,
            clock: Arc::new(clock.clone()),
        };
        EmbeddedStore::create(&path, &key).expect("created");
        Self {
            store: Arc::new(EmbeddedStore::open(options).expect("opened")),
            directory,
            clock,
            key: Some(ChainKey::derive(b"a key")),
            layout: LAYOUT,
            max_size: None,
        }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("logs").join("audit.jsonl")
    }

    pub(super) async fn try_open(&self) -> Result<(Audit, AuditMetrics), OpenError> {
        let metrics = AuditMetrics::register(&Registry::new()).expect("registered");
        let options = self.options(&metrics);
        Ok((Audit::open_as(options, self.layout).await?, metrics))
    }

    fn options(&self, metrics: &AuditMetrics) -> AuditOptions {
        AuditOptions {
            path: self.path(),
            retain: Duration::from_hours(24 * 3),
            max_size: self.max_size,
            by: None,
            key: self.key.clone(),
            clock: Arc::new(self.clock.clone()),
            metrics: metrics.clone(),
            store: Arc::clone(&self.store),
        }
    }

    pub(super) async fn open(&self) -> Audit {
        self.try_open().await.expect("opened").0
    }

    /// A run that tells `count` calls.
    pub(super) async fn run(&self, count: usize) {
        let audit = self.open().await;
        for call in 0..count {
            audit.tell(|| entry(call));
        }
        audit.finished().await;
    }

    pub(super) fn text(&self) -> String {
        fs::read_to_string(self.path()).expect("text")
    }

    pub(super) async fn verify(&self) -> Report {
        let anchored = anchor::kept(&*self.store).await.expect("readable");
        let files = all_files(&self.path()).expect("readable");
        verify(&files, self.key.as_ref(), (Extent::Whole, anchored)).expect("readable")
    }

    pub(super) async fn is_good(&self) {
        let report = self.verify().await;
        assert!(report.good, "{:?}", report.problems);
    }

    pub(super) async fn is_bad(&self, because: &str) {
        let report = self.verify().await;
        let texts: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
        assert!(texts.iter().any(|text| text.contains(because)), "{texts:?}");
    }
}

pub(super) fn entry(call: usize) -> Entry {
    Entry::new(Event::Call, "v2", "ok").with("request_id", &format!("call-{call}"))
}

#[tokio::test]
async fn a_log_verifies_and_only_its_owner_reads_it() {
    let world = World::new();
    world.run(5).await;
    let report = world.verify().await;
    assert!(report.good, "{:?}", report.problems);
    assert_eq!((report.lines, report.authenticated), (6, 6));
    assert_eq!(report.anchored, Some(6));
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&world.path()), 0o600);
    assert_eq!(mode(world.path().parent().expect("a directory")), 0o700);
}

#[tokio::test]
async fn a_chain_goes_on_over_starts_and_torn_ends() {
    let world = World::new();
    world.run(2).await;
    let whole = world.text();
    fs::write(world.path(), format!("{whole}{{\"seq\":4,\"pr")).expect("written");
    let report = world.verify().await;
    assert!(
        report.good && report.remarks[0].contains("isn't finished"),
        "{report:?}"
    );
    world.run(2).await;
    let report = world.verify().await;
    assert!(
        report.good && report.remarks[0].contains("torn by a crash"),
        "{report:?}"
    );
    assert_eq!(report.last.map(|(seq, _)| seq), Some(6));
    let text = world.text();
    assert!(
        text.starts_with(&format!("{whole}{{\"seq\":4,\"pr\n{{\"seq\":4,")),
        "{text}"
    );
    // What a crash left is kept, and vouched for.
    fs::write(world.path(), text.replace("\"pr\n", "\"px\n")).expect("written");
    world.is_bad("no line of an audit log").await;
    fs::write(world.path(), text.replace("{\"seq\":4,\"pr\n", "")).expect("written");
    world.is_bad("what a crash left before it is missing").await;
}

#[tokio::test]
async fn a_line_that_lacks_only_its_end_is_one() {
    let world = World::new();
    world.run(2).await;
    let whole = world.text();
    fs::write(world.path(), whole.trim_end()).expect("written");
    world.is_good().await;
    world.run(1).await;
    world.is_good().await;
    assert!(world.text().starts_with(&whole));
}

#[tokio::test]
async fn lines_cut_off_before_a_start_stay_missing() {
    let world = World::new();
    world.run(5).await;
    let text = world.text();
    let cut: String = text.split_inclusive('\n').take(4).collect();
    fs::write(world.path(), cut).expect("written");
    world.is_bad("lines 5 to 6 are missing at the end").await;
    world.run(1).await;
    world.is_bad("lines 5 to 6 are missing before it").await;
    fs::remove_file(world.path()).expect("removed");
    world.is_bad("lines 1 to 8 are missing at the end").await;
    world.run(1).await;
    world
        .is_bad("lines 1 to 8, which came before, are missing")
        .await;
}

#[tokio::test]
async fn files_are_set_aside_by_day_and_size_and_removed_in_time() {
    let mut world = World::new();
    world.layout.largest = 4096;
    let audit = world.open().await;
    for day in 0..6 {
        for call in 0..20 {
            audit.tell(|| entry(day * 20 + call));
            audit.finished().await;
        }
        let report = world.verify().await;
        assert!(report.good, "day {day}: {:?}", report.problems);
        world.clock.advance_ms(DAY_MS);
    }
    let names = all_files(&world.path()).expect("readable");
    let names: Vec<_> = names
        .iter()
        .filter_map(|file| file.file_name()?.to_str())
        .collect();
    assert!(names.len() > 6, "{names:?}");
    assert!(
        names
            .iter()
            .all(|name| *name >= "audit.jsonl.2026-11-28" || *name == "audit.jsonl"),
        "{names:?}"
    );
    assert!(names[0].starts_with("audit.jsonl.2026-11-28."), "{names:?}");
    let first = world.path().with_file_name(names[0]);
    let report = world.verify().await;
    assert!(
        report
            .remarks
            .iter()
            .any(|r| r.contains("as long as `audit.retain`")),
        "{report:?}"
    );
    // Each file can be looked at alone, too.
    let alone = verify(
        std::slice::from_ref(&first),
        world.key.as_ref(),
        (Extent::Part, None),
    );
    assert!(alone.expect("readable").good);
    // But what was removed by somebody else is missed.
    fs::remove_file(first).expect("removed");
    world.is_bad("which came before, are missing").await;
    drop(audit);
}

#[tokio::test]
async fn a_file_that_is_taken_away_is_begun_anew() {
    let world = World::new();
    let audit = world.open().await;
    audit.tell(|| entry(1));
    audit.finished().await;
    fs::rename(world.path(), world.path().with_extension("jsonl.1")).expect("renamed");
    audit.tell(|| entry(2));
    audit.finished().await;
    world.is_good().await;
    assert!(world.text().contains("\"outcome\":\"reopened\""));
    // Copied and cut, as log rotation can do it, too.
    fs::copy(world.path(), world.path().with_extension("jsonl.2")).expect("copied");
    fs::write(world.path(), "").expect("cut");
    audit.tell(|| entry(3));
    audit.finished().await;
    world.is_good().await;
    drop(audit);
    world.run(1).await;
    world.is_good().await;
}

#[tokio::test]
async fn what_somebody_else_writes_is_not_taken_for_a_line_and_spoils_none() {
    let world = World::new();
    let audit = world.open().await;
    audit.finished().await;
    let mut file = fs::OpenOptions::new().append(true).open(world.path());
    let foreign = file.as_mut().expect("opened").write_all(b"a foreign line");
    foreign.expect("written");
    audit.tell(|| entry(1));
    audit.finished().await;
    world
        .is_bad("audit.jsonl:2: it is no line of an audit log")
        .await;
    let report = world.verify().await;
    assert_eq!((report.lines, report.problem_count), (2, 1), "{report:?}");
    fs::write(world.path().with_extension("jsonl.gz"), "compressed").expect("written");
    assert_eq!(all_files(&world.path()).expect("readable"), [world.path()]);
}

#[tokio::test]
async fn while_the_disk_refuses_lines_wait_and_what_is_lost_is_told() {
    let mut world = World::new();
    world.layout.places = 10;
    let (audit, metrics) = world.try_open().await.expect("opened");
    audit.finished().await;
    let away = world.path().with_extension("jsonl.away");
    fs::rename(world.path(), &away).expect("renamed");
    fs::create_dir(world.path()).expect("in the way");
    audit.tell(|| entry(0));
    // Who waits for the end doesn't wait for this disk.
    audit.finished().await;
    assert_eq!(metrics.lost.get(), 1);
    for call in 0..25 {
        audit.tell(|| entry(call));
    }
    // Some may be in hand, the queue is full, the others are lost.
    assert!(metrics.lost.get() >= 6, "{}", metrics.lost.get());
    fs::remove_dir(world.path()).expect("removed");
    fs::rename(&away, world.path()).expect("renamed");
    audit.finished().await;
    let (text, lost) = (world.text(), metrics.lost.get());
    assert_eq!(told_lost(&text), lost, "{text}");
    world.is_good().await;
    let calls = u64::try_from(text.matches("\"event\":\"call\"").count()).expect("few");
    assert_eq!(calls + lost, 26);
}

/// How many lines the log says that it lost.
fn told_lost(text: &str) -> u64 {
    let counts = text.lines().filter_map(|line| {
        let (_, count) = line.split_once("\"outcome\":\"lost\",\"lines\":")?;
        count.split(',').next()?.parse::<u64>().ok()
    });
    counts.sum()
}

#[tokio::test]
async fn an_end_does_not_wait_for_a_disk_that_refuses() {
    let world = World::new();
    let (audit, metrics) = world.try_open().await.expect("opened");
    audit.finished().await;
    fs::remove_file(world.path()).expect("removed");
    fs::create_dir(world.path()).expect("in the way");
    audit.tell(|| entry(1));
    audit.finished().await;
    assert_eq!(metrics.lost.get(), 1);
    drop(audit);
}

#[tokio::test]
async fn who_only_looks_has_nothing_given_up() {
    let world = World::new();
    let (audit, metrics) = world.try_open().await.expect("opened");
    audit.finished().await;
    let away = world.path().with_extension("jsonl.away");
    fs::rename(world.path(), &away).expect("renamed");
    fs::create_dir(world.path()).expect("in the way");
    audit.tell(|| entry(1));
    audit.settled().await;
    audit.tell(|| entry(2));
    assert_eq!(metrics.lost.get(), 0);
    fs::remove_dir(world.path()).expect("removed");
    fs::rename(&away, world.path()).expect("renamed");
    audit.finished().await;
    assert_eq!(metrics.lost.get(), 0);
    assert_eq!(world.text().matches("\"event\":\"call\"").count(), 2);
    world.is_good().await;
}

#[tokio::test]
async fn what_a_disk_refused_is_written_where_the_log_moves_to() {
    let world = World::new();
    let (audit, metrics) = world.try_open().await.expect("opened");
    audit.finished().await;
    fs::remove_file(world.path()).expect("removed");
    fs::create_dir(world.path()).expect("in the way");
    for call in 0..2000 {
        audit.tell(|| entry(call));
    }
    let next = world.path().with_file_name("next.jsonl");
    let options = AuditOptions {
        path: next.clone(),
        ..world.options(&metrics)
    };
    audit.move_to(Some(&options)).await.expect("moved");
    audit.finished().await;
    assert_eq!(metrics.lost.get(), 0);
    let text = fs::read_to_string(next).expect("readable");
    assert_eq!(text.matches("\"event\":\"call\"").count(), 2000);
}

#[tokio::test]
async fn one_process_writes_a_log_and_says_what_is_wrong() {
    let world = World::new();
    let audit = world.open().await;
    let second = world.try_open().await.expect_err("locked");
    assert!(
        matches!(second, OpenError::Audit(AuditError::Locked { .. })),
        "{second}"
    );
    drop(audit);
    drop(world.open().await);
    fs::remove_file(world.path()).expect("removed");
    fs::create_dir(world.path()).expect("in the way");
    let error = world.try_open().await.expect_err("a directory").to_string();
    assert!(error.contains("isn't a regular file"), "{error}");
    let nowhere = super::probe(Path::new("/nonexistent/deep/audit.jsonl"));
    let error = nowhere.expect_err("nowhere").to_string();
    assert!(error.contains("create its directory"), "{error}");
    super::probe(&world.path().with_file_name("other.jsonl")).expect("writable");
    assert_eq!(
        fs::read_dir(world.path().parent().expect("there"))
            .expect("readable")
            .count(),
        1
    );
}

#[tokio::test]
async fn a_flood_of_strangers_becomes_a_few_lines() {
    let world = World::new();
    let audit = world.open().await;
    for _ in 0..100_000 {
        audit.tell_of_stranger(|| Entry::new(Event::Notification, "other", "forged"));
    }
    audit.finished().await;
    world.clock.advance_ms(60_000);
    drop(audit);
    let text = world.text();
    assert_eq!(text.matches("forged").count(), 6, "{text}");
    assert!(text.contains("\"folded\":99995"), "{text}");
    world.is_good().await;
}

#[tokio::test]
async fn what_many_threads_tell_is_written_or_counted() {
    let mut world = World::new();
    world.layout.places = 1000;
    let (audit, metrics) = world.try_open().await.expect("opened");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let audit = &audit;
            scope.spawn(move || {
                (0..5000).for_each(|call| audit.tell(|| entry(thread * 5000 + call)))
            });
        }
    });
    audit.finished().await;
    let (text, lost) = (world.text(), metrics.lost.get());
    let written = u64::try_from(text.matches("\"event\":\"call\"").count()).expect("few");
    assert_eq!(written + lost, 20_000);
    assert_eq!(told_lost(&text), lost);
    world.is_good().await;
}
