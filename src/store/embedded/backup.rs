//! What reads the whole file while the store is in use: the copy, the look at every record, the
//! numbers. Each on a thread of its own, one at a time, so that the readers stay free, and each ends
//! as soon as the writer has to open the database anew.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::fault::Fault;
use super::shared::{OPENED_ANEW, Shared};
use super::snapshots::Snapshot;
use super::{inspect, no_thread, rows, stats, unavailable};
use crate::store::care::{Inspection, RowStream, Stats};
use crate::store::error::StoreError;

/// Pieces that wait for whoever takes them.
const PIECES: usize = 8;
/// How long a piece may wait before the copy is given up: a snapshot keeps the file from using its
/// free pages again.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a copy may take in all: whoever takes a piece every 29 s would have the file grow for
/// days. What a disk reads in an hour is more than a store holds.
const LONGEST: Duration = Duration::from_secs(3600);
/// How often it is looked whether there is room again.
const LOOK: Duration = Duration::from_millis(5);

/// Whose turn it is to read the whole file.
#[derive(Default)]
pub(super) struct LongRead {
    busy: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// The turn, until it is dropped.
struct Turn(Arc<AtomicBool>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl LongRead {
    fn turn(&self) -> Result<Turn, StoreError> {
        if self.busy.swap(true, Ordering::AcqRel) {
            return Err(unavailable(
                "another backup, check or `store stats` is under way; try again when it is done",
            ));
        }
        Ok(Turn(Arc::clone(&self.busy)))
    }

    /// Waits until nobody reads any more, after [`Shared::end`].
    pub(super) fn wait(&self) {
        let mut last = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = last.take() {
            // A panic of it has been answered to whoever waited.
            let _ = thread.join();
        }
    }

    fn spawn(&self, work: impl FnOnce() + Send + 'static) -> Result<(), StoreError> {
        let thread = std::thread::Builder::new()
            .name("store-long-read".to_owned())
            .spawn(work)
            .map_err(|error| no_thread(&error))?;
        // The one before has had its turn, so it has ended but for its last words.
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }

    /// Begins a copy.
    pub(super) fn backup(&self, shared: Arc<Shared>) -> Result<RowStream, StoreError> {
        let turn = self.turn()?;
        let (sender, receiver) = mpsc::channel(PIECES);
        let end = Instant::now() + LONGEST;
        self.spawn(move || {
            let copied = guarded(&shared, |tx| {
                rows::write(tx, &mut |piece| send(&shared, &sender, piece, end))
            });
            if let Err(error) = copied {
                tracing::warn!(%error, "a backup of the store broke off");
                // Who doesn't hear it misses the end of the copy.
                let _ = sender.try_send(Err(error));
            }
            drop((turn, shared));
        })?;
        Ok(RowStream(receiver))
    }

    /// Looks at every record.
    pub(super) async fn inspect(&self, shared: Arc<Shared>) -> Result<Inspection, StoreError> {
        self.run(shared, |shared, tx| {
            inspect::inspect(tx, &shared.sealer, &|| stop(shared))
        })
        .await
    }

    /// The numbers.
    pub(super) async fn stats(&self, shared: Arc<Shared>) -> Result<Stats, StoreError> {
        self.run(shared, |shared, tx| {
            stats::stats(tx, &shared.sealer, shared.path(), &|| stop(shared))
        })
        .await
    }

    async fn run<T: Send + 'static>(
        &self,
        shared: Arc<Shared>,
        work: impl FnOnce(&Shared, &Snapshot) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let turn = self.turn()?;
        let (reply, answer) = oneshot::channel();
        self.spawn(move || {
            let done = guarded(&shared, |tx| work(&shared, tx));
            // Whoever waits may drop the store next: it must be free to close by then.
            drop((turn, shared));
            let _ = reply.send(done);
        })?;
        let answer = answer.await;
        answer.unwrap_or_else(|_| Err(unavailable("the reading was given up because of a bug")))
    }
}

/// Runs `work` on a snapshot; redb may panic on a damaged page.
fn guarded<T>(
    shared: &Shared,
    work: impl FnOnce(&Snapshot) -> Result<T, Fault>,
) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(|| shared.with_long_snapshot(work))) {
        Ok(done) => done.map_err(Fault::into_error),
        Err(_) => Err(StoreError::Damaged {
            record: "a page of the store file".to_owned(),
        }),
    }
}

/// Refuses to go on while the writer waits for the database.
fn stop(shared: &Shared) -> Result<(), Fault> {
    if shared.is_closing() {
        return Err(Fault::Refused(unavailable(OPENED_ANEW)));
    }
    Ok(())
}

/// Gives a piece to whoever wants the copy, before `end`.
pub(super) fn send(
    shared: &Shared,
    sender: &mpsc::Sender<Result<Bytes, StoreError>>,
    piece: Vec<u8>,
    end: Instant,
) -> Result<(), Fault> {
    let refused = |reason: &str| Fault::Refused(unavailable(reason));
    let begun = Instant::now();
    let mut piece = Ok(Bytes::from(piece));
    loop {
        stop(shared)?;
        if Instant::now() >= end {
            return Err(refused("the copy took longer than an hour"));
        }
        piece = match sender.try_send(piece) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => {
                return Err(refused("whoever wanted the copy has gone"));
            }
            Err(mpsc::error::TrySendError::Full(piece)) => piece,
        };
        if begun.elapsed() > PATIENCE {
            return Err(refused("whoever wanted the copy doesn't take it"));
        }
        std::thread::sleep(LOOK);
    }
}
