//! A call that changes nothing, by which it shows whether Alipay knows an app, takes its key, and
//! whether its reply verifies.

use std::time::{Duration, Instant};

use crate::model::id::AppId;
use crate::protocol::envelope::Verification;
use crate::token::TokenParts;
use crate::token::asking::AskError;
use crate::token::calls::{self, QUERY_METHOD};

/// A token that nobody ever had: what Alipay says of it doesn't matter.
const NOBODYS: &str = "201001BB00000000000000000000000000000000";

/// What Alipay answered.
#[derive(Debug, Clone)]
pub struct Greeting {
    /// Whether Alipay signed it; with the key that we verify with, or there would be none.
    pub is_signed: bool,
    /// Alipay's `code`, empty where there is none.
    pub code: String,
    /// Alipay's `sub_code`, empty where there is none.
    pub sub_code: String,
    /// How far our clock is ahead of Alipay's, whole seconds; unknown where Alipay told no time.
    pub ahead_s: Option<i64>,
    /// How long it took.
    pub took: Duration,
}

/// Asks Alipay, as the app `app_id`, about a token that isn't one.
pub(super) async fn greet(parts: &TokenParts, app_id: &AppId) -> Result<Greeting, AskError> {
    let failed = |error| AskError::of(QUERY_METHOD, error);
    let app = calls::app(parts, app_id).map_err(failed)?;
    let call = calls::question(parts, &app, NOBODYS);
    let began = Instant::now();
    let reply = parts.gateway.call(&call).await;
    let reply = reply.map_err(|error| failed(error.into()))?;
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
