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
        Remedy::without_renewal(&previous, is_unclear)
    }
}

impl Remedy {
    /// What is left where no new pair was had: `is_unclear` if nobody knows whether it can be.
    fn without_renewal(previous: &Result<TokenStatus, TokenError>, is_unclear: bool) -> Self {
        match previous {
            Ok(TokenStatus::Valid) => Self::Previous,
            Ok(TokenStatus::Invalid) if !is_unclear => Self::Nothing,
            _ => Self::Unknown,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_left_only_where_both_are_known_to_fail() {
        let left = |previous, is_unclear| Remedy::without_renewal(&previous, is_unclear);
        for is_unclear in [false, true] {
            let found = left(Ok(TokenStatus::Valid), is_unclear);
            assert!(matches!(found, Remedy::Previous));
            let found = left(Err(TokenError::Internal), is_unclear);
            assert!(matches!(found, Remedy::Unknown));
        }
        assert!(matches!(
            left(Ok(TokenStatus::Invalid), false),
            Remedy::Nothing
        ));
        assert!(matches!(
            left(Ok(TokenStatus::Invalid), true),
            Remedy::Unknown
        ));
    }

    #[test]
    fn a_refresh_fails_for_want_of_a_token_or_for_another_reason() {
        let auth_app_id = || "2021000000001001".to_owned();
        let refused = |sub_code: &str| TokenError::Refused {
            code: "40004".to_owned(),
            sub_code: sub_code.to_owned(),
        };
        for (error, expected) in [
            (
                TokenError::NoRefreshToken {
                    auth_app_id: auth_app_id(),
                },
                true,
            ),
            (
                TokenError::RefreshTokenRefused {
                    auth_app_id: auth_app_id(),
                },
                true,
            ),
            (
                TokenError::Revoked {
                    auth_app_id: auth_app_id(),
                },
                true,
            ),
            (refused("isv.refresh-token-invalid"), true),
            (refused("isv.app-call-limited"), false),
            (TokenError::Overloaded, false),
            (TokenError::Internal, false),
        ] {
            assert_eq!(has_no_refresh(&error), expected, "{error:?}");
        }
    }
}
