//! Talks to the admin listener of a running sidecar.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::cli::context::Context;
use crate::cli::exchange::{self, NoReply, Reply};
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::pinned::Trust;
use crate::cli::problem::Refused;
use crate::config::Config;
use crate::config::error::Unread;
use crate::config::listen::Listen;
use crate::net::body::BoxError;
use crate::protocol::secret::Secret;
use crate::sidecar::{BuildError, Sidecar};

/// How long a sidecar that lives may take to say so.
const LIVE: Duration = Duration::from_secs(60);
/// How long what Alipay gave may take to be stored before that is told.
const TOLD_AFTER: Duration = Duration::from_secs(3);
/// What is told then.
const UNSTORED: &str = "what Alipay gave isn't stored yet, and exists in this process alone: make room \
                        on the disk, or mend what it lacks, and leave this running";

/// The admin API: of a running sidecar, or of one that only answers here.
pub(crate) struct AdminClient {
    way: Way,
}

/// The body of an answer, as it comes.
pub(crate) type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// How it is reached.
enum Way {
    /// Nobody runs: a sidecar that neither listens nor delivers.
    Here(Sidecar),
    /// A running sidecar holds the store.
    Listener {
        listen: Listen,
        tls_cert: Option<PathBuf>,
        /// Nothing secret is sent, so nobody has to prove who hears it.
        is_probe: bool,
        token: Option<Secret<String>>,
        /// Why there is none, where its file is there.
        unread: Option<String>,
    },
}

impl AdminClient {
    /// The API at `admin.listen`, with `admin.token` or the token a running sidecar left beside
    /// its store.
    pub(crate) fn new(config: &Config) -> Self {
        let (token, unread) = match config.admin.token.clone() {
            Some(token) => (Some(token), None),
            None => match beside_store(config) {
                Ok(token) => (token, None),
                Err(unread) => (None, Some(unread)),
            },
        };
        let way = Way::Listener {
            listen: config.admin.listen.clone(),
            tls_cert: config.admin.tls_cert.clone(),
            is_probe: false,
            token,
            unread,
        };
        Self { way }
    }

    /// The probes at `admin.listen`, which need no token.
    pub(crate) fn of_probes(config: &Config) -> Self {
        let way = Way::Listener {
            listen: config.admin.listen.clone(),
            tls_cert: config.admin.tls_cert.clone(),
            is_probe: true,
            token: None,
            unread: None,
        };
        Self { way }
    }

    /// The API of the sidecar that runs with this configuration; where none does, the same API in
    /// this process, over the store itself.
    pub(crate) async fn of(context: &Context) -> Result<Self, Failure> {
        let loaded = context.load();
        match Self::running(context, &loaded).await? {
            Some(client) => Ok(client),
            None => Self::over_store(loaded?).await,
        }
    }

    /// The API of the sidecar that runs, if one does, with the configuration as it was `loaded` here;
    /// where secrets of that can't be read here, all else tells where it listens.
    pub(crate) async fn running(
        context: &Context,
        loaded: &Result<Config, Failure>,
    ) -> Result<Option<Self>, Failure> {
        let (client, unread) = match loaded {
            Ok(config) => (Self::new(config), Unread::default()),
            Err(_) => match context.load_what_is_readable() {
                Ok((config, unread)) => (Self::new(&config), unread),
                // Told by whoever loaded it.
                Err(_) => return Ok(None),
            },
        };
        if !client.is_running().await? {
            return Ok(None);
        }
        // It takes nobody without.
        unread.lacks(|key| key == "admin.token")?;
        Ok(Some(client))
    }

    /// The API in this process, over the store itself, whoever listens elsewhere.
    pub(crate) async fn here(context: &Context) -> Result<Self, Failure> {
        Self::over_store(context.load()?).await
    }

    async fn over_store(config: Config) -> Result<Self, Failure> {
        let built = Sidecar::builder(config).for_command().build().await;
        let sidecar = built.map_err(|error| match error {
            BuildError::Configuration(errors) => Failure::Configuration(errors),
            other => Failure::Other(other.into()),
        })?;
        let way = Way::Here(sidecar);
        Ok(Self { way })
    }

    /// Whether somebody listens there at all.
    pub(crate) async fn is_running(&self) -> Result<bool, Failure> {
        match self.send_soon("/livez").await {
            Ok(reply) if reply.status == StatusCode::OK => Ok(true),
            Ok(reply) => {
                let (way, status) = (&self.way, reply.status);
                let text = format!(
                    "who listens at {way} (`admin.listen`) is no sidecar: /livez gave {status}"
                );
                Err(anyhow!(text).into())
            }
            Err(NoReply::NobodyListens) => Ok(false),
            Err(no_reply) => Err(self.failure(no_reply)),
        }
    }

