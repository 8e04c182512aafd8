//! One `app_auth_code` becomes stored tokens, once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::gateway::app::SigningApp;
use crate::model::authorization::{Purchase, Source};
use crate::model::id::{AppId, AuthAppId};
use crate::model::merchant::Merchant;
use crate::protocol::secret::Secret;
use crate::store::error::StoreError;
use crate::store::{Change, MemoKey, MerchantKey};
use crate::token::calls::{self, Grant};
use crate::token::error::TokenError;
use crate::token::storing::{self, Found};
use crate::token::{TokenParts, Tokens};

/// How long a code gives the same answer again, milliseconds: as long as Alipay's codes live.
const REMEMBERED_MS: i64 = 24 * 3600 * 1000;
/// How many codes are exchanged at once. The callback is open to the world, and whoever sends it
/// rubbish has us ask Alipay, whose patience with an app is limited, too.
pub(super) const EXCHANGES: usize = 16;
/// How long a code that Alipay refused isn't sent again, milliseconds.
const REFUSED_MS: i64 = 600_000;
/// How many of those are remembered.
pub(super) const REFUSED: usize = 10_000;
/// The longest code that is sent to Alipay, characters; real ones have 32 to 40.
const LONGEST_CODE: usize = 256;

/// What is known about whose authorisation an exchange is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExchangeContext {
    /// The ISV's own tenant id, from the link's `ref=`.
    pub reference: Option<String>,
    /// Whether a `state` of ours named who began it.
    pub bound: bool,
}

impl Tokens {
    /// Exchanges an `app_auth_code` and stores every token it gives, in one commit.
    ///
    /// The same code again gives the same merchants for 24 h without asking Alipay; who asks
    /// while it is under way joins. A code is good for one exchange, so a lost answer is an error
    /// whose outcome is unknown, and never a second try.
    ///
    /// # Errors
    /// [`TokenError`]; [`TokenError::may_be_about_code`] tells a bad code from an Alipay that couldn't
    /// be asked, or doesn't let the app ask.
    ///
    /// # Cancel safety
    /// Safe: the exchange goes on in a task of its own.
    pub async fn exchange(
        &self,
        app: &Arc<SigningApp>,
        code: &Secret<String>,
        context: ExchangeContext,
    ) -> Result<Vec<Merchant>, TokenError> {
        self.exchange_in(None, (app, code), context).await
    }

    /// Whether a code was exchanged before, so that it gives its merchants again without a question
    /// to Alipay.
    ///
    /// # Errors
    /// The store's.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn is_exchanged(
        &self,
        app: &SigningApp,
        code: &Secret<String>,
    ) -> Result<bool, StoreError> {
        let (key, now) = (key(&app.app_id, code), self.parts.clock.now_ms());
        Ok(self.parts.store.recall(key, now).await?.is_some())
    }

    /// Whether Alipay would be asked about `code`: what can't be one is refused at once.
    #[must_use]
    pub fn may_be_code(code: &Secret<String>) -> bool {
        check_code(code).is_ok()
    }

    /// The right to one exchange, for who has something to do first that must not be done in vain.
    ///
    /// # Errors
    /// [`TokenError::Overloaded`].
    pub fn slot(&self) -> Result<Slot, TokenError> {
        Slot::take(&self.slots)
    }

    /// As [`Tokens::exchange`], with the right to it that was taken before, if one was.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// As there.
    pub async fn exchange_in(
        &self,
        slot: Option<Slot>,
        (app, code): (&Arc<SigningApp>, &Secret<String>),
        context: ExchangeContext,
    ) -> Result<Vec<Merchant>, TokenError> {
        check_code(code)?;
        let key = key(&app.app_id, code);
        let now = self.parts.clock.now_ms();
        if let Some(error) = self.refused.get(&key, now) {
            return Err(error);
        }
        let (parts, app, code) = (Arc::clone(&self.parts), Arc::clone(app), code.clone());
        let (slots, refused) = (Arc::clone(&self.slots), self.refused.clone());
        let work = async move {
            let result = run(&parts, (&slots, slot), (&app, &code), context).await;
            if let Err(error) = &result
                && is_about_code(error)
            {
                refused.put(key, error.clone(), now, REFUSED_MS);
            }
            result
        };
        let landed = self.exchanges.run(key, work);
        self.unless_unstored(landed).await
    }
}

/// Refuses what can't be a code before it costs a signature.
fn check_code(code: &Secret<String>) -> Result<(), TokenError> {
    let text = code.expose();
    let fits = (1..=LONGEST_CODE).contains(&text.len());
    if fits && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    Err(TokenError::CodeInvalid {
        found: text.chars().count(),
        most: LONGEST_CODE,
    })
}

/// Under what an exchange is known.
fn key(app_id: &AppId, code: &Secret<String>) -> MemoKey {
    MemoKey::new("exchange", &[app_id.as_str(), code.expose()])
}

/// The right to one of the exchanges that are made at once.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    fn take(slots: &Arc<Semaphore>) -> Result<Self, TokenError> {
        let permit = Arc::clone(slots).try_acquire_owned();
        let slot = permit.map(|permit| Self { _permit: permit });
        slot.map_err(|_| TokenError::Overloaded)
    }
}

/// Whether Alipay refused the code itself: then it refuses it again.
fn is_about_code(error: &TokenError) -> bool {
    matches!(error, TokenError::Refused { sub_code, .. } if sub_code.contains("code"))
}

async fn run(
    parts: &TokenParts,
    (slots, slot): (&Arc<Semaphore>, Option<Slot>),
    (app, code): (&Arc<SigningApp>, &Secret<String>),
    context: ExchangeContext,
) -> Result<Vec<Merchant>, TokenError> {
    let key = key(&app.app_id, code);
    let now = parts.clock.now_ms();
    if let Some(known) = parts.store.recall(key, now).await? {
        return known_merchants(parts, &app.app_id, &known).await;
    }
    let _slot = match slot {
        Some(slot) => slot,
        None => Slot::take(slots)?,
    };
    storing::check_writable(parts)?;
    let grant = Grant::AuthorizationCode {
        code: code.expose(),
    };
    let granted = calls::buy(parts, app, &grant).await?.granted()?;
    let ids: Vec<&str> = granted.iter().map(|g| g.auth_app_id.as_str()).collect();
    let remember = Change::Remember {
        key,
        value: Secret::new(ids.join(" ").into_bytes()),
        expires_at: now.saturating_add(REMEMBERED_MS),
    };
    let found = Found {
        app_id: &app.app_id,
        source: Source::Callback,
        purchase: Purchase::Exchange,
        context: &context,
    };
    storing::store(parts, &found, granted, Some(remember)).await
}

/// The merchants of an exchange that was made before: what is remembered are their ids.
async fn known_merchants(
    parts: &TokenParts,
    app_id: &AppId,
    ids: &Secret<Vec<u8>>,
) -> Result<Vec<Merchant>, TokenError> {
    let ids = String::from_utf8_lossy(ids.expose());
    let mut merchants = Vec::new();
    for id in ids
        .split_ascii_whitespace()
        .filter_map(|id| AuthAppId::new(id).ok())
    {
        let key = MerchantKey::Exact(app_id.clone(), id);
        merchants.extend(parts.store.find(key).await?);
    }
    Ok(merchants)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_a_code_is_not_sent() {
        let check = |code: &str| check_code(&Secret::new(code.to_owned()));
        assert!(check("ca34ea491e7146cc87d25fca24c4cD11").is_ok());
        for bad in ["", "a b", "a\n", "代码", &"x".repeat(257)] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
