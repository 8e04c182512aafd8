//! The webhook, tokens and the dispatcher put together over a real store and the simulator,
//! without the rest of a sidecar.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use alipay_sidecar::audit::Audit;
use alipay_sidecar::clock::{Clock, ManualClock};
use alipay_sidecar::config::delivery::DeliveryConfig;
use alipay_sidecar::config::upstream::UpstreamConfig;
use alipay_sidecar::config::webhook::WebhookConfig;
use alipay_sidecar::delivery::Dispatcher;
use alipay_sidecar::delivery::metrics::DeliveryMetrics;
use alipay_sidecar::gateway::Gateway;
use alipay_sidecar::gateway::app::{Apps, SigningApp};
use alipay_sidecar::gateway::diagnosis::Diagnostics;
use alipay_sidecar::gateway::metrics::CallMetrics;
use alipay_sidecar::gateway::platform::NoSource;
use alipay_sidecar::gateway::signer::LocalSigners;
use alipay_sidecar::model::app::{App, Environment};
use alipay_sidecar::model::delivery::Delivery;
use alipay_sidecar::model::id::{AppId, AuthAppId};
use alipay_sidecar::model::merchant::Merchant;
use alipay_sidecar::model::notification::InboxEntry;
use alipay_sidecar::net::body::RequestBody;
use alipay_sidecar::net::client::{Client, ClientOptions};
use alipay_sidecar::net::listener::{Listener, Peer};
use alipay_sidecar::net::serve::serve;
use alipay_sidecar::net::shutdown::{Ending, Shutdown, ShutdownTrigger};
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::simulator::{
    DEFAULT_APP_ID, Event, NotificationRecord, SimulatedApp, Simulator, TriggerOptions,
};
use alipay_sidecar::store::embedded::{EmbeddedStore, OpenOptions};
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar::store::{Directory, Inbox, MerchantKey};
use alipay_sidecar::telemetry::span::Tracer;
use alipay_sidecar::token::metrics::TokenMetrics;
use alipay_sidecar::token::{TokenParts, Tokens};
use alipay_sidecar::webhook::metrics::WebhookMetrics;
use alipay_sidecar::webhook::state::StateKey;
use alipay_sidecar::webhook::{Webhook, WebhookParts};
use alipay_sidecar::workers::Workers;
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use prometheus::Registry;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

pub(crate) const NOW: i64 = 1_795_335_630_000;
const KEYS: &str = include_str!("simulator_keys.json");

/// What a test may set.
#[derive(Default)]
pub(crate) struct Setting {
    pub(crate) webhook: WebhookConfig,
    pub(crate) delivery: DeliveryConfig,
}

/// Everything that runs. Dropping it ends the listener.
pub(crate) struct Parts {
    pub(crate) simulator: Simulator,
    pub(crate) store: Arc<EmbeddedStore>,
    pub(crate) clock: ManualClock,
    pub(crate) apps: Apps,
    pub(crate) tokens: Tokens,
    pub(crate) webhook: Webhook,
    webhook_parts: WebhookParts,
    pub(crate) dispatcher: Arc<Dispatcher>,
    pub(crate) registry: Registry,
    pub(crate) address: String,
    _running: ShutdownTrigger,
    _dir: tempfile::TempDir,
}

pub(crate) fn key(name: &str) -> String {
    let keys: Value = serde_json::from_str(KEYS).expect("JSON");
    keys.get(name)
        .and_then(Value::as_str)
        .expect("a key")
        .to_owned()
}

/// What stays open as long as the test runs.
pub(crate) fn never_ending() -> Ending {
    let (hand, ending) = Ending::new();
    std::mem::forget(hand);
    ending
}

