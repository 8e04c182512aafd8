//! What becomes of a database that fails: it is opened again, with growing pauses, and the store counts as one
//! that can't be written until then.
//!
//! The same holds while the file isn't where its path leads (`whereabouts`), which no opening can mend: it is looked
//! each second whether it is there, also while nothing is wrong, so that nobody buys what couldn't be stored. A file
//! that is elsewhere is opened to be read alone, and nothing is tried on it.
//!
//! A full disk takes what fits into the file as it is, and refuses what doesn't: writes are tried there, but
//! the store counts so until there is room again.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::Database;

use super::fault::Fault;
use super::room;
use super::shared::{Access, Shared, Writable};
use super::tables::{META, PROBE_KEY};
use crate::store::error::StoreError;

/// The first pause before a failed database is tried again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause before a failed database is tried again: how late a freed disk is noticed, of
/// the 5 s within which notifications are to be taken again.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How often it is looked whether a full disk has room again, and the file is in its place.
const LOOK: Duration = Duration::from_secs(1);

/// After how long without a refused write a disk is believed that has no room left: there may be enough of it
/// within the file.
const UNREFUSED: Duration = Duration::from_secs(300);

/// The state of the database, as the writer has met it.
pub(super) struct Mending {
    shared: Arc<Shared>,
    failure: Option<Failure>,
    /// When to look again where the file is, and for room.
    look_at: Instant,
    /// The file isn't where its path leads.
    is_astray: bool,
    full: Option<Full>,
    /// What was logged since the store could be written last.
    told: BTreeSet<String>,
}

/// That the disk was full of late: the store counts as one that can't be written until there is room, or
/// nothing was refused for long.
struct Full {
    until: Instant,
    is_told: bool,
}

impl Full {
    /// As a write was refused now.
    fn since_now(is_told: bool) -> Self {
        Self {
            until: Instant::now() + UNREFUSED,
            is_told,
        }
    }
}

/// Why the database failed.
#[derive(Debug)]
pub(super) struct Failed {
    reason: String,
    /// The disk has no room left.
    is_full: bool,
}

impl Failed {
    /// Not for want of room.
    fn because(reason: String) -> Self {
        Self {
            reason,
            is_full: false,
        }
    }
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Broken { reason, is_full } => Self { reason, is_full },
            Fault::Refused(error) => error.into(),
        }
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        Self::because(reason(error))
    }
}

/// A failure that isn't mended yet.
struct Failure {
    reason: String,
    retry_at: Instant,
    pause: Duration,
    /// It is open for the readers, as far as is known, and is to stay so while the file is astray.
    is_read: bool,
}

