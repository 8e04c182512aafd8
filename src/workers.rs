//! A fixed pool of threads for work that must not hold up an async worker: RSA, and
//! redb reads that may wait.
//!
//! The queue is bounded: what doesn't fit is refused at once, so that a burst makes callers hear
//! `overloaded` instead of waiting without end.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// Work that was ordered, and then what came of it.
trait Job: Send {
    fn work(&mut self);
    /// Tells whoever ordered it.
    fn tell(self: Box<Self>);
}

struct Order<F, T> {
    job: Option<F>,
    /// `None` of one that panicked, too: that its sender is dropped tells it.
    result: Option<T>,
    caller: oneshot::Sender<T>,
}

impl<T: Send, F: FnOnce() -> T + Send> Job for Order<F, T> {
    fn work(&mut self) {
        self.result = self.job.take().map(|job| job());
    }

    fn tell(self: Box<Self>) {
        if let Some(result) = self.result {
            // The caller may have gone: then nobody wants it.
            let _ = self.caller.send(result);
        }
    }
}

/// Which results a thread keeps, to tell them together, while all threads work and more waits.
#[derive(Clone, Copy)]
struct Keeps {
    /// So many, less one.
    most: usize,
    /// The first of them is no older when another job is begun.
    no_longer_than: Duration,
}

/// Each is told at once.
const NOTHING: Keeps = Keeps {
    most: 1,
    no_longer_than: Duration::ZERO,
};
/// Of threads that stand behind, whoever is told takes the core: once for some costs less than once for each.
const SOME: Keeps = Keeps {
    most: 4,
    no_longer_than: Duration::from_millis(2),
};

/// A pool of threads with a bounded queue. Dropping the last clone ends the threads once the
/// queued work is done.
#[derive(Clone)]
pub struct Workers(Arc<Pool>);

/// Work was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WorkError {
    /// The job panicked; the thread lives on.
    #[error("the work was given up because of a bug in it")]
    Panicked,
    /// The queue is full.
    #[error("too much work is waiting")]
    QueueFull,
}

struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    capacity: usize,
    keeps: Keeps,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Box<dyn Job>>,
    /// Threads that wait for a job, and nobody has woken: while there is none, waking one costs a system
    /// call for nothing.
    idle: usize,
    /// Threads that were woken, and have not come to it yet. They stand behind, so that can take long.
    woken: usize,
    closed: bool,
}

impl Queue {
    /// Tells whether a thread is to be woken, and counts it as one that comes.
    fn wake_one(&mut self) -> bool {
        let somebody_waits = self.idle > 0;
        if somebody_waits {
            self.idle -= 1;
            self.woken += 1;
        }
        somebody_waits
    }

    /// A thread goes on that waited; a system may wake one that nobody meant.
    fn has_woken(&mut self) {
        match self.woken {
            0 => self.idle -= 1,
            _ => self.woken -= 1,
        }
    }
}

impl Workers {
    /// Starts `threads` threads named `name` that share a queue of `capacity` jobs.
    ///
    /// # Errors
    /// The system's, when it can't start a thread.
    pub fn start(name: &str, threads: usize, capacity: usize) -> std::io::Result<Self> {
        Self::start_as(name, (threads, capacity), NOTHING, || ())
    }

    /// The same for work that only computes, and for long: whoever else of this process wakes up
    /// takes the core from it at once. While all threads work and more waits, what was done may be told up to
    /// three jobs later.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_behind(name: &str, threads: usize, capacity: usize) -> std::io::Result<Self> {
        Self::start_as(name, (threads, capacity), SOME, step_back)
    }

    fn start_as(
        name: &str,
        (threads, capacity): (usize, usize),
        keeps: Keeps,
        begin: fn(),
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::default()),
            wake: Condvar::new(),
            capacity,
            keeps,
        });
        let threads = (0..threads.max(1))
            .map(|_| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(name.to_owned())
                    .spawn(move || {
                        begin();
                        shared.work();
                    })
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self(Arc::new(Pool { shared, threads })))
    }

    /// Whether no thread works and nothing waits.
    pub(crate) fn are_idle(&self) -> bool {
        let queue = self.0.shared.lock();
        queue.jobs.is_empty() && queue.idle == self.0.threads.len()
    }

    /// Runs `job` on one of the threads and gives its result.
    ///
    /// # Errors
    /// [`WorkError::QueueFull`] at once when the queue is full, [`WorkError::Panicked`] when the
    /// job panicked.
    ///
    /// # Cancel safety
    /// Dropping the future doesn't stop a job that is queued.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, WorkError> {
        let (caller, told) = oneshot::channel();
        self.0.shared.push(Box::new(Order {
            job: Some(job),
            result: None,
            caller,
        }))?;
        told.await.map_err(|_| WorkError::Panicked)
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Workers({} threads)", self.0.threads.len())
    }
}