impl Parts {
    pub(crate) async fn new(setting: Setting) -> Self {
        let clock = ManualClock::new(NOW);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let simulator = simulator(&clock, &address).await;
        let registry = Registry::new();
        let (dir, store) = store(&clock);
        let apps = apps(&simulator);
        let client = client();
        let dispatcher = Arc::new(Dispatcher::new(
            store.clone(),
            client.clone(),
            Arc::new(clock.clone()),
            &setting.delivery,
            DeliveryMetrics::register(&registry).expect("new"),
        ));
        let calls = CallMetrics::register(&registry).expect("new");
        let tokens = Tokens::new(TokenParts {
            store: store.clone(),
            gateway: Gateway::new(client, Arc::new(clock.clone()), calls),
            apps: apps.clone(),
            clock: Arc::new(clock.clone()),
            timeout: Duration::from_secs(5),
            metrics: TokenMetrics::register(&registry).expect("new"),
            remember_users: true,
            wake: dispatcher.waker(),
        });
        let parts = WebhookParts {
            audit: Audit::off(),
            certificates: Arc::new(NoSource),
            diagnostics: Diagnostics::new(),
            apps: apps.clone(),
            store: store.clone(),
            tokens: tokens.clone(),
            clock: Arc::new(clock.clone()),
            metrics: WebhookMetrics::register(&registry).expect("new"),
            state_key: StateKey::derive(&[7; 32]),
            asker: dispatcher.asker(),
            wake: dispatcher.waker(),
            ending: never_ending(),
            tracer: Tracer::default(),
        };
        let webhook = Webhook::new(parts.clone(), &setting.webhook, &setting.delivery);
        let (running, shutdown) = Shutdown::new();
        let served = webhook.clone();
        let handle = move |request| {
            let webhook = served.clone();
            async move { webhook.handle(request).await }
        };
        tokio::spawn(serve(Listener::from_tcp(listener), None, handle, shutdown));
        Self {
            simulator,
            store,
            clock,
            apps,
            tokens,
            webhook,
            webhook_parts: parts,
            dispatcher,
            registry,
            address,
            _running: running,
            _dir: dir,
        }
    }

    /// Lets the simulator send a notification and gives what became of its first attempt.
    pub(crate) async fn trigger(
        &self,
        event: Event,
        options: TriggerOptions,
    ) -> NotificationRecord {
        let options = TriggerOptions {
            attempts: Some(1),
            wait: true,
            url: Some(format!("{}/alipay/notify/orders/42?shop=5", self.address)),
            ..options
        };
        let sent = self.simulator.trigger(event, &options).await;
        sent.expect("the simulator knows how")
    }

    /// Goes on with another configuration of the webhook, in process.
    pub(crate) fn reconfigure_webhook(&mut self, webhook: &WebhookConfig) {
        let (parts, delivery) = (self.webhook_parts.clone(), DeliveryConfig::default());
        self.webhook = self.webhook.reconfigured(parts, webhook, &delivery);
    }

    /// Starts the webhook anew over the same store: what the former one counted is forgotten.
    pub(crate) fn restart_webhook(&mut self, webhook: &WebhookConfig) {
        let parts = self.webhook_parts.clone();
        self.webhook = Webhook::new(parts, webhook, &DeliveryConfig::default());
    }

    /// Posts `body` to the webhook.
    pub(crate) async fn post(&self, path: &str, body: &str) -> (StatusCode, String) {
        let request = Request::post(path)
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::new(Bytes::from(body.to_owned())))
            .expect("a request");
        whole(self.webhook.handle(request).await).await
    }

    /// Gets a page of the webhook without following where it leads.
    pub(crate) async fn get(&self, path: &str) -> Response<Full<Bytes>> {
        let request = Request::get(path).body(Full::<Bytes>::default());
        self.webhook.handle(request.expect("a request")).await
    }

    /// The same from a browser at that address.
    pub(crate) async fn get_from(&self, address: &str, path: &str) -> Response<Full<Bytes>> {
        let address = format!("{address}:4711").parse().expect("an address");
        let request = Request::get(path).header("host", "isv.example.com");
        let request = request.extension(Peer::Tcp(address));
        let request = request.body(Full::<Bytes>::default());
        self.webhook.handle(request.expect("a request")).await
    }

    /// From now on Alipay's public key is taken to be this one.
    pub(crate) fn believe(&self, alipay_public_key: String) {
        let app = app(alipay_public_key);
        let replaced = self.apps.replace(&[app], &upstream(&self.simulator));
        replaced.expect("good keys");
    }

    /// Another app is ours, too.
    pub(crate) fn add_app(&self, app_id: &str) {
        let first = app(self.simulator.platform_public_key());
        let second = App {
            app_id: AppId::new(app_id).expect("id"),
            ..first.clone()
        };
        let replaced = self
            .apps
            .replace(&[first, second], &upstream(&self.simulator));
        replaced.expect("good keys");
    }

    pub(crate) fn app(&self) -> Arc<SigningApp> {
        self.apps.only().expect("one app")
    }

    pub(crate) async fn merchant(&self, auth_app_id: &str) -> Option<Merchant> {
        let key = MerchantKey::Exact(
            AppId::new(DEFAULT_APP_ID).expect("id"),
            AuthAppId::new(auth_app_id).expect("id"),
        );
        self.store.find(key).await.expect("readable").pop()
    }

    pub(crate) async fn inbox(&self) -> Vec<(InboxEntry, Delivery)> {
        self.store.entries(None, None, 100).await.expect("readable")
    }

    /// How often the gateway was asked for `method`.
    pub(crate) fn asked(&self, method: &str) -> usize {
        let requests = self.simulator.requests();
        requests.iter().filter(|r| r.method == method).count()
    }

    /// The value of the counter `name` with `label`, summed over the rest.
    pub(crate) fn count(&self, name: &str, label: &str) -> f64 {
        self.registry
            .gather()
            .iter()
            .filter(|family| family.name() == name)
            .flat_map(|family| family.get_metric())
            .filter(|metric| metric.get_label().iter().any(|l| l.value() == label))
            .map(|metric| metric.get_counter().get_value())
            .sum()
    }
}

