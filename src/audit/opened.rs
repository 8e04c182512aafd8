//! All files of the log at once, so that what is set aside or removed while they are read is neither a
//! gap nor an error.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::files;

/// How often the files are listed until they are the same before and after they were opened.
const LOOKS: usize = 20;

/// The files of the log at `path`, as they were at one moment.
pub(super) fn opened(path: &Path) -> io::Result<Vec<(PathBuf, File, u64)>> {
    let mut last = None;
    for _ in 0..LOOKS {
        match opened_once(path) {
            Ok(Some(opened)) => return Ok(opened),
            Ok(None) => {}
            // One was removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => last = Some(error),
            Err(error) => return Err(error),
        }
    }
    let changes = || io::Error::other("its files change all the time");
    Err(last.unwrap_or_else(changes))
}

/// The same; `None`: they changed meanwhile.
fn opened_once(path: &Path) -> io::Result<Option<Vec<(PathBuf, File, u64)>>> {
    let mut opened = Vec::new();
    for name in files::all(path)? {
        let file = File::open(&name)?;
        let there = file.metadata()?;
        opened.push((name, file, there));
    }
    let now = files::all(path)?;
    let is_same = |(name, there): (&PathBuf, &Metadata)| {
        let now = std::fs::metadata(name);
        now.is_ok_and(|now| (now.dev(), now.ino()) == (there.dev(), there.ino()))
    };
    let found = opened.iter().map(|(name, _, there)| (name, there));
    if !now.iter().eq(opened.iter().map(|(name, ..)| name)) || !found.into_iter().all(is_same) {
        return Ok(None);
    }
    let sized = |(name, file, there): (PathBuf, File, Metadata)| (name, file, there.len());
    Ok(Some(opened.into_iter().map(sized).collect()))
}
