//! The whole: wires the parts, binds listeners, runs, drains. The one place that sees all.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use http_body_util::Full;
use hyper::body::Body;
use tokio::sync::watch;

use crate::admin::error::AdminError;
use crate::admin::inbox;
use crate::admin::inbox::{EntryView, ReverifyReport};
use crate::admin::store::AdminBody;
use crate::config::Config;
use crate::config::listen::Listen;
use crate::config::token::RefreshMode;
use crate::net::body::BoxError;
use crate::net::listener::Listener;
use crate::net::shutdown::Shutdown;
use crate::protocol::params::Params;
use crate::proxy::error::ProxyError;
use crate::store::Store;
use crate::token::{Pace, Tokens};

mod audit;
mod builder;
mod generation;
mod lasting;
mod lifecycle;
mod means;
mod promotions;
mod pruning;
mod registration;
mod reload;
mod reply_key;
mod request;
mod tls;
mod traces;

#[cfg(feature = "cli")]
pub(crate) use audit::{AuditBeside, open_audit};
pub use builder::{BuildError, SidecarBuilder};
use generation::Generation;
use lasting::Lasting;
pub use lifecycle::UncleanEnd;
pub use reload::ConfigSource;
#[cfg(feature = "cli")]
pub(crate) use reply_key::read as reply_key;
pub use request::{CallReply, CallRequest};
use tls::Identities;
#[cfg(feature = "cli")]
pub(crate) use tls::listener_certificate_ends;
pub use tls::unusable_files;

/// How often it is tried to leave the admin token, where there was no room.
const ROOM_EVERY: Duration = Duration::from_secs(5);

/// Who opened an audit log that no sidecar which serves opened.
#[cfg(feature = "cli")]
pub(crate) const COMMAND: &str = "command";

/// A sidecar, ready to run. Clones share it.
#[derive(Clone)]
pub struct Sidecar {
    parts: Arc<SidecarParts>,
}

struct SidecarParts {
    lasting: Lasting,
    /// What is in force.
    current: ArcSwap<Generation>,
    /// Its number, for who works in the background.
    generations: watch::Sender<u64>,
    source: Option<Arc<dyn ConfigSource>>,
    /// Held by a reload from its beginning to its end.
    reloading: tokio::sync::Mutex<()>,
}

/// The three bound sockets, one for each trust zone.
#[derive(Debug)]
pub struct Listeners {
    /// For backends.
    pub proxy: Listener,
    /// For Alipay, or the ingress before us.
    pub webhook: Listener,
    /// For operators and Prometheus.
    pub admin: Listener,
}

/// Sockets that a supervisor has bound; the sidecar binds those that are missing.
#[derive(Debug, Default)]
pub struct BoundElsewhere {
    /// For backends.
    pub proxy: Option<Listener>,
    /// For Alipay, or the ingress before us.
    pub webhook: Option<Listener>,
    /// For operators and Prometheus.
    pub admin: Option<Listener>,
}

/// A sidecar whose listeners are bound, not yet serving.
pub struct Bound {
    sidecar: Sidecar,
    listeners: Listeners,
}

impl Sidecar {
    /// Begins a sidecar with this configuration.
    pub fn builder(config: Config) -> SidecarBuilder {
        SidecarBuilder::new(config)
    }

    fn assemble(
        lasting: Lasting,
        generation: Generation,
        source: Option<Arc<dyn ConfigSource>>,
    ) -> Self {
        let high_water = generation.config.delivery.high_water;
        let (number, loaded_at) = (generation.number, generation.loaded_at);
        lasting
            .metrics
            .admin
            .in_force(number, loaded_at, high_water);
        lasting.drain.follow(generation.work());
        let parts = SidecarParts {
            lasting,
            generations: watch::Sender::new(generation.number),
            current: ArcSwap::from_pointee(generation),
            source,
            reloading: tokio::sync::Mutex::default(),
        };
        let sidecar = Self {
            parts: Arc::new(parts),
        };
        sidecar.parts.lasting.hook.set(&sidecar);
        sidecar
    }

