//! Rolling restarts under load: a supervisor holds the sockets, and program after program serves
//! on them. No request fails, whether its connection is new or kept alive, and no acknowledged
//! notification is lost. The callers send nothing twice.
//! `RESTARTS=50` runs the long form.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::support::PATIENCE;
use crate::support::caller::{Caller, Keep, Told};
use crate::support::supervisor::{Program, Supervisor};

/// How many restarts; the short form takes a few seconds.
const SHORT: u32 = 3;
/// How many requests are answered between two restarts at least.
const BETWEEN: u64 = 200;
/// How long a caller rests between two requests: some go one after another, some leave their
/// connection idle for as long as a backend under little load does.
const RESTS: [u64; 4] = [0, 5, 40, 300];
const NAMES: &str = "proxy:webhook:admin";

/// What the callers have seen so far.
#[derive(Default)]
struct Seen {
    answered: AtomicU64,
    slowest_ms: AtomicU64,
    acked: Mutex<HashSet<String>>,
    failed: Mutex<Vec<String>>,
    enough: AtomicBool,
}

impl Seen {
    fn note(&self, told: Result<Told, String>, good: impl Fn(&Told) -> bool) -> bool {
        let failure = match told {
            Ok(told) if good(&told) => {
                let took = u64::try_from(told.took.as_millis()).unwrap_or(u64::MAX);
                self.slowest_ms.fetch_max(took, Ordering::Relaxed);
                self.answered.fetch_add(1, Ordering::Relaxed);
                return true;
            }
            Ok(told) => format!("{told:?}"),
            Err(error) => error,
        };
        self.failed.lock().expect("no panic").push(failure);
        false
    }

    fn goes_on(&self) -> bool {
        !self.enough.load(Ordering::Relaxed)
    }

