//! Work that goes on though nobody waits for it any more.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;

use futures_util::FutureExt;
use futures_util::future::CatchUnwind;
use tokio::runtime::Handle;

/// The work was given up because of a bug in it.
#[derive(Debug)]
pub(crate) struct Panicked;

/// Does `work` to its end: in the task of whoever waits, as long as he does, and then in one of its
/// own. A task from the beginning would cost two changes of tasks each time, which are changes of
/// threads as soon as something else is woken beside.
///
/// # Errors
/// [`Panicked`].
///
/// # Cancel safety
/// Safe: work that was begun goes on.
pub(crate) async fn unbroken<F>(work: F) -> Result<F::Output, Panicked>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    // Boxed here: on its way into a task it would be copied several times.
    let work = Box::pin(AssertUnwindSafe(work).catch_unwind());
    let mut held = Held {
        work: Some(work),
        runtime: Handle::current(),
    };
    let Some(work) = held.work.as_mut() else {
        return Err(Panicked);
    };
    let done = work.await;
    held.work = None;
    done.map_err(|_| Panicked)
}

/// Work under way. Dropped before its end, it becomes a task.
struct Held<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    work: Option<Pin<Box<CatchUnwind<AssertUnwindSafe<F>>>>>,
    runtime: Handle,
}

impl<F> Drop for Held<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            // What nobody waits for is told by itself.
            drop(self.runtime.spawn(work));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn work_that_was_begun_goes_on_when_nobody_waits() {
        let (go, may_go) = oneshot::channel::<()>();
        let (done, ends) = oneshot::channel();
        let work = unbroken(async move {
            may_go.await.expect("the test lets it");
            done.send(7).expect("the test waits");
        });
        let waited = tokio::time::timeout(Duration::from_millis(1), work);
        assert!(waited.await.is_err());
        go.send(()).expect("it goes on");
        assert_eq!(ends.await, Ok(7));
    }

    #[tokio::test]
    async fn work_that_was_not_begun_is_not_done() {
        let (done, ends) = oneshot::channel();
        drop(unbroken(async move { done.send(7) }));
        assert!(ends.await.is_err());
    }

    #[tokio::test]
    async fn a_panic_is_told_and_spares_who_waits() {
        let work: Result<(), Panicked> = unbroken(async { panic!("a bug") }).await;
        assert!(work.is_err());
        assert!(matches!(unbroken(async { 7 }).await, Ok(7)));
    }
}