    /// What is in force at present.
    fn current(&self) -> Arc<Generation> {
        self.parts.current.load_full()
    }

    /// The configuration in force at present.
    #[must_use]
    pub fn config(&self) -> Config {
        self.current().config.clone()
    }

    /// Begins a call of Alipay's `method` in this process, by the configuration in force now.
    pub fn request(&self, method: &str) -> CallRequest {
        CallRequest::new(self.current().proxy.clone(), method)
    }

    /// Checks the query with which a browser came back to a `return_url`; gives its parameters.
    /// That somebody paid it doesn't show: the notification does.
    ///
    /// # Errors
    /// [`ProxyError`], as `/verify/return` answers it.
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    pub async fn verify_return(&self, query: &str) -> Result<Params, ProxyError> {
        self.current().proxy.verify_return(query).await
    }

    /// Checks what an app's payment gave its front end; gives the JSON that Alipay signed. `app`
    /// tells which of several apps it is for, where it doesn't itself. That somebody paid it
    /// doesn't show: the notification does.
    ///
    /// # Errors
    /// [`ProxyError`], as `/verify/app-result` answers it.
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    pub async fn verify_app_result(
        &self,
        app: Option<&str>,
        result: &str,
    ) -> Result<Bytes, ProxyError> {
        let current = self.current();
        current.proxy.verify_app_result(app, result).await
    }

    /// What the proxy listener serves, to be mounted in a host's own server.
    ///
    /// Who may reach it is the host's business. Without a `[[caller]]` ([`Config::callers`]) whoever does
    /// may call, for every merchant: `proxy.listen` is judged for the listener of our own, and says
    /// nothing of the host's. Name callers where others than one's own backend come this far.
    ///
    /// The rules of the front door hold as they do there. A request with `Origin` or `Sec-Fetch-Site`, or
    /// whose `Host` is neither a loopback name nor in `proxy.allowed_hosts`, is refused, unless it has
    /// the bearer token of a caller.
    ///
    /// Who is connected tells the [`Peer`](crate::net::listener::Peer) that the host puts into the request's extensions. By it alone a
    /// caller with a `uid` is known, and a request from a unix socket let in whatever its `Host`; without
    /// it neither is. It must be what the system says of the connection, never what a request says of
    /// itself.
    ///
    /// A bug ends its own request alone, be it ours or that of a part that was handed in: it is answered
    /// with `internal`.
    #[must_use]
    pub fn proxy_service(&self) -> ProxyService {
        ProxyService(self.clone())
    }

    /// What the webhook listener serves, to be mounted in a host's own server; its paths begin with
    /// `webhook.base_path`.
    ///
    /// Everybody may reach it, since Alipay has to: what isn't signed is refused, and any `Host` will do.
    /// How much is made of what strangers send is bounded for each address and each public network. Both
    /// are told by the [`Peer`](crate::net::listener::Peer) that the host puts into the request's extensions; without it all are one
    /// sender. What was taken is delivered by [`background`](Self::background), or [`run`](Self::run).
    ///
    /// A bug ends its own request alone, be it ours or that of a part that was handed in: it is answered
    /// with 503 and `fail`, so that Alipay sends again.
    #[must_use]
    pub fn webhook_service(&self) -> WebhookService {
        WebhookService(self.clone())
    }

    /// Verifies refused notifications again, once a key was mended: the one of that id, or every
    /// one. What verifies now is in the inbox then, and is delivered by
    /// [`background`](Self::background).
    ///
    /// # Errors
    /// [`AdminError::RefusedUnknown`], or the
    /// store's; doing it again is safe.
    ///
    /// # Cancel safety
    /// Safe: each is accepted and leaves with one commit.
    pub async fn reverify(&self, id: Option<&str>) -> Result<ReverifyReport, AdminError> {
        inbox::reverify(&self.current().webhook, id).await
    }

