//! What the tests stand on: a sidecar with the simulator before it and a backend behind it, each
//! on a port of its own.

use std::time::Duration;

use alipay_sidecar::config::Config;
use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::config::store::StoreConfig;
use alipay_sidecar::config::upstream::UpstreamConfig;
use alipay_sidecar::model::app::{App, Environment};
use alipay_sidecar::model::authorization::{Authorization, Rank, Source};
use alipay_sidecar::model::id::{Alias, AppId, AuthAppId, Pid};
use alipay_sidecar::model::token::AppAuthToken;
use alipay_sidecar::net::client::{Client, ClientOptions, Reply};
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::shutdown::{Shutdown, ShutdownTrigger};
use alipay_sidecar::net::terms::Terms;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::sidecar::{Listeners, Sidecar, SidecarBuilder};
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, FIRST_APP_AUTH_TOKEN, FIRST_APP_REFRESH_TOKEN, FIRST_AUTH_APP_ID, FIRST_PID,
    SimulatedApp, Simulator,
};
use alipay_sidecar::store::embedded::EmbeddedStore;
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar::store::{Change, Store};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;

pub mod backend;
pub mod brittle;
pub mod caller;
pub mod callers;
pub mod documented;
pub mod isv;
pub mod keys;
#[cfg(all(feature = "cli", target_os = "linux"))]
pub mod leaks;
#[cfg(feature = "cli")]
pub mod program;
pub mod raw;
pub mod signed;
#[cfg(feature = "cli")]
pub mod supervisor;
pub mod upstream;

use backend::FakeBackend;

/// The alias of the merchant that every test sidecar knows.
pub const ALIAS: &str = "shop";
/// The bearer token of the admin API in tests.
pub const ADMIN_TOKEN: &str = "test-admin-token";
/// How long a test waits for something that should happen at once.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running sidecar with all around it; everything ends when it is dropped.
pub struct TestSidecar {
    pub simulator: Simulator,
    pub backend: FakeBackend,
    pub sidecar: Sidecar,
    pub proxy: String,
    pub webhook: String,
    pub admin: String,
    pub config: Config,
    client: Client,
    running: tokio::sync::Mutex<tokio::task::JoinHandle<()>>,
    end: ShutdownTrigger,
    _simulator_end: ShutdownTrigger,
    _directory: tempfile::TempDir,
}

impl TestSidecar {
    /// One app, one merchant (alias `shop`), deliveries to the backend.
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// The same with another configuration.
    pub async fn start_with(change: impl FnOnce(&mut Config)) -> Self {
        Self::start_built(change, |_, builder| builder).await
    }

    /// The same with another Alipay, and a configuration that knows of it.
    pub async fn start_before(prepare: impl FnOnce(&Simulator, &mut Config)) -> Self {
        Self::start_whole(prepare, |_, builder| builder).await
    }

    /// The same with parts of its own.
    pub async fn start_built(
        change: impl FnOnce(&mut Config),
        build: impl FnOnce(&Config, SidecarBuilder) -> SidecarBuilder,
    ) -> Self {
        Self::start_whole(|_, config| change(config), build).await
    }

    /// The same with all of that.
    pub async fn start_whole(
        change: impl FnOnce(&Simulator, &mut Config),
        build: impl FnOnce(&Config, SidecarBuilder) -> SidecarBuilder,
    ) -> Self {
        Self::start_on(Terms::default(), change, build).await
    }

    /// The same with listeners that serve on other terms.
    pub async fn start_on(
        terms: Terms,
        change: impl FnOnce(&Simulator, &mut Config),
        build: impl FnOnce(&Config, SidecarBuilder) -> SidecarBuilder,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let simulator = Simulator::builder()
            .platform_key(keys::private("alipay2048"))
            .app(
                SimulatedApp::with_private_key(DEFAULT_APP_ID, &keys::private("app2048"))
                    .expect("key"),
            )
            .default_merchants(DEFAULT_APP_ID)
            .time_scale(1e-4)
            .listen("127.0.0.1:0")
            .await
            .and_then(|builder| builder.build())
            .expect("a simulator");
        let backend = FakeBackend::start().await;
        let listeners = Listeners {
            proxy: bound().await.on(terms),
            webhook: bound().await.on(terms),
            admin: bound().await.on(terms),
        };
        let url = |listener: &Listener| format!("http://{}", listener.address());
        let (proxy, webhook, admin) = (
            url(&listeners.proxy),
            url(&listeners.webhook),
            url(&listeners.admin),
        );
        let mut config = config(&simulator, directory.path().join("sidecar.redb"));
        config.webhook.public_url = Some(webhook.clone());
        config.delivery.url = Some(backend.url("/events"));
        change(&simulator, &mut config);
        create_store(&config);
        let builder = build(&config, Sidecar::builder(config.clone()));
        let sidecar = builder.build().await.expect("a sidecar");
        add_merchant(
            &*sidecar.store(),
            merchant(
                FIRST_AUTH_APP_ID,
                FIRST_PID,
                FIRST_APP_AUTH_TOKEN,
                Some(ALIAS),
            ),
        )
        .await;
        simulator
            .set_app_gateway(None, Some(&format!("{webhook}/alipay/gateway")))
            .expect("one app");
        let (simulator_end, simulator_ends) = Shutdown::new();
        tokio::spawn(simulator.clone().run(simulator_ends.wait()));
        let (end, ends) = Shutdown::new();
        let bound = sidecar.bind_on(listeners).expect("listeners");
        let running = tokio::spawn(async move {
            if let Err(unclean) = bound.run(ends.wait()).await {
                eprintln!("{unclean}");
            }
        });
        Self {
            simulator,
            backend,
            sidecar,
            proxy,
            webhook,
            admin,
            config,
            client: client(),
            running: tokio::sync::Mutex::new(running),
            end,
            _simulator_end: simulator_end,
            _directory: directory,
        }
    }