    async fn answer_more(&self, more: u64) {
        let until = self.answered.load(Ordering::Relaxed) + more;
        let reached = async {
            while self.answered.load(Ordering::Relaxed) < until {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(3 * PATIENCE, reached).await;
        waited.unwrap_or_else(|_| panic!("no more answers: {:?}", self.failed.lock()));
    }
}

/// Starts all callers: to each listener, on new and on kept connections, at each pace.
fn load(supervisor: &Arc<Supervisor>, seen: &Arc<Seen>) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for (number, rest) in RESTS.into_iter().enumerate() {
        for keep in [Keep::Alive, Keep::Fresh] {
            let rest = Duration::from_millis(rest);
            let (supervisor, seen) = (Arc::clone(supervisor), Arc::clone(seen));
            let name = format!("{keep:?}-{number}");
            callers.spawn(call(
                Arc::clone(&supervisor),
                Arc::clone(&seen),
                (keep, rest),
            ));
            callers.spawn(notify(
                Arc::clone(&supervisor),
                Arc::clone(&seen),
                name,
                (keep, rest),
            ));
            callers.spawn(probe(
                supervisor,
                seen,
                (keep, rest.max(Duration::from_millis(20))),
            ));
        }
    }
    callers
}

async fn call(supervisor: Arc<Supervisor>, seen: Arc<Seen>, (keep, rest): (Keep, Duration)) {
    let mut caller = Caller::new(&supervisor.proxy, keep);
    let verified =
        |told: &Told| told.status == 200 && told.head.contains("alipay-sidecar-verified: true");
    while seen.goes_on() {
        let headers = "Alipay-Merchant: 2021000000001001\r\n";
        let body = r#"{"out_trade_no":"1"}"#;
        let told = caller
            .ask("POST", "/v2/alipay.trade.query", headers, body)
            .await;
        seen.note(told, verified);
        tokio::time::sleep(rest).await;
    }
}

async fn notify(
    supervisor: Arc<Supervisor>,
    seen: Arc<Seen>,
    name: String,
    (keep, rest): (Keep, Duration),
) {
    let mut sender = Caller::new(&supervisor.webhook, keep);
    let headers = "Content-Type: application/x-www-form-urlencoded\r\n";
    for number in 0.. {
        if !seen.goes_on() {
            return;
        }
        let notify_id = format!("{name}-{number}");
        let body = supervisor.notification(&notify_id);
        let told = sender.ask("POST", "/alipay/notify", headers, &body).await;
        if seen.note(told, |told| told.status == 200 && told.body == "success") {
            seen.acked.lock().expect("no panic").insert(notify_id);
        }
        tokio::time::sleep(rest).await;
    }
}

async fn probe(supervisor: Arc<Supervisor>, seen: Arc<Seen>, (keep, rest): (Keep, Duration)) {
    let mut prober = Caller::new(&supervisor.admin, keep);
    while seen.goes_on() {
        let told = prober.ask("GET", "/livez", "", "").await;
        seen.note(told, |told| told.status == 200);
        tokio::time::sleep(rest).await;
    }
}

/// Ends `old` and starts the next one, which either finds the store free or waits for it.
async fn replace(supervisor: &Arc<Supervisor>, mut old: Program, overlap: bool) -> Program {
    let supervisor = Arc::clone(supervisor);
    let replaced = tokio::task::spawn_blocking(move || {
        let early = overlap.then(|| supervisor.run(NAMES, &[]));
        old.signal("TERM");
        assert_eq!(old.end(), Some(0), "{}", supervisor.log());
        let new = early.unwrap_or_else(|| supervisor.run(NAMES, &[]));
        supervisor.noticed("READY=1");
        new
    });
    replaced.await.expect("replaced")
}

async fn kept(supervisor: &Supervisor) -> HashSet<String> {
    let token = std::fs::read_to_string(supervisor.path().join("data/admin.token"));
    let headers = format!(
        "Authorization: Bearer {}\r\n",
        token.expect("a token").trim()
    );
    let mut operator = Caller::new(&supervisor.admin, Keep::Alive);
    let (mut kept, mut next) = (HashSet::new(), String::new());
    loop {
        let path = format!("/api/inbox?limit=1000&after={next}");
        let told = operator
            .ask("GET", &path, &headers, "")
            .await
            .expect("told");
        let page: serde_json::Value = serde_json::from_str(&told.body).expect("JSON");
        let items = page["items"].as_array().expect("a list");
        let ids = items.iter().filter_map(|item| item["notify_id"].as_str());
        kept.extend(ids.map(str::to_owned));
        match page["next"].as_str() {
            Some(id) => next = id.to_owned(),
            None => return kept,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_fails_no_request_and_loses_no_notification() {
    let restarts = std::env::var("RESTARTS").map_or(SHORT, |n| n.parse().expect("a number"));
    let supervisor = Arc::new(Supervisor::start().await);
    let seen = Arc::new(Seen::default());
    let mut program = supervisor.run_first();
    let mut callers = load(&supervisor, &seen);
    for restart in 0..restarts {
        seen.answer_more(BETWEEN).await;
        program = replace(&supervisor, program, restart % 2 == 1).await;
    }
    seen.answer_more(BETWEEN).await;
    seen.enough.store(true, Ordering::Relaxed);
    while let Some(ended) = callers.join_next().await {
        ended.expect("no panic");
    }
    let kept = kept(&supervisor).await;
    let acked = seen.acked.lock().expect("no panic").clone();
    let lost: Vec<_> = acked.difference(&kept).collect();
    let failed = seen.failed.lock().expect("no panic").clone();
    println!(
        "restarts: {restarts}; answered: {}; acknowledged: {}; lost: {}; failed: {}; slowest: {} ms",
        seen.answered.load(Ordering::Relaxed),
        acked.len(),
        lost.len(),
        failed.len(),
        seen.slowest_ms.load(Ordering::Relaxed)
    );
    assert_eq!(lost, Vec::<&String>::new());
    assert_eq!(failed, Vec::<String>::new());
    program.signal("TERM");
    assert_eq!(program.end(), Some(0));
}
