//! What the sidecar costs, as ratios to stated bases; `benches/README.md` says what each row is.
//!
//! All subjects run in this process, on loopback, and take turns: each round measures every one of
//! them for a moment, so that whatever else the machine does hits all of them alike.

use std::future::Future;
use std::io::Write;
use std::time::{Duration, Instant};

use alipay_sidecar::config::Config;
use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::config::store::StoreConfig;
use alipay_sidecar::config::upstream::UpstreamConfig;
use alipay_sidecar::model::app::{App, Environment};
use alipay_sidecar::model::authorization::{Authorization, Rank, Source};
use alipay_sidecar::model::id::{Alias, AppId, AuthAppId, Pid};
use alipay_sidecar::model::token::AppAuthToken;
use alipay_sidecar::net::body;
use alipay_sidecar::net::body::RequestBody;
use alipay_sidecar::net::client::{Client, ClientOptions, Reply};
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::serve::serve;
use alipay_sidecar::net::shutdown::{Shutdown, ShutdownTrigger};
use alipay_sidecar::protocol::envelope::Envelope;
use alipay_sidecar::protocol::key::{AppPrivateKey, RsaPublicKey};
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::sidecar::{Listeners, Sidecar};
use alipay_sidecar::store::Change;
use alipay_sidecar::store::embedded::EmbeddedStore;
use alipay_sidecar::store::seal::StoreKey;
use anyhow::{Context, bail, ensure};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::{ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_SHA256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use prometheus::Registry;
use tokio::runtime::Runtime;

const METHOD: &str = "alipay.trade.query";
const ALIAS: &str = "shop";
const APP_ID: &str = "2021000000000001";
const BIZ_CONTENT: &str =
    r#"{"out_trade_no":"20261122180000000001","query_options":["trade_settle_info"]}"#;
/// What a v2 request of `BIZ_CONTENT` signs, in length and alphabet.
const SIGN_CONTENT: &str = r#"app_auth_token=202611BB00000000000000000000000000001001&app_id=2021000000000001&biz_content={"out_trade_no":"20261122180000000001","query_options":["trade_settle_info"]}&charset=utf-8&format=JSON&method=alipay.trade.query&sign_type=RSA2&timestamp=2026-11-22 18:00:00&version=1.0"#;
const NODE: &str = r#"{"code":"10000","msg":"Success","buyer_logon_id":"159****5620","buyer_pay_amount":"88.88","buyer_user_id":"2088000000002001","fund_bill_list":[{"amount":"88.88","fund_channel":"ALIPAYACCOUNT"}],"invoice_amount":"88.88","out_trade_no":"20261122180000000001","point_amount":"0.00","receipt_amount":"88.88","send_pay_date":"2026-11-22 18:00:00","store_name":"证大五道口店","total_amount":"88.88","trade_no":"2026112222001400000000000001","trade_status":"TRADE_SUCCESS"}"#;
/// How long one call may take.
const PATIENCE: Duration = Duration::from_secs(10);
const MAX_BODY: usize = 1 << 20;

fn main() -> anyhow::Result<()> {
    let plan = Plan::from_arguments(std::env::args().skip(1))?;
    let keys = Keys::new()?;
    let runtime = Runtime::new()?;
    let loopback = runtime.block_on(Loopback::start(&keys))?;
    let measure = || round(&plan, &keys, &runtime, &loopback);
    // Connections, caches and the clock of the processor warm up.
    measure()?;
    let rounds = (0..plan.rounds)
        .map(|_| measure())
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut out = std::io::stdout().lock();
    print_table(&mut out, &rounds)?;
    print_whole(&mut out, &rounds)?;
    print_phases(&mut out, &loopback.registry)
}

/// How much is measured.
struct Plan {
    rounds: usize,
    /// How long each subject is measured in each round.
    slice: Duration,
}

impl Plan {
    fn from_arguments(arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut plan = Self {
            rounds: 21,
            slice: Duration::from_millis(250),
        };
        for argument in arguments {
            match argument.as_str() {
                // cargo says it to every bench.
                "--bench" => (),
                "--short" => {
                    plan = Self {
                        rounds: 7,
                        slice: Duration::from_millis(100),
                    }
                }
                other => bail!("unknown argument `{other}`; there is `--short`"),
            }
        }
        Ok(plan)
    }
}

/// What one operation of each subject took in one round, µs: the median of its operations.
struct Round {
    aws_lc_sign: f64,
    sign: f64,
    aws_lc_verify: f64,
    verify: f64,
    envelope: f64,
    direct: f64,
    bare_proxy: f64,
    sidecar: f64,
}

impl Round {
    /// The RSA that a signed call can't do without.
    fn rsa(&self) -> f64 {
        self.aws_lc_sign + self.aws_lc_verify
    }

    fn added(&self) -> f64 {
        self.sidecar - self.bare_proxy
    }
}

fn round(
    plan: &Plan,
    keys: &Keys,
    runtime: &Runtime,
    loopback: &Loopback,
) -> anyhow::Result<Round> {
    let work = |operation: &mut dyn FnMut() -> anyhow::Result<()>| median_of(plan.slice, operation);
    let calls = |base: &str| runtime.block_on(loopback.median_of_calls(plan.slice, base));
    Ok(Round {
        aws_lc_sign: work(&mut || keys.aws_lc_sign())?,
        sign: work(&mut || keys.sign())?,
        aws_lc_verify: work(&mut || keys.aws_lc_verify())?,
        verify: work(&mut || keys.verify())?,
        envelope: work(&mut || keys.envelope())?,
        direct: calls(&loopback.upstream)?,
        bare_proxy: calls(&loopback.bare_proxy)?,
        sidecar: calls(&loopback.sidecar)?,
    })
}

fn median_of(
    slice: Duration,
    operation: &mut dyn FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    let (began, mut times) = (Instant::now(), Vec::new());
    while began.elapsed() < slice {
        let start = Instant::now();
        operation()?;
        times.push(micros(start.elapsed()));
    }
    Ok(median(times))
}

/// The app's private key and Alipay's public key, each parsed by us and by aws-lc itself.
struct Keys {
    private: AppPrivateKey,
    aws_lc_private: KeyPair,
    public: [RsaPublicKey; 1],
    aws_lc_public: ParsedPublicKey,
    /// Over `NODE`.
    signature: Vec<u8>,
    /// The same, base64.
    sign: String,
    reply: Bytes,
}

impl Keys {
    fn new() -> anyhow::Result<Self> {
        let (private, alipay) = (
            AppPrivateKey::generate(2048)?,
            AppPrivateKey::generate(2048)?,
        );
        let public = alipay.public_key().clone();
        let pem = private.to_pkcs8_pem();
        let der: String = pem
            .expose()
            .lines()
            .filter(|l| !l.starts_with('-'))
            .collect();
        let aws_lc_private = KeyPair::from_pkcs8(&STANDARD.decode(der)?)?;
        let aws_lc_public = ParsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, public.spki())?;
        let sign = alipay.sign(SignType::Rsa2, NODE.as_bytes())?;
        let reply = format!(r#"{{"alipay_trade_query_response":{NODE},"sign":"{sign}"}}"#);
        Ok(Self {
            signature: STANDARD.decode(&sign)?,
            private,
            public: [public],
            aws_lc_private,
            aws_lc_public,
            sign,
            reply: reply.into(),
        })
    }

    fn aws_lc_sign(&self) -> anyhow::Result<()> {
        let mut signature = vec![0; self.aws_lc_private.public_modulus_len()];
        let random = SystemRandom::new();
        self.aws_lc_private.sign(
            &RSA_PKCS1_SHA256,
            &random,
            SIGN_CONTENT.as_bytes(),
            &mut signature,
        )?;
        std::hint::black_box(signature);
        Ok(())
    }

    fn sign(&self) -> anyhow::Result<()> {
        let content = SIGN_CONTENT.as_bytes();
        std::hint::black_box(self.private.sign(SignType::Rsa2, content)?);
        Ok(())
    }

    fn aws_lc_verify(&self) -> anyhow::Result<()> {
        Ok(self
            .aws_lc_public
            .verify_sig(NODE.as_bytes(), &self.signature)?)
    }

    fn verify(&self) -> anyhow::Result<()> {
        let [public] = &self.public;
        Ok(public.verify(SignType::Rsa2, NODE.as_bytes(), &self.sign)?)
    }

    fn envelope(&self) -> anyhow::Result<()> {
        let envelope = Envelope::parse(self.reply.clone(), METHOD)?;
        std::hint::black_box(envelope.verify(&self.public, SignType::Rsa2)?);
        Ok(())
    }
}

/// An upstream, a bare proxy before it, and a sidecar before it; they end when it is dropped.
struct Loopback {
    client: Client,
    upstream: String,
    bare_proxy: String,
    sidecar: String,
    registry: Registry,
    _shutdown: Vec<ShutdownTrigger>,
    _directory: tempfile::TempDir,
}

impl Loopback {
    async fn start(keys: &Keys) -> anyhow::Result<Self> {
        let reply = keys.reply.clone();
        let (upstream, upstream_end) =
            server(move |request| answer(request, reply.clone())).await?;
        let (client, target) = (client()?, upstream.clone());
        let forwarding = move |request| forward(client.clone(), target.clone(), request);
        let (bare_proxy, bare_proxy_end) = server(forwarding).await?;
        let directory = tempfile::tempdir()?;
        let registry = Registry::new();
        let config = config(keys, &upstream, &directory)?;
        let (sidecar, sidecar_end) = sidecar(config, registry.clone()).await?;
        let loopback = Self {
            client: self::client()?,
            upstream,
            bare_proxy,
            sidecar,
            registry,
            _shutdown: vec![upstream_end, bare_proxy_end, sidecar_end],
            _directory: directory,
        };
        loopback.check(keys).await?;
        Ok(loopback)
    }

    /// What is timed must be what it is called.
    async fn check(&self, keys: &Keys) -> anyhow::Result<()> {
        for base in [&self.upstream, &self.bare_proxy] {
            ensure!(self.call(request(base)?).await?.body == keys.reply);
        }
        let reply = self.call(request(&self.sidecar)?).await?;
        ensure!(reply.body == NODE);
        let verified = reply.headers.get("alipay-sidecar-verified");
        ensure!(verified.is_some_and(|verified| verified == "true"));
        Ok(())
    }

    async fn median_of_calls(&self, slice: Duration, base: &str) -> anyhow::Result<f64> {
        let (began, mut times) = (Instant::now(), Vec::new());
        while began.elapsed() < slice {
            let request = request(base)?;
            let start = Instant::now();
            self.call(request).await?;
            times.push(micros(start.elapsed()));
        }
        Ok(median(times))
    }

    async fn call(&self, request: Request<Full<Bytes>>) -> anyhow::Result<Reply> {
        let reply = self.client.send(request, PATIENCE).await?;
        ensure!(reply.status == StatusCode::OK, "status {}", reply.status);
        Ok(reply)
    }
}

fn request(base: &str) -> anyhow::Result<Request<Full<Bytes>>> {
    Ok(Request::builder()
        .method(Method::POST)
        .uri(format!("{base}/v2/{METHOD}"))
        .header("alipay-merchant", ALIAS)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from_static(BIZ_CONTENT.as_bytes())))?)
}

