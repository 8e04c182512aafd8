//! What waits to be written: bounded, and nobody waits for a place.
//!
//! What strangers can cause without end (forged notifications, callbacks, requests of web pages) is
//! told a few times a minute of each kind; the rest is counted and becomes one line.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::chain::Head;
use super::entry::{Class, Entry};
use super::metrics::AuditMetrics;

/// An entry, and when it was told, Unix milliseconds.
pub(super) type Told = (i64, Entry);

/// A minute, milliseconds.
const MINUTE_MS: i64 = 60_000;

/// What waits, and who waits for it.
pub(super) struct Queue {
    state: Mutex<State>,
    places: usize,
    metrics: AuditMetrics,
    /// The writer has something to do.
    wake: Condvar,
    /// Something was written, or lost.
    settled: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Told>,
    folds: HashMap<Class, Fold>,
    /// How many were lost since the last line that told so.
    lost: u64,
    /// How often somebody asked that all be written.
    asked: u64,
    /// Up to which of these it was done.
    answered: u64,
    /// The last of these who is waiting for the end, not only looking.
    ending: u64,
    /// Nobody tells anything any more.
    is_closed: bool,
    /// What the disk refuses then is for another queue.
    is_handed_on: bool,
    /// What is safe on disk.
    head: Option<Head>,
}

/// How often entries of one class came in one minute.
struct Fold {
    minute: i64,
    told: u32,
    more: u64,
}

/// Who asks that all be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// Who is about to go: for him, what the disk refuses is given up.
    Ends,
    /// Who only looks, and may leave before it is done.
    Looks,
}

/// What the writer is to do.
pub(super) struct Work {
    pub(super) entries: Vec<Told>,
    /// How many were lost and aren't told yet.
    pub(super) lost: u64,
    /// Which askers are answered once this is done and nothing else waits.
    pub(super) asked: Option<u64>,
    pub(super) is_last: bool,
}

impl Queue {
    pub(super) fn new(places: usize, metrics: AuditMetrics) -> Self {
        Self {
            state: Mutex::default(),
            places,
            metrics,
            wake: Condvar::new(),
            settled: Notify::new(),
        }
    }

    pub(super) fn metrics(&self) -> &AuditMetrics {
        &self.metrics
    }

    /// Takes an entry; counts it as lost where there is no place.
    pub(super) fn tell(&self, told: Told) {
        self.put(&mut self.lock(), told);
    }

    /// The same, of its class `per_minute` at most: the others are counted.
    pub(super) fn tell_some(&self, told: Told, per_minute: u32) {
        let minute = told.0.div_euclid(MINUTE_MS);
        let mut state = self.lock();
        let fold = state.folds.entry(told.1.class()).or_insert(Fold {
            minute,
            told: 0,
            more: 0,
        });
        // What is left of an earlier minute, the writer takes.
        if fold.minute != minute && fold.more == 0 {
            (fold.minute, fold.told) = (minute, 0);
        }
        if fold.told < per_minute {
            fold.told += 1;
            self.put(&mut state, told);
        } else {
            fold.more += 1;
        }
    }

    fn put(&self, state: &mut State, told: Told) {
        if state.waiting.len() >= self.places {
            self.metrics.lost.inc();
            state.lost += 1;
            return;
        }
        state.waiting.push_back(told);
        if state.waiting.len() == 1 {
            self.wake.notify_one();
        }
    }

    /// What is safe on disk; `None` while nothing is.
    pub(super) fn head(&self) -> Option<Head> {
        self.lock().head
    }

    /// Nobody writes what is told here: who waits for that need not.
    pub(super) fn abandon(&self) {
        self.lock().answered = u64::MAX;
        self.settled.notify_waiters();
    }

    /// What waits won't be written anywhere.
    pub(super) fn give_up(&self) {
        let waiting = std::mem::take(&mut self.lock().waiting).len();
        self.metrics
            .lost
            .inc_by(u64::try_from(waiting).unwrap_or(u64::MAX));
    }

    /// Puts what waits in a queue that nobody writes before what waits here.
    pub(super) fn inherit(&self, abandoned: &Self) {
        let (waiting, lost) = {
            let mut state = abandoned.lock();
            let folded = state.folded(i64::MAX, true);
            let mut waiting = std::mem::take(&mut state.waiting);
            waiting.extend(folded);
            (waiting, std::mem::take(&mut state.lost))
        };
        let mut state = self.lock();
        let later = std::mem::replace(&mut state.waiting, waiting);
        state.waiting.extend(later);
        state.lost += lost;
        let beyond = state.waiting.len().saturating_sub(self.places);
        state.waiting.truncate(self.places);
        let beyond = u64::try_from(beyond).unwrap_or(u64::MAX);
        state.lost += beyond;
        self.metrics.lost.inc_by(beyond);
        drop(state);
        self.wake.notify_one();
    }

