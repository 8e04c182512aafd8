//! Who may choose from the inbox: one at a time, so that nothing is pushed and pulled at once.
//!
//! What is pulled is leased in the store; what is pushed stands here alone, because a durable write
//! before each attempt would cost more than the attempt. So whoever chooses (the dispatcher, or
//! a claim) has the turn while it reads the inbox and until what it took is written down: then
//! every reader sees the leases of the store and the attempts of this set together.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync;

use crate::model::id::EventId;

/// The turn, and what is being pushed.
#[derive(Default)]
pub(super) struct Floor {
    turn: sync::Mutex<()>,
    pushed: Mutex<HashSet<EventId>>,
}

impl Floor {
    /// Waits until nobody else chooses. Whoever holds the turn only reads the store, or writes what
    /// it took to it.
    pub(super) async fn turn(&self) -> sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// An attempt begins.
    pub(super) fn began(&self, id: EventId) {
        self.pushed().insert(id);
    }

    /// An attempt is over, and what it meant is stored.
    pub(super) fn ended(&self, id: EventId) {
        self.pushed().remove(&id);
    }

    /// No attempt is under way any more.
    pub(super) fn clear(&self) {
        self.pushed().clear();
    }

    /// What is being pushed now.
    pub(super) fn under_way(&self) -> HashSet<EventId> {
        self.pushed().clone()
    }

    fn pushed(&self) -> MutexGuard<'_, HashSet<EventId>> {
        // Held for one operation on a set; a poisoned one still is such a set.
        self.pushed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
