//! From a configuration to a sidecar that is ready to run.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus::Registry;

use crate::admin::drain::{Drain, DrainParts};
use crate::admin::metrics::Metrics;
use crate::admin::token::{self, TokenInForce};
use crate::audit::OpenError;
use crate::audit::metrics::AuditMetrics;
use crate::certificates::metrics::CertificateMetrics;
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::config::error::{ConfigErrors, Fault};
use crate::delivery::Dispatcher;
use crate::delivery::metrics::DeliveryMetrics;
use crate::gateway::MAX_REPLY;
use crate::gateway::app::{AppError, Apps, Signers};
use crate::gateway::diagnosis::Diagnostics;
use crate::gateway::metrics::CallMetrics;
use crate::gateway::signer::{LocalSigners, Signer};
use crate::model::app::App;
use crate::model::app_keys::SigningKey;
use crate::net::client::{Client, ClientError, ClientOptions};
use crate::net::egress::HttpProxy;
use crate::net::shutdown::{Ending, Gate};
use crate::protocol::secret::Secret;
use crate::proxy::calls::{CallRecordMetrics, CallRecords};
use crate::proxy::events::Events;
use crate::proxy::logins::Logins;
use crate::proxy::metrics::ProxyMetrics;
use crate::sidecar::Sidecar;
use crate::sidecar::audit::{AuditBeside, open_audit};
use crate::sidecar::generation::{Generation, Making};
use crate::sidecar::lasting::{AllMetrics, Lasting};
use crate::sidecar::means::Means;
use crate::sidecar::promotions::KeptPromotions;
use crate::sidecar::pruning::SharedAge;
use crate::sidecar::registration::Registration;
use crate::sidecar::reload::{ConfigSource, placed};
use crate::sidecar::tls::{Acceptors, Expiry, unusable_files};
use crate::sidecar::traces::Traces;
use crate::store::Store;
use crate::store::embedded::{EmbeddedStore, OpenOptions};
use crate::store::error::StoreError;
use crate::store::seal::{InvalidStoreKey, StoreKey};
use crate::token::metrics::TokenMetrics;
use crate::webhook::metrics::WebhookMetrics;
use crate::webhook::state::StateKey;
use crate::workers::Workers;

/// Requests that may wait for a signing thread: more than `proxy.max_in_flight` by default, so
/// that the queue is never the first limit met.
const SIGN_QUEUE: usize = 4096;
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
    source: Option<Arc<dyn ConfigSource>>,
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
            source: None,
            audit_by: None,
        }
    }

    /// Tells the time; default: the machine's clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Where metrics are registered, once all else is built; default: a registry of its own.
    pub fn registry(mut self, registry: Registry) -> Self {
        self.registry = registry;
        self
    }

    /// What signs; default: threads of our own with the configured keys. One that can't be asked at
    /// present says [`SignError::Unavailable`](crate::gateway::signer::SignError::Unavailable). Apps whose
    /// keys it alone has are configured with
    /// [`PrivateKey::Elsewhere`](crate::model::app::PrivateKey::Elsewhere).
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

    /// Where the configuration is loaded from again (`POST /api/reload`); default: nowhere, and a host
    /// hands in another one by [`Sidecar::reload`].
    pub fn source(mut self, source: Arc<dyn ConfigSource>) -> Self {
        self.source = Some(source);
        self
    }

    /// Checks all and starts nothing that listens or delivers. It reads files.
    ///
    /// # Errors
    /// [`BuildError`]: the first thing that doesn't fit; of the configuration, and of the files that it
    /// names for listeners, replies and roots, everything.
    pub async fn build(mut self) -> Result<Sidecar, BuildError> {
        if self.without_audit {
            self.config.telemetry.audit_file = None;
        }
        let faults = self.faults();
        let config = &self.config;
        if let Some(errors) = placed(config, faults) {
            return Err(errors.into());
        }
        let store = match &self.store {
            Some(store) => Arc::clone(store),
            None => Arc::new(open_store(config, &self.clock, self.wait_for_store).await?),
        };
        let signers = match &self.signers {
            Some(signers) => Arc::clone(signers),
            None if self.audit_by.is_some() => Arc::new(OfCommand(local_signers()?)),
            None => Arc::new(local_signers()?),
        };
        let means = Means::new(config, None)?;
        if let Some(key) = &means.install_key {
            tracing::info!(
                public_key = key.public_key().fingerprint(),
                "replies and deliveries are signed with the install key"
            );
        }
        let apps = Apps::new(signers);
        let mut all = config.apps.clone();
        all.extend(store.apps().await?);
        apps.replace(&all, &config.upstream)?;
        let admin_token = TokenInForce::new(admin_token(config)?);
        let promotions = KeptPromotions::new(Arc::clone(&store), Arc::clone(&self.clock));
        promotions.recall(&apps.all()).await?;
        let ours = Registration::default();
        let lasting = self.lasting((&means, &apps), store, &ours).await?;
        let making = Making {
            config: self.config,
            means,
            apps,
            admin_token,
        };
        let generation = Generation::new(making, &lasting, None);
        generation
            .certificates
            .recall(&generation.apps.all())
            .await?;
        if let Err(error) = generation.webhook.follow_on().await {
            // It serves all the same, in the order of its own clock.
            tracing::warn!(%error, "how far the inbox goes can't be read");
        }
        ours.hand_over(&self.registry)?;
        Ok(Sidecar::assemble(lasting, generation, self.source))
    }

    /// What is wrong with the configuration by itself, which is put into its form, and with the files
    /// that it names. Blocks.
    fn faults(&mut self) -> Vec<Fault> {
        let mut faults = self.config.unsupported();
        faults.extend(self.config.put_into_form());
        let config = &self.config;
        // Who only answers itself has no listener, and needn't be able to read its key.
        if self.audit_by.is_none() {
            faults.extend(unusable_files(config));
        }
        faults
    }

    /// What this configuration and all after it share, its metrics in `ours`.
    async fn lasting(
        &self,
        (means, apps): (&Means, &Apps),
        store: Arc<dyn Store>,
        ours: &Registration,
    ) -> Result<Lasting, BuildError> {
        let (config, clock) = (&self.config, &self.clock);
        let metrics = all_metrics(ours, &self.registry)?;
        let of_deliveries = DeliveryMetrics::register(ours)?;
        let records = CallRecordMetrics::register(ours)?;
        let traces = Traces::new(clock, ours)?;
        let expiry = Expiry::register(config, apps, ours)?;
        // A log that was begun tells of a start.
        ours.try_with(&self.registry)?;
        let beside = AuditBeside {
            metrics: &metrics.audit,
            clock,
            store: &store,
            patience: self.wait_for_store,
            by: self.audit_by,
        };
        let audit = open_audit(config, beside).await?;
        traces.follow(config, &means.backend);
        let by_means = means.of_deliveries(&traces.tracer);
        let dispatcher = Dispatcher::new(
            Arc::clone(&store),
            by_means.client.clone(),
            Arc::clone(clock),
            &config.delivery,
            of_deliveries,
        );
        dispatcher.reconfigure_with(&config.delivery, by_means);
        let (hand, ending) = Ending::new();
        let drain = Drain::new(DrainParts {
            audit: audit.clone(),
            hand,
            ending: ending.clone(),
            deliveries: Gate::new(),
            puller: dispatcher.puller(),
            store: Arc::clone(&store),
        });
        Ok(Lasting {
            age: SharedAge::default(),
            audit,
            state_key: state_key(config)?,
            drain,
            ending,
            diagnostics: Diagnostics::new(),
            calls: CallRecords::new(Arc::clone(&store), Arc::clone(clock), records),
            logins: Logins::default(),
            events: Arc::new(Events::new(dispatcher.puller())),
            dispatcher,
            expiry,
            tls: Acceptors::default(),
            metrics,
            traces,
            hook: Arc::default(),
            is_bound: AtomicBool::new(false),
            left_token: Mutex::default(),
            owes_token: AtomicBool::default(),
            without_audit: self.without_audit,
            clock: Arc::clone(clock),
            store,
        })
    }
}

