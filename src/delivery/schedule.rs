//! Pure: when a delivery that failed is tried again.

use std::time::Duration;

use crate::model::delivery::Settlement;

/// The delay after the first failure, milliseconds; it doubles with each further one.
const FIRST_MS: i64 = 1000;
/// The longest delay before jitter, milliseconds: with jitter it is the hour of contract §5.
const LONGEST_MS: i64 = 3_000_000;
/// The jitter is at most a fifth of the delay, so that deliveries that failed together spread.
const JITTER_DIVISOR: i64 = 5;

/// A failed delivery, as far as its schedule depends on it.
#[derive(Debug, Clone, Copy)]
pub struct Failure {
    /// How many attempts were made, this one included.
    pub attempts: u32,
    /// When this one ended, Unix milliseconds.
    pub at: i64,
    /// Since when the delivery has been owed, Unix milliseconds.
    pub owed_since: i64,
    /// Which part of the jitter to take: 0 for none, 255 for nearly all.
    pub jitter: u8,
    /// How long an attempt may take.
    pub timeout: Duration,
}

/// How many attempts there are at least: what was owed for long before a backend was there at all
/// isn't dead after the first, as what is pulled isn't.
pub const LEAST_ATTEMPTS: u32 = 2;
/// Of how long as many attempts as fit into it are always made, if that is as long as a delivery is
/// tried, milliseconds. A clock that is set right after a start may jump by years, and nothing tells
/// that from time in which a backend didn't answer; but what is owed to one that is gone for good takes
/// its turn as often, among thousands.
const ALWAYS_TRIED_MS: i64 = 300_000;

/// Decides what follows from a failure: another attempt, the last of which is made when
/// `give_up_after` has passed, or none.
#[must_use]
pub fn after(failure: Failure, give_up_after: Duration) -> Settlement {
    let deadline = deadline(failure.owed_since, give_up_after);
    let next = failure
        .at
        .saturating_add(delay_ms(failure.attempts, failure.jitter));
    let least = least_attempts(give_up_after, failure.timeout);
    match (failure.at >= deadline, failure.attempts >= least) {
        (true, true) => Settlement::GivenUp,
        (true, false) => Settlement::RetryAt(next),
        (false, _) => Settlement::RetryAt(next.min(deadline)),
    }
}

/// Whether an attempt that failed at `at` was the last one of a delivery; Unix milliseconds.
#[must_use]
pub fn is_over(owed_since: i64, at: i64, give_up_after: Duration) -> bool {
    at >= deadline(owed_since, give_up_after)
}

fn deadline(owed_since: i64, give_up_after: Duration) -> i64 {
    owed_since.saturating_add(milliseconds(give_up_after))
}

