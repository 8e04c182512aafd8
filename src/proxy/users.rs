//! `Alipay-User`: the user's access token, put into a call as `auth_token`.

use std::time::Instant;

use http::HeaderMap;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::gateway::VerifiedReply;
use crate::gateway::error::Outcome;
use crate::gateway::v2::V2Call;
use crate::gateway::v3::{V3Body, V3Call, VerifiedV3Reply};
use crate::model::merchant::Merchant;
use crate::model::user_token::{UserKey, UserName, UserToken};
use crate::protocol::charset::Charset;
use crate::protocol::envelope::Verification;
use crate::protocol::params::{Params, name};
use crate::protocol::v3_response::V3Verification;
use crate::proxy::error::{ErrorCode, ProxyError};
use crate::proxy::resolve::Credentials;
use crate::proxy::{ProxyParts, second_try};
use crate::token::users::{USER_TOKEN_METHOD, UserTokenError};
use crate::token::{TOKEN_METHOD, TokenVerdict};

/// What Alipay says, signed, of the user's token; nothing was executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It never was one, or the user cancelled.
    Invalid,
    /// It has ended.
    TimedOut,
}

impl Refusal {
    pub(super) fn of(reply: &VerifiedReply) -> Option<Self> {
        let is_signed = reply.envelope.verification() == Verification::Signed;
        match reply.envelope.sub_code().filter(|_| is_signed)? {
            "aop.auth-token-time-out" => Some(Self::TimedOut),
            "aop.invalid-auth-token" => Some(Self::Invalid),
            _ => None,
        }
    }

    pub(super) fn of_v3(reply: &VerifiedV3Reply) -> Option<Self> {
        let is_signed = reply.response.verification() == V3Verification::Signed;
        let code = reply.code().filter(|_| is_signed)?;
        // The exact spelling isn't documented.
        let is_about_user = code.contains("auth-token") && !code.contains("app-auth-token");
        // As of a merchant's token: it holds, but not for this method.
        let is_about_user = is_about_user && !code.contains("no-api");
        match code {
            _ if !is_about_user => None,
            code if code.contains("time") => Some(Self::TimedOut),
            code if code.contains("invalid") => Some(Self::Invalid),
            _ => None,
        }
    }
}

/// Refuses `Alipay-User` where nothing is sent: whoever got the result would hold the token.
pub(super) fn refuse_unsent(user: Option<&str>) -> Result<(), ProxyError> {
    match user {
        None => Ok(()),
        Some(_) => Err(invalid(
            "`Alipay-User` is for calls that are sent: what is signed for others would hold the \
             user's token",
        )),
    }
}

/// Refuses `Alipay-User` on a route that carries no user's token to Alipay: whoever sent it took the
/// route for another.
pub(super) fn refuse_where_unused(headers: &HeaderMap) -> Result<(), ProxyError> {
    match headers.contains_key("alipay-user") {
        false => Ok(()),
        true => Err(invalid(
            "`Alipay-User` means nothing on this route; it is for calls to Alipay: `/gateway.do`, \
             `/v2/{method}` and `/v3/…`",
        )),
    }
}

/// The token of the user that the request names, refreshed where it is due; within the deadline of
/// the call, which isn't sent yet.
pub(super) async fn token(
    parts: &ProxyParts,
    method: &str,
    (user, known): (Option<&str>, &Credentials),
    until: Instant,
) -> Result<Option<UserToken>, ProxyError> {
    let Some(user) = user else {
        return Ok(None);
    };
    let name = name(parts, method, user)?;
    let key = UserKey {
        app_id: known.app.app_id.clone(),
        auth_app_id: known.merchant.as_ref().map(|m| m.auth_app_id.clone()),
        name,
    };
    let left = until.saturating_duration_since(Instant::now());
    let finding = Box::pin(current(parts, key, known, until));
    let found = tokio::time::timeout(left, finding).await;
    let late = |_| {
        let detail = "the user's token is due, and was not refreshed within the deadline";
        ProxyError::refused(ErrorCode::UpstreamTimeout, detail)
    };
    found.map_err(late)?.map(Some)
}

/// The same; where it is the merchant's own token that doesn't serve, once more with another.
async fn current(
    parts: &ProxyParts,
    key: UserKey,
    known: &Credentials,
    until: Instant,
) -> Result<UserToken, ProxyError> {
    let users = parts.tokens.users();
    let merchant = known.merchant.as_deref();
    let first = users.current(key.clone(), merchant).await;
    let (Err(UserTokenError::Rejected { sub_code, .. }), Some(merchant)) = (&first, merchant)
    else {
        return first.map_err(Into::into);
    };
    let Some(verdict) = TokenVerdict::of_sub_code(sub_code) else {
        return first.map_err(Into::into);
    };
    match second_try::other_token(parts, merchant, verdict, until).await {
        Some(choice) => Ok(users.current(key, Some(&choice.as_sent())).await?),
        None => first.map_err(Into::into),
    }
}

