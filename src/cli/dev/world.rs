//! The small world of `dev`: an Alipay, a sidecar and a backend, on loopback, in this process.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::task::JoinHandle;

use crate::cli::dev::backend::Backend;
use crate::config::Config;
use crate::config::listen::Listen;
use crate::model::app::{App, Environment};
use crate::model::id::AppId;
use crate::net::listener::Listener;
use crate::net::shutdown::{Shutdown, ShutdownTrigger};
use crate::protocol::secret::Secret;
use crate::protocol::signature::SignType;
use crate::sidecar::{Listeners, Sidecar};
use crate::simulator::{DEFAULT_APP_ID, SimulatedApp, Simulator};
use crate::store::embedded::EmbeddedStore;
use crate::store::seal::StoreKey;

/// How many times sooner than Alipay's the simulator's retries come.
const TIME_SCALE: f64 = 240.0;

/// Everything that runs. It ends, and its folder goes, with [`World::stop`].
pub(crate) struct World {
    pub(crate) simulator: Simulator,
    pub(crate) sidecar: Sidecar,
    pub(crate) backend: Backend,
    pub(crate) proxy: String,
    pub(crate) webhook: String,
    pub(crate) admin: String,
    directory: PathBuf,
    ends: Vec<ShutdownTrigger>,
    running: Vec<JoinHandle<()>>,
}

impl World {
    /// Starts all of it. The proxy listens on `base`, webhook and admin on the two ports after
    /// it, the simulator on the eleventh; base 0 lets the system choose every port.
    pub(crate) async fn start(base: u16) -> Result<Self> {
        let listeners = Listeners {
            proxy: bind(base, 0).await?,
            webhook: bind(base, 1).await?,
            admin: bind(base, 2).await?,
        };
        let url = |listener: &Listener| format!("http://{}", listener.address());
        let (proxy, webhook, admin) = (
            url(&listeners.proxy),
            url(&listeners.webhook),
            url(&listeners.admin),
        );
        let simulator = simulator(base, &webhook).await?;
        let backend = Backend::start().await?;
        let directory = private_directory()?;
        let config = config(&simulator, &directory, &webhook, backend.url())?;
        let sidecar = Sidecar::builder(config).build().await?;
        let bound = sidecar.bind_on(listeners)?;
        let (sidecar_end, sidecar_ends) = Shutdown::new();
        let (simulator_end, simulator_ends) = Shutdown::new();
        let served = tokio::spawn(async move {
            if let Err(unclean) = bound.run(sidecar_ends.wait()).await {
                tracing::warn!(%unclean, "the sidecar didn't end cleanly");
            }
        });
        let simulating = simulator.clone();
        let simulated = tokio::spawn(async move {
            // It is run once, so it can't have been run before.
            let _ = simulating.run(simulator_ends.wait()).await;
        });
        Ok(Self {
            simulator,
            sidecar,
            backend,
            proxy,
            webhook,
            admin,
            directory,
            ends: vec![sidecar_end, simulator_end],
            running: vec![served, simulated],
        })
    }

    /// The file with the admin token.
    pub(crate) fn admin_token(&self) -> PathBuf {
        crate::admin::token::path(&store_path(&self.directory))
    }

    /// Ends everything, in order, and removes the folder.
    pub(crate) async fn stop(self) {
        for end in &self.ends {
            end.trigger();
        }
        for running in self.running {
            // A part that panicked has said so already.
            let _ = running.await;
        }
        // What can't be removed lies in the system's folder for such things.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

async fn bind(base: u16, offset: u16) -> Result<Listener> {
    Ok(Listener::bind(&Listen::Tcp(address(base, offset)?)).await?)
}

fn address(base: u16, offset: u16) -> Result<String> {
    let port = match base {
        0 => 0,
        base => base
            .checked_add(offset)
            .context("`--listen-base` leaves no room above it")?,
    };
    Ok(format!("127.0.0.1:{port}"))
}

async fn simulator(base: u16, webhook: &str) -> Result<Simulator> {
    let app = SimulatedApp::generate(DEFAULT_APP_ID)?
        .app_gateway(format!("{webhook}/alipay/gateway"))
        .auth_redirect(format!("{webhook}/alipay/auth"));
    let builder = Simulator::builder()
        .app(app)
        .default_merchants(DEFAULT_APP_ID)
        .time_scale(TIME_SCALE)
        .listen(&address(base, 11)?)
        .await?;
    Ok(builder.build()?)
}

/// A folder for this process and user alone.
fn private_directory() -> Result<PathBuf> {
    let name = format!("alipay-sidecar-dev-{}", uuid::Uuid::now_v7());
    let directory = std::env::temp_dir().join(name);
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&directory)
        .with_context(|| format!("{} can't be made", directory.display()))?;
    Ok(directory)
}

fn store_path(directory: &Path) -> PathBuf {
    directory.join("sidecar.redb")
}

fn config(
    simulator: &Simulator,
    directory: &Path,
    webhook: &str,
    backend: String,
) -> Result<Config> {
    let key = StoreKey::generate();
    let mut config = Config::default();
    config.store.path = store_path(directory);
    config.store.key = Some(key.to_base64());
    config.upstream.gateway = Some(format!("{}/gateway.do", simulator.url()));
    config.upstream.v3 = Some(simulator.url());
    config.upstream.authorize = Some(simulator.url());
    config.webhook.public_url = Some(webhook.to_owned());
    config.delivery.url = Some(backend);
    config.telemetry.audit_file = None;
    let private_key = simulator
        .app_private_key(DEFAULT_APP_ID)
        .context("the simulator's app")?;
    config.apps = vec![App {
        app_id: AppId::new(DEFAULT_APP_ID)?,
        private_key: Secret::new(private_key),
        private_key_next: None,
        alipay_public_keys: vec![simulator.platform_public_key()],
        certificates: None,
        encrypt_key: None,
        environment: Environment::Sandbox,
        sign_type: SignType::Rsa2,
    }];
    EmbeddedStore::create(&config.store.path, &key)?;
    Ok(config)
}
