//! The calls to Alipay that tokens are about, always made as the ISV itself.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::gateway::VerifiedReply;
use crate::gateway::app::SigningApp;
use crate::gateway::metrics::Api;
use crate::gateway::v2::{Encryption, V2Call};
use crate::model::id::AppId;
use crate::model::merchant::Merchant;
use crate::protocol::charset::CharsetLabel;
use crate::protocol::encryption::ContentKey;
use crate::protocol::envelope::Verification;
use crate::protocol::error::ProtocolError;
use crate::protocol::params::{Params, name};
use crate::protocol::secret::Secret;
use crate::protocol::token_description::{self, TokenDescription};
use crate::protocol::token_reply::{self, GrantedToken};
use crate::telemetry::span::Span;
use crate::token::doubt::TokenVerdict;
use crate::token::error::TokenError;
use crate::token::spent::SpentForm;
use crate::token::{TOKEN_METHOD, TokenParts};

/// Alipay's name of the method that tells a merchant's AES key; itself an encrypted call.
const KEY_METHOD: &str = "alipay.open.auth.app.aes.get";
pub(super) const QUERY_METHOD: &str = "alipay.open.auth.token.app.query";
/// Alipay's `code` of a call that was executed.
const SUCCESS: &str = "10000";
/// Alipay's `code` of a fault of its own.
const UNAVAILABLE: &str = "20000";

/// Whether a token holds, as Alipay says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenStatus {
    /// The merchant cancelled, or the token ended.
    Invalid,
    /// Calls with it go through.
    Valid,
}

/// What buys a pair of tokens. Serialised, it is the `biz_content`.
#[derive(Serialize)]
#[serde(tag = "grant_type", rename_all = "snake_case")]
pub(super) enum Grant<'a> {
    AuthorizationCode { code: &'a str },
    RefreshToken { refresh_token: &'a str },
}

#[derive(Serialize)]
struct Query<'a> {
    app_auth_token: &'a str,
}

#[derive(Serialize)]
struct KeyQuery<'a> {
    merchant_app_id: &'a str,
}

#[derive(Deserialize)]
struct Keyed {
    aes_key: String,
}

/// Buys tokens.
pub(super) async fn buy(
    parts: &TokenParts,
    app: &Arc<SigningApp>,
    grant: &Grant<'_>,
) -> Result<Bought, TokenError> {
    let content = biz_content(grant);
    let call = v2_call(parts, app, TOKEN_METHOD, &content);
    let form = SpentForm::v2(&call);
    let reply = executed(parts, &call).await?;
    Ok(Bought { reply, form })
}

/// A verified reply that hands out tokens, and in which form it was asked for.
pub(super) struct Bought {
    pub(super) reply: VerifiedReply,
    pub(super) form: SpentForm,
}

impl Bought {
    pub(super) fn granted(&self) -> Result<Vec<GrantedToken>, TokenError> {
        let node = self.reply.envelope.node_text();
        token_reply::parse(node.as_bytes()).map_err(TokenError::Reply)
    }
}

pub(super) async fn query(
    parts: &TokenParts,
    merchant: &Merchant,
) -> Result<TokenStatus, TokenError> {
    let app = app(parts, &merchant.app_id)?;
    let (status, _) = describe(parts, &app, &merchant.token.app_auth_token).await?;
    Ok(status)
}

