//! The answers that aren't pages.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, LOCATION, REFERRER_POLICY, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;

/// A whole answer.
pub(super) type Answer = Response<Full<Bytes>>;

/// The ack: exactly the 7 bytes that Alipay takes for “done”.
pub(super) fn success() -> Answer {
    text(StatusCode::OK, "success")
}

/// Asks Alipay to send again.
pub(super) fn fail(status: StatusCode) -> Answer {
    text(status, "fail")
}

/// Says when it is worth to come again.
pub(super) fn retry_after(answer: &mut Answer, seconds: u32) {
    let soon = HeaderValue::from(seconds);
    answer.headers_mut().insert(RETRY_AFTER, soon);
}

/// There is no such route. Never 200: a catch-all that says `success` loses notifications.
pub(super) fn not_found() -> Answer {
    text(StatusCode::NOT_FOUND, "not found")
}

/// The route exists for other methods.
pub(super) fn method_not_allowed(allowed: &'static str) -> Answer {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed");
    answer
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allowed));
    answer
}

/// Sends a browser on. A place that can't stand in a header is our own fault or an attack:
/// nowhere to go.
pub(super) fn found(location: &str) -> Answer {
    let Ok(location) = HeaderValue::from_str(location) else {
        return text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "no usable address to go to",
        );
    };
    let mut answer = text(StatusCode::FOUND, "");
    let headers = answer.headers_mut();
    headers.insert(LOCATION, location);
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// Any body of one type.
pub(super) fn of(status: StatusCode, content_type: &str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    // The types are our own, so that each is a header value.
    if let Ok(content_type) = HeaderValue::from_str(content_type) {
        answer.headers_mut().insert(CONTENT_TYPE, content_type);
    }
    answer
}

fn text(status: StatusCode, body: &str) -> Answer {
    of(status, "text/plain", body.to_owned())
}
