//! `GET /calls/{request_id}`: what became of a call.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Response};
use http_body_util::Full;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::model::call::{CallKey, CallRecord, KeptReply};
use crate::protocol::charset::Charset;
use crate::protocol::params::Params;
use crate::proxy::calls::{Begun, Found};
use crate::proxy::error::{ErrorCode, ProxyError, caught};
use crate::proxy::reply::{self, Shape};
use crate::proxy::route::{self, Route};
use crate::proxy::story::Story;
use crate::proxy::{Proxy, users};

/// The parameter that names a call by its caller's `X-Request-Id`.
const BY_NAME: &str = "x_request_id";

/// The answer; members that a call doesn't have are left out, but for `reply`.
#[derive(Serialize)]
struct View<'a> {
    request_id: String,
    method: &'a str,
    outcome: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    completed_at: Option<i64>,
    reply: Option<Box<RawValue>>,
}

impl Proxy {
    /// Ends once what became of every call that is over by now is written, or lost.
    ///
    /// # Cancel safety
    /// Safe: it only hurries and watches.
    pub async fn written(&self) {
        self.parts.calls.written().await;
    }

    /// Answers a request of the route.
    pub(super) async fn look_up_call(
        &self,
        head: &Parts,
        route: &Route,
        id: &str,
    ) -> Response<Full<Bytes>> {
        let mut story = Story::new(head, route);
        let looked_up = caught(self.looked_up(head, (route, id), &mut story)).await;
        let mut response = match looked_up {
            Ok(found) => {
                story.tell_looked_up(&self.parts);
                reply::json_text(view(&found))
            }
            Err(error) => {
                let error = story.refused(&self.parts, error);
                reply::error(&error, Shape::Http, &story.request_id)
            }
        };
        reply::identify(&mut response, &story.request_id);
        response
    }

    async fn looked_up(
        &self,
        head: &Parts,
        (route, id): (&Route, &str),
        story: &mut Story,
    ) -> Result<Found, ProxyError> {
        self.let_in(head, &route.target, story)?;
        route::check_http_method(&route.target, &head.method)?;
        users::refuse_where_unused(&head.headers)?;
        refuse_body(&head.headers)?;
        let caller = story.caller().map(|name| &**name);
        let key = key(id, head.uri.query().unwrap_or_default(), caller)?;
        let found = self.parts.calls.find(key, caller).await?;
        found.ok_or_else(unknown)
    }
}

/// By what the call is asked for: the id in the path, or the caller's own in the query.
fn key(id: &str, query: &str, caller: Option<&str>) -> Result<CallKey, ProxyError> {
    if !id.is_empty() {
        return id.parse().map(CallKey::Id).map_err(|_| unknown());
    }
    let query = Params::from_form(query.as_bytes(), Charset::Utf8)?;
    match query.get(BY_NAME).filter(|name| !name.is_empty()) {
        Some(name) => Ok(CallKey::Named {
            caller: caller.map(ToOwned::to_owned),
            caller_request_id: name.to_owned(),
        }),
        None => Err(ProxyError::refused(
            ErrorCode::ParameterInvalid,
            "say which call: `/calls/{request_id}`, or `/calls?x_request_id=…` by the X-Request-Id \
             it was made with",
        )),
    }
}

fn refuse_body(headers: &HeaderMap) -> Result<(), ProxyError> {
    let length = headers.get(http::header::CONTENT_LENGTH);
    let is_empty = length.is_none_or(|length| length == "0");
    if is_empty && !headers.contains_key(http::header::TRANSFER_ENCODING) {
        return Ok(());
    }
    Err(ProxyError::refused(
        ErrorCode::BodyInvalid,
        "this route takes no body",
    ))
}

fn view(found: &Found) -> Bytes {
    let view = match found {
        Found::UnderWay(begun) => pending(begun),
        Found::Over(record) => over(record),
    };
    // Texts, numbers and checked JSON always serialise.
    serde_json::to_vec(&view).unwrap_or_default().into()
}

fn pending(begun: &Begun) -> View<'_> {
    View {
        request_id: begun.request_id.to_string(),
        method: &begun.method,
        outcome: "pending",
        error: None,
        status: None,
        completed_at: None,
        reply: None,
    }
}

fn over(record: &CallRecord) -> View<'_> {
    View {
        request_id: record.request_id.to_string(),
        method: &record.method,
        outcome: record.outcome.as_str(),
        error: record.error.as_deref(),
        status: record.reply.as_ref().and_then(|reply| reply.status),
        completed_at: Some(record.completed_at),
        reply: record.reply.as_ref().and_then(raw),
    }
}

/// The reply as a value of JSON: itself, its exact bytes, where it is one; a text where it is none
/// (a ciphertext of v3); nothing where there is none (v3's 204).
fn raw(reply: &KeptReply) -> Option<Box<RawValue>> {
    if reply.body.is_empty() {
        return None;
    }
    let json = serde_json::from_slice(&reply.body);
    json.ok().or_else(|| {
        let text = String::from_utf8_lossy(&reply.body);
        serde_json::value::to_raw_value(&text).ok()
    })
}

fn unknown() -> ProxyError {
    ProxyError::refused(
        ErrorCode::CallUnknown,
        "no such call is on record, which says nothing of what became of it: calls that may change \
         something are, for 24 h, but for those refused before they were made, those whose replies \
         hold tokens, and those under way when the sidecar was killed; ask Alipay by a query",
    )
}
