//! What can go wrong with a merchant's token, and whose fault it is.

use std::sync::Arc;

use crate::gateway::error::{GatewayError, Outcome};
use crate::protocol::error::ProtocolError;
use crate::store::error::StoreError;
use crate::token::refused_code;

/// A token wasn't exchanged, refreshed or asked about. Cheap to clone: all who asked together
/// get the same.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// The merchant's app isn't among those that can sign.
    #[error(
        "app {app_id} of the merchant is not configured, and its keys are needed to sign; add it as an `[[app]]`, or by `app add`"
    )]
    AppUnknown {
        /// Which.
        app_id: String,
    },
    /// The code can't be one: Alipay isn't asked.
    #[error("the app_auth_code has {found} characters; expected 1 to {most} visible ASCII ones")]
    CodeInvalid {
        /// How many it has.
        found: usize,
        /// How many it may have.
        most: usize,
    },
    /// There was no verified reply.
    #[error("alipay.open.auth.token.app gave no usable reply (outcome {})", .0.outcome().as_str())]
    Gateway(#[source] Arc<GatewayError>),
    /// A bug ended the work.
    #[error("the work was given up because of a bug in it; whether Alipay acted is unknown")]
    Internal,
    /// There is nothing to refresh with.
    #[error("merchant {auth_app_id} has no app_refresh_token; let it authorise again")]
    NoRefreshToken {
        /// Which.
        auth_app_id: String,
    },
    /// As many codes as may be are being exchanged.
    #[error("too many codes are being exchanged; try again in a while")]
    Overloaded,
    /// Alipay said no, and signed it: nothing was executed.
    #[error(
        "Alipay refused: {sub_code} ({code}); an app_auth_code is good for one exchange within 24 h"
    )]
    Refused {
        /// Alipay's `code`.
        code: String,
        /// Alipay's `sub_code`, empty where there is none.
        sub_code: String,
    },
    /// Alipay has refused the refresh token before: it isn't asked again.
    #[error(
        "Alipay has refused the app_refresh_token of merchant {auth_app_id}; let it authorise again, or import a new pair"
    )]
    RefreshTokenRefused {
        /// Which.
        auth_app_id: String,
    },
    /// The merchant was removed meanwhile: nothing is bought for it, and what was isn't stored.
    #[error("merchant {auth_app_id} was removed, so its token is not refreshed")]
    Removed {
        /// Which.
        auth_app_id: String,
        /// Whether Alipay had given a new pair by then.
        bought: bool,
    },
    /// Alipay's reply was signed, and can't be read.
    #[error("Alipay's reply can't be used")]
    Reply(#[source] ProtocolError),
    /// The merchant has cancelled: nothing is refreshed for calls.
    #[error("merchant {auth_app_id} has cancelled; it must authorise again")]
    Revoked {
        /// Which.
        auth_app_id: String,
    },
    /// The store couldn't be read or written.
    #[error("the token could not be stored")]
    Store(#[source] Arc<StoreError>),
    /// Tokens were bought, and the store doesn't take them yet.
    #[error(
        "Alipay gave new tokens, and the store doesn't take them yet; they are kept in memory and \
         stored as soon as that can be: do not stop the sidecar, and see to its disk"
    )]
    Unstored,
    /// The store takes no writes: nothing is spent that couldn't be stored.
    #[error(
        "the store takes no writes at present, or its disk is full, so nothing was sent; see to its disk"
    )]
    Unwritable,
    /// Alipay answered with a fault of its own, or with an error it didn't sign.
    #[error("Alipay could not answer: {sub_code} ({code}); whether it acted is unknown")]
    Unavailable {
        /// Alipay's `code`.
        code: String,
        /// Alipay's `sub_code`, empty where there is none.
        sub_code: String,
    },
}

impl TokenError {
    /// The fixed word for replies, logs and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AppUnknown { .. } => "app-unknown",
            Self::CodeInvalid { .. } => "parameter-invalid",
            Self::Gateway(error) => error.kind(),
            Self::Internal => "internal",
            Self::NoRefreshToken { .. }
            | Self::RefreshTokenRefused { .. }
            | Self::Refused { .. }
            | Self::Revoked { .. } => "token-refused",
            Self::Removed { .. } => "merchant-unknown",
            Self::Overloaded => "overloaded",
            Self::Reply(_) | Self::Unavailable { .. } => "upstream-invalid",
            Self::Store(error) if matches!(**error, StoreError::TokenConflict { .. }) => {
                "token-conflict"
            }
            Self::Store(_) | Self::Unstored | Self::Unwritable => "store-unavailable",
        }
    }

    /// Whether Alipay may have acted. Where it did for certain (a reply that couldn't be read or
    /// stored), the outcome counts as unknown, too: the caller doesn't have the token.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::AppUnknown { .. }
            | Self::CodeInvalid { .. }
            | Self::NoRefreshToken { .. }
            | Self::Overloaded
            | Self::RefreshTokenRefused { .. }
            | Self::Refused { .. }
            | Self::Removed { bought: false, .. }
            | Self::Revoked { .. }
            | Self::Unwritable => Outcome::NotSent,
            Self::Gateway(error) => error.outcome(),
            Self::Internal
            | Self::Removed { bought: true, .. }
            | Self::Reply(_)
            | Self::Store(_)
            | Self::Unavailable { .. }
            | Self::Unstored => Outcome::Unknown,
        }
    }

    /// Whether the code or token itself is bad, so that asking again is no use.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Self::CodeInvalid { .. }
                | Self::NoRefreshToken { .. }
                | Self::RefreshTokenRefused { .. }
                | Self::Refused { .. }
                | Self::Revoked { .. }
        )
    }

    /// Whether an exchange failed because of what was to be exchanged, as far as can be told: Alipay
    /// refuses good codes, too, such as those of an app that has called too often.
    #[must_use]
    pub fn may_be_about_code(&self) -> bool {
        match self {
            Self::CodeInvalid { .. } => true,
            Self::Refused { code, sub_code } => refused_code::may_be_about_code(code, sub_code),
            _ => false,
        }
    }
}

impl From<GatewayError> for TokenError {
    fn from(error: GatewayError) -> Self {
        Self::Gateway(Arc::new(error))
    }
}

impl From<StoreError> for TokenError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}
