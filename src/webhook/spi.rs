//! SPI: Alipay asks, and waits: verify → ask the backend once → sign its answer.
//!
//! Nothing is stored. What the backend answers is embedded and signed byte for byte.
//!
//! Protocol: SPI接入指南.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use hyper::body::Body as HttpBody;
use tokio::sync::Semaphore;

use crate::audit::entry::Entry;
use crate::delivery::ask::AskError;
use crate::gateway::app::SigningApp;
use crate::gateway::signer::SignError;
use crate::model::id::{AuthAppId, EventId};
use crate::model::notification::{Body, DeliveryForm, InboxEntry};
use crate::net::body::{self, BoxError};
use crate::net::client::Reply;
use crate::net::room::Held;
use crate::protocol::charset::{self, Charset};
use crate::protocol::error::{JsonError, ProtocolError};
use crate::protocol::signed_answer::{SpiAnswer, SpiShape};
use crate::protocol::spi::{SpiCall, UnverifiedSpiCall};
use crate::webhook::answer::{self, Answer};
use crate::webhook::error::{Known, Refusal};
use crate::webhook::metrics::{Kind, Outcome};
use crate::webhook::receipt::{Became, Came};
use crate::webhook::{Inner, Settings, app_gateway, refuse_encoded, sender, text};

/// How long a call may take, from its head to its answer: Alipay's own limit isn't documented, and
/// users wait behind it; contract §4.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// What of it is kept for signing the answer, be it ours: a signature takes 1 ms, but may queue.
const SIGN_WITHIN: Duration = Duration::from_millis(150);
/// What of it learning Alipay's certificate may take, so that the backend still has some.
const LEARN_WITHIN: Duration = Duration::from_secs(1);
/// How many calls wait for the backend at once. A hung one holds each for 3 s at most; a sound one
/// that answers in 100 ms takes 1,280 calls a second. More would only wait somewhere else.
const AT_ONCE: usize = 128;
/// How far from now a call may have been sent, milliseconds. A captured call ends with it; a clock
/// that is wrong, or set to another time zone, on either side, mustn't end true ones. The same
/// 25 h that notifications need.
const FRESH_MS: i64 = 25 * 3_600_000;

/// What Alipay's own demo answers to a call that it can't verify. Not signed: a stranger could
/// make us sign without end.
const REFUSED: &str = concat!(
    r#"{"code":"40004","msg":"Business Failed","sub_code":"ISV-VERIFICATION-FAILED","#,
    r#""sub_msg":"the call could not be verified"}"#
);
/// What is answered, signed, in place of a backend that doesn't, with the words that the gateway
/// itself has for this.
const UNAVAILABLE: &str = concat!(
    r#"{"code":"20000","msg":"Service Currently Unavailable","sub_code":"isp.unknow-error","#,
    r#""sub_msg":"the system is busy"}"#
);

/// Keeps the number of calls that wait for the backend.
pub(super) fn slots() -> Semaphore {
    Semaphore::new(AT_ONCE)
}

/// One call as it came, unverified.
struct Arrival<'a> {
    /// `/spi/{name}`.
    path: &'a str,
    query: &'a str,
    content_type: Option<String>,
    body: Bytes,
    /// When, Unix milliseconds.
    now: i64,
    began: Instant,
    came: Came,
}

/// What was verified, and by whose key.
struct Verified {
    id: EventId,
    app: Arc<SigningApp>,
    call: SpiCall,
}

/// Why the backend's answer isn't passed on.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error(
        "the backend's answer can't be given in the charset of the call: {0}; in JSON every \
         character can be written as \\uXXXX"
    )]
    Charset(#[from] ProtocolError),
    #[error("the backend's answer isn't exactly one JSON object: {0}")]
    Json(#[from] JsonError),
    #[error("{AT_ONCE} SPI calls wait for the backend already")]
    Overloaded,
}

/// Answers one call.
pub(super) async fn receive<B>(
    inner: &Inner,
    settings: &Settings,
    path: &str,
    head: &Parts,
    body: B,
) -> Answer
where
    B: HttpBody<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let (began, came) = (Instant::now(), Came::by(head, "/spi/{name}"));
    let sender = sender(&head.extensions);
    let (body, _held) = match read(inner, settings, head, body).await {
        Ok(body) => body,
        Err(refusal) => return refuse(inner, &refusal, &sender),
    };
    let arrival = Arrival {
        path,
        query: head.uri.query().unwrap_or_default(),
        content_type: text(&head.headers, CONTENT_TYPE),
        body,
        now: inner.parts.clock.now_ms(),
        began,
        came,
    };
    match verify(inner, &arrival).await {
        Ok(verified) => answer(inner, settings, &arrival, &verified).await,
        Err(refusal) => refuse(inner, &refusal, &sender),
    }
}

