//! The program's log: standard error, for people or as JSON.
//!
//! Lines are written by a thread of their own: a terminal or pipe that nobody reads must not hold
//! a call up. What doesn't fit is dropped and counted.

use std::io::IsTerminal;

use prometheus::{PullingGauge, Registry};
use tracing::{Level, Metadata, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

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
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_LINES)
        .thread_name("log")
        .finish(std::io::stderr());
    let dropped = writer.error_counter();
    let started = subscriber(settings, writer)?.try_init();
    started.map_err(|error| anyhow::anyhow!("the log could not be started: {error}"))?;
    Ok(Log {
        dropped,
        _writer: guard,
    })
}

/// What writes the lines that `settings` ask for.
fn subscriber(
    settings: &TelemetryConfig,
    writer: impl for<'w> MakeWriter<'w> + Send + Sync + 'static,
) -> Result<Box<dyn Subscriber + Send + Sync>, Failure> {
    let filter = EnvFilter::try_new(&settings.log)
        .map_err(|error| anyhow::anyhow!("telemetry.log: {error}"))?;
    let terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(terminal)
        .with_writer(writer);
    let is_json = match settings.log_format {
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    let cap = filter_fn(is_ours_or_shallow);
    Ok(match is_json {
        true => Box::new(log.json().flatten_event(true).finish().with(cap)),
        false => Box::new(log.finish().with(cap)),
    })
}

/// Whatever `telemetry.log` says: libraries, at their deeper levels, tell of the headers and bodies
/// that pass through them, and those hold tokens.
fn is_ours_or_shallow(event: &Metadata<'_>) -> bool {
    let ours = event.target().split("::").next() == Some(env!("CARGO_CRATE_NAME"));
    ours || *event.level() <= Level::INFO
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("no panic").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_libraries_say_of_payloads_is_left_out_at_every_level() {
        for log in ["trace", "trace,hyper=trace", "hyper::proto=trace,info"] {
            let settings = TelemetryConfig {
                log: log.to_owned(),
                log_format: LogFormat::Json,
                ..TelemetryConfig::default()
            };
            let lines = Lines::default();
            let made = lines.clone();
            let subscriber = subscriber(&settings, move || made.clone()).expect("a log");
            tracing::subscriber::with_default(subscriber, || {
                tracing::trace!(target: "hyper::proto::h1", "authorization: a-token");
                tracing::debug!(target: "alipay_sidecar_of_others", "a-token");
                tracing::info!(target: "hyper::proto::h1", "shallow");
                tracing::error!(target: "alipay_sidecar::cli", "ours");
            });
            let lines = lines.0.lock().expect("no panic");
            let lines = String::from_utf8_lossy(&lines);
            assert!(!lines.contains("a-token"), "{log}: {lines}");
            assert!(
                lines.contains("shallow") && lines.contains("ours"),
                "{log}: {lines}"
            );
        }
    }
}
