//! Many connections: what they do to throughput, to the slowest calls, and to memory.

use tokio::runtime::Runtime;

use crate::Plan;
use crate::load::{Callers, Taken};
use crate::table::{Finding, Wanted, digits, over};
use crate::world::{QUERY, Sidecar, World, calls};

/// Connections of the base.
const FEW: usize = 64;

#[derive(Default)]
struct Round {
    few: Taken,
    many: Taken,
}

pub(crate) fn measure(
    runtime: &Runtime,
    world: &World,
    plan: &Plan,
) -> anyhow::Result<Vec<Finding>> {
    let sidecar = world.sidecar("crowd")?;
    let connect = |count| runtime.block_on(Callers::connect(&sidecar.proxy, count, calls(QUERY)));
    let (mut few, mut many) = (connect(FEW)?, connect(plan.crowd)?);
    let rounds = plan.rounds(|| {
        let mut round = Round::default();
        // A thousand connections need a while to be at work: no turns as short as others'.
        for half in [plan.part(2), plan.part(2)] {
            round
                .few
                .add(runtime.block_on(few.slice(&half, &sidecar.program))?);
            round
                .many
                .add(runtime.block_on(many.slice(&half, &sidecar.program))?);
        }
        Ok(round)
    })?;
    let mut findings = throughput(&rounds, plan);
    findings.push(idle(runtime, world, plan)?);
    Ok(findings)
}

fn throughput(rounds: &[Round], plan: &Plan) -> Vec<Finding> {
    let Plan { crowd, .. } = plan;
    let (few, many) = (
        over(rounds, |r| r.few.calls_a_second()),
        over(rounds, |r| r.many.calls_a_second()),
    );
    let ratio = |r: &Round| r.many.calls_a_second() / r.few.calls_a_second();
    let (p50, p99) = (
        over(rounds, |r| r.many.p50() / 1e3),
        over(rounds, |r| r.many.p99() / 1e3),
    );
    vec![
        Finding {
            what: format!("signed calls a second, {crowd} connections to {FEW}"),
            figures: rounds.iter().map(ratio).collect(),
            unit: "",
            wanted: Wanted::AtLeast(0.97),
            beside: format!("{} of {}", digits(many), digits(few)),
        },
        Finding {
            what: format!("p99 to p50 of a signed call, {crowd} connections"),
            figures: rounds.iter().map(|r| r.many.p99() / r.many.p50()).collect(),
            unit: "",
            wanted: Wanted::AtMost(1.3),
            beside: format!("{} of {} ms", digits(p99), digits(p50)),
        },
    ]
}

/// What a connection takes that has made a call and waits, in a fresh sidecar each time.
fn idle(runtime: &Runtime, world: &World, plan: &Plan) -> anyhow::Result<Finding> {
    let mut rounds = Vec::with_capacity(plan.rounds);
    for round in 0..plan.rounds {
        let sidecar = world.sidecar(&format!("idle-{round}"))?;
        rounds.push(runtime.block_on(held(&sidecar, plan))?);
    }
    let mebibytes = |n| {
        let memory = over(&rounds, |round: &[f64; 2]| {
            round.get(n).copied().unwrap_or(f64::NAN)
        });
        digits(memory / f64::from(1 << 20))
    };
    // Together as many as one listener takes where there are 20,000 descriptors.
    let more = (plan.idle - FEW) as f64;
    Ok(Finding {
        what: format!("memory of an idle connection, {} of them", plan.idle),
        figures: rounds
            .iter()
            .map(|[before, after]| (after - before) / more / 1e3)
            .collect(),
        unit: " kB",
        wanted: Wanted::AtMost(20.0),
        beside: format!("from {} to {} MiB", mebibytes(0), mebibytes(1)),
    })
}

/// Memory before and after connections are there that wait.
async fn held(sidecar: &Sidecar, plan: &Plan) -> anyhow::Result<[f64; 2]> {
    // What calls themselves take is there before.
    let mut few = Callers::connect(&sidecar.proxy, FEW, calls(QUERY)).await?;
    few.call(plan.slice).await?;
    let before = sidecar.program.resident()?;
    let mut idle = Callers::connect(&sidecar.proxy, plan.idle - FEW, calls(QUERY)).await?;
    idle.call_each(FEW).await?;
    Ok([before, sidecar.program.resident()?])
}
