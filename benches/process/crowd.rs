//! Many connections: what they do to throughput, to the slowest calls, and to memory.

use tokio::runtime::Runtime;

use crate::Plan;
use crate::load::{Callers, Taken};
use crate::table::{Finding, Wanted, digits, over};
use crate::world::{World, call};

/// Connections of the base.
const FEW: usize = 64;

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
    let connect = |count| runtime.block_on(Callers::connect(&sidecar.proxy, count, call()));
    let (mut few, mut many) = (connect(FEW)?, connect(plan.crowd)?);
    let rounds = plan.rounds(|| {
        Ok(Round {
            few: runtime.block_on(few.slice(plan, &sidecar.program))?,
            many: runtime.block_on(many.slice(plan, &sidecar.program))?,
        })
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

/// What a connection takes that has made a call and waits.
fn idle(runtime: &Runtime, world: &World, plan: &Plan) -> anyhow::Result<Finding> {
    let sidecar = world.sidecar("idle")?;
    let connect = |count| runtime.block_on(Callers::connect(&sidecar.proxy, count, call()));
    // What calls themselves take is there before.
    let mut few = connect(FEW)?;
    runtime.block_on(few.call(plan.slice))?;
    let before = sidecar.program.resident()?;
    // Together as many as one listener takes where there are 20,000 descriptors.
    let more = plan.idle - FEW;
    let mut idle = connect(more)?;
    runtime.block_on(idle.call_each(FEW))?;
    let after = sidecar.program.resident()?;
    let each = (after - before) / more as f64 / 1e3;
    let mebibytes = |bytes: f64| digits(bytes / f64::from(1 << 20));
    Ok(Finding {
        what: format!("memory of an idle connection, {} of them", plan.idle),
        figures: vec![each],
        unit: " kB",
        wanted: Wanted::AtMost(20.0),
        beside: format!("from {} to {} MiB", mebibytes(before), mebibytes(after)),
    })
}