pub(crate) async fn whole(response: Response<Full<Bytes>>) -> (StatusCode, String) {
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("in memory").to_bytes();
    (head.status, String::from_utf8_lossy(&body).into_owned())
}

async fn simulator(clock: &ManualClock, address: &str) -> Simulator {
    let app = SimulatedApp::with_private_key(DEFAULT_APP_ID, &key("app")).expect("a key");
    let now = clock.clone();
    let simulator = Simulator::builder()
        .app(app.app_gateway(format!("{address}/alipay/gateway")))
        .default_merchants(DEFAULT_APP_ID)
        .platform_key(key("platform"))
        .now(Arc::new(move || now.now_ms()))
        .listen("127.0.0.1:0")
        .await
        .expect("a port")
        .build()
        .expect("whole");
    tokio::spawn(simulator.clone().run(std::future::pending()));
    simulator
}

fn store(clock: &ManualClock) -> (tempfile::TempDir, Arc<EmbeddedStore>) {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, key) = (dir.path().join("store.redb"), StoreKey::generate());
    EmbeddedStore::create(&path, &key).expect("created");
    let store = EmbeddedStore::open(OpenOptions {
        path,
        key,
        cache_bytes: 1 << 20,
        clock: Arc::new(clock.clone()),
    });
    (dir, Arc::new(store.expect("opened")))
}

fn apps(simulator: &Simulator) -> Apps {
    let workers = Workers::start("signer", 1, 256).expect("a thread");
    let apps = Apps::new(Arc::new(LocalSigners::new(workers)));
    let app = app(simulator.platform_public_key());
    apps.replace(&[app], &upstream(simulator))
        .expect("good keys");
    apps
}

fn app(alipay_public_key: String) -> App {
    App {
        app_id: AppId::new(DEFAULT_APP_ID).expect("id"),
        private_key: Secret::new(key("app")).into(),
        private_key_next: None,
        alipay_public_keys: vec![alipay_public_key],
        certificates: None,
        encrypt_key: None,
        environment: Environment::Production,
        sign_type: SignType::Rsa2,
    }
}

fn upstream(simulator: &Simulator) -> UpstreamConfig {
    UpstreamConfig {
        gateway: Some(format!("{}/gateway.do", simulator.url())),
        authorize: Some(simulator.url()),
        ..UpstreamConfig::default()
    }
}

fn client() -> Client {
    let options = ClientOptions {
        connect_timeout: Duration::from_secs(2),
        max_reply: 1 << 20,
        ca_file: None,
    };
    Client::new(&options).expect("defaults")
}

/// What the backend got.
#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name);
        value.and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

/// A backend that answers as it is told.
pub(crate) struct FakeBackend {
    pub(crate) url: String,
    pub(crate) got: mpsc::UnboundedReceiver<Got>,
    answer: Arc<Mutex<(u16, &'static str)>>,
    _running: ShutdownTrigger,
}

impl FakeBackend {
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/events", listener.local_addr().expect("bound"));
        let answer = Arc::new(Mutex::new((200, "success")));
        let (tells, got) = mpsc::unbounded_channel();
        let (running, shutdown) = Shutdown::new();
        let told = Arc::clone(&answer);
        let handle = move |request: Request<RequestBody>| {
            let (told, tells) = (Arc::clone(&told), tells.clone());
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect().await.expect("whole").to_bytes();
                let (status, text) = *told.lock().expect("no panic");
                tells
                    .send(Got {
                        path: head.uri.path().to_owned(),
                        headers: head.headers,
                        body: String::from_utf8_lossy(&body).into_owned(),
                    })
                    .ok();
                let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
                *response.status_mut() = StatusCode::from_u16(status).expect("a status");
                response
            }
        };
        tokio::spawn(serve(Listener::from_tcp(listener), None, handle, shutdown));
        Self {
            url,
            got,
            answer,
            _running: running,
        }
    }

    pub(crate) fn answer(&self, status: u16, body: &'static str) {
        *self.answer.lock().expect("no panic") = (status, body);
    }

    /// The next delivery.
    pub(crate) async fn next(&mut self) -> Got {
        let next = tokio::time::timeout(Duration::from_secs(10), self.got.recv());
        next.await.expect("a delivery").expect("the backend runs")
    }
}