    /// Shows a notification, accepted or refused, and why its signature holds or doesn't.
    ///
    /// # Errors
    /// [`AdminError::EventUnknown`], or the store's.
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    pub async fn explain(&self, id: &str) -> Result<EntryView, AdminError> {
        let current = self.current();
        inbox::explain(&*self.parts.lasting.store, &current.webhook, id).await
    }

    /// The store, for what this type doesn't offer.
    #[must_use]
    pub fn store(&self) -> Arc<dyn Store> {
        Arc::clone(&self.parts.lasting.store)
    }

    /// The life of merchants' tokens: exchange and refresh by hand, by the configuration in force now.
    #[must_use]
    pub fn tokens(&self) -> Tokens {
        self.current().tokens.clone()
    }

    /// Answers a request as the admin listener does, its token not asked for: for who holds the
    /// sidecar itself, as the command line does where none runs.
    ///
    /// # Cancel safety
    /// A change that was begun may be made although its caller left; each is atomic.
    pub async fn ask_admin(&self, mut request: Request<Full<Bytes>>) -> Response<AdminBody> {
        let current = self.current();
        let bearer = format!("Bearer {}", current.admin_token.get().expose());
        if let Ok(bearer) = HeaderValue::from_str(&bearer) {
            request.headers_mut().insert(header::AUTHORIZATION, bearer);
        }
        current.admin.handle(request).await
    }

    /// Ends once the audit log has all that was told, and the store knows its end.
    ///
    /// # Cancel safety
    /// Safe: it only hurries and watches.
    #[cfg(feature = "cli")]
    pub(crate) async fn audit_written(&self) {
        self.parts.lasting.audit.finished().await;
    }

    /// Binds the three listeners, and leaves the admin token beside the store where none is
    /// configured.
    ///
    /// # Errors
    /// The system's, which names the address or file: a taken port, a certificate that can't be
    /// read.
    pub async fn bind(&self) -> Result<Bound, std::io::Error> {
        self.bind_beside(BoundElsewhere::default()).await
    }

    /// As [`Sidecar::bind`], but for the sockets that are there already.
    ///
    /// # Errors
    /// As [`Sidecar::bind`].
    pub async fn bind_beside(&self, there: BoundElsewhere) -> Result<Bound, std::io::Error> {
        let config = &self.current().config;
        self.bind_on(Listeners {
            proxy: bind("proxy.listen", &config.proxy.listen, there.proxy).await?,
            webhook: bind("webhook.listen", &config.webhook.listen, there.webhook).await?,
            admin: bind("admin.listen", &config.admin.listen, there.admin).await?,
        })
    }

    /// As [`Sidecar::bind`], on sockets that a host has bound.
    ///
    /// # Errors
    /// As [`Sidecar::bind`], but for the sockets.
    pub fn bind_on(&self, listeners: Listeners) -> Result<Bound, std::io::Error> {
        let (current, lasting) = (self.current(), &self.parts.lasting);
        lasting.tls.set(Identities::read(&current.config)?);
        lasting.leave_admin_token(&current.config, &current.admin_token)?;
        lasting.is_bound.store(true, Ordering::Release);
        Ok(Bound {
            sidecar: self.clone(),
            listeners,
        })
    }

    /// Binds, serves and delivers until `shutdown`, then lets what is under way end. The future borrows
    /// nothing of the sidecar, so that it can be a task of its own.
    ///
    /// # Errors
    /// As [`Sidecar::bind`]; and [`UncleanEnd`] in an error of the kind `Other`.
    ///
    /// # Cancel safety
    /// Dropping the future breaks off whatever is under way.
    pub fn run<S>(
        &self,
        shutdown: S,
    ) -> impl Future<Output = Result<(), std::io::Error>> + Send + use<S>
    where
        S: Future<Output = ()> + Send,
    {
        let sidecar = self.clone();
        async move {
            let ended = sidecar.bind().await?.run(shutdown).await;
            ended.map_err(std::io::Error::other)
        }
    }

