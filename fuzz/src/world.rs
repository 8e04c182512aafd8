//! Two whole sidecars on sockets of their own, one for anyone and one for known callers, with two
//! merchants each; behind each an Alipay that looks at everything that is forwarded. All of it lives
//! on one thread but for the readers of the stores, so that an input's traces are its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use alipay_sidecar::config::Config;
use alipay_sidecar::config::caller::{
    CallerConfig, CallerIdentity, CallerMode, MerchantRule, TokenDigest,
};
use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::config::store::StoreConfig;
use alipay_sidecar::config::upstream::UpstreamConfig;
use alipay_sidecar::gateway::app::Signers;
use alipay_sidecar::gateway::signer::{SignError, Signer};
use alipay_sidecar::model::app::{App, Environment};
use alipay_sidecar::model::app_keys::SigningKey;
use alipay_sidecar::model::authorization::{Authorization, Rank, Source};
use alipay_sidecar::model::id::{Alias, AppId, AuthAppId, Pid};
use alipay_sidecar::model::selector::Selector;
use alipay_sidecar::model::token::AppAuthToken;
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::serve::serve;
use alipay_sidecar::net::shutdown::Shutdown;
use alipay_sidecar::protocol::key::AppPrivateKey;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::sidecar::{Listeners, Sidecar};
use alipay_sidecar::store::embedded::EmbeddedStore;
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar::store::{Change, Store};
use futures_util::future::{BoxFuture, FutureExt as _};
use prometheus::Registry;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use crate::alipay::{Alipay, Input};
use crate::{keys, oracle};

pub(crate) const APP: &str = "2021000122671080";
/// The merchants: `auth_app_id`, PID, alias, token.
pub(crate) const MERCHANTS: [[&str; 4]; 2] = [
    [
        "2021000000000001",
        "2088000000000001",
        "shop",
        "202611BBtoken-of-shop",
    ],
    [
        "2021000000000002",
        "2088000000000002",
        "other",
        "202611BBtoken-of-other",
    ],
];
/// The bearer token of the caller that may call `alipay.trade.*` for `shop` alone.
pub(crate) const LIMITED: &str = "t0ken-of-the-limited";
/// The bearer token of the caller that may call everything for everyone.
pub(crate) const BROAD: &str = "t0ken-of-the-broad";

/// Whether an answer holds a secret, other than one that the input itself held: what is wrong with an
/// input may be quoted, and libFuzzer learns the secrets from the comparisons.
#[must_use]
pub fn leaks(input: &[u8], answer: &[u8]) -> bool {
    let shown = String::from_utf8_lossy(answer);
    let mut found = SECRETS.into_iter().filter(|secret| shown.contains(secret));
    found.any(|secret| {
        !oracle::spellings(input)
            .iter()
            .any(|text| text.contains(secret))
    })
}

/// What no answer may hold: the merchants' refresh tokens, the tokens of the callers, and a line of
/// the app's key.
const SECRETS: [&str; 5] = [
    "refresh-of-shop",
    "refresh-of-other",
    LIMITED,
    BROAD,
    "MIICdgIBADANBgkqhkiG9w0BAQEFAASC",
];

/// The running sidecars.
pub struct World {
    runtime: Runtime,
    open: Place,
    guarded: Place,
    inputs: AtomicU32,
}

/// One of them, and the folder of its sockets.
struct Place {
    sidecar: Sidecar,
    proxy: PathBuf,
    webhook: PathBuf,
    input: Input,
    registry: Registry,
}

impl Place {
    /// Waits until nothing is under way: what nobody waited for to its end would otherwise reach
    /// Alipay during a later input, which it isn't of.
    async fn settled(&self) {
        // More rounds than there are hops from one socket to another; each looks at all of them.
        const ROUNDS: usize = 64;
        let rounds = async || {
            for _ in 0..ROUNDS {
                tokio::task::yield_now().await;
            }
        };
        rounds().await;
        while self.calls_under_way() > 0.0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        rounds().await;
    }

    fn calls_under_way(&self) -> f64 {
        let families = self.registry.gather();
        let mut families = families.iter();
        let family = families.find(|family| family.name() == "alipay_sidecar_in_flight_requests");
        let gauges = family.expect("a gauge").get_metric();
        gauges
            .iter()
            .map(|metric| metric.get_gauge().get_value())
            .sum()
    }
}

