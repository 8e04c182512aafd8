//! What a durable ack costs; `benches/README.md` says what each row is.
//!
//! All subjects run in this process and take turns: each round has every one of them take the same
//! notifications for a moment, so that whatever else the machine does hits all of them alike. All
//! stores begin with the same number of rows.

use std::future::Future;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use alipay_sidecar::clock::{Clock, SystemClock};
use alipay_sidecar::config::Config;
use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::model::app::{App, Environment};
use alipay_sidecar::model::id::{AppId, EventId, EventIds};
use alipay_sidecar::model::notification::{Body, DeliveryForm, InboxEntry};
use alipay_sidecar::net::client::{Client, ClientOptions};
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::shutdown::{Shutdown, ShutdownTrigger};
use alipay_sidecar::protocol::key::AppPrivateKey;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::sidecar::{Listeners, Sidecar};
use alipay_sidecar::store::embedded::{EmbeddedStore, OpenOptions};
use alipay_sidecar::store::seal::StoreKey;
use alipay_sidecar::store::{Change, Store};
use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

const APP_ID: &str = "2021000000000001";
/// Who sends at once: about as many as Alipay has connections to one ISV.
const SENDERS: usize = 32;
/// As many commits as may share one while the stores are filled.
const FILLERS: usize = 512;
/// How long one ack may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The sidecar's own default.
const CACHE: usize = 32 << 20;

fn main() -> anyhow::Result<()> {
    let plan = Plan::from_arguments(std::env::args().skip(1))?;
    let runtime = Runtime::new()?;
    let mut subjects = runtime.block_on(Subjects::start(&plan))?;
    let mut measure = || runtime.block_on(subjects.round(&plan));
    // Connections, caches and the clock of the processor warm up.
    measure()?;
    let rounds = (0..plan.rounds)
        .map(|_| measure())
        .collect::<anyhow::Result<Vec<_>>>()?;
    print_table(&mut std::io::stdout().lock(), &plan, &rounds)
}

/// How much is measured.
struct Plan {
    rounds: usize,
    /// Rows in each store before the first round.
    filled: usize,
    /// Rows of one round: one after another, and from each sender.
    alone: usize,
    each: usize,
}

impl Plan {
    fn from_arguments(arguments: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut plan = Self {
            rounds: 11,
            filled: 100_000,
            alone: 200,
            each: 60,
        };
        for argument in arguments {
            match argument.as_str() {
                // cargo says it to every bench.
                "--bench" => (),
                "--short" => {
                    plan = Self {
                        rounds: 3,
                        filled: 5_000,
                        alone: 50,
                        each: 20,
                    }
                }
                other => bail!("unknown argument `{other}`; there is `--short`"),
            }
        }
        Ok(plan)
    }

    fn notifications(&self) -> usize {
        (self.rounds + 1) * self.each * SENDERS
    }
}

/// What one subject did in one round.
struct Taken {
    rows_a_second: f64,
    /// From the beginning of a commit or request to its answer, ms.
    p50: f64,
    p99: f64,
    /// How many rows shared a commit, on average.
    rows_a_commit: f64,
}

struct Round {
    alone: Taken,
    random: Taken,
    shared: Taken,
    webhook: Taken,
}

/// What is measured; it ends when it is dropped.
struct Subjects {
    ordered: Kept,
    random: Kept,
    numbers: Arc<AtomicU64>,
    ids: Arc<EventIds>,
    client: Client,
    webhook: String,
    /// Signed beforehand: signing is Alipay's work.
    notifications: std::vec::IntoIter<Bytes>,
    _end: ShutdownTrigger,
}

/// A store and a count of its commits.
struct Kept {
    store: EmbeddedStore,
    commits: Arc<Commits>,
    directory: tempfile::TempDir,
}

/// The store asks for the time once a commit.
#[derive(Debug, Default)]
struct Commits(AtomicU64);

impl Clock for Commits {
    fn now_ms(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed);
        SystemClock.now_ms()
    }
}

/// Where a row goes.
#[derive(Clone, Copy)]
enum Keys {
    /// Behind all rows before it.
    InOrder,
    /// Anywhere.
    Random,
}

