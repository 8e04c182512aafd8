//! To whom files belong that root makes beside a service: with a verb that root runs, they must be the
//! service's, which has to go on with them, and be no way for it to root's own.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, fchown, lchown};
use std::path::Path;

/// The folder of a file.
fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}

/// Who has the folder of `path`, where we are root and somebody else has it.
fn another(path: &Path) -> Option<Metadata> {
    let folder = std::fs::metadata(folder_of(path)).ok()?;
    (rustix::process::geteuid().is_root() && folder.uid() != 0).then_some(folder)
}

/// Gives `made`, which was just made at `path`, to who has the folder.
pub(crate) fn hand_over(path: &Path, made: &File) {
    if let Some(owner) = another(path) {
        // Where it isn't allowed, whoever can't go on says so.
        let _ = fchown(made, Some(owner.uid()), Some(owner.gid()));
    }
}

/// The same of a folder.
pub(crate) fn hand_over_folder(path: &Path) {
    if let Some(owner) = another(path) {
        // Whatever stands there by now: a link is given, not what it leads to.
        let _ = lchown(path, Some(owner.uid()), Some(owner.gid()));
    }
}

/// Whether we are root and somebody else could have put the link `found` at `path`: in a folder of
/// theirs, or in one that others may write, too.
pub(crate) fn may_be_anothers_link(path: &Path, found: &Metadata) -> bool {
    /// What others than the owner of a folder may do who write it.
    const OTHERS_WRITE: u32 = 0o022;
    if !rustix::process::geteuid().is_root() {
        return false;
    }
    match std::fs::metadata(folder_of(path)) {
        Ok(folder) => folder.uid() != 0 || (found.uid() != 0 && folder.mode() & OTHERS_WRITE != 0),
        Err(_) => true,
    }
}

/// The flags to open a file with that stands in somebody else's folder: no link is followed.
pub(crate) fn flags(path: &Path) -> i32 {
    match another(path) {
        Some(_) => rustix::fs::OFlags::NOFOLLOW.bits().cast_signed(),
        None => 0,
    }
}

/// Refuses a file in somebody else's folder that has another name elsewhere.
///
/// # Errors
/// [`io::ErrorKind::PermissionDenied`].
pub(crate) fn check(path: &Path, opened: &Metadata) -> io::Result<()> {
    if opened.nlink() > 1 && another(path).is_some() {
        let reason = "it has another name elsewhere, and its folder is another user's";
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    }
    Ok(())
}
