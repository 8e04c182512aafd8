//! Where the file of a store stands, and whether its path still leads there.
//!
//! A file that is removed, moved away or replaced while it is open takes writes as before; the next start finds
//! nothing of them. So one rule holds as long as a store is open: *the file that was opened first is the store, no
//! other is opened in its place, and what is written counts only while the path leads to it.* That is asked before
//! each shared write, so that nothing more goes into a file that is elsewhere, behind it, before anybody is
//! answered, since the file may have gone between, and each second, so that no token is bought for it.
//!
//! The file is held here, so that its number can't become another's, and what was acknowledged stays to be had.
//! What is held is compared with, nothing else: each opening is of its own, with its own locks, by the path; and only
//! to read it by what is held, where the path leads elsewhere.
//!
//! Only what is certain counts. Both ends are asked at the same moment, because a file system may number a file
//! anew (a layer of a container, FUSE); one that disagrees with itself as soon as the file is opened isn't believed.
//! Who doesn't answer (a folder that may not be looked into, a server that is gone) stops nothing: the write
//! itself will tell. Where what is held has died with its server, the path is believed again: the store that is found
//! there still must have the same index keys (`shared`). What is written over in place is the same file, and isn't
//! noticed.

use std::fs::{File, Metadata};
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::overlay::Lock;

/// Where the descriptors of a process have names, which end with them and not with the file.
const DESCRIPTORS: [&str; 2] = ["/proc", "/dev/fd"];

/// The path of a store, and the file that it led to first.
pub(super) struct Whereabouts {
    /// Absolute: a host may change its directory.
    path: PathBuf,
    held: Mutex<Option<Held>>,
    /// What is to be held in the place of one that has died, once it is known to be the same store.
    next: Mutex<Option<Held>>,
}

/// What is compared with, for as long as the store is open.
enum Held {
    /// The file. It is never locked: whoever reads or writes it has opened it for that.
    File(File),
    /// Nobody tells where the file is.
    Untold,
    /// A file of a server that has gone.
    #[cfg(test)]
    Dead,
}

impl Whereabouts {
    /// Of the store at `path`, which isn't open yet.
    pub(super) fn of(path: &Path) -> Self {
        Self {
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            held: Mutex::default(),
            next: Mutex::default(),
        }
    }

    /// The path, absolute.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file, to be written; where the path leads elsewhere, none.
    pub(super) fn for_writing(&self) -> Result<File> {
        self.opened(true)
    }

    /// The file, to be read wherever it is, and whether it is kept from other processes.
    pub(super) fn for_reading(&self) -> Result<(File, Lock)> {
        to_be_read(|may_write| self.opened(may_write)).or_else(|error| {
            let held = self.held();
            let afresh = held.as_ref().and_then(Held::name);
            afresh.map_or(Err(error), |name| {
                to_be_read(|may_write| open(&name, may_write))
            })
        })
    }

    /// Whether the path leads to the file; if it is certain that it doesn't, what is wrong. May wait for the disk.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        let held = self.held();
        let astray = held
            .as_ref()
            .and_then(|held| held.astray(std::fs::metadata(&self.path)));
        match astray {
            Some(astray) => Err(astray.text(&self.path)),
            None => Ok(()),
        }
    }

    /// What was opened last is the store: from now on it is that one, if the former has died.
    pub(super) fn settle(&self) {
        let next = self.next().take();
        let mut held = self.held();
        if next.is_some() && held.as_ref().is_none_or(Held::is_dead) {
            *held = next;
        }
    }

    fn opened(&self, may_write: bool) -> Result<File> {
        let mut held = self.held();
        let mut opened = open(&self.path, may_write)?;
        let astray = held
            .as_ref()
            .and_then(|held| held.astray(opened.metadata()));
        if let Some(astray) = astray {
            return Err(Error::other(astray.text(&self.path)));
        }
        if held.as_ref().is_none_or(Held::is_dead) {
            let mut first = Held::of(&opened, &self.path)?;
            if first.is_none() {
                // Another may just have taken its place.
                opened = open(&self.path, may_write)?;
                first = Held::of(&opened, &self.path)?;
            }
            let first = first.unwrap_or_else(|| {
                let path = self.path.display();
                tracing::warn!(%path, "whether the store's file is taken away can't be told here");
                Held::Untold
            });
            match *held {
                None => *held = Some(first),
                Some(_) => *self.next() = Some(first),
            }
        }
        Ok(opened)
    }

    fn next(&self) -> MutexGuard<'_, Option<Held>> {
        // Held for one assignment.
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        // What panics while it is held leaves it as it was.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn open(path: &Path, may_write: bool) -> Result<File> {
    File::options().read(true).write(may_write).open(path)
}