impl Subjects {
    async fn start(plan: &Plan) -> anyhow::Result<Self> {
        let (app, alipay) = (
            AppPrivateKey::generate(2048)?,
            AppPrivateKey::generate(2048)?,
        );
        let (ordered, random) = (Kept::new()?, Kept::new()?);
        let (numbers, ids) = (Arc::default(), Arc::new(EventIds::new()));
        let (webhook, end) = sidecar(&app, &alipay, &ordered).await?;
        let notifications: anyhow::Result<Vec<_>> = (0..plan.notifications())
            .map(|number| notification(&alipay, &format!("webhook-{number}")))
            .collect();
        let subjects = Self {
            ordered,
            random,
            numbers,
            ids,
            client: Client::new(&ClientOptions {
                connect_timeout: PATIENCE,
                max_reply: 1 << 20,
                ca_file: None,
            })?,
            webhook,
            notifications: notifications?.into_iter(),
            _end: end,
        };
        let each = plan.filled / FILLERS;
        subjects
            .commit(&subjects.ordered, Keys::InOrder, (FILLERS, each))
            .await?;
        subjects
            .commit(&subjects.random, Keys::Random, (FILLERS, each))
            .await?;
        Ok(subjects)
    }

    async fn round(&mut self, plan: &Plan) -> anyhow::Result<Round> {
        let shared = (SENDERS, plan.each);
        Ok(Round {
            alone: self
                .commit(&self.ordered, Keys::InOrder, (1, plan.alone))
                .await?,
            random: self.commit(&self.random, Keys::Random, shared).await?,
            shared: self.commit(&self.ordered, Keys::InOrder, shared).await?,
            webhook: self.notify(plan).await?,
        })
    }

    /// Commits rows, from `senders` at once, each of which waits for its ack.
    async fn commit(
        &self,
        kept: &Kept,
        keys: Keys,
        (senders, each): (usize, usize),
    ) -> anyhow::Result<Taken> {
        let one = || {
            let (store, numbers, ids) = (
                kept.store.clone(),
                Arc::clone(&self.numbers),
                Arc::clone(&self.ids),
            );
            async move {
                let number = numbers.fetch_add(1, Ordering::Relaxed);
                let change = Change::Receive(Box::new(entry(number, keys, &ids)?));
                let began = Instant::now();
                store.commit(vec![change]).await?;
                Ok(began.elapsed())
            }
        };
        kept.timed((senders, each), one).await
    }

    /// Sends notifications over loopback, from all senders at once, each of which waits for its ack.
    async fn notify(&mut self, plan: &Plan) -> anyhow::Result<Taken> {
        let due: Vec<Bytes> = self
            .notifications
            .by_ref()
            .take(SENDERS * plan.each)
            .collect();
        let due = Arc::new(std::sync::Mutex::new(due));
        let url = Arc::new(format!("{}/alipay/notify", self.webhook));
        let one = || {
            let (client, due, url) = (self.client.clone(), Arc::clone(&due), Arc::clone(&url));
            async move {
                let body = due.lock().ok().and_then(|mut due| due.pop());
                let body = Full::new(body.context("enough were prepared")?);
                let request = Request::post(url.as_str())
                    .header("content-type", "application/x-www-form-urlencoded")
                    .body(body)?;
                let began = Instant::now();
                let reply = client.send(request, PATIENCE).await?;
                let took = began.elapsed();
                ensure!(
                    reply.status == StatusCode::OK && reply.body == "success",
                    "{reply:?}"
                );
                Ok(took)
            }
        };
        self.ordered.timed((SENDERS, plan.each), one).await
    }
}

