//! Who has the right to a refresh token, and who waits for it.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use tokio::sync::OwnedMutexGuard;

use super::running::{Mutex, MutexGuard};
use crate::protocol::secret::Secret;
use crate::store::MemoKey;

type Lane = Arc<tokio::sync::Mutex<()>>;

/// Who may use which `app_refresh_token` now. Clones share the turns.
#[derive(Clone, Default)]
pub(in crate::token) struct Turns(Arc<Mutex<HashMap<MemoKey, Lane>>>);

/// The right to use one `app_refresh_token`, until it is dropped.
#[must_use]
pub struct Turn {
    guard: Option<OwnedMutexGuard<()>>,
    turns: Turns,
    key: MemoKey,
}

impl Turn {
    /// What stands for the refresh token.
    pub(in crate::token) fn key(&self) -> MemoKey {
        self.key
    }
}

impl Turns {
    /// What stands for `refresh_token`.
    pub(in crate::token) fn key_of(refresh_token: &Secret<String>) -> MemoKey {
        MemoKey::new("turn", &[refresh_token.expose()])
    }

    /// Waits until nobody else uses `refresh_token`.
    pub(in crate::token) async fn take(&self, refresh_token: &Secret<String>) -> Turn {
        let key = Self::key_of(refresh_token);
        let lane = Arc::clone(self.lock().entry(key).or_default());
        // Made first, so that a caller who gives up while waiting tidies up, too.
        let mut turn = Turn {
            guard: None,
            turns: self.clone(),
            key,
        };
        turn.guard = Some(lane.lock_owned().await);
        turn
    }

    /// How many tokens are in somebody's hands.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Nothing that can panic runs under the lock.
    fn lock(&self) -> MutexGuard<'_, HashMap<MemoKey, Lane>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut lanes = self.turns.lock();
        drop(self.guard.take());
        // Those who wait hold the lane, too, and got it under this lock.
        if lanes
            .get(&self.key)
            .is_some_and(|lane| Arc::strong_count(lane) == 1)
        {
            lanes.remove(&self.key);
        }
    }
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Turn")
    }
}
