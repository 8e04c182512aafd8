//! What is left to a merchant whose token Alipay calls invalid.
//!
//! That a token doesn't hold has other causes than a cancellation: it has timed out, or a refresh
//! brought it and it never worked. What would still serve is tried before anybody is blocked.

use crate::model::merchant::Merchant;
use crate::token::error::TokenError;
use crate::token::refresh::{Occasion, is_about_refresh_token};
use crate::token::{TokenStatus, Tokens, calls};

/// What is left to a merchant.
#[derive(Debug, Clone)]
pub enum Remedy {
    /// Nothing: it has cancelled.
    Nothing,
    /// The pair before the one in force, which Alipay says holds.
    Previous,
    /// A new pair, bought with the refresh token.
    Renewed(Box<Merchant>),
    /// Nobody knows: Alipay couldn't be asked.
    Unknown,
}

impl Tokens {
    /// Looks for what serves in the place of a token that Alipay calls invalid: a new pair where
    /// there is a refresh token that wasn't refused, else the pair before where that may be used.
    ///
    /// # Cancel safety
    /// Safe: a refresh that has begun goes on by itself.
    pub async fn remedy(&self, merchant: &Merchant) -> Remedy {
        let is_unclear = match self.refresh_for(Occasion::Proof, merchant).await {
            Ok(renewed) => return Remedy::Renewed(Box::new(renewed)),
            Err(error) => !has_no_refresh(&error),
        };
        let previous = match merchant.fallback() {
            None => Ok(TokenStatus::Invalid),
            Some(previous) => match calls::app(&self.parts, &merchant.app_id) {
                Ok(app) => calls::describe(&self.parts, &app, previous)
                    .await
                    .map(|(status, _)| status),
                Err(error) => Err(error),
            },
        };
        match previous {
            Ok(TokenStatus::Valid) => Remedy::Previous,
            Ok(TokenStatus::Invalid) if !is_unclear => Remedy::Nothing,
            _ => Remedy::Unknown,
        }
    }
}

/// Whether a refresh failed for want of a refresh token that holds.
fn has_no_refresh(error: &TokenError) -> bool {
    match error {
        TokenError::NoRefreshToken { .. }
        | TokenError::RefreshTokenRefused { .. }
        | TokenError::Revoked { .. } => true,
        TokenError::Refused { sub_code, .. } => is_about_refresh_token(sub_code),
        _ => false,
    }
}
