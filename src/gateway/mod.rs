//! A signed call to Alipay's gateway: build → sign → send → verify.
//!
//! What leaves here is signed and what comes back is verified: [`VerifiedReply`] can't be had any
//! other way. The gateway keeps no state of merchants; who the call is for is its caller's part.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;

use crate::clock::Clock;
use crate::net::client::{Client, Reply, SendCause};
use crate::protocol::charset::{self, Charset};
use crate::protocol::envelope::{Envelope, VerifiedEnvelope};
use crate::protocol::request::SignedParams;
use crate::protocol::sign_content;

pub mod app;
pub mod error;
pub mod metrics;
pub mod signer;
pub mod upload;
pub mod v2;

use error::{GatewayError, Outcome};
use metrics::{CallMetrics, Phase};
use upload::UploadBody;
use v2::V2Call;

/// How often a pure query is tried in all, within its deadline.
const QUERY_TRIES: usize = 3;
/// The type of a form body.
const FORM: &str = "application/x-www-form-urlencoded";
/// What we call ourselves to Alipay.
const AGENT: &str = concat!("alipay-sidecar/", env!("CARGO_PKG_VERSION"));

/// Calls Alipay. Clones share the connections.
#[derive(Clone)]
pub struct Gateway {
    client: Client,
    clock: Arc<dyn Clock>,
    metrics: CallMetrics,
}

/// A reply whose signature held, or an error that Alipay doesn't sign.
#[derive(Debug)]
pub struct VerifiedReply {
    /// The body and its parts.
    pub envelope: VerifiedEnvelope,
    /// Alipay's `trace_id` header.
    pub trace_id: Option<String>,
    /// Alipay's `Content-Type` header.
    pub content_type: Option<String>,
}

impl Gateway {
    /// A gateway that sends with `client` and stamps requests by `clock`.
    #[must_use]
    pub fn new(client: Client, clock: Arc<dyn Clock>, metrics: CallMetrics) -> Self {
        Self {
            client,
            clock,
            metrics,
        }
    }

    /// Builds and signs a request without sending it (order strings and pages).
    ///
    /// # Errors
    /// [`GatewayError`] when signing fails; the outcome is always [`Outcome::NotSent`].
    pub async fn sign(&self, call: &V2Call) -> Result<SignedParams, GatewayError> {
        let began = Instant::now();
        let params = call.params(self.clock.now_ms());
        let charset = call.charset.charset();
        // Before the whole is encoded: this error names the parameter.
        params
            .check_writable(charset)
            .map_err(GatewayError::Charset)?;
        let content = charset
            .encode(&sign_content::v2_request(&params))
            .map_err(GatewayError::Charset)?;
        let sign = call.app.signer.sign(content).await?;
        self.metrics.observe(call.api, Phase::Sign, began.elapsed());
        SignedParams::new(params, sign)
            .in_charset(charset)
            .map_err(GatewayError::Charset)
    }

    /// Signs, sends and verifies one call within its timeout.
    ///
    /// A call is sent once; only a pure query is tried again, after transport failures alone.
    ///
    /// # Errors
    /// [`GatewayError`]; its outcome tells whether Alipay may have acted.
    ///
    /// # Cancel safety
    /// Not safe: Alipay may have acted, and nobody would know. Run it in a task of its own.
    pub async fn call(&self, call: &V2Call) -> Result<VerifiedReply, GatewayError> {
        let deadline = Instant::now() + call.timeout;
        let not_sent = || GatewayError::Timeout {
            outcome: Outcome::NotSent,
        };
        let signed = tokio::time::timeout(call.timeout, self.sign(call))
            .await
            .map_err(|_| not_sent())??;
        let began = Instant::now();
        let reply = self.send(call, &signed, deadline).await;
        self.metrics
            .observe(call.api, Phase::Upstream, began.elapsed());
        let began = Instant::now();
        let verified = verify(call, reply?);
        self.metrics
            .observe(call.api, Phase::Verify, began.elapsed());
        verified
    }

