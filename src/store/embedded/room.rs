//! What the system says of the file of the store: whether its disk has room left, and whether it is still there.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// What a disk must have left to be believed after it was full, bytes: what some dozen small commits take at
/// once. A write of a few bytes finds room within the file where the next notification finds none.
pub(super) const ENOUGH: u64 = 256 << 10;

/// Answers a question about the file; it may block.
type Answer = Box<dyn Fn() -> bool + Send + Sync>;

/// Where the store stands.
pub(super) struct Place {
    has_room: Answer,
    is_there: Answer,
}

impl Place {
    /// That of the file at `path`.
    pub(super) fn of(path: PathBuf) -> Self {
        let file = path.clone();
        Self::new(move || is_left(&file), move || is_there(&path))
    }

    /// One that answers so.
    pub(super) fn new(
        has_room: impl Fn() -> bool + Send + Sync + 'static,
        is_there: impl Fn() -> bool + Send + Sync + 'static,
    ) -> Self {
        Self {
            has_room: Box::new(has_room),
            is_there: Box::new(is_there),
        }
    }

    /// Whether its disk has room left, as far as can be told.
    pub(super) fn has_room(&self) -> bool {
        (self.has_room)()
    }

    /// Whether a file stands there. What is written to one that was removed is gone with the process.
    pub(super) fn is_there(&self) -> bool {
        (self.is_there)()
    }
}

fn is_there(path: &Path) -> bool {
    // Who may not look isn't told that it is gone.
    !std::fs::metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Whether the disk of the file at `path` has room left: asks for it beside that file, and gives it back.
/// What a system says of its free blocks isn't what this process may have of them (blocks reserved, quotas),
/// and what redb takes to find out it keeps. Where it can't be told, there is room.
#[cfg(target_os = "linux")]
fn is_left(path: &Path) -> bool {
    use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, open};
    use rustix::io::Errno;

    let file = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let Some(folder) = file.parent() else {
        return true;
    };
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let Ok(nameless) = open(folder, flags, Mode::RUSR | Mode::WUSR) else {
        return true;
    };
    let taken = fallocate(&nameless, FallocateFlags::empty(), 0, ENOUGH);
    !matches!(taken, Err(Errno::NOSPC | Errno::DQUOT))
}

#[cfg(not(target_os = "linux"))]
fn is_left(_: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_with_room_has_it_and_one_that_cannot_be_asked_too() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("store.redb");
        assert!(is_left(&path));
        assert!(!is_there(&path));
        assert!(is_left(&folder.path().join("none/store.redb")));
        let left = std::fs::read_dir(folder.path()).expect("readable");
        assert_eq!(left.count(), 0, "nothing is left behind");
        std::fs::write(&path, b"").expect("written");
        assert!(is_there(&path));
    }
}
