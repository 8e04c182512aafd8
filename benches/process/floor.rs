//! What a signed call costs, against what it can't do without: RSA, and a request passed on.

use tokio::runtime::Runtime;

use crate::Plan;
use crate::load::{Callers, Taken};
use crate::table::{Finding, Wanted, digits, over};
use crate::world::{World, call};

/// Connections at which processor time is compared.
const CONNECTIONS: usize = 16;

struct Round {
    /// Sign and verify, on every core and on one, µs.
    rsa_everywhere: f64,
    rsa_alone: f64,
    proxy: Taken,
    /// A proxy that signs and verifies on the reactor, and does nothing else.
    inline: Taken,
    sidecar: Taken,
    /// Both with one connection.
    proxy_alone: Taken,
    sidecar_alone: Taken,
}

pub(crate) fn measure(
    runtime: &Runtime,
    world: &World,
    plan: &Plan,
) -> anyhow::Result<Vec<Finding>> {
    let (proxy, proxy_address) = world.role("proxy")?;
    let (inline, inline_address) = world.role("inline")?;
    let sidecar = world.sidecar("floor")?;
    let connect = |address: &str, count| runtime.block_on(Callers::connect(address, count, call()));
    let mut of_proxy = connect(&proxy_address, CONNECTIONS)?;
    let mut of_inline = connect(&inline_address, CONNECTIONS)?;
    let mut of_sidecar = connect(&sidecar.proxy, CONNECTIONS)?;
    let mut one_of_proxy = connect(&proxy_address, 1)?;
    let mut one_of_sidecar = connect(&sidecar.proxy, 1)?;
    let rounds = plan.rounds(|| {
        Ok(Round {
            rsa_everywhere: world.rsa.on_all_cores(plan.slice)?,
            proxy: runtime.block_on(of_proxy.slice(plan, &proxy))?,
            inline: runtime.block_on(of_inline.slice(plan, &inline))?,
            sidecar: runtime.block_on(of_sidecar.slice(plan, &sidecar.program))?,
            rsa_alone: world.rsa.alone(plan.slice)?,
            proxy_alone: runtime.block_on(one_of_proxy.slice(plan, &proxy))?,
            sidecar_alone: runtime.block_on(one_of_sidecar.slice(plan, &sidecar.program))?,
        })
    })?;
    Ok(vec![cpu(&rounds), latency(&rounds)])
}

fn cpu(rounds: &[Round]) -> Finding {
    let floor = |r: &Round| r.rsa_everywhere + r.proxy.cpu();
    Finding {
        what: format!(
            "processor time that a signed call needs, of what it takes, {CONNECTIONS} connections"
        ),
        figures: rounds.iter().map(|r| floor(r) / r.sidecar.cpu()).collect(),
        unit: "",
        wanted: Wanted::AtLeast(0.95),
        beside: format!(
            "aws-lc sign and verify {} + minimal proxy {}, of {} µs; {} calls/s; both in one \
             proxy, on its reactor: {} µs",
            digits(over(rounds, |r| r.rsa_everywhere)),
            digits(over(rounds, |r| r.proxy.cpu())),
            digits(over(rounds, |r| r.sidecar.cpu())),
            digits(over(rounds, |r| r.sidecar.calls_a_second())),
            digits(over(rounds, |r| r.inline.cpu())),
        ),
    }
}

fn latency(rounds: &[Round]) -> Finding {
    let added = |r: &Round| r.sidecar_alone.p50() - r.proxy_alone.p50();
    Finding {
        what: "p50 added to a minimal proxy, one connection, to aws-lc sign and verify".to_owned(),
        figures: rounds.iter().map(|r| added(r) / r.rsa_alone).collect(),
        unit: "",
        wanted: Wanted::AtMost(1.15),
        beside: format!(
            "{} − {} µs, to {} µs; processor time {} µs",
            digits(over(rounds, |r| r.sidecar_alone.p50())),
            digits(over(rounds, |r| r.proxy_alone.p50())),
            digits(over(rounds, |r| r.rsa_alone)),
            digits(over(rounds, |r| r.sidecar_alone.cpu())),
        ),
    }
}
