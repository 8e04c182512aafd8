//! The writer thread: the only one that writes, many commits in one transaction.
//!
//! A durable transaction costs an fdatasync whatever is in it, so all commits that wait go into
//! one. When the disk fails, redb refuses everything until it is opened anew: the writer does that,
//! again and again with growing pauses, and answers meanwhile at once. Reads go on as long as the
//! file can be read.
//!
//! A full disk takes what fits into the file as it is, and refuses what doesn't. So writes are tried
//! there, but it isn't told that the store can be written until there is room again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use redb::Database;
use tokio::sync::oneshot;

use super::apply::Applier;
use super::aside::Suspect;
use super::fault::Fault;
use super::prune::Batch;
use super::shared::{Access, Shared, Writable};
use super::tables::{META, PROBE_KEY, Tables};
use crate::store::error::StoreError;
use crate::store::{Change, Effect, Pruned};

/// How many commits share one transaction at the most: what one fdatasync can be shared by,
/// without the first of them waiting long for the last.
const GROUP: usize = 512;

/// The first pause before a failed database is tried again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause before a failed database is tried again: how late a freed disk is noticed, of
/// the 5 s within which notifications are to be taken again.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How often it is looked whether a full disk has room again.
const LOOK: Duration = Duration::from_secs(1);

/// What the writer is asked to do.
pub(super) enum Job {
    /// Apply changes.
    Commit(Commit),
    /// A reader met a failure: see whether the database still works, and mend what can be mended
    /// before the answer.
    Probe(oneshot::Sender<()>),
    /// Forget one batch of what is old.
    Prune(Prune),
    /// Move what is damaged of these out of the way.
    SetAside(Vec<Suspect>),
}

/// Changes to apply, and where the effects go.
pub(super) struct Commit {
    pub(super) changes: Vec<Change>,
    pub(super) reply: oneshot::Sender<Result<Vec<Effect>, StoreError>>,
}

/// What to forget, and where the number goes.
pub(super) struct Prune {
    pub(super) now: i64,
    pub(super) retain_delivered_ms: i64,
    pub(super) reply: oneshot::Sender<Result<(Pruned, Batch), StoreError>>,
}

/// The answers of a group, in the order of its commits; a missing one is still open.
pub(super) type Answers = Vec<Option<Result<Vec<Effect>, StoreError>>>;

/// How an attempt at a group ended.
enum Outcome {
    /// All is durable; these are the answers.
    Done(Answers),
    /// The commit at this index was refused after it had written: nothing was done.
    Spoilt(usize, StoreError),
}

/// The writer thread's state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    jobs: Receiver<Job>,
    failure: Option<Failure>,
    /// Not before this is gone is it told that the store can be written.
    doubt: Option<Doubt>,
}

/// Of a disk that failed, until it is mended and has room.
struct Doubt {
    /// What was logged of it: a full disk fails again with each notification.
    told: String,
    is_full: bool,
    look_at: Instant,
}

impl Doubt {
    fn of(failure: &Failure) -> Self {
        Self {
            told: failure.reason.clone(),
            is_full: false,
            look_at: failure.retry_at,
        }
    }
}

/// A failure that isn't mended yet.
struct Failure {
    reason: String,
    retry_at: Instant,
    pause: Duration,
}

impl Writer {
    /// A writer for `jobs`.
    pub(super) fn new(shared: Arc<Shared>, jobs: Receiver<Job>) -> Self {
        let failure = (!shared.is_writable()).then(|| Failure {
            reason: "the disk took no writes when the store was opened".to_owned(),
            retry_at: Instant::now() + FIRST_PAUSE,
            pause: FIRST_PAUSE,
        });
        Self {
            shared,
            jobs,
            doubt: failure.as_ref().map(Doubt::of),
            failure,
        }
    }

    /// Works until every sender is gone and the queue is empty.
    pub(super) fn run(mut self) {
        while let Some(first) = self.next() {
            let waiting = self.jobs.try_iter().take(GROUP - 1);
            let mut commits = Vec::new();
            let mut others = Vec::new();
            for job in std::iter::once(first).chain(waiting) {
                match job {
                    Job::Commit(commit) => commits.push(commit),
                    other => others.push(other),
                }
            }
            self.write_group(commits);
            for job in others {
                self.work(job);
            }
        }
    }

