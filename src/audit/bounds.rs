//! How large the log becomes as a whole, and what goes then.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use super::all_files;
use super::chain::ChainKey;
use super::tests::{DAY_MS, World, entry};

/// The bound of all files, and of one.
const MOST: u64 = 32 << 10;
const LARGEST: u64 = MOST / 8;
/// By how much the file that is written may be larger: the lines of one write.
const ONE_WRITE: u64 = 1024;

fn bounded() -> World {
    let mut world = World::new();
    world.layout.largest = LARGEST;
    world.max_size = Some(MOST);
    world
}

fn size(world: &World) -> u64 {
    let files = all_files(&world.path()).expect("readable");
    let sizes = files
        .iter()
        .map(|file| fs::metadata(file).expect("there").len());
    sizes.sum()
}

/// Tells so many calls, each written by itself; gives how many lines went before their time, and
/// looks after each write how large the log is, without what was put there.
async fn tell(world: &World, count: usize, put_there: u64) -> u64 {
    let (audit, metrics) = world.try_open().await.expect("opened");
    for call in 0..count {
        audit.tell(|| entry(call));
        audit.finished().await;
        let size = size(world) - put_there;
        assert!(size <= MOST + ONE_WRITE, "{size} after call {call}");
    }
    // Its end looks once more.
    drop(audit);
    metrics.displaced.get()
}

/// The log is good as it is, and begins with the line after those that went.
async fn begins_after(world: &World, displaced: u64) {
    let report = world.verify().await;
    assert!(report.good, "{:?}", report.problems);
    assert_eq!(report.first.map(|(seq, _)| seq), Some(displaced + 1));
    let said = report.remarks.iter();
    let mut said = said.filter(|remark| remark.contains("`audit.max_size`"));
    assert!(said.next().is_some(), "{:?}", report.remarks);
}

#[tokio::test]
async fn the_oldest_go_when_all_become_too_large_and_the_log_says_so() {
    let world = bounded();
    let displaced = tell(&world, 400, 0).await;
    assert!(displaced > 200, "{displaced}");
    // Nearly all of the room is used.
    let least = MOST - 3 * LARGEST;
    assert!(size(&world) >= least, "{}", size(&world));
    begins_after(&world, displaced).await;
    let whole: String = all_files(&world.path())
        .expect("readable")
        .iter()
        .map(|file| fs::read_to_string(file).expect("text"))
        .collect();
    assert!(whole.contains("\"because\":\"max_size\""), "{whole}");
    // A start goes by the bound of now.
    let mut world = world;
    world.max_size = Some(MOST / 2);
    let (audit, metrics) = world.try_open().await.expect("opened");
    audit.tell(|| entry(0));
    audit.finished().await;
    audit.tell(|| entry(1));
    audit.finished().await;
    drop(audit);
    assert!(size(&world) <= MOST / 2 + ONE_WRITE, "{}", size(&world));
    begins_after(&world, displaced + metrics.displaced.get()).await;
}

#[tokio::test]
async fn what_a_crash_tore_goes_as_well() {
    let world = bounded();
    tell(&world, 20, 0).await;
    let mut file = fs::OpenOptions::new().append(true).open(world.path());
    let file = file.as_mut().expect("opened");
    file.write_all(b"{\"seq\":").expect("written");
    // What was torn is told of in the next file.
    world.clock.advance_ms(24 * 3600 * 1000);
    let displaced = tell(&world, 400, 0).await;
    assert!(displaced > 200, "{displaced}");
    begins_after(&world, displaced).await;
}

#[tokio::test]
async fn without_a_bound_nothing_goes_before_its_time() {
    let mut world = bounded();
    world.max_size = None;
    let (audit, metrics) = world.try_open().await.expect("opened");
    for call in 0..400 {
        audit.tell(|| entry(call));
        audit.finished().await;
    }
    drop(audit);
    assert_eq!(metrics.displaced.get(), 0);
    assert_eq!(world.verify().await.first.map(|(seq, _)| seq), Some(1));
}

