//! The files of the log: the one that is written, and those before it.
//!
//! `audit.jsonl` is written; when a day or its size is over it becomes
//! `audit.jsonl.2026-11-26.000000000123`, named after the day of its last line and the number of its
//! first.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::chain::{Belief, Head, ReadLine, digest_text};
use super::error::AuditError;
use crate::store::ownership;

/// How much of the end of a file is looked at: many times the longest line.
const TAIL: u64 = 256 << 10;

/// The file that is written, locked.
pub(super) struct LogFile {
    file: File,
    /// Up to where it is known to be good.
    length: u64,
    /// A write failed half-way: what is behind `length` is of no use.
    is_dirty: bool,
    identity: (u64, u64),
    /// The number of its first line; `None`: it has none.
    pub(super) first: Option<u64>,
    /// The day of its last line.
    pub(super) day: Option<String>,
}

impl LogFile {
    /// Opens the file at `path`, or creates it, readable by its owner alone.
    pub(super) fn open(path: &Path) -> Result<Self, AuditError> {
        let wrong = |error| AuditError::of(path, error);
        if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            return Err(AuditError::NotAFile {
                path: path.to_owned(),
            });
        }
        create_directory(path).map_err(wrong)?;
        let mut options = OpenOptions::new();
        options.read(true).append(true).mode(0o600);
        options.custom_flags(ownership::flags(path));
        let (file, is_new) = match options.clone().create_new(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                (options.open(path).map_err(wrong)?, false)
            }
            made => (made.map_err(wrong)?, true),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(AuditError::Locked {
                    path: path.to_owned(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(wrong(error)),
        }
        let there = file.metadata().map_err(wrong)?;
        ownership::check(path, &there).map_err(wrong)?;
        if is_new {
            ownership::hand_over(path, &file);
        }
        if there.len() == 0 {
            sync_directory(path).map_err(wrong)?;
        }
        Ok(Self {
            length: there.len(),
            is_dirty: false,
            identity: (there.dev(), there.ino()),
            first: None,
            day: None,
            file,
        })
    }

    /// How long it is.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Whether `path` still leads to it, and nobody else cut it.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        let there = fs::metadata(path);
        there.is_ok_and(|there| {
            (there.dev(), there.ino()) == self.identity && there.len() >= self.length
        })
    }

    /// Appends `lines` and makes them safe. Fails without a trace, as far as the disk lets it.
    pub(super) fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.is_dirty {
            self.file.set_len(self.length)?;
            self.is_dirty = false;
        }
        // What somebody else appended stays where it is, for all to see, and spoils no line.
        let is_followed = self.file.metadata()?.len() > self.length;
        self.is_dirty = true;
        let written = match is_followed {
            true => self.file.write_all(&[b"\n", lines].concat()),
            false => self.file.write_all(lines),
        };
        if let Err(error) = written.and_then(|()| self.file.sync_data()) {
            // Where this fails, too, the next write or start sees to what is left.
            self.is_dirty = self.file.set_len(self.length).is_err();
            return Err(error);
        }
        self.is_dirty = false;
        self.length = self.file.metadata()?.len();
        Ok(())
    }
}

/// The end of a file.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// The last line that is believed, and when that was written.
    pub(super) last: Option<(Head, String)>,
    /// How many lines stand behind it.
    pub(super) unvouched: u64,
    /// What stands at the very end and is no line.
    pub(super) torn: Vec<Vec<u8>>,
    /// Whether it ends within a line.
    pub(super) is_open: bool,
}

impl Tail {
    /// Reads the end of the file at `path`.
    pub(super) fn read(path: &Path, belief: Belief<'_>) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        let begin = length.saturating_sub(TAIL);
        file.seek(SeekFrom::Start(begin))?;
        let mut end = Vec::new();
        file.take(TAIL).read_to_end(&mut end)?;
        let whole = match begin {
            0 => end.as_slice(),
            // The first one is cut.
            _ => end.splitn(2, |b| *b == b'\n').nth(1).unwrap_or_default(),
        };
        Ok(Self::of(whole, belief))
    }

    fn of(bytes: &[u8], belief: Belief<'_>) -> Self {
        let is_open = bytes.last().is_some_and(|last| *last != b'\n');
        let mut torn = Vec::new();
        let (mut last, mut unvouched) = (None, 0);
        for line in lines(bytes).rev() {
            match ReadLine::read(line) {
                Some(read) if belief.holds(&read) => {
                    last = Some((read.head(), read.time));
                    break;
                }
                Some(_) => unvouched += 1,
                None if unvouched == 0 => torn.push(line.to_vec()),
                None => {}
            }
        }
        torn.reverse();
        Self {
            last,
            unvouched,
            torn,
            is_open,
        }
    }

