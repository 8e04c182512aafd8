//! Whether the disk of the store has room left.

use std::path::Path;

/// What a disk must have free to be believed after a failure, bytes: as much as some dozen commits take at
/// once. A write of a few bytes finds room within the file where the next notification finds none.
const ENOUGH: u64 = 256 << 10;

/// Tells whether there is room left; it may block.
pub(super) type Room = Box<dyn Fn() -> bool + Send + Sync>;

/// Whether the disk of the file at `path` has room left. Asked of the system, so that nothing of a full disk
/// is taken, which redb wouldn't give back. Where it can't be told there is room: a disk that can't be asked,
/// and what a quota leaves.
pub(super) fn is_left(path: &Path) -> bool {
    let Ok(disk) = rustix::fs::statvfs(path) else {
        return true;
    };
    let blocks = match rustix::process::geteuid().is_root() {
        true => disk.f_bfree,
        // Some are kept for root.
        false => disk.f_bavail,
    };
    disk.f_blocks == 0 || blocks.saturating_mul(disk.f_frsize) >= ENOUGH
}