    /// Nothing is told any more: what waits is written, and the writer ends.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.wake.notify_one();
    }

    /// The same, but what the disk refuses goes on waiting, for [`Self::inherit`].
    pub(super) fn hand_on(&self) {
        self.lock().is_handed_on = true;
        self.close();
    }

    pub(super) fn is_handed_on(&self) -> bool {
        self.lock().is_handed_on
    }

    /// What was taken waits again, before all else.
    pub(super) fn put_back(&self, entries: Vec<Told>, lost: u64) {
        let mut state = self.lock();
        let later = std::mem::replace(&mut state.waiting, entries.into());
        state.waiting.extend(later);
        state.lost += lost;
    }

    /// Ends once all that was told before is written, or lost.
    pub(super) async fn written(&self, asker: Asker) {
        let asked = {
            let mut state = self.lock();
            state.asked += 1;
            if asker == Asker::Ends {
                state.ending = state.asked;
            }
            state.asked
        };
        self.wake.notify_one();
        loop {
            let settled = self.settled.notified();
            if self.lock().answered >= asked {
                return;
            }
            settled.await;
        }
    }

    /// Waits for something to do, `patience` at most.
    pub(super) fn wait(&self, patience: Duration) {
        let idle =
            |state: &mut State| state.waiting.is_empty() && !state.is_closed && !state.is_asked();
        // Whether it came or not, the writer looks.
        let _ = self.wake.wait_timeout_while(self.lock(), patience, idle);
    }

    /// Waits for the end of a pause, or for somebody who waits for the end.
    pub(super) fn pause(&self, patience: Duration) {
        let idle = |state: &mut State| !state.is_ending();
        let _ = self.wake.wait_timeout_while(self.lock(), patience, idle);
    }

    /// Whether there is somebody who waits for the end of the writing, and for no disk.
    pub(super) fn is_ending(&self) -> bool {
        self.lock().is_ending()
    }

    /// Whether there is somebody who waits for what is told now.
    pub(super) fn is_hurried(&self) -> bool {
        let state = self.lock();
        state.is_closed || state.is_asked()
    }

    /// Whether something is counted that will become a line.
    pub(super) fn is_folding(&self) -> bool {
        self.lock().folds.values().any(|fold| fold.more > 0)
    }

    /// Takes what is to be written at `now`, `most` entries and what is folded.
    pub(super) fn take(&self, now: i64, most: usize) -> Work {
        let mut state = self.lock();
        let taken = state.waiting.len().min(most);
        let mut entries: Vec<Told> = state.waiting.drain(..taken).collect();
        let is_all = state.waiting.is_empty();
        let is_last = is_all && state.is_closed;
        // Who asks that all be written wants to hear what was counted, too.
        let until_now = is_all && (state.is_closed || state.is_asked());
        entries.extend(state.folded(now, until_now));
        Work {
            entries,
            lost: std::mem::take(&mut state.lost),
            asked: Some(state.asked).filter(|_| is_all),
            is_last,
        }
    }

    /// `count` lines are safe on disk.
    pub(super) fn wrote(&self, count: u64, head: Head) {
        self.metrics.lines.inc_by(count);
        self.lock().head = Some(head);
    }

    /// `count` entries that were taken won't be written.
    pub(super) fn lose(&self, count: u64) {
        self.metrics.lost.inc_by(count);
        self.lock().lost += count;
    }

    /// As many were lost as nobody knows yet: they are told later.
    pub(super) fn remember_lost(&self, count: u64) {
        self.lock().lost += count;
    }

    /// Those who asked until then are answered.
    pub(super) fn answer(&self, asked: u64) {
        let mut state = self.lock();
        state.answered = state.answered.max(asked);
        drop(state);
        self.settled.notify_waiters();
    }

    /// Nothing that can panic runs under the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_asked(&self) -> bool {
        self.answered < self.asked
    }

    fn is_ending(&self) -> bool {
        self.is_closed || self.answered < self.ending
    }

    /// The lines of what was counted in minutes that are over, or until now.
    fn folded(&mut self, now: i64, until_now: bool) -> Vec<Told> {
        let minute = now.div_euclid(MINUTE_MS);
        let mut lines = Vec::new();
        self.folds.retain(|class, fold| {
            let is_over = fold.minute != minute;
            if fold.more > 0 && (is_over || until_now) {
                let end = fold.minute.saturating_add(1).saturating_mul(MINUTE_MS);
                lines.push((now.min(end), Entry::folded(*class, fold.more)));
                fold.more = 0;
            }
            !is_over
        });
        lines
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::audit::entry::Event;

    fn queue(places: usize) -> Queue {
        let metrics = AuditMetrics::register(&Registry::new()).expect("registered");
        Queue::new(places, metrics)
    }

    fn entry(outcome: &'static str) -> Entry {
        Entry::new(Event::Notification, "other", outcome)
    }

    fn texts(entries: &[Told]) -> Vec<String> {
        let text = |(_, entry): &Told| {
            let members = std::str::from_utf8(entry.members()).expect("text");
            format!("{{{members}}}")
        };
        entries.iter().map(text).collect()
    }

    #[test]
    fn a_full_queue_loses_and_counts() {
        let queue = queue(2);
        for _ in 0..5 {
            queue.tell((0, entry("accepted")));
        }
        let work = queue.take(0, 100);
        assert_eq!((work.entries.len(), work.lost), (2, 3));
        assert_eq!(queue.metrics.lost.get(), 3);
        assert_eq!(queue.take(0, 100).lost, 0);
    }

    #[test]
    fn a_flood_becomes_one_line_a_minute_of_each_kind() {
        let queue = queue(100);
        for now in 0..1000 {
            queue.tell_some((now, entry("forged")), 2);
            queue.tell_some((now, entry("malformed")), 2);
        }
        assert_eq!(queue.take(1000, 100).entries.len(), 4);
        assert!(queue.is_folding());
        let mut lines = texts(&queue.take(60_000, 100).entries);
        lines.sort();
        assert_eq!(
            lines,
            ["forged", "malformed"].map(|outcome| format!(
                r#"{{"event":"notification","kind":"other","outcome":"{outcome}","folded":998}}"#
            ))
        );
        queue.tell_some((60_001, entry("forged")), 2);
        assert_eq!(queue.take(60_001, 100).entries.len(), 1, "a new minute");
    }

    #[test]
    fn the_end_tells_what_is_counted() {
        let queue = queue(100);
        for _ in 0..3 {
            queue.tell_some((0, entry("forged")), 1);
        }
        queue.close();
        let work = queue.take(1, 100);
        assert!(work.is_last);
        assert_eq!(texts(&work.entries).len(), 2);
    }
}
