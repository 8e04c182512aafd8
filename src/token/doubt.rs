//! What Alipay's replies to a merchant's calls say about its authorisation.
//!
//! Without a subscription to the cancellation messages, a cancellation shows in nothing but
//! `aop.invalid-app-auth-token`. Such a reply is checked once (`alipay.open.auth.token.app.query`),
//! and not again for a minute: it marks the merchant revoked where Alipay says so, else suspect.
//! Nothing is refreshed because of it, and nobody waits for it.
//!
//! Protocol: 第三方应用授权; 公共错误码.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::flight::Flights;
use crate::model::authorization::{Doubt, Evidence, Refusal};
use crate::model::event::MERCHANT_SUSPECT;
use crate::model::merchant::{Merchant, MerchantStatus};
use crate::model::notification::InboxEntry;
use crate::protocol::secret::Secret;
use crate::store::error::StoreError;
use crate::store::{Change, Effect, MemoKey, MerchantKey};
use crate::token::lately::Lately;
use crate::token::turn::Turns;
use crate::token::{TokenParts, TokenStatus, Tokens, calls, refresh};

/// How long Alipay isn't asked again about one merchant, milliseconds.
const CHECK_EVERY_MS: i64 = 60_000;
/// How many merchants' last checks are remembered.
const MOST: usize = 10_000;
/// How many checks run at once: a wave of cancellations must not become a wave of queries. Whoever
/// finds no room is checked at its next refused call.
const CHECKS: usize = 16;

/// The `sub_code`s that say of the merchant's token that it doesn't hold. (One that timed out, and
/// one that holds but not for this method, `aop.invalid-app-auth-token-no-api`, say another thing.)
const INVALID: [&str; 2] = ["aop.invalid-app-auth-token", "isv.invalid-app-auth-token"];
/// The `sub_code` that says of the merchant's token that it has timed out.
const TIMED_OUT: &str = "aop.app-auth-token-time-out";

/// What a signed reply of v2 says of the token that its call was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenVerdict {
    /// It doesn't hold; nothing was executed.
    Invalid,
    /// It has timed out; nothing was executed.
    TimedOut,
}

impl TokenVerdict {
    /// What a v2 `sub_code` says, if it says anything.
    #[must_use]
    pub fn of_sub_code(sub_code: &str) -> Option<Self> {
        match sub_code {
            TIMED_OUT => Some(Self::TimedOut),
            other => INVALID.contains(&other).then_some(Self::Invalid),
        }
    }

    /// What a v3 `code` says, if it says anything. Its spelling isn't documented, so that of v2 is
    /// looked for in it.
    #[must_use]
    pub fn of_code(code: &str) -> Option<Self> {
        let has = |part: &str| code.contains(part);
        match () {
            () if !has("app-auth-token") || has("no-api") => None,
            () if has("time") => Some(Self::TimedOut),
            () => has("invalid").then_some(Self::Invalid),
        }
    }
}

/// What is checked at present, and what was lately. Clones share it.
#[derive(Clone)]
pub(super) struct Doubts {
    checks: Flights<MemoKey, ()>,
    trials: Flights<MemoKey, ()>,
    checked: Lately<MemoKey, ()>,
    slots: Arc<Semaphore>,
}

impl Doubts {
    pub(super) fn new() -> Self {
        Self {
            checks: Flights::new(),
            trials: Flights::new(),
            checked: Lately::new(MOST),
            slots: Arc::new(Semaphore::new(CHECKS)),
        }
    }

    /// Ends once nothing is under way.
    pub(super) async fn landed(&self) {
        self.checks.landed().await;
        self.trials.landed().await;
    }
}

/// A token to make a refused call with once more: nothing was executed.
#[derive(Debug, Clone)]
pub struct SecondChoice {
    /// The merchant as it is now.
    pub merchant: Merchant,
    /// The token.
    pub app_auth_token: Secret<String>,
    /// Whether it is the one before the token in force.
    pub is_previous: bool,
}