impl Kept {
    fn new() -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let (path, key) = (directory.path().join("inbox.redb"), StoreKey::generate());
        EmbeddedStore::create(&path, &key)?;
        let commits = Arc::new(Commits::default());
        let store = EmbeddedStore::open(OpenOptions {
            path,
            key,
            cache_bytes: CACHE,
            clock: Arc::clone(&commits) as _,
        })?;
        Ok(Self {
            store,
            commits,
            directory,
        })
    }

    /// Has `senders` do `one` thing after another, `each` so many times.
    async fn timed<F>(
        &self,
        (senders, each): (usize, usize),
        one: impl Fn() -> F,
    ) -> anyhow::Result<Taken>
    where
        F: Future<Output = anyhow::Result<Duration>> + Send + 'static,
    {
        let before = self.commits.0.load(Ordering::Relaxed);
        let began = Instant::now();
        let mut running = JoinSet::new();
        for _ in 0..senders {
            let due: Vec<F> = (0..each).map(|_| one()).collect();
            running.spawn(async move {
                let mut took = Vec::with_capacity(due.len());
                for one in due {
                    took.push(one.await?);
                }
                anyhow::Ok(took)
            });
        }
        let mut times = Vec::new();
        while let Some(took) = running.join_next().await {
            times.extend(took??);
        }
        let seconds = began.elapsed().as_secs_f64();
        let commits = self.commits.0.load(Ordering::Relaxed) - before;
        times.sort_unstable();
        Ok(Taken {
            rows_a_second: count(times.len()) / seconds,
            p50: percentile(&times, 50),
            p99: percentile(&times, 99),
            rows_a_commit: count(times.len()) / f64::from(u32::try_from(commits)?),
        })
    }
}

fn count(rows: usize) -> f64 {
    f64::from(u32::try_from(rows).unwrap_or(u32::MAX))
}

