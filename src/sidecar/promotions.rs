//! Which of an app's two private keys is in force, beyond the life of the process: an order string
//! or a page is signed and never sent, so that nothing would show that its key isn't taken any more.

use std::sync::Arc;

use crate::clock::Clock;
use crate::gateway::app::SigningApp;
use crate::gateway::signing::{KeyInUse, Promotions};
use crate::model::id::AppId;
use crate::protocol::secret::Secret;
use crate::store::error::StoreError;
use crate::store::{Change, MemoKey, Store};

/// How long a promotion is remembered, milliseconds: no change of keys takes longer than a year.
const REMEMBERED_MS: i64 = 366 * 24 * 3600 * 1000;

/// Keeps promotions in the store.
pub(super) struct KeptPromotions {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
}

impl KeptPromotions {
    pub(super) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock }
    }

    /// Puts in force what took over in an earlier run. A key that gave way to the first one again
    /// isn't among it, nor is one that the operator has made the first.
    ///
    /// # Errors
    /// The store's.
    pub(super) async fn recall(&self, apps: &[Arc<SigningApp>]) -> Result<(), StoreError> {
        let now = self.clock.now_ms();
        for app in apps {
            let mut keys = app.signing.iter();
            let (Some(first), Some(next)) = (keys.next(), keys.next()) else {
                continue;
            };
            let is_known = |from, to| self.store.recall(memo(&app.app_id, from, to), now);
            if is_known(first, next).await?.is_some() && is_known(next, first).await?.is_none() {
                app.signing.promote(next);
                tracing::info!(
                    app_id = %app.app_id,
                    public_key = next.public_key.fingerprint(),
                    "`private_key_next` took over in an earlier run; make it `private_key` in the configuration"
                );
            }
        }
        Ok(())
    }
}

impl Promotions for KeptPromotions {
    fn took_over(&self, app_id: &AppId, first: &KeyInUse, (from, to): (&KeyInUse, &KeyInUse)) {
        // What it gave way to before counts no more.
        let mut changes = vec![Change::Unremember(memo(app_id, to, from))];
        // The first one is in force by itself: were that kept, too, it would be so still once the
        // operator has made the other one the first.
        if to.public_key.fingerprint() != first.public_key.fingerprint() {
            changes.push(Change::Remember {
                key: memo(app_id, from, to),
                value: Secret::new(Vec::new()),
                expires_at: self.clock.now_ms().saturating_add(REMEMBERED_MS),
            });
        }
        let (store, app_id) = (Arc::clone(&self.store), app_id.clone());
        tokio::spawn(async move {
            if let Err(error) = store.commit(changes).await {
                tracing::warn!(%app_id, %error, "which private key is in force was not kept");
            }
        });
    }
}

fn memo(app_id: &AppId, from: &KeyInUse, to: &KeyInUse) -> MemoKey {
    let keys = [from, to].map(|key| key.public_key.fingerprint());
    let [from, to] = keys.each_ref().map(|text| text.as_str());
    MemoKey::new("key-took-over", &[app_id.as_str(), from, to])
}