impl SecondChoice {
    /// The merchant as the call is made for it: with the token chosen.
    #[must_use]
    pub fn as_sent(&self) -> Merchant {
        let mut merchant = self.merchant.clone();
        merchant.token.app_auth_token = self.app_auth_token.clone();
        merchant
    }
}

impl Tokens {
    /// Takes note that Alipay refused the merchant's token, signed, as invalid. Returns at once; the
    /// check goes on in a task of its own.
    pub fn refused(&self, merchant: &Merchant) {
        let doubts = &self.doubts;
        let (key, now) = (key("check", merchant), self.parts.clock.now_ms());
        if doubts.checked.get(&key, now).is_some() {
            return;
        }
        if doubts.slots.available_permits() == 0 {
            return;
        }
        doubts.checked.put(key, (), now, CHECK_EVERY_MS);
        let (parts, merchant) = (Arc::clone(&self.parts), merchant.clone());
        let (turns, slots) = (self.turns.clone(), Arc::clone(&doubts.slots));
        let checked = doubts.checked.clone();
        doubts.checks.start(key, async move {
            match check(&parts, (&turns, &slots), &merchant).await {
                Ok(true) => {}
                Ok(false) => checked.forget(&key),
                Err(error) => {
                    tracing::warn!(%error, auth_app_id = %merchant.auth_app_id, "what was learned of a refused token could not be stored");
                    checked.forget(&key);
                }
            }
        });
    }

    /// Takes note that a call with the merchant's token worked, where that tells anything new.
    /// Returns at once.
    pub fn worked(&self, merchant: &Merchant) {
        if !merchant.is_on_trial() {
            return;
        }
        let (parts, key) = (Arc::clone(&self.parts), key("trial", merchant));
        let change = Change::Worked {
            app_id: merchant.app_id.clone(),
            auth_app_id: merchant.auth_app_id.clone(),
            app_auth_token: merchant.token.app_auth_token.clone(),
        };
        self.doubts.trials.start(key, async move {
            // The next call that works tells it again.
            if let Err(error) = parts.store.commit(vec![change]).await {
                tracing::debug!(%error, "a token that worked could not be noted");
            }
        });
    }

    /// Takes note that the token before the one in force works, and the one in force doesn't.
    /// Returns at once. Alipay isn't asked: what it says of the new token would block a merchant
    /// whose calls work.
    pub fn fell_back(&self, merchant: &Merchant) {
        if merchant.doubt.is_some() {
            return;
        }
        let (parts, key) = (Arc::clone(&self.parts), key("fallback", merchant));
        let now = self.parts.clock.now_ms();
        let refusal = Refusal::new(merchant, Doubt::NewTokenRefused, now);
        self.doubts
            .trials
            .start(key, async move { note_or_warn(&parts, refusal).await });
    }

    /// The token to make a call with once more that Alipay refused, signed, because of `merchant`'s
    /// token: today's where it was replaced meanwhile, else the one before it where that may still
    /// hold ([`Merchant::fallback`]).
    ///
    /// # Errors
    /// The store's.
    pub async fn second_choice(
        &self,
        merchant: &Merchant,
    ) -> Result<Option<SecondChoice>, StoreError> {
        let Some(stored) = stored(&self.parts, merchant).await? else {
            return Ok(None);
        };
        if matches!(stored.status, MerchantStatus::Revoked { .. }) {
            return Ok(None);
        }
        let is_previous = stored.token.app_auth_token == merchant.token.app_auth_token;
        let token = match is_previous {
            true => stored.fallback().cloned(),
            false => Some(stored.token.app_auth_token.clone()),
        };
        Ok(token.map(|app_auth_token| SecondChoice {
            merchant: stored,
            app_auth_token,
            is_previous,
        }))
    }
}

