//! Pure: a backend that no connection can be made to isn't tried with all that is owed to it.
//!
//! Every attempt costs a durable write, and with a large backlog there is always another one due.
//! So after a few failures in a row the backend is tried with one delivery at a time, with growing
//! pauses; what isn't tried stays due and counts no attempt. The first answer opens it wholly.

use std::time::{Duration, Instant};

/// How many attempts in a row find nobody before a backend is held back: one that restarts behind
/// a balancer refuses fewer.
const REFUSALS: u32 = 5;
/// The first pause before the next one tries; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause before jitter: with jitter below 5 s, within which a backend that is back is
/// noticed.
const LONGEST_PAUSE: Duration = Duration::from_secs(4);
/// The jitter is at most a fifth of the pause, so that several sidecars spread.
const JITTER_DIVISOR: u32 = 5;

/// Whether an attempt found its backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// There was a connection, whatever came over it.
    Found,
    /// There was none.
    Nobody,
    /// It wasn't tried.
    Untried,
}

/// What the end of an attempt changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing.
    Same,
    /// The backend is held back from now on.
    Held,
    /// It isn't any longer.
    Released,
}

/// The brake of one backend.
#[derive(Debug, Default)]
pub(super) struct Brake {
    /// How many attempts in a row found nobody.
    refusals: u32,
    held: Option<Held>,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    since: Instant,
    /// How many pauses there were.
    pauses: u32,
    /// When the next one may try.
    until: Instant,
}

impl Brake {
    /// Takes in how an attempt ended that began at `began`; `jitter` is any byte.
    pub(super) fn ended(&mut self, reach: Reach, began: Instant, now: Instant, jitter: u8) -> Turn {
        if self.held.is_some_and(|held| began < held.since) {
            // It began with those that made it so, and tells nothing new.
            return Turn::Same;
        }
        match reach {
            Reach::Untried => Turn::Same,
            Reach::Found => {
                self.refusals = 0;
                self.held.take().map_or(Turn::Same, |_| Turn::Released)
            }
            Reach::Nobody => self.refused(now, jitter),
        }
    }

    fn refused(&mut self, now: Instant, jitter: u8) -> Turn {
        self.refusals = self.refusals.saturating_add(1);
        if self.refusals < REFUSALS {
            return Turn::Same;
        }
        let before = self.held;
        let pauses = before.map_or(0, |held| held.pauses.saturating_add(1));
        self.held = Some(Held {
            since: before.map_or(now, |held| held.since),
            pauses,
            until: now + pause(pauses, jitter),
        });
        before.map_or(Turn::Held, |_| Turn::Same)
    }

    /// Since when the backend is held back, where it is.
    pub(super) fn since(&self) -> Option<Instant> {
        self.held.map(|held| held.since)
    }

    /// How long nobody may try, where it is held back.
    pub(super) fn pause(&self, now: Instant) -> Option<Duration> {
        self.held
            .map(|held| held.until.saturating_duration_since(now))
    }
}

fn pause(number: u32, jitter: u8) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << number.min(16));
    let base = doubled.min(LONGEST_PAUSE);
    base + base / JITTER_DIVISOR * u32::from(jitter) / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A brake that `refusals` attempts found nobody with, and the time after.
    fn after(refusals: u32) -> (Brake, Instant) {
        let (mut brake, now) = (Brake::default(), Instant::now());
        for number in 1..=refusals {
            let turn = brake.ended(Reach::Nobody, now, now, 0);
            let held = number == REFUSALS;
            assert_eq!(turn == Turn::Held, held, "{number}");
        }
        (brake, now)
    }

    #[test]
    fn a_few_refusals_in_a_row_hold_it_back_and_an_answer_between_them_does_not() {
        let (mut brake, now) = after(REFUSALS - 1);
        assert_eq!(brake.pause(now), None);
        assert_eq!(brake.ended(Reach::Found, now, now, 0), Turn::Same);
        for _ in 1..REFUSALS {
            assert_eq!(brake.ended(Reach::Nobody, now, now, 0), Turn::Same);
            assert_eq!(brake.ended(Reach::Untried, now, now, 0), Turn::Same);
        }
        assert_eq!(brake.ended(Reach::Nobody, now, now, 0), Turn::Held);
        assert_eq!(brake.pause(now), Some(FIRST_PAUSE));
    }

    #[test]
    fn pauses_double_and_stay_below_five_seconds() {
        let (mut brake, mut now) = after(REFUSALS);
        let mut last = FIRST_PAUSE;
        for _ in 0..100 {
            now += last;
            assert_eq!(brake.pause(now), Some(Duration::ZERO));
            assert_eq!(brake.ended(Reach::Nobody, now, now, 0), Turn::Same);
            let next = brake.pause(now).expect("held back");
            assert_eq!(next, (last * 2).min(LONGEST_PAUSE));
            last = next;
        }
        assert!(pause(100, 255) < Duration::from_secs(5) && pause(100, 255) > pause(100, 0));
    }

    #[test]
    fn what_began_before_neither_lengthens_the_pause_nor_ends_it() {
        let (mut brake, now) = after(REFUSALS);
        let later = now + Duration::from_millis(1);
        let early = now
            .checked_sub(Duration::from_secs(1))
            .expect("after the start");
        for reach in [Reach::Nobody, Reach::Found] {
            assert_eq!(brake.ended(reach, early, later, 0), Turn::Same);
            assert_eq!(brake.pause(now), Some(FIRST_PAUSE));
        }
    }

    #[test]
    fn the_first_answer_releases_it_wholly() {
        let (mut brake, now) = after(REFUSALS);
        assert_eq!(brake.ended(Reach::Found, now, now, 0), Turn::Released);
        assert_eq!((brake.pause(now), brake.since()), (None, None));
        assert_eq!(brake.ended(Reach::Nobody, now, now, 0), Turn::Same);
    }
}
