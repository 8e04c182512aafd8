//! What it takes to be there at all.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::runtime::Runtime;

use crate::Plan;
use crate::table::{Finding, Wanted, digits};
use crate::world::{self, World};

/// How long a sidecar is left alone before its memory is read.
const SETTLED: Duration = Duration::from_secs(1);

pub(crate) fn measure(_: &Runtime, world: &World, _: &Plan) -> anyhow::Result<Vec<Finding>> {
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
    Ok(vec![size, idle(world)?])
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

fn idle(world: &World) -> anyhow::Result<Finding> {
    let sidecar = world.sidecar("footprint")?;
    std::thread::sleep(SETTLED);
    let (resident, peak) = (sidecar.program.resident()?, sidecar.program.peak()?);
    let mebibyte = f64::from(1 << 20);
    Ok(Finding {
        what: "memory of a sidecar that has nothing to do".to_owned(),
        figures: vec![resident / mebibyte],
        unit: " MiB",
        wanted: Wanted::AtMost(12.0),
        beside: format!("resident; {} MiB at the most", digits(peak / mebibyte)),
    })
}