/// Reads the body; what a GET may have isn't looked at.
async fn read<B>(
    inner: &Inner,
    settings: &Settings,
    head: &Parts,
    body: B,
) -> Result<(Bytes, Held), Refusal>
where
    B: HttpBody<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    if head.method == Method::GET {
        return Ok((Bytes::new(), Held::default()));
    }
    refuse_encoded(&head.headers)?;
    let limit = settings.webhook.max_body;
    Ok(body::read_into(body, limit, ANSWER_WITHIN, &inner.room_of(head)).await?)
}

/// Checks that it is for an app of ours, that Alipay signed it, and not long ago.
async fn verify(inner: &Inner, arrival: &Arrival<'_>) -> Result<Verified, Refusal> {
    let content_type = arrival.content_type.as_deref();
    let unverified =
        UnverifiedSpiCall::parse(arrival.query.as_bytes(), content_type, &arrival.body)
            .map_err(Refusal::Malformed)?;
    let (app_id, cert_sn) = (unverified.claimed_app_id(), unverified.alipay_cert_sn());
    let app = app_gateway::claimed_app(inner, app_id, cert_sn, LEARN_WITHIN).await?;
    let call = unverified
        .verify(&app.platform.all_keys(), app.sign_type)
        .map_err(Refusal::Forged)?;
    if !is_fresh(call.sent_at(), arrival.now) {
        return Err(Refusal::Stale(Box::new(known(&app, &call))));
    }
    let id = inner.ids.next(arrival.now);
    Ok(Verified { id, app, call })
}

/// Whether what was sent at that time may be answered `now`.
fn is_fresh(sent_at: i64, now: i64) -> bool {
    now.abs_diff(sent_at) <= FRESH_MS.unsigned_abs()
}

fn known(app: &SigningApp, call: &SpiCall) -> Known {
    Known {
        app_id: app.app_id.clone(),
        event_type: call.method().to_owned(),
        auth_app_id: call.merchant().map(Into::into),
        notify_id: None,
    }
}

pub(super) fn refuse(inner: &Inner, refusal: &Refusal, sender: &str) -> Answer {
    inner.report((Kind::Spi, refusal), sender, refusal.known());
    json(REFUSED, Charset::Utf8)
}

/// Asks the backend and signs what it says, or that there is nothing to be had.
async fn answer(
    inner: &Inner,
    settings: &Settings,
    arrival: &Arrival<'_>,
    verified: &Verified,
) -> Answer {
    let asked = ask(inner, arrival, verified).await;
    log(inner, arrival, verified, asked.as_ref().err());
    let charset = verified.call.charset();
    let unavailable = || SpiAnswer::new(UNAVAILABLE.as_bytes(), charset);
    let Ok(said) = asked.or_else(|_| unavailable()) else {
        return json(UNAVAILABLE, charset);
    };
    let left = ANSWER_WITHIN.saturating_sub(arrival.began.elapsed());
    let signed = signed(&verified.app, &said, settings.webhook.spi_response);
    match tokio::time::timeout(left.max(SIGN_WITHIN), signed).await {
        Ok(Ok(signed)) => json(signed, charset),
        Ok(Err(error)) => not_signed(&error, charset),
        Err(_) => not_signed(&SignError::Overloaded, charset),
    }
}

