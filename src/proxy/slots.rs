//! Slots for calls under way, whose number a reload may change while some are taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the slots that are taken. Clones share the count; how many there are is said by whoever
/// takes one.
#[derive(Debug, Clone, Default)]
pub struct Slots(Arc<AtomicUsize>);

/// One that is taken; dropping it gives it back.
#[derive(Debug)]
pub(super) struct Taken(Arc<AtomicUsize>);

impl Slots {
    /// Whether one of so many is free.
    pub(super) fn has_free(&self, of: usize) -> bool {
        self.0.load(Ordering::Relaxed) < of
    }

    /// Takes one of so many, if one is free.
    pub(super) fn take(&self, of: usize) -> Option<Taken> {
        let one_more = |taken: usize| (taken < of).then(|| taken + 1);
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.ok().map(|_| Taken(Arc::clone(&self.0)))
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_taken_count_whatever_the_number_was_when_they_were() {
        let slots = Slots::default();
        let taken: Vec<_> = (0..4).map_while(|_| slots.take(3)).collect();
        assert_eq!(taken.len(), 3);
        assert!(!slots.has_free(2) && slots.take(2).is_none());
        let mut taken = taken.into_iter();
        drop((taken.next(), taken.next()));
        assert!(slots.has_free(2));
        let again = slots.take(2).expect("one of two is free");
        assert!(slots.take(2).is_none());
        drop((taken, again));
        assert!(slots.has_free(1));
    }
}
