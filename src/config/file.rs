//! Files that references name, opened and read so that none of them holds up whoever loads the
//! configuration.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

/// Opens the file at `path` for reading, and waits for nobody: to open a named pipe takes for ever where
/// nobody writes to it.
///
/// # Errors
/// The system's.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    Ok(rustix::fs::open(path, flags, Mode::empty())?.into())
}

/// What an opened file gives: a pipe (`<(…)`, `/dev/stdin`) may take its time, though not for ever.
pub(super) struct Patient {
    file: File,
    until: Instant,
    /// Whether the end is only that nobody writes yet.
    awaits_writer: bool,
}

impl Patient {
    /// What `file` gives within `patience`.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn new(file: File, patience: Duration) -> io::Result<Self> {
        let awaits_writer = file.metadata()?.file_type().is_fifo();
        Ok(Self {
            file,
            until: Instant::now() + patience,
            awaits_writer,
        })
    }
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read(buffer) {
                Ok(0) if self.awaits_writer => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                given => {
                    self.awaits_writer = false;
                    return given;
                }
            }
            if Instant::now() >= self.until {
                return Err(io::Error::new(io::ErrorKind::TimedOut, LATE));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

/// What is told then.
const LATE: &str = "no file but a pipe or a device, which didn't give all of its text within 10 s";

/// How often a pipe that gives nothing is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use std::io::Write;
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
        Patient::new(open(path)?, Duration::from_millis(ms))?.read_to_string(&mut text)?;
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
    fn what_is_empty_by_itself_is_not_waited_for() {
        assert_eq!(read(Path::new("/dev/null"), 60_000).expect("read"), "");
    }
}
