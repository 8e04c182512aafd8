//! The authorisation matrix: every caller × every way to name a merchant × every way to name a
//! method, through a running sidecar with two apps, against an oracle that knows nothing of the
//! sidecar's rules.
//!
//! The callers prove themselves in every way there is (a bearer token, an SDK's signature, a uid on a
//! unix socket) or not at all, and one of them is only reported. What is refused must not arrive at
//! Alipay, what is allowed must arrive once, for the merchant and signed by the app that were meant,
//! and nobody is told of a merchant that it may not call for.
//!
//! `MATRIX=full` (about 20,000 cases) pairs every spelling of a tag with every spelling of a method;
//! by default one of the two is plain.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use alipay_sidecar::config::caller::{CallerConfig, CallerIdentity, CallerMode};
use alipay_sidecar::model::authorization::{Rank, Revocation};
use alipay_sidecar::model::id::{AppId, AuthAppId};
use alipay_sidecar::store::{Change, Store};

use crate::callers::on_unix_socket;
use crate::support::caller::{Caller, Keep, Told};
use crate::support::callers::{caller, for_merchants, for_methods, with_key, with_token};
use crate::support::{TestSidecar, add_merchant, app, merchant, raw};

mod alipay;
mod methods;
mod oracle;
mod request;
mod tables;

use alipay::{Remembering, whom};
use methods::{METHODS, PLAIN_METHODS};
use oracle::{Verdict, verdict};
use request::request;
use tables::{APPS, CALLERS, CANCELLED, CallerRow, PLAIN_TAGS, Proof, RECORDS, Record, TAGS};

/// How many connections ask at once.
const LANES: usize = 4;

/// Its caller, its tag, its method.
type Case = (usize, usize, usize);

