//! The bearer token of `/api`: made at start where none is configured, and left in a file beside
//! the store, so that the command line of the same user can read it.

use std::fs::{File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::protocol::secret::Secret;

/// How many random bytes a token has.
const BYTES: usize = 32;

/// The token that is in force. Clones share it.
#[derive(Debug, Clone)]
pub struct TokenInForce(Arc<ArcSwap<Secret<String>>>);

impl TokenInForce {
    /// This one is.
    #[must_use]
    pub fn new(token: Secret<String>) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(token)))
    }

    /// Which one is.
    #[must_use]
    pub fn get(&self) -> Arc<Secret<String>> {
        self.0.load_full()
    }

    pub(crate) fn set(&self, token: Secret<String>) {
        self.0.store(Arc::new(token));
    }
}

/// A new random token.
///
/// # Errors
/// When the system has no random numbers to give: then there is no token rather than a weak one.
pub fn generate() -> io::Result<Secret<String>> {
    let mut bytes = [0_u8; BYTES];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| io::Error::other("the system gave no random numbers"))?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

/// Where the token of a sidecar with this store stands, unless another one's stands there.
#[must_use]
pub fn path(store: &Path) -> PathBuf {
    store.with_file_name("admin.token")
}

/// Where it stands then.
fn path_of_its_own(store: &Path) -> PathBuf {
    let mut name = store.file_name().unwrap_or_default().to_owned();
    name.push(".admin-token");
    store.with_file_name(name)
}

/// Where the token of the sidecar that runs with this store is to be read.
#[must_use]
pub fn find(store: &Path) -> PathBuf {
    let own = path_of_its_own(store);
    match own.symlink_metadata() {
        Ok(_) => own,
        Err(_) => path(store),
    }
}

/// A token's file, locked: as long as this lives, no other sidecar puts its token in its place.
#[derive(Debug)]
pub struct LeftToken {
    path: PathBuf,
    _locked: File,
}

