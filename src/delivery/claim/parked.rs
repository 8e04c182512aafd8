//! What was parked because no route fitted it, looked at again.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;

use crate::delivery::claim::{Desk, known};
use crate::delivery::whose::Known;
use crate::model::id::EventId;
use crate::store::Change;
use crate::store::error::StoreError;

/// How many of what was parked are looked at again at once.
const TAKEN_BACK: usize = 256;

/// How far what was parked was looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TakenBack {
    All,
    /// None can have a route that it hadn't before; whether there is one is to be told again, and as far as
    /// this there is none.
    Untold(Option<EventId>),
    /// As far as this one; there may be more.
    Until(Option<EventId>),
}

impl Desk {
    /// Makes those due again, of some of what was parked and has an order, that a route fits now, in their
    /// place among the others of it: before anything newer is looked at. What has no order is due when its
    /// time comes.
    pub(super) async fn take_back(&mut self) -> Result<TakenBack, StoreError> {
        let (after, most) = match self.taken_back {
            TakenBack::All => return Ok(TakenBack::All),
            // Something else without a route may have been met meanwhile.
            TakenBack::Untold(_) if self.told => {
                self.taken_back = TakenBack::All;
                return Ok(TakenBack::All);
            }
            TakenBack::Untold(after) => (after, 1),
            TakenBack::Until(after) => (after, TAKEN_BACK),
        };
        let inner = Arc::clone(&self.inner);
        let _turn = inner.floor.turn().await;
        let parked = inner.store.parked(after, TAKEN_BACK).await?;
        let until = inner.clock.now_ms();
        let mut due = Vec::new();
        for id in parked.of_an_order.iter().take(most) {
            if self.may_have_a_route_or_bug(*id).await? {
                due.push(Change::Postpone { id: *id, until });
            }
        }
        if !due.is_empty() {
            inner.store.commit(due).await?;
        }
        let has_none = parked.of_an_order.is_empty();
        self.taken_back = match (self.taken_back, parked.end) {
            (TakenBack::Until(_), Some(end)) => TakenBack::Until(Some(end)),
            (TakenBack::Untold(_), Some(end)) if has_none => TakenBack::Untold(Some(end)),
            _ => TakenBack::All,
        };
        Ok(self.taken_back)
    }

    /// The same as [`Self::may_have_a_route`]; what meets a bug is for who looks at what is due, too, and in
    /// nobody's way here.
    async fn may_have_a_route_or_bug(&mut self, id: EventId) -> Result<bool, StoreError> {
        let looked = AssertUnwindSafe(self.may_have_a_route(id)).catch_unwind();
        looked.await.unwrap_or_else(|_| {
            tracing::error!(event_id = %id, "a bug ended the look at a delivery that no route fitted");
            Ok(true)
        })
    }

    /// Whether a route fits what was parked. What is damaged is for who looks at what is due.
    async fn may_have_a_route(&mut self, id: EventId) -> Result<bool, StoreError> {
        let store = &*self.inner.store;
        let entry = match store.entry(id).await {
            Ok(Some((entry, _))) => self.plan.present(entry),
            Ok(None) => return Ok(false),
            Err(StoreError::Damaged { .. }) => return Ok(true),
            Err(error) => return Err(error),
        };
        let known = match self.plan.routes.need_merchant() {
            true => known(store, &self.plan, &entry).await?,
            false => Known::default(),
        };
        let has_one = self.plan.routes.target(&entry, &known).is_some();
        if !has_one {
            self.tell_left(id);
        }
        Ok(has_one)
    }
}