    /// The day of its last line.
    pub(super) fn day(&self) -> Option<&str> {
        let (_, time) = self.last.as_ref()?;
        time.get(..10).filter(|day| is_day(day))
    }
}

/// The lines of `bytes`, the last of which may lack its end.
pub(super) fn lines(bytes: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let some = (!bytes.is_empty()).then(|| bytes.split(|b| *b == b'\n'));
    some.into_iter().flatten()
}

/// What a start says of lines that are none.
pub(super) fn torn_digest(torn: &[Vec<u8>]) -> Option<String> {
    let mut said = Torn::default();
    torn.iter().for_each(|line| said.push(line, Ended::Yes));
    said.digest()
}

/// Whether more of a line follows what was read of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// What is read at once ends first.
    No,
    /// Its end, or that of the file.
    Yes,
}

/// Lines that are none, one after another: a file may be full of them.
#[derive(Default)]
pub(super) struct Torn {
    /// How many there are.
    pub(super) count: u64,
    bytes: Sha256,
    /// More of the last one follows.
    is_open: bool,
}

impl Torn {
    /// Adds a line, or a piece of one.
    pub(super) fn push(&mut self, line: &[u8], ended: Ended) {
        if !self.is_open {
            if self.count > 0 {
                self.bytes.update(b"\n");
            }
            self.count += 1;
        }
        self.bytes.update(line);
        self.is_open = ended == Ended::No;
    }

    /// The file ends: what follows is another line.
    pub(super) fn end_of_file(&mut self) {
        self.is_open = false;
    }

    /// What a start says of them; nothing of none.
    pub(super) fn digest(self) -> Option<String> {
        (self.count > 0).then(|| digest_text(self.bytes.finalize().into()))
    }
}

/// The number of the first line of a file.
pub(super) fn first_seq(path: &Path) -> io::Result<Option<u64>> {
    let mut begin = Vec::new();
    File::open(path)?.take(TAIL).read_to_end(&mut begin)?;
    let mut read = lines(&begin).filter_map(ReadLine::read);
    Ok(read.next().map(|line| line.seq))
}

/// All files of the log at `path` that there are: its own and those whose names begin with it,
/// ordered by their first lines. Those without a line come last.
///
/// # Errors
/// The directory's, or that of a file.
pub fn all(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for name in names(path)? {
        let file = path.with_file_name(&name);
        if fs::metadata(&file)?.is_file() {
            found.push((first_seq(&file)?.unwrap_or(u64::MAX), name, file));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, _, file)| file).collect())
}