impl Mending {
    /// Of a store that was just opened.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let failure = (!shared.is_writable()).then(|| Failure {
            reason: "the disk took no writes when the store was opened".to_owned(),
            retry_at: Instant::now() + FIRST_PAUSE,
            pause: FIRST_PAUSE,
            is_read: true,
        });
        Self {
            shared,
            failure,
            look_at: Instant::now() + LOOK,
            is_astray: false,
            full: None,
            told: BTreeSet::new(),
        }
    }

    /// When [`go_on`](Self::go_on) is to be called.
    pub(super) fn due(&self) -> Instant {
        let failure = self.failure.as_ref();
        failure.map_or(self.look_at, |failure| failure.retry_at)
    }

    /// Tries again to mend it, or looks again for the file and for room.
    pub(super) fn go_on(&mut self) {
        match self.failure {
            Some(_) => self.mend(),
            None => self.look(),
        }
    }

    /// Whether a write is worth trying, or why not.
    pub(super) fn usable(&mut self) -> Result<(), String> {
        if self
            .failure
            .as_ref()
            .is_some_and(|f| f.retry_at <= Instant::now())
        {
            self.mend();
        }
        if let Some(failure) = &self.failure {
            return Err(failure.reason.clone());
        }
        let was_astray = self.is_astray;
        self.in_place()?;
        if was_astray {
            self.look_for_room();
        }
        Ok(())
    }

    /// Whether the file is where its path leads, or why nothing is written.
    pub(super) fn in_place(&mut self) -> Result<(), String> {
        let found = self.shared.is_in_place();
        self.is_astray = found.is_err();
        if let Err(reason) = &found {
            self.shared.set_writable(Writable::No);
            if self.told.insert(reason.clone()) {
                tracing::error!("{reason}");
            }
        }
        found
    }

    /// Whoever asks met a failure: see whether the database still works, and mend what can be mended.
    pub(super) fn probe(&mut self) {
        if let Some(failure) = &mut self.failure {
            // It is tried again soon anyway.
            failure.is_read = false;
            return;
        }
        let tried = self.in_place().map_err(Failed::because);
        if let Err(failed) = tried.and_then(|()| write_probe(&self.shared)) {
            self.fail(failed);
        }
    }

    /// Notes a failure, and tries to mend it at once.
    pub(super) fn fail(&mut self, failed: Failed) -> String {
        let Failed { reason, is_full } = failed;
        if self.told.insert(reason.clone()) {
            let path = self.shared.path().display();
            tracing::error!(%reason, %path, "the store can't be written; it will be opened again");
        }
        if is_full {
            self.note_full();
        }
        self.shared.set_writable(Writable::No);
        self.failure = Some(Failure {
            reason: reason.clone(),
            retry_at: Instant::now(),
            pause: FIRST_PAUSE,
            is_read: false,
        });
        self.mend();
        reason
    }

    /// Opens the database again and tries to write. Where it can't be written (a full disk), it is
    /// opened for the readers; and so, once, where the file is elsewhere.
    fn mend(&mut self) {
        let in_place = self.in_place().map_err(Failed::because);
        let Some(failure) = &mut self.failure else {
            return;
        };
        let mended = match in_place {
            Ok(()) => {
                failure.is_read = false;
                open_and_probe(&self.shared)
            }
            Err(astray) => {
                failure.is_read = failure.is_read || open_for_reading(&self.shared);
                Err(astray)
            }
        };
        let Err(failed) = mended else {
            self.failure = None;
            return self.look();
        };
        if self.told.insert(failed.reason.clone()) {
            let (reason, path) = (&failed.reason, self.shared.path().display());
            tracing::warn!(reason, %path, "the store still can't be written");
        }
        failure.reason = failed.reason;
        failure.retry_at = Instant::now() + failure.pause;
        failure.pause = (failure.pause * 2).min(LONGEST_PAUSE);
        if failed.is_full {
            self.note_full();
        }
    }

    /// Tells whether the store can be written.
    fn look(&mut self) {
        self.look_at = Instant::now() + LOOK;
        if self.in_place().is_ok() {
            self.look_for_room();
        }
    }

    /// Tells that the store can be written, unless its disk was full of late and still is.
    fn look_for_room(&mut self) {
        match &mut self.full {
            Some(full) if Instant::now() < full.until && !self.shared.has_room() => {
                self.shared.set_writable(Writable::No);
                if !std::mem::replace(&mut full.is_told, true) {
                    let path = self.shared.path().display();
                    let wanted_kib = room::ENOUGH >> 10;
                    tracing::error!(%path, wanted_kib, "there is no room left on the disk of the store");
                }
            }
            _ => self.believe(),
        }
    }

    /// A write found no room.
    fn note_full(&mut self) {
        let is_told = self.full.as_ref().is_some_and(|full| full.is_told);
        self.full = Some(Full::since_now(is_told));
    }

    /// Tells that the store can be written.
    fn believe(&mut self) {
        self.full = None;
        if !self.shared.is_writable() {
            tracing::info!("the store can be written again");
        }
        self.told.clear();
        self.shared.set_writable(Writable::Yes);
    }
}

fn open_and_probe(shared: &Shared) -> Result<(), Failed> {
    shared.reopen(Access::Full)?;
    write_probe(shared).inspect_err(|_| {
        open_for_reading(shared);
    })
}

/// Tells whether it could be.
fn open_for_reading(shared: &Shared) -> bool {
    let opened = shared.reopen(Access::Reading);
    if let Err(error) = &opened {
        tracing::error!(%error, "the store can't be read either");
    }
    opened.is_ok()
}

/// Writes what nobody reads: the snapshot of the readers stays.
fn write_probe(shared: &Shared) -> Result<(), Failed> {
    guarded(shared, |db| {
        let mut tx = db.begin_write()?;
        tx.set_quick_repair(true);
        let now = shared.clock.now_ms().to_be_bytes();
        tx.open_table(META)?.insert(PROBE_KEY, now.as_slice())?;
        Ok(tx.commit()?)
    })
}

/// Runs `work` on the database; whatever goes wrong, panics of redb included, is a failure of it.
pub(super) fn guarded<T>(
    shared: &Shared,
    work: impl FnOnce(&Database) -> Result<T, Fault>,
) -> Result<T, Failed> {
    let done = catch_unwind(AssertUnwindSafe(|| shared.with_database(work)));
    match done {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(fault)) => Err(fault.into()),
        Err(_) => {
            let reason = "redb panicked; the file may be damaged".to_owned();
            Err(Fault::broken(reason).into())
        }
    }
}

/// The error's text, to be wrapped in [`StoreError::Unavailable`] once, not twice.
fn reason(error: StoreError) -> String {
    match error {
        StoreError::Unavailable { reason } => reason,
        other => other.to_string(),
    }
}

/// As who asked for a commit hears of it.
pub(super) fn unavailable(reason: &str) -> StoreError {
    StoreError::Unavailable {
        reason: reason.to_owned(),
    }
}
