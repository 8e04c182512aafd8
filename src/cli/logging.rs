//! The program's log: standard error, for people or as JSON.
//!
//! Lines are written by a thread of their own: a terminal or pipe that nobody reads must not hold
//! a call up. What doesn't fit is dropped and counted.

use std::io::IsTerminal;

use prometheus::{PullingGauge, Registry};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::cli::failure::Failure;
use crate::config::telemetry::{LogFormat, TelemetryConfig};

/// Lines that may wait to be written.
const WAITING_LINES: usize = 10_000;

/// The running log; dropping it writes what still waits.
#[must_use]
pub(crate) struct Log {
    dropped: ErrorCounter,
    _writer: WorkerGuard,
}

/// Starts the log of this process; once.
pub(crate) fn start(settings: &TelemetryConfig) -> Result<Log, Failure> {
    let filter = EnvFilter::try_new(&settings.log)
        .map_err(|error| anyhow::anyhow!("telemetry.log: {error}"))?;
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_LINES)
        .thread_name("log")
        .finish(std::io::stderr());
    let dropped = writer.error_counter();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(writer);
    let started = match settings.log_format {
        LogFormat::Json => log.json().flatten_event(true).try_init(),
        LogFormat::Auto if !std::io::stderr().is_terminal() => {
            log.json().flatten_event(true).try_init()
        }
        LogFormat::Auto | LogFormat::Human => log.try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("the log could not be started: {error}"))?;
    Ok(Log {
        dropped,
        _writer: guard,
    })
}

impl Log {
    /// Shows in `registry` how many lines were dropped.
    pub(crate) fn count_in(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let dropped = self.dropped.clone();
        let read = move || f64::from(u32::try_from(dropped.dropped_lines()).unwrap_or(u32::MAX));
        let gauge = PullingGauge::new(
            "alipay_sidecar_log_dropped_lines",
            "Log lines dropped because nobody read them in time.",
            Box::new(read),
        )?;
        registry.register(Box::new(gauge))
    }
}
