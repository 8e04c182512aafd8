//! Content of unknown size: in memory while it is small, or there is room; what goes beyond, in a file
//! without a name.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use rustix::io::{pread, retry_on_intr};

use crate::in_memory::InMemory;
use crate::net::room::{Held, Room};

/// How many bytes may stay in memory by default, whatever others hold.
pub const IN_MEMORY: usize = 256 << 10;
/// How much is written to a file, or read from one, at once: each time may cost two changes of threads.
const CHUNK: usize = 64 << 10;

/// Takes content piece by piece. `Debug` shows none of it.
pub struct Spool {
    in_memory: usize,
    spare: Room,
    kept: Kept,
    /// What stands behind that and what is in the file: less than a chunk.
    filling: BytesMut,
    file: Option<Arc<File>>,
    /// How many bytes are in the file.
    written: u64,
    /// A write failed, or nobody waited for it.
    is_broken: bool,
}

/// The beginning of some content.
#[derive(Default)]
struct Kept {
    chunks: Vec<Bytes>,
    length: usize,
    /// What it has of the spare room.
    spare: Held,
}

/// Whole content, which can be read any number of times. Clones share it. `Debug` shows none of it.
#[derive(Clone)]
pub struct Spooled {
    kept: Arc<Kept>,
    /// What stands behind that.
    file: Option<Arc<File>>,
    written: u64,
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Spool({} bytes in memory, {} in a file)",
            self.in_memory(),
            self.written
        )
    }
}

impl std::fmt::Debug for Spooled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Spooled({} bytes)", self.len())
    }
}

impl Spool {
    /// A spool whose content stays in memory as far as it has no more than `in_memory` bytes, or as
    /// there is room in `spare`; what stands behind that goes to a file.
    #[must_use]
    pub fn new(in_memory: usize, spare: Room) -> Self {
        Self {
            in_memory,
            spare,
            kept: Kept::default(),
            filling: BytesMut::new(),
            file: None,
            written: 0,
            is_broken: false,
        }
    }

    /// Adds a piece.
    ///
    /// # Errors
    /// The system's, when there is no room for the file; every call behind it fails, too.
    ///
    /// # Cancel safety
    /// Not safe: the content is lost, and every call behind it fails.
    pub async fn push(&mut self, mut piece: &[u8]) -> io::Result<()> {
        self.check()?;
        while !piece.is_empty() {
            let left = CHUNK.saturating_sub(self.filling.len());
            let (next, rest) = piece.split_at_checked(left).unwrap_or((piece, &[]));
            self.filling.extend_from_slice(next);
            if self.filling.len() >= CHUNK {
                self.put_away().await?;
            }
            piece = rest;
        }
        Ok(())
    }

    /// How many bytes of it are held in memory now.
    #[must_use]
    pub fn in_memory(&self) -> usize {
        self.kept.length.saturating_add(self.filling.len())
    }

    /// The content once all of it is there.
    ///
    /// # Errors
    /// The system's, when the file can't be written.
    pub async fn finish(mut self) -> io::Result<Spooled> {
        self.check()?;
        if !self.filling.is_empty() {
            self.put_away().await?;
        }
        Ok(Spooled {
            kept: Arc::new(self.kept),
            file: self.file,
            written: self.written,
        })
    }

    /// Puts what has come to the rest: in memory, or else in the file, as all behind it.
    async fn put_away(&mut self) -> io::Result<()> {
        let length = self.kept.length.saturating_add(self.filling.len());
        let more = self.filling.len();
        let may_stay = self.file.is_none()
            && (length <= self.in_memory || self.spare.take(more, &mut self.kept.spare).is_ok());
        if !may_stay {
            return self.write().await;
        }
        // Whoever has sent a whole chunk may send another.
        let next = BytesMut::with_capacity(if more < CHUNK { 0 } else { CHUNK });
        let chunk = std::mem::replace(&mut self.filling, next);
        self.kept.chunks.push(chunk.freeze());
        self.kept.length = length;
        Ok(())
    }

