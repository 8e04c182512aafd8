//! Which files of the log go: those that are old, and the oldest where all together became too
//! large.
//!
//! Invariants: a file goes only where it is vouched for that its lines are this log's, and after the
//! log itself has told up to which line; what nobody vouches for counts nothing, so that whoever puts
//! files beside the log has nothing removed. For its size a file goes only once all of it was read, and
//! those before it went: the end alone, which anybody can copy, doesn't vouch for what stands before it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::chain::{Belief, ChainKey, day_text};
use super::entry::{Entry, Event};
use super::files::{self, Aside, Tail};
use super::metrics::AuditMetrics;
use super::verify::{Extent, verify};

/// How much of the log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// How long files are kept, milliseconds.
    pub(super) retain_ms: i64,
    /// How large all files may become together, bytes; `None`: there is no bound.
    pub(super) max_size: Option<u64>,
    /// How large the one that is written may become, bytes.
    pub(super) largest: u64,
}

impl Limits {
    pub(super) fn new(retain: Duration, max_size: Option<u64>, largest: u64) -> Self {
        Self {
            retain_ms: i64::try_from(retain.as_millis()).unwrap_or(i64::MAX),
            max_size,
            largest,
        }
    }
}

/// Looks for what has to go.
pub(super) struct Retirement {
    limits: Arc<ArcSwap<Limits>>,
    /// By which it was last looked.
    looked_by: Limits,
    /// On which day old files were last looked for.
    looked_on: String,
    /// A file was set aside since it was last looked how large all are.
    has_grown: bool,
    /// The last lines of files of an earlier key, which lines behind them bind: to know that takes
    /// reading all of them.
    bound: HashMap<PathBuf, u64>,
}

/// The log, as it is looked at.
#[derive(Clone, Copy)]
pub(super) struct Log<'l> {
    pub(super) path: &'l Path,
    pub(super) key: Option<&'l ChainKey>,
}

/// What goes once its lines are written.
#[derive(Default)]
pub(super) struct Retired {
    pub(super) files: Vec<PathBuf>,
    pub(super) told: Vec<Entry>,
    /// How many lines go although they aren't old.
    displaced: u64,
}

/// A file set aside that is vouched for.
struct Vouched {
    file: PathBuf,
    bytes: u64,
    first: u64,
    last: u64,
}

impl Retirement {
    pub(super) fn new(limits: Arc<ArcSwap<Limits>>) -> Self {
        Self {
            looked_by: **limits.load(),
            limits,
            looked_on: String::new(),
            has_grown: true,
            bound: HashMap::new(),
        }
    }

    /// How large the file that is written may become.
    pub(super) fn largest(&self) -> u64 {
        self.limits.load().largest
    }

    /// A file was set aside.
    pub(super) fn grew(&mut self) {
        self.has_grown = true;
    }

    /// Once a day what is older than it has to be kept, and after each new file what is too much; both
    /// as soon as there are other limits.
    pub(super) fn look(&mut self, log: Log<'_>, now: i64) -> Retired {
        let limits = **self.limits.load();
        if std::mem::replace(&mut self.looked_by, limits) != limits {
            self.looked_on.clear();
            self.has_grown = true;
        }
        let mut retired = Retired::default();
        let today = day_text(now);
        if self.looked_on != today {
            self.looked_on = today;
            self.by_age(log, now, &mut retired);
        }
        if std::mem::take(&mut self.has_grown) {
            self.by_size(log, &mut retired);
        }
        retired
    }

    fn by_age(&mut self, log: Log<'_>, now: i64, retired: &mut Retired) {
        let oldest = day_text(now.saturating_sub(self.limits.load().retain_ms));
        let before = retired.files.len();
        let mut through = 0;
        for file in files::older_than(log.path, &oldest).unwrap_or_default() {
            match self.last_of(log, &file, Some(&oldest)) {
                Some(last) => {
                    through = through.max(last);
                    retired.files.push(file);
                }
                None => tracing::warn!(
                    file = %file.display(),
                    "an old audit log isn't removed: nobody vouches that its lines are as old as its name"
                ),
            }
        }
        retired.tell("retain", through, before);
    }

    /// The oldest first, until the others leave room for the one that is written.
    fn by_size(&mut self, log: Log<'_>, retired: &mut Retired) {
        let limits = **self.limits.load();
        let Some(max_size) = limits.max_size else {
            return;
        };
        let room = max_size.saturating_sub(limits.largest);
        let mut asides = files::asides(log.path).unwrap_or_default();
        asides.retain(|aside| !retired.files.contains(&aside.file));
        let sum = |bytes: u64, aside: &Aside| bytes.saturating_add(aside.bytes);
        if asides.iter().fold(0, sum) <= room {
            return;
        }
        let mut vouched: Vec<_> = asides
            .into_iter()
            .filter_map(|aside| self.vouch(log, aside))
            .collect();
        // Whose lines another has, too, or the file that is written, isn't what its name says.
        let written = files::first_seq(log.path).ok().flatten();
        let begins = vouched.iter().map(|kept| kept.first).skip(1);
        let mut next = begins.chain(written).collect::<Vec<_>>().into_iter();
        vouched.retain(|kept| next.next().is_none_or(|next| kept.last < next));
        let mut total: u64 = vouched.iter().map(|kept| kept.bytes).sum();
        let (before, mut through) = (retired.files.len(), 0);
        for oldest in vouched {
            if total <= room {
                break;
            }
            if !is_whole(log, &oldest) {
                tracing::warn!(
                    file = %oldest.file.display(),
                    "an audit log isn't removed for its size: nobody vouches for all of its lines"
                );
                break;
            }
            total = total.saturating_sub(oldest.bytes);
            through = through.max(oldest.last);
            let lines = oldest.last.saturating_sub(oldest.first).saturating_add(1);
            retired.displaced = retired.displaced.saturating_add(lines);
            retired.files.push(oldest.file);
        }
        retired.tell("max_size", through, before);
    }

