//! One pair of tokens is replaced by the next.

use std::sync::Arc;

use crate::model::authorization::{Doubt, Purchase, Refusal, Source};
use crate::model::id::AuthAppId;
use crate::model::merchant::{Merchant, MerchantStatus};
use crate::protocol::error::ProtocolError;
use crate::protocol::secret::Secret;
use crate::protocol::token_reply::GrantedToken;
use crate::store::error::StoreError;
use crate::store::{MemoKey, MerchantKey};
use crate::token::calls::{self, Grant};
use crate::token::error::TokenError;
use crate::token::spent::{SpentReplies, SpentReply};
use crate::token::storing::{self, Found, Renewal, Stored};
use crate::token::turn::{Turn, Turns};
use crate::token::{ExchangeContext, TokenParts, Tokens, doubt};

/// How long a refresh that was refused isn't tried again for calls, milliseconds: every call with a
/// token that timed out would ask for one.
const RENEW_EVERY_MS: i64 = 60_000;
/// The same where it failed in another way: it may work with the next call.
pub(super) const RENEW_AGAIN_MS: i64 = 1_000;
/// How many of those are remembered.
pub(super) const RENEWALS: usize = 10_000;

impl Tokens {
    /// Buys a new pair with the merchant's `app_refresh_token` and stores it.
    ///
    /// It is for the operator: a merchant who has cancelled is revived by it where Alipay agrees.
    /// `merchant` is the record as its caller knew it: if another refresh has replaced its token
    /// meanwhile, the record of today is given and Alipay isn't asked. The former pair is kept.
    ///
    /// # Errors
    /// [`TokenError`]; when its outcome is unknown, the stored pair may still be good, and the
    /// refresh may be asked for again.
    ///
    /// # Cancel safety
    /// Safe: the refresh goes on in a task of its own.
    pub async fn refresh(&self, merchant: &Merchant) -> Result<Merchant, TokenError> {
        self.refresh_for(Occasion::Operator, merchant).await
    }

    /// The same for any occasion.
    pub(super) async fn refresh_for(
        &self,
        occasion: Occasion,
        merchant: &Merchant,
    ) -> Result<Merchant, TokenError> {
        let (app_id, auth_app_id) = (merchant.app_id.as_str(), merchant.auth_app_id.as_str());
        let key = MemoKey::new("refresh", &[occasion.as_str(), app_id, auth_app_id]);
        let (parts, merchant) = (Arc::clone(&self.parts), merchant.clone());
        let (turns, spent) = (self.turns.clone(), self.spent.clone());
        let work = async move {
            let result = run(&parts, (&turns, &spent), (&merchant, occasion)).await;
            if let Some(result) = asked(&result) {
                parts.metrics.refreshed(&result);
            }
            result.map(Refreshed::into_merchant)
        };
        let landed = self.refreshes.run(key, work);
        self.unless_unstored(landed).await
    }

    /// As [`Tokens::refresh`], for a call whose token has timed out: after a refusal not again for a
    /// minute, after any other failure not for a second. Where there is nothing to refresh with, the
    /// merchant becomes suspect.
    ///
    /// # Errors
    /// [`TokenError`], the last one where it isn't tried again.
    ///
    /// # Cancel safety
    /// Safe: the refresh goes on in a task of its own.
    pub async fn renew(&self, merchant: &Merchant) -> Result<Merchant, TokenError> {
        let token = merchant.token.app_auth_token.expose().as_str();
        let (app_id, auth_app_id) = (merchant.app_id.as_str(), merchant.auth_app_id.as_str());
        let key = MemoKey::new("renew", &[app_id, auth_app_id, token]);
        let now = self.parts.clock.now_ms();
        if let Some(error) = self.failed.get(&key, now) {
            return Err(error);
        }
        let renewed = self.refresh_for(Occasion::Sidecar, merchant).await;
        if let Err(error) = &renewed {
            let pause = match error.is_refusal() {
                true => RENEW_EVERY_MS,
                false => RENEW_AGAIN_MS,
            };
            // Counted from the failure: the attempt itself may have taken longer than that.
            let failed_at = self.parts.clock.now_ms();
            self.failed.put(key, error.clone(), failed_at, pause);
            if let TokenError::NoRefreshToken { .. } = error {
                let refusal = Refusal::new(merchant, Doubt::TokenRefused, now);
                doubt::note_or_warn(&self.parts, refusal).await;
            }
        }
        renewed
    }
}

/// Why a pair is refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// The operator asks, of a merchant who has cancelled, too: it revives what works.
    Operator,
    /// Alipay calls the token invalid; whoever asks judges by what comes of it.
    Proof,
    /// A call's token has timed out, or the pair is renewed ahead.
    Sidecar,
}

