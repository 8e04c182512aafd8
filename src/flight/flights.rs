//! Who is under way, who joins, and when the seat is free again.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::oneshot;

use super::running::{Mutex, MutexGuard, spawn};

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
    /// when the work panicked. It has begun when this returns: whoever waits holds the result's
    /// place alone, not the work, which is large.
    ///
    /// # Cancel safety
    /// Dropping the future stops no work.
    pub(crate) fn run<W>(
        &self,
        key: K,
        work: W,
    ) -> impl Future<Output = Option<T>> + Send + use<K, T, W>
    where
        W: Future<Output = T> + Send + 'static,
    {
        self.join(key, work)
    }

    /// Runs `work` for `key` in a task of its own, unless some is under way; nobody waits for it.
    pub(crate) fn start<W>(&self, key: K, work: W)
    where
        W: Future<Output = T> + Send + 'static,
    {
        drop(self.join(key, work));
    }

    /// Whether some is under way for `key`.
    pub(crate) fn is_under_way(&self, key: &K) -> bool {
        self.lock().contains_key(key)
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
        let (done, result) = oneshot::channel();
        let flight = async move { result.await.ok() }.boxed().shared();
        match self.lock().entry(key.clone()) {
            Entry::Occupied(under_way) => return under_way.get().clone(),
            Entry::Vacant(seat) => {
                seat.insert(flight.clone());
            }
        }
        let landing = Landing {
            flights: self.clone(),
            key,
        };
        // Not under the lock: a runtime that shuts down drops what is spawned at once, and with it
        // the landing, which takes the lock.
        spawn(async move {
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