impl LeftToken {
    /// Where it stands.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Leaves `token` beside `store`, so that only its owner can read it, from the first moment: where the
/// `former` one of the same sidecar stands, or at [`path`], or, where a sidecar that runs with another
/// store of the same folder has that, in a file named after the store.
///
/// # Errors
/// The system's, which names the file.
pub fn leave(
    store: &Path,
    token: &Secret<String>,
    former: Option<&LeftToken>,
) -> io::Result<LeftToken> {
    let own = path_of_its_own(store);
    let (path, written) = match former.map(|former| former.path.clone()) {
        Some(former) => written_to(former, token, put_over),
        None => write_where_none_runs(path(store), own.clone(), token),
    };
    let named = |error: io::Error| {
        let text = format!("{}: {error}", path.display());
        io::Error::new(error.kind(), text)
    };
    let locked = written.map_err(named)?;
    if path != own {
        // One of an earlier run, which `find` would prefer.
        let _ = std::fs::remove_file(&own);
    }
    Ok(LeftToken {
        path,
        _locked: locked,
    })
}

/// At `shared`, or where a sidecar that runs has that, at `own`.
fn write_where_none_runs(
    shared: PathBuf,
    own: PathBuf,
    token: &Secret<String>,
) -> (PathBuf, io::Result<File>) {
    if matches!(claim(&shared), Claim::Absent) {
        // Of several that begin where none had been, the first has it.
        let (path, written) = written_to(shared.clone(), token, put_first);
        if !matches!(&written, Err(error) if error.kind() == io::ErrorKind::AlreadyExists) {
            return (path, written);
        }
    }
    match claim(&shared) {
        Claim::Taken => written_to(own, token, put_over),
        // What is held is so until the new one is in its place, which whoever begins meanwhile finds
        // locked. What is absent and in the way all the same is a link that leads nowhere.
        Claim::Free(_) | Claim::Absent => written_to(shared, token, put_over),
    }
}

/// Whether that is why a token wasn't left: a disk that is full, a quota, or a limit of the process.
pub(crate) fn is_want_of_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// The token that stands where [`leave`] would have left one, for want of room: the `former` one of the
/// same sidecar, or one of an earlier run. Only one that nobody else can read, and that is whole.
pub(crate) fn keep(store: &Path, former: Option<LeftToken>) -> Option<(LeftToken, Secret<String>)> {
    if let Some(former) = former {
        let file = open(&former.path).ok()?;
        let token = read_private(&file, &former.path)?;
        return Some((former, token));
    }
    let (shared, own) = (path(store), path_of_its_own(store));
    // `leave` removes the latter where it has the former.
    for path in [&own, &shared] {
        let Claim::Free(Some(held)) = claim(path) else {
            continue;
        };
        if let Some(token) = read_private(&held, path) {
            let left = LeftToken {
                path: path.clone(),
                _locked: held,
            };
            return Some((left, token));
        }
    }
    None
}

/// The token in `file`, which stands at `path`, if it is one that [`generate`] made and is the secret of
/// this user alone.
fn read_private(file: &File, path: &Path) -> Option<Secret<String>> {
    let about = file.metadata().ok()?;
    let is_private = about.uid() == rustix::process::geteuid().as_raw()
        && about.mode() & 0o077 == 0
        && path.symlink_metadata().ok()?.is_file();
    if !is_private {
        return None;
    }
    let mut text = String::new();
    let longest = u64::try_from(2 * BYTES).ok()?;
    file.take(longest).read_to_string(&mut text).ok()?;
    let token = Secret::new(text);
    let bytes = URL_SAFE_NO_PAD.decode(token.expose()).ok()?;
    (bytes.len() == BYTES).then_some(token)
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    // A pipe would have nobody come back from here.
    options.custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
    options.open(path)
}

/// Whether a token's file may be replaced.
enum Claim {
    /// It may; it is locked meanwhile, where that can be.
    Free(Option<File>),
    /// There is none.
    Absent,
    /// A sidecar that runs has it.
    Taken,
}

fn claim(path: &Path) -> Claim {
    let identity = |file: std::fs::Metadata| (file.dev(), file.ino());
    loop {
        let there = match open(path) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Claim::Absent,
            Err(_) => return Claim::Free(None),
        };
        match there.try_lock() {
            Err(TryLockError::WouldBlock) => return Claim::Taken,
            // There are file systems without locks.
            Err(TryLockError::Error(_)) => return Claim::Free(None),
            Ok(()) => {}
        }
        let opened = there.metadata().map(identity).ok();
        // Another may have replaced it between the two.
        if opened == path.metadata().map(identity).ok() {
            return Claim::Free(Some(there));
        }
    }
}

/// Writes `token`, and gives its file, locked, and where `put` has put it: at `path`.
fn written_to(
    path: PathBuf,
    token: &Secret<String>,
    put: fn(&Path, &Path) -> io::Result<()>,
) -> (PathBuf, io::Result<File>) {
    // Of nobody else's, either: in two containers both may have the same process id.
    let fresh = path.with_extension(format!("{}.tmp", uuid::Uuid::now_v7().simple()));
    let written = write_new(&fresh, token);
    let written = written.and_then(|file| put(&fresh, &path).map(|()| file));
    // A program that is started over and over on a full disk would leave one each time.
    let written = written.inspect_err(|_| {
        let _ = std::fs::remove_file(&fresh);
    });
    (path, written)
}

fn put_over(fresh: &Path, path: &Path) -> io::Result<()> {
    std::fs::rename(fresh, path)
}

/// Where nothing stands at `path`, or [`io::ErrorKind::AlreadyExists`].
fn put_first(fresh: &Path, path: &Path) -> io::Result<()> {
    match std::fs::hard_link(fresh, path) {
        Ok(()) => std::fs::remove_file(fresh),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // There are file systems without links.
        Err(_) => std::fs::rename(fresh, path),
    }
}

fn write_new(path: &Path, token: &Secret<String>) -> io::Result<File> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    // Nobody else knows it yet; where there are no locks, nobody else asks for them either.
    let _ = file.try_lock();
    file.write_all(token.expose().as_bytes())?;
    Ok(file)
}

