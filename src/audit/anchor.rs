//! The head of the chain, kept sealed in the store, so that lines missing at the end are noticed.
//!
//! It stands in one of two places in turns: what is kept under a key is never overwritten, so each
//! time it is put into the free place and taken out of the other, with one commit.

use std::sync::Arc;

use tokio::sync::Mutex;

use super::chain::Head;
use crate::protocol::secret::Secret;
use crate::store::error::StoreError;
use crate::store::{Change, Effect, MemoKey, Store};

/// Keeps the head.
pub(super) struct Anchor {
    store: Arc<dyn Store>,
    kept: Mutex<Option<(Place, Head)>>,
}

/// Where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Even,
    Odd,
}

impl Place {
    fn other(self) -> Self {
        match self {
            Self::Even => Self::Odd,
            Self::Odd => Self::Even,
        }
    }

    fn key(self) -> MemoKey {
        MemoKey::new(
            "audit-head",
            &[match self {
                Self::Even => "even",
                Self::Odd => "odd",
            }],
        )
    }
}

impl Anchor {
    /// What is kept in `store`.
    pub(super) async fn open(store: Arc<dyn Store>) -> Result<Self, StoreError> {
        let kept = Mutex::new(read(&*store).await?);
        Ok(Self { store, kept })
    }

    /// The head as it is kept.
    pub(super) async fn head(&self) -> Option<Head> {
        self.kept.lock().await.map(|(_, head)| head)
    }

    /// Keeps `head`, unless it is kept already.
    pub(super) async fn keep(&self, head: Head) -> Result<(), StoreError> {
        let mut kept = self.kept.lock().await;
        if kept.is_some_and(|(_, kept)| kept == head) {
            return Ok(());
        }
        let place = kept.map_or(Place::Even, |(place, _)| place.other());
        let effects = self.store.commit(changes(place, head)).await?;
        if effects.iter().any(|e| matches!(e, Effect::Remembered(_))) {
            // An earlier commit was made although its answer said that it might not be.
            *kept = read(&*self.store).await?;
            return Ok(());
        }
        *kept = Some((place, head));
        Ok(())
    }
}

fn changes(place: Place, head: Head) -> Vec<Change> {
    let remember = Change::Remember {
        key: place.key(),
        value: Secret::new(head.to_bytes()),
        expires_at: i64::MAX,
    };
    vec![remember, Change::Unremember(place.other().key())]
}

/// Reads what is kept in `store`.
async fn read(store: &dyn Store) -> Result<Option<(Place, Head)>, StoreError> {
    let mut newest: Option<(Place, Head)> = None;
    for place in [Place::Even, Place::Odd] {
        let kept = store.recall(place.key(), 0).await?;
        let head = kept.and_then(|kept| Head::from_bytes(kept.expose()));
        let is_newer = |head: &Head| newest.is_none_or(|(_, newest)| newest.seq < head.seq);
        if let Some(head) = head.filter(is_newer) {
            newest = Some((place, head));
        }
    }
    Ok(newest)
}

/// The head that `store` keeps.
///
/// # Errors
/// The store's.
pub async fn kept(store: &dyn Store) -> Result<Option<Head>, StoreError> {
    Ok(read(store).await?.map(|(_, head)| head))
}
