//! Puts a simulator together.
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, OnceLock},
    time::UNIX_EPOCH,
};

use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{net::TcpListener, task::JoinSet};

use super::{
    Inner, Now, Simulator,
    error::SimulatorError,
    platform::Platform,
    seed::{DEFAULT_APP_ID, SimulatedApp, SimulatedMerchant},
    sign,
    world::World,
};

/// Collects what a [`Simulator`] starts with.
pub struct SimulatorBuilder {
    apps: Vec<SimulatedApp>,
    merchants: Vec<SimulatedMerchant>,
    platform_key: Option<String>,
    listeners: Vec<TcpListener>,
    time_scale: f64,
    now: Now,
}

impl Default for SimulatorBuilder {
    fn default() -> Self {
        Self {
            apps: Vec::new(),
            merchants: Vec::new(),
            platform_key: None,
            listeners: Vec::new(),
            time_scale: 1.0,
            now: Arc::new(system_now),
        }
    }
}

impl SimulatorBuilder {
    /// Adds an app.
    #[must_use]
    pub fn app(mut self, app: SimulatedApp) -> Self {
        self.apps.push(app);
        self
    }

    /// Adds a merchant.
    #[must_use]
    pub fn merchant(mut self, merchant: SimulatedMerchant) -> Self {
        self.merchants.push(merchant);
        self
    }

    /// Adds the default seed: [`DEFAULT_APP_ID`] with a new key, messages going to `app_gateway`,
    /// and two merchants that have authorized it.
    ///
    /// # Errors
    /// [`SimulatorError::Key`] when no key could be made.
    pub fn defaults(self, app_gateway: impl Into<String>) -> Result<Self, SimulatorError> {
        let app = SimulatedApp::generate(DEFAULT_APP_ID)?.app_gateway(app_gateway);
        Ok(self.default_merchants(DEFAULT_APP_ID).app(app))
    }

    /// Adds the two default merchants, both of which have authorized `app_id`.
    #[must_use]
    pub fn default_merchants(mut self, app_id: &str) -> Self {
        self.merchants.extend(SimulatedMerchant::defaults(app_id));
        self
    }

    /// Sets the platform's private key (PEM or bare base64); without it, a new one is made.
    #[must_use]
    pub fn platform_key(mut self, private_key: impl Into<String>) -> Self {
        self.platform_key = Some(private_key.into());
        self
    }

    /// Adds a bound listener; the first one's address is the simulator's.
    #[must_use]
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// Binds `address` (`host:port`, port 0 for any) and adds the listener.
    ///
    /// # Errors
    /// [`SimulatorError::Bind`].
    pub async fn listen(self, address: &str) -> Result<Self, SimulatorError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| SimulatorError::Bind {
                address: address.to_owned(),
                source,
            })?;
        Ok(self.listener(listener))
    }

    /// Makes retries come `factor` times sooner than Alipay's; values that are not positive are
    /// taken as 1.
    #[must_use]
    pub fn time_scale(mut self, factor: f64) -> Self {
        self.time_scale = if factor.is_finite() && factor > 0.0 {
            factor
        } else {
            1.0
        };
        self
    }

    /// Sets the clock: milliseconds since 1970.
    #[must_use]
    pub fn now(mut self, now: Now) -> Self {
        self.now = now;
        self
    }

    /// Makes the simulator; nothing is served before [`Simulator::run`].
    ///
    /// # Errors
    /// [`SimulatorError::NoListener`], [`SimulatorError::Bind`], [`SimulatorError::Key`].
    pub fn build(self) -> Result<Simulator, SimulatorError> {
        let address = first_address(&self.listeners)?;
        let platform_key = match &self.platform_key {
            Some(text) => sign::private_key(text)?,
            None => sign::generate()?,
        };
        let mut world = World::new(Platform::new(platform_key));
        for app in self.apps {
            world.apps.insert(app.app_id.clone(), app);
        }
        for merchant in self.merchants {
            world.add_merchant(merchant, (self.now)());
        }
        Ok(Simulator(Arc::new(Inner {
            address,
            now: self.now,
            time_scale: self.time_scale,
            client: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build_http(),
            world: Mutex::new(world),
            tasks: Mutex::new(Some(JoinSet::new())),
            listeners: Mutex::new(Some(self.listeners)),
            replaced_config: OnceLock::new(),
        })))
    }
}

fn first_address(listeners: &[TcpListener]) -> Result<SocketAddr, SimulatorError> {
    listeners
        .first()
        .ok_or(SimulatorError::NoListener)?
        .local_addr()
        .map_err(|source| SimulatorError::Bind {
            address: "the listener".to_owned(),
            source,
        })
}

#[expect(
    clippy::disallowed_methods,
    reason = "the simulator imports nothing of ours; whoever wants another clock hands one in"
)]
fn system_now() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
