//! `[audit]` and `[telemetry]`: what the sidecar says about itself.

use std::path::PathBuf;
use std::time::Duration;

/// `[audit]` and `[telemetry]`.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// `audit.file`; `None`: off.
    pub audit_file: Option<PathBuf>,
    /// `audit.retain`.
    pub audit_retain: Duration,
    /// `telemetry.log`: a level, or `tracing` directives.
    pub log: String,
    /// `telemetry.log_format`.
    pub log_format: LogFormat,
    /// `telemetry.otlp_endpoint`.
    pub otlp_endpoint: Option<String>,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// JSON when standard error isn't a terminal.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            audit_file: Some(PathBuf::from("data/audit.jsonl")),
            audit_retain: Duration::from_hours(90 * 24),
            log: "info".to_owned(),
            log_format: LogFormat::Auto,
            otlp_endpoint: None,
        }
    }
}
