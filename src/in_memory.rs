//! What the system has of a file in memory: read on the spot, by whoever may not wait for a disk.

use std::os::fd::{AsFd, BorrowedFd};

/// A file, as far as the system has it in memory.
#[derive(Debug)]
pub(crate) struct InMemory<F>(F);

impl<F: AsFd> InMemory<F> {
    /// What there is of `file`, whose reads no longer note the time: for that a file system may wait for
    /// its journal. `None` for whoever doesn't own the file, and so can't forbid it.
    pub(crate) fn of(file: F) -> Option<Self> {
        leaves_no_trace(file.as_fd()).then(|| Self(file))
    }

    /// Reads what stands at `offset`; tells how many bytes were there to be had without waiting. None
    /// may as well mean that the file ends, that it can't be read, or that its file system can't tell.
    pub(crate) fn read(&self, out: &mut [u8], offset: u64) -> usize {
        read(self.0.as_fd(), out, offset)
    }
}

#[cfg(target_os = "linux")]
fn leaves_no_trace(file: BorrowedFd<'_>) -> bool {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    fcntl_getfl(file).is_ok_and(|flags| fcntl_setfl(file, flags | OFlags::NOATIME).is_ok())
}

#[cfg(not(target_os = "linux"))]
fn leaves_no_trace(_: BorrowedFd<'_>) -> bool {
    false
}

#[cfg(target_os = "linux")]
fn read(file: BorrowedFd<'_>, out: &mut [u8], offset: u64) -> usize {
    use rustix::io::{ReadWriteFlags, preadv2};
    let mut into = [std::io::IoSliceMut::new(out)];
    preadv2(file, &mut into, offset, ReadWriteFlags::NOWAIT).unwrap_or_default()
}

#[cfg(not(target_os = "linux"))]
fn read(_: BorrowedFd<'_>, _: &mut [u8], _: u64) -> usize {
    0
}

/// Whether the file system of a file that was just written tells what of it is in memory.
#[cfg(all(test, target_os = "linux"))]
#[expect(clippy::print_stderr, reason = "what wasn't tried is told")]
pub(crate) fn tells(file: &std::fs::File) -> bool {
    let tells = read(file.as_fd(), &mut [0], 0) == 1;
    if !tells {
        eprintln!("SKIPPED: this file system doesn't tell what of a file is in memory");
    }
    tells
}
