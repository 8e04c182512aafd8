//! A process under measurement: its processor time, its memory, its end.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

/// A process; it ends with this, as one in service does: a build that learns from its runs
/// (`benches/guided-build`) keeps what it learned only then.
pub(crate) struct Program(Child);

/// What each thread of a process had used, nanoseconds.
pub(crate) struct Used(HashMap<String, u64>);

impl Program {
    pub(crate) fn new(child: Child) -> Self {
        Self(child)
    }

    /// Starts a program that says on its first line where it listens.
    pub(crate) fn listening(command: &mut Command) -> anyhow::Result<(Self, String)> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let program = Self(child);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        match line.trim() {
            "" => bail!("{command:?} ended"),
            address => Ok((program, address.to_owned())),
        }
    }

    /// How much processor time its threads have used. Those that ended don't count; under load none
    /// does.
    pub(crate) fn used(&self) -> anyhow::Result<Used> {
        used_by(self.0.id())
    }

    /// The memory that is resident, bytes.
    pub(crate) fn resident(&self) -> anyhow::Result<f64> {
        self.memory("VmRSS:")
    }

    /// The most memory that ever was, bytes.
    pub(crate) fn peak(&self) -> anyhow::Result<f64> {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> anyhow::Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let kibibytes = line.and_then(|line| line.split_whitespace().next());
        let kibibytes: u32 = kibibytes.context("no such field")?.parse()?;
        Ok(f64::from(kibibytes) * 1024.0)
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    pub(crate) fn has_ended(&mut self) -> anyhow::Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }
}

/// What the threads of a process had used.
pub(crate) fn used_by(id: u32) -> anyhow::Result<Used> {
    let mut used = HashMap::new();
    for thread in std::fs::read_dir(format!("/proc/{id}/task"))? {
        let thread = thread?;
        // One that ends meanwhile has no file any more.
        let Ok(said) = std::fs::read_to_string(thread.path().join("schedstat")) else {
            continue;
        };
        let nanoseconds = said.split_whitespace().next().context("no figure")?;
        let name = thread.file_name().to_string_lossy().into_owned();
        used.insert(name, nanoseconds.parse()?);
    }
    Ok(Used(used))
}

impl Used {
    /// What was used since `before`.
    pub(crate) fn since(&self, before: &Self) -> Duration {
        let more = self.0.iter().map(|(thread, now)| {
            let then = before.0.get(thread).copied().unwrap_or_default();
            now.saturating_sub(then)
        });
        Duration::from_nanos(more.sum())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        if let Ok(None) = self.0.try_wait() {
            let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        }
        let asked = Instant::now();
        while let Ok(None) = self.0.try_wait() {
            if asked.elapsed() > PATIENCE {
                let _ = self.0.kill();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// How long it may take to end.
const PATIENCE: Duration = Duration::from_secs(5);