    /// Moves what has come to the end of the file.
    async fn write(&mut self) -> io::Result<()> {
        self.is_broken = true;
        let (file, mut piece) = (self.file.take(), std::mem::take(&mut self.filling));
        let (at, length) = (self.written, piece.len() as u64);
        let write = move || -> io::Result<_> {
            let file = file.map_or_else(|| nameless().map(Arc::new), Ok)?;
            file.write_all_at(&piece, at)?;
            piece.clear();
            Ok((file, piece))
        };
        let (file, piece) = tokio::task::spawn_blocking(write).await??;
        (self.file, self.filling) = (Some(file), piece);
        self.written = at.saturating_add(length);
        self.is_broken = false;
        Ok(())
    }

    fn check(&self) -> io::Result<()> {
        match self.is_broken {
            true => Err(io::Error::other("part of the content was lost before")),
            false => Ok(()),
        }
    }
}

impl Spooled {
    /// How many bytes it has.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.written.saturating_add(self.kept.length as u64)
    }

    /// How many of them are held in memory.
    #[must_use]
    pub fn in_memory(&self) -> usize {
        self.kept.length
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads it from its beginning, a piece at a time.
    #[must_use]
    pub fn read(&self) -> BoxStream<'static, io::Result<Bytes>> {
        // It keeps the room, too, until it has given all that is there.
        let kept = Arc::clone(&self.kept);
        let chunks = 0..kept.chunks.len();
        let chunks = chunks.filter_map(move |place| kept.chunks.get(place).cloned());
        let chunks = stream::iter(chunks).map(Ok);
        match &self.file {
            None => chunks.boxed(),
            Some(file) => {
                let rest = read_file(Arc::clone(file), self.written);
                chunks.chain(rest).boxed()
            }
        }
    }
}

/// Reads on the spot what the system still has in memory, and from the first piece on that it hasn't by
/// a thread that may wait.
fn read_file(file: Arc<File>, length: u64) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let in_memory = InMemory::of(Arc::clone(&file));
    stream::try_unfold((in_memory, 0), move |(in_memory, at)| {
        let file = Arc::clone(&file);
        async move {
            let left = usize::try_from(length.saturating_sub(at)).unwrap_or(CHUNK);
            if left == 0 {
                return Ok(None);
            }
            // Made here: an allocator keeps memory for each thread, and other threads read each time.
            let mut chunk = vec![0; left.min(CHUNK)];
            let there = in_memory
                .as_ref()
                .map_or(0, |file| file.read(&mut chunk, at));
            let (chunk, in_memory) = match there {
                0 => (read_by_thread(file, chunk, at).await?, None),
                _ => {
                    chunk.truncate(there);
                    (chunk, in_memory)
                }
            };
            let next = at.saturating_add(chunk.len() as u64);
            Ok(Some((Bytes::from(chunk), (in_memory, next))))
        }
    })
}

async fn read_by_thread(file: Arc<File>, mut chunk: Vec<u8>, at: u64) -> io::Result<Vec<u8>> {
    let read = move || -> io::Result<_> {
        let there = retry_on_intr(|| pread(&*file, &mut chunk, at))?;
        if there == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        chunk.truncate(there);
        Ok(chunk)
    };
    tokio::task::spawn_blocking(read).await?
}

/// Whether content could go to a file.
///
/// # Errors
/// The system's, when a file can't be made or written.
#[cfg(feature = "cli")]
pub(crate) fn probe() -> io::Result<()> {
    nameless()?.write_all_at(b"x", 0)
}

