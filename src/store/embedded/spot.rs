//! Look-ups on the spot: by the async worker that asks, as long as nothing has to be waited for.
//!
//! While its pages are in memory a look-up takes some microseconds, and the way to a reading thread
//! and back takes ten times that. But a worker that waits for the disk holds up whoever else it
//! serves: the one that the network woke hands its duty to nobody. So a look-up on the spot reads
//! the snapshot that the writer left (`snapshots`), which takes no lock that is held during a
//! write; it finds its pages in redb's cache or in the system's; and where they are in neither it
//! is given up, to be made by a reading thread.
//!
//! The system begins to read a page that it hasn't, also for who doesn't wait, and with a disk that
//! doesn't answer a queue of its own would fill up. So while anybody waits for a page, redb's cache
//! has to do.

use std::cell::Cell;
use std::fs::File;
use std::io::{Error, ErrorKind};
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use redb::backends::FileBackend;
use redb::{BackendError, DatabaseError, StorageBackend};

use crate::in_memory::InMemory;

thread_local! {
    static MAY_WAIT: Cell<bool> = const { Cell::new(true) };
}

/// Makes a look-up, which reads by a [`NoWait`]; nothing where it would have to wait, or panics:
/// the reading thread that makes it then meets that, too.
pub(super) fn run<T>(look_up: impl FnOnce() -> T) -> Option<T> {
    if cfg!(not(panic = "unwind")) {
        // Nothing could be given up.
        return None;
    }
    let before = MAY_WAIT.replace(false);
    let found = catch_unwind(AssertUnwindSafe(look_up));
    MAY_WAIT.set(before);
    found.ok()
}

/// A backend that gives up a look-up on the spot where it would have to wait.
///
/// It unwinds: redb takes an error for a failure of the disk, and nothing else for an answer. When
/// redb reads a page it holds no mutex, so that none is poisoned.
#[derive(Debug)]
pub(super) struct NoWait<B> {
    below: B,
    /// The same once more, where it is a file.
    file: Option<InMemory<File>>,
    /// Who waits for a page, or for more or less room.
    waiting: AtomicUsize,
}

impl<B> NoWait<B> {
    /// Over `below`, all of whose reads may wait.
    pub(super) fn new(below: B) -> Self {
        Self {
            below,
            file: None,
            waiting: AtomicUsize::new(0),
        }
    }

    fn waiting<T>(&self, work: impl FnOnce(&B) -> T) -> T {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let done = work(&self.below);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        done
    }

    fn is_in_memory(&self, offset: u64, out: &mut [u8]) -> bool {
        let file = self.file.as_ref();
        let file = file.filter(|_| self.waiting.load(Ordering::Relaxed) == 0);
        file.is_some_and(|file| file.read(out, offset) == out.len())
    }
}

impl NoWait<FileBackend> {
    /// Over a file, of which the system may have a part in memory. Where the file system can't
    /// tell, a page that redb hasn't cached takes a try more than by a reading thread alone.
    pub(super) fn of_file(file: File) -> Result<Self, DatabaseError> {
        // It shares the locks of the first, which end when redb closes that.
        let again = file.try_clone()?;
        Ok(Self {
            file: InMemory::of(again),
            ..Self::new(FileBackend::new(file)?)
        })
    }
}

impl<B: StorageBackend> StorageBackend for NoWait<B> {
    fn len(&self) -> Result<u64, Error> {
        self.below.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        if MAY_WAIT.get() {
            return self.waiting(|below| below.read(offset, out));
        }
        match self.is_in_memory(offset, out) {
            true => Ok(()),
            false => resume_unwind(Box::new("the page isn't in memory")),
        }
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.waiting(|below| below.set_len(len))
    }

    fn sync_data(&self) -> Result<(), Error> {
        self.below.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        if !MAY_WAIT.get() {
            // A reader that makes room in the cache, which redb does as well as it can. It holds a
            // lock there, which unwinding would poison.
            return Err(ErrorKind::WouldBlock.into());
        }
        self.below.write(offset, data)
    }