/// Asks Alipay about a refused token, unless that has become pointless, and stores what is learned;
/// `false` where it found no room.
///
/// In the turn of the refresh token: Alipay ends a token when it executes its refresh, and until
/// what was bought is stored, which may take as long as a disk does, the record shows an invalid
/// token of a merchant who has cancelled nothing.
async fn check(
    parts: &TokenParts,
    (turns, slots): (&Turns, &Semaphore),
    merchant: &Merchant,
) -> Result<bool, StoreError> {
    let (_turn, stored) = refresh::in_turn(parts, turns, merchant).await?;
    // Neither while the turn is awaited, since a refresh that can't be stored would keep all others
    // out, nor awaited in the turn, which refreshes wait for.
    let Ok(_slot) = slots.try_acquire() else {
        return Ok(false);
    };
    let Some(stored) = stored else {
        return Ok(true);
    };
    let is_replaced = stored.token.app_auth_token != merchant.token.app_auth_token;
    if is_replaced || matches!(stored.status, MerchantStatus::Revoked { .. }) {
        return Ok(true);
    }
    let asked_at = parts.clock.now_ms();
    let answer = calls::query(parts, &stored).await;
    parts.metrics.checked(&answer);
    let evidence = match answer {
        Ok(TokenStatus::Invalid) => Evidence::Invalid,
        Ok(TokenStatus::Valid) => Evidence::None,
        Err(error) => {
            tracing::warn!(%error, auth_app_id = %stored.auth_app_id, "Alipay could not be asked about a token that it refused");
            Evidence::None
        }
    };
    let refusal = Refusal::new(&stored, Doubt::TokenRefused, asked_at);
    note(
        parts,
        Refusal {
            evidence,
            ..refusal
        },
    )
    .await?;
    Ok(true)
}

/// Stores a refusal, with the event that tells the backend; gives whether it told anything new.
pub(super) async fn note(parts: &TokenParts, refusal: Refusal) -> Result<bool, StoreError> {
    let (doubt, evidence) = (refusal.doubt.as_str(), refusal.evidence);
    let auth_app_id = refusal.auth_app_id.clone();
    let entry = event_entry(&refusal, parts.clock.now_ms());
    let change = Change::Doubt {
        refusal,
        entry: Some(Box::new(entry)),
    };
    let effects = parts.store.commit(vec![change]).await?;
    let is_new = matches!(effects.first(), Some(Effect::Applied));
    if is_new {
        tracing::warn!(%auth_app_id, doubt, is_revoked = evidence == Evidence::Invalid, "Alipay refused a merchant's token");
        parts.wake.notify_one();
    }
    Ok(is_new)
}

/// As [`note`], for those who can do nothing about a store that fails.
pub(super) async fn note_or_warn(parts: &TokenParts, refusal: Refusal) {
    let auth_app_id = refusal.auth_app_id.clone();
    if let Err(error) = note(parts, refusal).await {
        tracing::warn!(%error, %auth_app_id, "a refused token could not be noted");
    }
}

async fn stored(parts: &TokenParts, merchant: &Merchant) -> Result<Option<Merchant>, StoreError> {
    let key = MerchantKey::Exact(merchant.app_id.clone(), merchant.auth_app_id.clone());
    Ok(parts.store.find(key).await?.pop())
}

fn key(purpose: &str, merchant: &Merchant) -> MemoKey {
    let parts = [merchant.app_id.as_str(), merchant.auth_app_id.as_str()];
    MemoKey::new(purpose, &parts)
}

fn event_entry(refusal: &Refusal, now: i64) -> InboxEntry {
    let whose = (&refusal.app_id, &refusal.auth_app_id);
    InboxEntry::of_merchant(MERCHANT_SUSPECT, whose, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_says_it_of_the_token_counts() {
        for (sub_code, expected) in [
            ("aop.invalid-app-auth-token", Some(TokenVerdict::Invalid)),
            ("isv.invalid-app-auth-token", Some(TokenVerdict::Invalid)),
            ("aop.app-auth-token-time-out", Some(TokenVerdict::TimedOut)),
            ("aop.invalid-app-auth-token-no-api", None),
            ("aop.invalid-auth-token", None),
            ("", None),
        ] {
            assert_eq!(TokenVerdict::of_sub_code(sub_code), expected, "{sub_code}");
            assert_eq!(TokenVerdict::of_code(sub_code), expected, "{sub_code}");
        }
        let invalid = TokenVerdict::of_code("app-auth-token-invalid");
        assert_eq!(invalid, Some(TokenVerdict::Invalid));
    }
}
