//! The only reader of wall time, so that tests can hand in a time of their own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// Tells wall time.
pub trait Clock: Send + Sync + 'static {
    /// The time in Unix milliseconds.
    fn now_ms(&self) -> i64;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the one reader of wall time"
    )]
    fn now_ms(&self) -> i64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .ok()
            .and_then(|since| i64::try_from(since.as_millis()).ok())
            .unwrap_or_default()
    }
}

/// A clock, perhaps a host's, of which nobody who asks meets a bug: where it panics, the time is what it told
/// last.
pub(crate) struct LastKnown {
    clock: Arc<dyn Clock>,
    last: AtomicI64,
}

impl LastKnown {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            last: AtomicI64::new(0),
        }
    }
}

impl Clock for LastKnown {
    fn now_ms(&self) -> i64 {
        match catch_unwind(AssertUnwindSafe(|| self.clock.now_ms())) {
            Ok(now) => {
                self.last.store(now, Ordering::Relaxed);
                now
            }
            Err(_) => self.last.load(Ordering::Relaxed),
        }
    }
}

/// A clock that stands still until it is moved: for tests.
#[derive(Debug, Clone)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// A clock that shows `unix_ms`.
    #[must_use]
    pub fn new(unix_ms: i64) -> Self {
        Self(Arc::new(AtomicI64::new(unix_ms)))
    }

    /// Moves the clock; a negative number moves it back.
    pub fn advance_ms(&self, by: i64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;

    #[test]
    fn a_clock_with_a_bug_tells_what_it_told_last() {
        struct Buggy(AtomicBool);
        impl Clock for Buggy {
            fn now_ms(&self) -> i64 {
                assert!(!self.0.load(Ordering::Relaxed), "a bug");
                7
            }
        }
        let buggy = Arc::new(Buggy(AtomicBool::new(true)));
        let clock = LastKnown::new(buggy.clone());
        assert_eq!(clock.now_ms(), 0);
        buggy.0.store(false, Ordering::Relaxed);
        assert_eq!(clock.now_ms(), 7);
        buggy.0.store(true, Ordering::Relaxed);
        assert_eq!(clock.now_ms(), 7);
    }
}
