//! An Alipay of our own, for development and tests.
//!
//! It is the gateway's side of the protocol: it checks signatures, signs replies, authorises,
//! notifies, retries, and misbehaves on demand. It shares no protocol code with the sidecar, so
//! that it cannot agree with the sidecar's mistakes, and knows nothing of it.
//!
//! Documents followed: v2 公共请求参数, 公共错误码, 第三方应用授权, 小程序插件, 异步通知, 消息服务,
//! 公钥证书签名, 接口内容加密方式, 开放平台 V3 协议, SPI接入指南.
//!
//! | route | what it is |
//! |---|---|
//! | `/gateway.do` | the v2 gateway |
//! | `/v3/…` | the same by the REST protocol |
//! | `/oauth2/…`, `/page/message/tasksDetail` | authorization pages; whoever sees them agrees |
//! | `/simulator/…` | control: triggers, faults, codes, what was seen |
//!
//! ```no_run
//! # async fn example() -> Result<(), alipay_sidecar::simulator::SimulatorError> {
//! use alipay_sidecar::simulator::Simulator;
//! let simulator = Simulator::builder()
//!     .defaults("http://127.0.0.1:2089/alipay/gateway")?
//!     .listen("127.0.0.1:0")
//!     .await?
//!     .build()?;
//! tokio::spawn(simulator.clone().run(std::future::pending()));
//! # Ok(())
//! # }
//! ```

mod aes;
mod authorization;
mod builder;
mod calendar;
mod certificates;
mod charset;
mod client_data;
mod content;
mod control;
mod envelope;
mod error;
mod faults;
mod gateway;
mod ids;
mod invitation;
mod judge;
mod keys;
mod merchant_keys;
mod messages;
mod methods;
mod mischief;
mod money;
mod multipart;
mod node;
mod notify;
mod pages;
mod params;
mod platform;
mod records;
mod seed;
mod server;
mod service_check;
mod sign;
mod spi;
mod stand_alone;
mod trades;
mod trigger;
mod users;
mod v3;
mod workspace;
mod world;