#[tokio::test(flavor = "multi_thread")]
async fn the_matrix_is_judged_as_the_oracle_does() {
    let alipay = Remembering::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let uid = std::fs::metadata(folder.path()).expect("a folder").uid();
    let sidecar = start(&alipay, uid).await;
    let socket = on_unix_socket(&sidecar, &folder).await;
    let cases: Arc<[Case]> = cases().into();
    let address = raw::authority(&sidecar.proxy).to_owned();
    let lanes = (0..LANES).map(|lane| {
        let (cases, asking) = (Arc::clone(&cases), Asking::new(&address, &socket));
        tokio::spawn(async move { asking.run(lane, &cases).await })
    });
    let mut wrong = Vec::new();
    for lane in futures_util::future::join_all(lanes).await {
        wrong.extend(lane.expect("no panic"));
    }
    let arrived = alipay.arrived.lock().expect("no panic").clone();
    let (mut sent, mut reported) = (0, 0);
    for (case, of) in cases.iter().enumerate() {
        let expected = expected(of);
        let found = arrived.get(&case).cloned().unwrap_or_default();
        sent += found.len();
        reported += expected.reported;
        if found != expected.arrives.into_iter().collect::<Vec<_>>() {
            wrong.push(format!(
                "{} arrived for {found:?}, not {expected:?}",
                name(of)
            ));
        }
    }
    let all = cases.len();
    assert!(
        wrong.is_empty(),
        "{} of {all} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    // The oracle itself must let a good part through, or nothing would be shown.
    println!("matrix: {all} cases, {sent} arrived, {reported} reported");
    assert!(sent > 700 && reported > 700, "{sent} {reported}");
    let violations = ["merchant", "method"]
        .map(|rule| format!("alipay_sidecar_caller_violations_total{{rule=\"{rule}\"}}"));
    let mut counted = 0.0;
    for series in &violations {
        counted += sidecar.metric(series).await;
    }
    assert_eq!(counted.to_string(), reported.to_string());
}

fn cases() -> Vec<Case> {
    let is_full = std::env::var("MATRIX").is_ok_and(|form| form == "full");
    let mut cases = Vec::new();
    for caller in 0..CALLERS.len() {
        for tag in 0..TAGS.len() {
            let methods = match is_full || tag < PLAIN_TAGS {
                true => METHODS.len(),
                false => PLAIN_METHODS,
            };
            cases.extend((0..methods).map(|method| (caller, tag, method)));
        }
    }
    cases
}

fn expected(&(caller, tag, method): &Case) -> Verdict {
    verdict(&CALLERS[caller], &TAGS[tag], method)
}

fn name(&(caller, tag, method): &Case) -> String {
    let (how, app, _) = TAGS[tag];
    let named = METHODS[method].0;
    format!("{} by {how:?} {app:?} to {named:?}", CALLERS[caller].name)
}

async fn start(alipay: &Remembering, uid: u32) -> TestSidecar {
    let known = CALLERS.iter().filter(|row| row.is_known);
    let callers = known.map(|row| configured(row, uid)).collect();
    let sidecar = TestSidecar::start_with(|config| {
        config.upstream.gateway = Some(format!("{}/gateway.do", alipay.url));
        config.upstream.v3 = Some(alipay.url.clone());
        config.apps = APPS.iter().map(|app_id| app(app_id)).collect();
        config.callers = callers;
    })
    .await;
    let store = sidecar.sidecar.store();
    for record in &RECORDS {
        add(&*store, record).await;
    }
    for record in RECORDS.iter().filter(|it| CANCELLED.contains(it.letter)) {
        cancel(&*store, record).await;
    }
    sidecar
}

fn configured(row: &CallerRow, uid: u32) -> CallerConfig {
    let proved = match row.proof {
        Proof::Bearer => with_token(row.name),
        Proof::Key(key) => with_key(row.name, key),
        Proof::Nothing => panic!("{} proves nothing", row.name),
        Proof::Uid => caller(row.name, CallerIdentity::Uid(uid)),
    };
    let mut configured = for_methods(for_merchants(proved, row.merchants), row.methods);
    if row.is_reported {
        configured.mode = CallerMode::Report;
    }
    configured
}

async fn add(store: &dyn Store, record: &Record) {
    let token = format!("token-of-{}", record.letter);
    let mut it = merchant(record.auth_app_id, record.pid, &token, record.alias);
    it.app_id = AppId::new(APPS[record.app]).expect("an id");
    it.token.app_refresh_token = None;
    it.rank = Rank::AuthTime(2);
    add_merchant(store, it).await;
}

async fn cancel(store: &dyn Store, record: &Record) {
    let revocation = Revocation {
        app_id: AppId::new(APPS[record.app]).expect("an id"),
        auth_app_id: AuthAppId::new(record.auth_app_id).expect("an id"),
        at: Some(3),
        estimated: false,
        only: None,
    };
    let cancelled = Change::Revoke {
        revocation,
        entry: None,
    };
    store.commit(vec![cancelled]).await.expect("stored");
}

/// One connection to each of the two listeners.
struct Asking {
    tcp: Caller,
    unix: Caller,
}

impl Asking {
    fn new(address: &str, socket: &Path) -> Self {
        Self {
            tcp: Caller::new(address, Keep::Alive),
            unix: Caller::on_unix(socket, Keep::Alive),
        }
    }

    /// Runs the cases of one lane, and gives what was answered otherwise than expected.
    async fn run(mut self, lane: usize, cases: &[Case]) -> Vec<String> {
        let mut wrong = Vec::new();
        for (case, of) in cases.iter().enumerate().skip(lane).step_by(LANES) {
            let row = &CALLERS[of.0];
            let asked = request(case, row, &TAGS[of.1], METHODS[of.2].0);
            let connection = match row.proof {
                Proof::Uid => &mut self.unix,
                _ => &mut self.tcp,
            };
            let told = connection
                .ask(asked.method, &asked.path, &asked.headers, &asked.body)
                .await
                .expect("an answer");
            if let Some(fault) = fault(row, &told, expected(of)) {
                wrong.push(format!("{} {fault}: {}", name(of), told.body));
            }
        }
        wrong
    }
}

/// What is wrong with an answer.
fn fault(row: &CallerRow, told: &Told, expected: Verdict) -> Option<String> {
    let code = told
        .head
        .lines()
        .find_map(|line| line.strip_prefix("alipay-sidecar-error: "))
        .unwrap_or_default();
    if code != expected.code {
        return Some(format!("gave {code:?}, not {:?}", expected.code));
    }
    if told.body.contains("candidates") && code != "merchant-ambiguous" {
        return Some("names candidates".to_owned());
    }
    if let Some(signed) = expected.signed
        && whom(&told.body) != signed
    {
        return Some(format!("is signed for {:?}", whom(&told.body)));
    }
    let is_kept = |record: &&Record| !row.is_reported && !row.reaches.contains(record.letter);
    let mut kept = RECORDS.iter().filter(is_kept);
    let shown = kept.find(|record| shows(&told.body, record, row));
    shown.map(|record| format!("shows {}", record.letter))
}

/// Whether an answer tells of a record; one that authorised two apps may be known by the other.
fn shows(body: &str, record: &Record, row: &CallerRow) -> bool {
    let is_known_otherwise = |other: &Record| {
        other.auth_app_id == record.auth_app_id && row.reaches.contains(other.letter)
    };
    body.contains(record.auth_app_id) && !RECORDS.iter().any(is_known_otherwise)
}
