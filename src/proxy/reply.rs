//! What the backend gets back, in the shape of the route it asked on.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use crate::gateway::VerifiedReply;
use crate::gateway::v3::VerifiedV3Reply;
use crate::protocol::charset::Charset;
use crate::protocol::envelope::Verification;
use crate::protocol::request::SignedParams;
use crate::protocol::signed_reply::ERROR_RESPONSE;
use crate::protocol::v3_response::V3Verification;
use crate::proxy::check::Checked;
use crate::proxy::error::{ErrorCode, ProxyError};
use crate::proxy::route::Action;

const JSON: &str = "application/json; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";
/// How many headers a reply has, at most and with those that the server adds.
const MOST_HEADERS: usize = 12;

/// The shape of the replies of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Alipay's own envelope, because SDKs read that.
    Gateway,
    /// Plain HTTP and `application/problem+json`.
    Http,
    /// Alipay's REST errors.
    V3,
}

/// Alipay's reply: its own bytes, or its node in an envelope of ours.
pub(crate) fn whole(reply: &VerifiedReply, body: Bytes) -> Response<Full<Bytes>> {
    let ours = match reply.envelope.charset() {
        Charset::Gbk => "text/html;charset=GBK",
        Charset::Utf8 => "text/html;charset=utf-8",
    };
    let content_type = reply.content_type.as_deref().unwrap_or(ours);
    let mut response = respond(StatusCode::OK, content_type, body);
    mark(&mut response, reply);
    response
}

/// The node of Alipay's reply alone, its exact bytes.
pub(crate) fn node(reply: &VerifiedReply) -> Response<Full<Bytes>> {
    let content_type = match reply.envelope.charset() {
        Charset::Gbk => "application/json; charset=GBK",
        Charset::Utf8 => JSON,
    };
    let mut response = respond(StatusCode::OK, content_type, reply.envelope.node());
    mark(&mut response, reply);
    set(&mut response, "alipay-code", reply.envelope.code());
    set(&mut response, "alipay-sub-code", reply.envelope.sub_code());
    response
}

/// Alipay's reply on v3: status and body as they came, and the headers that vouch for them, unless
/// the sidecar has opened the body.
pub(crate) fn v3(reply: &VerifiedV3Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(reply.body().clone()));
    // Alipay's own status, hence a valid one.
    *response.status_mut() = StatusCode::from_u16(reply.response.status()).unwrap_or_default();
    let headers = response.headers_mut();
    headers.extend(reply.headers.clone());
    if reply.is_opened() {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        remove_v3_signature(&mut response);
    }
    set(&mut response, CACHE_CONTROL.as_str(), Some("no-store"));
    let verified = match reply.response.verification() {
        V3Verification::Signed => "true",
        V3Verification::UnsignedError => "unsigned-error",
        V3Verification::NoContent => "no-content",
    };
    set(&mut response, "alipay-sidecar-verified", Some(verified));
    response
}

/// What turned out to be Alipay's.
pub(super) fn checked(checked: &Checked) -> Response<Full<Bytes>> {
    let mut response = respond(StatusCode::OK, JSON, checked.body.clone());
    set(&mut response, "alipay-sidecar-verified", Some("true"));
    set(&mut response, "alipay-code", checked.code.as_deref());
    set(
        &mut response,
        "alipay-sub-code",
        checked.sub_code.as_deref(),
    );
    response
}

/// JSON of our own.
pub(super) fn json_text(body: Bytes) -> Response<Full<Bytes>> {
    respond(StatusCode::OK, JSON, body)
}

/// Removes the headers that vouch for a body which isn't there as it was signed.
pub(crate) fn remove_v3_signature(response: &mut Response<Full<Bytes>>) {
    for name in [
        "alipay-signature",
        "alipay-nonce",
        "alipay-timestamp",
        "alipay-sn",
    ] {
        response.headers_mut().remove(name);
    }
}

/// What a call that isn't sent gives.
pub(crate) fn signed(
    action: Action,
    signed: &SignedParams,
    gateway: &str,
) -> Response<Full<Bytes>> {
    let (content_type, text) = match action {
        Action::PageForm => ("text/html; charset=utf-8", signed.page_form(gateway)),
        Action::PageUrl => (TEXT, signed.page_url(gateway)),
        Action::Call | Action::OrderString => (TEXT, signed.order_string()),
    };
    respond(StatusCode::OK, content_type, Bytes::from(text))
}

/// An error of ours in the shape of its route.
pub(crate) fn error(error: &ProxyError, shape: Shape, request_id: &str) -> Response<Full<Bytes>> {
    let (status, content_type, body) = match shape {
        Shape::Gateway => (StatusCode::OK, JSON, gateway_body(error)),
        Shape::Http => (
            error.code.status(),
            "application/problem+json",
            problem(error, request_id),
        ),
        Shape::V3 => (error.code.status(), JSON, v3_body(error)),
    };
    let mut response = respond(status, content_type, body);
    set(
        &mut response,
        "alipay-sidecar-error",
        Some(error.code.as_str()),
    );
    set(
        &mut response,
        "alipay-sidecar-outcome",
        Some(error.outcome.as_str()),
    );
    if let Some(allow) = error.allow {
        set(&mut response, ALLOW.as_str(), Some(allow));
    }
    // The gateway's shape has status 200, to which no challenge belongs.
    if status == StatusCode::UNAUTHORIZED {
        set(&mut response, WWW_AUTHENTICATE.as_str(), Some("Bearer"));
    }
    if error.code == ErrorCode::Overloaded {
        set(&mut response, RETRY_AFTER.as_str(), Some("1"));
    }
    response
}

