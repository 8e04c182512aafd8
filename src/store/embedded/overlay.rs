//! Reads a file that can't be written at present.
//!
//! redb writes when it opens a file that wasn't closed, and so doesn't open one on a full disk. Over
//! this backend it does: what it writes stays in memory, and the file as it is.

use std::collections::BTreeMap;
use std::io::Error;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::{BackendError, StorageBackend};

/// How much is kept together, bytes: redb's own pages.
const BLOCK: u64 = 4096;

type Block = [u8; BLOCK as usize];

/// A backend that keeps what is written to it in memory; opening writes a few pages.
#[derive(Debug)]
pub(super) struct Overlay<B> {
    below: B,
    lock: Lock,
    above: Mutex<Above>,
}

/// Whether what is below is kept from other processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lock {
    /// It can't be: a file that is open for reading alone can't be locked.
    None,
    /// It is.
    Taken,
}

#[derive(Debug)]
struct Above {
    len: u64,
    /// How much of what is below still counts: the shortest length there was.
    below: u64,
    blocks: BTreeMap<u64, Box<Block>>,
}

impl<B: StorageBackend> Overlay<B> {
    /// Reads `below`, and never changes it.
    pub(super) fn over(below: B, lock: Lock) -> Result<Self, Error> {
        let len = below.len()?;
        let above = Above {
            len,
            below: len,
            blocks: BTreeMap::new(),
        };
        Ok(Self {
            below,
            lock,
            above: Mutex::new(above),
        })
    }

    fn lockable(&self) -> Result<&B, BackendError> {
        match self.lock {
            Lock::None => Err(BackendError::Unsupported),
            Lock::Taken => Ok(&self.below),
        }
    }

    fn above(&self) -> MutexGuard<'_, Above> {
        // Nothing below panics while it is held, and its parts are always whole.
        self.above.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The block `number` as it reads now; beyond what counts of the file there are zeros.
    fn block(&self, above: &Above, number: u64) -> Result<Block, Error> {
        if let Some(block) = above.blocks.get(&number) {
            return Ok(**block);
        }
        let mut block = [0; BLOCK as usize];
        let start = number.saturating_mul(BLOCK);
        let there = above.below.saturating_sub(start).min(BLOCK);
        let there = usize::try_from(there).unwrap_or_default();
        // Asked for nothing beyond its end, a backend may refuse.
        if let Some(part) = block.get_mut(..there).filter(|part| !part.is_empty()) {
            self.below.read(start, part)?;
        }
        Ok(block)
    }
}

impl Above {
    fn resize(&mut self, len: u64) {
        self.len = len;
        self.below = self.below.min(len);
        let (last, within) = (len / BLOCK, len % BLOCK);
        self.blocks.retain(|number, _| *number <= last);
        let tail = self.blocks.get_mut(&last);
        let tail = tail.and_then(|block| block.get_mut(usize::try_from(within).ok()?..));
        tail.into_iter().for_each(|tail| tail.fill(0));
    }
}

/// The part of each block that `offset..offset + len` covers: number, start within it, length.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let mut at = offset;
    let mut left = len;
    std::iter::from_fn(move || {
        let (number, within) = (at / BLOCK, usize::try_from(at % BLOCK).ok()?);
        let length = left.min(BLOCK as usize - within);
        at = at.checked_add(length as u64)?;
        left -= length;
        (length > 0).then_some((number, within, length))
    })
}

