//! Taking turns with one `app_refresh_token`, whoever sends it to Alipay.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OwnedMutexGuard;

use crate::protocol::secret::Secret;
use crate::store::MemoKey;

type Lane = Arc<tokio::sync::Mutex<()>>;

/// Who may use which `app_refresh_token` now. Clones share the turns.
#[derive(Clone, Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<MemoKey, Lane>>>);

/// The right to use one `app_refresh_token`, until it is dropped.
#[must_use]
pub struct Turn {
    guard: Option<OwnedMutexGuard<()>>,
    turns: Turns,
    key: MemoKey,
}

impl Turns {
    /// Waits until nobody else uses `refresh_token`.
    pub(super) async fn take(&self, refresh_token: &Secret<String>) -> Turn {
        let key = MemoKey::new("turn", &[refresh_token.expose()]);
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn token(text: &str) -> Secret<String> {
        Secret::new(text.to_owned())
    }

    #[tokio::test]
    async fn one_token_is_used_by_one_at_a_time_and_forgotten_afterwards() {
        let turns = Turns::default();
        let first = turns.take(&token("a")).await;
        let _other = turns.take(&token("b")).await;
        assert!(turns.take(&token("a")).now_or_never().is_none());
        drop(first);
        let again = turns.take(&token("a")).now_or_never().expect("free");
        assert_eq!(turns.lock().len(), 2);
        drop(again);
        assert_eq!(turns.lock().len(), 1);
    }
}
