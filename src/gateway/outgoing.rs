//! One signed request on its way: its bytes, and how often it may be sent.

use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::Full;

use crate::gateway::error::{GatewayError, Outcome};
use crate::gateway::upload::UploadBody;
use crate::net::client::{Client, Reply, SendCause};

/// How often a pure query is tried in all, within its deadline.
const QUERY_TRIES: usize = 3;
/// What we call ourselves to Alipay.
const AGENT: &str = concat!("alipay-sidecar/", env!("CARGO_PKG_VERSION"));

/// A signed request, ready to be sent.
pub(super) struct Outgoing {
    method: Method,
    url: String,
    headers: HeaderMap,
    body: OutgoingBody,
    tries: usize,
}

/// The body of a request.
pub(super) enum OutgoingBody {
    Plain(Bytes),
    Upload(UploadBody),
}

/// Whether a call may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repetition {
    /// A pure query: after transport failures.
    Harmless,
    /// Anything else: never, once bytes may have left.
    Never,
}

impl Outgoing {
    pub(super) fn new(method: Method, url: String, repetition: Repetition) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        Self {
            method,
            url,
            headers,
            body: OutgoingBody::Plain(Bytes::new()),
            tries: match repetition {
                Repetition::Harmless => QUERY_TRIES,
                Repetition::Never => 1,
            },
        }
    }

    pub(super) fn header(mut self, name: HeaderName, value: &str) -> Result<Self, GatewayError> {
        let value = HeaderValue::from_str(value).map_err(http::Error::from)?;
        self.headers.insert(name, value);
        Ok(self)
    }

    pub(super) fn form(self, content_type: &str, body: Bytes) -> Result<Self, GatewayError> {
        let body = OutgoingBody::Plain(body);
        Self { body, ..self }.header(CONTENT_TYPE, content_type)
    }

    pub(super) fn upload(self, body: UploadBody) -> Result<Self, GatewayError> {
        let content_type = body.content_type();
        let body = OutgoingBody::Upload(body);
        Self { body, ..self }.header(CONTENT_TYPE, &content_type)
    }

    /// Sends it until there is a reply; a pure query up to three times, after transport failures
    /// alone.
    pub(super) async fn send(
        &self,
        client: &Client,
        deadline: Instant,
    ) -> Result<Reply, GatewayError> {
        let mut outcome = Outcome::NotSent;
        for last in (0..self.tries).rev() {
            let remaining = deadline.saturating_duration_since(Instant::now());
            // A request begun now could still be handed to a connection, and leave too late.
            if remaining.is_zero() {
                return Err(GatewayError::Timeout { outcome });
            }
            let sent = match &self.body {
                OutgoingBody::Plain(body) => {
                    let request = self.request(Full::new(body.clone()))?;
                    client.send(request, remaining).await
                }
                OutgoingBody::Upload(upload) => {
                    let mut request = self.request(upload.read())?;
                    let length = HeaderValue::from(upload.len());
                    request.headers_mut().insert(CONTENT_LENGTH, length);
                    client.send(request, remaining).await
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

    fn request<B>(&self, body: B) -> Result<Request<B>, GatewayError> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.url)
            .body(body)?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }
}
