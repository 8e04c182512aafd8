//! Talks to the admin listener of a running sidecar.

use std::path::PathBuf;

use anyhow::anyhow;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use crate::cli::exchange::{self, NoReply, Reply};
use crate::cli::failure::Failure;
use crate::config::Config;
use crate::config::listen::Listen;
use crate::protocol::secret::Secret;

/// The admin API of a running sidecar.
pub(crate) struct AdminClient {
    listen: Listen,
    tls_cert: Option<PathBuf>,
    token: Option<Secret<String>>,
}

impl AdminClient {
    /// The API at `admin.listen`, with `admin.token` or the token a running sidecar left beside
    /// its store.
    pub(crate) fn new(config: &Config) -> Self {
        let beside_store = || {
            let path = crate::admin::token::path(&config.store.path);
            let token = std::fs::read_to_string(path).ok()?;
            Some(Secret::new(token.trim_end().to_owned()))
        };
        Self {
            listen: config.admin.listen.clone(),
            tls_cert: config.admin.tls_cert.clone(),
            token: config.admin.token.clone().or_else(beside_store),
        }
    }

    /// Whether somebody listens there at all.
    pub(crate) async fn is_running(&self) -> Result<bool, Failure> {
        match self.send(Method::GET, "/livez", Bytes::new()).await {
            Ok(reply) if reply.status == StatusCode::OK => Ok(true),
            Ok(reply) => {
                let (listen, status) = (&self.listen, reply.status);
                let text = format!(
                    "who listens at {listen} (`admin.listen`) is no sidecar: /livez gave {status}"
                );
                Err(anyhow!(text).into())
            }
            Err(NoReply::NobodyListens) => Ok(false),
            Err(no_reply) => Err(self.failure(no_reply)),
        }
    }

    /// The status of `GET path`; `None`: nobody listens.
    pub(crate) async fn status(&self, path: &str) -> Result<Option<StatusCode>, Failure> {
        match self.send(Method::GET, path, Bytes::new()).await {
            Ok(reply) => Ok(Some(reply.status)),
            Err(NoReply::NobodyListens) => Ok(None),
            Err(no_reply) => Err(self.failure(no_reply)),
        }
    }

    /// `GET path`, read as JSON.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        parse(&self.call(Method::GET, path, Bytes::new()).await?)
    }

    /// `method path` with a body, the reply read as JSON.
    pub(crate) async fn change<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> Result<T, Failure> {
        parse(&self.call(method, path, Bytes::from(body)).await?)
    }

    /// `method path` without a body, the reply not looked at.
    pub(crate) async fn order(&self, method: Method, path: &str) -> Result<(), Failure> {
        self.call(method, path, Bytes::new()).await.map(|_| ())
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, Failure> {
        let sent = self.send(method, path, body).await;
        let reply = sent.map_err(|no_reply| self.failure(no_reply))?;
        if reply.status.is_success() {
            return Ok(reply.body);
        }
        Err(refusal(&reply).into())
    }

    /// `GET path`, for a body that is read as it comes.
    pub(crate) async fn open(&self, path: &str) -> Result<Incoming, Failure> {
        let opened = async {
            let request = self.request(Method::GET, path, Bytes::new())?;
            exchange::open(&self.listen, self.tls_cert.as_deref(), request).await
        };
        let reply = opened.await.map_err(|no_reply| self.failure(no_reply))?;
        let status = reply.status();
        if status.is_success() {
            return Ok(reply.into_body());
        }
        let body = exchange::whole(reply.into_body()).await;
        let body = body.map_err(|no_reply| self.failure(no_reply))?;
        Err(refusal(&Reply { status, body }).into())
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Reply, NoReply> {
        let request = self.request(method, path, body)?;
        exchange::send(&self.listen, self.tls_cert.as_deref(), request).await
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, NoReply> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            let bearer = format!("Bearer {}", token.expose());
            request = request.header(header::AUTHORIZATION, bearer);
        }
        let request = request.body(Full::new(body));
        request.map_err(|e| NoReply::Other(e.into()))
    }

    fn failure(&self, no_reply: NoReply) -> Failure {
        no_reply.into_error("sidecar", &self.listen).into()
    }
}

/// What a problem document says, or at least its status.
fn refusal(reply: &Reply) -> anyhow::Error {
    let document: Option<serde_json::Value> = serde_json::from_slice(&reply.body).ok();
    let member = |name: &str| {
        let document = document.as_ref()?;
        document.get(name)?.as_str().map(str::to_owned)
    };
    let hint = match reply.status {
        StatusCode::UNAUTHORIZED => "; is this the configuration the sidecar runs with?",
        _ => "",
    };
    match (member("detail"), member("code")) {
        (Some(detail), Some(code)) => anyhow!("the sidecar says {code}: {detail}{hint}"),
        _ => anyhow!("the sidecar answered {}{hint}", reply.status),
    }
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        anyhow!("the sidecar's answer isn't understood ({error}); is it another version?").into()
    })
}

/// `text` as one segment of a path or one value of a query.
pub(crate) fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        other => format!("%{other:02X}"),
    };
    text.bytes().map(encode).collect()
}