impl Shared {
    fn push(&self, job: Box<dyn Job>) -> Result<(), WorkError> {
        let mut queue = self.lock();
        if queue.jobs.len() >= self.capacity {
            return Err(WorkError::QueueFull);
        }
        queue.jobs.push_back(job);
        let somebody_waits = queue.wake_one();
        drop(queue);
        if somebody_waits {
            self.wake.notify_one();
        }
        Ok(())
    }

    fn work(&self) {
        let mut done = Done::default();
        while let Some(mut job) = self.next(&mut done) {
            // A panic ends one job, whose caller hears of it; the thread goes on.
            let _ = catch_unwind(AssertUnwindSafe(|| job.work()));
            done.keep(job);
            if done.jobs.len() >= self.keeps.most {
                done.tell();
            }
        }
    }

    /// The next job. Who ordered those that are `done` is told before this waits for one, or leaves one to another
    /// thread, or where they were kept for long.
    fn next(&self, done: &mut Done) -> Option<Box<dyn Job>> {
        if !done.are_older_than(self.keeps.no_longer_than) {
            let mut queue = self.lock();
            if queue.idle + queue.woken == 0
                && let Some(job) = queue.jobs.pop_front()
            {
                return Some(job);
            }
        }
        done.tell();
        let mut queue = self.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue.idle += 1;
            queue = self
                .wake
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
            queue.has_woken();
        }
    }

    /// No job runs under the lock, so a poisoned one still guards a whole queue.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a thread has done, and not told yet.
#[derive(Default)]
struct Done {
    jobs: Vec<Box<dyn Job>>,
    since: Option<Instant>,
}

impl Done {
    fn keep(&mut self, job: Box<dyn Job>) {
        self.since.get_or_insert_with(Instant::now);
        self.jobs.push(job);
    }

    fn are_older_than(&self, time: Duration) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= time)
    }

    fn tell(&mut self) {
        self.since = None;
        for job in self.jobs.drain(..) {
            // Whoever is woken isn't ours: a panic of his ends no thread, and the others are told.
            let _ = catch_unwind(AssertUnwindSafe(|| job.tell()));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wake.notify_all();
        let current = std::thread::current().id();
        for thread in self
            .threads
            .drain(..)
            .filter(|t| t.thread().id() != current)
        {
            // A thread can't have panicked: every job is caught.
            let _ = thread.join();
        }
    }
}

/// How many steps of priority behind the rest of the process: enough that a scheduler prefers every
/// thread that wakes up. Beside programs of the same control group that take all there is, a tenth
/// of a core is left of one.
#[cfg(target_os = "linux")]
const BEHIND: i32 = 10;

/// Lowers the priority of this thread: on Linux, threads have one each.
#[cfg(target_os = "linux")]
fn step_back() {
    use rustix::process::{getpriority_process, setpriority_process};
    // What the system doesn't let us do costs others some milliseconds, and nothing else.
    if let Ok(usual) = getpriority_process(None) {
        let _ = setpriority_process(None, usual + BEHIND);
    }
}

