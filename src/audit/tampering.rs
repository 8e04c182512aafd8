//! Whatever is done to a log shows.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;

use super::anchor;
use super::chain::{ChainKey, Head};
use super::tests::World;
use super::verify::{Extent, Verifier};

/// What verifies of `bytes` as one file.
fn judge(bytes: &[u8], key: Option<&ChainKey>, anchored: Option<Head>) -> bool {
    let mut verifier = Verifier::new(key, anchored);
    let read = verifier.file(Path::new("audit.jsonl"), bytes);
    read.expect("readable");
    verifier.end(Extent::Whole).good
}

/// A log of some lines, and the head that the store keeps.
async fn log(lines: usize) -> (Vec<u8>, ChainKey, Head) {
    let world = World::new();
    world.run(lines - 1).await;
    let bytes = fs::read(world.path()).expect("there");
    let head = anchor::kept(&*world.store).await.expect("readable");
    let key = world.key.clone().expect("a key");
    (bytes, key, head.expect("kept"))
}

#[tokio::test]
async fn every_bit_of_every_line_counts() {
    let (bytes, key, head) = log(4).await;
    assert!(judge(&bytes, Some(&key), Some(head)));
    let last = bytes[..bytes.len() - 1]
        .iter()
        .rposition(|b| *b == b'\n')
        .expect("lines");
    for at in 0..bytes.len() - 1 {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << bit;
            let found = !judge(&changed, Some(&key), None);
            assert!(found, "byte {at}, bit {bit}");
            // Without a key, each line vouches for the one before.
            let found = !judge(&changed, None, None);
            assert!(found || at > last, "byte {at}, bit {bit}, without a key");
        }
    }
}

#[tokio::test]
async fn lines_removed_repeated_swapped_or_cut_off_are_missed() {
    let (bytes, key, head) = log(6).await;
    let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
    let is_found = |lines: &[&[u8]], what: &str| {
        assert!(!judge(&lines.concat(), Some(&key), Some(head)), "{what}");
    };
    for at in 0..lines.len() {
        let mut removed = lines.clone();
        removed.remove(at);
        is_found(&removed, &format!("line {at} removed"));
        let mut repeated = lines.clone();
        repeated.insert(at, lines[at]);
        is_found(&repeated, &format!("line {at} repeated"));
        let mut inserted = lines.clone();
        inserted.insert(at, b"\n");
        is_found(&inserted, &format!("an empty line before {at}"));
        let mut foreign = lines.clone();
        foreign.insert(
            at,
            b"{\"seq\":3,\"prev\":\"\",\"time\":\"\",\"event\":\"call\",\"outcome\":\"ok\"}\n",
        );
        is_found(&foreign, &format!("a foreign line before {at}"));
        is_found(&lines[..at], &format!("cut before {at}"));
        for other in 0..at {
            let mut swapped = lines.clone();
            swapped.swap(at, other);
            is_found(&swapped, &format!("lines {at} and {other} swapped"));
        }
    }
    // What was cut within a line is missed as well.
    for at in 0..bytes.len() - 1 {
        let is_whole = at == bytes.len() - 1;
        assert_eq!(
            judge(&bytes[..at], Some(&key), Some(head)),
            is_whole,
            "cut at {at}"
        );
    }
}

#[tokio::test]
async fn a_chain_written_anew_lacks_the_key() {
    let world = World::new();
    world.run(3).await;
    let mut forger = World::new();
    forger.key = Some(ChainKey::derive(b"another key"));
    forger.run(3).await;
    fs::copy(forger.path(), world.path()).expect("copied");
    assert!(judge(&fs::read(world.path()).expect("there"), None, None));
    world.is_bad("under another key").await;
    let mut nobody = World::new();
    nobody.key = None;
    nobody.run(3).await;
    fs::copy(nobody.path(), world.path()).expect("copied");
    world.is_bad("without a key").await;
}

#[tokio::test]
async fn a_new_store_key_vouches_for_what_is_under_the_old_one() {
    let mut world = World::new();
    world.run(3).await;
    world.key = Some(ChainKey::derive(b"a new key"));
    world.is_bad("under another key").await;
    world.run(3).await;
    let report = world.verify().await;
    assert!(report.good, "{:?}", report.problems);
    assert_eq!((report.lines, report.authenticated), (8, 4));
    let changed = world.text().replace("call-1", "call-7");
    fs::write(world.path(), changed).expect("written");
    world.is_bad("doesn't follow").await;
}

#[tokio::test]
async fn whatever_is_done_to_a_log_shows() {
    let (bytes, key, head) = log(5).await;
    let edit = (any::<Index>(), any::<u8>(), 0..4_u8);
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let edits = prop::collection::vec(edit, 1..6);
    let shown = runner.run(&edits, |edits| {
        let changed = edited(&bytes, &edits);
        // But for the end of the last line, which a crash may take.
        let is_same = changed == bytes || changed == bytes[..bytes.len() - 1];
        prop_assert_eq!(judge(&changed, Some(&key), Some(head)), is_same);
        Ok(())
    });
    shown.expect("every edit shows");
}

fn edited(bytes: &[u8], edits: &[(Index, u8, u8)]) -> Vec<u8> {
    let mut changed = bytes.to_vec();
    for (at, byte, what) in edits {
        if changed.is_empty() {
            break;
        }
        let at = at.index(changed.len());
        match what {
            0 => changed[at] = *byte,
            1 => changed.insert(at, *byte),
            2 => drop(changed.remove(at)),
            _ => changed.truncate(at),
        }
    }
    changed
}
