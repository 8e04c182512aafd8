//! How often something may happen: so many at once, and one more after each interval.

/// A token bucket, kept as the one moment at which it will be full again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Allowance {
    /// How many may happen at once.
    pub(super) burst: i64,
    /// After what time one more may, milliseconds.
    pub(super) interval_ms: i64,
}

/// What was used up of an allowance: when all of it will be there again, Unix milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Used(i64);

impl Used {
    /// Whether one more may happen.
    pub(super) fn may(&mut self, allowance: Allowance, now: i64) -> bool {
        self.wait_s(allowance, now) == 0
    }

    /// After how many seconds, rounded up, one more may happen: 0 where it may now.
    pub(super) fn wait_s(&mut self, allowance: Allowance, now: i64) -> u32 {
        let most = allowance.most();
        // Not in the past, and not so far in the future that only a clock set back explains it.
        self.0 = self.0.max(now).min(now.saturating_add(most));
        let next = self.0.saturating_add(allowance.interval_ms);
        let wait_ms = next.saturating_sub(now).saturating_sub(most).max(0);
        u32::try_from(wait_ms.saturating_add(999) / 1000).unwrap_or(u32::MAX)
    }

    /// Counts one that has happened.
    pub(super) fn count(&mut self, allowance: Allowance, now: i64) {
        let latest = now.saturating_add(allowance.most());
        let next = self.0.max(now).saturating_add(allowance.interval_ms);
        self.0 = next.min(latest);
    }

    /// Counts one if it may happen.
    pub(super) fn take(&mut self, allowance: Allowance, now: i64) -> bool {
        let may = self.may(allowance, now);
        if may {
            self.count(allowance, now);
        }
        may
    }

    /// Whether nothing of it is used up any more.
    pub(super) fn is_forgotten(self, now: i64) -> bool {
        self.0 <= now
    }
}

impl Allowance {
    /// After what time all of it is there again, milliseconds.
    fn most(self) -> i64 {
        self.interval_ms.saturating_mul(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THREE: Allowance = Allowance {
        burst: 3,
        interval_ms: 1000,
    };

    #[test]
    fn so_many_at_once_and_then_one_by_one() {
        let mut used = Used::default();
        let mut taken = |now| used.take(THREE, now);
        assert_eq!([5, 5, 5, 5].map(&mut taken), [true, true, true, false]);
        assert_eq!([1004, 1005, 1005].map(&mut taken), [false, true, false]);
        assert_eq!([9000; 4].map(&mut taken), [true, true, true, false]);
        // A clock that was set back doesn't keep anybody waiting for the hours it went.
        assert_eq!([-9_000_000, -8_999_000].map(&mut taken), [false, true]);
    }

    #[test]
    fn who_is_told_to_wait_waits_no_longer_than_he_must() {
        let mut used = Used::default();
        assert_eq!(used.wait_s(THREE, 5), 0);
        assert_eq!([5, 5, 5].map(|now| used.take(THREE, now)), [true; 3]);
        let waits = [5, 6, 1004, 1005].map(|now| used.wait_s(THREE, now));
        assert_eq!(waits, [1, 1, 1, 0]);
        let slow = Allowance {
            burst: 1,
            interval_ms: 2001,
        };
        let mut used = Used::default();
        assert!(used.take(slow, 0));
        let waits = [0, 1, 2, 1001, 2000, 2001].map(|now| used.wait_s(slow, now));
        assert_eq!(waits, [3, 2, 2, 1, 1, 0]);
    }

    #[test]
    fn what_is_refilled_is_forgotten() {
        let mut used = Used::default();
        assert!(used.take(THREE, 1000));
        assert!(!used.is_forgotten(1999));
        assert!(used.is_forgotten(2000));
    }
}
