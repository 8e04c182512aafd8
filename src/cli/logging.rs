//! The program's log: standard error, for people or as JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::FmtSpan;

use crate::cli::failure::Failure;
use crate::config::telemetry::{LogFormat, TelemetryConfig};

/// Starts the log of this process; once.
pub(crate) fn start(settings: &TelemetryConfig) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&settings.log)
        .map_err(|error| anyhow::anyhow!("telemetry.log: {error}"))?;
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_span_events(FmtSpan::NONE)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let started = match settings.log_format {
        LogFormat::Json => log.json().flatten_event(true).try_init(),
        LogFormat::Auto if !std::io::stderr().is_terminal() => {
            log.json().flatten_event(true).try_init()
        }
        LogFormat::Auto | LogFormat::Human => log.try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("the log could not be started: {error}").into())
}