    fn close(&self) -> Result<(), Error> {
        self.below.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.below.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.below.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.below.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.below.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.below.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.below.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;
    use crate::in_memory::tells;
    use crate::store::embedded::faulty::Faulty;
    use crate::store::embedded::{EmbeddedStore, OpenOptions};

    fn below() -> InMemoryBackend {
        let below = InMemoryBackend::new();
        below.set_len(8).expect("in memory");
        below.write(0, b"12345678").expect("in memory");
        below
    }

    fn read(disk: &impl StorageBackend, offset: u64, length: usize) -> Vec<u8> {
        let mut out = vec![0; length];
        disk.read(offset, &mut out).expect("readable");
        out
    }

    #[test]
    fn a_look_up_that_would_wait_is_given_up_and_harms_nobody() {
        let disk = NoWait::new(below());
        assert_eq!(run(|| 7), Some(7));
        assert_eq!(run(|| read(&disk, 2, 3)), None);
        assert_eq!(run(|| -> u8 { panic!("a bug") }), None);
        // Off the spot the same thread may wait.
        assert_eq!(read(&disk, 2, 3), b"345");
    }

    #[test]
    fn what_is_written_can_be_read_and_the_length_is_told() {
        let disk = NoWait::new(below());
        disk.set_len(9).expect("in memory");
        disk.write(7, b"xy").expect("in memory");
        assert_eq!(disk.len().expect("told"), 9);
        assert_eq!(read(&disk, 6, 3), b"7xy");
        disk.sync_data().expect("in memory");
        disk.close().expect("in memory");
    }

    #[test]
    fn a_look_up_writes_nothing() {
        let disk = NoWait::new(below());
        let refused = run(|| disk.write(0, b"x")).expect("told");
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(read(&disk, 0, 1), b"1");
    }

    #[test]
    fn one_look_up_inside_of_another_may_not_wait_either_nor_may_the_outer_one_then() {
        let disk = NoWait::new(below());
        let outer = run(|| {
            assert_eq!(run(|| 7), Some(7));
            read(&disk, 2, 3)
        });
        assert_eq!(outer, None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn of_a_file_that_is_read_which_the_system_has_in_memory() {
        let mut file = tempfile::tempfile().expect("made");
        std::io::Write::write_all(&mut file, b"12345678").expect("written");
        let disk = NoWait::of_file(file.try_clone().expect("cloned")).expect("opened");
        if tells(&file) {
            assert_eq!(run(|| read(&disk, 2, 3)).as_deref(), Some(&b"345"[..]));
        }
        // Nor while somebody waits for the disk.
        assert_eq!(disk.waiting(|_| run(|| read(&disk, 2, 3))), None);
        // Never half of it.
        assert_eq!(run(|| read(&disk, 6, 3)), None);
        assert_eq!(run(|| read(&disk, 100, 1)), None);
    }

    #[tokio::test]
    async fn a_look_up_that_needs_no_disk_is_made_on_the_spot_and_misses_no_commit() {
        let faulty = Faulty::with_cache(1 << 20);
        for name in ["one", "two", "three"] {
            faulty.remember(name).await.expect("committed");
            // The page is in the cache: it was just written.
            assert_eq!(faulty.recalls_at_once(name), Some(true), "{name}");
        }
        assert_eq!(faulty.recalls_at_once("four"), Some(false));
        // Nor does it need one that can't be read, or isn't.
        faulty.switches.reads_fail.store(true, Ordering::SeqCst);
        assert_eq!(faulty.recalls_at_once("one"), Some(true));
    }

    #[tokio::test]
    async fn a_look_up_that_needs_the_disk_is_made_by_a_reading_thread() {
        let faulty = Faulty::new();
        for name in ["one", "two", "three"] {
            faulty.remember(name).await.expect("committed");
            // What a reading thread finds meanwhile isn't found at once.
            faulty
                .switches
                .reads_hang
                .is_on
                .store(true, Ordering::SeqCst);
            assert_eq!(faulty.recalls_at_once(name), None, "{name}");
            faulty
                .switches
                .reads_hang
                .is_on
                .store(false, Ordering::SeqCst);
            assert!(faulty.recalls(name).await.expect("readable"));
        }
    }

    #[tokio::test]
    async fn look_ups_on_the_spot_go_on_in_a_store_that_was_opened_anew() {
        let faulty = Faulty::with_cache(1 << 20);
        faulty.remember("before").await.expect("committed");
        faulty.switches.writes_fail.store(true, Ordering::SeqCst);
        faulty.remember("lost").await.expect_err("the disk is full");
        // The writer opens it again and again, and its cache is empty each time.
        while faulty.recalls_at_once("lost").is_none() {
            assert!(faulty.recalls("before").await.expect("readable"));
        }
        assert!(!faulty.recalls("lost").await.expect("readable"));
        faulty.switches.writes_fail.store(false, Ordering::SeqCst);
        faulty.healed().await;
        faulty.remember("after").await.expect("committed");
        assert_eq!(faulty.recalls_at_once("after"), Some(true));
    }

    #[tokio::test]
    async fn a_look_up_does_not_wait_for_a_writer_that_is_stuck() {
        let faulty = Faulty::with_cache(1 << 20);
        faulty.remember("one").await.expect("committed");
        let switches = &faulty.switches;
        for (name, hang) in [
            ("two", &switches.writes_hang),
            ("three", &switches.syncs_hang),
        ] {
            hang.is_on.store(true, Ordering::SeqCst);
            let look = async {
                hang.is_met().await;
                let found = faulty.recalls_at_once("one");
                hang.is_on.store(false, Ordering::SeqCst);
                found
            };
            let (committed, found) = tokio::join!(faulty.remember(name), look);
            committed.expect("committed");
            assert_eq!(found, Some(true));
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_page_that_the_system_has_in_memory_is_read_on_the_spot() {
        let mut faulty = Faulty::new();
        faulty.remember("one").await.expect("committed");
        let path = faulty.options.path.with_file_name("copy");
        // So that it is in memory; a copy may be none until it is read.
        let content = std::fs::read(&faulty.options.path).expect("read");
        std::fs::write(&path, content).expect("written");
        let file = File::open(&path).expect("there");
        let options = OpenOptions {
            path,
            ..faulty.options.clone()
        };
        faulty.store = EmbeddedStore::open(options).expect("opened");
        let expected = tells(&file).then_some(true);
        assert_eq!(faulty.recalls_at_once("one"), expected);
    }
}
