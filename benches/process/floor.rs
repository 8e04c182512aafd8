//! What a signed call costs, against what it can't do without: RSA, and a request passed on.

use tokio::runtime::Runtime;

use crate::Plan;
use crate::load::{Callers, Taken};
use crate::program::Program;
use crate::rsa::Computed;
use crate::table::{Finding, Wanted, digits, median, over};
use crate::world::{CREATE, QUERY, World, calls, handed_on};

/// Connections at which processor time is compared.
const CONNECTIONS: usize = 16;

#[derive(Default)]
struct Round {
    /// Sign and verify, on every core, and on one, µs each.
    rsa_everywhere: Computed,
    rsa_alone: Vec<f64>,
    proxy: Taken,
    /// A proxy that signs and verifies on the reactor, and does nothing else.
    inline: Taken,
    sidecar: Taken,
    /// Calls of which a record is kept.
    recorded: Taken,
    /// With one connection.
    proxy_alone: Taken,
    sidecar_alone: Taken,
}

/// Who calls, and whose processor time counts.
struct Subject<'a> {
    runtime: &'a Runtime,
    callers: Callers,
    program: &'a Program,
}

impl Subject<'_> {
    fn slice(&mut self, turn: &Plan) -> anyhow::Result<Taken> {
        self.runtime
            .block_on(self.callers.slice(turn, self.program))
    }
}

pub(crate) fn measure(
    runtime: &Runtime,
    world: &World,
    plan: &Plan,
) -> anyhow::Result<Vec<Finding>> {
    let (proxy, proxy_address) = world.role("proxy")?;
    let (inline, inline_address) = world.role("inline")?;
    let sidecar = world.sidecar("floor")?;
    // Of its own: records make a store grow.
    let recording = world.sidecar("recorded")?;
    let subject = |program, address: &str, count, calls| {
        let callers = runtime.block_on(Callers::connect(address, count, calls))?;
        anyhow::Ok(Subject {
            runtime,
            callers,
            program,
        })
    };
    let base = |program, address: &str, count| subject(program, address, count, handed_on(QUERY));
    let own = |count| subject(&sidecar.program, &sidecar.proxy, count, calls(QUERY));
    let mut of_proxy = base(&proxy, &proxy_address, CONNECTIONS)?;
    let mut of_inline = base(&inline, &inline_address, CONNECTIONS)?;
    let mut of_sidecar = own(CONNECTIONS)?;
    let mut recorded = subject(
        &recording.program,
        &recording.proxy,
        CONNECTIONS,
        calls(CREATE),
    )?;
    let mut one_of_proxy = base(&proxy, &proxy_address, 1)?;
    let mut one_of_sidecar = own(1)?;
    let rounds = plan.rounds(|| {
        let mut round = Round::default();
        for turn in plan.turns() {
            // RSA on both sides of what it is compared with.
            let rsa = turn.part(2).slice;
            round.rsa_everywhere.add(&world.rsa.on_all_cores(rsa)?);
            round.sidecar.add(of_sidecar.slice(&turn)?);
            round.rsa_everywhere.add(&world.rsa.on_all_cores(rsa)?);
            round.proxy.add(of_proxy.slice(&turn)?);
            round.inline.add(of_inline.slice(&turn)?);
            round.recorded.add(recorded.slice(&turn)?);
            round.rsa_alone.extend(world.rsa.alone(rsa)?);
            round.sidecar_alone.add(one_of_sidecar.slice(&turn)?);
            round.rsa_alone.extend(world.rsa.alone(rsa)?);
            round.proxy_alone.add(one_of_proxy.slice(&turn)?);
        }
        Ok(round)
    })?;
    Ok(vec![cpu(&rounds), latency(&rounds)])
}

fn cpu(rounds: &[Round]) -> Finding {
    let floor = |r: &Round| r.rsa_everywhere.each() + r.proxy.cpu();
    Finding {
        what: format!(
            "processor time that a signed call needs, of what it takes, {CONNECTIONS} connections"
        ),
        figures: rounds.iter().map(|r| floor(r) / r.sidecar.cpu()).collect(),
        unit: "",
        wanted: Wanted::AtLeast(0.95),
        beside: format!(
            "aws-lc sign and verify {} + minimal proxy {}, of {} µs; {} calls/s; a call of which \
             a record is kept: {} µs; RSA in the proxy, on its reactor: {} µs, {} of what ours takes",
            digits(over(rounds, |r| r.rsa_everywhere.each())),
            digits(over(rounds, |r| r.proxy.cpu())),
            digits(over(rounds, |r| r.sidecar.cpu())),
            digits(over(rounds, |r| r.sidecar.calls_a_second())),
            digits(over(rounds, |r| r.recorded.cpu())),
            digits(over(rounds, |r| r.inline.cpu())),
            digits(over(rounds, |r| r.inline.cpu() / r.sidecar.cpu())),
        ),
    }
}

fn latency(rounds: &[Round]) -> Finding {
    let added = |r: &Round| r.sidecar_alone.p50() - r.proxy_alone.p50();
    let rsa = |r: &Round| median(r.rsa_alone.clone());
    Finding {
        what: "p50 added to a minimal proxy, one connection, to aws-lc sign and verify".to_owned(),
        figures: rounds.iter().map(|r| added(r) / rsa(r)).collect(),
        unit: "",
        wanted: Wanted::AtMost(1.15),
        beside: format!(
            "{} − {} µs, to {} µs; processor time {} µs",
            digits(over(rounds, |r| r.sidecar_alone.p50())),
            digits(over(rounds, |r| r.proxy_alone.p50())),
            digits(over(rounds, rsa)),
            digits(over(rounds, |r| r.sidecar_alone.cpu())),
        ),
    }
}
