//! Who can write the files, but has no key, can't have the next start vouch for what he wrote.

use std::fs;
use std::path::PathBuf;

use super::anchor;
use super::chain::{self, ChainKey, Head};
use super::entry::{Entry, Event};
use super::files;
use super::tests::{DAY_MS, World, entry};

/// What a forger does to the file, given what it holds, and the head of its chain.
type Forge = fn(&str, Head) -> String;

const FORGERIES: [(&str, Forge); 10] = [
    ("all replaced by one line without a key", |_, head| {
        raw(head.seq + 1, head.seq, "null")
    }),
    ("all replaced by one line of a foreign key", |_, head| {
        raw(head.seq + 1, head.seq, "\"01234567\"")
    }),
    ("all replaced by one line far away", |_, head| {
        raw(u64::MAX, head.seq, "null")
    }),
    ("all replaced by a forger's chain", |_, head| {
        chained(head, Some(&forgers_key()), &[retired(head.seq), entry(7)])
    }),
    ("a line without a key behind the end", |text, head| {
        text.to_owned() + &chained(head, None, &[entry(7)])
    }),
    ("another beginning behind the end", |text, head| {
        let begun = Entry::new(Event::Audit, "log", "started").without("key");
        text.to_owned() + &chained(head, None, &[begun, entry(7)])
    }),
    ("a forger's lines behind the end", |text, head| {
        let key = forgers_key();
        let begun = Entry::new(Event::Audit, "log", "started").with("key", key.id());
        text.to_owned() + &chained(head, Some(&key), &[begun, entry(7)])
    }),
    (
        "lines at the beginning removed, and said to be",
        |text, head| {
            let left: String = text.split_inclusive('\n').skip(2).collect();
            let begun = retired(2).without("key");
            left + &chained(head, None, &[begun])
        },
    ),
    ("the last number there is, behind the end", |text, head| {
        text.to_owned() + &raw(u64::MAX, head.seq, "null")
    }),
    ("the last but one, behind the end", |text, head| {
        text.to_owned() + &raw(u64::MAX - 1, head.seq, "null")
    }),
];

fn forgers_key() -> ChainKey {
    ChainKey::derive(b"a forger's key")
}

fn retired(through: u64) -> Entry {
    Entry::new(Event::Audit, "log", "retired").with_number("through", through)
}

/// A line that says that all up to `through` went, of another `key`.
fn raw(seq: u64, through: u64, key: &str) -> String {
    format!(
        "{{\"seq\":{seq},\"prev\":\"x\",\"time\":\"2026-11-26T00:00:00.000Z\",\"event\":\"audit\",\
         \"kind\":\"log\",\"outcome\":\"retired\",\"key\":{key},\"through\":{through}}}\n"
    )
}

/// Lines that follow from `head`.
fn chained(mut head: Head, key: Option<&ChainKey>, entries: &[Entry]) -> String {
    let mut text = String::new();
    for entry in entries {
        let (line, next) = chain::line(head, key, (1_795_651_200_000, entry));
        text += std::str::from_utf8(&line).expect("text");
        text.push('\n');
        head = next;
    }
    text
}

/// The head of what is in the file.
fn head(world: &World) -> Head {
    let tail = files::Tail::read(&world.path(), chain::Belief::ALL).expect("readable");
    tail.last.expect("a line").0
}

/// A log that was stopped, or killed before the store knew its last lines.
async fn world(is_killed: bool) -> World {
    let world = World::new();
    world.run(4).await;
    if is_killed {
        killed(&world).await;
        let kept = anchor::kept(&*world.store).await.expect("readable");
        assert!(kept.expect("kept").seq < head(&world).seq);
    }
    world.is_good().await;
    world
}

async fn killed(world: &World) {
    let audit = world.open().await;
    audit.tell(|| entry(8));
    drop(audit);
}

#[tokio::test]
async fn what_is_forged_shows_before_and_after_a_start() {
    for is_killed in [false, true] {
        for (what, forge) in FORGERIES {
            let world = world(is_killed).await;
            fs::write(world.path(), forge(&world.text(), head(&world))).expect("written");
            let is_shown = async |when: &str| {
                let report = world.verify().await;
                assert!(!report.good, "{what}, killed: {is_killed}, {when}");
            };
            is_shown("before a start").await;
            world.run(1).await;
            is_shown("after a start").await;
            world.run(1).await;
            is_shown("after another start").await;
        }
    }
}

#[tokio::test]
async fn lines_that_the_store_does_not_know_yet_can_not_be_written_anew() {
    let world = world(true).await;
    let anchored = anchor::kept(&*world.store).await.expect("readable");
    let (anchored, text) = (anchored.expect("kept"), world.text());
    let known = usize::try_from(anchored.seq).expect("few");
    let left: String = text.split_inclusive('\n').take(known).collect();
    let begun = Entry::new(Event::Audit, "log", "started").without("key");
    let forged = chained(anchored, None, &[begun, entry(7)]);
    fs::write(world.path(), left.clone() + &forged).expect("written");
    world.is_bad("without a key").await;
    world.run(1).await;
    world
        .is_bad("2 lines stood at the end that were not written under its store key")
        .await;
    assert!(world.text().contains("\"unvouched\":2"));
    // The chain went on behind what the store knows, and tells what stood there for good.
    let mended = world.text().replace(&forged, "");
    fs::write(world.path(), mended).expect("written");
    assert_eq!(world.verify().await.problem_count, 1);
}

#[tokio::test]
async fn a_new_store_key_right_after_a_crash_vouches_for_nothing_it_can_not_know() {
    let mut world = world(true).await;
    world.key = Some(ChainKey::derive(b"a new key"));
    world.run(1).await;
    world.is_bad("nothing vouches for them").await;
}

/// The files that were set aside.
fn aside(world: &World) -> Vec<PathBuf> {
    let mut files = super::all_files(&world.path()).expect("readable");
    files.retain(|file| *file != world.path());
    files
}

#[tokio::test]
async fn a_file_that_is_named_as_an_old_one_is_not_taken_for_one() {
    let world = World::new();
    let audit = world.open().await;
    for day in 0..2 {
        audit.tell(|| entry(day));
        audit.finished().await;
        world.clock.advance_ms(DAY_MS);
    }
    let recent = aside(&world);
    assert_eq!(recent.len(), 1);
    let disguised = recent[0].with_file_name("audit.jsonl.2020-01-01.000000000001");
    fs::rename(&recent[0], &disguised).expect("renamed");
    let invented = recent[0].with_file_name("audit.jsonl.2020-01-01.000000000002");
    let line = raw(4, 4, "null").replace("2026-11-26", "2020-01-01");
    fs::write(&invented, line).expect("written");
    audit.tell(|| entry(3));
    audit.finished().await;
    assert!(disguised.exists() && invented.exists());
    assert!(!world.text().contains("\"outcome\":\"retired\""));
    fs::remove_file(invented).expect("removed");
    world.is_good().await;
    fs::remove_file(disguised).expect("removed");
    world.is_bad("which came before, are missing").await;
}

#[tokio::test]
async fn files_of_an_earlier_key_go_in_time_too() {
    let mut world = World::new();
    for _ in 0..2 {
        world.run(2).await;
        world.clock.advance_ms(DAY_MS);
    }
    world.key = Some(ChainKey::derive(b"a new key"));
    for _ in 0..3 {
        world.run(2).await;
        world.clock.advance_ms(DAY_MS);
        world.is_good().await;
    }
    world.run(2).await;
    world.is_good().await;
    let report = world.verify().await;
    assert!(report.first.is_some_and(|(first, _)| first > 1));
}
