//! Single flight: whoever asks for what is already under way waits for its result.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::oneshot;

type Flight<T> = Shared<BoxFuture<'static, Option<T>>>;

/// Work that is under way, by what it is for. Clones share it.
pub(crate) struct Flights<K, T: Clone>(Arc<Mutex<HashMap<K, Flight<T>>>>);

impl<K, T> Flights<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    pub(crate) fn new() -> Self {
        Self(Arc::default())
    }

    /// Runs `work` for `key` in a task of its own, or joins the one that is under way; `None`
    /// when the work panicked.
    ///
    /// # Cancel safety
    /// Dropping the future stops no work that has begun.
    pub(crate) async fn run<W>(&self, key: K, work: W) -> Option<T>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let flight = self.join(key, work);
        flight.await
    }

    /// Ends once nothing is under way.
    pub(crate) async fn landed(&self) {
        loop {
            let flight = self.lock().values().next().cloned();
            let Some(flight) = flight else { return };
            flight.await;
        }
    }

    fn join<W>(&self, key: K, work: W) -> Flight<T>
    where
        W: Future<Output = T> + Send + 'static,
    {
        let mut flights = self.lock();
        if let Some(flight) = flights.get(&key) {
            return flight.clone();
        }
        let (done, result) = oneshot::channel();
        let flight = async move { result.await.ok() }.boxed().shared();
        flights.insert(key.clone(), flight.clone());
        let landing = Landing {
            flights: self.clone(),
            key,
        };
        tokio::spawn(async move {
            let result = work.await;
            // First off the list, then told: whoever hears of the result and asks again begins anew.
            drop(landing);
            // Nobody may be waiting any more.
            let _ = done.send(result);
        });
        flight
    }

    /// Nothing that can panic runs under the lock.
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Flight<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, T: Clone> Clone for Flights<K, T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// Takes a flight off the list, also when its work panicked.
struct Landing<K: Clone + Eq + Hash + Send + 'static, T: Clone + Send + Sync + 'static> {
    flights: Flights<K, T>,
    key: K,
}

impl<K, T> Drop for Landing<K, T>
where
    K: Clone + Eq + Hash + Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    fn drop(&mut self) {
        self.flights.lock().remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn those_who_ask_together_get_one_result() {
        let (flights, runs) = (Flights::new(), Arc::new(AtomicU32::new(0)));
        let key = "a";
        let ask = || {
            let runs = Arc::clone(&runs);
            flights.run(key, async move {
                tokio::task::yield_now().await;
                runs.fetch_add(1, Ordering::Relaxed)
            })
        };
        let (first, second) = tokio::join!(ask(), ask());
        assert_eq!((first, second), (Some(0), Some(0)));
        assert_eq!(ask().await, Some(1));
    }

    #[tokio::test]
    async fn a_panic_ends_the_flight_and_blocks_nobody() {
        let flights = Flights::new();
        let key = "a";
        let failed = flights.run(key, async { panic!("a bug") }).await;
        assert_eq!(failed, None::<u8>);
        assert_eq!(flights.run(key, async { 7 }).await, Some(7));
    }

    #[tokio::test]
    async fn work_goes_on_when_its_caller_leaves() {
        let flights = Flights::new();
        let (told, tells) = oneshot::channel();
        let (go, gone) = oneshot::channel::<()>();
        let key = "a";
        let mut caller = Box::pin(flights.run(key, async move {
            gone.await.ok();
            told.send(()).ok();
        }));
        assert!((&mut caller).now_or_never().is_none());
        drop(caller);
        go.send(()).expect("the work waits");
        tells.await.expect("the work ended");
    }
}
