//! The HTTP client, towards Alipay and towards the backend.
//!
//! It follows no redirect, reads no proxy environment variable, and never sends a request twice
//! but for what hyper-util knows never left. What matters most about a failure is told: whether
//! bytes had left.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, Uri};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Body;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as PooledClient;
use hyper_util::client::legacy::connect::{HttpConnector, capture_connection};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::net::body::{self, BodyError, BoxError};
use crate::net::egress::{Egress, HttpProxy, NoProxy, ProxyError};
use crate::net::handshake;

/// How long an idle connection is kept: below Alipay's own limit, so that a reused connection is
/// alive, and half of the 15 s within which the pool shrinks (contract §11), because the pool looks at
/// its connections no more often than this.
const POOL_IDLE: Duration = Duration::from_secs(7);

/// A pooled HTTP/1.1 client with deadlines. Clones share the pool.
#[derive(Debug, Clone)]
pub struct Client {
    pool: PooledClient<TimedConnector, OutBody>,
    max_reply: usize,
}

type OutBody = UnsyncBoxBody<Bytes, BoxError>;

/// A whole reply. `Debug` shows no content.
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Reply({}, {} bytes)", self.status, self.body.len())
    }
}

/// A request that got no whole reply.
#[derive(Debug, thiserror::Error)]
#[error("{cause}")]
pub struct SendError {
    /// Whether bytes of the request may have left.
    pub left: Left,
    /// What the reply began with, where its body is what failed.
    pub status: Option<StatusCode>,
    /// Why.
    pub cause: SendCause,
}

/// Whether bytes of a request may have left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Left {
    /// Some may have: the other side may have acted.
    Maybe,
    /// None did: there was no connection to send them on.
    No,
}

/// Why a request got no whole reply.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendCause {
    /// The connection ended before the reply did.
    #[error("the connection to {to} broke before the whole reply was there: {}", told(.cause.as_ref()))]
    Broken {
        /// Host and port, as the URL has them.
        to: String,
        /// What failed.
        #[source]
        cause: BoxError,
    },
    /// The reply began, but didn't end before the deadline.
    #[error("the reply did not end within the deadline")]
    Endless,
    /// No connection could be made.
    #[error("no connection to {to} could be made: {}", told(.cause.as_ref()))]
    Connect {
        /// Host and port, as the URL has them.
        to: String,
        /// What failed.
        #[source]
        cause: BoxError,
    },
    /// What came is no HTTP.
    #[error("what {to} answered is no HTTP reply: {}", told(.cause.as_ref()))]
    NotHttp {
        /// Host and port, as the URL has them.
        to: String,
        /// What is wrong with it.
        #[source]
        cause: BoxError,
    },
    /// The reply is larger than allowed.
    #[error("the reply is larger than {0} bytes")]
    ReplyTooLarge(usize),
    /// The deadline passed.
    #[error("there was no whole reply within the deadline")]
    Timeout,
}

impl SendCause {
    /// The fixed word for traces.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Broken { .. } => "broken",
            Self::Connect { .. } => "connect",
            Self::Endless | Self::Timeout => "timeout",
            Self::NotHttp { .. } => "not-http",
            Self::ReplyTooLarge(_) => "too-large",
        }
    }

    /// Why there is no head of a reply from `to`.
    fn of_head(to: String, error: hyper_util::client::legacy::Error) -> Self {
        let source = std::error::Error::source(&error);
        let source = source.and_then(|source| source.downcast_ref::<hyper::Error>());
        match source.is_some_and(hyper::Error::is_parse) {
            true => Self::NotHttp {
                to,
                cause: error.into(),
            },
            false => Self::broken(to, error),
        }
    }

    fn broken(to: String, cause: impl Into<BoxError>) -> Self {
        let cause = cause.into();
        Self::Broken { to, cause }
    }

    /// Why the body of a reply from `to` wasn't read to its end.
    fn of_body(to: String, error: BodyError) -> Self {
        match error {
            BodyError::Broken(source) => Self::broken(to, source),
            BodyError::Timeout(_) => Self::Endless,
            BodyError::TooLarge(limit) => Self::ReplyTooLarge(limit),
            // Those of a reply mean nothing.
            trailers @ BodyError::Trailers => Self::broken(to, trailers),
        }
    }
}

/// The text of the deepest source: "connection refused" tells more than "client error (Connect)".
/// What a proxy did is told before it; of a handshake, what the other side did.
fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let (mut deepest, mut proxy) = (error, None);
    loop {
        proxy = proxy.or_else(|| deepest.downcast_ref::<ProxyError>());
        let Some(source) = deepest.source() else {
            break;
        };
        deepest = source;
    }
    match proxy {
        Some(proxy) if std::error::Error::source(proxy).is_some() => format!("{proxy}: {deepest}"),
        Some(_) | None => handshake::told(deepest).unwrap_or_else(|| deepest.to_string()),
    }
}