use std::{
    future::Future,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

pub use self::{
    builder::SimulatorBuilder,
    certificates::{CertificateFiles, PlatformCertificate},
    error::SimulatorError,
    faults::{Fault, FaultKind},
    multipart::UploadedFile,
    notify::{AttemptRecord, NotificationRecord, NotificationState},
    seed::{
        AppMode, DEFAULT_AGENT_APP_ID, DEFAULT_APP_ID, DEFAULT_USER_ID, FIRST_APP_AUTH_TOKEN,
        FIRST_APP_REFRESH_TOKEN, FIRST_AUTH_APP_ID, FIRST_ENCRYPT_KEY, FIRST_PID,
        SECOND_APP_AUTH_TOKEN, SECOND_APP_REFRESH_TOKEN, SECOND_AUTH_APP_ID, SECOND_ENCRYPT_KEY,
        SECOND_PID, SimulatedApp, SimulatedGrant, SimulatedMerchant,
    },
    sign::SignType,
    spi::{SpiCall, SpiRecord},
    stand_alone::{Options, run, start},
    trigger::{Event, TriggerOptions},
    workspace::{WorkspaceListeners, write_workspace},
    world::GatewayRequest,
};

use self::{
    authorization::{GrantKey, TokenState},
    v3::FixedAnswer,
    world::World,
};

/// A clock: milliseconds since 1970.
pub type Now = Arc<dyn Fn() -> i64 + Send + Sync>;

/// A running, or not yet running, simulated Alipay; clones are the same one.
#[derive(Clone)]
pub struct Simulator(Arc<Inner>);

struct Inner {
    address: SocketAddr,
    now: Now,
    time_scale: f64,
    client: Client<HttpConnector, Full<Bytes>>,
    /// Never held over an `.await`.
    world: Mutex<World>,
    /// Deliveries under way; none once the simulator has stopped.
    tasks: Mutex<Option<JoinSet<()>>>,
    listeners: Mutex<Option<Vec<TcpListener>>>,
    /// Where a configuration went that had been edited, and led elsewhere.
    replaced_config: OnceLock<PathBuf>,
}

impl Inner {
    fn with_world<T>(&self, use_it: impl FnOnce(&mut World) -> T) -> T {
        use_it(&mut self.world.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn now(&self) -> i64 {
        (self.now)()
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tasks) = tasks.as_mut() {
            while tasks.try_join_next().is_some() {}
            tasks.spawn(task);
        }
    }
}

impl Simulator {
    /// Begins a simulator that knows nobody yet.
    pub fn builder() -> SimulatorBuilder {
        SimulatorBuilder::default()
    }

    /// Serves until `shutdown` ends; then open requests get a second, and retries are dropped.
    ///
    /// # Errors
    /// [`SimulatorError::AlreadyRun`].
    ///
    /// # Cancel safety
    /// Dropping the future stops serving at once; the simulator cannot be run again.
    pub async fn run(
        self,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<(), SimulatorError> {
        let listeners = self
            .0
            .listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let listeners = listeners.ok_or(SimulatorError::AlreadyRun)?;
        server::serve(Arc::clone(&self.0), listeners, shutdown).await;
        let tasks = self
            .0
            .tasks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
        }
        Ok(())
    }

    /// Gives the address of the first listener.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Gives the base URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.0.address)
    }

    /// Says where [`write_workspace`] or [`start`] has put a configuration that was edited and led
    /// to another simulator or app; none where there was no such one.
    pub fn replaced_config(&self) -> Option<PathBuf> {
        self.0.replaced_config.get().cloned()
    }

    /// Gives the platform's public key (支付宝公钥): SPKI in base64 on one line.
    pub fn platform_public_key(&self) -> String {
        self.0
            .with_world(|world| sign::bare_public_key(&world.platform.key().to_public_key()))
    }

    /// Gives an app's private key as PKCS#8 PEM; none when only its public key is known.
    pub fn app_private_key(&self, app_id: &str) -> Option<String> {
        self.0.with_world(|world| {
            world
                .apps
                .get(app_id)?
                .private_key
                .as_ref()
                .map(workspace::pem)
        })
    }

    /// Adds an app, or replaces the one of the same `app_id`.
    pub fn add_app(&self, app: SimulatedApp) {
        self.0
            .with_world(|world| world.apps.insert(app.app_id.clone(), app));
    }

    /// Adds a merchant, or replaces the one of the same `auth_app_id`.
    pub fn add_merchant(&self, merchant: SimulatedMerchant) {
        let now = self.0.now();
        self.0.with_world(|world| world.add_merchant(merchant, now));
    }

    /// Sets or removes an app's app gateway (应用网关).
    ///
    /// # Errors
    /// [`SimulatorError::AppUnknown`].
    pub fn set_app_gateway(
        &self,
        app_id: Option<&str>,
        url: Option<&str>,
    ) -> Result<(), SimulatorError> {
        self.change_app(app_id, |app| app.app_gateway = url.map(str::to_owned))
    }

    /// Sets or removes an app's 授权回调地址, the only one that the authorization pages redirect to;
    /// without one they take any.
    ///
    /// # Errors
    /// [`SimulatorError::AppUnknown`].
    pub fn set_auth_redirect(
        &self,
        app_id: Option<&str>,
        url: Option<&str>,
    ) -> Result<(), SimulatorError> {
        self.change_app(app_id, |app| app.auth_redirect = url.map(str::to_owned))
    }

    fn change_app(
        &self,
        app_id: Option<&str>,
        change: impl FnOnce(&mut SimulatedApp),
    ) -> Result<(), SimulatorError> {
        self.0.with_world(|world| {
            let app_id = world.app(app_id)?.app_id.clone();
            world.apps.get_mut(&app_id).map(change);
            Ok(())
        })
    }

    /// Answers calls of `method` with this very node text, signed; the method need not be known.
    pub fn answer(&self, method: impl Into<String>, node: impl Into<String>) {
        self.0
            .with_world(|world| world.answers.insert(method.into(), node.into()));
    }

    /// Answers v3 calls of this verb and path (without query) with this status and body, signed;
    /// a 204 has neither body nor signature. A status that HTTP does not know becomes 200.
    pub fn answer_v3(
        &self,
        method: &str,
        path: impl Into<String>,
        status: u16,
        body: impl Into<String>,
    ) {
        let answer = FixedAnswer {
            status: StatusCode::from_u16(status).unwrap_or_default(),
            body: body.into(),
        };
        let key = (method.to_ascii_uppercase(), path.into());
        self.0
            .with_world(|world| world.v3_answers.insert(key, answer));
    }

    /// Lets an event happen and sends its notification.
    ///
    /// # Errors
    /// What the event lacks: an app, a merchant, a trade, an address to send to.
    ///
    /// # Cancel safety
    /// With `wait`, dropping the future leaves the notification as it is, and it is not retried.
    pub async fn trigger(
        &self,
        event: Event,
        options: &TriggerOptions,
    ) -> Result<NotificationRecord, SimulatorError> {
        trigger::trigger(&self.0, event, options).await
    }

    /// Plays a fault on the next calls (or notifications) it concerns.
    pub fn fault(&self, fault: Fault) {
        self.0.with_world(|world| world.faults.add(fault));
    }

    /// Forgets all faults still to be played.
    pub fn clear_faults(&self) {
        self.0.with_world(|world| world.faults.clear());
    }

    /// Issues the `auth_code` of a user in the application `owner`: a merchant's, or an app's own
    /// (the first merchant's when none is named).
    ///
    /// # Errors
    /// [`SimulatorError::MerchantUnknown`].
    pub fn auth_code(
        &self,
        owner: Option<&str>,
        user_id: Option<&str>,
    ) -> Result<String, SimulatorError> {
        let now = self.0.now();
        self.0.with_world(|world| {
            let owner = match owner {
                Some(id) if world.apps.contains_key(id) => id.to_owned(),
                other => world.merchant(other)?.auth_app_id.clone(),
            };
            Ok(world
                .users
                .issue_code(&owner, user_id.unwrap_or(DEFAULT_USER_ID), now))
        })
    }

    /// Issues an `app_auth_code` that gives one token per merchant application (the first
    /// merchant's when none is named).
    ///
    /// # Errors
    /// [`SimulatorError::AppUnknown`], [`SimulatorError::MerchantUnknown`].
    pub fn app_auth_code(
        &self,
        app_id: Option<&str>,
        auth_app_ids: &[&str],
    ) -> Result<String, SimulatorError> {
        let now = self.0.now();
        self.0.with_world(|world| {
            let app_id = world.app(app_id)?.app_id.clone();
            let merchants = match auth_app_ids {
                [] => vec![world.merchant(None)?.auth_app_id.clone()],
                named => named
                    .iter()
                    .map(|id| {
                        world
                            .merchant(Some(id))
                            .map(|found| found.auth_app_id.clone())
                    })
                    .collect::<Result<_, _>>()?,
            };
            Ok(world.grants.issue_code(&app_id, merchants, now))
        })
    }

    /// Lets all tokens of a merchant time out: `aop.app-auth-token-time-out` until a refresh.
    ///
    /// Gives how many there were.
    ///
    /// # Errors
    /// [`SimulatorError::AppUnknown`], [`SimulatorError::MerchantUnknown`].
    pub fn time_out_tokens(
        &self,
        app_id: Option<&str>,
        auth_app_id: Option<&str>,
    ) -> Result<usize, SimulatorError> {
        self.set_tokens(app_id, auth_app_id, TokenState::TimedOut)
    }

    /// Cancels a merchant's authorization without telling anyone (no subscription exists).
    ///
    /// Gives how many tokens there were.
    ///
    /// # Errors
    /// [`SimulatorError::AppUnknown`], [`SimulatorError::MerchantUnknown`].
    pub fn revoke(
        &self,
        app_id: Option<&str>,
        auth_app_id: Option<&str>,
    ) -> Result<usize, SimulatorError> {
        self.set_tokens(app_id, auth_app_id, TokenState::Cancelled)
    }

    /// Sets how long users' tokens live that are issued from now on: `expires_in` and
    /// `re_expires_in`, seconds.
    pub fn set_user_token_life(&self, expires_in: i64, re_expires_in: i64) {
        self.0
            .with_world(|world| world.users.set_life(expires_in, re_expires_in));
    }

    /// Lets all users' access tokens time out: `aop.auth-token-time-out` until a refresh. Gives how
    /// many there were.
    pub fn time_out_user_tokens(&self) -> usize {
        self.0.with_world(|world| world.users.time_out())
    }

    /// Takes all users' consents back without telling anyone: `aop.invalid-auth-token`. Gives how
    /// many access tokens there were.
    pub fn forget_users(&self) -> usize {
        self.0.with_world(|world| world.users.forget())
    }

    fn set_tokens(
        &self,
        app_id: Option<&str>,
        auth_app_id: Option<&str>,
        state: TokenState,
    ) -> Result<usize, SimulatorError> {
        self.0.with_world(|world| {
            let key = GrantKey {
                app_id: world.app(app_id)?.app_id.clone(),
                auth_app_id: world.merchant(auth_app_id)?.auth_app_id.clone(),
            };
            Ok(world.grants.set_state(&key, state))
        })
    }

    /// Gives the last gateway requests, oldest first.
    pub fn requests(&self) -> Vec<GatewayRequest> {
        self.0
            .with_world(|world| world.requests.iter().cloned().collect())
    }

    /// Gives the notifications that are still sent and the last thousand that aren't any more, with
    /// their attempts, oldest first.
    pub fn notifications(&self) -> Vec<NotificationRecord> {
        self.0
            .with_world(|world| world.notifications.iter().cloned().collect())
    }

    /// Gives everything the platform knows, tokens included, as JSON.
    pub fn state(&self) -> Value {
        let platform_public_key = self.platform_public_key();
        self.0.with_world(|world| {
            let apps: Vec<_> = world
                .apps
                .values()
                .map(|app| json!({"app_id": app.app_id, "app_gateway": app.app_gateway, "mode": app.mode}))
                .collect();
            let merchants: Vec<_> = world
                .merchants
                .values()
                .map(|known| json!({"auth_app_id": known.auth_app_id, "pid": known.pid}))
                .collect();
            let mut grants = world.grants.state();
            for grant in grants.as_array_mut().into_iter().flatten() {
                let pid = grant
                    .get("auth_app_id")
                    .and_then(Value::as_str)
                    .map(|id| world.pid(id));
                if let Some(members) = grant.as_object_mut() {
                    members.insert("pid".to_owned(), pid.into());
                }
            }
            json!({
                "platform_public_key": platform_public_key,
                "apps": apps,
                "merchants": merchants,
                "grants": grants,
                "subscriptions": world.subscriptions.state(),
                "trades": world.trades.state(),
                "faults": world.faults.state(),
            })
        })
    }
}
