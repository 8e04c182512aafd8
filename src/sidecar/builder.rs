//! From a configuration to a sidecar that is ready to run.

use std::sync::Arc;
use std::time::Duration;

use prometheus::Registry;
use prometheus::process_collector::ProcessCollector;

use crate::admin::drain::{Drain, DrainParts};
use crate::admin::health::Health;
use crate::admin::metrics::Metrics;
use crate::admin::{Admin, AdminParts, token};
use crate::audit::metrics::AuditMetrics;
use crate::audit::{Audit, OpenError};
use crate::certificates::metrics::CertificateMetrics;
use crate::certificates::{CertificateParts, Certificates};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::config::error::ConfigErrors;
use crate::config::token::UnknownToken;
use crate::delivery::Dispatcher;
use crate::delivery::metrics::DeliveryMetrics;
use crate::gateway::app::{AppError, Apps, Signers};
use crate::gateway::metrics::CallMetrics;
use crate::gateway::platform::CertificateSource;
use crate::gateway::signer::LocalSigners;
use crate::gateway::{Gateway, MAX_REPLY};
use crate::install_key::InstallKey;
use crate::net::client::{Client, ClientError, ClientOptions};
use crate::net::shutdown::{Ending, Gate};
use crate::protocol::secret::Secret;
use crate::proxy::caller::Callers;
use crate::proxy::calls::{CallRecordMetrics, CallRecords};
use crate::proxy::events::Events;
use crate::proxy::logins::Logins;
use crate::proxy::metrics::ProxyMetrics;
use crate::proxy::notify_url::NotifyUrlRule;
use crate::proxy::reply_signature::{REFUSALS, ReplySigner};
use crate::proxy::resolve::Resolver;
use crate::proxy::{Limits, Proxy, ProxyParts};
use crate::sidecar::audit::{AuditBeside, open_audit};
use crate::sidecar::{Sidecar, SidecarParts};
use crate::store::Store;
use crate::store::embedded::{EmbeddedStore, OpenOptions};
use crate::store::error::StoreError;
use crate::store::seal::{InvalidStoreKey, StoreKey};
use crate::token::metrics::TokenMetrics;
use crate::token::{TokenParts, Tokens};
use crate::webhook::metrics::WebhookMetrics;
use crate::webhook::state::StateKey;
use crate::webhook::{Webhook, WebhookParts};
use crate::workers::Workers;

/// Requests that may wait for a signing thread: more than `proxy.max_in_flight` by default, so
/// that the queue is never the first limit met.
const SIGN_QUEUE: usize = 4096;
/// Deliveries that may wait for a signature: far more than go to as many backends at once.
const SIGNED_DELIVERIES: usize = 1024;
/// How often a locked store is looked at: what a restart may lose of time.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// The largest answer read from a backend, bytes: to a delivery it only has to say `success`, but
/// what it answers to an SPI call may be a list.
const MAX_BACKEND_ANSWER: usize = 1 << 20;

/// Takes what a host wants to hand in; everything has a default.
#[must_use = "a builder does nothing until `build`"]
pub struct SidecarBuilder {
    config: Config,
    clock: Arc<dyn Clock>,
    registry: Registry,
    signers: Option<Arc<dyn Signers>>,
    store: Option<Arc<dyn Store>>,
    wait_for_store: Duration,
    without_audit: bool,
    /// Who opens the audit log, where it isn't a sidecar that serves.
    audit_by: Option<&'static str>,
}

