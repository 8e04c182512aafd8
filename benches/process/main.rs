//! What the sidecar costs as a whole process; `benches/README.md` says what each row is.
//!
//! Everything runs on loopback, each subject as a process of its own, so that processor time and
//! memory can be told apart: an Alipay with TLS whose replies are signed beforehand, the sidecar as
//! an operator runs it, the bases, and this process, which sends. Subjects take turns in rounds, and
//! a ratio is formed within a round, so that whatever else the machine does hits all of them alike.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::runtime::Runtime;

mod acks;
mod crowd;
mod floor;
mod footprint;
mod load;
mod merchants;
mod neighbours;
mod notifications;
mod postgres;
mod prober;
mod program;
mod roles;
mod rsa;
mod sdks;
mod table;
mod waiting;
mod world;

use table::Finding;
use world::World;

type Group = fn(&Runtime, &World, &Plan) -> anyhow::Result<Vec<Finding>>;

/// What can be measured alone, by its name on the command line.
const GROUPS: [(&str, Group); 8] = [
    ("footprint", footprint::measure),
    ("floor", floor::measure),
    ("waiting", waiting::measure),
    ("crowd", crowd::measure),
    ("merchants", merchants::measure),
    ("acks", acks::measure),
    ("neighbours", neighbours::measure),
    ("sdks", sdks::measure),
];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, role, directory] = arguments.as_slice()
        && flag == "--role"
    {
        return roles::play(role, directory.as_ref());
    }
    let plan = Plan::from_arguments(&arguments)?;
    allow_all_descriptors();
    let (runtime, world) = (Runtime::new()?, World::new()?);
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", table::head(&plan)?)?;
    for (name, measure) in GROUPS {
        if plan.wants(name) {
            let findings = measure(&runtime, &world, &plan);
            for finding in findings.with_context(|| format!("while measuring `{name}`"))? {
                writeln!(out, "{finding}")?;
            }
        }
    }
    Ok(())
}

/// How much is measured.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) rounds: usize,
    /// How long each subject is measured in each round.
    pub(crate) slice: Duration,
    /// How long it works before, so that connections are there and caches are warm.
    pub(crate) warm: Duration,
    /// Merchants in the large store.
    pub(crate) merchants: u32,
    /// Connections of the crowd, and of the idle one.
    pub(crate) crowd: usize,
    pub(crate) idle: usize,
    /// The groups asked for; none: all.
    groups: Vec<String>,
}

impl Plan {
    const FULL: Self = Self {
        rounds: 7,
        slice: Duration::from_millis(1500),
        warm: Duration::from_millis(300),
        merchants: 1_000_000,
        crowd: 1_000,
        idle: 5_000,
        groups: Vec::new(),
    };
    const SHORT: Self = Self {
        rounds: 5,
        slice: Duration::from_millis(150),
        warm: Duration::from_millis(40),
        merchants: 20_000,
        crowd: 300,
        idle: 1_000,
        groups: Vec::new(),
    };

    fn from_arguments(arguments: &[String]) -> anyhow::Result<Self> {
        let mut plan = Self::FULL;
        for argument in arguments {
            match argument.as_str() {
                // cargo says it to every bench.
                "--bench" => (),
                "--short" => {
                    let groups = std::mem::take(&mut plan.groups);
                    plan = Self {
                        groups,
                        ..Self::SHORT
                    };
                }
                name if GROUPS.iter().any(|(group, _)| *group == name) => {
                    plan.groups.push(name.to_owned());
                }
                other => {
                    let names = GROUPS.map(|(name, _)| name).join(", ");
                    bail!("unknown argument `{other}`; there are `--short`, {names}")
                }
            }
        }
        Ok(plan)
    }

    fn wants(&self, group: &str) -> bool {
        self.groups.is_empty() || self.groups.iter().any(|name| name == group)
    }

    /// One of the `parts` that a slice is cut into.
    pub(crate) fn part(&self, parts: u32) -> Self {
        Self {
            slice: self.slice / parts,
            warm: self.warm / parts,
            ..self.clone()
        }
    }

    /// The turns of a round: subjects whose figures are put together take their slices in so many
    /// parts, one after another, so that a machine that gets slower does so for all of them alike.
    pub(crate) fn turns(&self) -> impl Iterator<Item = Self> {
        let shortest = Duration::from_millis(30).as_millis();
        let parts = (self.slice.as_millis() / shortest).clamp(1, 12) as u32;
        std::iter::repeat_n(self.part(parts), parts as usize)
    }

    /// Measures `round` so often; one more before, which doesn't count, warms everything up.
    pub(crate) fn rounds<T>(
        &self,
        mut round: impl FnMut() -> anyhow::Result<T>,
    ) -> anyhow::Result<Vec<T>> {
        round()?;
        (0..self.rounds).map(|_| round()).collect()
    }
}

/// This process holds the other end of every connection.
fn allow_all_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let granted = getrlimit(Resource::Nofile).maximum;
    let all = Rlimit {
        current: granted,
        maximum: granted,
    };
    // Without them, the rows with many connections fail and say so.
    let _ = setrlimit(Resource::Nofile, all);
}
