//! A connection that is woken while it is polled is polled again at once.
//!
//! hyper wakes the task that reads from a connection each time a piece of a body is taken. Where that
//! is the task that takes it, as where a handler reads its request, tokio takes the wake-up for a task
//! that steps back: it goes to the end of the queue, and another worker is woken to take it from there.
//! That is two changes of threads a request, for nothing.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// How often in a row: whoever always wakes itself lets others go on, too.
const IN_A_ROW: usize = 4;

/// It is being polled: a wake-up is noted. Otherwise it is one of the task.
const POLLED: u8 = 1;
/// Woken since.
const WOKEN: u8 = 2;

#[derive(Default)]
struct Wakes {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Written even if another was noted before: what this one is about is seen by the next poll
        // only if that reads what was written here.
        let before = self.state.fetch_or(WOKEN, Ordering::AcqRel);
        if before & POLLED == 0 {
            self.task.wake();
        }
    }
}

/// What `future` gives. Where it is woken while it is polled, it is polled again before the task
/// comes to rest.
///
/// # Cancel safety
/// That of `future`.
///
/// By reference: an asynchronous function has room for its argument twice.
pub(crate) async fn at_once<F: Future>(mut future: Pin<&mut F>) -> F::Output {
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(Arc::clone(&wakes));
    poll_fn(move |cx| {
        wakes.task.register(cx.waker());
        for _ in 0..IN_A_ROW {
            wakes.state.swap(POLLED, Ordering::AcqRel);
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            let was_woken = wakes.state.swap(0, Ordering::AcqRel) & WOKEN != 0;
            if polled.is_ready() || !was_woken {
                return polled;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;

    use futures_util::task::noop_waker;

    use super::*;

    /// Counts how often the task is woken.
    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ready once it was polled `polls` times, which it asks for itself.
    fn eager(polls: usize) -> impl Future<Output = usize> {
        let mut count = 0;
        poll_fn(move |cx| {
            count += 1;
            if count == polls {
                return Poll::Ready(count);
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
    }

    fn poll<F: Future>(future: Pin<&mut F>, task: &Arc<Task>) -> Poll<F::Output> {
        let waker = Waker::from(Arc::clone(task));
        future.poll(&mut Context::from_waker(&waker))
    }

    #[test]
    fn what_wakes_itself_goes_on_without_its_task_being_woken() {
        let task = Arc::new(Task::default());
        let eager = pin!(eager(IN_A_ROW));
        let mut future = pin!(at_once(eager));
        assert_eq!(poll(future.as_mut(), &task), Poll::Ready(IN_A_ROW));
        assert_eq!(task.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_always_wakes_itself_lets_others_go_on() {
        let task = Arc::new(Task::default());
        let eager = pin!(eager(IN_A_ROW + 1));
        let mut future = pin!(at_once(eager));
        assert_eq!(poll(future.as_mut(), &task), Poll::Pending);
        assert_eq!(task.0.load(Ordering::Relaxed), 1);
        assert_eq!(poll(future.as_mut(), &task), Poll::Ready(IN_A_ROW + 1));
    }

    #[test]
    fn a_wake_up_at_rest_is_one_of_the_task_that_polled_last() {
        let inner = Arc::new(std::sync::Mutex::new(noop_waker()));
        let kept = Arc::clone(&inner);
        let never = pin!(poll_fn(move |cx| {
            *kept.lock().expect("whole") = cx.waker().clone();
            Poll::<()>::Pending
        }));
        let mut future = pin!(at_once(never));
        let (first, second) = (Arc::new(Task::default()), Arc::new(Task::default()));
        assert_eq!(poll(future.as_mut(), &first), Poll::Pending);
        assert_eq!(poll(future.as_mut(), &second), Poll::Pending);
        inner.lock().expect("whole").wake_by_ref();
        assert_eq!(first.0.load(Ordering::Relaxed), 0);
        assert_eq!(second.0.load(Ordering::Relaxed), 1);
    }
}
