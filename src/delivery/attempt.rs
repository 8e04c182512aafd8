//! One POST to the backend, and what its answer means.

use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::Full;

use crate::config::delivery::AckRule;
use crate::delivery::brake::Reach;
use crate::delivery::outgoing::{self, Outgoing};
use crate::delivery::routes::Target;
use crate::delivery::signed_anew;
use crate::delivery::webhook_signature::WebhookSigner;
use crate::install_key::InstallKey;
use crate::model::delivery::{Attempt, AttemptError, Via};
use crate::model::notification::InboxEntry;
use crate::net::client::{Client, Left, Reply, SendCause, SendError};
use crate::telemetry::span::{Beginning, Kind, Span, Tracer};
use crate::telemetry::trace_context::{self, SpanId, TraceParent};

const EVENT_ID: HeaderName = HeaderName::from_static("alipay-event-id");
const EVENT_TYPE: HeaderName = HeaderName::from_static("alipay-event-type");
const MERCHANT: HeaderName = HeaderName::from_static("alipay-merchant");
const ATTEMPT: HeaderName = HeaderName::from_static("alipay-delivery-attempt");
const NOTIFY_PATH: HeaderName = HeaderName::from_static("alipay-notify-path");
const NOTIFY_QUERY: HeaderName = HeaderName::from_static("alipay-notify-query");
const TRACEPARENT: HeaderName = HeaderName::from_static(trace_context::TRACEPARENT);
const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
const WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// What we call ourselves to the backend.
const AGENT: &str = concat!("alipay-sidecar/", env!("CARGO_PKG_VERSION"));

/// What is attempted.
pub(super) struct Try<'a> {
    pub(super) entry: &'a InboxEntry,
    pub(super) target: &'a Target,
    pub(super) signer: Option<&'a WebhookSigner>,
    /// Signs forms anew.
    pub(super) install_key: Option<&'a InstallKey>,
    /// Which attempt it is, from 1.
    pub(super) number: u32,
    /// Unix milliseconds.
    pub(super) now: i64,
    /// What is recorded of it.
    pub(super) span: Span,
}

/// Begins what is recorded of the attempt of that number.
pub(super) fn span(tracer: &Tracer, entry: &InboxEntry, (target, number): (&Target, u32)) -> Span {
    let received = TraceParent::of_event(entry.id.to_bytes());
    let beginning = Beginning::new(Kind::Client, "POST").within(Some(received));
    let span = tracer.begin(beginning);
    if !span.is_recorded() {
        return span;
    }
    span.set_method(&Method::POST);
    span.set_server(&target.url);
    span.set("alipay.app_id", entry.app_id.as_str());
    let auth_app_id = entry.auth_app_id.as_ref();
    span.set_some("alipay.auth_app_id", auth_app_id.map(|id| id.as_str()));
    span.set("alipay_sidecar.event_type", entry.event_type.as_str());
    span.set("alipay_sidecar.event_id", entry.id.to_string().as_str());
    span.set("alipay_sidecar.attempt", i64::from(number));
    span
}

/// Posts the entry once.
pub(super) async fn make(client: &Client, attempted: &Try<'_>) -> (Attempt, Reach) {
    let began = Instant::now();
    let outgoing = outgoing::lay_out(attempted.entry, attempted.target.format);
    let ack = attempted.target.ack(outgoing.answered);
    let ((status, error), reason, reach) = match request(attempted, outgoing).await {
        Ok(request) => {
            let answer = client.send(request, attempted.target.timeout).await;
            let reach = reach(&answer);
            let reason = reason(&answer, attempted.target);
            let judged = judge(ack, answer);
            record(&attempted.span, judged);
            (judged, reason, reach)
        }
        Err(error) => {
            let event_id = attempted.entry.id;
            tracing::error!(%error, %event_id, "a delivery isn't made");
            let judged = (None, Some(AttemptError::Connect));
            (judged, Some(error.to_string()), Reach::Untried)
        }
    };
    let attempt = Attempt {
        at: attempted.now,
        duration_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        status,
        error,
        via: Via::Push,
        to: Some(shown(&attempted.target.url)),
        reason: reason.filter(|_| error.is_some()),
    };
    (attempt, reach)
}

/// A url without what may be a password in it.
fn shown(url: &str) -> String {
    let uri: Option<Uri> = url.parse().ok();
    let parts = uri.as_ref().and_then(|uri| {
        let authority = uri.authority()?.as_str();
        let bare = authority
            .rsplit_once('@')
            .map_or(authority, |(_, bare)| bare);
        Some((uri.scheme_str()?, bare, uri.path()))
    });
    match parts {
        Some((scheme, host, path)) => format!("{scheme}://{host}{path}"),
        None => "the route's url".to_owned(),
    }
}

