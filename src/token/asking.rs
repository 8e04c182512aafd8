//! What an operator has Alipay asked about authorisations, always as the ISV itself: what a token
//! is, an invitation, a subscription.

use std::sync::Arc;

use serde::Serialize;

use crate::gateway::app::SigningApp;
use crate::gateway::error::{GatewayError, Outcome};
use crate::model::id::{AppId, AuthAppId};
use crate::model::merchant::Merchant;
use crate::protocol::error::ProtocolError;
use crate::protocol::secret::Secret;
use crate::protocol::token_description::TokenDescription;
use crate::token::calls::{self, QUERY_METHOD};
use crate::token::error::TokenError;
use crate::token::{TokenParts, TokenStatus, Tokens};

/// Alipay's name of the method that asks a merchant again to authorise.
const INVITE_METHOD: &str = "alipay.open.auth.appauth.invite.create";
/// Alipay's name of the method that subscribes to a kind of message.
const SUBSCRIBE_METHOD: &str = "alipay.open.app.message.topic.subscribe";

/// Alipay didn't do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// The app isn't among those that can sign.
    #[error(
        "app {app_id} is not configured, and its keys are needed to sign; add it as an `[[app]]`, or by `app add`"
    )]
    AppUnknown {
        /// Which.
        app_id: String,
    },
    /// There was no verified reply.
    #[error("{method} gave no usable reply: {source}")]
    Gateway {
        /// What was called.
        method: &'static str,
        /// Why.
        source: Arc<GatewayError>,
    },
    /// Alipay said no, and signed it.
    #[error("Alipay refused {method}: {sub_code} ({code})")]
    Refused {
        /// What was called.
        method: &'static str,
        /// Alipay's `code`.
        code: String,
        /// Alipay's `sub_code`, empty where there is none.
        sub_code: String,
    },
    /// Alipay's reply was signed, and can't be used.
    #[error("Alipay's reply to {method} can't be used: {reason}")]
    Reply {
        /// What was called.
        method: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Alipay answered with a fault of its own, or with an error it didn't sign.
    #[error("Alipay could not answer {method}: {sub_code} ({code}); ask again")]
    Unavailable {
        /// What was called.
        method: &'static str,
        /// Alipay's `code`.
        code: String,
        /// Alipay's `sub_code`, empty where there is none.
        sub_code: String,
    },
}

impl AskError {
    pub(super) fn of(method: &'static str, error: TokenError) -> Self {
        match error {
            TokenError::AppUnknown { app_id } => Self::AppUnknown { app_id },
            TokenError::Gateway(source) => Self::Gateway { method, source },
            TokenError::Refused { code, sub_code } => Self::Refused {
                method,
                code,
                sub_code,
            },
            TokenError::Unavailable { code, sub_code } => Self::Unavailable {
                method,
                code,
                sub_code,
            },
            TokenError::Reply(ProtocolError::TokenReplyInvalid { reason }) => {
                Self::reply(method, reason)
            }
            other => Self::reply(method, other.to_string()),
        }
    }

    fn reply(method: &'static str, reason: impl Into<String>) -> Self {
        Self::Reply {
            method,
            reason: reason.into(),
        }
    }

    /// The fixed word for replies and reports.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AppUnknown { .. } => "app-unknown",
            Self::Gateway { source, .. } => source.kind(),
            Self::Refused { .. } => "alipay-refused",
            Self::Reply { .. } | Self::Unavailable { .. } => "upstream-invalid",
        }
    }

    /// Whether Alipay may have acted.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::AppUnknown { .. } | Self::Refused { .. } => Outcome::NotSent,
            Self::Gateway { source, .. } => source.outcome(),
            Self::Reply { .. } | Self::Unavailable { .. } => Outcome::Unknown,
        }
    }
}

impl Tokens {
    /// All that Alipay says of the merchant's token.
    ///
    /// # Errors
    /// [`AskError`] when Alipay couldn't be asked or refused to say.
    ///
    /// # Cancel safety
    /// Safe: a query changes nothing.
    pub async fn describe(&self, merchant: &Merchant) -> Result<TokenDescription, AskError> {
        let token = &merchant.token.app_auth_token;
        let (_, described) = describe(&self.parts, &merchant.app_id, token).await?;
        Ok(described)
    }

    /// Asks a merchant again to authorise (`alipay.open.auth.appauth.invite.create`); gives the
    /// page to send it to. `way_back` is the `redirect_url` and the `state`.
    ///
    /// # Errors
    /// [`AskError`].
    ///
    /// # Cancel safety
    /// Not known: Alipay may have made an invitation that nobody hears of. It binds nobody.
    pub async fn invite(
        &self,
        app: &Arc<SigningApp>,
        auth_app_id: &AuthAppId,
        way_back: (&str, &str),
    ) -> Result<String, AskError> {
        invite(&self.parts, app, auth_app_id, way_back).await
    }