    /// The next job; tries to mend a failure whenever its pause is over, and looks for room on a full
    /// disk however many jobs there are.
    fn next(&mut self) -> Option<Job> {
        loop {
            let due = match (&self.failure, &self.doubt) {
                (Some(failure), _) => failure.retry_at,
                (None, Some(doubt)) => doubt.look_at,
                (None, None) => return self.jobs.recv().ok(),
            };
            let pause = due.saturating_duration_since(Instant::now());
            if pause.is_zero() && self.failure.is_none() {
                self.look_for_room();
                continue;
            }
            match self.jobs.recv_timeout(pause) {
                Ok(job) => return Some(job),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.mend(),
            }
        }
    }

    fn work(&mut self, job: Job) {
        match job {
            Job::Commit(commit) => self.write_group(vec![commit]),
            Job::Probe(reply) => {
                self.probe();
                // Whoever asked may have gone.
                let _ = reply.send(());
            }
            Job::Prune(prune) => self.prune(prune),
            Job::SetAside(suspects) => self.set_aside(&suspects),
        }
    }

    fn write_group(&mut self, commits: Vec<Commit>) {
        if commits.is_empty() {
            return;
        }
        let answers = self.usable().and_then(|()| {
            let written = write_all(&self.shared, &commits);
            written.map_err(|reason| self.fail(reason))
        });
        match answers {
            Ok(answers) => {
                for (commit, answer) in commits.into_iter().zip(answers) {
                    let answer = answer.unwrap_or_else(|| Err(unavailable("no answer was found")));
                    // The caller may have gone: its changes stand all the same.
                    let _ = commit.reply.send(answer);
                }
            }
            Err(reason) => {
                for commit in commits {
                    let _ = commit.reply.send(Err(unavailable(&reason)));
                }
            }
        }
    }

    fn prune(&mut self, prune: Prune) {
        let answer = self.usable().and_then(|()| {
            let pruned = prune_batch(&self.shared, &prune);
            pruned.map_err(|reason| self.fail(reason))
        });
        if answer
            .as_ref()
            .is_ok_and(|(pruned, _)| *pruned != Pruned::default())
        {
            // There is room within the file by now.
            self.believe();
        }
        let _ = prune.reply.send(answer.map_err(|e| unavailable(&e)));
    }

    fn set_aside(&mut self, suspects: &[Suspect]) {
        let done = self.usable().and_then(|()| {
            let moved = set_aside(&self.shared, suspects);
            moved.map_err(|reason| self.fail(reason))
        });
        if let Err(reason) = done {
            tracing::warn!(%reason, "damaged records can't be moved aside at present");
        }
    }

    /// Whether a write is worth trying, or why not.
    fn usable(&mut self) -> Result<(), String> {
        if self
            .failure
            .as_ref()
            .is_some_and(|f| f.retry_at <= Instant::now())
        {
            self.mend();
        }
        match &self.failure {
            Some(failure) => Err(failure.reason.clone()),
            None => Ok(()),
        }
    }

    fn probe(&mut self) {
        if self.failure.is_none()
            && let Err(reason) = write_probe(&self.shared)
        {
            self.fail(reason);
        }
    }

    /// Notes a failure, and tries to mend it at once.
    fn fail(&mut self, reason: String) -> String {
        if self.doubt.as_ref().is_none_or(|doubt| doubt.told != reason) {
            tracing::error!(%reason, "the store can't be written; it will be opened again");
        }
        self.shared.set_writable(Writable::No);
        let failure = Failure {
            reason: reason.clone(),
            retry_at: Instant::now(),
            pause: FIRST_PAUSE,
        };
        let is_full = self.doubt.as_ref().is_some_and(|doubt| doubt.is_full);
        self.doubt = Some(Doubt {
            is_full,
            ..Doubt::of(&failure)
        });
        self.failure = Some(failure);
        self.mend();
        reason
    }