/// Elsewhere it would be that of the whole process.
#[cfg(not(target_os = "linux"))]
fn step_back() {}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn results_come_back_and_a_panic_spares_the_thread() {
        let workers = Workers::start("test", 1, 8).expect("threads");
        let failed = workers.run(|| -> u8 { panic!("a bug") }).await;
        assert_eq!(failed, Err(WorkError::Panicked));
        assert_eq!(workers.run(|| 7).await, Ok(7));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn threads_that_start_behind_leave_the_core_to_others() {
        let priority = || rustix::process::getpriority_process(None).expect("a priority");
        let (usual, behind) = (
            Workers::start("test", 1, 8).expect("threads"),
            Workers::start_behind("test", 1, 8).expect("threads"),
        );
        assert_eq!(usual.run(priority).await, Ok(priority()));
        // 19 is the lowest there is.
        let expected = 19.min(priority() + BEHIND);
        assert_eq!(behind.run(priority).await, Ok(expected));
    }

    #[tokio::test]
    async fn results_are_told_together_while_more_work_waits() {
        let keeps = Keeps {
            no_longer_than: Duration::MAX,
            ..SOME
        };
        let workers = Workers::start_as("test", (1, 8), keeps, || ()).expect("threads");
        let (go_on, gone_on) = std::sync::mpsc::channel::<()>();
        let gone_on = Arc::new(Mutex::new(gone_on));
        let (began, mut begun) = tokio::sync::mpsc::unbounded_channel();
        let mut running: Vec<_> = (0..SOME.most + 1)
            .map(|n| {
                let (began, gone_on) = (began.clone(), Arc::clone(&gone_on));
                let job = move || {
                    began.send(n).expect("the test waits");
                    gone_on.lock().expect("one thread").recv().ok();
                    n
                };
                let workers = workers.clone();
                Box::pin(async move { workers.run(job).await })
            })
            .collect();
        // All are ordered before the first is done.
        for order in &mut running {
            assert_eq!(order.as_mut().now_or_never(), None);
        }
        for n in 0..SOME.most {
            assert_eq!(begun.recv().await, Some(n));
            for order in &mut running {
                assert_eq!(order.as_mut().now_or_never(), None, "{n}");
            }
            go_on.send(()).expect("the job waits");
        }
        // They are told before the next is done.
        assert_eq!(begun.recv().await, Some(SOME.most));
        let last = running.pop().expect("the last");
        for (n, order) in running.into_iter().enumerate() {
            assert_eq!(order.await, Ok(n));
        }
        go_on.send(()).expect("the job waits");
        assert_eq!(last.await, Ok(SOME.most));
    }

    /// A pool without threads, in which one job waits.
    fn with_a_job(keeps: Keeps, idle: usize) -> Shared {
        let shared = Shared {
            queue: Mutex::new(Queue {
                idle,
                ..Queue::default()
            }),
            wake: Condvar::new(),
            capacity: 1,
            keeps,
        };
        shared.push(order().0).expect("room");
        shared
    }

    fn order() -> (Box<dyn Job>, oneshot::Receiver<()>) {
        let (caller, told) = oneshot::channel();
        let order = Order {
            job: Some(|| ()),
            result: None,
            caller,
        };
        (Box::new(order), told)
    }

    fn keep_one(done: &mut Done) -> oneshot::Receiver<()> {
        let (mut job, told) = order();
        job.work();
        done.keep(job);
        told
    }

    #[test]
    fn nobody_waits_for_a_job_that_an_idle_thread_could_do_or_that_takes_long() {
        let patient = Keeps {
            no_longer_than: Duration::MAX,
            ..SOME
        };
        let hasty = Keeps {
            no_longer_than: Duration::ZERO,
            ..SOME
        };
        for (keeps, idle, is_told) in [(patient, 0, false), (patient, 1, true), (hasty, 0, true)] {
            let shared = with_a_job(keeps, idle);
            let mut done = Done::default();
            let mut told = keep_one(&mut done);
            assert!(shared.next(&mut done).is_some());
            assert_eq!(told.try_recv().is_ok(), is_told, "{idle}");
        }
    }

    #[test]
    fn a_thread_that_was_woken_is_not_woken_again() {
        let mut queue = Queue {
            idle: 2,
            ..Queue::default()
        };
        assert!(queue.wake_one() && queue.wake_one());
        assert!(!queue.wake_one());
        queue.has_woken();
        assert_eq!((queue.idle, queue.woken), (0, 1));
        queue.has_woken();
        queue.idle += 1;
        // Of itself.
        queue.has_woken();
        assert_eq!((queue.idle, queue.woken), (0, 0));
    }

    #[test]
    fn whoever_panics_when_he_is_told_harms_nobody() {
        struct Panics;
        impl std::task::Wake for Panics {
            fn wake(self: Arc<Self>) {
                panic!("a host's bug");
            }
        }
        let mut done = Done::default();
        let mut first = keep_one(&mut done);
        let mut second = keep_one(&mut done);
        let waker = Arc::new(Panics).into();
        let polled = first.poll_unpin(&mut std::task::Context::from_waker(&waker));
        assert!(polled.is_pending());
        done.tell();
        assert_eq!(second.try_recv(), Ok(()));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once() {
        let workers = Workers::start("test", 1, 1).expect("threads");
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let (began, begun) = oneshot::channel();
        let busy = tokio::spawn({
            let workers = workers.clone();
            async move {
                workers
                    .run(move || {
                        began.send(()).expect("the test waits");
                        held.recv().ok();
                    })
                    .await
            }
        });
        begun.await.expect("the first job runs");
        let queued = tokio::spawn({
            let workers = workers.clone();
            async move { workers.run(|| ()).await }
        });
        while workers.0.shared.lock().jobs.is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(workers.run(|| ()).await, Err(WorkError::QueueFull));
        hold.send(()).expect("the job waits");
        assert_eq!(busy.await.expect("no panic"), Ok(()));
        assert_eq!(queued.await.expect("no panic"), Ok(()));
    }
}
