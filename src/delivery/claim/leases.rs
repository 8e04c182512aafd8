//! The leases of backends that claimed something and ended without a word.

use crate::delivery::claim::Desk;
use crate::delivery::pull;
use crate::model::delivery::{Delivery, Settlement};
use crate::store::error::StoreError;
use crate::store::{Change, Effect};

/// How many leases that ended are recorded at once.
const REAPED: usize = 100;
/// How often they are looked for, milliseconds: a dispatcher that is busy looks all the time.
const REAP_EVERY_MS: i64 = 1000;

/// How many of the leases that ended are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reaped {
    All,
    /// There may be more.
    Some,
}

impl Desk {
    /// Records the leases that ended without a word: those deliveries are due again, or dead.
    /// Once a second is often enough. Of what was pushed since, the push tells how it ended.
    pub(super) async fn reap(&mut self) -> Result<Reaped, StoreError> {
        let inner = &self.inner;
        let now = inner.clock.now_ms();
        if (0..REAP_EVERY_MS).contains(&now.saturating_sub(self.reaped_at)) {
            return Ok(Reaped::All);
        }
        let _turn = inner.floor.turn().await;
        let pushed = inner.floor.under_way();
        let most = REAPED.saturating_add(pushed.len());
        let mut lapsed = inner.store.lapsed(now, most).await?;
        lapsed.retain(|delivery| !pushed.contains(&delivery.id));
        let changes: Vec<Change> = lapsed.iter().filter_map(|d| self.lapse(d)).collect();
        if changes.is_empty() {
            self.reaped_at = now;
            return Ok(Reaped::All);
        }
        let effects = inner.store.commit(changes).await?;
        let recorded = lapsed.iter().zip(effects);
        let recorded = recorded.filter(|(_, effect)| matches!(effect, Effect::Applied));
        let recorded: Vec<&Delivery> = recorded.map(|(delivery, _)| delivery).collect();
        for delivery in &recorded {
            pull::report_lapse(inner, delivery.id, self.plan.is_lost(delivery));
        }
        if recorded.is_empty() {
            // Somebody else was first to say what became of them.
            self.reaped_at = now;
            return Ok(Reaped::All);
        }
        inner.tell();
        // The next look finds the rest, or that there is none.
        Ok(Reaped::Some)
    }

    fn lapse(&self, delivery: &Delivery) -> Option<Change> {
        let lease = delivery.lease?;
        let settlement = match self.plan.is_lost(delivery) {
            true => Settlement::GivenUp,
            false => Settlement::RetryAt(lease.until),
        };
        Some(Change::Settle {
            id: delivery.id,
            attempt: lease.lapsed(),
            owed_since: Some(delivery.owed_since),
            settlement,
        })
    }
}