/// Adds the id every reply carries.
pub(crate) fn identify(response: &mut Response<Full<Bytes>>, request_id: &str) {
    set(response, "alipay-sidecar-request-id", Some(request_id));
}

fn respond(status: StatusCode, content_type: &str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().reserve(MOST_HEADERS);
    set(&mut response, CONTENT_TYPE.as_str(), Some(content_type));
    set(&mut response, CACHE_CONTROL.as_str(), Some("no-store"));
    response
}

fn mark(response: &mut Response<Full<Bytes>>, reply: &VerifiedReply) {
    let verified = match reply.envelope.verification() {
        Verification::Certified | Verification::Signed => "true",
        Verification::UnsignedError => "unsigned-error",
    };
    set(response, "alipay-sidecar-verified", Some(verified));
    set(response, "alipay-trace-id", reply.trace_id.as_deref());
    set(response, "trace_id", reply.trace_id.as_deref());
}

/// Sets a header; a value that no header can hold (Alipay's text may be any) is left out.
fn set(response: &mut Response<Full<Bytes>>, name: &'static str, value: Option<&str>) {
    if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
        response
            .headers_mut()
            .insert(HeaderName::from_static(name), value);
    }
}

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    code: &'a str,
    outcome: &'a str,
    retryable: bool,
    request_id: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    candidates: &'a [String],
}

fn problem(error: &ProxyError, request_id: &str) -> Bytes {
    json(&Problem {
        r#type: format!("urn:alipay-sidecar:error:{}", error.code.as_str()),
        title: error.code.title(),
        status: error.code.status().as_u16(),
        detail: &error.detail,
        code: error.code.as_str(),
        outcome: error.outcome.as_str(),
        retryable: error.retryable,
        request_id,
        candidates: &error.candidates,
    })
}

#[derive(Serialize)]
struct GatewayError<'a> {
    code: &'a str,
    msg: &'a str,
    sub_code: String,
    sub_msg: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    candidates: &'a [String],
}

fn gateway_body(error: &ProxyError) -> Bytes {
    format!("{{\"{ERROR_RESPONSE}\":{}}}", gateway_node(error)).into()
}

/// An error as Alipay tells it: in ASCII alone, so that it reads the same in whatever charset the
/// caller expects, and without the names by which SDKs search a reply for what is signed.
pub(crate) fn gateway_node(error: &ProxyError) -> String {
    let (code, msg) = if error.code.status().is_client_error() {
        ("40002", "Invalid Arguments")
    } else {
        ("20000", "Service Currently Unavailable")
    };
    let node = json(&GatewayError {
        code,
        msg,
        sub_code: format!("sidecar.{}", error.code.as_str()),
        sub_msg: &error.detail,
        candidates: &error.candidates,
    });
    let node = escape_non_ascii(&String::from_utf8_lossy(&node));
    // No name of ours holds either, so they stand in strings, where the escape means the same.
    node.replace("_response", "\\u005fresponse")
        .replace("alipay_cert_sn", "alipay\\u005fcert\\u005fsn")
}

/// Writes `\uXXXX` for whatever isn't ASCII: in JSON that stands in strings alone.
fn escape_non_ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

#[derive(Serialize)]
struct V3Body<'a> {
    code: String,
    message: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    candidates: &'a [String],
}

pub(crate) fn v3_body(error: &ProxyError) -> Bytes {
    json(&V3Body {
        code: format!("sidecar.{}", error.code.as_str()),
        message: &error.detail,
        candidates: &error.candidates,
    })
}

fn json(body: &impl Serialize) -> Bytes {
    // Structs of strings, numbers and booleans always serialise.
    serde_json::to_vec(body)
        .map(Bytes::from)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_on_the_gateway_route_reads_the_same_in_every_charset() {
        let error = ProxyError::refused(ErrorCode::ParameterInvalid, "a 中 and a 😀");
        let body = gateway_body(&error);
        assert!(body.is_ascii());
        let read: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(read["error_response"]["sub_msg"], "a 中 and a 😀");
    }

    #[test]
    fn an_error_never_holds_what_sdks_search_for() {
        let detail = "neither `a_response` nor \"alipay_cert_sn\"";
        let node = gateway_node(&ProxyError::refused(ErrorCode::UpstreamInvalid, detail));
        assert!(
            !node.contains("_response") && !node.contains("alipay_cert_sn"),
            "{node}"
        );
        let read: serde_json::Value = serde_json::from_str(&node).unwrap();
        assert_eq!(read["sub_msg"], detail);
    }
}
