//! Cuts the power after every operation on the disk, and looks at what a new start finds.
//!
//! A recording disk stands under the real store while it works through a long, mixed list of
//! commits. From the record an image of the disk is made for each moment: with what was not yet
//! synced lost, kept, or torn. Each image is opened as after any crash, and must show exactly what
//! the acknowledged commits made of the store, or these and some of those that were under way: no
//! half of one, no record damaged, and every index true to its records. What is expected is seen on
//! another store, to which the same commits are given one by one. Every kind of change is among them.
//!
//! The control has the same disk lie about fsync: then acknowledged commits must be found missing,
//! so that this test is known to be able to fail.
//!
//! `POWER_CUT_IMAGES=12000` (with `--release`) runs the long form: every operation.

use std::collections::BTreeSet;
use std::sync::Arc;

use alipay_sidecar::clock::ManualClock;
use alipay_sidecar::model::notification::InboxEntry;
use alipay_sidecar::store::embedded::{EmbeddedStore, OpenOptions};
use alipay_sidecar::store::error::StoreError;
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar::store::{Change, Effect, Store};

use crate::changes;
use crate::store::{START, entry};

mod disk;
mod kept;
mod picture;
mod random;
mod workload;

use disk::{Disk, Fsync, Operation, Player, Unsynced};
use picture::picture;
use random::Random;
use workload::{Unit, workload};

/// How many images the short form looks at.
const SHORT: usize = 150;
/// How many the control looks at.
const CONTROL: usize = 80;
/// How many rounds of the workload there are in the short form: some 36 commits each.
const ROUNDS: u32 = 6;
/// How many there are in the long one.
const MANY_ROUNDS: u32 = 20;
/// After so many commits the power goes, and work goes on from what is left.
const UNTIL_CRASH: usize = 80;
/// After so many commits the store is closed and opened as by an operator.
const UNTIL_RESTART: usize = 31;

/// The workload and what each commit of it must lead to.
struct Expected {
    key: StoreKey,
    units: Vec<Unit>,
    /// `pictures[n]` shows the store after the first n units.
    pictures: Vec<Vec<String>>,
    /// The kinds of change that were applied.
    made: BTreeSet<&'static str>,
    fresh: Vec<u8>,
    rounds: u32,
}

impl Expected {
    async fn new(rounds: u32) -> Self {
        let (key, dir) = (
            StoreKey::generate(),
            tempfile::tempdir().expect("a directory"),
        );
        let path = dir.path().join("store.redb");
        EmbeddedStore::create(&path, &key).expect("created");
        let fresh = std::fs::read(&path).expect("readable");
        let store = open(&Disk::new(fresh.clone()), &key).expect("opened");
        let units = workload(rounds);
        let mut pictures = vec![picture(&store, rounds).await.expect("readable")];
        let mut made = BTreeSet::new();
        for unit in &units {
            let effects = unit.apply(&store).await.expect("applied");
            let applied = unit.changes().iter().zip(effects);
            let applied =
                applied.filter(|(_, e)| matches!(e, Effect::Applied | Effect::Displaced(_)));
            made.extend(applied.map(|(change, _)| changes::kind(change)));
            pictures.push(picture(&store, rounds).await.expect("readable"));
        }
        Self {
            key,
            units,
            pictures,
            made,
            fresh,
            rounds,
        }
    }
}

fn open(disk: &Disk, key: &StoreKey) -> Result<EmbeddedStore, StoreError> {
    let options = OpenOptions {
        path: "the disk".into(),
        key: key.clone(),
        cache_bytes: 1 << 20,
        clock: Arc::new(ManualClock::new(START)),
    };
    let disk = disk.clone();
    EmbeddedStore::open_on(options, move || Ok(disk.clone()))
}

/// What was done to a disk between two crashes.
struct Recording {
    bytes: Vec<u8>,
    log: Vec<Operation>,
    marks: Vec<Mark>,
}

/// What was known when so many operations had happened.
struct Mark {
    operations: usize,
    /// So many units were acknowledged.
    acked: usize,
    /// So many had been begun.
    begun: usize,
}

impl Recording {
    /// Works on from what is on the disk, which `done` units have led to.
    async fn make(expected: &Expected, bytes: Vec<u8>, done: usize) -> Self {
        let disk = Disk::new(bytes.clone());
        let mut store = open(&disk, &expected.key).expect("opened");
        let end = expected.units.len().min(done + UNTIL_CRASH);
        let (mut at, mut restart) = (done, done + UNTIL_RESTART);
        let mut marks = vec![Mark {
            operations: 0,
            acked: done,
            begun: done,
        }];
        while at < end {
            let group = group(&expected.units, at, end);
            let mut mark = |acked| {
                marks.push(Mark {
                    operations: disk.operations(),
                    acked,
                    begun: at + group.len(),
                });
            };
            mark(at);
            // Together, so that they share transactions as those of many callers do.
            let all = group.iter().map(|unit| unit.apply(&store));
            for applied in futures_util::future::join_all(all).await {
                applied.expect("acknowledged");
            }
            mark(at + group.len());
            at += group.len();
            if at >= restart {
                drop(store);
                store = open(&disk, &expected.key).expect("opened");
                restart = at + UNTIL_RESTART;
            }
        }
        drop(store);
        let log = disk.take_log();
        Self { bytes, log, marks }
    }

