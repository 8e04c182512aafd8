//! Messages that give and take a merchant's authorisation.
//!
//! Protocol: 第三方应用授权, “授权通知”; 小程序插件, “插件订购消息”.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::protocol::{
    error::ProtocolError,
    loose::{self, Loose},
    params::{Params, name},
    secret::Secret,
};

/// Tells of a merchant's authorisation (`open_app_auth_notify`, `execute_auth`).
///
/// Durations are seconds, and by now only history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationPush {
    /// The app that was authorised, ISV application or plugin: `detail.app_id`, else the receiver.
    pub app_id: String,
    /// The merchant's app: the one in `detail`, else the one at the top level.
    pub auth_app_id: String,
    /// What calls on the merchant's behalf carry.
    pub app_auth_token: Secret<String>,
    /// What a refresh needs.
    pub app_refresh_token: Option<Secret<String>>,
    /// When the merchant agreed, in milliseconds since 1970. Only a newer one may replace another.
    pub auth_time: Option<i64>,
    /// The merchant (PID).
    pub user_id: Option<String>,
    /// The third-party application that owns the plugin.
    pub agent_app_id: Option<String>,
    /// A plugin was ordered: there is an `agent_app_id`.
    pub is_plugin: bool,
    /// What led to it, such as `appstore`.
    pub trigger: Option<String>,
    /// The JSON text of `error`, where it says anything.
    pub error: Option<String>,
    /// Deprecated life of the token.
    pub expires_in: Option<u64>,
    /// Deprecated life of the refresh token.
    pub re_expires_in: Option<u64>,
    /// `version` is missing, empty or `1.0`. Of any other the token must not be stored.
    pub version_supported: bool,
}

impl AuthorizationPush {
    pub(super) fn read(params: &Params) -> Result<Self, ProtocolError> {
        let biz_content = params.get(name::BIZ_CONTENT).unwrap_or_default();
        let content: Content<'_> = loose::object(biz_content)
            .ok_or_else(|| invalid("it isn't the documented JSON object"))?;
        let detail: Detail = content
            .detail
            .and_then(|detail| loose::object(detail.get()))
            .ok_or_else(|| invalid("it has no usable `detail`"))?;
        let required = |inside: Loose, name: &str| {
            let top = || params.get(name).filter(|value| !value.is_empty());
            inside
                .into_text()
                .or_else(|| top().map(str::to_owned))
                .ok_or_else(|| invalid(&format!("it has no `{name}`")))
        };
        let token = detail.app_auth_token.into_text();
        let agent_app_id = detail.agent_app_id.into_text();
        Ok(Self {
            app_id: required(detail.app_id, name::APP_ID)?,
            auth_app_id: required(detail.auth_app_id, name::AUTH_APP_ID)?,
            app_auth_token: Secret::new(
                token.ok_or_else(|| invalid("its `detail` has no `app_auth_token`"))?,
            ),
            app_refresh_token: detail.app_refresh_token.into_text().map(Secret::new),
            auth_time: detail.auth_time.number(),
            user_id: detail.user_id.into_text(),
            is_plugin: agent_app_id.is_some(),
            agent_app_id,
            trigger: content.notify_context.and_then(trigger),
            error: content.error.and_then(error_text),
            expires_in: detail.expires_in.number(),
            re_expires_in: detail.re_expires_in.number(),
            version_supported: matches!(params.get(name::VERSION), None | Some("" | "1.0")),
        })
    }
}

/// Tells of a merchant's cancellation (`alipay.open.auth.appauth.cancelled`).
///
/// The members of its `biz_content` aren't documented, so each is read where it is likely to
/// stand and nothing is guessed: without `auth_app_id` nothing may be revoked by app.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cancellation {
    /// The merchant's app: in `biz_content`, else at the top level.
    pub auth_app_id: Option<String>,
    /// The merchant (PID).
    pub user_id: Option<String>,
    /// When it happened: the `auth_time` in `biz_content`, milliseconds since 1970.
    pub at: Option<i64>,
    /// When the message was sent, possibly not for the first time: its `utc_timestamp`, milliseconds
    /// since 1970. It happened no later, and maybe long before.
    pub sent_at: Option<i64>,
}

