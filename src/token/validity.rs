//! Whether a token holds, and whether an authorisation is over, as Alipay says.

use crate::model::authorization::Authorization;
use crate::model::merchant::Merchant;
use crate::token::error::TokenError;
use crate::token::{Remedy, TokenStatus, Tokens, calls, refresh};

impl Tokens {
    /// Asks Alipay whether the merchant's token holds (`alipay.open.auth.token.app.query`).
    ///
    /// # Errors
    /// [`TokenError`] when Alipay couldn't be asked or refused to say.
    ///
    /// # Cancel safety
    /// Safe: a query changes nothing.
    pub async fn query(&self, merchant: &Merchant) -> Result<TokenStatus, TokenError> {
        calls::query(&self.parts, merchant).await
    }

    /// Whether Alipay says that a merchant's authorisation is over: its token is invalid, and so is
    /// the one before where a refresh brought it and it never worked. One whose time is over is
    /// invalid, too; then no new pair may be had for it either, and `None` says that nobody knows
    /// whether it can. Alipay ends a token when it executes its refresh, so one that is under way is
    /// waited for.
    ///
    /// # Errors
    /// [`TokenError`] when Alipay couldn't be asked.
    ///
    /// # Cancel safety
    /// Safe: a refresh that has begun goes on by itself.
    pub async fn has_ended(&self, merchant: &Merchant) -> Result<Option<bool>, TokenError> {
        let (turn, stored) = refresh::in_turn(&self.parts, &self.turns, merchant).await?;
        let is_replaced = |now: Merchant| now.token.app_auth_token != merchant.token.app_auth_token;
        if stored.is_some_and(is_replaced) || self.query(merchant).await? == TokenStatus::Valid {
            return Ok(Some(false));
        }
        drop(turn);
        let now = self.parts.clock.now_ms();
        if merchant.token.stated_expiry.is_some_and(|at| at <= now) {
            return Ok(match self.remedy(merchant).await {
                Remedy::Nothing => Some(true),
                Remedy::Previous | Remedy::Renewed(_) => Some(false),
                Remedy::Unknown => None,
            });
        }
        let Some(previous) = merchant.fallback() else {
            return Ok(Some(true));
        };
        let app = calls::app(&self.parts, &merchant.app_id)?;
        let (status, _) = calls::describe(&self.parts, &app, previous).await?;
        Ok(Some(status == TokenStatus::Invalid))
    }

    /// Whether Alipay says that the token of `authorization` holds, and is that merchant's.
    ///
    /// # Errors
    /// [`TokenError`] when Alipay couldn't be asked.
    ///
    /// # Cancel safety
    /// Safe: a query changes nothing.
    pub async fn holds(&self, authorization: &Authorization) -> Result<bool, TokenError> {
        let app = calls::app(&self.parts, &authorization.app_id)?;
        let token = &authorization.token.app_auth_token;
        let (status, described) = calls::describe(&self.parts, &app, token).await?;
        let whose = described.auth_app_id.as_deref();
        let is_others = whose.is_some_and(|id| id != authorization.auth_app_id.as_str());
        Ok(status == TokenStatus::Valid && !is_others)
    }
}