    /// Has messages of `topic` sent to the app gateway
    /// (`alipay.open.app.message.topic.subscribe`): the app's own ones, or those about a merchant.
    ///
    /// # Errors
    /// [`AskError`].
    ///
    /// # Cancel safety
    /// Subscribing again does no harm.
    pub async fn subscribe(
        &self,
        app: &Arc<SigningApp>,
        topic: &str,
        merchant: Option<&Merchant>,
    ) -> Result<(), AskError> {
        let token = merchant.map(|merchant| &merchant.token.app_auth_token);
        subscribe(&self.parts, app, topic, token).await
    }
}

#[derive(Serialize)]
struct Invitation<'a> {
    auth_app_id: &'a str,
    redirect_url: &'a str,
    state: &'a str,
}

#[derive(serde::Deserialize)]
struct Invited {
    task_page_url: String,
}

/// Protocol: alipay.open.app.message.topic.subscribe(订阅消息主题). Without `auth_type` and
/// `auth_token` it is about the app's own messages.
#[derive(Serialize)]
struct Subscription<'a> {
    topic: &'a str,
    comm_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_token: Option<&'a str>,
}

/// What Alipay says of the token `app_auth_token` of the app `app_id`.
pub(super) async fn describe(
    parts: &TokenParts,
    app_id: &AppId,
    app_auth_token: &Secret<String>,
) -> Result<(TokenStatus, TokenDescription), AskError> {
    let failed = |error| AskError::of(QUERY_METHOD, error);
    let app = calls::app(parts, app_id).map_err(failed)?;
    let described = calls::describe(parts, &app, app_auth_token).await;
    described.map_err(failed)
}

/// The page on which the merchant authorises again.
pub(super) async fn invite(
    parts: &TokenParts,
    app: &Arc<SigningApp>,
    auth_app_id: &AuthAppId,
    (redirect_url, state): (&str, &str),
) -> Result<String, AskError> {
    let content = calls::biz_content(&Invitation {
        auth_app_id: auth_app_id.as_str(),
        redirect_url,
        state,
    });
    let node = calls::call(parts, app, INVITE_METHOD, &content).await;
    let node = node.map_err(|error| AskError::of(INVITE_METHOD, error))?;
    let invited: Option<Invited> = serde_json::from_slice(&node).ok();
    let url = invited.map(|invited| invited.task_page_url);
    // The operator sends it on to a merchant: nothing but a link may stand there.
    let is_link = |url: &String| {
        let known = ["https://", "http://", "alipays://"];
        known.iter().any(|scheme| url.starts_with(scheme))
            && url.bytes().all(|byte| byte.is_ascii_graphic())
    };
    let missing = || AskError::reply(INVITE_METHOD, "its `task_page_url` is no link");
    url.filter(is_link).ok_or_else(missing)
}

/// Has messages of `topic` sent to the app gateway: the app's own ones, or those about the merchant
/// whose token is given.
pub(super) async fn subscribe(
    parts: &TokenParts,
    app: &Arc<SigningApp>,
    topic: &str,
    app_auth_token: Option<&Secret<String>>,
) -> Result<(), AskError> {
    let content = calls::biz_content(&Subscription {
        topic,
        comm_type: "HTTP",
        auth_type: app_auth_token.map(|_| "app_auth"),
        auth_token: app_auth_token.map(|token| token.expose().as_str()),
    });
    let called = calls::call(parts, app, SUBSCRIBE_METHOD, &content).await;
    let failed = |error| AskError::of(SUBSCRIBE_METHOD, error);
    called.map(drop).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_written_as_alipay_documents_them() {
        let own = Subscription {
            topic: "t",
            comm_type: "HTTP",
            auth_type: None,
            auth_token: None,
        };
        assert_eq!(
            calls::biz_content(&own).expose(),
            r#"{"topic":"t","comm_type":"HTTP"}"#
        );
        let merchants = Subscription {
            auth_type: Some("app_auth"),
            auth_token: Some("a"),
            ..own
        };
        assert_eq!(
            calls::biz_content(&merchants).expose(),
            r#"{"topic":"t","comm_type":"HTTP","auth_type":"app_auth","auth_token":"a"}"#
        );
        let invitation = Invitation {
            auth_app_id: "1",
            redirect_url: "https://x/y",
            state: "s",
        };
        assert_eq!(
            calls::biz_content(&invitation).expose(),
            r#"{"auth_app_id":"1","redirect_url":"https://x/y","state":"s"}"#
        );
    }
}