    /// How many units were acknowledged in the end.
    fn done(&self) -> usize {
        self.marks.last().map_or(0, |mark| mark.acked)
    }

    /// A disk whose power went near the end, and how many units it shows.
    async fn crash(&self, expected: &Expected) -> (Vec<u8>, usize) {
        let end = self.log.len();
        let mut random = Random::new(end);
        let at = end - 1 - random.below(end / 8);
        let mut player = Player::new(&self.bytes, &self.log, Fsync::Works);
        player.go_to(at);
        let bytes = player.image(Unsynced::Torn, &mut random);
        match look(expected, bytes.clone(), self.known(at)).await {
            Ok(done) => (bytes, done),
            Err(wrong) => panic!("after {at} operations: {:?}: {}", wrong.how, wrong.why),
        }
    }

    /// How many units were acknowledged, and begun, before the operation after `operations`.
    fn known(&self, operations: usize) -> (usize, usize) {
        let before = self.marks.iter().take_while(|m| m.operations <= operations);
        let last = before.last().expect("the first mark is at 0");
        (last.acked, last.begun)
    }
}

/// The units from `at` on that are applied at once: commits alone, some of them.
fn group(units: &[Unit], at: usize, end: usize) -> &[Unit] {
    let most = 1 + at % 6;
    let rest = &units[at..end.min(at + most)];
    let commits = rest.iter().take_while(|u| !matches!(u, Unit::Prune { .. }));
    &rest[..commits.count().max(1)]
}

/// What is wrong with an image.
struct Wrong {
    how: How,
    why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// It shows what acknowledged commits had changed already.
    Lost,
    /// It shows what no number of commits leads to.
    Unlike,
    /// A record in it doesn't open, or an index contradicts the records.
    Damaged,
    /// It doesn't open, can't be read or can't be written.
    Unusable,
}

impl Wrong {
    fn unlike(why: String) -> Self {
        Self {
            how: How::Unlike,
            why,
        }
    }
}

impl From<StoreError> for Wrong {
    fn from(error: StoreError) -> Self {
        Self {
            how: How::Unusable,
            why: error.to_string(),
        }
    }
}

/// Opens an image; gives how many units it shows.
async fn look(
    expected: &Expected,
    image: Vec<u8>,
    (acked, begun): (usize, usize),
) -> Result<usize, Wrong> {
    let store = open(&Disk::new(image), &expected.key)?;
    let shown = picture(&store, expected.rounds).await?;
    let done = (acked..=begun).find(|n| expected.pictures[*n] == shown);
    let Some(done) = done else {
        let earlier = expected.pictures[..acked].iter().rposition(|p| *p == shown);
        return Err(match earlier {
            None => Wrong::unlike(difference(&expected.pictures[acked], &shown)),
            Some(earlier) => Wrong {
                how: How::Lost,
                why: format!("{acked} commits were acked, {earlier} are there"),
            },
        });
    };
    whole(&store).await?;
    go_on(expected, &store, done).await?;
    Ok(done)
}

/// Every record opens, and every index is true to them.
async fn whole(store: &EmbeddedStore) -> Result<(), Wrong> {
    let found = store.inspect().await?;
    if found.is_clean() && found.rows > 0 {
        return Ok(());
    }
    Err(Wrong {
        how: How::Damaged,
        why: format!("{found:?}"),
    })
}

/// The store can be written, and knows the last notification again.
async fn go_on(expected: &Expected, store: &EmbeddedStore, done: usize) -> Result<(), Wrong> {
    let since = expected.units[..done].iter().rev();
    let mut since = since.take_while(|unit| !matches!(unit, Unit::Prune { .. }));
    if let Some(known) = since.find_map(Unit::received) {
        let effect = receive(store, known.clone()).await?;
        if !matches!(effect, Effect::Duplicate(id) if id == known.id) {
            return Err(Wrong::unlike(format!("{} was {effect:?}", known.id)));
        }
    }
    match receive(store, entry(START, Some("after the crash"))).await? {
        Effect::Applied => Ok(()),
        effect => Err(Wrong::unlike(format!("a new one was {effect:?}"))),
    }
}

async fn receive(store: &EmbeddedStore, entry: InboxEntry) -> Result<Effect, Wrong> {
    let change = Change::Receive(Box::new(entry));
    let effects = store.commit(vec![change]).await?;
    Ok(effects.into_iter().next().expect("one change, one effect"))
}