    /// Opens the database again and tries to write. Where it can't be written (a full disk), it is
    /// opened for the readers.
    fn mend(&mut self) {
        let Some(failure) = &mut self.failure else {
            return;
        };
        match open_and_probe(&self.shared) {
            Ok(()) => {
                self.failure = None;
                self.look_for_room();
            }
            Err(reason) => {
                failure.reason = reason;
                failure.retry_at = Instant::now() + failure.pause;
                failure.pause = (failure.pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// Tells that the store can be written, if the disk has room.
    fn look_for_room(&mut self) {
        if self.shared.has_room() {
            self.believe();
        } else if let Some(doubt) = &mut self.doubt {
            if !doubt.is_full {
                tracing::error!(
                    "the disk of the store is full: what doesn't fit into the file as it is can't be written"
                );
            }
            doubt.is_full = true;
            doubt.look_at = Instant::now() + LOOK;
        }
    }

    /// Tells that the store can be written.
    fn believe(&mut self) {
        if self.doubt.take().is_some() {
            tracing::info!("the store can be written again");
        }
        self.shared.set_writable(Writable::Yes);
    }
}

fn open_and_probe(shared: &Shared) -> Result<(), String> {
    shared.reopen(Access::Full).map_err(reason)?;
    write_probe(shared).inspect_err(|_| {
        if let Err(error) = shared.reopen(Access::Reading) {
            tracing::error!(%error, "the store can't be read either");
        }
    })
}

/// Applies all commits that can be, together; gives the reason where the database failed.
pub(super) fn write_all(shared: &Shared, commits: &[Commit]) -> Result<Answers, String> {
    let mut answers: Answers = commits.iter().map(|_| None).collect();
    loop {
        match guarded(shared, |db| attempt(shared, db, commits, &answers))? {
            Outcome::Done(more) => {
                for (answer, more) in answers.iter_mut().zip(more) {
                    *answer = answer.take().or(more);
                }
                return Ok(answers);
            }
            Outcome::Spoilt(index, error) => {
                if let Some(answer) = answers.get_mut(index) {
                    *answer = Some(Err(error));
                }
            }
        }
    }
}

/// One transaction with every commit that has no answer yet.
fn attempt(
    shared: &Shared,
    db: &Database,
    commits: &[Commit],
    answered: &Answers,
) -> Result<Outcome, Fault> {
    let mut answers: Answers = Vec::with_capacity(commits.len());
    let spoilt = transact(shared, db, shared.clock.now_ms(), |applier| {
        applier.expect(commits.iter().flat_map(|commit| &commit.changes));
        let mut written = false;
        for (index, (commit, answered)) in commits.iter().zip(answered).enumerate() {
            if answered.is_some() {
                answers.push(None);
                continue;
            }
            let answer = apply(applier, &commit.changes)?;
            let wrote = applier.has_written();
            match answer {
                Err(error) if wrote => return Ok((Stands::No, Some((index, error)))),
                answer => answers.push(Some(answer)),
            }
            written |= wrote;
        }
        Ok((Stands::if_written(written), None))
    })?;
    Ok(match spoilt {
        Some((index, error)) => Outcome::Spoilt(index, error),
        None => Outcome::Done(answers),
    })
}

/// Whether what was written is to stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// Nothing was written, or nothing of it is to stand.
    No,
    /// All of it.
    Yes,
}

impl Stands {
    fn if_written(written: bool) -> Self {
        match written {
            true => Self::Yes,
            false => Self::No,
        }
    }
}

/// Runs `work` within one transaction, at the time `now`, and makes what it wrote durable, where it
/// says that it is to stand.
fn transact<T>(
    shared: &Shared,
    db: &Database,
    now: i64,
    work: impl FnOnce(&mut Applier<'_>) -> Result<(Stands, T), Fault>,
) -> Result<T, Fault> {
    let mut tx = db.begin_write()?;
    // Opening after a crash then takes milliseconds, whatever the size of the file.
    tx.set_quick_repair(true);
    let mut applier = Applier::new(Tables::new(&tx), &shared.sealer, now);
    let (stands, done) = work(&mut applier)?;
    if stands == Stands::Yes {
        let backlog = applier.backlog(shared.backlog())?;
        drop(applier);
        tx.commit()?;
        shared.set_backlog(backlog);
        // Whoever asked must not hear of it before readers see it.
        shared.snapshots().renew(Some(db));
    } else {
        drop(applier);
        tx.abort()?;
    }
    Ok(done)
}

/// Applies one commit. A panic in it refuses it, and leaves its neighbours alone.
fn apply(
    applier: &mut Applier<'_>,
    changes: &[Change],
) -> Result<Result<Vec<Effect>, StoreError>, Fault> {
    match catch_unwind(AssertUnwindSafe(|| applier.commit(changes))) {
        Ok(Ok(effects)) => Ok(Ok(effects)),
        Ok(Err(Fault::Refused(error))) => Ok(Err(error)),
        Ok(Err(broken)) => Err(broken),
        Err(_) => {
            applier.touch();
            Ok(Err(unavailable("a bug stopped this commit")))
        }
    }
}

fn prune_batch(shared: &Shared, prune: &Prune) -> Result<(Pruned, Batch), String> {
    guarded(shared, |db| {
        transact(shared, db, prune.now, |applier| {
            let pruned = applier.prune(prune.now, prune.retain_delivered_ms)?;
            Ok((Stands::if_written(applier.has_written()), pruned))
        })
    })
}

fn set_aside(shared: &Shared, suspects: &[Suspect]) -> Result<(), String> {
    guarded(shared, |db| {
        transact(shared, db, shared.clock.now_ms(), |applier| {
            applier.set_aside(suspects)?;
            Ok((Stands::if_written(applier.has_written()), ()))
        })
    })
}

/// Writes what nobody reads: the snapshot of the readers stays.
fn write_probe(shared: &Shared) -> Result<(), String> {
    guarded(shared, |db| {
        let mut tx = db.begin_write()?;
        tx.set_quick_repair(true);
        let now = shared.clock.now_ms().to_be_bytes();
        tx.open_table(META)?.insert(PROBE_KEY, now.as_slice())?;
        Ok(tx.commit()?)
    })
}

/// Runs `work` on the database; whatever goes wrong, panics of redb included, is a failure of it.
fn guarded<T>(
    shared: &Shared,
    work: impl FnOnce(&Database) -> Result<T, Fault>,
) -> Result<T, String> {
    let done = catch_unwind(AssertUnwindSafe(|| shared.with_database(work)));
    match done {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(fault)) => Err(reason(fault.into_error())),
        Err(_) => Err("redb panicked; the file may be damaged".to_owned()),
    }
}

/// The error's text, to be wrapped in [`StoreError::Unavailable`] once, not twice.
fn reason(error: StoreError) -> String {
    match error {
        StoreError::Unavailable { reason } => reason,
        other => other.to_string(),
    }
}

fn unavailable(reason: &str) -> StoreError {
    StoreError::Unavailable {
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Directory;
    use crate::store::embedded::faulty::{Faulty, authorize};

    fn commit(changes: Vec<Change>) -> Commit {
        let (reply, _) = oneshot::channel();
        Commit { changes, reply }
    }

    #[tokio::test]
    async fn commits_refused_within_a_group_leave_no_trace_and_harm_no_neighbour() {
        let faulty = Faulty::new();
        let group = [
            commit(vec![authorize("1", "a")]),
            // Refused at once, with nothing written.
            commit(vec![authorize("2", "a")]),
            // Refused after it has written.
            commit(vec![authorize("3", "c"), authorize("4", "a")]),
            // Would be refused if the one before had left its token.
            commit(vec![authorize("5", "c")]),
            commit(vec![
                authorize("6", "d"),
                authorize("7", "e"),
                authorize("6", "e"),
            ]),
        ];
        let answers = write_all(&faulty.store.0.shared, &group).expect("written");
        let taken: Vec<_> = answers
            .iter()
            .map(|answer| answer.as_ref().expect("answered").is_ok())
            .collect();
        assert_eq!(taken, [true, false, false, true, false]);
        let merchants = faulty.store.merchants(None, 10).await.expect("readable");
        let stored: Vec<_> = merchants.iter().map(|m| m.auth_app_id.as_str()).collect();
        assert_eq!(stored, ["1", "5"]);
    }
}
