//! `[audit]` and `[telemetry]`: what the sidecar says about itself.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::error::Mismatch;
use crate::config::misfits::Given;
use crate::config::section::Section;
use crate::config::{url, value, view};

/// `[audit]` and `[telemetry]`.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// `audit.file`; `None`: off.
    pub audit_file: Option<PathBuf>,
    /// `audit.max_size`, bytes; `None`: no bound.
    pub audit_max_size: Option<u64>,
    /// `audit.retain`.
    pub audit_retain: Duration,
    /// `telemetry.log`: a level, or `tracing` directives.
    pub log: String,
    /// `telemetry.log_format`.
    pub log_format: LogFormat,
    /// `telemetry.otlp_endpoint`.
    pub otlp_endpoint: Option<String>,
}

impl TelemetryConfig {
    pub(crate) fn read(audit: &Section<'_>, telemetry: &Section<'_>) -> Self {
        let default = Self::default();
        let directory = audit.reading.references().directory();
        let file = audit.text("file", |text| {
            Ok((!text.is_empty()).then(|| PathBuf::from(text)))
        });
        Self {
            audit_file: file
                .unwrap_or(default.audit_file)
                .map(|file| directory.join(file)),
            audit_max_size: audit
                .text("max_size", audit_size)
                .unwrap_or(default.audit_max_size),
            audit_retain: audit
                .text("retain", value::duration)
                .unwrap_or(default.audit_retain),
            log: telemetry
                .text("log", value::log_directives)
                .unwrap_or(default.log),
            log_format: telemetry
                .word("log_format", &LOG_FORMATS)
                .unwrap_or(default.log_format),
            otlp_endpoint: telemetry.optional("otlp_endpoint", url::collector),
        }
    }

    /// Who opens the log looks at its file.
    pub(super) fn judge_audit(&self, mut audit: Given<'_>) {
        let size = self.audit_max_size.map_or(Ok(0), least_audit);
        audit.check("max_size", size);
    }

    /// Who doesn't trace refuses every address (`unsupported`). The log is the host's own.
    pub(super) fn judge(&mut self, mut telemetry: Given<'_>) {
        if cfg!(feature = "otlp") {
            telemetry.texts("otlp_endpoint", &mut self.otlp_endpoint, url::collector);
        }
    }

    pub(crate) fn audit_view(&self) -> Value {
        json!({
            "file": view::path(self.audit_file.as_deref()),
            "max_size": self.audit_max_size.map(view::size).unwrap_or_default(),
            "retain": view::duration(self.audit_retain),
        })
    }

    pub(crate) fn view(&self) -> Value {
        json!({
            "log": self.log,
            "log_format": view::word(&LOG_FORMATS, self.log_format),
            "otlp_endpoint": view::text(self.otlp_endpoint.as_ref()),
        })
    }
}

/// The smallest bound of the audit log, bytes: less than a busy hour brings would only lose lines.
const LEAST_AUDIT: u64 = 16 << 20;

/// A size of all files of the audit log; empty: no bound.
fn audit_size(text: &str) -> Result<Option<u64>, Mismatch> {
    if text.is_empty() {
        return Ok(None);
    }
    let enough = least_audit(value::size(text)?);
    enough.map(Some).map_err(|_| Mismatch::of_text(text, BOUND))
}

const BOUND: &str = "at least \"16MiB\", or \"\" for no bound";

/// A size that the audit log can keep to.
fn least_audit(bytes: u64) -> Result<u64, Mismatch> {
    match bytes >= LEAST_AUDIT {
        true => Ok(bytes),
        false => Err(Mismatch::new(format!("{bytes} bytes"), BOUND)),
    }
}

const LOG_FORMATS: [(&str, LogFormat); 3] = [
    ("auto", LogFormat::Auto),
    ("human", LogFormat::Human),
    ("json", LogFormat::Json),
];

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
            audit_max_size: Some(4 << 30),
            audit_retain: Duration::from_hours(90 * 24),
            log: "info".to_owned(),
            log_format: LogFormat::Auto,
            otlp_endpoint: None,
        }
    }
}
