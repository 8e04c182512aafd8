//! What a durable ack costs, against PostgreSQL's insert of the same row.

use std::sync::Arc;

use anyhow::Context;
use http::Request;
use http_body_util::Full;
use tokio::runtime::Runtime;

use crate::Plan;
use crate::load::{Answer, Callers, Calls, Taken};
use crate::notifications::Notifications;
use crate::postgres::Cluster;
use crate::table::{Finding, Wanted, digits, over};
use crate::world::World;

/// Who sends at once: about as many as Alipay has connections to one ISV.
const SENDERS: usize = 32;
/// More than are acked a second.
const A_SECOND: f64 = 20_000.0;
const WHAT: &str = "verified, durable notifications a second, to PostgreSQL's inserts";
const WANTED: Wanted = Wanted::AtLeast(1.3);

struct Round {
    inserts: f64,
    acks: Taken,
}

pub(crate) fn measure(
    runtime: &Runtime,
    world: &World,
    plan: &Plan,
) -> anyhow::Result<Vec<Finding>> {
    let cluster = match Cluster::start() {
        Ok(cluster) => cluster,
        Err(error) => {
            let why = format!("{error:#}");
            return Ok(vec![Finding::without_base(WHAT, WANTED, &why)]);
        }
    };
    let sidecar = world.sidecar("acks")?;
    let seconds = (plan.slice + plan.warm).as_secs_f64() * (plan.rounds + 1) as f64;
    let count = (seconds * A_SECOND) as usize;
    let due = Notifications::prepare(&world.alipay_key, "acks", count)?;
    let connecting = Callers::connect(&sidecar.webhook, SENDERS, send(due));
    let mut senders = runtime.block_on(connecting)?;
    let rounds = plan.rounds(|| {
        Ok(Round {
            inserts: cluster.inserts_a_second(SENDERS, plan.slice)?,
            acks: runtime.block_on(senders.slice(plan, &sidecar.program))?,
        })
    })?;
    let (inserts, acks) = (
        over(&rounds, |r| r.inserts),
        over(&rounds, |r| r.acks.calls_a_second()),
    );
    let p99 = over(&rounds, |r| r.acks.p99() / 1e3);
    let ratio = |r: &Round| r.acks.calls_a_second() / r.inserts;
    Ok(vec![Finding {
        what: format!("{WHAT}, {SENDERS} senders"),
        figures: rounds.iter().map(ratio).collect(),
        unit: "",
        wanted: WANTED,
        beside: format!(
            "{} of {}; p99 of an ack {} ms",
            digits(acks),
            digits(inserts),
            digits(p99)
        ),
    }])
}

/// Sends one notification after another.
fn send(due: Notifications) -> Calls {
    let make = move |_, _| {
        let body = due.next().context("all notifications were sent")?;
        Ok(Request::post("/alipay/notify")
            .header("host", "127.0.0.1")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(Full::new(body))?)
    };
    Calls {
        make: Arc::new(make),
        answer: Answer::Just("success"),
    }
}
