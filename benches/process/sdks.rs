//! Backends in Node.js and Python, through the sidecar and by Alipay's own SDKs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::runtime::Runtime;

use crate::Plan;
use crate::program::Program;
use crate::table::{Finding, Wanted, digits, over};
use crate::world::{APP_ID, Sidecar, World, files};

/// What installs them.
const INSTALLS: &str = "benches/sdks/install puts the SDK there";

/// One language, and how its backend calls.
struct Language {
    name: &'static str,
    program: PathBuf,
    script: &'static str,
    in_flight: usize,
    wanted: f64,
    /// The role of the Alipay that its SDK talks to.
    alipay: &'static str,
}

pub(crate) fn measure(_: &Runtime, world: &World, plan: &Plan) -> anyhow::Result<Vec<Finding>> {
    let at = std::env::current_exe()?;
    let target = at.ancestors().nth(3).context("no target folder")?;
    let installed = target.join("interop");
    let languages = [
        Language {
            name: "Node",
            program: "node".into(),
            script: "calls.mjs",
            in_flight: 64,
            wanted: 5.0,
            alipay: "alipay",
        },
        Language {
            name: "Python",
            program: installed.join("python/bin/python"),
            script: "calls.py",
            in_flight: 1,
            wanted: 25.0,
            // The SDK knows no further roots, and no port but the usual one.
            alipay: "alipay-plain",
        },
    ];
    let sidecar = world.sidecar("sdks")?;
    let compare = |language| compared(world, plan, (language, &installed), &sidecar);
    languages.iter().map(compare).collect()
}

struct Round {
    sdk: f64,
    sidecar: f64,
}

fn compared(
    world: &World,
    plan: &Plan,
    (language, installed): (&Language, &Path),
    sidecar: &Sidecar,
) -> anyhow::Result<Finding> {
    let Language {
        name, in_flight, ..
    } = language;
    let what =
        format!("calls a second of a {name} backend, {in_flight} in flight, to the official SDK");
    let wanted = Wanted::AtLeast(language.wanted);
    let beside = |why: &str| Ok(Finding::without_base(&what, wanted, why));
    if !installed.join("node/node_modules/alipay-sdk").exists() || !is_there(&language.program) {
        return beside(INSTALLS);
    }
    let (_alipay, gateway) = match gateway(world, language) {
        Ok(gateway) => gateway,
        Err(error) => return beside(&format!("{error:#}")),
    };
    let calls = |how| {
        let mut command = command(world, (language, installed), (&gateway, &sidecar.proxy));
        calls_a_second(command.arg(how).arg(seconds(plan.slice)))
    };
    let rounds = plan.rounds(|| {
        Ok(Round {
            sdk: calls("sdk")?,
            sidecar: calls("sidecar")?,
        })
    })?;
    Ok(Finding {
        what,
        figures: rounds.iter().map(|r| r.sidecar / r.sdk).collect(),
        unit: "",
        wanted,
        beside: format!(
            "{} of {}",
            digits(over(&rounds, |r| r.sidecar)),
            digits(over(&rounds, |r| r.sdk))
        ),
    })
}

/// Where the SDK finds its Alipay.
fn gateway(world: &World, language: &Language) -> anyhow::Result<(Option<Program>, String)> {
    if language.alipay == "alipay" {
        return Ok((None, format!("https://{}/gateway.do", world.upstream)));
    }
    let (alipay, address) = world.role(language.alipay)?;
    Ok((Some(alipay), format!("http://{address}/gateway.do")))
}

fn command(
    world: &World,
    (language, installed): (&Language, &Path),
    (gateway, proxy): (&str, &str),
) -> Command {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/sdks");
    let mut command = Command::new(&language.program);
    command
        .arg(scripts.join(language.script))
        .env("APP_ID", APP_ID)
        .env("APP_PRIVATE_KEY", world.path(files::APP_KEY))
        .env("ALIPAY_PUBLIC_KEY", world.path(files::ALIPAY_KEY))
        .env("GATEWAY", gateway)
        .env("IN_FLIGHT", language.in_flight.to_string())
        .env("MODULES", installed.join("node/package.json"))
        .env("NODE_EXTRA_CA_CERTS", world.path(files::CA))
        .env("SIDECAR_URL", format!("http://{proxy}"));
    command
}

fn calls_a_second(command: &mut Command) -> anyhow::Result<f64> {
    let output = command.stdin(Stdio::null()).output()?;
    let wrong = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{command:?}: {wrong}");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // An SDK may print what it likes before.
    let figure = said.lines().last().context("it says nothing")?;
    Ok(figure.trim().parse()?)
}

fn is_there(program: &Path) -> bool {
    let mut command = Command::new(program);
    let command = command.arg("--version").stdin(Stdio::null());
    command.output().is_ok_and(|output| output.status.success())
}

/// Both scripts warm up by themselves.
fn seconds(slice: Duration) -> String {
    slice.as_secs_f64().to_string()
}