/// What an operator needs to know besides the status.
fn reason(answer: &Result<Reply, SendError>, target: &Target) -> Option<String> {
    match answer {
        Ok(reply) if reply.status.is_success() => {
            Some("2xx, but its body isn't `success`".to_owned())
        }
        Ok(_) => None,
        Err(error) => Some(match error.cause {
            SendCause::Endless | SendCause::Timeout => {
                format!("{error}, {:?} by its timeout", target.timeout)
            }
            _ => error.to_string(),
        }),
    }
}

fn record(span: &Span, (status, error): (Option<u16>, Option<AttemptError>)) {
    if let Some(status) = status {
        span.set_status(status);
    }
    match error {
        // The status itself is the word, then.
        None | Some(AttemptError::Status) => {}
        Some(error) => span.fail(error.as_str()),
    }
}

fn reach(answer: &Result<Reply, SendError>) -> Reach {
    match answer {
        Err(error) if error.left == Left::No => Reach::Nobody,
        _ => Reach::Found,
    }
}

fn judge(ack: AckRule, answer: Result<Reply, SendError>) -> (Option<u16>, Option<AttemptError>) {
    let reply = match answer {
        Ok(reply) => reply,
        Err(SendError {
            status: Some(status),
            ..
        }) if !status.is_success() => return (Some(status.as_u16()), Some(AttemptError::Status)),
        // It is taken, whatever else the backend wanted to say.
        Err(SendError {
            status: Some(status),
            ..
        }) if ack == AckRule::AnySuccessStatus => return (Some(status.as_u16()), None),
        Err(error) => {
            let status = error.status.map(|status| status.as_u16());
            let error = match error.cause {
                SendCause::Endless | SendCause::Timeout => AttemptError::Timeout,
                SendCause::ReplyTooLarge(_) => AttemptError::NotSuccess,
                _ => AttemptError::Connect,
            };
            return (status, Some(error));
        }
    };
    let error = if !reply.status.is_success() {
        Some(AttemptError::Status)
    } else if ack == AckRule::SuccessBody && reply.body.trim_ascii() != b"success" {
        Some(AttemptError::NotSuccess)
    } else {
        None
    };
    (Some(reply.status.as_u16()), error)
}

