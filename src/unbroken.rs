//! Work that goes on though nobody waits for it any more.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use tokio::runtime::Handle;

/// Does `work` to its end: in the task of whoever waits, as long as he does, and then in one of its
/// own. A task from the beginning would cost two changes of tasks each time, which are changes of
/// threads as soon as something else is woken beside.
///
/// Whoever waits has to poll this, or to drop it: what is kept and not polled stands still.
///
/// # Cancel safety
/// Safe: work that was begun goes on.
pub(crate) async fn unbroken<F>(work: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let mut held = Held {
        work: Some(Box::pin(work)),
        runtime: Handle::current(),
    };
    poll_fn(move |cx| {
        // Taken out: what panics is not to be polled again.
        let Some(mut work) = held.work.take() else {
            return Poll::Pending;
        };
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            held.work = Some(work);
        }
        polled
    })
    .await
}

/// Work under way. Dropped before its end, it becomes a task.
struct Held<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    work: Option<Pin<Box<F>>>,
    runtime: Handle,
}

impl<F> Drop for Held<F>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
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
    async fn a_panic_is_that_of_whoever_waits() {
        let task = tokio::spawn(unbroken(async { panic!("a bug") }));
        assert!(task.await.is_err_and(|error| error.is_panic()));
        assert_eq!(unbroken(async { 7 }).await, 7);
    }
}