async fn ask(
    inner: &Inner,
    arrival: &Arrival<'_>,
    verified: &Verified,
) -> Result<SpiAnswer, Failure> {
    let slot = inner.spi_slots.try_acquire();
    let _slot = slot.map_err(|_| Failure::Overloaded)?;
    let question = question(arrival, verified)?;
    let left = ANSWER_WITHIN.saturating_sub(arrival.began.elapsed());
    let left = left.saturating_sub(SIGN_WITHIN);
    let reply = inner.parts.asker.ask(&question, left).await?;
    let charset = verified.call.charset();
    Ok(SpiAnswer::new(&in_charset(&reply, charset)?, charset)?)
}

/// What is put to the backend, laid out as a notification is.
fn question(arrival: &Arrival<'_>, verified: &Verified) -> Result<InboxEntry, ProtocolError> {
    let call = &verified.call;
    let merchant = call.merchant().map(AuthAppId::new);
    Ok(InboxEntry {
        id: verified.id,
        app_id: verified.app.app_id.clone(),
        notify_id: None,
        event_type: call.method().to_owned(),
        auth_app_id: merchant.and_then(Result::ok),
        pid: None,
        received_at: arrival.now,
        notify_path: arrival.path.to_owned(),
        notify_query: String::new(),
        order_key: None,
        body: Some(form(arrival, call)?),
        opened_content: None,
        event: None,
        scheme: Some(call.scheme()),
        form: DeliveryForm::AsConfigured,
    })
}

/// Alipay's parameters as one form: the bytes that came where they stood in one place, else
/// written anew.
fn form(arrival: &Arrival<'_>, call: &SpiCall) -> Result<Body, ProtocolError> {
    let charset = call.charset();
    let ours = || {
        format!(
            "application/x-www-form-urlencoded;charset={}",
            charset.label()
        )
    };
    let came = |content_type: Option<String>, bytes| Body {
        content_type: content_type.unwrap_or_else(ours),
        bytes,
    };
    Ok(match (arrival.query, &arrival.body) {
        ("", body) => came(arrival.content_type.clone(), body.clone()),
        (query, body) if body.is_empty() => came(None, Bytes::copy_from_slice(query.as_bytes())),
        // Without what may not be signed: anybody may have added it.
        _ => came(
            None,
            call.params()
                .clone()
                .without_empty()
                .to_form(charset)?
                .into(),
        ),
    })
}

/// The answer in the charset of the call: as it came where it is in that already. It is in UTF-8
/// unless its `Content-Type` says otherwise; a charset that isn't Alipay's is some framework's
/// default and says nothing.
fn in_charset(reply: &Reply, wanted: Charset) -> Result<Cow<'_, [u8]>, ProtocolError> {
    let found = charset_of(&reply.headers).unwrap_or_default();
    if found == wanted {
        return Ok(Cow::Borrowed(&reply.body));
    }
    let text = found.decode(&reply.body)?;
    Ok(Cow::Owned(wanted.encode(&text)?))
}

fn charset_of(headers: &HeaderMap) -> Option<Charset> {
    let content_type = text(headers, CONTENT_TYPE)?;
    let label = charset::label_of_content_type(&content_type)?;
    Charset::from_label(&label).ok()
}

async fn signed(app: &SigningApp, said: &SpiAnswer, shape: SpiShape) -> Result<Vec<u8>, SignError> {
    let content = said.sign_content().to_vec();
    // Held, so that the certificate is that of the key which signs, whichever takes over meanwhile.
    let key = app.signing.in_force();
    let sign = key.sign_answer(app.sign_type, content).await?;
    let certificate = key.certificate.as_ref();
    let app_cert_sn = certificate.map(|certificate| certificate.sn.as_str());
    Ok(said.signed(&sign, app_cert_sn, shape)?)
}

fn not_signed(error: &SignError, charset: Charset) -> Answer {
    tracing::error!(%error, "the answer to an SPI call could not be signed");
    json(UNAVAILABLE, charset)
}

/// Status 200 in any case, as the demo has it: Alipay reads the JSON.
fn json(body: impl Into<Bytes>, charset: Charset) -> Answer {
    let content_type = format!("application/json;charset={}", charset.label());
    answer::of(StatusCode::OK, &content_type, body)
}