#[tokio::test]
async fn other_limits_are_in_force_at_once() {
    let mut world = bounded();
    world.max_size = None;
    let (audit, metrics) = world.try_open().await.expect("opened");
    for call in 0..200 {
        audit.tell(|| entry(call));
        audit.finished().await;
    }
    // The file that is written is a new one, and far from its end.
    world.clock.advance_ms(DAY_MS);
    let tell = async |call| {
        audit.tell(|| entry(call));
        audit.finished().await;
    };
    tell(200).await;
    // That a file was set aside is looked at with the line after it.
    tell(201).await;
    let before = size(&world);
    assert!(before > MOST, "{before}");
    let three_days = Duration::from_hours(3 * 24);
    audit.keep(three_days, Some(MOST));
    tell(202).await;
    let bounded = size(&world);
    assert!(bounded <= MOST, "{bounded}");
    assert!(metrics.displaced.get() > 0);
    // What is left is of yesterday, and of the day that goes on.
    world.clock.advance_ms(DAY_MS);
    tell(203).await;
    tell(204).await;
    let left = all_files(&world.path()).expect("readable").len();
    assert!(left > 3, "{left}");
    audit.keep(Duration::from_hours(24), Some(MOST));
    tell(205).await;
    let files = all_files(&world.path()).expect("readable");
    assert_eq!(files.len(), 2, "{files:?}");
    let report = world.verify().await;
    assert!(report.good, "{:?}", report.problems);
}

/// Puts a file there that has a name of the log's.
fn plant(world: &World, bytes: u64) -> PathBuf {
    let planted = world
        .path()
        .with_file_name("audit.jsonl.2026-11-20.000000000001");
    let file = fs::File::create(&planted).expect("created");
    file.set_len(bytes).expect("made as large");
    planted
}

#[tokio::test]
async fn a_file_that_nobody_vouches_for_has_nothing_removed() {
    let world = bounded();
    let displaced = tell(&world, 50, 0).await;
    assert_eq!(displaced, 0);
    let planted = plant(&world, 10 * MOST);
    let displaced = tell(&world, 20, 10 * MOST).await;
    assert_eq!(displaced, 0);
    assert!(planted.exists(), "it isn't ours to remove");
    fs::remove_file(planted).expect("removed");
    let report = world.verify().await;
    assert!(report.good, "{:?}", report.problems);
}

/// Ends it with a line of the log.
fn end_with(planted: &PathBuf, line: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(planted);
    let file = file.as_mut().expect("opened");
    file.write_all(format!("\n{line}\n").as_bytes())
        .expect("written");
}

#[tokio::test]
async fn a_genuine_end_alone_has_nothing_removed_nor_told_of_what_went_before() {
    let world = bounded();
    tell(&world, 50, 0).await;
    let last = |file: &PathBuf| {
        let text = fs::read_to_string(file).expect("text");
        text.lines().next_back().expect("a line").to_owned()
    };
    // The newest line's: all others would count as gone.
    let planted = plant(&world, 10 * MOST);
    end_with(&planted, &last(&world.path()));
    let bytes = fs::metadata(&planted).expect("there").len();
    assert_eq!(tell(&world, 20, bytes).await, 0);
    fs::remove_file(&planted).expect("removed");
    let report = world.verify().await;
    assert!(report.good, "{:?}", report.problems);
    // That of one that went.
    let all = all_files(&world.path()).expect("readable");
    let (first, ended) = (all[0].clone(), last(&all[0]));
    fs::remove_file(first).expect("removed");
    let planted = plant(&world, 10 * MOST);
    end_with(&planted, &ended);
    let bytes = fs::metadata(&planted).expect("there").len();
    assert_eq!(tell(&world, 20, bytes).await, 0);
    assert!(planted.exists());
    fs::remove_file(planted).expect("removed");
    assert!(!world.verify().await.good, "what went is missing");
}

#[tokio::test]
async fn files_of_an_earlier_key_go_first_where_later_lines_bind_them() {
    let mut world = bounded();
    let before = tell(&world, 150, 0).await;
    world.key = Some(ChainKey::derive(b"another key"));
    let after = tell(&world, 150, 0).await;
    assert!(before > 0 && after > 0, "{before} {after}");
    begins_after(&world, before + after).await;
}
