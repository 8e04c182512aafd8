//! A PostgreSQL of its own, as it is without any configuration, on the same disk as the store.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use crate::notifications;
use crate::program::Program;

/// Whoever owns nothing: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65_534;
/// How long it may take to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// What the sidecar keeps of a notification, and finds it by.
const TABLE: &str = "create table inbox (id bigserial primary key, notify_id text not null unique, \
     app_id text not null, content_type text not null, body text not null, \
     received_at timestamptz not null default now())";

/// A cluster that runs; it ends with this.
pub(crate) struct Cluster {
    directory: tempfile::TempDir,
    program: Option<Program>,
}

impl Cluster {
    /// Makes one with an empty table.
    ///
    /// # Errors
    /// PostgreSQL isn't installed, or doesn't run here.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("sidecar-bench").tempdir()?;
        if rustix::process::geteuid().is_root() {
            chown(directory.path(), Some(NOBODY), Some(NOBODY))?;
        }
        let mut cluster = Self {
            directory,
            program: None,
        };
        let flags = ["-D", "data", "-U", "bench", "-A", "trust", "-E", "UTF8"];
        cluster.run("initdb", &flags)?;
        let mut postgres = cluster.command("postgres", &["-D", "data", "-h", ""]);
        let child = postgres.arg("-k").arg(cluster.at()).spawn()?;
        cluster.program = Some(Program::new(child));
        let began = Instant::now();
        while cluster.query("select 1").is_err() {
            ensure!(began.elapsed() < PATIENCE, "PostgreSQL doesn't start");
            std::thread::sleep(Duration::from_millis(50));
        }
        cluster.query(TABLE)?;
        cluster.write_script()?;
        Ok(cluster)
    }

    /// How many rows a second `clients` insert, each of which waits for its commit.
    pub(crate) fn inserts_a_second(&self, clients: usize, time: Duration) -> anyhow::Result<f64> {
        let (clients, seconds) = (clients.to_string(), time.as_secs_f64().ceil().to_string());
        let at = self.at().to_string_lossy();
        let body = format!("body={}", notifications::unsigned("one"));
        let flags = [
            "-h",
            &at,
            "-U",
            "bench",
            "-D",
            &body,
            "-n",
            "-M",
            "prepared",
            "-j",
            "2",
            "-c",
            &clients,
            "-T",
            &seconds,
            "-f",
            "insert.sql",
            "postgres",
        ];
        let said = self.run("pgbench", &flags)?;
        let figure = said.lines().find_map(|line| line.strip_prefix("tps = "));
        let figure = figure.and_then(|figure| figure.split_whitespace().next());
        Ok(figure.context("pgbench tells no tps")?.parse()?)
    }

    fn query(&self, sql: &str) -> anyhow::Result<String> {
        let at = self.at().to_string_lossy();
        self.run("psql", &["-h", &at, "-U", "bench", "-c", sql, "postgres"])
    }

    fn write_script(&self) -> anyhow::Result<()> {
        // Both are parameters of a statement that is prepared once, as a client in service has it.
        let script = "\\set n random(1, 9000000000000000000)\n\
             insert into inbox (notify_id, app_id, content_type, body) values \
             ((:n)::bigint::text, '2021000000000001', 'application/x-www-form-urlencoded', :body);\n";
        Ok(std::fs::write(self.at().join("insert.sql"), script)?)
    }

    fn run(&self, program: &str, flags: &[&str]) -> anyhow::Result<String> {
        let mut command = self.command(program, flags);
        let output = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = output.output();
        let output = output.with_context(|| format!("there is no `{program}`"))?;
        if !output.status.success() {
            bail!("{program}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn command(&self, program: &str, flags: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(flags).current_dir(self.at());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::null());
        if rustix::process::geteuid().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    fn at(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // What doesn't end this way is killed with its program.
        let _ = self.run("pg_ctl", &["-D", "data", "-m", "immediate", "stop"]);
    }
}
