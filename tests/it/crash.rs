//! Kills a process in the middle of its commits and looks at what it left.
//!
//! After our `success` Alipay never asks again, so what was acknowledged must be there after any
//! crash; and of what happens together, all or nothing: a merchant without its event is never told
//! to the backend, an event without its merchant tells of what isn't so.
//! `CRASH_CYCLES=500` runs the long form.

use std::collections::{BTreeSet, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use alipay_sidecar::clock::ManualClock;
use alipay_sidecar::model::authorization::Rank;
use alipay_sidecar::model::delivery::{Attempt, Delivery, DeliveryState, Settlement, Via};
use alipay_sidecar::model::id::EventId;
use alipay_sidecar::model::notification::{DeliveryForm, InboxEntry};
use alipay_sidecar::store::embedded::{EmbeddedStore, OpenOptions};
use alipay_sidecar::store::error::StoreError;
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar::store::{Change, Directory, Inbox, Store};

use crate::store::{START, authorization, authorize, entry, merchant_app};

/// Tells the child where its store is; without it the child's test does nothing.
const STORE: &str = "CRASH_STORE";
/// Tells the child the store's key, base64.
const KEY: &str = "CRASH_KEY";
/// Tells the child the number of its first merchant.
const FIRST: &str = "CRASH_FIRST";
/// How many kills; the short form takes a few seconds.
const SHORT: u32 = 15;
/// How many commits of the child are under way at once.
const LANES: u32 = 8;
/// How far apart the numbers of two cycles are.
const CYCLE: u32 = 100_000;

fn open(path: &Path, key: &StoreKey) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::open(OpenOptions {
        path: path.to_owned(),
        key: key.clone(),
        cache_bytes: 1 << 20,
        clock: Arc::new(ManualClock::new(START)),
    })
}

/// Commits merchants with their events for ever, and prints the number of each after its ack.
async fn commit_for_ever(store: EmbeddedStore, first: u32) {
    let lane = async |lane: u32| {
        for n in (first + lane..).step_by(LANES as usize) {
            let entry = InboxEntry {
                form: DeliveryForm::Event,
                ..entry(START, Some(&format!("notify-{n}")))
            };
            let id = entry.id;
            let given = authorization(n, &format!("token-{n}"), Rank::AuthTime(START));
            let change = authorize(given, Some(entry));
            store.commit(vec![change]).await.expect("committed");
            writeln!(std::io::stdout(), "acked {n}").expect("the parent reads");
            if n % 3 == 0 {
                store.commit(vec![delivered(id)]).await.expect("committed");
            }
        }
    };
    let lanes = (0..LANES).map(lane);
    futures_util::future::join_all(lanes).await;
}

fn delivered(id: EventId) -> Change {
    Change::Settle {
        id,
        attempt: Attempt {
            to: None,
            reason: None,
            at: START,
            duration_ms: 1,
            status: Some(200),
            error: None,
            via: Via::Push,
        },
        owed_since: None,
        settlement: Settlement::Delivered,
    }
}

/// The child of the test below.
#[tokio::test]
async fn child_that_commits_until_it_is_killed() {
    let Ok(path) = std::env::var(STORE) else {
        return;
    };
    let text = |name| std::env::var(name).expect("the parent sets it");
    let key = StoreKey::from_base64(&text(KEY)).expect("the parent's key");
    let first = text(FIRST).parse().expect("the parent's number");
    let store = open(Path::new(&path), &key).expect("the parent closed it");
    commit_for_ever(store, first).await;
}

fn start_child(path: &Path, key: &StoreKey, first: u32) -> Child {
    let this = std::env::current_exe().expect("the test binary");
    Command::new(this)
        .args(["--exact", "crash::child_that_commits_until_it_is_killed"])
        .arg("--nocapture")
        .env(STORE, path)
        .env(KEY, key.to_base64().expose())
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the child starts")
}

/// Reads acks until there are `enough`, kills the child, and reads what it still had written.
fn acks_until_killed(mut child: Child, enough: usize, before_kill: impl Fn()) -> HashSet<u32> {
    let out = child.stdout.take().expect("piped");
    let mut acked = HashSet::new();
    let mut killed = false;
    for line in BufReader::new(out).lines() {
        let line = line.expect("text");
        // The harness may have left its own words at the beginning of the line.
        let Some((_, number)) = line.rsplit_once("acked ") else {
            continue;
        };
        acked.insert(number.parse().expect("a number"));
        if acked.len() >= enough && !killed {
            before_kill();
            child.kill().expect("killed");
            killed = true;
        }
    }
    child.wait().expect("it ended");
    assert!(
        killed,
        "the child ended by itself after {} acks",
        acked.len()
    );
    acked
}

/// Everything acked is there, every merchant has its event and the other way round, and every
/// index agrees with the records.
async fn look(path: &Path, key: &StoreKey, acked: &HashSet<u32>) {
    let store = open(path, key).expect("a killed store opens again");
    let merchants = store.merchants(None, usize::MAX).await.expect("readable");
    let have: HashSet<_> = merchants.into_iter().map(|m| m.auth_app_id).collect();
    for n in acked {
        assert!(
            have.contains(&merchant_app(*n)),
            "{n} was acked and is gone"
        );
    }
    let entries = store
        .entries(None, None, usize::MAX)
        .await
        .expect("readable");
    let told = entries.iter().map(|(entry, _)| entry.auth_app_id.clone());
    let told: HashSet<_> = told
        .map(|m| m.expect("an event names its merchant"))
        .collect();
    assert_eq!(
        have, told,
        "a merchant without its event, or the other way round"
    );

    for state in [DeliveryState::Pending, DeliveryState::Delivered] {
        let listed = store.entries(Some(state), None, usize::MAX).await;
        let listed = ids(&listed.expect("readable"));
        let recorded = entries.iter().filter(|(_, d)| d.state == state).cloned();
        assert_eq!(listed, ids(&recorded.collect::<Vec<_>>()), "{state:?}");
        if state == DeliveryState::Pending {
            let due = store
                .due(START, usize::MAX, HashSet::new())
                .await
                .expect("readable");
            assert_eq!(ids(&due.now), listed, "what is pending is due");
        }
    }
}

fn ids(entries: &[(InboxEntry, Delivery)]) -> BTreeSet<EventId> {
    entries.iter().map(|(entry, _)| entry.id).collect()
}

#[tokio::test]
async fn nothing_acked_is_lost_and_nothing_is_half_applied() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, key) = (dir.path().join("store.redb"), StoreKey::generate());
    EmbeddedStore::create(&path, &key).expect("created");
    let cycles = std::env::var("CRASH_CYCLES").map_or(SHORT, |n| n.parse().expect("a number"));
    let mut acked = HashSet::new();
    for cycle in 0..cycles {
        let [.., random] = EventId::new(START).to_bytes();
        let enough = 1 + usize::from(random) / 4;
        let child = start_child(&path, &key, cycle * CYCLE);
        acked.extend(acks_until_killed(child, enough, || {
            assert!(matches!(open(&path, &key), Err(StoreError::Locked { .. })));
        }));
        look(&path, &key, &acked).await;
    }
}