/// Asks Alipay, as `app`, about a token: whether it holds, and all else that it says.
pub(super) async fn describe(
    parts: &TokenParts,
    app: &Arc<SigningApp>,
    token: &Secret<String>,
) -> Result<(TokenStatus, TokenDescription), TokenError> {
    let question = question(parts, app, token.expose());
    let described = match node(parts, &question).await {
        // Alipay refuses to describe a token that it no longer knows.
        Err(TokenError::Refused { sub_code, .. })
            if TokenVerdict::of_sub_code(&sub_code) == Some(TokenVerdict::Invalid) =>
        {
            token_description::parse(br#"{"status":"invalid"}"#)
        }
        node => token_description::parse(&node?),
    };
    let unusable = |reason: &str| {
        TokenError::Reply(ProtocolError::TokenReplyInvalid {
            reason: reason.to_owned(),
        })
    };
    let described = described.ok_or_else(|| unusable("it has no `status`"))?;
    let status = match described.status.as_str() {
        "invalid" => TokenStatus::Invalid,
        "valid" => TokenStatus::Valid,
        _ => return Err(unusable("its `status` is neither `valid` nor `invalid`")),
    };
    Ok((status, described))
}

/// The call that asks, as `app`, about a token.
pub(super) fn question(parts: &TokenParts, app: &Arc<SigningApp>, token: &str) -> V2Call {
    let content = biz_content(&Query {
        app_auth_token: token,
    });
    v2_call(parts, app, QUERY_METHOD, &content)
}

/// Asks for the AES key of the merchant's app, and checks that it is one.
pub(super) async fn content_key(
    parts: &TokenParts,
    merchant: &Merchant,
) -> Result<Secret<String>, TokenError> {
    let app = app(parts, &merchant.app_id)?;
    let content = biz_content(&KeyQuery {
        merchant_app_id: merchant.auth_app_id.as_str(),
    });
    let node = call(parts, &app, KEY_METHOD, &content).await?;
    let unusable = || TokenError::Reply(ProtocolError::KeyReplyInvalid);
    let keyed: Keyed = serde_json::from_slice(&node).map_err(|_| unusable())?;
    let encrypt_key = Secret::new(keyed.aes_key);
    match ContentKey::from_base64(encrypt_key.expose()) {
        Ok(_) => Ok(encrypt_key),
        Err(_) => Err(unusable()),
    }
}

/// The app that signs for `app_id`.
pub(super) fn app(parts: &TokenParts, app_id: &AppId) -> Result<Arc<SigningApp>, TokenError> {
    parts
        .apps
        .get(app_id)
        .ok_or_else(|| TokenError::AppUnknown {
            app_id: app_id.to_string(),
        })
}

pub(super) fn biz_content(content: &impl Serialize) -> Secret<String> {
    Secret::new(serde_json::to_string(content).expect("text members alone can't fail to serialise"))
}

/// Makes a call, and gives the node of an executed one.
pub(super) async fn call(
    parts: &TokenParts,
    app: &Arc<SigningApp>,
    method: &str,
    biz_content: &Secret<String>,
) -> Result<Bytes, TokenError> {
    node(parts, &v2_call(parts, app, method, biz_content)).await
}

/// Makes `call`, and gives the node of an executed one.
async fn node(parts: &TokenParts, call: &V2Call) -> Result<Bytes, TokenError> {
    let reply = executed(parts, call).await?;
    Ok(reply.envelope.node_text().into())
}

fn v2_call(
    parts: &TokenParts,
    app: &Arc<SigningApp>,
    method: &str,
    biz_content: &Secret<String>,
) -> V2Call {
    let mut parameters = Params::new();
    parameters.set(name::BIZ_CONTENT, biz_content.expose().as_str());
    V2Call {
        files: Vec::new(),
        app: Arc::clone(app),
        app_auth_token: None,
        method: method.to_owned(),
        parameters,
        charset: CharsetLabel::default(),
        encryption: Encryption::Ours,
        timeout: parts.timeout,
        api: Api::Internal,
        span: Span::default(),
    }
}

/// Makes a call, and tells an executed one from a refusal and from an Alipay that couldn't say.
///
/// An unsigned error means “outcome unknown”, and so does a fault of Alipay's own.
async fn executed(parts: &TokenParts, call: &V2Call) -> Result<VerifiedReply, TokenError> {
    let reply = parts.gateway.call(call).await?;
    let envelope = &reply.envelope;
    let code = envelope.code().unwrap_or_default().to_owned();
    let sub_code = envelope.sub_code().unwrap_or_default().to_owned();
    match envelope.verification() {
        Verification::Signed if code == SUCCESS => Ok(reply),
        Verification::Signed if code != UNAVAILABLE => Err(TokenError::Refused { code, sub_code }),
        _ => Err(TokenError::Unavailable { code, sub_code }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_is_written_as_alipay_documents_it() {
        assert_eq!(
            biz_content(&Grant::AuthorizationCode { code: "c\"" }).expose(),
            r#"{"grant_type":"authorization_code","code":"c\""}"#
        );
        assert_eq!(
            biz_content(&Grant::RefreshToken { refresh_token: "r" }).expose(),
            r#"{"grant_type":"refresh_token","refresh_token":"r"}"#
        );
    }
}
