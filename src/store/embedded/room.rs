//! Whether the disk of the store has room left.

use std::path::Path;

/// What a disk must have left to be believed after it was full, bytes: what some dozen small commits take at
/// once. A write of a few bytes finds room within the file where the next notification finds none.
pub(super) const ENOUGH: u64 = 256 << 10;

/// Tells whether there is room left; it may block.
pub(super) type Room = Box<dyn Fn() -> bool + Send + Sync>;

/// Whether the disk of the file at `path` has room left: asks for it beside that file, and gives it back.
/// What a system says of its free blocks isn't what this process may have of them (blocks reserved, quotas),
/// and what redb takes to find out it keeps. Where it can't be told, there is room.
#[cfg(target_os = "linux")]
pub(super) fn is_left(path: &Path) -> bool {
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
pub(super) fn is_left(_: &Path) -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_with_room_has_it_and_one_that_cannot_be_asked_too() {
        let folder = tempfile::tempdir().expect("a directory");
        assert!(is_left(&folder.path().join("store.redb")));
        assert!(is_left(&folder.path().join("none/store.redb")));
        let left = std::fs::read_dir(folder.path()).expect("readable");
        assert_eq!(left.count(), 0, "nothing is left behind");
    }
}
