//! What everybody else waits for while calls queue for their signature.

use std::sync::Arc;

use tokio::runtime::Runtime;

use crate::Plan;
use crate::load::{Callers, Calls};
use crate::notifications::Notifications;
use crate::prober::{self, Prober};
use crate::table::{Finding, Wanted, digits, median, over, percentile};
use crate::world::{QUERY, World, calls, handed_on};

/// Callers that never pause.
const SIGNERS: usize = 64;
/// So few that each may sign where its call is made.
const FEW: usize = 2;
/// More probes than a prober, which pauses, sends a second.
const A_SECOND: usize = 1_000;

/// What a prober waited for, µs.
struct Round {
    livez: [f64; 2],
    /// With few signers, and the slowest hundredth.
    with_few: [f64; 2],
    late_with_few: [f64; 2],
    acks: [f64; 2],
    late_ack: f64,
}

/// Who answers, and where.
struct Subject {
    health: String,
    webhook: String,
    callers: Callers,
    few: Callers,
}

pub(crate) fn measure(
    runtime: &Runtime,
    world: &World,
    plan: &Plan,
) -> anyhow::Result<Vec<Finding>> {
    let (_inline, inline) = world.role("inline")?;
    let sidecar = world.sidecar("waiting")?;
    let connect = |address: &str, count, calls: Calls| {
        runtime.block_on(Callers::connect(address, count, calls))
    };
    let mut base = Subject {
        callers: connect(&inline, SIGNERS, handed_on(QUERY))?,
        few: connect(&inline, FEW, handed_on(QUERY))?,
        health: inline.clone(),
        webhook: inline,
    };
    let mut subject = Subject {
        callers: connect(&sidecar.proxy, SIGNERS, calls(QUERY))?,
        few: connect(&sidecar.proxy, FEW, calls(QUERY))?,
        health: sidecar.admin.clone(),
        webhook: sidecar.webhook.clone(),
    };
    let seconds = (plan.slice + plan.warm).as_secs_f64() * (plan.rounds + 1) as f64;
    let count = (seconds * 2.0 * A_SECOND as f64) as usize;
    let due = Notifications::prepare(&world.alipay_key, "waiting", count)?;
    let due = Arc::new(due);
    let rounds = plan.rounds(|| {
        let of_base = probe(runtime, plan, &mut base, &due)?;
        let of_subject = probe(runtime, plan, &mut subject, &due)?;
        let few_of_base = probe_beside_few(runtime, plan, &mut base)?;
        let few_of_subject = probe_beside_few(runtime, plan, &mut subject)?;
        let late = |times: &[f64]| percentile(times.to_vec(), 0.99);
        Ok(Round {
            livez: [median(of_base.0), median(of_subject.0)],
            late_with_few: [late(&few_of_base), late(&few_of_subject)],
            with_few: [median(few_of_base), median(few_of_subject)],
            acks: [median(of_base.1), median(of_subject.1.clone())],
            late_ack: percentile(of_subject.1, 0.99),
        })
    })?;
    Ok(findings(&rounds))
}

/// How long probes and acks took while all callers call.
fn probe(
    runtime: &Runtime,
    plan: &Plan,
    subject: &mut Subject,
    due: &Arc<Notifications>,
) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    runtime.block_on(subject.callers.call(plan.warm))?;
    let due = Arc::clone(due);
    let health = Prober::start(&subject.health, None, || Some(prober::livez()))?;
    let acks = Prober::start(&subject.webhook, prober::ACKED, move || {
        due.next().as_ref().map(prober::notify)
    })?;
    runtime.block_on(subject.callers.call(plan.slice))?;
    Ok((health.stop()?, acks.stop()?))
}

/// How long probes took while few callers call.
fn probe_beside_few(
    runtime: &Runtime,
    plan: &Plan,
    subject: &mut Subject,
) -> anyhow::Result<Vec<f64>> {
    runtime.block_on(subject.few.call(plan.warm))?;
    let health = Prober::start(&subject.health, None, || Some(prober::livez()))?;
    runtime.block_on(subject.few.call(plan.slice))?;
    health.stop()
}

fn findings(rounds: &[Round]) -> Vec<Finding> {
    let inline = |figure: fn(&Round) -> [f64; 2]| Finding {
        what: String::new(),
        figures: rounds.iter().map(|r| shares(figure(r))).collect(),
        unit: "",
        wanted: Wanted::AtMost(0.01),
        beside: {
            let [base, own] = [0, 1].map(|n| over(rounds, |r| nth(figure(r), n)));
            format!("{} of {} µs", digits(own), digits(base))
        },
    };
    vec![
        Finding {
            what: format!("p50 of /livez with {SIGNERS} signers, to signing on the reactor"),
            beside: format!(
                "{}; with {FEW} signers {}, p99 {}",
                inline(|r| r.livez).beside,
                inline(|r| r.with_few).beside,
                inline(|r| r.late_with_few).beside
            ),
            ..inline(|r| r.livez)
        },
        Finding {
            what: format!(
                "p50 of an ack with {SIGNERS} signers, to signing on the reactor, which keeps nothing"
            ),
            ..inline(|r| r.acks)
        },
        Finding {
            what: format!("p99 of an ack with {SIGNERS} signers"),
            figures: rounds.iter().map(|r| r.late_ack / 1e3).collect(),
            unit: " ms",
            wanted: Wanted::AtMost(50.0),
            beside: "from the request to `success`, durable".to_owned(),
        },
    ]
}

fn shares([base, own]: [f64; 2]) -> f64 {
    own / base
}

fn nth(pair: [f64; 2], n: usize) -> f64 {
    pair.get(n).copied().unwrap_or(f64::NAN)
}