impl World {
    /// Starts everything.
    ///
    /// # Panics
    /// If anything of it can't be started.
    #[must_use]
    pub fn start() -> Self {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let key = AppPrivateKey::generate(1024).expect("random numbers");
        let place = |name: &str, callers| {
            let name = format!("{name}-{}", std::process::id());
            runtime.block_on(start(&std::env::temp_dir().join(name), &key, callers))
        };
        Self {
            open: place("open", Vec::new()),
            guarded: place("guarded", callers()),
            runtime,
            inputs: AtomicU32::default(),
        }
    }

    /// Says `bytes` to a proxy: what speaks of a bearer token to the one that knows its callers.
    /// `None` if there is no end of the answer.
    ///
    /// # Panics
    /// If there is no connection.
    pub fn call(&self, bytes: &[u8], patience: Duration) -> Option<Vec<u8>> {
        let speaks_of = |word: &[u8]| {
            let mut windows = bytes.windows(word.len());
            windows.any(|window| window.eq_ignore_ascii_case(word))
        };
        let place = match speaks_of(b"bearer") {
            true => &self.guarded,
            false => &self.open,
        };
        place.input.set(bytes);
        let answer = self.exchange(&place.proxy, bytes, patience);
        if answer.is_none() || speaks_of(b"alipay-timeout") {
            self.runtime.block_on(place.settled());
        }
        answer
    }

    /// Says `bytes` to the webhook. `None` if there is no end of the answer.
    ///
    /// # Panics
    /// If there is no connection.
    pub fn notify(&self, bytes: &[u8], patience: Duration) -> Option<Vec<u8>> {
        self.open.input.set(bytes);
        self.exchange(&self.open.webhook, bytes, patience)
    }

    /// Writes `bytes` into a connection, ends its way in, and reads all that comes; `None` if there
    /// is no end of it.
    fn exchange(&self, socket: &Path, bytes: &[u8], patience: Duration) -> Option<Vec<u8>> {
        self.runtime.block_on(async {
            let mut stream = UnixStream::connect(socket).await.expect("a connection");
            let talk = async {
                // A server that has heard enough may close before everything is written.
                let _ = stream.write_all(bytes).await;
                let _ = stream.shutdown().await;
                let mut answer = Vec::new();
                let _ = stream.read_to_end(&mut answer).await;
                answer
            };
            tokio::time::timeout(patience, talk).await.ok()
        })
    }

    /// Looks whether the inbox is as empty as it was, and the merchants are those of the beginning:
    /// after every answer that isn't a refusal, and now and then after those that are.
    ///
    /// # Panics
    /// If not.
    pub fn holds_no_notification(&self, answer: &[u8]) {
        let answers = String::from_utf8_lossy(answer);
        let mut statuses = answers.split("HTTP/1.").skip(1);
        let is_refusal =
            statuses.all(|status| matches!(status.as_bytes().get(2), Some(b'4' | b'5')));
        let count = self.inputs.fetch_add(1, Ordering::Relaxed);
        if is_refusal && !count.is_multiple_of(64) {
            return;
        }
        let store = self.open.sidecar.store();
        let counts = self
            .runtime
            .block_on(store.counts())
            .expect("a store that can be read");
        assert_eq!((counts.pending, counts.dead), (0, 0));
        assert_eq!(
            (counts.merchants_authorized, counts.merchants_revoked),
            (2, 0)
        );
    }
}

async fn start(folder: &Path, key: &AppPrivateKey, callers: Vec<CallerConfig>) -> Place {
    std::fs::create_dir_all(folder).expect("a folder");
    let upstream = Listener::bind(&Listen::Tcp("127.0.0.1:0".to_owned()))
        .await
        .expect("a port");
    let url = format!("http://{}", upstream.address());
    let input = Input::default();
    let alipay = Arc::new(Alipay::new(key, input.clone(), !callers.is_empty()));
    let handle = move |request| {
        let alipay = Arc::clone(&alipay);
        async move { alipay.answer(request).await }
    };
    tokio::spawn(async move {
        let (_trigger, shutdown) = Shutdown::new();
        serve(upstream, None, handle, shutdown).await;
    });
    let mut config = config(folder, &url, key);
    config.callers = callers;
    let key = config.store.key.as_ref().expect("a key");
    let key = StoreKey::from_base64(key.expose()).expect("a key");
    EmbeddedStore::create(&config.store.path, &key).expect("a new store");
    let registry = Registry::new();
    let sidecar = Sidecar::builder(config).registry(registry.clone());
    let sidecar = sidecar
        .signers(Arc::new(AtOnce))
        .build()
        .await
        .expect("a sidecar");
    add_merchants(&*sidecar.store()).await;
    let bind = async |name| {
        Listener::bind(&Listen::Unix(folder.join(name)))
            .await
            .expect("a socket")
    };
    let listeners = Listeners {
        proxy: bind("proxy").await,
        webhook: bind("webhook").await,
        admin: bind("admin").await,
    };
    let bound = sidecar.bind_on(listeners).expect("listeners");
    tokio::spawn(async move { bound.run(std::future::pending()).await.ok() });
    Place {
        sidecar,
        proxy: folder.join("proxy"),
        webhook: folder.join("webhook"),
        input,
        registry,
    }
}