fn to_be_read(open: impl Fn(bool) -> Result<File>) -> Result<(File, Lock)> {
    match open(true) {
        Ok(file) => Ok((file, Lock::Taken)),
        // On a file system that has become read-only nobody else writes it, either.
        Err(_) => Ok((open(false)?, Lock::None)),
    }
}

impl Held {
    /// To compare with `opened`, to which `path` led; nothing where they don't agree.
    fn of(opened: &File, path: &Path) -> Result<Option<Self>> {
        let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
        let is_a_descriptor =
            folder.is_some_and(|folder| DESCRIPTORS.iter().any(|names| folder.starts_with(names)));
        if is_a_descriptor || !opened.metadata()?.is_file() {
            return Ok(Some(Self::Untold));
        }
        let held = Self::File(open(path, false)?);
        let found = [opened.metadata(), std::fs::metadata(path)];
        let agrees = found.into_iter().all(|found| held.astray(found).is_none());
        Ok(agrees.then_some(held))
    }

    /// What is found instead of the file, if that is certain; `found` is what the path leads to.
    fn astray(&self, found: Result<Metadata>) -> Option<Astray> {
        let held = self.metadata()?;
        if let Err(error) = &found
            && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
        {
            return Some(Astray::Gone);
        }
        let held = held.ok()?;
        match found {
            Ok(found) if !is_same(&held, &found) => Some(Astray::Another),
            // A mount may lead to one that has no name any more.
            _ => has_no_name(&held).then_some(Astray::Gone),
        }
    }

    /// What the system says of the file now; nothing where it isn't told.
    fn metadata(&self) -> Option<Result<Metadata>> {
        match self {
            Self::File(file) => Some(file.metadata()),
            Self::Untold => None,
            #[cfg(test)]
            Self::Dead => Some(Err(ErrorKind::StaleNetworkFileHandle.into())),
        }
    }

    /// Whether it answers no more, nor ever will.
    fn is_dead(&self) -> bool {
        self.metadata().is_some_and(|told| told.is_err())
    }