    /// What `GET path` is answered, whatever the status; `None`: nobody listens.
    pub(crate) async fn look(&self, path: &str) -> Result<Option<Reply>, Failure> {
        match self.send_soon(path).await {
            Ok(reply) => Ok(Some(reply)),
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
        Err(self.refusal(&reply).into())
    }

    /// `GET path`, for a body that is read as it comes.
    pub(crate) async fn open(&self, path: &str) -> Result<AnswerBody, Failure> {
        let opened = async {
            let request = self.request(Method::GET, path, Bytes::new())?;
            self.ask(request).await
        };
        let reply = opened.await.map_err(|no_reply| self.failure(no_reply))?;
        if reply.status().is_success() {
            return Ok(reply.into_body());
        }
        let reply = whole(reply).await;
        let reply = reply.map_err(|no_reply| self.failure(no_reply))?;
        Err(self.refusal(&reply).into())
    }

    /// `GET path`, of what takes a sidecar that lives no time.
    async fn send_soon(&self, path: &str) -> Result<Reply, NoReply> {
        let reply = self.send(Method::GET, path, Bytes::new());
        let late = || NoReply::Other(anyhow!("{path} took longer than {} s", LIVE.as_secs()));
        let reply = tokio::time::timeout(LIVE, reply).await;
        reply.unwrap_or_else(|_| Err(late()))
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Reply, NoReply> {
        let request = self.request(method, path, body)?;
        match &self.way {
            Way::Here(_) => whole(self.ask(request).await?).await,
            Way::Listener { listen, .. } => exchange::send(listen, self.way.trust(), request).await,
        }
    }

    /// The reply, its body not read yet.
    async fn ask(&self, request: Request<Full<Bytes>>) -> Result<Response<AnswerBody>, NoReply> {
        match &self.way {
            Way::Here(sidecar) => {
                let reply = sidecar.ask_admin(request).await;
                // The process may end with this: what was bought exists nowhere else.
                let tokens = sidecar.tokens();
                let stored = tokio::time::timeout(TOLD_AFTER, tokens.idle()).await;
                if stored.is_err() {
                    output::complain(UNSTORED);
                    tokens.idle().await;
                }
                sidecar.audit_written().await;
                Ok(reply.map(AnswerBody::new))
            }
            Way::Listener { listen, .. } => {
                let reply = exchange::open(listen, self.way.trust(), request).await?;
                Ok(reply.map(|body| AnswerBody::new(body.map_err(Into::into))))
            }
        }
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
        if let Way::Listener {
            token: Some(token), ..
        } = &self.way
        {
            let bearer = format!("Bearer {}", token.expose());
            request = request.header(header::AUTHORIZATION, bearer);
        }
        let request = request.body(Full::new(body));
        request.map_err(|e| NoReply::Other(e.into()))
    }

    /// What a problem document says, or at least its status.
    fn refusal(&self, reply: &Reply) -> anyhow::Error {
        let document: Option<serde_json::Value> = serde_json::from_slice(&reply.body).ok();
        let member = |name: &str| {
            let document = document.as_ref()?;
            document.get(name)?.as_str().map(str::to_owned)
        };
        let hint = match (reply.status, &self.way) {
            (
                StatusCode::UNAUTHORIZED,
                Way::Listener {
                    unread: Some(unread),
                    ..
                },
            ) => format!("; {unread}"),
            (StatusCode::UNAUTHORIZED, _) => {
                "; is this the configuration the sidecar runs with?".to_owned()
            }
            _ => String::new(),
        };
        let text = match (member("detail"), member("code")) {
            (Some(detail), Some(code)) => format!("the sidecar says {code}: {detail}{hint}"),
            _ => return anyhow!("the sidecar answered {}{hint}", reply.status),
        };
        let document = document.unwrap_or_default();
        Refused { text, document }.into()
    }

    fn failure(&self, no_reply: NoReply) -> Failure {
        no_reply.into_error("sidecar", &self.way).into()
    }
}

impl Way {
    /// Who has to be there, where TLS is spoken.
    fn trust(&self) -> Option<Trust<'_>> {
        match self {
            Self::Here(_) => None,
            Self::Listener {
                tls_cert, is_probe, ..
            } => {
                let cert = tls_cert.as_deref()?;
                Some(match is_probe {
                    true => Trust::Anybody,
                    false => Trust::Holder(cert),
                })
            }
        }
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Here(_) => f.write_str("this process"),
            Self::Listener { listen, .. } => listen.fmt(f),
        }
    }
}

async fn whole(reply: Response<AnswerBody>) -> Result<Reply, NoReply> {
    let (head, body) = reply.into_parts();
    Ok(Reply {
        status: head.status,
        body: exchange::whole(body).await?,
    })
}

/// The token that a running sidecar left beside its store, where it left one, or why that can't be
/// read.
fn beside_store(config: &Config) -> Result<Option<Secret<String>>, String> {
    let path = crate::admin::token::find(&config.store.path);
    match std::fs::read_to_string(&path).map(Zeroizing::new) {
        Ok(token) => Ok(Some(Secret::new(token.trim_end().to_owned()))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!(
            "its token {} can't be read: {error}",
            path.display()
        )),
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
