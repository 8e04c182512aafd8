//! What operators and Prometheus see: probes, metrics and the JSON API.
//!
//! `/api` always needs the bearer token. Tokens of merchants are never shown; a fingerprint
//! stands for them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use serde::Serialize;
use tokio::sync::Notify;

use crate::audit::Audit;
use crate::clock::Clock;
use crate::config::upstream::UpstreamConfig;
use crate::gateway::app::Apps;
use crate::model::app::App;
use crate::net::body::{self, BoxError, Within};
use crate::net::client::Client;
use crate::net::head::{self, HeadFault};
use crate::net::listener::Peer;
use crate::proxy::front_door;
use crate::store::Store;
use crate::token::Tokens;
use crate::webhook::Webhook;

pub mod apps;
mod audit_line;
pub mod authorizations;
pub mod configuration;
mod console;
pub mod drain;
pub mod error;
pub mod export;
pub mod health;
pub mod import;
pub mod inbox;
mod json;
pub mod look;
mod merchant_form;
mod merchant_record;
pub mod merchants;
pub mod metrics;
pub mod openapi;
mod operations;
pub mod page;
pub(crate) mod problem;
pub mod prune;
pub mod replay;
pub(crate) mod routes;
pub mod sealing;
pub mod store;
pub mod token;

use configuration::Configuration;
use drain::Drain;
use health::Health;
use metrics::Metrics;
use operations::{Admission, Does};
use problem::Problem;
use store::AdminBody;
use token::TokenInForce;

/// The largest body taken: an import of a hundred thousand merchants.
const MAX_BODY: usize = 64 << 20;

/// The admin service. Clones share everything.
#[derive(Clone)]
pub struct Admin {
    parts: Arc<AdminParts>,
}

/// What the admin service works with.
pub struct AdminParts {
    /// Told what operators change and see.
    pub audit: Audit,
    /// Takes the sidecar out of service.
    pub drain: Drain,
    /// Answers probes.
    pub health: Health,
    /// Renders `/metrics`.
    pub metrics: Metrics,
    /// The bearer token of `/api`.
    pub token: TokenInForce,
    /// `Host` names besides loopback ones, for whoever has no token yet.
    pub allowed_hosts: Vec<String>,
    /// Whether only this host can reach the listener: then `/metrics` needs no token.
    pub is_local: bool,
    /// Where records are kept.
    pub store: Arc<dyn Store>,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// The apps of the configuration, which win over stored ones.
    pub configured: Vec<App>,
    /// Where Alipay is.
    pub upstream: UpstreamConfig,
    /// The configuration in force.
    pub configuration: Arc<dyn Configuration>,
    /// The apps that can sign.
    pub apps: Apps,
    /// Asks Alipay about tokens.
    pub tokens: Tokens,
    /// Makes links, as it is configured at the time, and verifies refused notifications again.
    pub webhook: Webhook,
    /// How long delivered notifications are kept unless the operator says otherwise.
    pub retain_delivered: Duration,
    /// Told when a delivery is owed again.
    pub wake: Arc<Notify>,
    /// Looks at the public address.
    pub client: Client,
}

impl Admin {
    /// An admin service made of `parts`.
    #[must_use]
    pub fn new(parts: AdminParts) -> Self {
        Self {
            parts: Arc::new(parts),
        }
    }

