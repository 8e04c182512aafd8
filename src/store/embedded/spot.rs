//! Look-ups on the spot: by whoever asks, and not by a thread of the store's own.
//!
//! While its page is cached, a look-up takes some microseconds, and the way to a reading thread and
//! back takes ten times that. What must not be is that a disk which doesn't answer holds all that
//! serves: so there is one look-up on the spot at a time, and none where nobody else would go on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use tokio::runtime::Handle;

/// The place for the one look-up that is made on the spot.
#[derive(Debug, Default)]
pub(super) struct Spot(Mutex<()>);

impl Spot {
    /// Does `work` here; nothing where that may not be, or where it panics.
    pub(super) fn run<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        if !has_others() {
            return None;
        }
        let _place = self.0.try_lock().ok()?;
        catch_unwind(AssertUnwindSafe(work)).ok()
    }
}

/// Whether this thread is one of several that serve.
fn has_others() -> bool {
    Handle::try_current().is_ok_and(|runtime| runtime.metrics().num_workers() > 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn work_is_done_here_one_at_a_time() {
        let spot = Spot::default();
        let here = std::thread::current().id();
        assert_eq!(spot.run(|| std::thread::current().id()), Some(here));
        assert_eq!(spot.run(|| spot.run(|| ())), Some(None));
        let panicked = spot.run(|| -> u8 { panic!("a bug") });
        assert_eq!(panicked, None);
        assert_eq!(spot.run(|| 7), Some(7));
    }

    #[tokio::test]
    async fn a_thread_that_serves_alone_does_nothing_here() {
        assert_eq!(Spot::default().run(|| 7), None);
    }

    #[test]
    fn nor_does_one_without_a_runtime() {
        assert_eq!(Spot::default().run(|| 7), None);
    }
}