    /// Asks it to end; open calls go on.
    pub fn stop(&self) {
        self.end.trigger();
    }

    /// Asks it to end, and waits until it has.
    pub async fn ended(&self) {
        self.stop();
        let mut running = self.running.lock().await;
        let ended = tokio::time::timeout(PATIENCE, &mut *running).await;
        ended.expect("it ends").expect("no panic");
    }

    /// The value of one series of `/metrics`, 0 when it isn't there.
    pub async fn metric(&self, series: &str) -> f64 {
        let metrics = text(&self.admin(Method::GET, "/metrics", "").await);
        let line = metrics.lines().find_map(|line| line.strip_prefix(series));
        line.and_then(|value| value.trim().parse().ok())
            .unwrap_or_default()
    }

    /// Waits until a series of `/metrics` has this value.
    pub async fn wait_for_metric(&self, series: &str, value: f64) {
        let reached = async {
            while (self.metric(series).await - value).abs() > f64::EPSILON {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, reached).await;
        waited.unwrap_or_else(|_| panic!("{series} never became {value}"));
    }

    /// Sends a request to the proxy.
    pub async fn proxy(&self, request: http::request::Builder, body: impl Into<Bytes>) -> Reply {
        self.send(&self.proxy, request, body.into()).await
    }

    /// `POST` to the proxy, tagged with the known merchant.
    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Reply {
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header("alipay-merchant", ALIAS);
        self.proxy(request, body).await
    }

    /// Sends a request to the webhook.
    pub async fn webhook(&self, request: http::request::Builder, body: impl Into<Bytes>) -> Reply {
        self.send(&self.webhook, request, body.into()).await
    }

    /// Sends a request to the admin listener, with its token. What comes back must stand in the
    /// API's document.
    pub async fn admin(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Reply {
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header("authorization", format!("Bearer {ADMIN_TOKEN}"));
        let reply = self.send(&self.admin, request, body.into()).await;
        documented::check(&method, path, &reply);
        reply
    }

    /// Sends a request to the listener at `base`.
    pub async fn send(&self, base: &str, request: http::request::Builder, body: Bytes) -> Reply {
        let mut request = request.body(Full::new(body)).expect("a request");
        let target = request
            .uri()
            .path_and_query()
            .map_or("/", |p| p.as_str())
            .to_owned();
        *request.uri_mut() = format!("{base}{target}").parse().expect("a URL");
        self.client
            .send(request, PATIENCE)
            .await
            .expect("an answer")
    }
}

/// Says what a test can't try here, on the terminal itself and once: what `eprintln!` writes is
/// shown of failed tests alone.
pub fn skipped(what: &str) {
    use std::collections::BTreeSet;
    use std::io::Write as _;
    use std::sync::{Mutex, PoisonError};
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.insert(what.to_owned()) {
        writeln!(std::io::stderr(), "SKIPPED: {what}").expect("a terminal, or whoever reads");
    }
}

/// What `/metrics` shows of a sidecar that has a certificate and has made a call.
pub async fn scrape() -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made");
    let (cert, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    std::fs::write(&cert, made.cert.pem()).expect("written");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
    let sidecar = TestSidecar::start_with(|config| {
        config.webhook.tls_cert = Some(cert);
        config.webhook.tls_key = Some(key);
    })
    .await;
    let query = r#"{"out_trade_no":"1"}"#;
    sidecar.post("/v2/alipay.trade.query", query).await;
    text(&sidecar.admin(Method::GET, "/metrics", "").await)
}

/// A port that nobody has, for whoever must know it before it is bound. Below those that the system
/// gives out by itself, so that no other test is given it meanwhile.
pub fn free_port() -> u16 {
    use std::sync::atomic::{AtomicU16, Ordering};
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 8000).expect("small");
    loop {
        let port = 20_000 + start + NEXT.fetch_add(1, Ordering::Relaxed);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// From now on time passes by `tokio::time::advance` alone. A clock that is only paused would jump to
/// the next limit of time whenever all wait for a socket or a thread.
pub fn hold_time() {
    tokio::time::pause();
    tokio::spawn(async {
        loop {
            tokio::task::yield_now().await;
        }
    });
}

/// Waits until it is so, for [`PATIENCE`] of the machine's own clock: while time is held, too.
pub async fn until(what: &str, is_so: impl Fn() -> bool) {
    let since = std::time::Instant::now();
    while !is_so() {
        assert!(since.elapsed() < PATIENCE, "not so: {what}");
        tokio::task::yield_now().await;
    }
}

/// A client that keeps nothing of its own.
pub fn client() -> Client {
    Client::new(&ClientOptions {
        connect_timeout: PATIENCE,
        max_reply: 16 << 20,
        ca_file: None,
    })
    .expect("a client")
}

/// A reply's header, or nothing.
pub fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    reply
        .headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// A reply's body as text.
pub fn text(reply: &Reply) -> String {
    String::from_utf8_lossy(&reply.body).into_owned()
}

/// A reply's body as JSON.
pub fn json(reply: &Reply) -> serde_json::Value {
    serde_json::from_slice(&reply.body).unwrap_or_else(|e| panic!("{e}: {}", text(reply)))
}

/// A merchant as an operator would add it.
pub fn merchant(auth_app_id: &str, pid: &str, token: &str, alias: Option<&str>) -> Authorization {
    Authorization {
        app_id: AppId::new(DEFAULT_APP_ID).expect("id"),
        auth_app_id: AuthAppId::new(auth_app_id).expect("id"),
        pid: Some(Pid::new(pid).expect("id")),
        alias: alias.map(|alias| Alias::new(alias).expect("alias")),
        reference: None,
        token: AppAuthToken {
            app_auth_token: Secret::new(token.to_owned()),
            app_refresh_token: Some(Secret::new(FIRST_APP_REFRESH_TOKEN.to_owned())),
            stated_expiry: None,
        },
        rank: Rank::AuthTime(1),
        source: Source::Import,
        bound: true,
        is_plugin: false,
        agent_app_id: None,
        renews: None,
        trigger: None,
        error: None,
        encrypt_key: None,
    }
}

/// With one subscriber alone, whoever first comes to a line of the log is asked whether it is wanted, and the
/// answer is kept for all: on the thread of another test it isn't.
#[cfg(feature = "cli")]
pub fn ask_every_subscriber() {
    static ANOTHER: std::sync::LazyLock<tracing::Dispatch> = std::sync::LazyLock::new(|| {
        tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new())
    });
    std::sync::LazyLock::force(&ANOTHER);
}

/// Stores a merchant.
pub async fn add_merchant(store: &dyn Store, authorization: Authorization) {
    let change = Change::Authorize {
        authorization: Box::new(authorization),
        entry: None,
    };
    store.commit(vec![change]).await.expect("stored");
}

/// The app that tests sign with.
pub fn app(app_id: &str) -> App {
    App {
        app_id: AppId::new(app_id).expect("id"),
        private_key: Secret::new(keys::private("app2048")).into(),
        private_key_next: None,
        alipay_public_keys: vec![keys::public("alipay2048")],
        certificates: None,
        encrypt_key: None,
        environment: Environment::Production,
        sign_type: SignType::Rsa2,
    }
}

fn config(simulator: &Simulator, store: std::path::PathBuf) -> Config {
    let mut config = Config {
        upstream: UpstreamConfig {
            gateway: Some(format!("{}/gateway.do", simulator.url())),
            v3: Some(simulator.url()),
            authorize: Some(simulator.url()),
            ..UpstreamConfig::default()
        },
        store: StoreConfig {
            path: store,
            key: Some(StoreKey::generate().to_base64()),
            ..StoreConfig::default()
        },
        apps: vec![app(DEFAULT_APP_ID)],
        ..Config::default()
    };
    config.telemetry.audit_file = Some(config.store.path.with_file_name("audit.jsonl"));
    config.admin.token = Some(Secret::new(ADMIN_TOKEN.to_owned()));
    config
}

fn create_store(config: &Config) {
    let key = config.store.key.as_ref().expect("a key");
    let key = StoreKey::from_base64(key.expose()).expect("a key");
    EmbeddedStore::create(&config.store.path, &key).expect("a new store");
}

/// A socket on a port of its own.
pub async fn bound() -> Listener {
    Listener::bind(&Listen::Tcp("127.0.0.1:0".to_owned()))
        .await
        .expect("a port")
}
