//! Files that references name, opened and read so that none of them holds up whoever loads the
//! configuration.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

/// Opens the file at `path` for reading, and waits for nobody: to open a named pipe takes for ever where
/// nobody writes to it.
///
/// # Errors
/// The system's.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// What an opened file gives: a pipe (`<(…)`, `/dev/stdin`) may take its time.
pub(super) struct Patient {
    file: File,
    /// `None`: it may take as long as it likes.
    until: Option<Instant>,
    /// Whether the end may only be that nobody writes yet.
    awaits_writer: bool,
    /// Whether another writer may come after one that has gone.
    is_named: bool,
}

impl Patient {
    /// What `file` gives within `patience`, or ever.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn new(file: File, patience: Option<Duration>) -> io::Result<Self> {
        let awaits_writer = file.metadata()?.file_type().is_fifo();
        let is_named = awaits_writer && !is_unnamed(&file)?;
        Ok(Self {
            file,
            until: patience.map(|patience| Instant::now() + patience),
            awaits_writer,
            is_named,
        })
    }

    /// Whether who wrote has gone: a pipe hangs up then, and doesn't before anybody has opened it.
    fn is_abandoned(&self) -> io::Result<bool> {
        let mut asked = [PollFd::new(&self.file, PollFlags::IN)];
        poll(&mut asked, Some(&Timespec::default()))?;
        let [told] = &asked;
        // What came in between is still to be read.
        Ok(told.revents().contains(PollFlags::HUP) && !told.revents().contains(PollFlags::IN))
    }
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read(buffer) {
                Ok(0) if self.awaits_writer && (self.is_named || !self.is_abandoned()?) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                given => {
                    self.awaits_writer = false;
                    return given;
                }
            }
            if self.until.is_some_and(|until| Instant::now() >= until) {
                let why = match self.awaits_writer && self.is_abandoned()? {
                    true => EMPTY,
                    false => LATE,
                };
                return Err(io::Error::new(io::ErrorKind::TimedOut, why));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

/// Whether a pipe has no name by which anybody else could open it: all of these are in one file system.
fn is_unnamed(pipe: &File) -> io::Result<bool> {
    let (unnamed, _) = io::pipe()?;
    let unnamed = File::from(OwnedFd::from(unnamed));
    Ok(pipe.metadata()?.dev() == unnamed.metadata()?.dev())
}

/// Reads at most one byte more than a secret may have. There is room for all of it from the
/// beginning, because a text that grows leaves copies that nobody wipes.
pub(super) fn read_whole(source: &mut impl Read) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::with_capacity(LONGEST + 2));
    let most = LONGEST as u64 + 1;
    source.take(most).read_to_string(&mut text)?;
    Ok(text)
}

/// What is told of a named pipe that was only opened for writing, as by `touch`.
const EMPTY: &str = "a pipe whose writer closed it without a text, and no other came within 10 s";

/// What is told of any other then.
const LATE: &str = "no file but a pipe or a device, which didn't give all of its text within 10 s";

/// How often a pipe that gives nothing is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// No key, token or chain is longer, bytes.
pub(super) const LONGEST: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::process::Command;

    use super::*;

    fn pipe() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pipe");
        let made = Command::new("mkfifo").arg(&path).status();
        assert!(made.expect("mkfifo").success());
        (folder, path)
    }

    fn read(path: &Path, ms: u64) -> io::Result<String> {
        let mut text = String::new();
        let patience = Some(Duration::from_millis(ms));
        Patient::new(open(path)?, patience)?.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn a_pipe_that_nobody_writes_to_is_given_up() {
        let (_folder, path) = pipe();
        let kind = |path| read(path, 20).map_err(|error| error.kind());
        assert_eq!(kind(&path), Err(io::ErrorKind::TimedOut));
        // Nor is it waited for who begins and doesn't end.
        let mut writer = File::options().read(true).write(true).open(&path);
        let writer = writer.as_mut().expect("opened");
        assert_eq!(kind(&path), Err(io::ErrorKind::TimedOut));
        writer.write_all(b"half a sec").expect("written");
        assert_eq!(kind(&path), Err(io::ErrorKind::TimedOut));
    }

    #[test]
    fn a_pipe_gives_what_is_written_to_it_in_time() {
        let (_folder, path) = pipe();
        let writer = std::thread::spawn({
            let path = path.clone();
            move || std::fs::write(path, "a secret\n")
        });
        assert_eq!(read(&path, 30_000).expect("in time"), "a secret\n");
        writer.join().expect("no panic").expect("written");
    }

    #[test]
    fn what_a_writer_left_empty_is_not_waited_for() {
        // As `<(…)` and `/dev/stdin` name one; it hangs up once its last writer is gone.
        let (unnamed, its_writer) = io::pipe().expect("a pipe");
        let ended = Path::new("/proc/self/fd").join(unnamed.as_raw_fd().to_string());
        drop(its_writer);
        assert_eq!(read(&ended, 60_000).expect("read"), "");
    }

    #[test]
    fn a_named_pipe_is_waited_for_until_somebody_writes() {
        let (_folder, path) = pipe();
        let reader = |ms| {
            let patience = Some(Duration::from_millis(ms));
            Patient::new(open(&path).expect("opened"), patience).expect("a pipe")
        };
        // As `touch` does.
        let touch = || drop(File::options().write(true).open(&path).expect("opened"));
        let mut text = String::new();
        let mut hurried = reader(20);
        touch();
        let late = hurried.read_to_string(&mut text).expect_err("too late");
        assert_eq!(
            (late.kind(), late.to_string().as_str()),
            (io::ErrorKind::TimedOut, EMPTY)
        );
        drop(hurried);
        let mut patient = reader(60_000);
        assert!(!patient.is_abandoned().expect("asked"));
        touch();
        assert!(patient.is_abandoned().expect("asked"));
        let writer = std::thread::spawn({
            let path = path.clone();
            move || {
                std::thread::sleep(Duration::from_millis(60));
                std::fs::write(path, "a secret\n")
            }
        });
        patient.read_to_string(&mut text).expect("in time");
        assert_eq!(text, "a secret\n");
        writer.join().expect("no panic").expect("written");
    }

    #[test]
    fn what_is_empty_by_itself_is_not_waited_for() {
        assert_eq!(read(Path::new("/dev/null"), 60_000).expect("read"), "");
    }
}