fn difference(expected: &[String], shown: &[String]) -> String {
    let pairs = expected.iter().zip(shown);
    let differing = pairs.into_iter().find(|(e, s)| e != s);
    match differing {
        Some((expected, shown)) => format!("expected {expected}\nbut found {shown}"),
        None => format!("{} lines, not {}", shown.len(), expected.len()),
    }
}

/// The records of a whole workload with crashes in it.
async fn recordings(expected: &Expected) -> Vec<Recording> {
    let mut recordings = Vec::new();
    let mut next = Recording::make(expected, expected.fresh.clone(), 0).await;
    while next.done() < expected.units.len() {
        let (bytes, done) = next.crash(expected).await;
        recordings.push(next);
        next = Recording::make(expected, bytes, done).await;
    }
    recordings.push(next);
    recordings
}

/// One image to be looked at.
#[derive(Debug, Clone, Copy)]
struct Case {
    recording: usize,
    operations: usize,
    unsynced: Unsynced,
    seed: usize,
}

/// `wanted` cases, spread over all operations.
fn cases(recordings: &[Recording], wanted: usize) -> Vec<Case> {
    let operations: usize = recordings.iter().map(|r| r.log.len() + 1).sum();
    let passes = wanted.div_ceil(operations).max(3);
    let stride = (operations * passes / wanted).max(1);
    // One that the passes divide would meet one kind of image alone.
    let stride = stride - usize::from(stride.is_multiple_of(passes));
    let mut cases = Vec::new();
    let mut number = 0;
    for (recording, recorded) in recordings.iter().enumerate() {
        for operations in 0..=recorded.log.len() {
            for pass in 0..passes {
                number += 1;
                if number % stride != 0 {
                    continue;
                }
                let unsynced = match pass {
                    0 => Unsynced::Lost,
                    1 => Unsynced::Kept,
                    _ => Unsynced::Torn,
                };
                cases.push(Case {
                    recording,
                    operations,
                    unsynced,
                    seed: number,
                });
            }
        }
    }
    cases
}

/// How the images were.
#[derive(Debug, Default)]
struct Tally {
    images: usize,
    lost: usize,
    damaged: usize,
    unusable: usize,
    unlike: usize,
    /// The first of those that were wrong.
    wrong: Vec<String>,
}

async fn try_all(
    expected: &Expected,
    recordings: &[Recording],
    wanted: usize,
    fsync: Fsync,
) -> Tally {
    let mut tally = Tally::default();
    let all = cases(recordings, wanted);
    for (n, recording) in recordings.iter().enumerate() {
        let mut player = Player::new(&recording.bytes, &recording.log, fsync);
        for case in all.iter().filter(|case| case.recording == n) {
            player.go_to(case.operations);
            let image = player.image(case.unsynced, &mut Random::new(case.seed));
            let looked = look(expected, image, recording.known(case.operations)).await;
            tally.images += 1;
            let Err(wrong) = looked else { continue };
            match wrong.how {
                How::Lost => tally.lost += 1,
                How::Damaged => tally.damaged += 1,
                How::Unlike => tally.unlike += 1,
                How::Unusable => tally.unusable += 1,
            }
            if tally.wrong.len() < 5 {
                let why = wrong.why;
                tally
                    .wrong
                    .push(format!("{case:?}: {:?}: {why}", wrong.how));
            }
        }
    }
    tally
}

#[tokio::test]
async fn a_power_cut_loses_nothing_acked_and_leaves_a_store_that_opens() {
    let wanted = std::env::var("POWER_CUT_IMAGES");
    let wanted = wanted.map_or(SHORT, |n| n.parse().expect("a number"));
    let rounds = if wanted > SHORT { MANY_ROUNDS } else { ROUNDS };
    let expected = Expected::new(rounds).await;
    changes::check_made(&expected.made, &[]);
    let recordings = recordings(&expected).await;
    let operations: usize = recordings.iter().map(|r| r.log.len()).sum();
    let tally = try_all(&expected, &recordings, wanted, Fsync::Works).await;
    println!(
        "{} commits, {operations} operations, {} crashes on the way: {tally:?}",
        expected.units.len(),
        recordings.len() - 1
    );
    assert!(tally.images >= wanted);
    assert_eq!(tally.wrong, Vec::<String>::new(), "{tally:?}");
}

#[tokio::test]
async fn a_disk_that_lies_about_fsync_is_found_out() {
    let expected = Expected::new(ROUNDS).await;
    let recordings = recordings(&expected).await;
    let tally = try_all(&expected, &recordings, CONTROL, Fsync::Lies).await;
    println!("the control: {tally:?}");
    // Which of them a case becomes hangs on what the torn pages held.
    let wrong = tally.lost + tally.damaged + tally.unusable + tally.unlike;
    assert!(tally.lost > 0 && wrong > CONTROL / 2, "{tally:?}");
}
