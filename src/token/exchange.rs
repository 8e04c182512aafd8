//! One `app_auth_code` becomes stored tokens, once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::gateway::app::SigningApp;
use crate::model::authorization::{Rank, Source};
use crate::model::id::{AppId, AuthAppId};
use crate::model::merchant::Merchant;
use crate::protocol::secret::Secret;
use crate::store::{Change, MemoKey, MerchantKey};
use crate::token::calls::{self, Grant};
use crate::token::error::TokenError;
use crate::token::storing::{self, Found};
use crate::token::{ExchangeContext, TokenParts};

/// How long a code gives the same answer again, milliseconds: as long as Alipay's codes live.
const REMEMBERED_MS: i64 = 24 * 3600 * 1000;
/// The longest code that is sent to Alipay, characters; real ones have 32 to 40.
const LONGEST_CODE: usize = 256;

/// Refuses what can't be a code before it costs a signature.
pub(super) fn check_code(code: &Secret<String>) -> Result<(), TokenError> {
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
pub(super) fn key(app_id: &AppId, code: &Secret<String>) -> MemoKey {
    MemoKey::new("exchange", &[app_id.as_str(), code.expose()])
}

/// The right to one of the exchanges that are made at once.
#[derive(Debug)]
pub struct Slot {
    _permit: OwnedSemaphorePermit,
}

impl Slot {
    pub(super) fn take(slots: &Arc<Semaphore>) -> Result<Self, TokenError> {
        let permit = Arc::clone(slots).try_acquire_owned();
        let slot = permit.map(|permit| Self { _permit: permit });
        slot.map_err(|_| TokenError::Overloaded)
    }
}

/// Whether Alipay refused the code itself: then it refuses it again.
pub(super) fn is_about_code(error: &TokenError) -> bool {
    matches!(error, TokenError::Refused { sub_code, .. } if sub_code.contains("code"))
}

pub(super) async fn run(
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
        rank: Rank::AfterStored,
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
