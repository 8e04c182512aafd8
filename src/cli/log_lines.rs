//! Lines of the log on their way to standard error.
//!
//! A thread writes them: a terminal or pipe that nobody reads must not hold a call up. It is woken for
//! a line that comes while it sleeps, writes at once, and lets further ones gather for a moment before
//! it looks again: under load it costs a wake-up for all lines of a moment, not one for each. What
//! doesn't fit is dropped and counted.

use std::io::{ErrorKind, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait to be written.
const WAITING_LINES: usize = 10_000;
/// How long lines gather while others are being written all the time.
const GATHERING: Duration = Duration::from_millis(5);
/// How long whoever reads them has to take the last ones.
const LAST: Duration = Duration::from_secs(1);
/// How much memory for lines is kept while none wait, bytes.
const KEPT: usize = 16 << 10;

/// Where lines wait. Clones share it.
#[derive(Clone)]
pub(super) struct Lines(Arc<Shared>);

/// Dropping it writes what still waits, as long as somebody takes it within a second.
pub(super) struct LastLines(Arc<Shared>);

struct Shared {
    waiting: Mutex<Waiting>,
    /// For the thread: a line has come, or the end.
    come: Condvar,
    /// For whoever waits for the end.
    ended: Condvar,
    most: usize,
    dropped: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    lines: usize,
    is_thread_asleep: bool,
    is_closing: bool,
    has_ended: bool,
}

impl Lines {
    /// Starts the thread that writes to `out`.
    ///
    /// # Errors
    /// The system's, when it can't start a thread.
    pub(super) fn start(out: impl Write + Send + 'static) -> std::io::Result<(Self, LastLines)> {
        Self::start_with(out, WAITING_LINES)
    }

    fn start_with(
        mut out: impl Write + Send + 'static,
        most: usize,
    ) -> std::io::Result<(Self, LastLines)> {
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            come: Condvar::new(),
            ended: Condvar::new(),
            most,
            dropped: AtomicU64::new(0),
        });
        let lines = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || lines.write_to(&mut out))?;
        Ok((Self(Arc::clone(&shared)), LastLines(shared)))
    }

    /// How many lines were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

impl Write for Lines {
    /// Takes one line, whole.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.push(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

impl Shared {
    fn push(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.lines >= self.most {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.text.extend_from_slice(line);
        waiting.lines += 1;
        let is_asleep = std::mem::take(&mut waiting.is_thread_asleep);
        drop(waiting);
        if is_asleep {
            self.come.notify_one();
        }
    }

    /// Writes what comes until the end.
    fn write_to(&self, out: &mut impl Write) {
        let mut text = Vec::new();
        while self.take(&mut text) {
            // Where nobody takes them, there is nobody to tell; they are counted.
            let lost = written(out, &text);
            self.dropped.fetch_add(lost, Ordering::Relaxed);
            text.clear();
            text.shrink_to(KEPT);
            self.gather();
        }
        self.lock().has_ended = true;
        self.ended.notify_all();
    }

    /// Waits for lines, and takes them all; `false`: there are no more to come.
    fn take(&self, text: &mut Vec<u8>) -> bool {
        let mut waiting = self.lock();
        while waiting.lines == 0 {
            if waiting.is_closing {
                return false;
            }
            waiting.is_thread_asleep = true;
            waiting = self
                .come
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        waiting.is_thread_asleep = false;
        waiting.lines = 0;
        std::mem::swap(&mut waiting.text, text);
        true
    }

    /// Lets lines gather, but not at the end.
    fn gather(&self) {
        let come = &self.come;
        // Poisoned or not, it is looked at again.
        let _ = come.wait_timeout_while(self.lock(), GATHERING, |waiting| !waiting.is_closing);
    }

    /// Nothing that can panic runs under the lock.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what can be written, and tells how many lines can't.
fn written(out: &mut impl Write, text: &[u8]) -> u64 {
    let mut rest = text;
    while !rest.is_empty() {
        match out.write(rest) {
            Ok(length @ 1..) => rest = rest.get(length..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => break,
        }
    }
    // What is buffered there is no line of ours any more.
    let _ = out.flush();
    let lost = rest.iter().filter(|byte| **byte == b'\n').count();
    u64::try_from(lost).unwrap_or(u64::MAX)
}

impl Drop for LastLines {
    fn drop(&mut self) {
        let shared = &self.0;
        let mut waiting = shared.lock();
        waiting.is_closing = true;
        shared.come.notify_all();
        // Who doesn't read holds the end of the process up for no longer.
        let _ = shared
            .ended
            .wait_timeout_while(waiting, LAST, |waiting| !waiting.has_ended);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Tells what is written, and waits each time until it may go on.
    struct Slow {
        written: Sender<String>,
        go_on: Receiver<()>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let text = String::from_utf8_lossy(bytes).into_owned();
            self.written.send(text).expect("the test listens");
            // The test may be over.
            let _ = self.go_on.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn slow(most: usize) -> (Lines, LastLines, Receiver<String>, Sender<()>) {
        let (written, writes) = channel();
        let (go, go_on) = channel();
        let (lines, last) = Lines::start_with(Slow { written, go_on }, most).expect("a thread");
        (lines, last, writes, go)
    }

    fn say(lines: &Lines, line: &str) {
        lines.clone().write_all(line.as_bytes()).expect("taken");
    }

    #[test]
    fn lines_that_come_meanwhile_are_written_together() {
        let (lines, _last, writes, go) = slow(10);
        say(&lines, "1\n");
        assert_eq!(writes.recv().as_deref(), Ok("1\n"), "the first one at once");
        say(&lines, "2\n");
        say(&lines, "3\n");
        go.send(()).expect("the thread waits");
        assert_eq!(writes.recv().as_deref(), Ok("2\n3\n"));
        go.send(()).expect("the thread waits");
        say(&lines, "4\n");
        assert_eq!(writes.recv().as_deref(), Ok("4\n"));
        drop(go);
    }

    /// A disk with room for so many bytes.
    struct Disk(usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let taken = bytes.len().min(self.0).min(3);
            self.0 -= taken;
            match taken {
                0 => Err(ErrorKind::StorageFull.into()),
                taken => Ok(taken),
            }
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_a_full_disk_refuses_is_counted() {
        let text = b"1\n2\n3\n4\n";
        for (room, lost) in [(8, 0), (7, 1), (4, 2), (1, 4), (0, 4)] {
            assert_eq!(written(&mut Disk(room), text), lost, "{room}");
        }
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let (lines, _last, writes, go) = slow(2);
        say(&lines, "1\n");
        assert_eq!(writes.recv().as_deref(), Ok("1\n"));
        for line in ["2\n", "3\n", "4\n", "5\n"] {
            say(&lines, line);
        }
        assert_eq!(lines.dropped(), 2);
        drop(go);
        assert_eq!(writes.recv().as_deref(), Ok("2\n3\n"));
    }

    #[test]
    fn the_end_writes_what_waits() {
        let (lines, last, writes, go) = slow(10);
        say(&lines, "1\n");
        assert_eq!(writes.recv().as_deref(), Ok("1\n"));
        say(&lines, "2\n");
        drop(go);
        drop(last);
        assert_eq!(writes.try_recv().as_deref(), Ok("2\n"));
    }
}