/// Why a sidecar can't be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// An app's keys can't be used.
    #[error(transparent)]
    App(#[from] AppError),
    /// The audit log can't be opened.
    #[error(transparent)]
    Audit(#[from] OpenError),
    /// The client towards Alipay can't be made.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Something is configured that this version doesn't do, or that can't be used.
    #[error(transparent)]
    Configuration(#[from] ConfigErrors),
    /// A metric's name is taken in the registry that was handed in.
    #[error("the metrics could not be registered")]
    Metrics(#[from] prometheus::Error),
    /// The system has no random numbers.
    #[error("no admin token could be made")]
    Random(#[source] std::io::Error),
    /// The store can't be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// `store.key` isn't a key.
    #[error("store.key: {0}")]
    StoreKey(#[from] InvalidStoreKey),
    /// No `store.key` is configured.
    #[error("store.key is missing; `alipay-sidecar init` makes one")]
    StoreKeyMissing,
    /// Threads can't be started.
    #[error("threads could not be started")]
    Threads(#[source] std::io::Error),
}

impl SidecarBuilder {
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            clock: Arc::new(SystemClock),
            registry: Registry::new(),
            signers: None,
            store: None,
            wait_for_store: Duration::ZERO,
            without_audit: false,
            audit_by: None,
        }
    }

    /// Tells the time; default: the machine's clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where metrics are registered; default: a registry of its own.
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    /// What signs; default: threads of our own with the configured keys.
    pub fn signers(mut self, signers: Arc<dyn Signers>) -> Self {
        self.signers = Some(signers);
        self
    }

    /// Where records are kept; default: the file that the configuration names.
    pub fn store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// How long to wait for a store that another process has open, as the sidecar before this one
    /// until its end; default: not at all.
    pub fn wait_for_store(mut self, patience: Duration) -> Self {
        self.wait_for_store = patience;
        self
    }

    /// Has the audit log say that a command opened it, which only answers itself.
    #[cfg(feature = "cli")]
    pub(crate) fn for_command(mut self) -> Self {
        self.audit_by = Some(super::COMMAND);
        self
    }

    /// Keeps no audit log, whatever is configured: for a host that has one of its own, or wants no
    /// files.
    pub fn without_audit(mut self) -> Self {
        self.without_audit = true;
        self
    }

    /// Checks all and starts nothing that listens or delivers.
    ///
    /// # Errors
    /// [`BuildError`]: the first thing that doesn't fit.
    pub async fn build(mut self) -> Result<Sidecar, BuildError> {
        if self.without_audit {
            self.config.telemetry.audit_file = None;
        }
        let config = &self.config;
        if let Some(errors) = ConfigErrors::of_faults(config.unsupported()) {
            return Err(errors.into());
        }
        let store = match self.store {
            Some(store) => store,
            None => Arc::new(open_store(config, &self.clock, self.wait_for_store).await?),
        };
        let signers = match self.signers {
            Some(signers) => signers,
            None => Arc::new(local_signers()?),
        };
        let install_key = install_key(config)?;
        let call_metrics = CallMetrics::register(&self.registry)?;
        let apps = Apps::new(signers);
        let mut all = config.apps.clone();
        all.extend(store.apps().await?);
        apps.replace(&all, &config.upstream)?;
        let certificates = Certificates::new(CertificateParts {
            gateway: Gateway::new(
                upstream_client(config)?,
                Arc::clone(&self.clock),
                call_metrics.clone(),
            ),
            store: Arc::clone(&store),
            clock: Arc::clone(&self.clock),
            timeout: config.upstream.timeout,
            metrics: CertificateMetrics::register(&self.registry)?,
        });
        certificates.recall(&apps.all()).await?;
        let beside = AuditBeside {
            metrics: &AuditMetrics::register(&self.registry)?,
            clock: &self.clock,
            store: &store,
            patience: self.wait_for_store,
            by: self.audit_by,
        };
        let audit = open_audit(config, beside).await?;
        let parts = Common {
            audit,
            certificates,
            call_metrics,
            clock: self.clock,
            registry: self.registry,
            store,
            apps,
            install_key,
        };
        assemble(self.config, parts)
    }
}

impl std::fmt::Debug for SidecarBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SidecarBuilder")
    }
}

/// What every part is made of.
struct Common {
    audit: Audit,
    certificates: Certificates,
    call_metrics: CallMetrics,
    clock: Arc<dyn Clock>,
    registry: Registry,
    store: Arc<dyn Store>,
    apps: Apps,
    install_key: Option<InstallKey>,
}

fn assemble(config: Config, common: Common) -> Result<Sidecar, BuildError> {
    let Common {
        audit,
        certificates,
        call_metrics,
        clock,
        registry,
        store,
        apps,
        install_key,
    } = common;
    // Fails where the system has no such metrics, or where the host registered them already.
    let _ = registry.register(Box::new(ProcessCollector::for_self()));
    super::tls::register_expiry(&config, &apps, &registry)?;
    let source: Arc<dyn CertificateSource> = Arc::new(certificates);
    let gateway = Gateway::new(
        upstream_client(&config)?,
        Arc::clone(&clock),
        call_metrics.clone(),
    )
    .with_certificates(Arc::clone(&source));
    let diagnostics = gateway.diagnostics();
    let dispatcher = Dispatcher::new(
        Arc::clone(&store),
        backend_client(&config)?,
        Arc::clone(&clock),
        &config.delivery,
        DeliveryMetrics::register(&registry)?,
    )
    .with_install_key(install_key.clone());
    let wake = dispatcher.waker();
    let tokens = Tokens::new(TokenParts {
        store: Arc::clone(&store),
        gateway: gateway.clone(),
        apps: apps.clone(),
        clock: Arc::clone(&clock),
        timeout: config.upstream.timeout,
        metrics: TokenMetrics::register(&registry)?,
        remember_users: config.tokens.remember_users,
        wake: Arc::clone(&wake),
    });
    let (hand, ending) = Ending::new();
    let metrics = ProxyMetrics::register(&registry)?;
    let proxy = Proxy::new(ProxyParts {
        callers: Callers::new(&config.callers, &metrics),
        audit: audit.clone(),
        resolver: resolver(&config, &apps, &store, &tokens),
        gateway,
        tokens: tokens.clone(),
        notify_urls: notify_url_rule(&config),
        reply_signer: install_key.map(|key| ReplySigner::new(key, Arc::clone(&clock))),
        calls: CallRecords::new(
            Arc::clone(&store),
            Arc::clone(&clock),
            CallRecordMetrics::register(&registry)?,
        ),
        logins: Logins::default(),
        limits: Limits::new(&config, ending.clone()),
        events: Events::new(dispatcher.puller()),
        metrics,
        call_metrics,
    });
    let webhook_parts = WebhookParts {
        audit: audit.clone(),
        apps: apps.clone(),
        certificates: source,
        diagnostics,
        store: Arc::clone(&store),
        tokens: tokens.clone(),
        clock: Arc::clone(&clock),
        metrics: WebhookMetrics::register(&registry)?,
        state_key: state_key(&config)?,
        asker: dispatcher.asker(),
        wake: Arc::clone(&wake),
        ending: ending.clone(),
    };
    let webhook = Webhook::new(webhook_parts, &config.webhook, &config.delivery);
    let admin_token = admin_token(&config)?;
    let all_apps = apps.clone();
    let drain = Drain::new(DrainParts {
        audit: audit.clone(),
        hand,
        ending: ending.clone(),
        proxy: proxy.clone(),
        tokens: tokens.clone(),
        deliveries: Gate::new(),
        puller: dispatcher.puller(),
        webhook: webhook.clone(),
        store: Arc::clone(&store),
    });
    let admin = Admin::new(AdminParts {
        audit: audit.clone(),
        drain: drain.clone(),
        health: Health::new(apps.clone(), Arc::clone(&store), ending),
        metrics: Metrics::register(&registry)?.with_high_water(config.delivery.high_water),
        token: admin_token.clone(),
        allowed_hosts: config.proxy.allowed_hosts.clone(),
        is_local: config.admin.listen.is_local(),
        store: Arc::clone(&store),
        clock: Arc::clone(&clock),
        configured: config.apps.clone(),
        upstream: config.upstream.clone(),
        apps,
        tokens: tokens.clone(),
        webhook: webhook.clone(),
        retain_delivered: config.delivery.retain_delivered,
        wake,
    });
    let parts = SidecarParts {
        audit,
        apps: all_apps,
        config,
        clock,
        store,
        tokens,
        proxy,
        webhook,
        dispatcher,
        drain,
        admin,
        admin_token,
    };
    Ok(Sidecar {
        parts: Arc::new(parts),
    })
}

fn resolver(config: &Config, apps: &Apps, store: &Arc<dyn Store>, tokens: &Tokens) -> Resolver {
    let default = config.proxy.default_merchant.clone();
    let resolver = Resolver::new(apps.clone(), Arc::clone(store) as _, default);
    match config.tokens.unknown {
        UnknownToken::Learn => resolver.with_learner(tokens.clone()),
        UnknownToken::Refuse => resolver,
    }
}

fn local_signers() -> Result<LocalSigners, BuildError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = Workers::start("sign", threads, SIGN_QUEUE).map_err(BuildError::Threads)?;
    Ok(LocalSigners::new(workers))
}

/// What signs replies and deliveries anew, where that is configured. Each call under way has a place
/// in its queue, so that no reply is ever refused its signature.
fn install_key(config: &Config) -> Result<Option<InstallKey>, BuildError> {
    let Some(key) = super::reply_key::read(config)? else {
        return Ok(None);
    };
    let places = config.proxy.max_in_flight + REFUSALS + SIGNED_DELIVERIES;
    let install = InstallKey::start(key, places).map_err(BuildError::Threads)?;
    tracing::info!(
        public_key = install.public_key().fingerprint(),
        "replies and deliveries are signed with the install key"
    );
    Ok(Some(install))
}

/// Opens the store, within `patience` of its being locked.
async fn open_store(
    config: &Config,
    clock: &Arc<dyn Clock>,
    patience: Duration,
) -> Result<EmbeddedStore, BuildError> {
    let key = config
        .store
        .key
        .as_ref()
        .ok_or(BuildError::StoreKeyMissing)?;
    let options = OpenOptions {
        path: config.store.path.clone(),
        key: StoreKey::from_base64(key.expose())?,
        cache_bytes: config.store.cache,
        clock: Arc::clone(clock),
    };
    let until = tokio::time::Instant::now() + patience;
    let mut told = false;
    loop {
        match EmbeddedStore::open(options.clone()) {
            Err(StoreError::Locked { path }) if tokio::time::Instant::now() < until => {
                if !std::mem::replace(&mut told, true) {
                    let (path, seconds) = (path.display(), patience.as_secs());
                    tracing::info!(%path, seconds, "waiting for another process to close the store");
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            opened => return Ok(opened?),
        }
    }
}

pub(super) fn upstream_client(config: &Config) -> Result<Client, ClientError> {
    Client::new(&ClientOptions {
        connect_timeout: config.upstream.connect_timeout,
        max_reply: MAX_REPLY,
        ca_file: config.upstream.ca_file.as_deref(),
    })
}

fn backend_client(config: &Config) -> Result<Client, ClientError> {
    Client::new(&ClientOptions {
        connect_timeout: config.delivery.timeout,
        max_reply: MAX_BACKEND_ANSWER,
        ca_file: config.upstream.ca_file.as_deref(),
    })
}

fn notify_url_rule(config: &Config) -> NotifyUrlRule {
    NotifyUrlRule::new(
        config.webhook.public_url.as_deref(),
        &config.webhook.base_path,
        &config.proxy.notify_url_allow,
        config.proxy.notify_url_mode,
    )
}

/// The key that authenticates `state`: derived from the store key, so that a link survives a
/// restart; without one (a host's own store) it lives as long as the sidecar.
fn state_key(config: &Config) -> Result<StateKey, BuildError> {
    match &config.store.key {
        Some(key) => Ok(StateKey::derive(key.expose().as_bytes())),
        None => {
            let random = token::generate().map_err(BuildError::Random)?;
            Ok(StateKey::derive(random.expose().as_bytes()))
        }
    }
}

/// The bearer token of `/api`: configured, or made anew.
fn admin_token(config: &Config) -> Result<Secret<String>, BuildError> {
    match &config.admin.token {
        Some(token) => Ok(token.clone()),
        None => token::generate().map_err(BuildError::Random),
    }
}