impl Cancellation {
    pub(super) fn read(params: &Params) -> Self {
        let top = |name| params.get(name).filter(|value| !value.is_empty());
        let inside: Common =
            loose::object(top(name::BIZ_CONTENT).unwrap_or_default()).unwrap_or_default();
        let text =
            |inside: Loose, name| inside.into_text().or_else(|| top(name).map(str::to_owned));
        Self {
            at: inside.auth_time.number(),
            sent_at: sent_at(params),
            auth_app_id: text(inside.auth_app_id, name::AUTH_APP_ID),
            user_id: text(inside.user_id, "user_id"),
        }
    }
}

/// Tells which user's authorisation ended (`alipay.open.auth.userauth.cancelled`).
///
/// The members of its `biz_content` aren't documented; as with [`Cancellation`], nothing is guessed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserCancellation {
    /// The merchant's app that the user had logged in to: in `biz_content`, else at the top level.
    pub auth_app_id: Option<String>,
    /// The user's id at Alipay.
    pub user_id: Option<String>,
    /// The user's id for the application.
    pub open_id: Option<String>,
    /// When the message was sent, as of [`Cancellation`]: it happened no later.
    pub sent_at: Option<i64>,
}

impl UserCancellation {
    pub(super) fn read(params: &Params) -> Self {
        let top = |name| params.get(name).filter(|value| !value.is_empty());
        let inside: UserNames =
            loose::object(top(name::BIZ_CONTENT).unwrap_or_default()).unwrap_or_default();
        let text =
            |inside: Loose, name| inside.into_text().or_else(|| top(name).map(str::to_owned));
        Self {
            auth_app_id: text(inside.auth_app_id, name::AUTH_APP_ID),
            user_id: text(inside.user_id, "user_id"),
            open_id: text(inside.open_id, "open_id"),
            sent_at: sent_at(params),
        }
    }
}

/// When a message says that it was sent, milliseconds since 1970.
fn sent_at(params: &Params) -> Option<i64> {
    params.get(name::UTC_TIMESTAMP)?.trim().parse().ok()
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct UserNames {
    auth_app_id: Loose,
    open_id: Loose,
    user_id: Loose,
}

/// What a `biz_content` may say at its top level.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Common {
    pub(super) auth_app_id: Loose,
    auth_time: Loose,
    pub(super) out_trade_no: Loose,
    user_id: Loose,
}

/// Finds `detail.auth_app_id`.
pub(super) fn detail_auth_app_id(biz_content: &str) -> Option<String> {
    let content: Content<'_> = loose::object(biz_content)?;
    loose::object::<Detail>(content.detail?.get())?
        .auth_app_id
        .into_text()
}

#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow)]
    detail: Option<&'a RawValue>,
    #[serde(borrow)]
    notify_context: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Detail {
    agent_app_id: Loose,
    app_auth_token: Loose,
    app_id: Loose,
    app_refresh_token: Loose,
    auth_app_id: Loose,
    auth_time: Loose,
    expires_in: Loose,
    re_expires_in: Loose,
    user_id: Loose,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Context {
    trigger: Loose,
}

fn trigger(context: &RawValue) -> Option<String> {
    let context: Context = loose::object(context.get())?;
    context.trigger.into_text()
}

fn error_text(error: &RawValue) -> Option<String> {
    let compact: String = error.get().split_whitespace().collect();
    let says_something = !matches!(compact.as_str(), "{}" | "null" | "\"\"" | "[]");
    says_something.then(|| error.get().to_owned())
}

fn invalid(reason: &str) -> ProtocolError {
    ProtocolError::AuthorizationInvalid {
        reason: reason.to_owned(),
    }
}
