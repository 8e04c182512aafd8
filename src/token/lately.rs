//! What happened a moment ago, so that it needn't happen again.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Values that are remembered for a while, in memory. Clones share them.
pub(super) struct Lately<K, V> {
    most: usize,
    kept: Arc<Mutex<HashMap<K, Kept<V>>>>,
}

struct Kept<V> {
    hold: Hold,
    value: V,
}

/// For how long something counts. A clock that is set back makes that twice as long at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hold {
    since: i64,
    for_ms: i64,
}

impl Hold {
    pub(super) fn new(since: i64, for_ms: i64) -> Self {
        Self { since, for_ms }
    }

    pub(super) fn holds_at(self, now: i64) -> bool {
        let age = now.saturating_sub(self.since);
        (-self.for_ms..self.for_ms).contains(&age)
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Lately<K, V> {
    /// Remembers at most `most` values at once: what others may cause must not fill the memory.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            kept: Arc::default(),
        }
    }

    /// What is remembered of `key` at `now`.
    pub(super) fn get(&self, key: &K, now: i64) -> Option<V> {
        let kept = self.lock();
        let found = kept.get(key).filter(|kept| kept.hold.holds_at(now))?;
        Some(found.value.clone())
    }

    /// Remembers `value` for `for_ms` milliseconds. Where there is no room left, something else is
    /// forgotten.
    pub(super) fn put(&self, key: K, value: V, now: i64, for_ms: i64) {
        let mut kept = self.lock();
        kept.retain(|_, kept| kept.hold.holds_at(now));
        if kept.len() >= self.most
            && let Some(other) = kept.keys().next().cloned()
        {
            kept.remove(&other);
        }
        let hold = Hold::new(now, for_ms);
        kept.insert(key, Kept { hold, value });
    }

    /// Forgets `key`.
    pub(super) fn forget(&self, key: &K) {
        self.lock().remove(key);
    }

    /// Nothing that can panic runs under the lock.
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Kept<V>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, V> Clone for Lately<K, V> {
    fn clone(&self) -> Self {
        Self {
            most: self.most,
            kept: Arc::clone(&self.kept),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_ends_in_time_and_has_bounds() {
        let lately = Lately::new(2);
        lately.put("a", 1, 1000, 100);
        assert_eq!(lately.get(&"a", 1099), Some(1));
        assert_eq!(lately.get(&"a", 1100), None);
        assert_eq!(lately.get(&"a", 900), Some(1));
        assert_eq!(lately.get(&"a", 899), None, "the clock was set back");
        lately.put("a", 2, 1000, 100);
        assert_eq!(lately.get(&"a", 1000), Some(2));
        lately.put("b", 3, 1000, 100);
        lately.put("c", 4, 1000, 100);
        let count = lately.lock().len();
        assert_eq!((count, lately.get(&"c", 1000)), (2, Some(4)));
        lately.forget(&"c");
        assert_eq!(lately.get(&"c", 1000), None);
    }
}
