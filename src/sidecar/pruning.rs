//! What is old goes from the store, by a clock that isn't believed at once when it jumps.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::admin::prune;
use crate::net::shutdown::Shutdown;
use crate::sidecar::Sidecar;
use crate::sidecar::lasting::Lasting;

/// How often what is old enough is removed from the store.
const PRUNE_EVERY: Duration = Duration::from_secs(600);
/// How far a clock may be set at once and still be believed, milliseconds: what is kept for the shortest time is
/// kept for a day, by default.
const SET_AT_MOST_MS: i64 = 3_600_000;
/// How long a clock has to stay where it jumped until it is believed: as long as a `notify_id` is remembered at the
/// least (contract §4), whose notification may have come before the clock was set for the first time. A machine that
/// was suspended, whose clock is right, keeps what is old so much longer, also where that happens again meanwhile; one
/// that never runs for so long and begins each time with a clock that isn't set, for ever.
const DOUBTED: Duration = Duration::from_hours(72);

impl Sidecar {
    pub(super) async fn prune(&self, shutdown: &Shutdown) {
        let Lasting {
            store, clock, age, ..
        } = &self.parts.lasting;
        while !shutdown.is_given() {
            let current = self.current();
            let retain = current.config.delivery.retain_delivered;
            let now = age.judge(Instant::now(), clock.now_ms());
            tokio::select! {
                pruned = prune::prune(&**store, now, retain) => match pruned {
                    Ok(pruned) => tracing::debug!(?pruned, "old records removed"),
                    Err(error) => tracing::warn!(%error, "old records could not be removed"),
                },
                // What is left is old the next time, too.
                () = shutdown.wait() => return,
            }
            for app in current.apps.all() {
                app.platform.forget_ended(clock.now_ms());
            }
            drop(current);
            // The pause ends early on shutdown.
            let _ = tokio::time::timeout(PRUNE_EVERY, shutdown.wait()).await;
        }
    }
}

/// What time it is for what gets old, as long as the process lives. It is believed at first, whatever it says: there is
/// nothing else to go by.
#[derive(Default)]
pub(super) struct SharedAge(Mutex<Option<Age>>);

impl SharedAge {
    /// The time that counts at `at`, when the clock says `now`: never a later one.
    fn judge(&self, at: Instant, now: i64) -> i64 {
        let mut age = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        age.get_or_insert_with(|| Age::known(at, now))
            .judge(at, now)
    }
}

/// What time it is for what gets old. A clock that jumps ahead would have dead letters, refused notifications and
/// `notify_id`s go at once, and nothing brings them back.
struct Age {
    /// What time it was when, Unix milliseconds: from there on it goes by the machine's own count.
    known: (Instant, i64),
    /// The same of a clock that is elsewhere, since it has been there, or beyond.
    doubted: Option<(Instant, i64)>,
    /// Whether it was told that it is ahead.
    told: bool,
}

impl Age {
    fn known(at: Instant, now: i64) -> Self {
        Self {
            known: (at, now),
            doubted: None,
            told: false,
        }
    }

    /// The time that counts at `at`, when the clock says `now`: never a later one.
    fn judge(&mut self, at: Instant, now: i64) -> i64 {
        let expected = reckoned(self.known, at);
        if is_near(now, expected) {
            *self = Self::known(at, now);
            return now;
        }
        // One that is set back is doubted anew; of one that jumps ahead again, what was there before.
        let reaches =
            |line: &(Instant, i64)| now >= reckoned(*line, at).saturating_sub(SET_AT_MOST_MS);
        let doubted = self.doubted.filter(reaches).unwrap_or((at, now));
        self.doubted = Some(doubted);
        if at.saturating_duration_since(doubted.0) >= DOUBTED {
            let believed = now.min(reckoned(doubted, at));
            *self = Self::known(at, believed);
            if !is_near(now, believed) {
                (self.doubted, self.told) = (Some((at, now)), true);
            }
            return believed;
        }
        if now > expected && !std::mem::replace(&mut self.told, true) {
            let ahead_minutes = now.saturating_sub(expected) / 60_000;
            tracing::warn!(
                ahead_minutes,
                "the clock jumped ahead: what is old by it alone is kept for three days; `inbox prune` removes it now"
            );
        }
        now.min(expected)
    }
}

/// What time it is at `at` where it was `then` at `since`.
fn reckoned((since, then): (Instant, i64), at: Instant) -> i64 {
    let passed = at.saturating_duration_since(since).as_millis();
    then.saturating_add(i64::try_from(passed).unwrap_or(i64::MAX))
}

fn is_near(one: i64, other: i64) -> bool {
    one.abs_diff(other) <= SET_AT_MOST_MS.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const NOW: i64 = 1_795_335_630_000;

    /// What counts after so many hours, by a clock that says `clock` then; each since `NOW`.
    fn check(age: &mut Age, start: Instant, (after, clock, counts): (u64, i64, i64)) {
        let judged = age.judge(start + Duration::from_hours(after), NOW + clock * HOUR);
        assert_eq!((judged - NOW) / HOUR, counts, "after {after} h");
    }

    #[test]
    fn a_clock_that_jumps_ahead_is_believed_after_three_days() {
        let start = Instant::now();
        let mut age = Age::known(start, NOW);
        for step in [
            (0, 0, 0),
            (1, 1, 1),
            (2, 3, 3),
            (3, 5000, 4),
            // The right time again.
            (4, 5, 5),
            (5, 6000, 6),
            (76, 6071, 77),
            (77, 6072, 6072),
            (78, 6073, 6073),
        ] {
            check(&mut age, start, step);
        }
    }

    #[test]
    fn a_clock_that_is_set_back_counts_at_once_and_its_return_is_no_jump() {
        let start = Instant::now();
        let mut age = Age::known(start, NOW);
        for step in [(1, -5000, -5000), (2, 2, 2), (3, -5000, -5000)] {
            check(&mut age, start, step);
        }
        // Where it stays so long, that is the time.
        for step in [(75, -4928, -4928), (76, 76, -4927)] {
            check(&mut age, start, step);
        }
    }

    #[test]
    fn a_clock_that_is_set_for_the_first_time_jumps() {
        let start = Instant::now();
        let mut age = Age::known(start, NOW - 400_000 * HOUR);
        for step in [
            (0, -400_000, -400_000),
            (1, 1, -399_999),
            (72, 72, -399_928),
            (73, 73, 73),
        ] {
            check(&mut age, start, step);
        }
    }

    #[test]
    fn who_is_suspended_each_night_is_believed_in_the_end() {
        let start = Instant::now();
        let mut age = Age::known(start, NOW);
        let mut counts = 0;
        for day in 1..=30_u64 {
            // Of 24 hours the machine counts 16.
            let (after, clock) = (16 * day, i64::try_from(24 * day).expect("few"));
            let judged = age.judge(start + Duration::from_hours(after), NOW + clock * HOUR);
            counts = (judged - NOW) / HOUR;
            assert!(counts <= clock, "{counts}");
        }
        assert!(counts >= 24 * 30 - 8 * 11, "{counts}");
    }

    #[test]
    fn a_doubt_is_of_where_the_clock_is() {
        let start = Instant::now();
        let mut age = Age::known(start, NOW);
        for step in [
            (1, -3, -3),
            (70, 66, 66),
            // That is not what was doubted for so long, which is known now.
            (74, 5000, 70),
            (145, 5071, 141),
            (146, 5072, 5072),
        ] {
            check(&mut age, start, step);
        }
    }
}
