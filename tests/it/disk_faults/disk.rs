//! A disk in memory that refuses what it is asked, and remembers what is durable.

use std::collections::BTreeSet;
use std::io::Error;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use redb::StorageBackend;

/// What a kernel keeps, and drops, together, bytes.
const PAGE: usize = 4096;

/// How many operations after the first that was refused the power goes: at once, while the store is
/// opened again, and when it is written again.
const CUTS: [usize; 4] = [1, 2, 5, 12];

/// A disk in memory with a fault in it; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct FaultyDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What is read.
    bytes: Vec<u8>,
    /// What is left when the power goes.
    durable: Vec<u8>,
    /// The pages that the next fsync makes durable.
    dirty: BTreeSet<usize>,
    fault: Option<Fault>,
    /// Whether fsyncs do nothing, and say that all is well.
    lies: bool,
    /// When an operation was refused last.
    refused: Option<Instant>,
    /// How many operations there were since one was refused first.
    since: Option<usize>,
    /// What a power cut left at the [`CUTS`] since.
    cuts: Vec<Vec<u8>>,
}

/// Refuses operations of one kind.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fault {
    pub(super) on: On,
    /// How many go through before.
    pub(super) after: usize,
    /// How many it refuses.
    pub(super) length: usize,
    pub(super) errno: i32,
}

/// What a fault refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    /// Writes, fsyncs and changes of length. What was written stays to be synced.
    Changes,
    /// Reads.
    Reads,
    /// Fsyncs, and drops what they should have made durable.
    Syncs(Dropped),
}

/// What is read of the pages that a refused fsync dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dropped {
    /// What was written: they are clean in the cache, and lost with it.
    Cached,
    /// What was there before.
    Gone,
    /// Of every other page the one, of the rest the other.
    HalfGone,
}

/// What is on the disk, and how it came to be.
pub(super) struct Image {
    pub(super) how: &'static str,
    pub(super) bytes: Vec<u8>,
}

impl FaultyDisk {
    /// A disk that holds `bytes`.
    pub(super) fn holding(bytes: Vec<u8>) -> Self {
        let disk = Self::default();
        disk.state().durable.clone_from(&bytes);
        disk.state().bytes = bytes;
        disk
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no operation panics")
    }

    pub(super) fn arm(&self, fault: Fault) {
        let mut state = self.state();
        (state.refused, state.since) = (None, None);
        state.cuts.clear();
        state.fault = Some(fault);
    }

    /// From now on an fsync does nothing, and says that all is well.
    pub(super) fn lie(&self) {
        self.state().lies = true;
    }

    /// Ends the fault; gives when it ended.
    pub(super) fn heal(&self) -> Instant {
        self.state().fault = None;
        Instant::now()
    }

    /// Whether the fault has refused all that it will.
    pub(super) fn is_over(&self) -> bool {
        self.state().fault.is_none()
    }

    pub(super) fn last_refused(&self) -> Option<Instant> {
        self.state().refused
    }

    /// What a start finds now: after the process died, and after a power cut that kept of the pages
    /// that weren't synced none, or every other.
    pub(super) fn images(&self) -> [Image; 3] {
        let state = self.state();
        let image = |how, bytes| Image { how, bytes };
        [
            image("after a kill", state.bytes.clone()),
            image("after a power cut", state.durable.clone()),
            image("after a power cut that tore", state.torn()),
        ]
    }

    /// What power cuts during and soon after the fault left.
    pub(super) fn take_cuts(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.state().cuts)
    }

    /// Does `work`, or gives the error of the fault; a write that is refused is done in half.
    fn change(
        &self,
        work: impl FnOnce(&mut State),
        half: impl FnOnce(&mut State),
    ) -> Result<(), Error> {
        let mut state = self.state();
        let done = match state.strikes(|on| on == On::Changes) {
            None => {
                work(&mut state);
                Ok(())
            }
            Some(error) => {
                half(&mut state);
                Err(error)
            }
        };
        state.cut();
        done
    }
}

impl State {
    fn strikes(&mut self, on: impl FnOnce(On) -> bool) -> Option<Error> {
        let fault = self.fault.as_mut().filter(|fault| on(fault.on))?;
        if fault.after > 0 {
            fault.after -= 1;
            return None;
        }
        let error = Error::from_raw_os_error(fault.errno);
        fault.length -= 1;
        if fault.length == 0 {
            self.fault = None;
        }
        self.refused = Some(Instant::now());
        self.since.get_or_insert(0);
        Some(error)
    }

    /// The power goes now, to come back elsewhere.
    fn cut(&mut self) {
        let Some(since) = &mut self.since else {
            return;
        };
        *since += 1;
        if CUTS.contains(since) {
            let torn = self.torn();
            self.cuts.push(torn);
        }
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        self.bytes[offset..end].copy_from_slice(data);
        self.dirty.extend(offset / PAGE..end.div_ceil(PAGE));
    }

    fn resize(&mut self, len: usize) {
        self.bytes.resize(len, 0);
        self.dirty.retain(|page| page * PAGE < len);
    }

    fn sync(&mut self) {
        if self.lies {
            return;
        }
        self.durable.resize(self.bytes.len(), 0);
        for page in std::mem::take(&mut self.dirty) {
            copy(page, &self.bytes, &mut self.durable);
        }
    }

    fn drop_unsynced(&mut self, dropped: Dropped) {
        for (n, page) in std::mem::take(&mut self.dirty).into_iter().enumerate() {
            let is_gone = match dropped {
                Dropped::Cached => false,
                Dropped::Gone => true,
                Dropped::HalfGone => n % 2 == 0,
            };
            if is_gone {
                copy(page, &self.durable, &mut self.bytes);
            }
        }
    }

    fn torn(&self) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        bytes.resize(self.bytes.len(), 0);
        for page in self.dirty.iter().step_by(2) {
            copy(*page, &self.bytes, &mut bytes);
        }
        bytes
    }
}

/// Makes a page of `to` what it is in `from`; what `from` hasn't is zero.
fn copy(page: usize, from: &[u8], to: &mut [u8]) {
    let start = page * PAGE;
    let page = to.iter_mut().skip(start).take(PAGE);
    let found = from.iter().skip(start).copied();
    for (to, found) in page.zip(found.chain(std::iter::repeat(0))) {
        *to = found;
    }
}

impl StorageBackend for FaultyDisk {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.state().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let offset = place(offset);
        let mut state = self.state();
        if let Some(error) = state.strikes(|on| on == On::Reads) {
            return Err(error);
        }
        let found = state.bytes.get(offset..offset + out.len());
        out.copy_from_slice(found.ok_or(std::io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.change(|state| state.resize(place(len)), |_| ())
    }

    fn sync_data(&self) -> Result<(), Error> {
        let mut state = self.state();
        let dropped = match state.fault.map(|fault| fault.on) {
            Some(On::Syncs(dropped)) => Some(dropped),
            _ => None,
        };
        if let Some(error) = state.strikes(|on| on != On::Reads) {
            if let Some(dropped) = dropped {
                state.drop_unsynced(dropped);
            }
            state.cut();
            return Err(error);
        }
        state.sync();
        state.cut();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let offset = place(offset);
        self.change(
            |state| state.write(offset, data),
            |state| state.write(offset, &data[..data.len() / 2]),
        )
    }
}

fn place(number: u64) -> usize {
    usize::try_from(number).expect("a disk in memory")
}