/// `alipay` is a key that signed nothing of the corpus. The app's is a short one, because signing
/// isn't what is looked at, and takes most of a call's time.
fn config(folder: &Path, url: &str, alipay: &AppPrivateKey) -> Config {
    let mut config = Config {
        upstream: UpstreamConfig {
            gateway: Some(format!("{url}/gateway.do")),
            v3: Some(url.to_owned()),
            authorize: Some(url.to_owned()),
            ..UpstreamConfig::default()
        },
        store: StoreConfig {
            path: folder.join("sidecar.redb"),
            key: Some(StoreKey::generate().to_base64()),
            ..StoreConfig::default()
        },
        apps: vec![App {
            app_id: AppId::new(APP).expect("an id"),
            private_key: Secret::new(keys::private(keys::SHORT).to_owned()).into(),
            private_key_next: None,
            alipay_public_keys: vec![alipay.public_key().to_bare_base64()],
            certificates: None,
            encrypt_key: None,
            environment: Environment::Production,
            sign_type: SignType::Rsa2,
        }],
        ..Config::default()
    };
    config.admin.token = Some(Secret::new("the operator's".to_owned()));
    // Two worlds at a time would share the file below the working directory.
    config.telemetry.audit_file = None;
    config
}

fn callers() -> Vec<CallerConfig> {
    let caller = |name: &str, token, merchants: MerchantRule, methods: &[&str]| CallerConfig {
        name: name.to_owned(),
        identity: CallerIdentity::Token(TokenDigest::of(token)),
        merchants: vec![merchants],
        methods: methods.iter().map(|&method| method.to_owned()).collect(),
        mode: CallerMode::Enforce,
        events: false,
    };
    let shop = Selector::Alias(Alias::new(MERCHANTS[0][2]).expect("an alias"));
    let trade = ["alipay.trade.*", "/v3/alipay/trade/*"];
    vec![
        caller("limited", LIMITED, MerchantRule::Selected(shop), &trade),
        caller("broad", BROAD, MerchantRule::All, &["*"]),
    ]
}

/// Signs on the thread of who asks: the sidecar's own signing threads have their tests, and a hop
/// to them costs as much as all else.
struct AtOnce;

impl Signers for AtOnce {
    fn signer(&self, _: &App, key: &SigningKey) -> Arc<dyn Signer> {
        Arc::new(Key(key.private.clone().expect("it is here")))
    }
}

struct Key(AppPrivateKey);

impl Signer for Key {
    fn sign(
        &self,
        sign_type: SignType,
        content: Vec<u8>,
    ) -> BoxFuture<'_, Result<String, SignError>> {
        let signed = self.0.sign(sign_type, &content);
        std::future::ready(signed.map_err(SignError::from)).boxed()
    }
}

async fn add_merchants(store: &dyn Store) {
    let merchant = |[auth_app_id, pid, alias, token]: [&str; 4]| Authorization {
        app_id: AppId::new(APP).expect("an id"),
        auth_app_id: AuthAppId::new(auth_app_id).expect("an id"),
        pid: Some(Pid::new(pid).expect("an id")),
        alias: Some(Alias::new(alias).expect("an alias")),
        reference: None,
        token: AppAuthToken {
            app_auth_token: Secret::new(token.to_owned()),
            app_refresh_token: Some(Secret::new(format!("refresh-of-{alias}"))),
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
    };
    let change = |authorization| Change::Authorize {
        authorization: Box::new(authorization),
        entry: None,
    };
    let changes = MERCHANTS.map(merchant).map(change).to_vec();
    store.commit(changes).await.expect("stored");
}