/// The names that begin with that of `path`.
fn names(path: &Path) -> io::Result<Vec<String>> {
    let own = own_name(path);
    let mut names = Vec::new();
    for there in fs::read_dir(directory(path))? {
        let Ok(name) = there?.file_name().into_string() else {
            continue;
        };
        let rest = name.strip_prefix(&own);
        let is_ours = |rest: &str| rest.is_empty() || rest.starts_with('.');
        if rest.is_some_and(is_ours) && !is_compressed(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// What somebody compressed can't be read here: its lines are missed like any others.
fn is_compressed(name: &str) -> bool {
    let extension = Path::new(name).extension().unwrap_or_default();
    ["bz2", "gz", "xz", "zst"]
        .iter()
        .any(|end| extension == *end)
}

/// The file before this one, under its lasting name. Nothing is ever overwritten.
pub(super) fn set_aside(path: &Path, day: &str, first: u64) -> io::Result<()> {
    let own = own_name(path);
    let aside = path.with_file_name(format!("{own}.{day}.{first:012}"));
    if aside.symlink_metadata().is_ok() {
        let what = format!("{} exists already", aside.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, what));
    }
    fs::rename(path, &aside)?;
    sync_directory(path)
}

/// The files set aside whose last day is before `day`.
pub(super) fn older_than(path: &Path, day: &str) -> io::Result<Vec<PathBuf>> {
    let own = own_name(path);
    let is_older = |name: &String| {
        let rest = name
            .strip_prefix(&own)
            .and_then(|rest| rest.strip_prefix('.'));
        rest.and_then(day_of).is_some_and(|its_day| its_day < day)
    };
    let names = names(path)?.into_iter().filter(is_older);
    Ok(names.map(|name| path.with_file_name(name)).collect())
}

/// A file that was set aside.
pub(super) struct Aside {
    pub(super) file: PathBuf,
    pub(super) bytes: u64,
    /// The number of its first line, by its name.
    pub(super) first: u64,
}

/// The files set aside, the oldest first.
pub(super) fn asides(path: &Path) -> io::Result<Vec<Aside>> {
    let own = own_name(path);
    let mut found = Vec::new();
    for name in names(path)? {
        let rest = name
            .strip_prefix(&own)
            .and_then(|rest| rest.strip_prefix('.'));
        let Some((_, first)) = rest.and_then(aside_of) else {
            continue;
        };
        let (file, first) = (
            path.with_file_name(&name),
            first.parse().unwrap_or(u64::MAX),
        );
        let there = fs::metadata(&file)?;
        if there.is_file() {
            let bytes = there.len();
            found.push(Aside { file, bytes, first });
        }
    }
    found.sort_by_key(|aside| aside.first);
    Ok(found)
}

/// The day in what [`set_aside`] appends to a name; `None`: it isn't ours.
fn day_of(rest: &str) -> Option<&str> {
    aside_of(rest).map(|(day, _)| day)
}

/// The same with the number of the first line.
fn aside_of(rest: &str) -> Option<(&str, &str)> {
    let (day, first) = rest.split_once('.')?;
    (is_day(day) && first.len() >= 12 && is_digits(first)).then_some((day, first))
}

/// Whether it has the form `2026-11-26`.
fn is_day(text: &str) -> bool {
    let mut parts = text.split('-');
    let fits = |count| {
        parts
            .next()
            .is_some_and(|part| part.len() == count && is_digits(part))
    };
    [4, 2, 2].into_iter().all(fits) && parts.next().is_none()
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit())
}

fn own_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Creates the directory of `path`, for its owner alone, where only that one is missing.
fn create_directory(path: &Path) -> io::Result<()> {
    let directory = directory(path);
    if directory.exists() {
        return Ok(());
    }
    DirBuilder::new().mode(0o700).create(directory)?;
    ownership::hand_over_folder(directory);
    Ok(())
}

/// Finds out whether a log can be written at `path`, and leaves nothing there.
///
/// # Errors
/// Why it can't.
pub fn probe(path: &Path) -> Result<(), AuditError> {
    let wrong = |error| AuditError::of(path, error);
    match fs::metadata(path) {
        Ok(there) if !there.is_file() => Err(AuditError::NotAFile {
            path: path.to_owned(),
        }),
        Ok(_) => OpenOptions::new()
            .append(true)
            .open(path)
            .map(drop)
            .map_err(wrong),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            probe_directory(path).map_err(wrong)
        }
        Err(error) => Err(wrong(error)),
    }
}

/// The same for who is about to write it: nobody else does, and what was set aside can be found.
///
/// # Errors
/// Why it can't be.
pub fn probe_alone(path: &Path) -> Result<(), AuditError> {
    probe(path)?;
    if !path.exists() {
        return Ok(());
    }
    LogFile::open(path)?;
    all(path)
        .map(drop)
        .map_err(|error| AuditError::of(path, error))
}

fn probe_directory(path: &Path) -> io::Result<()> {
    let directory = directory(path);
    let is_missing = !directory.exists();
    create_directory(path)?;
    let probe = directory.join(format!(".audit-probe-{}", std::process::id()));
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&probe);
    let removed = created.and_then(|_| fs::remove_file(&probe));
    let removed = removed.and_then(|()| names(path).map(drop));
    if is_missing {
        fs::remove_dir(directory)?;
    }
    removed
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(directory(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_our_own_are_ever_old() {
        assert_eq!(day_of("2026-11-26.000000000123"), Some("2026-11-26"));
        for other in [
            "2026-11-26",
            "2026-11-26.gz",
            "1",
            "2026-11-26.000000000123.gz",
            "26-11-2026.000000000123",
            "2026-11-26.12",
        ] {
            assert_eq!(day_of(other), None, "{other}");
        }
    }

    #[test]
    fn an_end_that_is_no_line_is_told_from_the_last_line() {
        let line = br#"{"seq":3,"prev":"p","time":"t","event":"call","outcome":"ok"}"#;
        let all = Belief::ALL;
        let whole = [line.as_slice(), b"\n"].concat();
        let tail = Tail::of(&whole, all);
        assert_eq!(tail.last.map(|(head, _)| head.seq), Some(3));
        assert!(tail.torn.is_empty() && !tail.is_open);
        let torn = [&whole, b"{\"seq\":4,\"pr".as_slice()].concat();
        let tail = Tail::of(&torn, all);
        assert_eq!(tail.last.map(|(head, _)| head.seq), Some(3));
        assert_eq!(tail.torn, [b"{\"seq\":4,\"pr"]);
        assert!(tail.is_open);
        let nothing = Tail::of(b"", all);
        assert!(nothing.last.is_none() && nothing.torn.is_empty() && !nothing.is_open);
    }
}