/// Of sorted times, in ms.
fn percentile(times: &[Duration], percent: usize) -> f64 {
    let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times
        .get(at)
        .map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

/// What the webhook makes of a payment notification.
fn entry(number: u64, keys: Keys, ids: &EventIds) -> anyhow::Result<InboxEntry> {
    let now = SystemClock.now_ms();
    let id = match keys {
        Keys::InOrder => ids.next(now),
        Keys::Random => random_id(number),
    };
    let name = format!("store-{number}");
    Ok(InboxEntry {
        id,
        app_id: AppId::new(APP_ID)?,
        notify_id: Some(name.clone()),
        event_type: "trade_status_sync".to_owned(),
        auth_app_id: None,
        pid: None,
        received_at: now,
        notify_path: String::new(),
        notify_query: String::new(),
        order_key: Some(name.clone()),
        body: Some(Body {
            content_type: "application/x-www-form-urlencoded".to_owned(),
            bytes: form(&fields(&name), &"A".repeat(344)),
        }),
        opened_content: None,
        scheme: None,
        event: None,
        form: DeliveryForm::AsConfigured,
    })
}

/// As a key that is a digest of what came would be.
fn random_id(number: u64) -> EventId {
    use sha2::Digest;
    let digest = sha2::Sha256::digest(number.to_be_bytes());
    let mut id = [0; 16];
    for (to, from) in id.iter_mut().zip(digest) {
        *to = from;
    }
    EventId::from_bytes(id)
}

fn notification(alipay: &AppPrivateKey, name: &str) -> anyhow::Result<Bytes> {
    let fields = fields(name);
    let content: Vec<String> = fields.iter().map(|(n, v)| format!("{n}={v}")).collect();
    let sign = alipay.sign(SignType::Rsa2, content.join("&").as_bytes())?;
    Ok(form(&fields, &sign))
}

fn form(fields: &[(&str, String)], sign: &str) -> Bytes {
    form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .append_pair("sign_type", "RSA2")
        .append_pair("sign", sign)
        .finish()
        .into()
}

/// What Alipay tells of a payment, in the order in which it is signed.
fn fields(name: &str) -> Vec<(&'static str, String)> {
    let text = str::to_owned;
    vec![
        ("app_id", text(APP_ID)),
        ("auth_app_id", text("2021000000001001")),
        ("buyer_id", text("2088000000002001")),
        ("buyer_pay_amount", text("88.88")),
        ("charset", text("utf-8")),
        (
            "fund_bill_list",
            text(r#"[{"amount":"88.88","fundChannel":"ALIPAYACCOUNT"}]"#),
        ),
        ("gmt_create", text("2026-11-22 18:00:00")),
        ("gmt_payment", text("2026-11-22 18:00:01")),
        ("invoice_amount", text("88.88")),
        ("notify_id", text(name)),
        ("notify_time", text("2026-11-22 18:00:02")),
        ("notify_type", text("trade_status_sync")),
        ("out_trade_no", text(name)),
        ("point_amount", text("0.00")),
        ("receipt_amount", text("88.88")),
        ("seller_id", text("2088000000001001")),
        ("subject", text("证大五道口店")),
        ("total_amount", text("88.88")),
        ("trade_no", text("2026112222001400000000000001")),
        ("trade_status", text("TRADE_SUCCESS")),
        ("version", text("1.0")),
    ]
}

/// A sidecar as an operator would run it, on the store of `kept`; nothing is delivered.
async fn sidecar(
    app: &AppPrivateKey,
    alipay: &AppPrivateKey,
    kept: &Kept,
) -> anyhow::Result<(String, ShutdownTrigger)> {
    let mut config = Config {
        apps: vec![App {
            app_id: AppId::new(APP_ID)?,
            private_key: app.to_pkcs8_pem().into(),
            private_key_next: None,
            alipay_public_keys: vec![alipay.public_key().to_bare_base64()],
            certificates: None,
            encrypt_key: None,
            environment: Environment::Production,
            sign_type: SignType::Rsa2,
        }],
        ..Config::default()
    };
    config.telemetry.audit_file = Some(kept.directory.path().join("audit.jsonl"));
    let sidecar = Sidecar::builder(config).store(Arc::new(kept.store.clone()));
    let bound = sidecar.build().await?.bind_on(Listeners {
        proxy: listener().await?,
        webhook: listener().await?,
        admin: listener().await?,
    })?;
    let url = format!("http://{}", bound.webhook_address());
    let (end, ends) = Shutdown::new();
    tokio::spawn(async move { bound.run(ends.wait()).await });
    Ok((url, end))
}

async fn listener() -> std::io::Result<Listener> {
    Listener::bind(&Listen::Tcp("127.0.0.1:0".to_owned())).await
}

/// A line of the table.
struct Row {
    name: &'static str,
    taken: fn(&Round) -> &Taken,
    base: Option<Base>,
}

/// What a row is a ratio to.
struct Base {
    name: &'static str,
    taken: fn(&Round) -> &Taken,
}

const ALONE: Base = Base {
    name: "one row a commit",
    taken: |r| &r.alone,
};
const RANDOM: Base = Base {
    name: "random keys",
    taken: |r| &r.random,
};
const SHARED: Base = Base {
    name: "shared commits",
    taken: |r| &r.shared,
};

const ROWS: [Row; 6] = [
    Row {
        name: "one row a commit",
        taken: |r| &r.alone,
        base: None,
    },
    Row {
        name: "random keys",
        taken: |r| &r.random,
        base: Some(ALONE),
    },
    Row {
        name: "shared commits",
        taken: |r| &r.shared,
        base: Some(RANDOM),
    },
    Row {
        name: "shared commits",
        taken: |r| &r.shared,
        base: Some(ALONE),
    },
    Row {
        name: "webhook",
        taken: |r| &r.webhook,
        base: Some(SHARED),
    },
    Row {
        name: "webhook",
        taken: |r| &r.webhook,
        base: Some(ALONE),
    },
];

fn print_table(out: &mut impl Write, plan: &Plan, rounds: &[Round]) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism()?;
    let Plan { filled, .. } = plan;
    writeln!(
        out,
        "{} rounds, {cores} cores, {SENDERS} senders, {filled} rows before",
        rounds.len()
    )?;
    writeln!(
        out,
        "\n| subject | rows/s | rows a commit | ack p50, ms | ack p99, ms | ratio of rows/s | lowest–highest round | to |"
    )?;
    writeln!(out, "|---|--:|--:|--:|--:|--:|--:|---|")?;
    for Row { name, taken, base } in ROWS {
        let of =
            |figure: fn(&Taken) -> f64| median(rounds.iter().map(|r| figure(taken(r))).collect());
        write!(
            out,
            "| {name} | {:.0} | {:.1} | {:.2} | {:.2} |",
            of(|t| t.rows_a_second),
            of(|t| t.rows_a_commit),
            of(|t| t.p50),
            of(|t| t.p99)
        )?;
        let Some(base) = base else {
            writeln!(out, " | | |")?;
            continue;
        };
        let ratios = rounds
            .iter()
            .map(|r| taken(r).rows_a_second / (base.taken)(r).rows_a_second);
        let ratios: Vec<f64> = ratios.collect();
        let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = ratios.iter().copied().fold(0.0, f64::max);
        let ratio = median(ratios);
        writeln!(
            out,
            " {ratio:.2} | {lowest:.2}–{highest:.2} | {} |",
            base.name
        )?;
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
