//! The writer thread: the only one that writes, many commits in one transaction.
//!
//! A durable transaction costs an fdatasync whatever is in it, so all commits that wait go into
//! one. When the disk fails, redb refuses everything until it is opened anew: the writer has that done
//! (`mending`), and answers meanwhile at once. Reads go on as long as the file can be read.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Instant;

use redb::Database;
use tokio::sync::oneshot;

use super::apply::Applier;
use super::aside::Suspect;
use super::fault::Fault;
use super::mending::{Failed, Mending, guarded, unavailable};
use super::prune::Batch;
use super::shared::Shared;
use super::tables::Tables;
use crate::store::error::StoreError;
use crate::store::{Change, Effect, Pruned};

/// How many commits share one transaction at the most: what one fdatasync can be shared by,
/// without the first of them waiting long for the last.
const GROUP: usize = 512;

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
    mending: Mending,
}

impl Writer {
    /// A writer for `jobs`.
    pub(super) fn new(shared: Arc<Shared>, jobs: Receiver<Job>) -> Self {
        let mending = Mending::new(Arc::clone(&shared));
        Self {
            shared,
            jobs,
            mending,
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

    /// The next job; meanwhile looks where the file is, and sees to a failed disk, whenever that is due, however many
    /// jobs there are.
    fn next(&mut self) -> Option<Job> {
        loop {
            let due = self.mending.due();
            let pause = due.saturating_duration_since(Instant::now());
            if pause.is_zero() {
                self.mending.go_on();
                continue;
            }
            match self.jobs.recv_timeout(pause) {
                Ok(job) => return Some(job),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn work(&mut self, job: Job) {
        match job {
            Job::Commit(commit) => self.write_group(vec![commit]),
            Job::Probe(reply) => {
                self.mending.probe();
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
        let answers = self.mending.usable().and_then(|()| {
            let written = write_all(&self.shared, &commits);
            let answers = written.map_err(|failed| self.mending.fail(failed))?;
            // What is durable in a file that has gone meanwhile isn't: nobody is told that it is.
            self.mending.in_place()?;
            Ok(answers)
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
        let answer = self.mending.usable().and_then(|()| {
            let pruned = prune_batch(&self.shared, &prune);
            pruned.map_err(|failed| self.mending.fail(failed))
        });
        let _ = prune.reply.send(answer.map_err(|e| unavailable(&e)));
    }

    fn set_aside(&mut self, suspects: &[Suspect]) {
        let done = self.mending.usable().and_then(|()| {
            let moved = set_aside(&self.shared, suspects);
            moved.map_err(|failed| self.mending.fail(failed))
        });
        if let Err(reason) = done {
            tracing::warn!(%reason, "damaged records can't be moved aside at present");
        }
    }
}

/// Applies all commits that can be, together; gives the reason where the database failed.
pub(super) fn write_all(shared: &Shared, commits: &[Commit]) -> Result<Answers, Failed> {
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

fn prune_batch(shared: &Shared, prune: &Prune) -> Result<(Pruned, Batch), Failed> {
    guarded(shared, |db| {
        transact(shared, db, prune.now, |applier| {
            let pruned = applier.prune(prune.now, prune.retain_delivered_ms)?;
            Ok((Stands::if_written(applier.has_written()), pruned))
        })
    })
}

fn set_aside(shared: &Shared, suspects: &[Suspect]) -> Result<(), Failed> {
    guarded(shared, |db| {
        transact(shared, db, shared.clock.now_ms(), |applier| {
            applier.set_aside(suspects)?;
            Ok((Stands::if_written(applier.has_written()), ()))
        })
    })
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
