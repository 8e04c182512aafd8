//! What happens when the disk fails, and when the store is dropped.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::*;
use crate::protocol::secret::Secret;
use crate::store::embedded::faulty::{Faulty, START};
use crate::store::embedded::writer::Commit;
use crate::store::{Change, MemoKey, Store};

#[tokio::test]
async fn a_failed_disk_is_answered_at_once_and_heals_by_itself() {
    let faulty = Faulty::new();
    faulty.remember("before").await.expect("committed");
    faulty.switches.writes_fail.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let refused = faulty.remember("lost").await;
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })));
        assert!(!faulty.store.is_writable());
        // What needs no write goes on.
        assert!(faulty.recalls("before").await.expect("readable"));
    }
    faulty.switches.writes_fail.store(false, Ordering::SeqCst);
    faulty.healed().await;
    faulty.remember("after").await.expect("committed");
    for name in ["before", "after"] {
        assert!(faulty.recalls(name).await.expect("readable"), "{name}");
    }
    // Whether the failed commit is there nobody knows; doing it again is safe.
    faulty.remember("lost").await.expect("committed");
    assert!(faulty.recalls("lost").await.expect("readable"));
}

/// Refuses a notification for want of room; what is written behind it goes through.
async fn refused_as_full(faulty: &Faulty, at: i64) {
    faulty.switches.failing_sync.store(1, Ordering::SeqCst);
    let refused = faulty.receive(at).await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })));
}

#[tokio::test]
async fn a_full_disk_takes_what_fits_and_counts_as_full_until_there_is_room() {
    let faulty = Faulty::new();
    let is_full = &faulty.switches.is_full;
    is_full.store(true, Ordering::SeqCst);
    faulty.remember("room enough").await.expect("committed");
    assert!(faulty.store.is_writable(), "nothing was refused");
    for at in 0..3 {
        refused_as_full(&faulty, START + at).await;
        faulty.remember(&format!("small-{at}")).await.expect("fits");
        assert!(!faulty.store.is_writable());
    }
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert!(!faulty.store.is_writable(), "it is still full");
    is_full.store(false, Ordering::SeqCst);
    // Nobody has to come for it.
    faulty.healed_within(Duration::from_secs(3)).await;
    is_full.store(true, Ordering::SeqCst);
    refused_as_full(&faulty, START + 4).await;
    assert!(!faulty.store.is_writable());
    is_full.store(false, Ordering::SeqCst);
    // Nor does it matter who comes.
    let busy = async {
        for n in 0.. {
            if faulty.store.is_writable() {
                break;
            }
            faulty.remember(&format!("busy-{n}")).await.expect("fits");
        }
    };
    let busy = tokio::time::timeout(Duration::from_secs(3), busy);
    busy.await.expect("looked between commits");
}

#[tokio::test]
async fn a_disk_that_failed_otherwise_is_believed_as_soon_as_it_takes_a_write() {
    let faulty = Faulty::new();
    faulty.switches.is_full.store(true, Ordering::SeqCst);
    faulty.switches.is_broken.store(true, Ordering::SeqCst);
    refused_as_full(&faulty, START).await;
    faulty.healed_within(Duration::from_secs(3)).await;
}

#[tokio::test]
async fn the_backlog_is_known_without_a_look_at_the_disk() {
    let faulty = Faulty::new();
    assert_eq!(faulty.pending().await, 0);
    faulty.receive(START).await.expect("committed");
    faulty.switches.reads_fail.store(true, Ordering::SeqCst);
    assert_eq!(faulty.pending().await, 1);
    faulty.switches.reads_fail.store(false, Ordering::SeqCst);
    // What touches neither table leaves it as it is.
    faulty.remember("other").await.expect("committed");
    assert_eq!(faulty.pending().await, 1);
}

#[tokio::test]
async fn the_backlog_is_what_a_disk_kept_of_a_commit_that_failed() {
    // A commit has two: of the second one only the answer is lost.
    for (sync, kept) in [(1, 0), (2, 1)] {
        let faulty = Faulty::new();
        faulty.receive(START).await.expect("committed");
        faulty.switches.failing_sync.store(sync, Ordering::SeqCst);
        let refused = faulty.receive(START + 1).await;
        assert!(matches!(refused, Err(StoreError::Unavailable { .. })));
        faulty.healed().await;
        assert_eq!(faulty.pending().await, 1 + kept, "fsync {sync}");
        let counts = faulty.store.counts().await.expect("readable");
        assert_eq!(counts.pending, 1 + kept, "fsync {sync}");
        faulty.receive(START + 2).await.expect("committed");
        assert_eq!(faulty.pending().await, 2 + kept, "fsync {sync}");
    }
}

#[tokio::test]
async fn a_store_that_is_opened_on_a_full_disk_is_read_and_heals_by_itself() {
    let mut faulty = Faulty::new();
    faulty.remember("before").await.expect("committed");
    // As a crash leaves it: not closed, so that redb has to write when it opens it.
    let path = faulty.store.0.shared.path().with_file_name("crashed");
    std::fs::copy(faulty.store.0.shared.path(), &path).expect("copied");
    faulty.switches.writes_fail.store(true, Ordering::SeqCst);
    let options = OpenOptions {
        path,
        ..faulty.options.clone()
    };
    faulty.store = faulty.switches.open(options);
    assert!(!faulty.store.is_writable(), "/readyz tells it");
    assert!(faulty.recalls("before").await.expect("readable"));
    let refused = faulty.remember("lost").await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })));
    faulty.switches.writes_fail.store(false, Ordering::SeqCst);
    faulty.healed().await;
    faulty.remember("after").await.expect("committed");
    for name in ["before", "after"] {
        assert!(faulty.recalls(name).await.expect("readable"), "{name}");
    }
}

#[tokio::test]
async fn a_reader_that_meets_a_failure_has_the_store_mended() {
    let faulty = Faulty::new();
    faulty.remember("before").await.expect("committed");
    faulty.switches.reads_fail.store(true, Ordering::SeqCst);
    let refused = faulty.recalls("before").await;
    assert!(matches!(refused, Err(StoreError::Unavailable { .. })));
    faulty.switches.reads_fail.store(false, Ordering::SeqCst);
    loop {
        match faulty.recalls("before").await {
            Ok(found) => break assert!(found),
            Err(StoreError::Unavailable { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    faulty.healed().await;
    faulty.remember("after").await.expect("committed");
}

#[tokio::test]
async fn waiting_commits_are_finished_before_the_file_is_closed() {
    let faulty = Faulty::new();
    let store = faulty.store.clone();
    let change = Change::Remember {
        key: MemoKey::new("test", &["late"]),
        value: Secret::new(Vec::new()),
        expires_at: i64::MAX,
    };
    let (reply, answer) = oneshot::channel();
    let changes = vec![change];
    store
        .0
        .send(Job::Commit(Commit { changes, reply }))
        .expect("queued");
    drop((store, faulty));
    answer.await.expect("answered").expect("committed");
}

#[tokio::test]
async fn a_store_that_is_dropped_ends_its_backup() {
    let faulty = Faulty::new();
    let rows = faulty.store.backup().await.expect("begun");
    let shared = Arc::downgrade(&faulty.store.0.shared);
    drop(faulty);
    assert!(shared.upgrade().is_none(), "nobody holds the file any more");
    drop(rows);
}