impl Occasion {
    /// The word that tells one apart from the others.
    fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Proof => "proof",
            Self::Sidecar => "sidecar",
        }
    }

    /// Refuses to go on with a cancelled record where nobody but the sidecar wants it.
    fn check(self, stored: &Merchant) -> Result<(), TokenError> {
        let is_revoked = matches!(stored.status, MerchantStatus::Revoked { .. });
        match is_revoked && self != Self::Operator {
            true => Err(TokenError::Revoked {
                auth_app_id: stored.auth_app_id.to_string(),
            }),
            false => Ok(()),
        }
    }

    fn purchase(self) -> Purchase {
        match self {
            Self::Operator => Purchase::Revival,
            Self::Proof | Self::Sidecar => Purchase::Renewal,
        }
    }
}

/// How a refresh ended well.
#[derive(Debug, Clone)]
enum Refreshed {
    /// Somebody else had replaced the token; Alipay wasn't asked.
    Before(Merchant),
    /// Alipay gave a new pair.
    Now(Merchant),
}

impl Refreshed {
    fn into_merchant(self) -> Merchant {
        match self {
            Self::Before(merchant) | Self::Now(merchant) => merchant,
        }
    }
}

/// What to count: nothing where Alipay wasn't asked because there was no need.
fn asked(result: &Result<Refreshed, TokenError>) -> Option<Result<(), TokenError>> {
    match result {
        Ok(Refreshed::Before(_)) | Err(TokenError::Removed { bought: false, .. }) => None,
        Ok(Refreshed::Now(_)) => Some(Ok(())),
        Err(error) => Some(Err(error.clone())),
    }
}

/// A refresh goes on with what was authorised before.
const REFRESHED: ExchangeContext = ExchangeContext {
    reference: None,
    bound: true,
};

/// Refreshes the pair that `known` had, unless it has been replaced since, or the merchant removed: what
/// is bought while that happens is forgotten, too.
///
/// Where the answer is lost (late, broken off, unsigned), the stored pair stays, and the next
/// refresh sends the same refresh token again. If Alipay then calls that one invalid, the lost
/// refresh has spent it: the old `app_auth_token` goes on being used, the merchant is suspect, and
/// the refresh token isn't sent a third time.
async fn run(
    parts: &TokenParts,
    (turns, spent): (&Turns, &SpentReplies),
    (known, occasion): (&Merchant, Occasion),
) -> Result<Refreshed, TokenError> {
    let (turn, stored) = in_turn(parts, turns, known).await?;
    let stored = stored.ok_or_else(|| removed(known, false))?;
    occasion.check(&stored)?;
    if stored.token.app_auth_token != known.token.app_auth_token {
        return Ok(Refreshed::Before(stored));
    }
    let refresh_token = usable(&stored)?;
    storing::check_writable(parts)?;
    let app = calls::app(parts, &stored.app_id)?;
    let grant = Grant::RefreshToken {
        refresh_token: refresh_token.expose(),
    };
    let sent_at = parts.clock.now_ms();
    let bought = match calls::buy(parts, &app, &grant).await {
        Err(TokenError::Refused { sub_code, code }) => {
            if is_about_refresh_token(&sub_code) && occasion != Occasion::Proof {
                let now = parts.clock.now_ms();
                let refusal = Refusal::new(&stored, Doubt::RefreshTokenRefused, now);
                doubt::note_or_warn(parts, refusal).await;
            }
            return Err(TokenError::Refused { code, sub_code });
        }
        other => other?,
    };
    let granted = bought.granted()?;
    let is_own = |granted: &GrantedToken| granted.auth_app_id == stored.auth_app_id.as_str();
    let is_given = granted.iter().any(is_own);
    let context = &REFRESHED;
    let found = Found {
        app_id: &stored.app_id,
        source: Source::Refresh,
        renewal: Some(Renewal {
            purchase: occasion.purchase(),
            of: &stored,
            sent_at,
        }),
        context,
    };
    let given = granted.iter().find(|granted| is_own(granted));
    let given = given.map(|granted| granted.app_auth_token.clone());
    let outcome = storing::store(parts, &found, granted, None).await?;
    // What gave way to something newer nobody holds: no backend is handed it.
    let is_in_force = |merchant: &Merchant| {
        let own = merchant.auth_app_id == stored.auth_app_id;
        let given = given.as_ref().map(|token| token.expose());
        own && given == Some(merchant.token.app_auth_token.expose())
    };
    let is_held = outcome.merchants.iter().any(is_in_force);
    if let Some(turn) = turn.as_ref().filter(|_| is_held) {
        let reply = SpentReply::V2(bought.reply);
        spent.keep(turn.key(), bought.form, reply, parts.clock.now_ms());
    }
    let refreshed = own(&stored, outcome, is_given)?;
    // The merchant may have cancelled meanwhile.
    occasion.check(&refreshed)?;
    Ok(Refreshed::Now(refreshed))
}