    fn vouch(&mut self, log: Log<'_>, aside: Aside) -> Option<Vouched> {
        let last = self.last_of(log, &aside.file, None)?;
        Some(Vouched {
            first: aside.first.min(last),
            last,
            file: aside.file,
            bytes: aside.bytes,
        })
    }

    /// The number of the last line of `file`, where that is vouched for and, if a day is given, older
    /// than it: who names a file so mustn't have us say that its lines were kept long enough.
    fn last_of(&mut self, log: Log<'_>, file: &Path, before: Option<&str>) -> Option<u64> {
        let is_due = |tail: &Tail| match (before, tail.day()) {
            (None, _) => true,
            (Some(before), day) => day.is_some_and(|day| day < before),
        };
        let tail = Tail::read(file, log.proof()).ok()?;
        let tail = match tail.last {
            Some(_) => tail,
            None if self.is_bound(log, file) => Tail::read(file, Belief::ALL).ok()?,
            None => return None,
        };
        let (last, _) = tail.last.as_ref().filter(|_| is_due(&tail))?;
        Some(last.seq)
    }

    /// Whether a file of an earlier key is bound by all lines behind it up to one of ours. That takes
    /// reading them, so what was found of each is remembered.
    fn is_bound(&mut self, log: Log<'_>, file: &Path) -> bool {
        let last = |file: &Path| {
            let tail = Tail::read(file, Belief::ALL).ok()?;
            Some(tail.last?.0.seq)
        };
        if let Some(known) = self.bound.get(file) {
            return last(file) == Some(*known);
        }
        let bound = log.until_ours(file);
        let checked = verify(&bound, log.key, (Extent::Part, None));
        let is_good = checked.is_ok_and(|report| report.good);
        if is_good {
            let known = bound
                .into_iter()
                .filter_map(|file| Some((last(&file)?, file)));
            self.bound.extend(known.map(|(last, file)| (file, last)));
        }
        is_good
    }
}

/// Whether every line of it holds, and it begins with the one that its name says. What a crash tore at
/// its end or before its beginning, the file beside it tells of.
fn is_whole(log: Log<'_>, kept: &Vouched) -> bool {
    let files = log.until_ours(&kept.file);
    let checked = verify(&files, log.key, (Extent::Part, None));
    checked.is_ok_and(|report| {
        let first = report.first.as_ref().map(|(first, _)| *first);
        first == Some(kept.first) && report.problem_count == report.edges
    })
}

impl Log<'_> {
    /// The file, and those behind it up to one whose end is proved: what was written under an earlier
    /// key is bound by what follows.
    fn until_ours(&self, file: &Path) -> Vec<PathBuf> {
        let files = files::all(self.path).unwrap_or_default();
        let mut found = Vec::new();
        for next in files.into_iter().skip_while(|next| next != file) {
            let is_ours = Tail::read(&next, self.proof()).is_ok_and(|tail| tail.last.is_some());
            found.push(next);
            if is_ours {
                break;
            }
        }
        found
    }

    /// Only what the key proves, whatever the store knows.
    fn proof(&self) -> Belief<'_> {
        Belief {
            key: self.key,
            anchored: 0,
        }
    }
}

impl Retired {
    /// One line for what was taken up since there were `before` files.
    fn tell(&mut self, because: &'static str, through: u64, before: usize) {
        let count = self.files.len().saturating_sub(before);
        if count == 0 {
            return;
        }
        let entry = Entry::new(Event::Audit, "log", "retired")
            .with_number("through", through)
            .with_number("files", u64::try_from(count).unwrap_or(u64::MAX))
            .with("because", because);
        self.told.push(entry);
    }

    /// Removes the files, now that the log tells of it.
    pub(super) fn remove(self, metrics: &AuditMetrics) {
        for file in &self.files {
            if let Err(error) = std::fs::remove_file(file) {
                tracing::warn!(file = %file.display(), %error, "an old audit log can't be removed");
            }
        }
        if self.displaced > 0 {
            metrics.displaced.inc_by(self.displaced);
            tracing::warn!(
                lines = self.displaced,
                "audit lines were removed before `audit.retain`: all files reached `audit.max_size`"
            );
        }
    }
}
