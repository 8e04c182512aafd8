//! Content of unknown size: held in memory while small, in a file without a name once it isn't.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use rustix::io::{pread, retry_on_intr};

use crate::in_memory::InMemory;

/// How many bytes may stay in memory by default.
pub const IN_MEMORY: usize = 256 << 10;
/// How much is written to a file, or read from one, at once: each time costs two changes of threads.
/// Less than may stay in memory: content in a file never holds more than content without one.
const CHUNK: usize = 64 << 10;

/// Takes content piece by piece. `Debug` shows none of it.
pub struct Spool {
    in_memory: usize,
    /// What isn't in the file.
    memory: BytesMut,
    file: Option<Arc<File>>,
    length: u64,
    /// A write failed, or nobody waited for it.
    is_broken: bool,
}

/// Whole content, which can be read any number of times. Clones share it. `Debug` shows none of it.
#[derive(Clone)]
pub struct Spooled {
    place: Place,
    length: u64,
}

#[derive(Clone)]
enum Place {
    File(Arc<File>),
    Memory(Bytes),
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Spool({} bytes)", self.length)
    }
}

impl std::fmt::Debug for Spooled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Spooled({} bytes)", self.length)
    }
}

impl Spool {
    /// A spool that goes to a file once it holds more than `in_memory` bytes.
    #[must_use]
    pub fn new(in_memory: usize) -> Self {
        Self {
            in_memory,
            memory: BytesMut::new(),
            file: None,
            length: 0,
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
    pub async fn push(&mut self, piece: &[u8]) -> io::Result<()> {
        self.check()?;
        let most = match &self.file {
            None => self.in_memory,
            Some(_) => CHUNK,
        };
        if self.memory.len() + piece.len() > most {
            self.write().await?;
        }
        self.memory.extend_from_slice(piece);
        self.length = self.length.saturating_add(piece.len() as u64);
        Ok(())
    }

    /// How many bytes of it are held in memory now.
    #[must_use]
    pub fn in_memory(&self) -> usize {
        self.memory.len()
    }

    /// The content once all of it is there.
    ///
    /// # Errors
    /// The system's, when the file can't be written.
    pub async fn finish(mut self) -> io::Result<Spooled> {
        self.check()?;
        if self.file.is_some() {
            self.write().await?;
        }
        Ok(Spooled {
            place: self
                .file
                .map_or_else(|| Place::Memory(self.memory.freeze()), Place::File),
            length: self.length,
        })
    }

    /// Moves what is in memory to the end of the file.
    async fn write(&mut self) -> io::Result<()> {
        self.is_broken = true;
        let (file, mut memory) = (self.file.take(), std::mem::take(&mut self.memory));
        let at = self.length.saturating_sub(memory.len() as u64);
        let write = move || -> io::Result<_> {
            let file = file.map_or_else(|| nameless().map(Arc::new), Ok)?;
            file.write_all_at(&memory, at)?;
            memory.clear();
            Ok((file, memory))
        };
        let (file, memory) = tokio::task::spawn_blocking(write).await??;
        self.file = Some(file);
        self.memory = match memory.capacity() > CHUNK {
            true => BytesMut::with_capacity(CHUNK),
            false => memory,
        };
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
        self.length
    }

    /// How many of them are held in memory.
    #[must_use]
    pub fn in_memory(&self) -> usize {
        match &self.place {
            Place::File(_) => 0,
            Place::Memory(bytes) => bytes.len(),
        }
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Reads it from its beginning, a piece at a time.
    #[must_use]
    pub fn read(&self) -> BoxStream<'static, io::Result<Bytes>> {
        match &self.place {
            Place::Memory(bytes) => stream::iter([Ok(bytes.clone())]).boxed(),
            Place::File(file) => read_file(Arc::clone(file), self.length).boxed(),
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
        let mut spool = Spool::new(in_memory);
        let mut expected = Vec::new();
        for (number, size) in pieces.iter().enumerate() {
            let piece = vec![u8::try_from(number % 251).expect("small"); *size];
            spool.push(&piece).await.expect("room");
            expected.extend(piece);
        }
        let spooled = spool.finish().await.expect("room");
        assert_eq!(matches!(spooled.place, Place::File(_)), in_file);
        assert_eq!(spooled.len(), expected.len() as u64);
        for _ in 0..2 {
            let read: Vec<Bytes> = spooled.read().try_collect().await.expect("readable");
            assert_eq!(read.concat(), expected);
        }
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
    async fn no_more_is_held_beside_a_file_than_is_written_at_once() {
        let mut spool = Spool::new(IN_MEMORY);
        for _ in 0..100 {
            spool.push(&[7; 10_000]).await.expect("room");
            let most = match &spool.file {
                None => IN_MEMORY,
                Some(_) => CHUNK,
            };
            assert!(spool.memory.len() <= most);
        }
        assert!(spool.file.is_some() && spool.memory.capacity() <= CHUNK);
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
            let mut spool = Spool::new(1);
            let piece = vec![7; 5 * CHUNK + 3];
            spool.push(&piece).await.expect("room");
            let spooled = spool.finish().await.expect("room");
            let Place::File(file) = &spooled.place else {
                panic!("it is larger than what stays in memory");
            };
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
        let mut spool = Spool::new(1);
        spool.push(b"a").await.expect("room");
        assert!(spool.push(b"b").now_or_never().is_none());
        assert!(spool.push(b"c").await.is_err());
        assert!(spool.finish().await.is_err());
    }
}