/// The record that was refreshed as it is now, or why there is none.
fn own(before: &Merchant, outcome: Stored, is_given: bool) -> Result<Merchant, TokenError> {
    let Stored {
        merchants,
        conflicts,
    } = outcome;
    let is_own = |id: &AuthAppId| *id == before.auth_app_id;
    let stored = merchants.into_iter().find(|m| is_own(&m.auth_app_id));
    let conflict = conflicts.into_iter().find(|(id, _)| is_own(id));
    match (stored, conflict) {
        (Some(stored), _) => Ok(stored),
        (None, Some((_, conflict))) => Err(conflict.into()),
        (None, None) if is_given => Err(removed(before, true)),
        (None, None) => Err(TokenError::Reply(ProtocolError::TokenReplyInvalid {
            reason: "it has no token for the merchant that was refreshed".to_owned(),
        })),
    }
}

/// The error where the merchant was removed: by then, Alipay had given a new pair or not.
fn removed(merchant: &Merchant, bought: bool) -> TokenError {
    let auth_app_id = merchant.auth_app_id.to_string();
    TokenError::Removed {
        auth_app_id,
        bought,
    }
}

/// The merchant's record as it is now, with the turn of the refresh token that stands in it, unless
/// another pair has replaced the known one.
pub(super) async fn in_turn(
    parts: &TokenParts,
    turns: &Turns,
    known: &Merchant,
) -> Result<(Option<Turn>, Option<Merchant>), StoreError> {
    let mut refresh_token = known.token.app_refresh_token.clone();
    loop {
        let turn = match &refresh_token {
            Some(refresh_token) => Some(turns.take(refresh_token).await),
            None => None,
        };
        let key = MerchantKey::Exact(known.app_id.clone(), known.auth_app_id.clone());
        let Some(stored) = parts.store.find(key).await?.pop() else {
            return Ok((turn, None));
        };
        let is_replaced = stored.token.app_auth_token != known.token.app_auth_token;
        if is_replaced || stored.token.app_refresh_token == refresh_token {
            return Ok((turn, Some(stored)));
        }
        // An import may have brought another.
        refresh_token = stored.token.app_refresh_token;
    }
}

/// The refresh token to send.
fn usable(merchant: &Merchant) -> Result<&Secret<String>, TokenError> {
    let auth_app_id = || merchant.auth_app_id.to_string();
    match &merchant.token.app_refresh_token {
        None => Err(TokenError::NoRefreshToken {
            auth_app_id: auth_app_id(),
        }),
        Some(_) if merchant.refresh_refused => Err(TokenError::RefreshTokenRefused {
            auth_app_id: auth_app_id(),
        }),
        Some(refresh_token) => Ok(refresh_token),
    }
}

/// Whether a refusal is about the refresh token, of a merchant or a user, and not about our app, its
/// key or its pace. The `sub_code`s aren't documented (`isv.refresh-token-invalid` is one, and
/// `isv.code-invalid` another), so the name is looked for.
pub(super) fn is_about_refresh_token(sub_code: &str) -> bool {
    let sub_code = sub_code.replace('_', "-");
    ["refresh-token", "code-invalid"]
        .iter()
        .any(|part| sub_code.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::storing::tests::merchant;

    #[test]
    fn only_what_names_the_refresh_token_is_about_it() {
        for sub_code in [
            "isv.refresh-token-invalid",
            "isv.refresh-token-time-out",
            "aop.invalid-refresh_token",
            "isv.code-invalid",
        ] {
            assert!(is_about_refresh_token(sub_code), "{sub_code}");
        }
        for sub_code in ["isv.invalid-signature", "isv.app-call-limited", ""] {
            assert!(!is_about_refresh_token(sub_code), "{sub_code}");
        }
    }

    #[test]
    fn a_merchant_counts_as_removed_only_where_its_record_is_gone() {
        let before = merchant("2021000000000101");
        let other = merchant("2021000000000102");
        let kind = |stored: &[&Merchant], conflict: Option<&Merchant>, is_given| {
            let refused = |of: &Merchant| {
                let owner = "another".to_owned();
                let conflict = StoreError::TokenConflict { owner };
                (of.auth_app_id.clone(), conflict)
            };
            let outcome = Stored {
                merchants: stored.iter().copied().cloned().collect(),
                conflicts: conflict.map(refused).into_iter().collect(),
            };
            match own(&before, outcome, is_given) {
                Ok(found) => found.auth_app_id.as_str().to_owned(),
                Err(error) => error.kind().to_owned(),
            }
        };
        let both = [&other, &before];
        assert_eq!(kind(&both, None, true), "2021000000000101");
        assert_eq!(kind(&[&other], None, true), "merchant-unknown");
        assert_eq!(kind(&[&other], Some(&before), true), "token-conflict");
        assert_eq!(kind(&[], Some(&other), true), "merchant-unknown");
        assert_eq!(kind(&[&other], None, false), "upstream-invalid");
    }

    #[test]
    fn one_occasion_is_never_taken_for_another() {
        let all = [Occasion::Operator, Occasion::Proof, Occasion::Sidecar];
        let words: std::collections::HashSet<_> = all.map(Occasion::as_str).into();
        assert_eq!(words.len(), 3);
    }
}