    async fn send(
        &self,
        call: &V2Call,
        signed: &SignedParams,
        deadline: Instant,
    ) -> Result<Reply, GatewayError> {
        let url = format!("{}?{}", call.app.endpoints.gateway, signed.query());
        let body = Outgoing::of(call, signed)?;
        let tries = if v2::is_pure_query(&call.method) {
            QUERY_TRIES
        } else {
            1
        };
        let mut outcome = Outcome::NotSent;
        for last in (0..tries).rev() {
            let remaining = deadline.saturating_duration_since(Instant::now());
            // A request begun now could still be handed to a connection, and leave too late.
            if remaining.is_zero() {
                return Err(GatewayError::Timeout { outcome });
            }
            let sent = match &body {
                Outgoing::Form(form) => {
                    let content_type = format!("{FORM};charset={}", call.charset);
                    let request = request(&url, &content_type, Full::new(form.clone()))?;
                    self.client.send(request, remaining).await
                }
                Outgoing::Upload(upload) => {
                    let mut request = request(&url, &upload.content_type(), upload.read())?;
                    let length = HeaderValue::from(upload.len());
                    request.headers_mut().insert(CONTENT_LENGTH, length);
                    self.client.send(request, remaining).await
                }
            };
            let error = match sent {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let transport = matches!(error.cause, SendCause::Broken(_) | SendCause::Connect(_));
            let error = GatewayError::from(error).no_better_than(outcome);
            if last == 0 || !transport || Instant::now() >= deadline {
                return Err(error);
            }
            outcome = error.outcome();
        }
        // `tries` is at least one, so the loop has returned; the deadline is the honest answer.
        Err(GatewayError::Timeout { outcome })
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gateway")
    }
}

/// The body of a call.
enum Outgoing {
    Form(Bytes),
    Upload(UploadBody),
}

impl Outgoing {
    fn of(call: &V2Call, signed: &SignedParams) -> Result<Self, GatewayError> {
        if call.files.is_empty() {
            return Ok(Self::Form(signed.body().into()));
        }
        UploadBody::new(call.charset.clone(), signed.body_parameters(), &call.files)
            .map(Self::Upload)
            .map_err(GatewayError::Charset)
    }
}

fn request<B>(url: &str, content_type: &str, body: B) -> Result<Request<B>, GatewayError> {
    Request::builder()
        .method(Method::POST)
        .uri(url)
        .header(CONTENT_TYPE, content_type)
        .header(USER_AGENT, AGENT)
        .body(body)
        .map_err(GatewayError::Request)
}

/// Turns whatever came back into a verified reply, or refuses it.
fn verify(call: &V2Call, reply: Reply) -> Result<VerifiedReply, GatewayError> {
    // HTTP status is 200 even for business failures; anything else is a transport fault.
    if reply.status != StatusCode::OK {
        return Err(GatewayError::NotAlipay {
            reason: format!("HTTP status {}", reply.status),
        });
    }
    if let Some(encoding) = header(&reply.headers, CONTENT_ENCODING.as_str())
        && !encoding.eq_ignore_ascii_case("identity")
    {
        return Err(GatewayError::NotAlipay {
            reason: "it has a Content-Encoding".to_owned(),
        });
    }
    let content_type = header(&reply.headers, CONTENT_TYPE.as_str());
    let charset = reply_charset(content_type.as_deref(), &reply.body, call.charset.charset());
    let envelope = Envelope::parse_in(reply.body, &call.method, charset)?;
    // Inline, on the async worker: a verification costs a twentieth of a signature, less than
    // two hops to the signing pool would under load.
    let envelope = envelope.verify(&call.app.keys.alipay, call.app.sign_type)?;
    Ok(VerifiedReply {
        envelope,
        trace_id: header(&reply.headers, "trace_id"),
        content_type,
    })
}

/// The charset of a reply: the one its `Content-Type` names. Where that names none of Alipay's, it
/// is UTF-8, as the SDKs take it, unless the bytes aren't: then it is that of the request. (Java's
/// SDK would read rubbish there; a paid call must not be lost to a missing header.)
fn reply_charset(content_type: Option<&str>, body: &[u8], requested: Charset) -> Charset {
    let named = content_type
        .and_then(charset::label_of_content_type)
        .and_then(|label| Charset::from_label(&label).ok());
    named.unwrap_or_else(|| match std::str::from_utf8(body) {
        Ok(_) => Charset::Utf8,
        Err(_) => requested,
    })
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .map(ToOwned::to_owned)
}

/// The largest reply taken from Alipay, bytes; the largest bills' pages stay well below it.
pub const MAX_REPLY: usize = 8 << 20;

/// The deadline of a call: what is configured, or less where its caller asks for less.
#[must_use]
pub fn deadline(configured: Duration, asked: Option<Duration>) -> Duration {
    asked.map_or(configured, |asked| asked.min(configured))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_charset_of_a_reply_is_its_own_then_utf_8_then_that_of_the_request() {
        let (gbk, utf8) = (&b"\xd6\xd0"[..], "中".as_bytes());
        for (content_type, body, requested, expected) in [
            (
                Some("text/html;charset=GBK"),
                utf8,
                Charset::Utf8,
                Charset::Gbk,
            ),
            (
                Some("text/html;charset=utf-8"),
                gbk,
                Charset::Gbk,
                Charset::Utf8,
            ),
            (Some("text/html"), utf8, Charset::Gbk, Charset::Utf8),
            (Some("text/html;charset=x"), gbk, Charset::Gbk, Charset::Gbk),
            (None, gbk, Charset::Gbk, Charset::Gbk),
            (None, gbk, Charset::Utf8, Charset::Utf8),
        ] {
            let found = reply_charset(content_type, body, requested);
            assert_eq!(found, expected, "{content_type:?} {body:x?}");
        }
    }
}