impl<B: StorageBackend> StorageBackend for Overlay<B> {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.above().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let above = self.above();
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > above.len) {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let mut rest = out;
        for (number, within, length) in parts(offset, rest.len()) {
            let block = self.block(&above, number)?;
            let (part, after) = rest.split_at_mut(length);
            if let Some(found) = block.get(within..within + length) {
                part.copy_from_slice(found);
            }
            rest = after;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.above().resize(len);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), Error> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let mut above = self.above();
        let mut rest = data;
        for (number, within, length) in parts(offset, data.len()) {
            let mut block = self.block(&above, number)?;
            let (part, after) = rest.split_at(length);
            if let Some(place) = block.get_mut(within..within + length) {
                place.copy_from_slice(part);
            }
            above.blocks.insert(number, Box::new(block));
            rest = after;
        }
        Ok(())
    }

    fn close(&self) -> Result<(), Error> {
        self.below.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.lockable()?.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: Bound<u64>,
        end: Bound<u64>,
    ) -> Result<bool, BackendError> {
        self.lockable()?.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.lockable()?.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.lockable()?.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.lockable()?.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.lockable()?.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;
    use crate::store::embedded::faulty::{authorize, options_in};
    use crate::store::embedded::{Access, EmbeddedStore};
    use crate::store::error::StoreError;
    use crate::store::{Directory, Store};

    fn below() -> InMemoryBackend {
        let below = InMemoryBackend::new();
        below.set_len(3 * BLOCK + 10).expect("in memory");
        below
            .write(0, &[1; 3 * BLOCK as usize + 10])
            .expect("in memory");
        below
    }

    fn read(overlay: &Overlay<InMemoryBackend>, offset: u64, len: usize) -> Vec<u8> {
        let mut out = vec![9; len];
        overlay.read(offset, &mut out).expect("readable");
        out
    }

    #[test]
    fn what_is_written_is_read_again_and_changes_nothing_below() {
        let overlay = Overlay::over(below(), Lock::Taken).expect("in memory");
        overlay
            .write(BLOCK - 2, &[2; BLOCK as usize + 4])
            .expect("kept");
        let whole = read(&overlay, 0, 3 * BLOCK as usize + 10);
        let written = BLOCK as usize - 2..2 * BLOCK as usize + 2;
        for (at, byte) in whole.iter().enumerate() {
            assert_eq!(*byte, if written.contains(&at) { 2 } else { 1 }, "{at}");
        }
        let mut out = vec![0; 3 * BLOCK as usize + 10];
        overlay.below.read(0, &mut out).expect("readable");
        assert!(out.iter().all(|byte| *byte == 1));
    }

    #[test]
    fn it_grows_with_zeros_and_ends_where_it_ends() {
        let overlay = Overlay::over(below(), Lock::Taken).expect("in memory");
        let end = 3 * BLOCK + 10;
        assert!(overlay.read(end - 1, &mut [0; 2]).is_err());
        overlay.set_len(5 * BLOCK).expect("kept");
        assert_eq!(read(&overlay, end - 1, 3), [1, 0, 0]);
        assert_eq!(read(&overlay, 4 * BLOCK, 2), [0, 0]);
        assert_eq!(overlay.below.len().expect("in memory"), end);
    }

    #[test]
    fn what_was_cut_off_comes_back_as_zeros() {
        let overlay = Overlay::over(below(), Lock::Taken).expect("in memory");
        overlay.write(BLOCK, &[2; 10]).expect("kept");
        overlay.set_len(BLOCK + 5).expect("kept");
        overlay.set_len(3 * BLOCK).expect("kept");
        assert_eq!(read(&overlay, BLOCK + 4, 3), [2, 0, 0]);
        assert_eq!(read(&overlay, 2 * BLOCK, 2), [0, 0]);
    }

    #[tokio::test]
    async fn a_file_is_read_without_a_change_to_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = options_in(&dir, 0);
        EmbeddedStore::create(&options.path, &options.key).expect("created");
        let store = EmbeddedStore::open(options.clone()).expect("opened");
        store
            .commit(vec![authorize("1", "a")])
            .await
            .expect("committed");
        let shared = &store.0.shared;
        shared.reopen(Access::Reading).expect("readable");
        let before = std::fs::read(&options.path).expect("readable");
        assert_eq!(store.merchants(None, 10).await.expect("readable").len(), 1);
        let again = EmbeddedStore::open(options.clone());
        assert!(matches!(again, Err(StoreError::Locked { .. })));
        // Not even closing it writes.
        shared.reopen(Access::Reading).expect("readable");
        assert_eq!(std::fs::read(&options.path).expect("readable"), before);
        shared.reopen(Access::Full).expect("writable");
        store
            .commit(vec![authorize("2", "b")])
            .await
            .expect("committed");
        assert_eq!(store.merchants(None, 10).await.expect("readable").len(), 2);
    }
}