/// A request that isn't made.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unmade {
    /// A verified form that can't be read or signed.
    #[error("it can't be signed anew: {0}")]
    Signature(#[from] signed_anew::Error),
    /// A url that is none, although the configuration is checked.
    #[error("it could not be put as a request to the route's url")]
    Url(#[from] http::Error),
}

/// The request that hands the entry over, under the signatures that are configured.
pub(super) async fn request(
    attempted: &Try<'_>,
    outgoing: Outgoing,
) -> Result<Request<Full<Bytes>>, Unmade> {
    let outgoing = match attempted.install_key {
        None => outgoing,
        Some(key) => signed_anew::sign(key, outgoing, attempted.entry.scheme).await?,
    };
    Ok(laid_out(attempted, outgoing)?)
}

fn laid_out(attempted: &Try<'_>, outgoing: Outgoing) -> Result<Request<Full<Bytes>>, http::Error> {
    let mut request = Request::post(&attempted.target.url);
    if let Some(headers) = request.headers_mut() {
        describe(headers, attempted);
        put(headers, CONTENT_TYPE, &outgoing.content_type);
        if let Some(signer) = attempted.signer {
            sign(headers, attempted, signer, &outgoing.body);
        }
    }
    request.body(Full::new(outgoing.body))
}

fn describe(headers: &mut HeaderMap, attempted: &Try<'_>) {
    let entry = attempted.entry;
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(ATTEMPT, attempted.number.into());
    put(headers, TRACEPARENT, &trace_parent(attempted).to_string());
    put(headers, EVENT_ID, &entry.id.to_string());
    put(headers, EVENT_TYPE, &entry.event_type);
    if let Some(auth_app_id) = &entry.auth_app_id {
        put(headers, MERCHANT, auth_app_id.as_str());
    }
    if !entry.notify_path.is_empty() {
        put(headers, NOTIFY_PATH, &entry.notify_path);
    }
    if !entry.notify_query.is_empty() {
        put(headers, NOTIFY_QUERY, &entry.notify_query);
    }
}

/// The attempt's place in the trace of its event. It says that it may be recorded, whether we do or
/// not: otherwise backends that only follow would record no delivery at all.
fn trace_parent(attempted: &Try<'_>) -> TraceParent {
    let recorded = attempted.span.place();
    recorded.unwrap_or_else(|| {
        let received = TraceParent::of_event(attempted.entry.id.to_bytes());
        TraceParent::sampled(received.trace_id, SpanId::random())
    })
}

fn sign(headers: &mut HeaderMap, attempted: &Try<'_>, signer: &WebhookSigner, body: &[u8]) {
    let id = attempted.entry.id.to_string();
    let timestamp = attempted.now.div_euclid(1000);
    put(
        headers,
        WEBHOOK_SIGNATURE,
        &signer.sign(&id, timestamp, body),
    );
    put(headers, WEBHOOK_ID, &id);
    headers.insert(WEBHOOK_TIMESTAMP, timestamp.into());
}

/// Sets a header; a value that can't stand in one (a control character of Alipay's) is left out,
/// as the body has it, too.
fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    fn check(ack: AckRule, status: u16, body: &'static str, expected: Option<AttemptError>) {
        let reply = Reply {
            status: StatusCode::from_u16(status).expect("status"),
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        };
        assert_eq!(judge(ack, Ok(reply)), (Some(status), expected), "{body}");
    }

    #[test]
    fn success_is_said_by_exactly_that_word() {
        let ack = AckRule::SuccessBody;
        check(ack, 200, "success", None);
        check(ack, 204, " success\r\n", None);
        for body in ["", "SUCCESS", "fail", "successful", "\"success\"", "{}"] {
            check(ack, 200, body, Some(AttemptError::NotSuccess));
        }
        check(ack, 500, "success", Some(AttemptError::Status));
        check(ack, 302, "success", Some(AttemptError::Status));
    }

    #[test]
    fn a_url_is_shown_without_what_may_be_a_password() {
        for (url, expected) in [
            (
                "http://127.0.0.1:3000/events",
                "http://127.0.0.1:3000/events",
            ),
            (
                "https://u:hunter2@b.example/a?key=hunter2",
                "https://b.example/a",
            ),
            ("hunter2", "the route's url"),
        ] {
            assert_eq!(shown(url), expected);
        }
    }

    #[test]
    fn any_2xx_counts_where_that_is_asked_for() {
        let ack = AckRule::AnySuccessStatus;
        check(ack, 204, "", None);
        check(ack, 200, "fail", None);
        check(ack, 404, "", Some(AttemptError::Status));
    }

    #[test]
    fn what_brings_no_answer_is_told_by_its_cause_and_whether_it_left() {
        let broken = || Box::<dyn std::error::Error + Send + Sync>::from("gone");
        for (cause, left, expected, reached) in [
            (
                SendCause::Broken {
                    to: "127.0.0.1:9".to_owned(),
                    cause: broken(),
                },
                Left::Maybe,
                AttemptError::Connect,
                Reach::Found,
            ),
            (
                SendCause::Connect {
                    to: "127.0.0.1:9".to_owned(),
                    cause: broken(),
                },
                Left::No,
                AttemptError::Connect,
                Reach::Nobody,
            ),
            (
                SendCause::Endless,
                Left::Maybe,
                AttemptError::Timeout,
                Reach::Found,
            ),
            (
                SendCause::ReplyTooLarge(9),
                Left::Maybe,
                AttemptError::NotSuccess,
                Reach::Found,
            ),
            (
                SendCause::Timeout,
                Left::No,
                AttemptError::Timeout,
                Reach::Nobody,
            ),
        ] {
            let answer = Err(SendError {
                left,
                status: None,
                cause,
            });
            assert_eq!(reach(&answer), reached, "{answer:?}");
            let judged = judge(AckRule::AnySuccessStatus, answer);
            assert_eq!(judged, (None, Some(expected)));
        }
    }

    #[test]
    fn a_status_counts_whatever_became_of_the_body_behind_it() {
        let answer = |status: u16| {
            Err(SendError {
                left: Left::Maybe,
                status: Some(StatusCode::from_u16(status).expect("a status")),
                cause: SendCause::ReplyTooLarge(9),
            })
        };
        let judged = |ack, status| judge(ack, answer(status));
        let (any, body) = (AckRule::AnySuccessStatus, AckRule::SuccessBody);
        assert_eq!(judged(any, 200), (Some(200), None));
        assert_eq!(
            judged(body, 200),
            (Some(200), Some(AttemptError::NotSuccess))
        );
        for ack in [any, body] {
            let failed = (Some(500), Some(AttemptError::Status));
            assert_eq!(judged(ack, 500), failed);
        }
    }
}