/// Reads a request and gives the same reply to whatever it asks.
async fn answer(request: Request<RequestBody>, reply: Bytes) -> Response<Full<Bytes>> {
    match body::read(request.into_body(), MAX_BODY, PATIENCE).await {
        Ok(_) => Response::new(Full::new(reply)),
        Err(_) => failed(),
    }
}

/// Hands a request on, and the reply back, and does nothing else.
async fn forward(
    client: Client,
    target: String,
    request: Request<RequestBody>,
) -> Response<Full<Bytes>> {
    match forwarded(&client, &target, request).await {
        Ok(body) => Response::new(Full::new(body)),
        Err(_) => failed(),
    }
}

async fn forwarded(
    client: &Client,
    target: &str,
    request: Request<RequestBody>,
) -> anyhow::Result<Bytes> {
    let (head, body) = request.into_parts();
    let body = body::read(body, MAX_BODY, PATIENCE).await?;
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let onward = Request::builder()
        .method(head.method)
        .uri(format!("{target}{path}"))
        .body(Full::new(body))?;
    Ok(client.send(onward, PATIENCE).await?.body)
}

fn failed() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::BAD_GATEWAY;
    response
}

async fn server<H, F>(handle: H) -> anyhow::Result<(String, ShutdownTrigger)>
where
    H: Fn(Request<RequestBody>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let listener = listener().await?;
    let url = format!("http://{}", listener.address());
    let (end, ends) = Shutdown::new();
    tokio::spawn(serve(listener, None, handle, ends));
    Ok((url, end))
}

