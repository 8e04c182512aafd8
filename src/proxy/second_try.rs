//! A call that Alipay refused because of the merchant's token, made once more.
//!
//! A signed refusal of the token says that nothing was executed, so one resend harms nobody: with a
//! refreshed token where it timed out; where it is invalid, with today's if the one that was sent
//! has been replaced meanwhile, or with the one before it if a refresh brought it and it has never
//! worked. Never a second resend, and none with what is revoked.

use std::time::{Duration, Instant};

use crate::gateway::VerifiedReply;
use crate::gateway::v3::VerifiedV3Reply;
use crate::model::merchant::Merchant;
use crate::protocol::envelope::Verification;
use crate::protocol::secret::Secret;
use crate::protocol::v3_response::V3Verification;
use crate::proxy::ProxyParts;
use crate::proxy::error::ProxyError;
use crate::token::{SecondChoice, TokenVerdict};

/// What a reply says of the token that its call was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    /// Nothing.
    Nothing,
    /// It doesn't serve; nothing was executed.
    Refused(TokenVerdict),
    /// It holds: the call succeeded.
    Worked,
}

/// A verified reply of either dialect.
pub(super) trait SaysOfToken {
    fn says_of_token(&self) -> Said;
}

impl SaysOfToken for VerifiedReply {
    fn says_of_token(&self) -> Said {
        let envelope = &self.envelope;
        if envelope.verification() != Verification::Signed || envelope.is_ciphertext() {
            return Said::Nothing;
        }
        let refused = envelope.sub_code().and_then(TokenVerdict::of_sub_code);
        match (refused, envelope.code()) {
            (Some(verdict), _) => Said::Refused(verdict),
            // 10003: a payment waits for its customer. `alipay.system.oauth.token` has no code.
            (None, None | Some("10000" | "10003")) => Said::Worked,
            _ => Said::Nothing,
        }
    }
}

impl SaysOfToken for VerifiedV3Reply {
    fn says_of_token(&self) -> Said {
        if self.response.verification() != V3Verification::Signed {
            return Said::Nothing;
        }
        let code = self.response.code();
        let refused = code.as_deref().and_then(TokenVerdict::of_code);
        match refused {
            Some(verdict) => Said::Refused(verdict),
            None if self.response.is_error() => Said::Nothing,
            None => Said::Worked,
        }
    }
}

/// A call that was made, and the time it has.
pub(super) struct Made<'a> {
    pub(super) parts: &'a ProxyParts,
    pub(super) merchant: &'a Merchant,
    pub(super) timeout: Duration,
    pub(super) began: Instant,
}

impl Made<'_> {
    fn remaining(&self) -> Duration {
        self.timeout.saturating_sub(self.began.elapsed())
    }

    /// Draws what `reply` says of the token: gives it, or that of the one resend it calls for.
    ///
    /// # Errors
    /// Those of the resend.
    pub(super) async fn settle<R, F>(
        &self,
        reply: R,
        resend: impl FnOnce(Secret<String>, Duration) -> F,
    ) -> Result<R, ProxyError>
    where
        R: SaysOfToken,
        F: Future<Output = Result<R, ProxyError>>,
    {
        let tokens = &self.parts.tokens;
        let choice = match reply.says_of_token() {
            Said::Nothing => return Ok(reply),
            Said::Worked => {
                tokens.worked(self.merchant);
                return Ok(reply);
            }
            Said::Refused(TokenVerdict::TimedOut) => self.renewed().await,
            Said::Refused(TokenVerdict::Invalid) => self.another().await,
        };
        match choice {
            Some(choice) if !self.remaining().is_zero() => {
                let again = resend(choice.app_auth_token.clone(), self.remaining()).await?;
                Ok(self.judge(&choice, reply, again))
            }
            _ => Ok(reply),
        }
    }

    /// The merchant with a refreshed token, if that is had in time. A refresh that takes longer
    /// goes on by itself.
    async fn renewed(&self) -> Option<SecondChoice> {
        let auth_app_id = &self.merchant.auth_app_id;
        let renewing = self.parts.tokens.renew(self.merchant);
        match tokio::time::timeout(self.remaining(), renewing).await {
            Ok(Ok(merchant)) => Some(SecondChoice {
                app_auth_token: merchant.token.app_auth_token.clone(),
                merchant,
                is_previous: false,
            }),
            Ok(Err(error)) => {
                tracing::warn!(%error, %auth_app_id, "a timed-out token could not be refreshed");
                None
            }
            Err(_) => {
                tracing::warn!(%auth_app_id, "a timed-out token was not refreshed within the deadline");
                None
            }
        }
    }

    /// Another token than the invalid one; where there is none, the merchant is doubtful.
    async fn another(&self) -> Option<SecondChoice> {
        let choice = self.parts.tokens.second_choice(self.merchant).await;
        let choice = choice.unwrap_or_else(|error| {
            tracing::warn!(%error, "no other token could be looked for");
            None
        });
        if choice.is_none() {
            self.parts.tokens.refused(self.merchant);
        }
        choice
    }

    /// What the resend's reply means, and which of the two goes to the caller: the first, where the
    /// other token was refused, too.
    fn judge<R: SaysOfToken>(&self, choice: &SecondChoice, first: R, again: R) -> R {
        let tokens = &self.parts.tokens;
        match again.says_of_token() {
            Said::Refused(verdict) => {
                if choice.is_previous || verdict == TokenVerdict::Invalid {
                    tokens.refused(&choice.merchant);
                }
                first
            }
            Said::Worked if choice.is_previous => {
                tokens.fell_back(&choice.merchant);
                again
            }
            Said::Worked => {
                tokens.worked(&choice.merchant);
                again
            }
            Said::Nothing => again,
        }
    }
}
