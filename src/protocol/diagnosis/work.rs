//! What a diagnosis costs, and when it is enough.

use std::{cell::Cell, rc::Rc};

/// Counts the bytes that a diagnosis copies, rewrites and hashes. Clones share the count, so that
/// whatever makes a copy can charge it where it is made: a change that leads to nothing costs as
/// much as one that is tried.
#[derive(Clone, Debug, Default)]
pub(super) struct Work(Rc<Cell<usize>>);

impl Work {
    /// Adds what a step costs.
    pub(super) fn charge(&self, bytes: usize) {
        self.0.set(self.0.get().saturating_add(bytes));
    }

    /// Tells whether anything more may be done.
    pub(super) fn is_left(&self) -> bool {
        self.0.get() < MOST_BYTES
    }

    /// Walks on as long as something may be done.
    pub(super) fn while_left<I: Iterator>(
        &self,
        items: I,
    ) -> impl Iterator<Item = I::Item> + use<I> {
        let work = self.clone();
        items.take_while(move |_| work.is_left())
    }

    /// Counts what was done.
    #[cfg(test)]
    pub(super) fn done(&self) -> usize {
        self.0.get()
    }
}

/// How many bytes are touched at most. A notification of 2 KB is tried in full; one of 64 KiB, which
/// nobody but an attacker sends, costs some tens of milliseconds and no more. Under a fuzzer it is a
/// sixteenth: short texts lead to every kind of change as well, and sixteen of them show more than
/// one long one.
pub(super) const MOST_BYTES: usize = if cfg!(fuzzing) { 1 << 20 } else { 16 << 20 };

/// What reading or writing a byte in GBK costs.
pub(super) const GBK: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_share_a_count_that_ends() {
        let work = Work::default();
        let step = || work.charge(MOST_BYTES / 4);
        let done = work.clone().while_left(0..100).inspect(|_| step()).count();
        assert_eq!((done, work.done(), work.is_left()), (4, MOST_BYTES, false));
        work.charge(usize::MAX);
        assert!(!work.is_left());
    }
}