/// A file that only we can read and that is gone with its last handle, whatever ends the process.
fn nameless() -> io::Result<File> {
    let name = format!("alipay-sidecar-{}", uuid::Uuid::now_v7());
    let path = std::env::temp_dir().join(name);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, TryStreamExt};

    use super::*;

    async fn check(pieces: &[usize], in_file: bool) {
        check_within(IN_MEMORY, pieces, in_file).await;
    }

    async fn check_within(in_memory: usize, pieces: &[usize], in_file: bool) {
        let spooled = spooled((in_memory, Room::new(0)), pieces).await;
        assert_eq!(spooled.file.is_some(), in_file);
    }

    /// The content of these pieces, read twice.
    async fn spooled((in_memory, spare): (usize, Room), pieces: &[usize]) -> Spooled {
        let mut spool = Spool::new(in_memory, spare);
        let mut expected = Vec::new();
        for (number, size) in pieces.iter().enumerate() {
            let piece = vec![u8::try_from(number % 251).expect("small"); *size];
            spool.push(&piece).await.expect("room");
            expected.extend(piece);
        }
        let spooled = spool.finish().await.expect("room");
        assert_eq!(spooled.len(), expected.len() as u64);
        for _ in 0..2 {
            let read: Vec<Bytes> = spooled.read().try_collect().await.expect("readable");
            assert_eq!(read.concat(), expected);
        }
        spooled
    }

    #[tokio::test]
    async fn small_content_stays_in_memory_and_large_content_goes_to_a_file() {
        check(&[], false).await;
        check(&[1, 2, 3], false).await;
        check(&[IN_MEMORY], false).await;
        check(&[IN_MEMORY, 1], true).await;
        check(&[1, IN_MEMORY, CHUNK * 3 + 7], true).await;
        check(&[IN_MEMORY + 1], true).await;
        check_within(0, &[], false).await;
        check_within(0, &[0], false).await;
        check_within(0, &[1], true).await;
    }

    #[tokio::test]
    async fn pieces_of_any_size_are_put_together() {
        check(&[IN_MEMORY + 1, 10, 20], true).await;
        check(&[10_000; 100], true).await;
        check(&[IN_MEMORY, CHUNK, 1, CHUNK - 1, CHUNK + 1, 0, 3], true).await;
        check_within(0, &[1, CHUNK, 2], true).await;
        check_within(5, &[3, 2, 1], true).await;
    }

    #[tokio::test]
    async fn no_more_is_held_than_may_be_and_is_written_at_once() {
        let mut spool = Spool::new(IN_MEMORY, Room::new(0));
        for _ in 0..100 {
            spool.push(&[7; 10_000]).await.expect("room");
            assert!(spool.in_memory() < IN_MEMORY + CHUNK);
        }
        assert!(spool.file.is_some() && spool.filling.capacity() <= CHUNK);
        let whole = spool.finish().await.expect("room");
        assert_eq!(whole.in_memory(), IN_MEMORY);
    }

    #[tokio::test]
    async fn what_there_is_room_for_stays_in_memory_as_long_as_somebody_has_it() {
        let spare = Room::new(5 * CHUNK);
        let first = spooled((CHUNK, spare.clone()), &[3 * CHUNK + 1]).await;
        assert_eq!((first.in_memory(), first.written), (3 * CHUNK + 1, 0));
        // The rest of the room, less than two chunks more; and all behind that, though it would fit.
        let second = spooled((CHUNK, spare.clone()), &[4 * CHUNK, 1]).await;
        let (in_memory, written) = (3 * CHUNK, CHUNK as u64 + 1);
        assert_eq!((second.in_memory(), second.written), (in_memory, written));
        drop(first);
        let reading = second.read();
        drop(second);
        let third = spooled((0, spare.clone()), &[3 * CHUNK]).await;
        assert_eq!((third.in_memory(), third.written), (3 * CHUNK, 0));
        let fourth = spooled((0, spare.clone()), &[CHUNK]).await;
        assert_eq!(fourth.in_memory(), 0, "the second is still read");
        let read: Vec<Bytes> = reading.try_collect().await.expect("readable");
        assert_eq!(read.len(), 5);
        assert_eq!(spooled((0, spare), &[CHUNK]).await.in_memory(), CHUNK);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_system_has_in_memory_is_read_without_another_thread() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(1)
            .build()
            .expect("started");
        runtime.block_on(async {
            let mut spool = Spool::new(1, Room::new(0));
            let piece = vec![7; 5 * CHUNK + 3];
            spool.push(&piece).await.expect("room");
            let spooled = spool.finish().await.expect("room");
            let file = spooled.file.as_deref().expect("no room in memory");
            if !crate::in_memory::tells(file) {
                return;
            }
            let (end, ended) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || ended.recv());
            let reading = spooled.read().try_collect::<Vec<Bytes>>();
            let read = tokio::time::timeout(std::time::Duration::from_secs(20), reading).await;
            drop(end);
            let _ = busy.await.expect("ended");
            let read = read.expect("read while no thread is free");
            assert_eq!(read.expect("readable").concat(), piece);
        });
    }

    #[tokio::test]
    async fn content_whose_write_nobody_waited_for_is_never_taken_for_whole() {
        let mut spool = Spool::new(1, Room::new(0));
        spool.push(b"a").await.expect("room");
        assert!(spool.push(&[7; CHUNK]).now_or_never().is_none());
        assert!(spool.push(b"c").await.is_err());
        assert!(spool.finish().await.is_err());
    }
}
