//! What it takes to be there at all.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::runtime::Runtime;

use crate::Plan;
use crate::table::{Finding, Wanted, digits, over};
use crate::world::{self, World};

/// How long a sidecar is left alone before its memory is read.
const SETTLED: Duration = Duration::from_secs(1);

pub(crate) fn measure(_: &Runtime, world: &World, plan: &Plan) -> anyhow::Result<Vec<Finding>> {
    let wanted = Wanted::AtMost(8.0);
    let what = "the stripped program";
    let size = match stripped(world) {
        Ok(size) => Finding {
            what: what.to_owned(),
            figures: vec![size / 1e6],
            unit: " MB",
            wanted,
            beside: "stripped".to_owned(),
        },
        Err(error) => Finding::without_base(what, wanted, &format!("{error:#}")),
    };
    Ok(vec![size, idle(world, plan)?])
}

fn stripped(world: &World) -> anyhow::Result<f64> {
    let path = world.path("stripped");
    let mut strip = Command::new("strip");
    let strip = strip.arg("-o").arg(&path);
    let status = strip
        .arg(world::program())
        .status()
        .context("there is no `strip`")?;
    ensure!(status.success(), "strip failed: {status}");
    Ok(std::fs::metadata(path)?.len() as f64)
}

/// A fresh sidecar each time: where things stand in memory is another in each.
fn idle(world: &World, plan: &Plan) -> anyhow::Result<Finding> {
    let mut rounds = Vec::with_capacity(plan.rounds);
    for round in 0..plan.rounds {
        let sidecar = world.sidecar(&format!("footprint-{round}"))?;
        std::thread::sleep(SETTLED);
        rounds.push((sidecar.program.resident()?, sidecar.program.peak()?));
    }
    let mebibyte = f64::from(1 << 20);
    let peak = over(&rounds, |(_, peak)| peak / mebibyte);
    Ok(Finding {
        what: "memory of a sidecar that has nothing to do".to_owned(),
        figures: rounds
            .iter()
            .map(|(resident, _)| resident / mebibyte)
            .collect(),
        unit: " MiB",
        wanted: Wanted::AtMost(12.0),
        beside: format!("resident; {} MiB at the most", digits(peak)),
    })
}
