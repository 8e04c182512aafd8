//! The thread that writes: groups of lines, one wait for the disk each.
//!
//! While the disk refuses, lines wait in the queue within its bound; once it takes lines again, one
//! of them tells how many were lost. Nobody waits for this thread but who asks for the end of it.

use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::Beginning;
use super::chain::{self, Belief, ChainKey, Head, day_text};
use super::entry::{Entry, Event};
use super::error::AuditError;
use super::files::{self, LogFile, Tail};
use super::queue::{Queue, Told, Work};
use super::retire::{Limits, Log, Retired, Retirement};
use crate::clock::Clock;

/// How long lines gather before the first of them is written: what a crash may lose.
const LINGER: Duration = Duration::from_millis(20);
/// How many lines are written at once.
const BATCH: usize = 1024;
/// How often it is looked whether a day is over, or what was counted has to be told.
const TICK: Duration = Duration::from_secs(60);
/// The same while something is counted.
const FOLDING_TICK: Duration = Duration::from_secs(1);
/// The pause between two tries while the disk refuses.
const PAUSE: Duration = Duration::from_secs(1);
/// The same once somebody waits for the end, and how often it is then tried.
const LAST_TRIES: (Duration, u32) = (Duration::from_millis(200), 5);

/// What the thread works with.
pub(super) struct Writer {
    pub(super) path: PathBuf,
    pub(super) key: Option<ChainKey>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) queue: Arc<Queue>,
    /// Who opened it, where that is no sidecar.
    by: Option<&'static str>,
    retirement: Retirement,
    beginning: Beginning,
    head: Head,
    file: Option<LogFile>,
    /// What has to be told of the log before anything else.
    opening: Vec<Told>,
    /// The disk refuses.
    is_failing: bool,
    /// How often it did since somebody waits for the end.
    last_tries: u32,
    /// The end of the chain was found.
    has_begun: bool,
}

/// What a [`Writer`] is made of.
pub(super) struct Making {
    pub(super) path: PathBuf,
    pub(super) key: Option<ChainKey>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) queue: Arc<Queue>,
    pub(super) by: Option<&'static str>,
    pub(super) limits: Arc<ArcSwap<Limits>>,
    /// The head that was kept apart from the file.
    pub(super) anchored: Option<Head>,
    pub(super) beginning: Beginning,
}

/// What became of lines.
#[derive(PartialEq, Eq)]
enum Written {
    /// They are written, or lost.
    OrLost,
    /// They wait for the writer of another file.
    ByAnother,
}

impl Writer {
    /// Opens the log where it ended. A disk that only refuses for now is waited for later.
    pub(super) fn open(making: Making) -> Result<Self, AuditError> {
        let mut writer = Self {
            path: making.path,
            key: making.key,
            clock: making.clock,
            queue: making.queue,
            by: making.by,
            retirement: Retirement::new(making.limits),
            beginning: making.beginning,
            head: making.anchored.unwrap_or(Head::NONE),
            file: None,
            opening: Vec::new(),
            is_failing: false,
            last_tries: 0,
            has_begun: false,
        };
        match writer.begin() {
            Err(error) if error.is_passing() => {
                tracing::error!(%error, "the audit log can't be written for now");
            }
            begun => begun?,
        }
        Ok(writer)
    }

    /// Finds the last line that somebody vouches for, wherever it stands, and opens the file. Behind
    /// what the store knows only our key vouches: going on behind anything else, we would ourselves
    /// vouch for what anybody wrote.
    fn begin(&mut self) -> Result<(), AuditError> {
        let file = LogFile::open(&self.path)?;
        let (path, anchored) = (self.path.clone(), self.head);
        let wrong = |error| AuditError::of(&path, error);
        let mut found = Head::NONE;
        let (mut torn, mut unvouched) = (Vec::new(), 0);
        for file in files::all(&path).map_err(wrong)? {
            let tail = Tail::read(&file, self.belief()).map_err(wrong)?;
            unvouched += tail.unvouched;
            match tail.last {
                Some((last, _)) if last.seq >= found.seq => (found, torn) = (last, tail.torn),
                Some(_) => {}
                None => torn.extend(tail.torn),
            }
        }
        // Where both have the line, the one kept apart is believed: who changed the file can't
        // make it fit again.
        if found.seq > anchored.seq {
            self.head = found;
        } else if found.seq < anchored.seq && self.beginning == Beginning::Start {
            let (last, found) = (anchored.seq, found.seq);
            tracing::error!(last, found, "lines at the end of the audit log are missing");
        }
        if unvouched > 0 {
            tracing::error!(
                unvouched,
                "at the end of the audit log stand lines that were not written under this store key"
            );
        }
        let word = match self.beginning {
            Beginning::Move => "moved",
            Beginning::Start => "started",
        };
        self.take_up(file, word, (torn, unvouched))?;
        self.has_begun = true;
        Ok(())
    }