    /// Answers one request.
    ///
    /// # Cancel safety
    /// A change that was begun may be made although its caller left; each is atomic.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<AdminBody>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        let request_id = uuid::Uuid::now_v7().to_string();
        let response = finished(self.answer(&head, body).await, &request_id);
        let is_operator = self.authenticate(&head).is_ok();
        let answered = (request_id.as_str(), response.status());
        audit_line::tell(&self.parts.audit, (&head, is_operator), answered);
        response
    }

    async fn answer<B>(&self, head: &Parts, body: B) -> Result<Response<AdminBody>, Problem>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        check_clear(head)?;
        let path = head.uri.path();
        let is_api = path.starts_with("/api/");
        // Without the token nobody learns what there is.
        if is_api {
            self.admit(head)?;
        }
        if let Some(file) = console::file(path) {
            return match head.method {
                // Of an answer to HEAD no body is sent.
                Method::GET | Method::HEAD => Ok(file.map(AdminBody::Whole)),
                _ => Err(Problem::method_not_allowed("GET, HEAD".to_owned())),
            };
        }
        let asked = operations::find(&head.method, path)?;
        let operation = asked.operation;
        if operation.admission() == Admission::OperatorFromAfar && !self.parts.is_local {
            self.authenticate(head)?;
        }
        // A copy of the store begins at once, whatever else is sent.
        let body = match is_api && operation.does != Does::Backup {
            true => body::read(body, MAX_BODY, Within::of(&head.extensions))
                .await
                .map_err(|error| Problem::of_body(&error))?,
            false => Bytes::new(),
        };
        routes::answer(&self.parts, (&asked, head), &body).await
    }

    /// Lets who has the token in; a browser or a foreign `Host` is told so first.
    fn admit(&self, head: &Parts) -> Result<(), Problem> {
        let authenticated = self.authenticate(head);
        if authenticated.is_err() {
            front_door::check_origin(head, &self.parts.allowed_hosts)?;
        }
        authenticated
    }

    fn authenticate(&self, head: &Parts) -> Result<(), Problem> {
        match head::bearer(&head.headers) {
            Some(given) if token::matches(&self.parts.token.get(), given) => Ok(()),
            _ => Err(Problem::unauthenticated()),
        }
    }
}

/// Refuses what a server before us may have read in another way. Which `Host` may ask for what is
/// under `/api` depends on the token, and is judged with it.
fn check_clear(head: &Parts) -> Result<(), Problem> {
    if head.headers.contains_key(CONTENT_ENCODING) {
        return Err(Problem::encoded());
    }
    let is_tcp = matches!(head.extensions.get(), Some(Peer::Tcp(_)));
    match head::check(head, &["authorization"]) {
        Ok(()) => Ok(()),
        Err(HeadFault::Host | HeadFault::Target)
            if !is_tcp || head.uri.path().starts_with("/api/") =>
        {
            Ok(())
        }
        Err(fault) => Err(Problem::of_head(fault)),
    }
}

/// The answer with its name; a problem in its own form.
fn finished(answer: Result<Response<AdminBody>, Problem>, request_id: &str) -> Response<AdminBody> {
    let mut response =
        answer.unwrap_or_else(|problem| problem.respond(request_id).map(AdminBody::Whole));
    if let Ok(value) = HeaderValue::from_str(request_id) {
        response
            .headers_mut()
            .insert("alipay-sidecar-request-id", value);
    }
    response
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Admin")
    }
}

fn text(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Full<Bytes>> {
    // The views are plain structs, which always serialise.
    text(
        status,
        "application/json; charset=utf-8",
        serde_json::to_vec(body).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: (&str, &str) = ("host", "127.0.0.1:2090");

    fn is_clear(peer: Peer, target: &str, fields: &[(&str, &str)]) -> bool {
        let mut request = Request::get(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (mut head, ()) = request.body(()).expect("a request").into_parts();
        head.extensions.insert(peer);
        check_clear(&head).is_ok()
    }

    #[test]
    fn over_tcp_a_doubtful_host_is_judged_here_or_with_the_token() {
        let tcp = Peer::Tcp("127.0.0.1:4711".parse().expect("an address"));
        assert!(is_clear(tcp, "/metrics", &[HERE]));
        for path in ["/", "/livez", "/metrics", "/api"] {
            assert!(!is_clear(tcp, path, &[HERE, HERE]), "{path}");
        }
        assert!(!is_clear(tcp, "http://x.example/metrics", &[HERE]));
        assert!(is_clear(tcp, "/api/apps", &[HERE, HERE]));
        assert!(is_clear(tcp, "http://x.example/api/apps", &[HERE]));
    }

    #[test]
    fn on_a_unix_socket_the_host_says_nothing() {
        let unix = Peer::Unix { uid: None };
        for path in ["/metrics", "/api/apps"] {
            assert!(is_clear(unix, path, &[]), "{path}");
            assert!(is_clear(unix, path, &[HERE, HERE]), "{path}");
            let doubtful = [("connection", "authorization")];
            assert!(!is_clear(unix, path, &doubtful), "{path}");
        }
    }
}