async fn listener() -> std::io::Result<Listener> {
    Listener::bind(&Listen::Tcp("127.0.0.1:0".to_owned())).await
}

fn client() -> anyhow::Result<Client> {
    Ok(Client::new(&ClientOptions {
        connect_timeout: PATIENCE,
        max_reply: MAX_BODY,
        ca_file: None,
    })?)
}

/// A sidecar as an operator would run it, with one merchant.
async fn sidecar(config: Config, registry: Registry) -> anyhow::Result<(String, ShutdownTrigger)> {
    let sidecar = Sidecar::builder(config).registry(registry).build().await?;
    let authorize = Change::Authorize {
        authorization: Box::new(merchant()?),
        entry: None,
    };
    sidecar.store().commit(vec![authorize]).await?;
    let bound = sidecar.bind_on(Listeners {
        proxy: listener().await?,
        webhook: listener().await?,
        admin: listener().await?,
    })?;
    let url = format!("http://{}", bound.proxy_address());
    let (end, ends) = Shutdown::new();
    tokio::spawn(async move { bound.run(ends.wait()).await });
    Ok((url, end))
}

fn config(keys: &Keys, upstream: &str, directory: &tempfile::TempDir) -> anyhow::Result<Config> {
    let (path, key) = (directory.path().join("sidecar.redb"), StoreKey::generate());
    EmbeddedStore::create(&path, &key)?;
    let [public] = &keys.public;
    let app = App {
        app_id: AppId::new(APP_ID)?,
        private_key: keys.private.to_pkcs8_pem().into(),
        private_key_next: None,
        alipay_public_keys: vec![public.to_bare_base64()],
        certificates: None,
        encrypt_key: None,
        environment: Environment::Production,
        sign_type: SignType::Rsa2,
    };
    let mut config = Config {
        upstream: UpstreamConfig {
            gateway: Some(format!("{upstream}/gateway.do")),
            ..UpstreamConfig::default()
        },
        store: StoreConfig {
            path,
            key: Some(key.to_base64()),
            ..StoreConfig::default()
        },
        apps: vec![app],
        ..Config::default()
    };
    config.telemetry.audit_file = Some(config.store.path.with_file_name("audit.jsonl"));
    Ok(config)
}

