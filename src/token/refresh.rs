//! One pair of tokens is replaced by the next.

use crate::model::authorization::Source;
use crate::model::merchant::Merchant;
use crate::protocol::error::ProtocolError;
use crate::protocol::token_reply;
use crate::store::MerchantKey;
use crate::token::calls::{self, Grant};
use crate::token::error::TokenError;
use crate::token::storing::{self, Found};
use crate::token::turn::Turns;
use crate::token::{ExchangeContext, TokenParts};

/// How a refresh ended well.
#[derive(Debug, Clone)]
pub(super) enum Refreshed {
    /// Somebody else had replaced the token; Alipay wasn't asked.
    Before(Merchant),
    /// Alipay gave a new pair.
    Now(Merchant),
}

impl Refreshed {
    pub(super) fn into_merchant(self) -> Merchant {
        match self {
            Self::Before(merchant) | Self::Now(merchant) => merchant,
        }
    }
}

/// What to count: nothing where Alipay wasn't asked because there was no need.
pub(super) fn asked(result: &Result<Refreshed, TokenError>) -> Option<Result<(), TokenError>> {
    match result {
        Ok(Refreshed::Before(_)) => None,
        Ok(Refreshed::Now(_)) => Some(Ok(())),
        Err(error) => Some(Err(error.clone())),
    }
}

/// Refreshes the pair that `known` had, unless it has been replaced since.
pub(super) async fn run(
    parts: &TokenParts,
    turns: &Turns,
    known: &Merchant,
) -> Result<Refreshed, TokenError> {
    let _turn = match &known.token.app_refresh_token {
        Some(refresh_token) => Some(turns.take(refresh_token).await),
        None => None,
    };
    let key = MerchantKey::Exact(known.app_id.clone(), known.auth_app_id.clone());
    let stored = parts.store.find(key).await?.pop();
    let stored = stored.unwrap_or_else(|| known.clone());
    if stored.token.app_auth_token != known.token.app_auth_token {
        return Ok(Refreshed::Before(stored));
    }
    let Some(refresh_token) = &stored.token.app_refresh_token else {
        return Err(TokenError::NoRefreshToken {
            auth_app_id: stored.auth_app_id.to_string(),
        });
    };
    let app = calls::app(parts, &stored.app_id)?;
    let grant = Grant::RefreshToken {
        refresh_token: refresh_token.expose(),
    };
    let node = calls::buy(parts, &app, &grant).await?;
    let granted = token_reply::parse(node.expose()).map_err(TokenError::Reply)?;
    let context = ExchangeContext {
        reference: None,
        bound: true,
    };
    let found = Found {
        app_id: &stored.app_id,
        source: Source::Refresh,
        context: &context,
    };
    let merchants = storing::store(parts, &found, granted, None).await?;
    merchants
        .into_iter()
        .find(|m| m.auth_app_id == stored.auth_app_id)
        .map(Refreshed::Now)
        .ok_or_else(|| {
            TokenError::Reply(ProtocolError::TokenReplyInvalid {
                reason: "it has no token for the merchant that was refreshed".to_owned(),
            })
        })
}