    async fn keep_ahead(&self, shutdown: &Shutdown) {
        let mut generations = self.parts.generations.subscribe();
        while !shutdown.is_given() {
            let current = self.current();
            let walk = async {
                match current.config.tokens.refresh {
                    RefreshMode::Ahead => {
                        current.tokens.keep_ahead(Pace::default(), shutdown).await
                    }
                    RefreshMode::OnDemand => shutdown.wait().await,
                }
            };
            tokio::select! {
                () = walk => {}
                // The sender lives as long as `self`.
                _ = generations.changed() => {}
            }
        }
    }

    /// Leaves the admin token once there is room, where there was none.
    async fn make_up_for_token(&self, shutdown: &Shutdown) {
        let mut generations = self.parts.generations.subscribe();
        while !shutdown.is_given() {
            if !self.parts.lasting.owes_token() {
                tokio::select! {
                    // The sender lives as long as `self`.
                    _ = generations.changed() => continue,
                    () = shutdown.wait() => return,
                }
            }
            // The pause ends early on shutdown.
            let _ = tokio::time::timeout(ROOM_EVERY, shutdown.wait()).await;
            let sidecar = self.clone();
            let leaving = move || {
                let current = sidecar.current();
                let lasting = &sidecar.parts.lasting;
                lasting.leave_admin_token(&current.config, &current.admin_token)
            };
            match tokio::task::spawn_blocking(leaving).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(error)) => tracing::debug!(%error, "the admin token isn't left yet"),
            }
        }
    }
}

impl std::fmt::Debug for Sidecar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sidecar")
    }
}

impl Bound {
    /// Where the proxy listens.
    #[must_use]
    pub fn proxy_address(&self) -> Listen {
        self.listeners.proxy.address()
    }

    /// Where the webhook listens.
    #[must_use]
    pub fn webhook_address(&self) -> Listen {
        self.listeners.webhook.address()
    }

    /// Where the admin listener listens.
    #[must_use]
    pub fn admin_address(&self) -> Listen {
        self.listeners.admin.address()
    }
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bound({:?})", self.listeners)
    }
}

async fn bind(
    key: &str,
    listen: &Listen,
    there: Option<Listener>,
) -> Result<Listener, std::io::Error> {
    if let Some(listener) = there {
        return Ok(listener);
    }
    let named = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => "; stop who listens there, or choose another",
            _ => "",
        };
        std::io::Error::new(error.kind(), format!("`{key}`: {error}{hint}"))
    };
    Listener::bind(listen).await.map_err(named)
}

/// The proxy as a [`tower_service::Service`]; who may reach it, [`Sidecar::proxy_service`] says. Each request is answered by the configuration in force
/// when it comes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ProxyService(Sidecar);

/// The webhook as a [`tower_service::Service`]; see [`Sidecar::webhook_service`]. Each request is answered by the configuration in force
/// when it comes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WebhookService(Sidecar);

/// Implements the service trait over a type with `handle`.
macro_rules! service {
    ($name:ident, $part:ident) => {
        impl<B> tower_service::Service<Request<B>> for $name
        where
            B: Body<Data = Bytes> + Send + 'static,
            B::Error: Into<BoxError>,
        {
            type Response = Response<Full<Bytes>>;
            type Error = Infallible;
            type Future =
                Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send>>;

            fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
                Poll::Ready(Ok(()))
            }

            fn call(&mut self, request: Request<B>) -> Self::Future {
                let generation = self.0.current();
                Box::pin(async move { Ok(generation.$part.handle(request).await) })
            }
        }
    };
}

service!(ProxyService, proxy);
service!(WebhookService, webhook);