fn merchant() -> anyhow::Result<Authorization> {
    Ok(Authorization {
        app_id: AppId::new(APP_ID)?,
        auth_app_id: AuthAppId::new("2021000000001001")?,
        pid: Some(Pid::new("2088000000001001")?),
        alias: Some(Alias::new(ALIAS)?),
        reference: None,
        token: AppAuthToken {
            app_auth_token: Secret::new("202611BB00000000000000000000000000001001".to_owned()),
            app_refresh_token: None,
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
    })
}

/// A line of the table.
struct Row {
    name: &'static str,
    took: fn(&Round) -> f64,
    base: Option<Base>,
}

/// What a row is a ratio to.
struct Base {
    name: &'static str,
    took: fn(&Round) -> f64,
}

const AWS_LC_SIGN: Base = Base {
    name: "aws-lc sign",
    took: |r| r.aws_lc_sign,
};
const AWS_LC_VERIFY: Base = Base {
    name: "aws-lc verify",
    took: |r| r.aws_lc_verify,
};
const DIRECT: Base = Base {
    name: "direct call",
    took: |r| r.direct,
};
const BARE_PROXY: Base = Base {
    name: "bare proxy",
    took: |r| r.bare_proxy,
};

const ROWS: [Row; 8] = [
    Row {
        name: "aws-lc sign",
        took: |r| r.aws_lc_sign,
        base: None,
    },
    Row {
        name: "sign",
        took: |r| r.sign,
        base: Some(AWS_LC_SIGN),
    },
    Row {
        name: "aws-lc verify",
        took: |r| r.aws_lc_verify,
        base: None,
    },
    Row {
        name: "verify",
        took: |r| r.verify,
        base: Some(AWS_LC_VERIFY),
    },
    Row {
        name: "envelope",
        took: |r| r.envelope,
        base: Some(AWS_LC_VERIFY),
    },
    Row {
        name: "direct call",
        took: |r| r.direct,
        base: None,
    },
    Row {
        name: "bare proxy",
        took: |r| r.bare_proxy,
        base: Some(DIRECT),
    },
    Row {
        name: "sidecar",
        took: |r| r.sidecar,
        base: Some(BARE_PROXY),
    },
];

fn print_table(out: &mut impl Write, rounds: &[Round]) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism()?;
    writeln!(out, "{} rounds, {cores} cores", rounds.len())?;
    writeln!(
        out,
        "\n| subject | µs | ratio | lowest–highest round | to |"
    )?;
    writeln!(out, "|---|--:|--:|--:|---|")?;
    for Row { name, took, base } in ROWS {
        let micros = median(rounds.iter().map(took).collect());
        match base {
            None => writeln!(out, "| {name} | {micros:.1} | | | |")?,
            Some(base) => {
                let ratio = Spread::of(rounds.iter().map(|r| took(r) / (base.took)(r)));
                writeln!(out, "| {name} | {micros:.1} | {ratio} | {} |", base.name)?;
            }
        }
    }
    Ok(())
}

