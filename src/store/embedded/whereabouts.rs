//! Where the file of a store stands, and whether its path still leads there.
//!
//! A file that is removed, moved away or replaced while it is open takes writes as before; the next start finds
//! nothing of them. So one rule holds as long as a store is open: *the file that was opened first is the store, no
//! other is ever opened in its place, and what is written counts only while the path leads to it.* That is asked
//! before each shared write, so that nothing more goes into a file that is elsewhere, and behind it, before anybody
//! is answered, since the file may have gone between. Reads go on, and so does `store backup`: the file is held
//! here, so that what was acknowledged stays to be had, and that its number can't become another's.
//!
//! Only what is certain counts. Both ends are asked at the same moment, because a file system may number a file
//! anew (a layer of a container, FUSE); one that disagrees with itself as soon as the file is opened isn't believed.
//! Who doesn't answer (a folder that may not be looked into, a server that is gone) stops nothing: the write
//! itself will tell. What is written over in place is the same file, and isn't noticed.

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
}

/// The file, for as long as the store is open.
struct Held {
    file: File,
    may_write: bool,
    /// Whether the file system tells where it is.
    is_told: bool,
}

impl Whereabouts {
    /// Of the store at `path`, which isn't open yet.
    pub(super) fn of(path: &Path) -> Self {
        Self {
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            held: Mutex::default(),
        }
    }

    /// The path, absolute.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file, to be written. Once it is held so, it is that one whatever the path leads to; its locks pass from
    /// one opening to the next.
    pub(super) fn for_writing(&self) -> Result<File> {
        let mut held = self.held();
        if let Some(held) = held.as_ref().filter(|held| held.may_write) {
            return held.file.try_clone();
        }
        let opened = Held::open(&self.path, true)?;
        if let Some(former) = held.as_ref().filter(|held| held.is_told)
            && !is_same(&former.file.metadata()?, &opened.file.metadata()?)
        {
            return Err(Error::other(Astray::Another.text(&self.path)));
        }
        held.insert(opened).file.try_clone()
    }

    /// The file, to be read, and whether it is kept from other processes.
    pub(super) fn for_reading(&self) -> Result<(File, Lock)> {
        if let Ok(file) = self.for_writing() {
            return Ok((file, Lock::Taken));
        }
        // On a file system that has become read-only nobody else writes it, either.
        let mut held = self.held();
        let file = match held.as_ref() {
            Some(held) => held.file.try_clone()?,
            None => held
                .insert(Held::open(&self.path, false)?)
                .file
                .try_clone()?,
        };
        Ok((file, Lock::None))
    }

    /// Whether the path leads to the file; if it is certain that it doesn't, what is wrong. May wait for the disk.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        let held = self.held();
        match held.as_ref().and_then(|held| held.astray(&self.path)) {
            Some(astray) => Err(astray.text(&self.path)),
            None => Ok(()),
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        // What panics while it is held leaves it as it was.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn open(path: &Path, may_write: bool) -> Result<Self> {
        // A second time where another file may just have taken its place.
        for _ in 0..2 {
            let opened = Self::open_once(path, may_write)?;
            if opened.astray(path).is_none() {
                return Ok(opened);
            }
        }
        tracing::warn!(path = %path.display(), "whether the store's file is taken away can't be told here");
        let opened = Self::open_once(path, may_write)?;
        Ok(Self {
            is_told: false,
            ..opened
        })
    }

    fn open_once(path: &Path, may_write: bool) -> Result<Self> {
        let file = File::options().read(true).write(may_write).open(path)?;
        let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
        let is_a_descriptor =
            folder.is_some_and(|folder| DESCRIPTORS.iter().any(|names| folder.starts_with(names)));
        let is_told = file.metadata()?.is_file() && !is_a_descriptor;
        Ok(Self {
            file,
            may_write,
            is_told,
        })
    }

    fn astray(&self, path: &Path) -> Option<Astray> {
        if !self.is_told {
            return None;
        }
        let held = self.file.metadata().ok()?;
        match std::fs::metadata(path) {
            Ok(found) => (!is_same(&held, &found)).then_some(Astray::Another),
            Err(error) => {
                let is_gone =
                    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory);
                (is_gone || has_no_name(&held)).then_some(Astray::Gone)
            }
        }
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
                "put the former back, and it goes on, or start anew with this one",
            ),
            Self::Gone => ("nothing any more", "put the file back, and it goes on"),
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
            assert!(is_at(&away, &place.for_writing().expect("held")));
            let (file, lock) = place.for_reading().expect("held");
            assert!(is_at(&away, &file) && lock == Lock::Taken);
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
        *place.held() = Some(Held::open(&path, false).expect("opened"));
        fs::copy(&path, &away).expect("copied");
        fs::rename(&path, folder.path().join("first")).expect("moved");
        fs::rename(&away, &path).expect("moved");
        let refused = place.for_writing().expect_err("another");
        assert!(refused.to_string().contains("another file"), "{refused}");
        let (file, lock) = place.for_reading().expect("held");
        assert!(is_at(&folder.path().join("first"), &file) && lock == Lock::None);
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
