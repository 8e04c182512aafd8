//! A whole sidecar on sockets of its own, two merchants in its store, and behind it an Alipay that
//! looks at everything that is forwarded. All of it lives on one thread but for the sidecar's own
//! signers and readers, so that an input's traces are its own.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alipay_sidecar::config::Config;
use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::config::store::StoreConfig;
use alipay_sidecar::config::upstream::UpstreamConfig;
use alipay_sidecar::model::app::{App, Environment};
use alipay_sidecar::model::authorization::{Authorization, Rank, Source};
use alipay_sidecar::model::id::{Alias, AppId, AuthAppId, Pid};
use alipay_sidecar::model::token::AppAuthToken;
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::serve::serve;
use alipay_sidecar::net::shutdown::Shutdown;
use alipay_sidecar::protocol::authorization::Authorization as V3Authorization;
use alipay_sidecar::protocol::charset::{Charset, label_of_form};
use alipay_sidecar::protocol::key::AppPrivateKey;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::sidecar::{Listeners, Sidecar};
use alipay_sidecar::store::embedded::EmbeddedStore;
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar::store::{Change, Store};
use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};

use crate::{keys, oracle};

const APP: &str = "2021000122671080";
/// The merchants: `auth_app_id`, PID, alias, token.
const MERCHANTS: [[&str; 4]; 2] = [
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
/// Whether an answer holds a secret, other than one that the input itself held: what is wrong with an
/// input may be quoted, and libFuzzer learns the secrets from the comparisons.
#[must_use]
pub fn leaks(input: &[u8], answer: &[u8]) -> bool {
    let within = |bytes: &[u8], text: &str| {
        let mut windows = bytes.windows(text.len());
        windows.any(|window| window == text.as_bytes())
    };
    let unescaped = oracle::unescape(input).unwrap_or_default();
    let is_known = |secret: &str| within(input, secret) || within(&unescaped, secret);
    let mut secrets = SECRETS.into_iter().filter(|secret| !is_known(secret));
    secrets.any(|secret| within(answer, secret))
}

/// What no answer may hold: the merchants' refresh tokens, and a line of the app's key.
const SECRETS: [&str; 3] = [
    "refresh-of-shop",
    "refresh-of-other",
    "MIIEvQIBADANBgkqhkiG9w0BAQEFAASC",
];

/// A running sidecar.
pub struct World {
    /// The socket for backends.
    pub proxy: PathBuf,
    /// The socket for Alipay.
    pub webhook: PathBuf,
    runtime: Runtime,
    sidecar: Sidecar,
    input: Arc<Mutex<Vec<u8>>>,
}

impl World {
    /// Starts everything.
    ///
    /// # Panics
    /// If anything of it can't be started.
    #[must_use]
    pub fn start() -> Self {
        let folder = std::env::temp_dir().join(format!("world-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let input = Arc::default();
        let sidecar = runtime.block_on(start(&folder, Arc::clone(&input)));
        Self {
            proxy: folder.join("proxy"),
            webhook: folder.join("webhook"),
            runtime,
            sidecar,
            input,
        }
    }

    /// Writes `bytes` into a connection, ends its way in, and reads all that comes; `None` if there
    /// is no end of it.
    ///
    /// # Panics
    /// If there is no connection.
    pub fn exchange(&self, socket: &Path, bytes: &[u8], patience: Duration) -> Option<Vec<u8>> {
        *self.input.lock().expect("no panic") = bytes.to_vec();
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

    /// Looks whether the inbox is as empty as it was, and the merchants are those of the beginning.
    ///
    /// # Panics
    /// If not.
    pub fn holds_no_notification(&self) {
        let store = self.sidecar.store();
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

async fn start(folder: &Path, input: Arc<Mutex<Vec<u8>>>) -> Sidecar {
    let key = AppPrivateKey::generate(2048).expect("random numbers");
    let upstream = Listener::bind(&Listen::Tcp("127.0.0.1:0".to_owned()))
        .await
        .expect("a port");
    let url = format!("http://{}", upstream.address());
    let alipay = Arc::new(Alipay::new(&key, input));
    let handle = move |request| {
        let alipay = Arc::clone(&alipay);
        async move { alipay.answer(request).await }
    };
    tokio::spawn(async move {
        let (_trigger, shutdown) = Shutdown::new();
        serve(upstream, None, handle, shutdown).await;
    });
    let config = config(folder, &url, &key);
    let key = config.store.key.as_ref().expect("a key");
    let key = StoreKey::from_base64(key.expose()).expect("a key");
    EmbeddedStore::create(&config.store.path, &key).expect("a new store");
    let sidecar = Sidecar::builder(config).build().await.expect("a sidecar");
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
    sidecar
}

/// `alipay` is a key that signed nothing of the corpus.
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
            private_key: Secret::new(keys::private("app2048").to_owned()),
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

/// An Alipay that looks at what comes, and answers everything with one signed success.
struct Alipay {
    /// What the caller wrote.
    input: Arc<Mutex<Vec<u8>>>,
    /// The signature of [`NODE`]: it covers the node alone, whatever the method.
    sign: String,
}

const NODE: &str = r#"{"code":"10000","msg":"Success"}"#;

impl Alipay {
    fn new(key: &AppPrivateKey, input: Arc<Mutex<Vec<u8>>>) -> Self {
        let sign = key.sign(SignType::Rsa2, NODE.as_bytes()).expect("signed");
        Self { input, sign }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.expect("a whole body").to_bytes();
        let is_v3 = head.uri.path().starts_with("/v3/");
        let root = match is_v3 {
            true => {
                self.look_at_v3(&head, &body);
                String::new()
            }
            false => self.look_at_v2(&head, &body).replace('.', "_"),
        };
        let text = match is_v3 {
            true => r#"{"code":"system-error","message":"x"}"#.to_owned(),
            false => format!("{{\"{root}_response\":{NODE},\"sign\":\"{}\"}}", self.sign),
        };
        let mut response = Response::new(Full::new(text.into()));
        if is_v3 {
            *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
        }
        response
    }

    /// What is forwarded is a call of ours, whatever the caller wrote. Gives its method.
    fn look_at_v2(&self, head: &Parts, body: &[u8]) -> String {
        assert_eq!(
            (head.method.as_str(), head.uri.path()),
            ("POST", "/gateway.do")
        );
        let query = head.uri.query().unwrap_or_default().as_bytes();
        let charset = label_of_form(query).expect("a charset in the query");
        let charset = Charset::from_label(&charset).expect("a charset of Alipay's");
        let mut pairs = oracle::form(query, charset).expect("a query");
        let content_type = header(head, "content-type").unwrap_or_default().to_owned();
        let is_upload = content_type.starts_with("multipart/form-data;");
        if !is_upload {
            assert!(content_type.starts_with("application/x-www-form-urlencoded;"));
            pairs.extend(oracle::form(body, charset).expect("a form"));
        }
        let names: HashSet<_> = pairs
            .iter()
            .map(|(name, _)| name.to_ascii_lowercase())
            .collect();
        assert!(
            is_upload || names.len() == pairs.len(),
            "a name in two spellings"
        );
        let value = |wanted: &str| {
            let found = pairs.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.as_str())
        };
        assert_eq!(value("app_id"), Some(APP));
        assert_eq!(value("sign_type"), Some("RSA2"));
        assert_eq!(value("version"), Some("1.0"));
        assert_eq!(value("format"), Some("JSON"));
        assert_eq!(value("encrypt_type"), None);
        assert_eq!(value("app_cert_sn"), None);
        self.is_of_who_was_named(value("app_auth_token"));
        let sign = value("sign").expect("a signature");
        let content = oracle::content(oracle::borrowed(&pairs), |name, value| {
            name != "sign" && !oracle::is_blank(value)
        });
        let content = oracle::encode(&content, charset).expect("in the charset");
        let key = std::slice::from_ref(&*keys::APP);
        // Of an upload the parts are signed, too; the tests of uploads read those.
        assert!(is_upload || oracle::is_signed(key, SignType::Rsa2, &content, sign));
        value("method").expect("a method").to_owned()
    }

    fn look_at_v3(&self, head: &Parts, body: &[u8]) {
        let auth = V3Authorization::parse(header(head, "authorization").expect("a signature"));
        let auth = auth.expect("a header as Alipay wants it");
        assert_eq!(auth.auth_string.get("app_id"), Some(APP));
        let token = header(head, "alipay-app-auth-token");
        self.is_of_who_was_named(token);
        if header(head, "content-type").is_some_and(|kind| kind.starts_with("multipart/")) {
            return;
        }
        let target = head.uri.path_and_query().expect("a target").as_str();
        let lines = [auth.auth_string.as_str(), head.method.as_str(), target];
        let lines = lines.map(str::as_bytes).into_iter().chain([body]);
        let lines = lines.chain(token.map(str::as_bytes)).chain([&b""[..]]);
        let content = lines.collect::<Vec<_>>().join(&b'\n');
        let key = std::slice::from_ref(&*keys::APP);
        assert!(oracle::is_signed(key, SignType::Rsa2, &content, &auth.sign));
    }

    /// A merchant's token goes with a call only if the caller named that merchant.
    fn is_of_who_was_named(&self, token: Option<&str>) {
        let Some(token) = token else {
            return;
        };
        let merchant = MERCHANTS.iter().find(|merchant| merchant[3] == token);
        let merchant = merchant.expect("a token of the store's");
        let input = self.input.lock().expect("no panic");
        let unescaped = oracle::unescape(&input).unwrap_or_default();
        let has = |text: &str| {
            let within = |bytes: &[u8]| bytes.windows(text.len()).any(|w| w == text.as_bytes());
            within(&input) || within(&unescaped)
        };
        assert!(
            merchant[..3].iter().any(|name| has(name)) || has("%"),
            "of another merchant"
        );
    }
}

/// A header's value, if it stands there at most once.
fn header<'a>(head: &'a Parts, name: &str) -> Option<&'a str> {
    let mut values = head.headers.get_all(name).iter();
    let value = values.next()?;
    assert!(values.next().is_none(), "`{name}` twice");
    Some(value.to_str().expect("visible ASCII"))
}