/// Those that all parts may need in `ours`; `/metrics` shows what the host's has.
fn all_metrics(ours: &Registration, host: &Registry) -> Result<AllMetrics, BuildError> {
    Ok(AllMetrics {
        admin: Metrics::register_by(ours, host.clone())?,
        audit: AuditMetrics::register(ours)?,
        calls: CallMetrics::register(ours)?,
        certificates: CertificateMetrics::register(ours)?,
        proxy: ProxyMetrics::register(ours)?,
        tokens: TokenMetrics::register(ours)?,
        webhook: WebhookMetrics::register(ours)?,
    })
}

impl std::fmt::Debug for SidecarBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SidecarBuilder")
    }
}

fn local_signers() -> Result<LocalSigners, BuildError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let workers =
        Workers::start_behind("sign", threads, SIGN_QUEUE).map_err(BuildError::Threads)?;
    Ok(LocalSigners::new(workers))
}

/// The signers of who only answers itself: an app whose key is elsewhere, in a store that it shares with a
/// host, shuts it out of nothing but what would be signed with that key.
struct OfCommand(LocalSigners);

impl Signers for OfCommand {
    fn signer(&self, app: &App, key: &SigningKey) -> Arc<dyn Signer> {
        self.0.signer(app, key)
    }
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

/// The client towards Alipay, through the proxy where one is configured.
pub(super) fn upstream_client(config: &Config) -> Result<Client, ClientError> {
    let upstream = &config.upstream;
    let options = ClientOptions {
        connect_timeout: upstream.connect_timeout,
        max_reply: MAX_REPLY,
        ca_file: upstream.ca_file.as_deref(),
    };
    let Some(url) = &upstream.proxy else {
        return Client::new(&options);
    };
    let credentials = upstream.proxy_credentials.as_ref();
    let proxy = HttpProxy::new(url, credentials.map(|secret| secret.expose().as_str()))?;
    Client::through(proxy, &options)
}

/// The client towards backends, which stand beside us: never through the proxy.
pub(super) fn backend_client(config: &Config) -> Result<Client, ClientError> {
    Client::new(&ClientOptions {
        connect_timeout: config.delivery.timeout,
        max_reply: MAX_BACKEND_ANSWER,
        ca_file: config.upstream.ca_file.as_deref(),
    })
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
pub(super) fn admin_token(config: &Config) -> Result<Secret<String>, BuildError> {
    match &config.admin.token {
        Some(token) => Ok(token.clone()),
        None => token::generate().map_err(BuildError::Random),
    }
}
