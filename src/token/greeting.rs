//! A call that changes nothing, by which it shows whether Alipay knows an app, takes its key, and
//! whether its reply verifies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;
use uuid::Uuid;

use crate::gateway::app::SigningApp;
use crate::gateway::error::GatewayError;
use crate::gateway::v3::{V3Body, V3Call, V3Encryption};
use crate::model::id::AppId;
use crate::protocol::envelope::Verification;
use crate::protocol::v3_response::V3Verification;
use crate::telemetry::span::Span;
use crate::token::asking::AskError;
use crate::token::calls::{self, QUERY_METHOD};
use crate::token::{TokenParts, Tokens};

/// A token that nobody ever had: what Alipay says of it doesn't matter.
const NOBODYS: &str = "201001BB00000000000000000000000000000000";

/// The same question in v3.
const V3_TARGET: &str = "/v3/alipay/open/auth/token/app/query";

/// In which of Alipay's protocols it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// The gateway.
    V2,
    /// The REST protocol, at an origin and with a signature of its own.
    V3,
}

/// What Alipay answered.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// Whether Alipay signed it; with the key that we verify with, or there would be none.
    pub is_signed: bool,
    /// Alipay's `code`, empty where there is none.
    pub code: String,
    /// Alipay's `sub_code`, empty where there is none; of v3 its `code`.
    pub sub_code: String,
    /// How far our clock is ahead of Alipay's, whole seconds; unknown where Alipay told no time.
    pub ahead_s: Option<i64>,
    /// How long it took.
    pub took: Duration,
}

impl Tokens {
    /// Asks Alipay something harmless in `dialect` as the app `app_id`: whether it knows the app and takes its key
    /// shows in the answer, and that there is one shows that replies verify.
    ///
    /// # Errors
    /// [`AskError`] where there is no verified answer.
    ///
    /// # Cancel safety
    /// Safe: a query changes nothing.
    pub async fn greet(&self, app_id: &AppId, dialect: Dialect) -> Result<Greeting, AskError> {
        greet(&self.parts, app_id, dialect).await
    }
}

/// Asks Alipay, as the app `app_id`, about a token that isn't one.
async fn greet(parts: &TokenParts, app_id: &AppId, dialect: Dialect) -> Result<Greeting, AskError> {
    let failed = |error| AskError::of(QUERY_METHOD, error);
    let app = calls::app(parts, app_id).map_err(failed)?;
    let greeting = match dialect {
        Dialect::V2 => greet_v2(parts, &app).await,
        Dialect::V3 => greet_v3(parts, app).await,
    };
    greeting.map_err(|error| failed(error.into()))
}

async fn greet_v2(parts: &TokenParts, app: &Arc<SigningApp>) -> Result<Greeting, GatewayError> {
    let call = calls::question(parts, app, NOBODYS);
    let began = Instant::now();
    let reply = parts.gateway.call(&call).await?;
    let word = |word: Option<&str>| word.unwrap_or_default().to_owned();
    Ok(Greeting {
        is_signed: reply.envelope.verification() == Verification::Signed,
        code: word(reply.envelope.code()),
        sub_code: word(reply.envelope.sub_code()),
        ahead_s: reply
            .date_ms
            .map(|theirs| (parts.clock.now_ms() - theirs) / 1000),
        took: began.elapsed(),
    })
}

async fn greet_v3(parts: &TokenParts, app: Arc<SigningApp>) -> Result<Greeting, GatewayError> {
    let call = V3Call {
        app,
        app_auth_token: None,
        http_method: Method::GET,
        target: format!("{V3_TARGET}?app_auth_token={NOBODYS}"),
        body: V3Body::Plain(Bytes::new()),
        encryption: V3Encryption::None,
        request_id: Uuid::now_v7().to_string(),
        timeout: parts.timeout,
        span: Span::default(),
    };
    let began = Instant::now();
    let reply = parts.gateway.call_v3(&call).await?.response;
    Ok(Greeting {
        is_signed: reply.verification() == V3Verification::Signed,
        code: String::new(),
        sub_code: reply.code().unwrap_or_default(),
        ahead_s: None,
        took: began.elapsed(),
    })
}