/// How many attempts have to fail before a delivery is given up: no more than are over by then in any
/// case, each as late and as long as it can be.
fn least_attempts(give_up_after: Duration, timeout: Duration) -> u32 {
    let (time, longest) = (milliseconds(give_up_after), milliseconds(timeout));
    let time = time.min(ALWAYS_TRIED_MS);
    let (mut attempts, mut end) = (1, longest);
    loop {
        let delay = delay_ms(attempts, u8::MAX);
        end = end.saturating_add(delay).saturating_add(longest);
        if end > time {
            return attempts.max(LEAST_ATTEMPTS);
        }
        attempts += 1;
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn delay_ms(attempts: u32, jitter: u8) -> i64 {
    let doublings = attempts.saturating_sub(1).min(20);
    let base = (FIRST_MS << doublings).min(LONGEST_MS);
    base + base / JITTER_DIVISOR * i64::from(jitter) / 256
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;
    const TIMEOUT: Duration = Duration::from_secs(15);

    fn check(attempts: u32, jitter: u8, expected_ms: i64) {
        let failure = Failure {
            attempts,
            at: 0,
            owed_since: 0,
            jitter,
            timeout: TIMEOUT,
        };
        let settled = after(failure, Duration::from_hours(72));
        assert_eq!(settled, Settlement::RetryAt(expected_ms), "{attempts}");
    }

    #[test]
    fn delays_double_from_a_second_to_below_an_hour() {
        check(1, 0, 1000);
        check(2, 0, 2000);
        check(3, 0, 4000);
        check(12, 0, 2_048_000);
        check(13, 0, 3_000_000);
        check(u32::MAX, 0, 3_000_000);
        check(0, 0, 1000);
    }

    #[test]
    fn jitter_adds_at_most_a_fifth_and_never_passes_the_hour() {
        check(1, 128, 1100);
        for attempts in 1..40 {
            for jitter in [0, 1, 127, 255] {
                let (plain, jittered) = (delay_ms(attempts, 0), delay_ms(attempts, jitter));
                assert!(jittered >= plain && jittered <= plain + plain / 5);
                assert!(jittered <= HOUR);
            }
        }
    }

    #[test]
    fn the_last_attempt_is_made_when_patience_ends() {
        let at = |at| Failure {
            attempts: 100,
            at,
            owed_since: 1000,
            jitter: 0,
            timeout: TIMEOUT,
        };
        let patience = Duration::from_hours(1);
        let end = 1000 + HOUR;
        assert_eq!(after(at(1000), patience), Settlement::RetryAt(3_001_000));
        assert_eq!(after(at(end - 1), patience), Settlement::RetryAt(end));
        assert_eq!(after(at(end), patience), Settlement::GivenUp);
        assert_eq!(after(at(i64::MAX), Duration::MAX), Settlement::GivenUp);
        // What was owed for long before anybody was there has a second one.
        let first = Failure {
            attempts: 1,
            ..at(end + HOUR)
        };
        let second = Settlement::RetryAt(end + HOUR + 1000);
        assert_eq!(after(first, patience), second);
    }

    /// What an attempt of that number that fails at `at` leads to, of a delivery owed since 0.
    fn failed(attempts: u32, at: i64, (timeout, patience): (Duration, Duration)) -> Settlement {
        let failure = Failure {
            attempts,
            at,
            owed_since: 0,
            jitter: u8::MAX,
            timeout,
        };
        after(failure, patience)
    }

    #[test]
    fn a_clock_that_jumps_ends_no_delivery_at_once() {
        let patience = Duration::from_hours(72);
        let mut now = 100 * HOUR;
        for attempts in 1..8 {
            let next = match failed(attempts, now, (TIMEOUT, patience)) {
                Settlement::RetryAt(next) => next,
                other => panic!("{other:?} after {attempts}"),
            };
            assert_eq!(next, now + delay_ms(attempts, u8::MAX));
            now = next;
        }
        assert!(now > 100 * HOUR + HOUR / 30);
        assert_eq!(failed(8, now, (TIMEOUT, patience)), Settlement::GivenUp);
    }

    #[test]
    fn no_delivery_is_tried_longer_than_is_configured() {
        let ms = |ms: i64| Duration::from_millis(u64::try_from(ms).expect("positive"));
        for patience in [1, 999, 1000, 2000, 60_000, 600_000, HOUR, 5 * HOUR] {
            for timeout in [1, 100, 15_000, 60_000, HOUR, 24 * HOUR] {
                let (mut now, mut attempts) = (0, 0);
                let end = loop {
                    // Every attempt is as long as it can be.
                    now += timeout;
                    attempts += 1;
                    match failed(attempts, now, (ms(timeout), ms(patience))) {
                        Settlement::RetryAt(next) => now = next,
                        _ => break now,
                    }
                };
                assert!(attempts >= LEAST_ATTEMPTS);
                // The last one begins when patience ends, unless it is the second one.
                assert!(end <= patience + timeout || attempts == LEAST_ATTEMPTS);
            }
        }
    }

    #[test]
    fn an_attempt_is_the_last_one_from_the_end_of_patience_on() {
        let hour = Duration::from_hours(1);
        for (at, expected) in [
            (0, false),
            (HOUR - 1, false),
            (HOUR, true),
            (HOUR + 1, true),
        ] {
            assert_eq!(is_over(1000, 1000 + at, hour), expected, "{at}");
        }
    }
}