/// What a client may be told; everything else is fixed.
#[derive(Debug, Clone)]
pub struct ClientOptions<'a> {
    /// Deadline of TCP, CONNECT and TLS together.
    pub connect_timeout: Duration,
    /// Largest reply body, bytes.
    pub max_reply: usize,
    /// Further roots, PEM.
    pub ca_file: Option<&'a Path>,
}

/// Why a client couldn't be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The address of the proxy isn't one.
    #[error(transparent)]
    Proxy(#[from] NoProxy),
    /// The file of further roots can't be used.
    #[error("{path}: {reason}")]
    Roots {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// rustls refused its own defaults.
    #[error("TLS could not be set up")]
    Tls(#[from] rustls::Error),
}

impl Client {
    /// Makes a client that trusts the roots of Mozilla's programme and those of `ca_file`.
    ///
    /// # Errors
    /// [`ClientError::Roots`] when `ca_file` can't be read or holds no certificate.
    pub fn new(options: &ClientOptions<'_>) -> Result<Self, ClientError> {
        Self::build(options, None)
    }

    /// The same, but every connection goes through `proxy`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn through(proxy: HttpProxy, options: &ClientOptions<'_>) -> Result<Self, ClientError> {
        Self::build(options, Some(proxy))
    }

    fn build(options: &ClientOptions<'_>, proxy: Option<HttpProxy>) -> Result<Self, ClientError> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(options.ca_file)?)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(options.connect_timeout));
        let way = match &proxy {
            Some(proxy) => format!(" through the proxy {proxy}"),
            None => String::new(),
        };
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Egress::new(tcp, proxy));
        let pool = PooledClient::builder(TokioExecutor::new())
            .pool_idle_timeout(POOL_IDLE)
            .pool_timer(TokioTimer::new())
            .build(TimedConnector {
                inner: https,
                limit: options.connect_timeout,
                way: way.into(),
            });
        Ok(Self {
            pool,
            max_reply: options.max_reply,
        })
    }

    /// Sends `request` and reads the whole reply within `deadline`.
    ///
    /// # Errors
    /// [`SendError`], which tells whether bytes had left.
    ///
    /// # Cancel safety
    /// Dropping the future breaks the connection; the other side may have acted.
    pub async fn send<B>(&self, request: Request<B>, deadline: Duration) -> Result<Reply, SendError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let mut request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        let to = request.uri().authority().cloned();
        let to = || to.as_ref().map(ToString::to_string).unwrap_or_default();
        let captured = capture_connection(&mut request);
        let left = || match captured.connection_metadata().as_ref() {
            Some(_) => Left::Maybe,
            None => Left::No,
        };
        let headless = |left, cause| SendError {
            left,
            status: None,
            cause,
        };
        let began = Instant::now();
        let sent = tokio::time::timeout(deadline, self.pool.request(request)).await;
        let head = match sent {
            Err(_) => return Err(headless(left(), SendCause::Timeout)),
            Ok(Err(error)) if error.is_connect() => {
                let (to, cause) = (to(), error.into());
                return Err(headless(Left::No, SendCause::Connect { to, cause }));
            }
            Ok(Err(error)) => return Err(headless(left(), SendCause::of_head(to(), error))),
            Ok(Ok(head)) => head,
        };
        let (head, body) = head.into_parts();
        let remaining = deadline.saturating_sub(began.elapsed());
        // One that says how long it is has an end, and only was too slow.
        let is_finite = body.size_hint().exact().is_some();
        let body = body::read(body, self.max_reply, remaining)
            .await
            .map_err(|error| SendError {
                left: Left::Maybe,
                status: Some(head.status),
                cause: match SendCause::of_body(to(), error) {
                    SendCause::Endless if is_finite => SendCause::Timeout,
                    cause => cause,
                },
            })?;
        Ok(Reply {
            status: head.status,
            headers: head.headers,
            body,
        })
    }
}

fn roots(ca_file: Option<&Path>) -> Result<rustls::RootCertStore, ClientError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let Some(path) = ca_file else {
        return Ok(roots);
    };
    let unusable = |reason: String| ClientError::Roots {
        path: path.display().to_string(),
        reason,
    };
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| unusable(e.to_string()))?;
    if certificates.is_empty() {
        return Err(unusable("holds no PEM certificate".to_owned()));
    }
    for certificate in certificates {
        roots
            .add(certificate)
            .map_err(|e| unusable(e.to_string()))?;
    }
    Ok(roots)
}

/// Bounds TCP, CONNECT and TLS together: hyper's own connect timeout ends with TCP.
#[derive(Debug, Clone)]
struct TimedConnector {
    inner: HttpsConnector<Egress>,
    limit: Duration,
    /// What the connection goes through, for the error.
    way: Arc<str>,
}

type Connected = <HttpsConnector<Egress> as tower_service::Service<Uri>>::Response;

impl tower_service::Service<Uri> for TimedConnector {
    type Response = Connected;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Connected, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.inner.call(uri);
        let (limit, way) = (self.limit, Arc::clone(&self.way));
        Box::pin(async move {
            tokio::time::timeout(limit, connecting)
                .await
                .map_err(|_| BoxError::from(format!("no connection{way} within {limit:?}")))?
        })
    }
}
