//! Many merchants: what they do to calls, to memory, and to a start after a crash.

use std::sync::Arc;
use std::time::{Duration, Instant};

use alipay_sidecar::clock::SystemClock;
use alipay_sidecar::model::authorization::{Authorization, Rank, Source};
use alipay_sidecar::model::id::{Alias, AppId, AuthAppId, Pid};
use alipay_sidecar::model::token::AppAuthToken;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::store::embedded::{EmbeddedStore, OpenOptions};
use alipay_sidecar::store::{Change, Store};
use tokio::runtime::Runtime;

use crate::Plan;
use crate::load::{Callers, Calls, Taken};
use crate::prober;
use crate::table::{Finding, Wanted, digits, median, over};
use crate::world::{APP_ID, Home, QUERY, Sidecar, World, calls, request};

/// Callers at once.
const CONNECTIONS: usize = 64;
/// How many go into one commit.
const TOGETHER: u32 = 5_000;
/// The least `auth_app_id`; the others follow.
const FIRST: u64 = 2_021_000_000_001_001;
/// Page cache while the store is filled.
const CACHE: usize = 256 << 20;

#[derive(Default)]
struct Round {
    one: Taken,
    many: Taken,
}

pub(crate) fn measure(
    runtime: &Runtime,
    world: &World,
    plan: &Plan,
) -> anyhow::Result<Vec<Finding>> {
    let home = world.home("merchants")?;
    fill(&home, plan.merchants)?;
    let (one, many) = (world.sidecar("merchant")?, home.start()?);
    let connect = |sidecar: &Sidecar, calls| {
        runtime.block_on(Callers::connect(&sidecar.proxy, CONNECTIONS, calls))
    };
    let mut of_one = connect(&one, calls(QUERY))?;
    let mut of_many = connect(&many, of_any(plan.merchants))?;
    let rounds = plan.rounds(|| {
        let mut round = Round::default();
        for turn in plan.turns() {
            round
                .one
                .add(runtime.block_on(of_one.slice(&turn, &one.program))?);
            round
                .many
                .add(runtime.block_on(of_many.slice(&turn, &many.program))?);
        }
        Ok(round)
    })?;
    drop((of_one, of_many));
    let more = many.program.resident()? - one.program.resident()?;
    let mut findings = of_calls(&rounds, more, plan);
    many.program.kill()?;
    one.program.kill()?;
    findings.push(start(world, &home, plan)?);
    Ok(findings)
}

fn of_calls(rounds: &[Round], more: f64, plan: &Plan) -> Vec<Finding> {
    let Plan { merchants, .. } = plan;
    let ratio = |r: &Round| r.many.calls_a_second() / r.one.calls_a_second();
    let needed = |r: &Round| r.one.cpu() / r.many.cpu();
    vec![
        Finding {
            what: format!("signed calls a second, {merchants} merchants to 1"),
            figures: rounds.iter().map(ratio).collect(),
            unit: "",
            wanted: Wanted::AtLeast(0.98),
            beside: format!(
                "{} of {}; by processor time {}, {} and {} µs",
                digits(over(rounds, |r| r.many.calls_a_second())),
                digits(over(rounds, |r| r.one.calls_a_second())),
                digits(over(rounds, needed)),
                digits(over(rounds, |r| r.many.cpu())),
                digits(over(rounds, |r| r.one.cpu())),
            ),
        },
        Finding {
            what: format!("memory that {merchants} merchants take beyond 1"),
            figures: vec![more / f64::from(1 << 20)],
            unit: " MiB",
            wanted: Wanted::AtMost(64.0),
            beside: "resident, after all calls".to_owned(),
        },
    ]
}

/// How long a start takes after a crash, against that on a store with nothing in it.
fn start(world: &World, full: &Home, plan: &Plan) -> anyhow::Result<Finding> {
    let empty = world.home("empty")?;
    fill(&empty, 0)?;
    let rounds = plan.rounds(|| Ok([ready(&empty)?, ready(full)?]))?;
    let ratio = |[empty, full]: &[Duration; 2]| full.as_secs_f64() / empty.as_secs_f64();
    let millis = |n: usize| {
        let times = rounds.iter().filter_map(|round| round.get(n));
        median(times.map(|time| time.as_secs_f64() * 1e3).collect())
    };
    Ok(Finding {
        what: format!(
            "time to ready after kill -9, {} merchants to none",
            plan.merchants
        ),
        figures: rounds.iter().map(ratio).collect(),
        unit: "",
        wanted: Wanted::AtMost(2.0),
        beside: format!("{} of {} ms", digits(millis(1)), digits(millis(0))),
    })
}

/// Starts a sidecar, waits until it says that it is ready, and kills it.
fn ready(home: &Home) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let sidecar = home.start()?;
    prober::ask(&sidecar.admin, &prober::readyz())?;
    let took = began.elapsed();
    sidecar.program.kill()?;
    Ok(took)
}

/// Calls for one merchant after another, far from each other in the store.
fn of_any(merchants: u32) -> Calls {
    // Odd and no divisor of any number of merchants that is one followed by zeros: all come.
    const STRIDE: u64 = 387_420_489;
    let make = Arc::new(move |caller, calls| {
        let caller = caller as u64;
        let number = (caller * 15_485_863 + calls * STRIDE) % u64::from(merchants);
        request(QUERY, &format!("app:{}", FIRST + number))
    });
    Calls {
        make,
        ..calls(QUERY)
    }
}

/// Creates the store of `home` with so many merchants; the first is `shop`.
pub(crate) fn fill(home: &Home, merchants: u32) -> anyhow::Result<()> {
    EmbeddedStore::create(&home.store(), &home.key)?;
    let store = EmbeddedStore::open(OpenOptions {
        path: home.store(),
        key: home.key.clone(),
        cache_bytes: CACHE,
        clock: Arc::new(SystemClock),
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    for first in (0..merchants).step_by(TOGETHER as usize) {
        let numbers = first..merchants.min(first + TOGETHER);
        let changes: anyhow::Result<Vec<_>> = numbers.map(change).collect();
        runtime.block_on(store.commit(changes?))?;
    }
    Ok(())
}

fn change(number: u32) -> anyhow::Result<Change> {
    let name = |n: u64| n.to_string();
    let number = u64::from(number);
    let alias = match number {
        0 => "shop".to_owned(),
        other => format!("shop-{other}"),
    };
    Ok(Change::Authorize {
        authorization: Box::new(Authorization {
            app_id: AppId::new(APP_ID)?,
            auth_app_id: AuthAppId::new(&name(FIRST + number))?,
            pid: Some(Pid::new(&name(2_088_000_000_001_001 + number))?),
            alias: Some(Alias::new(&alias)?),
            reference: None,
            token: AppAuthToken {
                app_auth_token: Secret::new(format!("202611BB{number:032}")),
                app_refresh_token: Some(Secret::new(format!("202611RR{number:032}"))),
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
        }),
        entry: None,
    })
}
