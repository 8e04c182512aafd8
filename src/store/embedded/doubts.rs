//! What is learned about a merchant's authorisation without a new one: doubts, what clears them, and
//! cancellations that came before what they cancel.

use super::apply::Applier;
use super::directory::told;
use super::fault::Fault;
use super::lookup::MerchantId;
use crate::model::authorization::Refusal;
use crate::model::delivery::DeliveryState;
use crate::model::event::AuthorizationEvent;
use crate::model::merchant::{Merchant, MerchantStatus};
use crate::model::notification::InboxEntry;
use crate::protocol::secret::Secret;
use crate::store::{Effect, MemoKey};

/// How long a cancellation that came before its authorisation is kept, milliseconds: Alipay tries
/// for 25 h, and whoever operates its side may send something again days later.
const CANCELLED_MS: i64 = 30 * 24 * 3600 * 1000;

impl Applier<'_> {
    pub(super) fn doubted(
        &mut self,
        refusal: &Refusal,
        entry: Option<&InboxEntry>,
    ) -> Result<Effect, Fault> {
        let id = MerchantId::new(&refusal.app_id, &refusal.auth_app_id);
        let Some(stored) = self.merchant(&id)? else {
            return Ok(Effect::Missing);
        };
        let Some(merchant) = stored.doubted(refusal, self.now) else {
            return Ok(Effect::Stale);
        };
        self.put_merchant(&id, Some(&stored), &merchant)?;
        if let MerchantStatus::Revoked { .. } = merchant.status {
            self.forget_users_of(&id)?;
        }
        if let Some(entry) = entry.filter(|_| merchant.status.as_str() != stored.status.as_str()) {
            let event = AuthorizationEvent::doubted(entry.id, entry.received_at, &merchant);
            let mut told = told(entry, &merchant, event.clone());
            told.event_type = event.event_type;
            self.put_entry(&told, DeliveryState::Pending)?;
        }
        Ok(Effect::Applied)
    }

    pub(super) fn worked(
        &mut self,
        id: &MerchantId,
        app_auth_token: &Secret<String>,
    ) -> Result<Effect, Fault> {
        let now = self.now;
        self.believe(id, |stored| stored.worked(app_auth_token, now))
    }

    pub(super) fn trusted(
        &mut self,
        id: &MerchantId,
        app_auth_token: &Secret<String>,
    ) -> Result<Effect, Fault> {
        let now = self.now;
        self.believe(id, |stored| stored.trusted(app_auth_token, now))
    }

    /// Stores what good news makes of a record, if it tells anything new.
    fn believe(
        &mut self,
        id: &MerchantId,
        news: impl FnOnce(&Merchant) -> Option<Merchant>,
    ) -> Result<Effect, Fault> {
        let Some(stored) = self.merchant(id)? else {
            return Ok(Effect::Missing);
        };
        let Some(merchant) = news(&stored) else {
            return Ok(Effect::Stale);
        };
        self.put_merchant(id, Some(&stored), &merchant)?;
        Ok(Effect::Applied)
    }

    /// When the merchant of `id` cancelled before it was known. What doesn't open refuses no
    /// authorisation: its code is spent.
    pub(super) fn cancelled(&mut self, id: &MerchantId) -> Result<Option<i64>, Fault> {
        let key = MemoKey::cancelled(&id.app_id, &id.auth_app_id);
        let kept = match self.remembered(key) {
            Err(Fault::Refused(error)) => {
                tracing::error!(%error, merchant = %id, "when a merchant cancelled is damaged, and forgotten");
                self.forget(key)?;
                None
            }
            kept => kept?,
        };
        Ok(kept
            .and_then(|at| <[u8; 8]>::try_from(at.expose().as_slice()).ok())
            .map(i64::from_be_bytes))
    }

    /// Keeps the time of a cancellation that came before its authorisation.
    pub(super) fn remember_cancelled(&mut self, id: &MerchantId, at: i64) -> Result<(), Fault> {
        if self.cancelled(id)?.is_some_and(|known| at <= known) {
            return Ok(());
        }
        let key = MemoKey::cancelled(&id.app_id, &id.auth_app_id);
        self.forget(key)?;
        let at = Secret::new(at.to_be_bytes().to_vec());
        self.remember(key, &at, self.now.saturating_add(CANCELLED_MS))?;
        Ok(())
    }
}
