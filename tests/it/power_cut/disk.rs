//! A disk in memory that writes down what is done to it, and what it looks like after its power was
//! cut between any two of these operations.

use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

use super::random::Random;

/// What a disk writes whole or not at all, bytes.
const SECTOR: usize = 512;

/// One operation.
#[derive(Debug)]
pub(super) enum Operation {
    SetLen(usize),
    Sync,
    Write { offset: usize, data: Vec<u8> },
}

/// The disk; clones share it.
#[derive(Debug, Clone)]
pub(super) struct Disk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    log: Vec<Operation>,
}

impl Disk {
    /// A disk that holds `bytes`.
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        let log = Vec::new();
        Self(Arc::new(Mutex::new(State { bytes, log })))
    }

    /// How many operations there were.
    pub(super) fn operations(&self) -> usize {
        self.state().log.len()
    }

    /// All operations, oldest first.
    pub(super) fn take_log(&self) -> Vec<Operation> {
        std::mem::take(&mut self.state().log)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no operation panics")
    }

    fn perform(&self, operation: Operation) {
        let mut state = self.state();
        operation.apply(&mut state.bytes);
        state.log.push(operation);
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.state().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let offset = place(offset)?;
        let state = self.state();
        let found = state.bytes.get(offset..offset + out.len());
        out.copy_from_slice(found.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.perform(Operation::SetLen(place(len)?));
        Ok(())
    }

    fn sync_data(&self) -> Result<(), Error> {
        self.perform(Operation::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let (offset, data) = (place(offset)?, data.to_vec());
        self.perform(Operation::Write { offset, data });
        Ok(())
    }
}

fn place(number: u64) -> Result<usize, Error> {
    usize::try_from(number).map_err(|_| ErrorKind::InvalidInput.into())
}

impl Operation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::SetLen(len) => bytes.resize(*len, 0),
            Self::Sync => {}
            Self::Write { offset, data } => write(bytes, *offset, data),
        }
    }

    /// Writes some of its sectors.
    fn tear(&self, bytes: &mut Vec<u8>, random: &mut Random) {
        let Self::Write { offset, data } = self else {
            return self.apply(bytes);
        };
        for (n, sector) in data.chunks(SECTOR).enumerate() {
            if random.below(2) == 0 {
                write(bytes, offset + n * SECTOR, sector);
            }
        }
    }
}

fn write(bytes: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[offset..end].copy_from_slice(data);
}

/// What becomes of the writes that were not synced when the power went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unsynced {
    Kept,
    Lost,
    /// Some are kept, whatever their order, and one of them in part.
    Torn,
}

/// Whether the disk does what it is told by an fsync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fsync {
    Works,
    /// It says it did, and hasn't.
    Lies,
}

/// Goes through a log, and knows at each operation what is safe and what isn't.
pub(super) struct Player<'a> {
    log: &'a [Operation],
    fsync: Fsync,
    /// How many operations have happened.
    at: usize,
    safe: Vec<u8>,
    /// From which operation on nothing is safe.
    unsafe_from: usize,
    whole: Vec<u8>,
}

impl<'a> Player<'a> {
    /// The disk held `bytes`, all of them safe, before the first operation of `log`.
    pub(super) fn new(bytes: &[u8], log: &'a [Operation], fsync: Fsync) -> Self {
        Self {
            log,
            fsync,
            at: 0,
            safe: bytes.to_vec(),
            unsafe_from: 0,
            whole: bytes.to_vec(),
        }
    }

    /// Lets the operations happen until `at` of them have.
    pub(super) fn go_to(&mut self, at: usize) {
        for operation in &self.log[self.at..at] {
            self.at += 1;
            operation.apply(&mut self.whole);
            if matches!(operation, Operation::Sync) && self.fsync == Fsync::Works {
                for synced in &self.log[self.unsafe_from..self.at] {
                    synced.apply(&mut self.safe);
                }
                self.unsafe_from = self.at;
            }
        }
    }

    /// What is on the disk if the power goes now.
    pub(super) fn image(&self, unsynced: Unsynced, random: &mut Random) -> Vec<u8> {
        match unsynced {
            Unsynced::Kept => self.whole.clone(),
            Unsynced::Lost => self.safe.clone(),
            Unsynced::Torn => self.torn(random),
        }
    }

    fn torn(&self, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.safe.clone();
        let pending = &self.log[self.unsafe_from..self.at];
        // Few, many, or nearly all are kept.
        let kept = 1 + random.below(9);
        let torn = random.below(pending.len().max(1));
        for (n, operation) in pending.iter().enumerate() {
            if n == torn {
                operation.tear(&mut bytes, random);
            } else if random.below(10) < kept {
                operation.apply(&mut bytes);
            }
        }
        bytes
    }
}
