//! The whole store against a model, by random histories.
//!
//! The same commits of every kind of change, clock jumps and prunings are given to the real store and
//! to a [`Model`] of a few maps; every answer, and after it all that either of them shows, must be
//! the same. In the end every record and every index of the store is inspected.
//!
//! `STATE_SEQUENCES=20000` (with `--release`) runs the long form.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use alipay_sidecar::clock::ManualClock;
use alipay_sidecar::model::call::CallId;
use alipay_sidecar::model::id::EventIds;
use alipay_sidecar::model::notification::InboxEntry;
use alipay_sidecar::store::embedded::{EmbeddedStore, OpenOptions};
use alipay_sidecar::store::error::StoreError;
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar::store::{Change, Effect, Store};
use proptest::test_runner::{Config, TestRunner};
use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use crate::changes;
use crate::store::START;

mod compare;
mod deeds;
mod deeds_kept;
mod model;
mod steps;

use model::{Answer, Model, Refused};
use steps::{Op, history, merchant};

/// How many histories the short form tries.
const SHORT: u32 = 60;
/// How many leave no kind of change without one that was applied.
const MANY: u32 = 600;

/// An empty store's file, from which every history begins.
struct Fresh {
    key: StoreKey,
    bytes: Vec<u8>,
}

impl Fresh {
    fn new() -> Self {
        let (dir, key) = (
            tempfile::tempdir().expect("a directory"),
            StoreKey::generate(),
        );
        let path = dir.path().join("store.redb");
        EmbeddedStore::create(&path, &key).expect("created");
        let bytes = std::fs::read(path).expect("readable");
        Self { key, bytes }
    }

    fn open(&self, clock: &ManualClock) -> EmbeddedStore {
        let options = OpenOptions {
            path: "memory".into(),
            key: self.key.clone(),
            cache_bytes: 1 << 20,
            clock: Arc::new(clock.clone()),
        };
        let bytes = self.bytes.clone();
        let disk = move || {
            let disk = InMemoryBackend::new();
            disk.set_len(bytes.len() as u64)?;
            disk.write(0, &bytes)?;
            Ok(disk)
        };
        EmbeddedStore::open_on(options, disk).expect("opened")
    }
}

/// The store and the model, side by side.
struct Pair {
    store: EmbeddedStore,
    model: Model,
    clock: ManualClock,
    ids: EventIds,
    received: Vec<InboxEntry>,
    calls: Vec<CallId>,
    last: Vec<Change>,
    /// How many there were.
    steps: usize,
    /// How often each kind of change was made, and applied.
    made: BTreeMap<&'static str, [u64; 2]>,
}

impl Pair {
    fn new(fresh: &Fresh) -> Self {
        let clock = ManualClock::new(START);
        Self {
            store: fresh.open(&clock),
            model: Model::at(START),
            clock,
            ids: EventIds::new(),
            received: Vec::new(),
            calls: Vec::new(),
            last: Vec::new(),
            steps: 0,
            made: BTreeMap::new(),
        }
    }

    async fn perform(&mut self, op: &Op) {
        self.steps += 1;
        match op {
            Op::Commit(steps) => {
                let changes = steps.iter().flat_map(|step| self.changes(step)).collect();
                self.last = changes;
                self.commit(self.last.clone()).await;
            }
            Op::Jump(by) => {
                self.clock.advance_ms(*by);
                self.model.now += by;
            }
            Op::Prune(retain) => {
                let pruned = self.store.prune(self.model.now, *retain).await;
                assert_eq!(pruned.expect("pruned"), self.model.prune(*retain));
            }
            Op::Repeat => self.commit(self.last.clone()).await,
        }
    }

    async fn commit(&mut self, changes: Vec<Change>) {
        let answers = match self.store.commit(changes.clone()).await {
            Ok(effects) => Ok(effects.iter().map(answer).collect::<Vec<_>>()),
            Err(StoreError::AliasTaken { .. }) => Err(Refused::AliasTaken),
            Err(StoreError::TokenConflict { .. }) => Err(Refused::TokenConflict),
            Err(other) => panic!("{other}"),
        };
        assert_eq!(answers, self.model.commit(&changes), "{changes:?}");
        for (change, answer) in changes.iter().zip(answers.into_iter().flatten()) {
            let applied = matches!(answer, Answer::Applied | Answer::Displaced(_));
            let count = self.made.entry(changes::kind(change)).or_default();
            *count = [count[0] + 1, count[1] + u64::from(applied)];
        }
    }
}

fn answer(effect: &Effect) -> Answer {
    match effect {
        Effect::Applied => Answer::Applied,
        Effect::Displaced(count) => Answer::Displaced(*count),
        Effect::Duplicate(id) => Answer::Duplicate(*id),
        Effect::Full => Answer::Full,
        Effect::Missing => Answer::Missing,
        Effect::Remembered(value) => Answer::Remembered(value.expose().clone()),
        Effect::Stale => Answer::Stale,
        Effect::Void => Answer::Void,
    }
}

#[test]
fn the_store_does_what_a_model_of_it_does() {
    let cases = std::env::var("STATE_SEQUENCES");
    let cases = cases.map_or(SHORT, |n| n.parse().expect("a number"));
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let (runtime, fresh) = (runtime.expect("a runtime"), Fresh::new());
    let made = RefCell::new(BTreeMap::<_, [u64; 2]>::new());
    let config = Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    };
    let tried = TestRunner::new(config).run(&history(), |ops| {
        runtime.block_on(async {
            let mut pair = Pair::new(&fresh);
            pair.perform(&Op::Commit(vec![merchant(0), merchant(1)]))
                .await;
            for op in &ops {
                pair.perform(op).await;
                pair.compare().await;
            }
            pair.inspect().await;
            for (kind, more) in pair.made {
                let mut made = made.borrow_mut();
                let count = made.entry(kind).or_default();
                *count = [count[0] + more[0], count[1] + more[1]];
            }
        });
        Ok(())
    });
    tried.unwrap_or_else(|error| panic!("{error}"));
    let made = made.into_inner();
    println!("{cases} histories made and applied {made:?}");
    // In a few histories a rare kind may have met nothing that it fits.
    let least = usize::from(cases >= MANY);
    let made = made.into_iter().filter(|(_, count)| count[least] > 0);
    changes::check_made(&made.map(|(kind, _)| kind).collect(), &[]);
}