/// The token that takes the place of one that Alipay refused, if there is one within the deadline.
pub(super) async fn replacement(
    parts: &ProxyParts,
    (used, refusal): (&UserToken, Refusal),
    merchant: Option<&Merchant>,
    until: Instant,
) -> Option<UserToken> {
    let users = parts.tokens.users();
    let renewing = async {
        match refusal {
            Refusal::Invalid => users.replaced(used).await,
            Refusal::TimedOut => users.renewed(used, merchant).await,
        }
    };
    let left = until.saturating_duration_since(Instant::now());
    let app_id = &used.app_id;
    match tokio::time::timeout(left, renewing).await {
        Ok(Ok(token)) => Some(token).filter(|_| Instant::now() < until),
        Ok(Err(error)) => {
            tracing::warn!(%error, %app_id, "Alipay refused a user's token, and there is no other");
            None
        }
        Err(_) => {
            tracing::warn!(%app_id, "a user's token that Alipay refused was not replaced within the deadline");
            None
        }
    }
}

/// Puts the token into a call.
///
/// # Errors
/// `parameter-duplicate`: the caller gave one, too.
pub(super) fn inject(v2: &mut V2Call, token: &UserToken) -> Result<(), ProxyError> {
    let is_token = |(name, _): (&str, &str)| name.eq_ignore_ascii_case(name::AUTH_TOKEN);
    if v2.parameters.iter().any(is_token) {
        return Err(given_twice());
    }
    let access_token = token.access_token.expose().as_str();
    v2.parameters.set(name::AUTH_TOKEN, access_token);
    Ok(())
}

/// Puts the token into the query of a v3 call, where Alipay's SDKs put it.
///
/// # Errors
/// `parameter-duplicate`: the caller gave one, in the query or in the body.
pub(super) fn inject_v3(v3: &mut V3Call, token: &UserToken) -> Result<(), ProxyError> {
    let query = v3.target.split_once('?').map_or("", |(_, query)| query);
    let body: &[u8] = match &v3.body {
        V3Body::Plain(body) => body,
        V3Body::Upload { data, .. } => data.as_bytes(),
    };
    if names_token(query) || holds_token(body) {
        return Err(given_twice());
    }
    let mut parameter = Params::new();
    parameter.set(name::AUTH_TOKEN, token.access_token.expose().as_str());
    let parameter = parameter.to_form(Charset::Utf8)?;
    let joint = match v3.target.contains('?') {
        true if query.is_empty() || query.ends_with('&') => "",
        true => "&",
        false => "?",
    };
    v3.target = format!("{}{joint}{parameter}", v3.target);
    Ok(())
}

/// A query of v3 goes on as it came, so it is read as whoever reads it most leniently would.
fn names_token(query: &str) -> bool {
    query.split('&').any(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        let read = Params::from_form(format!("{name}=").as_bytes(), Charset::Utf8);
        let is_token = |(name, _): (&str, &str)| name.eq_ignore_ascii_case(name::AUTH_TOKEN);
        read.is_ok_and(|read| read.iter().any(is_token))
    })
}

fn holds_token(body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Holding {
        #[serde(rename = "auth_token")]
        _auth_token: IgnoredAny,
    }
    serde_json::from_slice::<Holding>(body).is_ok()
}

fn name(parts: &ProxyParts, method: &str, user: &str) -> Result<UserName, ProxyError> {
    if !parts.tokens.users().are_kept() {
        return Err(invalid(
            "`Alipay-User` needs `tokens.remember_users = true`; without it, send `auth_token`",
        ));
    }
    if matches!(method, TOKEN_METHOD | USER_TOKEN_METHOD) {
        return Err(invalid(
            "a call that buys tokens is made without one; leave `Alipay-User` out",
        ));
    }
    UserName::new(user)
        .ok_or_else(|| invalid("`Alipay-User` is a user_id or an open_id, 1 to 128 visible ASCII"))
}

fn given_twice() -> ProxyError {
    ProxyError::refused(
        ErrorCode::ParameterDuplicate,
        "`Alipay-User` stands beside an `auth_token`; send one of them",
    )
}

fn invalid(detail: &str) -> ProxyError {
    ProxyError::refused(ErrorCode::ParameterInvalid, detail)
}

impl From<UserTokenError> for ProxyError {
    /// Whatever became of a refresh, the call itself was not sent.
    fn from(error: UserTokenError) -> Self {
        let code = match &error {
            UserTokenError::Rejected { .. } => ErrorCode::UpstreamInvalid,
            UserTokenError::Store(_) => ErrorCode::StoreUnavailable,
            UserTokenError::Unsent(error) => Self::of_query(false, error).code,
            UserTokenError::Expired
            | UserTokenError::Lost
            | UserTokenError::Refused { .. }
            | UserTokenError::Unknown => ErrorCode::TokenUnknown,
            _ => ErrorCode::Internal,
        };
        Self {
            outcome: Outcome::NotSent,
            retryable: matches!(code, ErrorCode::Overloaded | ErrorCode::UpstreamUnreachable),
            ..Self::refused(code, error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_in_a_query_or_a_body_is_seen_however_it_is_written() {
        for query in [
            "auth_token=1",
            "a=b&auth_token",
            "AUTH_token=1",
            "auth%5Ftoken=1",
            "a&&auth_token=",
        ] {
            assert!(names_token(query), "{query}");
        }
        for query in [
            "",
            "a=auth_token",
            "app_auth_token=1",
            "auth_token_=1",
            "%zz=1",
        ] {
            assert!(!names_token(query), "{query}");
        }
        assert!(holds_token(br#"{"a":1,"auth_token":null}"#));
        for body in ["", "{}", r#"{"a":{"auth_token":"1"}}"#, "auth_token"] {
            assert!(!holds_token(body.as_bytes()), "{body}");
        }
    }
}
