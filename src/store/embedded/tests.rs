//! What happens when the disk fails, and when the store is dropped.

use std::sync::atomic::Ordering;
use std::time::Duration;

use redb::ReadableTableMetadata;

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

/// Moves the file to the path that is given.
fn take_away(faulty: &Faulty) -> PathBuf {
    let away = faulty.options.path.with_file_name("away");
    std::fs::rename(&faulty.options.path, &away).expect("moved");
    away
}

async fn is_refused(faulty: &Faulty, found: &str) {
    let refused = faulty.receive(START).await.expect_err("refused");
    assert!(refused.to_string().contains(found), "{refused}");
    assert!(!faulty.store.is_writable());
}

#[tokio::test]
async fn nothing_is_written_to_a_file_that_was_taken_away() {
    let faulty = Faulty::new();
    faulty.remember("before").await.expect("committed");
    let away = take_away(&faulty);
    let content = std::fs::read(&away).expect("there");
    for _ in 0..2 {
        is_refused(&faulty, "leads to nothing").await;
        // What needs no write goes on.
        assert!(faulty.recalls("before").await.expect("readable"));
    }
    assert!(!faulty.options.path.exists());
    assert!(std::fs::read(&away).expect("there") == content);
    std::fs::rename(&away, &faulty.options.path).expect("put back");
    // Nobody has to come for it.
    faulty.healed_within(Duration::from_secs(3)).await;
    faulty.receive(START).await.expect("committed");
    let away = take_away(&faulty);
    is_refused(&faulty, "leads to nothing").await;
    std::fs::rename(&away, &faulty.options.path).expect("put back");
    // Nor does it matter who comes.
    faulty.receive(START + 1).await.expect("committed");
    assert!(faulty.store.is_writable());
}

#[tokio::test]
async fn a_file_that_goes_is_missed_though_nobody_writes() {
    let faulty = Faulty::new();
    faulty.remember("before").await.expect("committed");
    let away = take_away(&faulty);
    let missed = async {
        while faulty.store.is_writable() {
            tokio::task::yield_now().await;
        }
    };
    let missed = tokio::time::timeout(Duration::from_secs(3), missed);
    missed.await.expect("missed by itself");
    std::fs::rename(&away, &faulty.options.path).expect("put back");
    faulty.healed_within(Duration::from_secs(3)).await;
}

#[tokio::test]
async fn a_commit_whose_file_goes_meanwhile_is_not_told_as_durable() {
    let faulty = Faulty::new();
    let hang = &faulty.switches.syncs_hang;
    hang.is_on.store(true, Ordering::SeqCst);
    let go = async {
        hang.is_met().await;
        let away = take_away(&faulty);
        hang.is_on.store(false, Ordering::SeqCst);
        away
    };
    let (committed, away) = tokio::join!(faulty.remember("one"), go);
    let refused = committed.expect_err("refused");
    assert!(
        refused.to_string().contains("leads to nothing"),
        "{refused}"
    );
    assert!(!faulty.store.is_writable());
    std::fs::rename(&away, &faulty.options.path).expect("put back");
    faulty.healed_within(Duration::from_secs(3)).await;
    faulty.remember("one").await.expect("it can be made again");
}

#[tokio::test]
async fn a_disk_that_fails_while_another_file_stands_there_opens_the_former_again() {
    let faulty = Faulty::new();
    faulty.remember("before").await.expect("committed");
    let away = take_away(&faulty);
    let path = &faulty.options.path;
    std::fs::copy(&away, path).expect("copied");
    let content = || [path, &away].map(|file| std::fs::read(file).expect("there"));
    let before = content();
    is_refused(&faulty, "leads to another file").await;
    for switch in [&faulty.switches.reads_fail, &faulty.switches.writes_fail] {
        switch.store(true, Ordering::SeqCst);
    }
    faulty.recalls("before").await.expect_err("unreadable");
    for switch in [&faulty.switches.reads_fail, &faulty.switches.writes_fail] {
        switch.store(false, Ordering::SeqCst);
    }
    let begun = std::time::Instant::now();
    while begun.elapsed() < Duration::from_millis(2500) {
        assert!(!faulty.store.is_writable());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(faulty.recalls("before").await.expect("readable"));
    is_refused(&faulty, "leads to another file").await;
    // Nor is anything tried where it is.
    faulty.store.0.probe().await;
    assert!(content() == before);
    std::fs::rename(&away, path).expect("put back");
    faulty.healed_within(Duration::from_secs(3)).await;
    faulty.remember("after").await.expect("committed");
    for name in ["before", "after"] {
        assert!(faulty.recalls(name).await.expect("readable"), "{name}");
    }
}

#[tokio::test]
async fn a_store_that_is_elsewhere_stays_open_for_who_reads_it_long() {
    let faulty = Faulty::new();
    faulty.remember("before").await.expect("committed");
    let away = take_away(&faulty);
    let content = std::fs::read(&away).expect("there");
    is_refused(&faulty, "leads to nothing").await;
    faulty.switches.reads_fail.store(true, Ordering::SeqCst);
    faulty.recalls("before").await.expect_err("unreadable");
    faulty.switches.reads_fail.store(false, Ordering::SeqCst);
    let read = async { while faulty.recalls("before").await.is_err() {} };
    let read = tokio::time::timeout(Duration::from_secs(5), read);
    read.await.expect("opened to be read");
    // Who came meanwhile may have it opened once more.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let done = faulty.store.0.shared.with_long_snapshot(|tx| {
        std::thread::sleep(Duration::from_secs(5));
        Ok(tx.open_table(tables::MEMOS)?.len()?)
    });
    assert_eq!(done.expect("nobody opened it anew"), 1);
    assert!(!faulty.store.is_writable());
    assert!(std::fs::read(&away).expect("there") == content);
    std::fs::rename(&away, &faulty.options.path).expect("put back");
    faulty.healed_within(Duration::from_secs(3)).await;
    faulty.remember("after").await.expect("committed");
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