fn log(inner: &Inner, arrival: &Arrival<'_>, verified: &Verified, failure: Option<&Failure>) {
    let outcome = match failure {
        None => Outcome::Accepted,
        Some(Failure::Overloaded) => Outcome::Refused,
        Some(_) => Outcome::Unavailable,
    };
    inner.parts.metrics.count(Kind::Spi, outcome);
    let known = || known(&verified.app, &verified.call);
    let became = Became::Event(verified.id);
    inner.record(&arrival.came, (Kind::Spi, outcome), known, became);
    let (app_id, method) = (&verified.app.app_id, verified.call.method());
    let (path, event_id) = (arrival.path, verified.id);
    let duration_ms = arrival.began.elapsed().as_millis();
    inner.parts.audit.tell_of_repeated(|| {
        Entry::new(Kind::Spi.event(), Kind::Spi.as_str(), outcome.as_str())
            .with("type", method)
            .with("app_id", app_id.as_str())
            .with_some("auth_app_id", verified.call.merchant())
            .with("path", path)
            .with("event_id", &event_id.to_string())
    });
    match failure {
        None => {
            tracing::info!(%app_id, method, path, %event_id, duration_ms, "SPI call answered");
        }
        Some(reason) => tracing::warn!(
            %app_id, method, path, %event_id, duration_ms, outcome = outcome.as_str(), %reason,
            "SPI call answered with code 20000 in place of the backend"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(content_type: &'static str, body: &'static [u8]) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, content_type.parse().expect("a header"));
        Reply {
            status: StatusCode::OK,
            headers,
            body: Bytes::from_static(body),
        }
    }

    fn check(content_type: &'static str, body: &'static [u8], wanted: Charset, given: &[u8]) {
        let reply = reply(content_type, body);
        let read = in_charset(&reply, wanted).expect("convertible");
        assert_eq!(read.as_ref(), given, "{content_type}");
    }

    #[test]
    fn an_answer_is_converted_only_where_it_must_be() {
        let (utf8, gbk) = (
            "{\"a\":\"中\"}".as_bytes(),
            b"{\"a\":\"\xd6\xd0\"}".as_slice(),
        );
        check("application/json", utf8, Charset::Utf8, utf8);
        check("application/json", utf8, Charset::Gbk, gbk);
        check("application/json; charset=GBK", gbk, Charset::Gbk, gbk);
        check("application/json; charset=gbk", gbk, Charset::Utf8, utf8);
        check("text/html;charset=ISO-8859-1", utf8, Charset::Utf8, utf8);
    }

    #[test]
    fn what_the_calls_charset_lacks_is_never_replaced() {
        let reply = reply("application/json", "{\"a\":\"😀\"}".as_bytes());
        let error = in_charset(&reply, Charset::Gbk).expect_err("GBK has no emoji");
        assert_eq!(error.kind(), "character-missing");
    }

    #[test]
    fn a_call_is_fresh_for_25_hours_either_way() {
        const NOW: i64 = 1_790_000_000_000;
        for (sent_at, expected) in [
            (NOW, true),
            (NOW - FRESH_MS, true),
            (NOW + FRESH_MS, true),
            (NOW - FRESH_MS - 1, false),
            (NOW + FRESH_MS + 1, false),
            (i64::MIN, false),
            (i64::MAX, false),
        ] {
            assert_eq!(is_fresh(sent_at, NOW), expected, "{sent_at}");
        }
    }

    #[tokio::test]
    async fn what_cannot_be_signed_is_still_an_answer() {
        let answer = not_signed(&SignError::Overloaded, Charset::Gbk);
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(
            answer.headers()[CONTENT_TYPE],
            "application/json;charset=GBK"
        );
        let body = http_body_util::BodyExt::collect(answer.into_body()).await;
        assert_eq!(body.expect("whole").to_bytes(), UNAVAILABLE);
    }

    #[test]
    fn our_own_answers_are_objects() {
        for text in [REFUSED, UNAVAILABLE] {
            for charset in [Charset::Utf8, Charset::Gbk] {
                assert!(SpiAnswer::new(text.as_bytes(), charset).is_ok());
            }
        }
    }
}