/// Whether `given` is the token, in a time that doesn't tell how much of it was right. Nothing is
/// never a token.
#[must_use]
pub fn matches(token: &Secret<String>, given: &str) -> bool {
    use sha2::{Digest, Sha256};
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    let (ours, theirs) = (digest(token.expose()), digest(given));
    let is_equal = aws_lc_rs::constant_time::verify_slices_are_equal(&ours, &theirs).is_ok();
    is_equal && !given.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_matches() {
        let token = Secret::new("token".to_owned());
        assert!(matches(&token, "token"));
        for other in ["", "toke", "tokens", "Token", "token "] {
            assert!(!matches(&token, other), "{other:?}");
        }
        assert!(!matches(&Secret::new(String::new()), ""));
    }

    #[test]
    fn each_token_is_new_and_of_32_bytes() {
        let [one, other] = [(); 2].map(|()| generate().expect("random numbers"));
        assert_eq!(URL_SAFE_NO_PAD.decode(one.expose()).unwrap().len(), 32);
        assert_ne!(one, other);
        assert_eq!(
            path(Path::new("data/sidecar.redb")),
            Path::new("data/admin.token")
        );
    }

    #[test]
    fn a_token_that_is_not_written_leaves_no_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = directory.path().join("sidecar.redb");
        let path = path(&store);
        let token = Secret::new("token".to_owned());
        std::fs::create_dir(&path).expect("created");
        let error = leave(&store, &token, None).expect_err("a directory stands there");
        assert!(error.to_string().contains("admin.token"), "{error}");
        let names = || directory.path().read_dir().expect("readable").count();
        assert_eq!(names(), 1);
        std::fs::remove_dir(&path).expect("empty");
        std::os::unix::fs::symlink("nowhere", &path).expect("linked");
        leave(&store, &token, None).expect("written");
        assert_eq!(
            (names(), std::fs::read(&path).expect("there")),
            (1, b"token".to_vec())
        );
    }

    #[test]
    fn the_token_of_a_sidecar_that_runs_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let stores = ["one.redb", "two.redb"].map(|name| directory.path().join(name));
        let [one, two] = &stores;
        let leave = |store, text: &str, former: Option<&LeftToken>| {
            leave(store, &Secret::new(text.to_owned()), former).expect("left")
        };
        let check = |expected: [&str; 2], names: usize| {
            let read = |store| std::fs::read_to_string(find(store)).expect("a token");
            assert_eq!(stores.each_ref().map(|store| read(store)), expected);
            let there = directory.path().read_dir().expect("readable").count();
            assert_eq!(there, names);
        };
        drop(leave(one, "an earlier one", None));
        let first = leave(one, "first", None);
        let second = leave(two, "second", None);
        assert_eq!(second.path(), directory.path().join("two.redb.admin-token"));
        check(["first", "second"], 2);
        // A reload stays where it is.
        let first = leave(one, "first again", Some(&first));
        drop(second);
        let second = leave(two, "second again", None);
        check(["first again", "second again"], 2);
        drop(first);
        let second = leave(two, "second at last", Some(&second));
        check(["first again", "second at last"], 2);
        drop(second);
        // Alone again, it has the name that everybody knows.
        let second = leave(two, "alone", None);
        assert_eq!(second.path(), path(two));
        check(["alone", "alone"], 1);
    }

    #[test]
    fn of_many_that_begin_at_once_each_has_its_own() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = |index: usize| directory.path().join(format!("{index}.redb"));
        for round in 0..40 {
            // In every other round none had ever been there.
            if round % 2 == 0 {
                drop(leave(&store(0), &Secret::new("earlier".to_owned()), None));
            }
            let all = std::sync::Barrier::new(8);
            let left: Vec<LeftToken> = std::thread::scope(|scope| {
                let begin = |index: usize| {
                    let (all, store) = (&all, store(index));
                    scope.spawn(move || {
                        all.wait();
                        leave(&store, &Secret::new(index.to_string()), None).expect("left")
                    })
                };
                let threads: Vec<_> = (0..8).map(begin).collect();
                let threads = threads.into_iter();
                threads
                    .map(|thread| thread.join().expect("ended"))
                    .collect()
            });
            for index in 0..8 {
                let read = std::fs::read_to_string(find(&store(index)));
                assert_eq!(read.expect("a token"), index.to_string());
            }
            drop(left);
            for file in directory.path().read_dir().expect("readable") {
                std::fs::remove_file(file.expect("a file").path()).expect("removed");
            }
        }
    }
}