fn print_whole(out: &mut impl Write, rounds: &[Round]) -> anyhow::Result<()> {
    let whole = Spread::of(rounds.iter().map(|r| r.sidecar / (r.bare_proxy + r.rsa())));
    let added = median(rounds.iter().map(Round::added).collect());
    let share = median(rounds.iter().map(|r| r.rsa() / r.added()).collect());
    let name = "sidecar / (bare proxy + aws-lc sign + aws-lc verify)";
    writeln!(out, "\n{name}: {:.2}", whole.median)?;
    writeln!(out, "the sidecar adds to the bare proxy: {added:.0} µs")?;
    writeln!(
        out,
        "aws-lc sign and verify in that: {:.0} %",
        share * 100.0
    )?;
    Ok(())
}

/// The sidecar's own account of its calls. It keeps sums alone, so these are means.
fn print_phases(out: &mut impl Write, registry: &Registry) -> anyhow::Result<()> {
    let families = registry.gather();
    let family = families
        .iter()
        .find(|family| family.name() == "alipay_sidecar_request_duration_seconds")
        .context("the sidecar keeps this metric")?;
    write!(out, "phases by its own metrics, mean µs:")?;
    for metric in family.get_metric() {
        let phase = metric.get_label().iter().find(|l| l.name() == "phase");
        let phase = phase.map_or("", |label| label.value());
        let histogram = metric.get_histogram();
        #[expect(
            clippy::cast_precision_loss,
            reason = "no run makes more than 2^52 calls"
        )]
        let mean = histogram.get_sample_sum() / histogram.get_sample_count() as f64;
        write!(out, " {phase} {:.1}", mean * 1e6)?;
    }
    writeln!(out)?;
    Ok(())
}

/// A ratio over all rounds.
struct Spread {
    lowest: f64,
    median: f64,
    highest: f64,
}

impl Spread {
    fn of(ratios: impl Iterator<Item = f64>) -> Self {
        let ratios: Vec<_> = ratios.collect();
        Self {
            lowest: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            highest: ratios.iter().copied().fold(0.0, f64::max),
            median: median(ratios),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            lowest,
            median,
            highest,
        } = self;
        write!(f, "{median:.2} | {lowest:.2}–{highest:.2}")
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
