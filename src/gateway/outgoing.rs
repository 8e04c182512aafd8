//! One signed request on its way: its bytes, and how often it may be sent.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Uri};
use http_body_util::Full;

use crate::gateway::error::{GatewayError, Outcome};
use crate::gateway::upload::UploadBody;
use crate::net::client::{Client, Reply, SendCause, SendError};
use crate::telemetry::span::{Kind, Span, method_name};

/// How often a pure query is tried in all, within its deadline.
const QUERY_TRIES: usize = 3;
/// What we call ourselves to Alipay.
const AGENT: &str = concat!("alipay-sidecar/", env!("CARGO_PKG_VERSION"));

/// No URL may be longer, bytes: no HTTP library here takes more, and no gateway as much.
const LONGEST_URL: usize = 65_534;

/// A signed request, ready to be sent.
pub(super) struct Outgoing {
    method: Method,
    url: String,
    headers: HeaderMap,
    body: OutgoingBody,
    span: Span,
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

/// How often a call may still be sent, and what its tries have come to.
pub(super) struct Tries {
    left: usize,
    outcome: Outcome,
    /// How the one before failed.
    failed: Option<GatewayError>,
}

impl Tries {
    pub(super) fn of(repetition: Repetition) -> Self {
        Self {
            left: match repetition {
                Repetition::Harmless => QUERY_TRIES,
                Repetition::Never => 1,
            },
            outcome: Outcome::NotSent,
            failed: None,
        }
    }

    /// What is told of a call whose next try could not be made: if bytes had left, how the one before
    /// failed, since that alone says so.
    pub(super) fn instead_of(&mut self, error: GatewayError) -> GatewayError {
        match self.failed.take() {
            Some(failed) if self.outcome == Outcome::Unknown => {
                tracing::warn!(%error, "a query that failed on its way could not be tried again");
                failed
            }
            _ => error,
        }
    }

    /// Whether bytes of an earlier try may have left.
    pub(super) fn outcome(&self) -> Outcome {
        self.outcome
    }
}

/// Whether a request of that method has a body, be it empty.
fn takes_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Host and port of `url`, as it has them: who is asked.
pub(super) fn host_of(url: &str) -> String {
    let url: Option<Uri> = url.parse().ok();
    let host = url.and_then(|url| url.authority().map(ToString::to_string));
    host.unwrap_or_else(|| "Alipay".to_owned())
}

impl Outgoing {
    pub(super) fn new(method: Method, url: String) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        Self {
            method,
            url,
            headers,
            body: OutgoingBody::Plain(Bytes::new()),
            span: Span::default(),
        }
    }

    /// Each try is recorded under `span`. Whose trace that is, Alipay isn't told.
    pub(super) fn within(self, span: &Span) -> Self {
        let span = span.clone();
        Self { span, ..self }
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

    /// Sends it until there is a reply, or no try is left: a pure query is sent up to three times,
    /// after transport failures alone.
    pub(super) async fn send(
        &self,
        client: &Client,
        (deadline, repetition): (Instant, Repetition),
    ) -> Result<Reply, GatewayError> {
        let mut tries = Tries::of(repetition);
        loop {
            if let Some(reply) = self.send_once(client, (deadline, &mut tries)).await? {
                return Ok(reply);
            }
        }
    }

    /// Sends it once; `None`: it failed on the way, and another try is left.
    pub(super) async fn send_once(
        &self,
        client: &Client,
        (deadline, tries): (Instant, &mut Tries),
    ) -> Result<Option<Reply>, GatewayError> {
        let remaining = deadline.saturating_duration_since(Instant::now());
        let outcome = tries.outcome;
        // A request begun now could still be handed to a connection, and leave too late.
        if remaining.is_zero() || tries.left == 0 {
            let host = self.host();
            return Err(GatewayError::Timeout { host, outcome });
        }
        tries.left -= 1;
        let error = match self.transmit(client, remaining).await? {
            Ok(reply) => return Ok(Some(reply)),
            Err(error) => error,
        };
        let transport = matches!(
            error.cause,
            SendCause::Broken { .. } | SendCause::Connect { .. }
        );
        let error = GatewayError::of_sending(self.host(), error).no_better_than(outcome);
        if tries.left == 0 || !transport || Instant::now() >= deadline {
            return Err(error);
        }
        tries.outcome = error.outcome();
        tries.failed = Some(error);
        Ok(None)
    }

    fn host(&self) -> String {
        host_of(&self.url)
    }

    async fn transmit(
        &self,
        client: &Client,
        time: Duration,
    ) -> Result<Result<Reply, SendError>, GatewayError> {
        let span = self.span.child(Kind::Client, method_name(&self.method));
        span.set_method(&self.method);
        span.set_server(&self.url);
        let sent = self.put(client, time).await?;
        match &sent {
            Ok(reply) => span.set_status(reply.status.as_u16()),
            Err(error) => span.fail(error.cause.kind()),
        }
        Ok(sent)
    }

    async fn put(
        &self,
        client: &Client,
        time: Duration,
    ) -> Result<Result<Reply, SendError>, GatewayError> {
        match &self.body {
            OutgoingBody::Plain(body) => {
                let mut request = self.request(Full::new(body.clone()))?;
                if body.is_empty() && takes_body(&self.method) {
                    // Said of an empty body, too: some servers take a POST without for unclear.
                    let none = HeaderValue::from_static("0");
                    request.headers_mut().insert(CONTENT_LENGTH, none);
                }
                Ok(client.send(request, time).await)
            }
            OutgoingBody::Upload(upload) => {
                let mut request = self.request(upload.read())?;
                let length = HeaderValue::from(upload.len());
                request.headers_mut().insert(CONTENT_LENGTH, length);
                Ok(client.send(request, time).await)
            }
        }
    }

    fn request<B>(&self, body: B) -> Result<Request<B>, GatewayError> {
        if self.url.len() > LONGEST_URL {
            return Err(GatewayError::UrlTooLong);
        }
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.url)
            .body(body)?;
        request.headers_mut().clone_from(&self.headers);
        Ok(request)
    }
}