    fn belief(&self) -> Belief<'_> {
        Belief {
            key: self.key.as_ref(),
            anchored: self.head.seq,
        }
    }

    /// Goes on in `file`, which says as its next line how that came.
    fn take_up(
        &mut self,
        mut file: LogFile,
        word: &'static str,
        (torn, unvouched): (Vec<Vec<u8>>, u64),
    ) -> Result<(), AuditError> {
        let (path, now) = (&self.path, self.clock.now_ms());
        let wrong = |error| AuditError::of(path, error);
        let tail = Tail::read(path, self.belief()).map_err(wrong)?;
        if tail.is_open {
            file.append(b"\n").map_err(wrong)?;
        }
        file.first = files::first_seq(path).map_err(wrong)?;
        file.day = tail.day().map(ToOwned::to_owned);
        if file.first.is_none() {
            file.day = Some(day_text(now));
        }
        self.file = Some(file);
        let opening = self.tells_opening(word, (files::torn_digest(&torn), unvouched));
        self.opening.push(opening);
        Ok(())
    }

    fn tells_opening(&self, word: &'static str, (torn, unvouched): (Option<String>, u64)) -> Told {
        let entry = Entry::new(Event::Audit, "log", word)
            .with("version", env!("CARGO_PKG_VERSION"))
            .with_some("by", self.by)
            .with_some("torn", torn.as_deref());
        let entry = match unvouched {
            0 => entry,
            count => entry.with_number("unvouched", count),
        };
        let entry = match &self.key {
            Some(key) => entry.with("key", key.id()),
            None => entry.without("key"),
        };
        (self.clock.now_ms(), entry)
    }

    /// Works until the queue is closed and empty.
    pub(super) fn run(mut self) {
        let queue = Arc::clone(&self.queue);
        let _answered = Answered(&queue);
        loop {
            queue.wait(self.patience());
            if !queue.is_hurried() {
                thread::sleep(LINGER);
            }
            let mut work = queue.take(self.clock.now_ms(), BATCH);
            if self.write(&mut work) == Written::ByAnother {
                return;
            }
            if let Some(asked) = work.asked {
                queue.answer(asked);
            }
            if work.is_last {
                return;
            }
        }
    }

    fn patience(&self) -> Duration {
        match (
            self.has_begun && self.opening.is_empty(),
            self.queue.is_folding(),
        ) {
            (false, _) => Duration::ZERO,
            (true, true) => FOLDING_TICK,
            (true, false) => TICK,
        }
    }

    /// Writes `work`, however long the disk refuses, unless somebody waits for the end.
    fn write(&mut self, work: &mut Work) -> Written {
        let told = work.entries.len();
        let retired = self.retire(work);
        while let Err(error) = self.try_write(work) {
            if !std::mem::replace(&mut self.is_failing, true) {
                tracing::error!(%error, "audit lines can't be written; they wait while there is room");
            }
            let (pause, most) = LAST_TRIES;
            if !self.queue.is_ending() {
                self.last_tries = 0;
                self.queue.pause(PAUSE);
            } else if self.last_tries < most {
                self.last_tries += 1;
                thread::sleep(pause);
            } else if self.queue.is_handed_on() {
                // What would have been removed stays, and that it was isn't told.
                work.entries.truncate(told);
                let entries = std::mem::take(&mut work.entries);
                self.queue.put_back(entries, work.lost);
                return Written::ByAnother;
            } else {
                self.give_up(work);
                return Written::OrLost;
            }
        }
        self.last_tries = 0;
        if std::mem::take(&mut self.is_failing) {
            tracing::info!("audit lines are written again");
        }
        retired.remove(self.queue.metrics());
        Written::OrLost
    }

    /// What was taken is lost.
    fn give_up(&self, work: &Work) {
        let lost = u64::try_from(work.entries.len()).unwrap_or(u64::MAX);
        self.queue.lose(lost);
        self.queue.remember_lost(work.lost);
        // Nothing but the word of former losses may have waited.
        if lost > 0 {
            tracing::error!(lost, "audit lines are lost");
        }
    }

    fn try_write(&mut self, work: &Work) -> Result<(), AuditError> {
        let lost = (work.lost > 0).then(|| self.tells_lost(work.lost));
        let is_idle = lost.is_none() && work.entries.is_empty();
        if self.has_begun && self.opening.is_empty() && is_idle {
            return Ok(());
        }
        self.see_to_file()?;
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        let (mut head, mut bytes) = (self.head, Vec::new());
        let entries = self.opening.iter().chain(&lost).chain(&work.entries);
        let mut count = 0;
        for (time, entry) in entries {
            let (line, next) = chain::line(head, self.key.as_ref(), (*time, entry));
            bytes.extend(line);
            bytes.push(b'\n');
            head = next;
            count += 1;
        }
        file.append(&bytes)
            .map_err(|error| AuditError::of(&self.path, error))?;
        let first = self.head.seq.saturating_add(1);
        file.first.get_or_insert(first);
        file.day = Some(day_text(self.clock.now_ms()));
        self.head = head;
        self.opening.clear();
        self.queue.wrote(count, head);
        Ok(())
    }

    fn tells_lost(&self, count: u64) -> Told {
        let entry = Entry::new(Event::Audit, "log", "lost").with_number("lines", count);
        (self.clock.now_ms(), entry)
    }

    /// Sees to it that lines go into the right file: not into one that was taken away, is large, or
    /// is of yesterday.
    fn see_to_file(&mut self) -> Result<(), AuditError> {
        if !self.has_begun {
            return self.begin();
        }
        let Some(file) = &self.file else {
            return self.go_on("reopened");
        };
        if !file.is_at(&self.path) {
            tracing::warn!(path = %self.path.display(), "the audit log was taken away; a new file is begun");
            self.file = None;
            return self.go_on("reopened");
        }
        let day = day_text(self.clock.now_ms());
        let is_over = file.day.as_ref() != Some(&day) || file.length() >= self.retirement.largest();
        let (Some(first), Some(its_day)) = (file.first, &file.day) else {
            return Ok(());
        };
        if !is_over {
            return Ok(());
        }
        match files::set_aside(&self.path, its_day, first) {
            Ok(()) => {
                self.file = None;
                self.retirement.grew();
                self.go_on("rotated")
            }
            Err(error) => {
                tracing::warn!(%error, "the audit log can't be set aside; it grows on");
                Ok(())
            }
        }
    }

    fn go_on(&mut self, word: &'static str) -> Result<(), AuditError> {
        let file = LogFile::open(&self.path)?;
        // What a start has to say, it still says itself.
        match self.opening.is_empty() {
            true => self.take_up(file, word, (Vec::new(), 0)),
            false => {
                let opening = std::mem::take(&mut self.opening);
                self.take_up(file, word, (Vec::new(), 0))?;
                self.opening = opening;
                Ok(())
            }
        }
    }

    /// Takes up what has to go, and says so in `work`. The files go once that is written, so that who
    /// looks for their lines finds why they are gone.
    fn retire(&mut self, work: &mut Work) -> Retired {
        let now = self.clock.now_ms();
        let log = Log {
            path: &self.path,
            key: self.key.as_ref(),
        };
        let mut retired = self.retirement.look(log, now);
        let told = std::mem::take(&mut retired.told);
        work.entries
            .extend(told.into_iter().map(|entry| (now, entry)));
        retired
    }
}

/// Answers everybody, however the thread ends.
struct Answered<'q>(&'q Queue);

impl Drop for Answered<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("a bug ended the writing of the audit log; lines are lost and counted");
        }
        self.0.answer(u64::MAX);
    }
}