    /// By what name the file can be opened afresh, wherever it is.
    #[cfg(target_os = "linux")]
    fn name(&self) -> Option<PathBuf> {
        use std::os::fd::AsRawFd;
        match self {
            Self::File(file) => Some(format!("/proc/self/fd/{}", file.as_raw_fd()).into()),
            _ => None,
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn name(&self) -> Option<PathBuf> {
        None
    }
}

/// What is found instead of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Astray {
    Another,
    Gone,
}

impl Astray {
    fn text(self, path: &Path) -> String {
        let (found, next) = match self {
            Self::Another => (
                "another file than the one that is open",
                "rename the former back, and it goes on, or start anew with this one",
            ),
            Self::Gone => ("nothing any more", "rename the file back, and it goes on"),
        };
        format!(
            "{} leads to {found}, so nothing is written: {next}; until this process ends, `store backup` \
             copies the one that is open",
            path.display()
        )
    }
}

/// Whether both are one file, by whatever name.
#[cfg(unix)]
pub(super) fn is_same(one: &Metadata, other: &Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

#[cfg(not(unix))]
pub(super) fn is_same(_: &Metadata, _: &Metadata) -> bool {
    true
}

/// Whether the last name of it was removed.
#[cfg(unix)]
fn has_no_name(file: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(file) == 0
}

#[cfg(not(unix))]
fn has_no_name(_: &Metadata) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// A file `store` in a folder, and another name for it.
    fn made(folder: &tempfile::TempDir) -> (PathBuf, PathBuf) {
        let path = folder.path().join("store");
        fs::write(&path, b"the first").expect("written");
        (path, folder.path().join("away"))
    }

    fn opened(path: &Path) -> Whereabouts {
        let place = Whereabouts::of(path);
        place.for_writing().expect("opened");
        assert_eq!(place.check(), Ok(()));
        place
    }

    fn is_astray(place: &Whereabouts, found: &str) {
        let said = place.check().expect_err("told");
        assert!(said.contains(found), "{said}");
    }

    fn is_at(path: &Path, file: &File) -> bool {
        let found = fs::metadata(path).expect("there");
        is_same(&found, &file.metadata().expect("told"))
    }

    #[test]
    fn the_file_that_was_opened_first_counts_by_whatever_name_and_no_other() {
        let folder = tempfile::tempdir().expect("a directory");
        let (path, away) = made(&folder);
        let place = opened(&path);
        fs::rename(&path, &away).expect("moved");
        is_astray(&place, "leads to nothing");
        symlink("nowhere", &path).expect("linked");
        is_astray(&place, "leads to nothing");
        fs::remove_file(&path).expect("removed");
        fs::copy(&away, &path).expect("copied");
        is_astray(&place, "leads to another file");
        for _ in 0..2 {
            let refused = place.for_writing().expect_err("another");
            assert!(refused.to_string().contains("another file"), "{refused}");
            is_read_at(&away, &place);
        }
        fs::remove_file(&path).expect("removed");
        symlink(&away, &path).expect("linked");
        assert_eq!(place.check(), Ok(()));
        fs::remove_file(&path).expect("removed");
        fs::hard_link(&away, &path).expect("linked");
        fs::remove_file(&away).expect("removed");
        assert_eq!(place.check(), Ok(()));
        fs::remove_file(&path).expect("removed");
        // A file system may give the number of what is gone to what comes.
        fs::write(&path, b"the second").expect("written");
        is_astray(&place, "leads to another file");
    }

    /// It is read where it is, if that can be.
    fn is_read_at(path: &Path, place: &Whereabouts) {
        match place.for_reading() {
            Ok((file, lock)) => assert!(is_at(path, &file) && lock == Lock::Taken),
            Err(error) => assert_ne!(std::env::consts::OS, "linux", "{error}"),
        }
    }

    #[test]
    fn each_opening_has_locks_of_its_own() {
        let folder = tempfile::tempdir().expect("a directory");
        let (path, away) = made(&folder);
        let place = opened(&path);
        let running = place.for_writing().expect("opened");
        let late = place.for_writing().expect("opened");
        running.try_lock().expect("nobody has it");
        late.try_lock().expect_err("it is locked");
        let (read, _) = place.for_reading().expect("opened");
        read.try_lock().expect_err("it is locked");
        // Not even what is closed late unlocks it.
        for late in [late, read] {
            late.unlock().expect("unlocked");
        }
        fs::rename(&path, &away).expect("moved");
        if let Ok((read, _)) = place.for_reading() {
            read.try_lock().expect_err("it is locked");
        }
        drop(running);
        let other = File::open(&away).expect("opened");
        other.try_lock().expect("nobody has it any more");
    }

    #[test]
    fn what_has_died_with_its_server_is_compared_with_no_more() {
        let folder = tempfile::tempdir().expect("a directory");
        let (path, away) = made(&folder);
        let place = opened(&path);
        *place.held() = Some(Held::Dead);
        assert_eq!(place.check(), Ok(()));
        fs::rename(&path, &away).expect("moved");
        // That needs nobody's answer.
        is_astray(&place, "leads to nothing");
        place.for_writing().expect_err("there is none");
        fs::copy(&away, &path).expect("copied");
        assert_eq!(place.check(), Ok(()));
        assert!(is_at(&path, &place.for_writing().expect("opened")));
        assert!(is_at(&path, &place.for_reading().expect("opened").0));
        // One that isn't the same store binds to nothing.
        fs::rename(&path, folder.path().join("foreign")).expect("moved");
        fs::copy(&away, &path).expect("copied");
        assert!(is_at(&path, &place.for_writing().expect("opened")));
        place.settle();
        // From now on it is that one.
        fs::rename(&away, &path).expect("moved");
        is_astray(&place, "leads to another file");
    }

    #[test]
    fn a_path_may_lead_to_what_has_no_name() {
        let folder = tempfile::tempdir().expect("a directory");
        let (path, _) = made(&folder);
        let place = opened(&path);
        fs::remove_file(&path).expect("removed");
        let held = place.held();
        let held = held.as_ref().expect("held");
        let found = || held.metadata().expect("told");
        // As by a mount of the file itself.
        assert_eq!(held.astray(found()), Some(Astray::Gone));
        let unknown = Err(ErrorKind::PermissionDenied.into());
        assert_eq!(held.astray(unknown), Some(Astray::Gone));
    }

    #[test]
    fn a_folder_on_the_way_counts_too() {
        let folder = tempfile::tempdir().expect("a directory");
        let deep = folder.path().join("deep");
        fs::create_dir(&deep).expect("made");
        fs::write(deep.join("store"), b"the first").expect("written");
        let place = opened(&deep.join("store"));
        let away = folder.path().join("away");
        fs::rename(&deep, &away).expect("moved");
        is_astray(&place, "leads to nothing");
        fs::write(&deep, b"no folder").expect("written");
        is_astray(&place, "leads to nothing");
        fs::remove_file(&deep).expect("removed");
        fs::rename(&away, &deep).expect("moved");
        assert_eq!(place.check(), Ok(()));
    }

    #[test]
    fn what_was_opened_to_be_read_is_what_is_written_later() {
        let folder = tempfile::tempdir().expect("a directory");
        let (path, away) = made(&folder);
        let place = Whereabouts::of(&path);
        place.opened(false).expect("opened");
        fs::copy(&path, &away).expect("copied");
        fs::rename(&path, folder.path().join("first")).expect("moved");
        fs::rename(&away, &path).expect("moved");
        let refused = place.for_writing().expect_err("another");
        assert!(refused.to_string().contains("another file"), "{refused}");
        is_read_at(&folder.path().join("first"), &place);
        fs::rename(folder.path().join("first"), &path).expect("moved");
        assert!(is_at(&path, &place.for_writing().expect("opened")));
        assert!(place.for_reading().expect("held").1 == Lock::Taken);
        assert_eq!(place.check(), Ok(()));
    }

    #[test]
    fn a_host_may_change_its_directory() {
        assert!(Whereabouts::of(Path::new("store")).path().is_absolute());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_no_file_of_a_folder_is_left_alone() {
        use std::os::fd::AsRawFd;
        let folder = tempfile::tempdir().expect("a directory");
        let (path, away) = made(&folder);
        for names in ["/proc/self/fd", "/dev/fd"] {
            let nameless = tempfile::tempfile().expect("made");
            let named = File::open(&path).expect("opened");
            for file in [nameless, named] {
                let place = opened(&Path::new(names).join(file.as_raw_fd().to_string()));
                drop(file);
                assert_eq!(place.check(), Ok(()), "{names}");
            }
        }
        opened(Path::new("/dev/null"));
        // Nor is it told of a file that isn't open yet.
        fs::rename(&path, &away).expect("moved");
        assert_eq!(Whereabouts::of(&path).check(), Ok(()));
    }
}
