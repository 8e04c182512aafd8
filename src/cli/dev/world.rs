//! The small world of `dev`: an Alipay, a sidecar and a backend, on loopback, in this process.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use tokio::task::JoinHandle;

use crate::cli::dev::backend::Backend;
use crate::cli::files;
use crate::config::Config;
use crate::config::listen::Listen;
use crate::net::listener::Listener;
use crate::net::shutdown::{Shutdown, ShutdownTrigger};
use crate::sidecar::{Listeners, Sidecar};
use crate::simulator::{DEFAULT_APP_ID, SimulatedApp, Simulator};
use crate::store::embedded::EmbeddedStore;
use crate::store::seal::StoreKey;

/// How many times sooner than Alipay's the simulator's retries come.
const TIME_SCALE: f64 = 240.0;
/// How far above the first port the last one is, the simulator's.
pub(super) const HIGHEST: u16 = 11;

/// Everything that runs. It ends with [`World::stop`]; its folder goes with it, however it goes.
pub(crate) struct World {
    pub(crate) simulator: Simulator,
    pub(crate) sidecar: Sidecar,
    pub(crate) backend: Backend,
    pub(crate) proxy: String,
    pub(crate) webhook: String,
    pub(crate) admin: String,
    directory: Folder,
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
        let text = config_text([&listeners.proxy, &listeners.webhook, &listeners.admin]);
        let url = |listener: &Listener| format!("http://{}", listener.address());
        let (proxy, webhook, admin) = (
            url(&listeners.proxy),
            url(&listeners.webhook),
            url(&listeners.admin),
        );
        let simulator = simulator(base, &webhook).await?;
        let backend = Backend::start().await?;
        let directory = Folder::make()?;
        let config = config(&simulator, &directory.0, &text(&simulator, &backend.url()))?;
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

    /// The configuration by which other verbs reach the sidecar.
    pub(crate) fn config(&self) -> PathBuf {
        self.directory.0.join(CONFIG)
    }

    /// The file with the admin token.
    pub(crate) fn admin_token(&self) -> PathBuf {
        crate::admin::token::path(&self.directory.0.join(STORE))
    }

    /// Ends everything, in order, and then removes the folder.
    pub(crate) async fn stop(self) {
        for end in &self.ends {
            end.trigger();
        }
        for running in self.running {
            // A part that panicked has said so already.
            let _ = running.await;
        }
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
        .listen(&address(base, HIGHEST)?)
        .await?;
    Ok(builder.build()?)
}

/// A folder for this process and user alone, which has keys in it, and so never outlives its world.
struct Folder(PathBuf);

impl Folder {
    fn make() -> Result<Self> {
        let name = format!("alipay-sidecar-dev-{}", uuid::Uuid::now_v7());
        let directory = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&directory)
            .with_context(|| format!("{} can't be made", directory.display()))?;
        Ok(Self(directory))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What can't be removed lies in the system's folder for such things.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The configuration of a sidecar that listens at `listeners` (proxy, webhook, admin), once the
/// simulator and the backend are known.
fn config_text(listeners: [&Listener; 3]) -> impl Fn(&Simulator, &str) -> String + use<> {
    let [proxy, webhook, admin] = listeners.map(|listener| listener.address().to_string());
    move |simulator, backend| {
        let alipay = simulator.url();
        format!(
            r#"# What `alipay-sidecar dev` runs with; it goes when that ends.
[proxy]
listen = "{proxy}"
[webhook]
listen = "{webhook}"
public_url = "http://{webhook}"
[admin]
listen = "{admin}"
[upstream]
gateway = "{alipay}/gateway.do"
v3 = "{alipay}"
authorize = "{alipay}"
[store]
url = "redb:{STORE}"
key = "file:{STORE_KEY}"
[[app]]
app_id = "{DEFAULT_APP_ID}"
environment = "sandbox"
private_key = "file:{PRIVATE_KEY}"
alipay_public_key = "file:{ALIPAY_KEY}"
[delivery]
url = "{backend}"
[audit]
file = ""
"#
        )
    }
}

/// Writes `text` down with all that it names, and reads it as every other verb will.
fn config(simulator: &Simulator, directory: &Path, text: &str) -> Result<Config> {
    let key = StoreKey::generate();
    let private_key = simulator
        .app_private_key(DEFAULT_APP_ID)
        .context("the simulator's app")?;
    for (name, text) in [
        (CONFIG, text),
        (STORE_KEY, key.to_base64().expose()),
        (PRIVATE_KEY, &private_key),
        (ALIPAY_KEY, &simulator.platform_public_key()),
    ] {
        let path = directory.join(name);
        files::create_private(&path, text).map_err(|failure| anyhow!("{failure}"))?;
    }
    EmbeddedStore::create(&directory.join(STORE), &key)?;
    Ok(Config::load(&directory.join(CONFIG), [])?)
}

/// What stands in the folder.
const CONFIG: &str = "config.toml";
const STORE: &str = "sidecar.redb";
const STORE_KEY: &str = "store.key";
const PRIVATE_KEY: &str = "app_private_key.pem";
const ALIPAY_KEY: &str = "alipay_public_key.pem";
