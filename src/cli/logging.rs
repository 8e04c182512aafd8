//! The program's log: standard error, for people or as JSON.

use std::io::IsTerminal;

use prometheus::{PullingGauge, Registry};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::{Targets, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, reload};

use crate::cli::failure::Failure;
use crate::cli::log_json::JsonLines;
use crate::cli::log_lines::{LastLines, Lines};
use crate::config::telemetry::{LogFormat, TelemetryConfig};

/// The running log; dropping it writes what still waits.
#[must_use]
pub(crate) struct Log {
    lines: Lines,
    follow: Follow,
    _last: LastLines,
}

/// Goes on by other settings.
type Follow = Box<dyn Fn(&TelemetryConfig) + Send + Sync>;
/// What writes lines in one of the formats.
type Format = Box<dyn Layer<Subscribers> + Send + Sync>;
/// What all layers stand on.
type Subscribers = tracing_subscriber::Registry;

/// Starts the log of this process; once.
pub(crate) fn start(settings: &TelemetryConfig) -> Result<Log, Failure> {
    let unable =
        |error: &dyn std::error::Error| anyhow::anyhow!("the log could not be started: {error}");
    let started = Lines::start(std::io::stderr());
    let (lines, last) = started.map_err(|error| unable(&error))?;
    let (subscriber, follow) = subscriber(settings, lines.clone())?;
    let started = subscriber.try_init();
    started.map_err(|error| unable(&error))?;
    Ok(Log {
        lines,
        follow,
        _last: last,
    })
}

/// What writes the lines that `settings` ask for, and what lets it follow others.
fn subscriber<W>(
    settings: &TelemetryConfig,
    writer: W,
) -> Result<(Box<dyn Subscriber + Send + Sync>, Follow), Failure>
where
    W: for<'w> MakeWriter<'w> + Clone + Send + Sync + 'static,
{
    let (filter, set_filter) = reload::Layer::new(directives(settings)?);
    let (lines, set_format) = reload::Layer::new(format(settings, writer.clone()));
    let cap = filter_fn(is_ours_or_shallow);
    let subscriber = Subscribers::default().with(lines).with(filter).with(cap);
    let follow = move |settings: &TelemetryConfig| {
        // They fail only where the subscriber is gone; the directives were checked with the rest.
        if let Ok(directives) = directives(settings) {
            let _ = set_filter.reload(directives);
        }
        let _ = set_format.reload(format(settings, writer.clone()));
    };
    Ok((Box::new(subscriber), Box::new(follow)))
}

/// The configuration takes directives with spaces around them.
fn directives(settings: &TelemetryConfig) -> Result<Targets, Failure> {
    let trimmed: Vec<_> = settings.log.split(',').map(str::trim).collect();
    let filter = trimmed.join(",").parse();
    Ok(filter.map_err(|error| anyhow::anyhow!("telemetry.log: {error}"))?)
}

fn format<W>(settings: &TelemetryConfig, writer: W) -> Format
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let terminal = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(terminal)
        .with_writer(writer);
    let is_json = match settings.log_format {
        LogFormat::Auto => !terminal,
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    match is_json {
        true => Box::new(lines.event_format(JsonLines)),
        false => Box::new(lines),
    }
}

/// Whatever `telemetry.log` says: libraries, at their deeper levels, tell of the headers and bodies
/// that pass through them, and those hold tokens.
fn is_ours_or_shallow(event: &Metadata<'_>) -> bool {
    let ours = event.target().split("::").next() == Some(env!("CARGO_CRATE_NAME"));
    ours || *event.level() <= Level::INFO
}

impl Log {
    /// Writes as these settings say from now on.
    pub(crate) fn follow(&self, settings: &TelemetryConfig) {
        (self.follow)(settings);
    }

    /// Shows in `registry` how many lines were dropped.
    pub(crate) fn count_in(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        let lines = self.lines.clone();
        let read = move || f64::from(u32::try_from(lines.dropped()).unwrap_or(u32::MAX));
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

    /// What the log has of what `tell` says, in JSON, where the configuration says `log`.
    fn logged(log: &str, tell: impl FnOnce()) -> String {
        let settings = TelemetryConfig {
            log: log.to_owned(),
            log_format: LogFormat::Json,
            ..TelemetryConfig::default()
        };
        let lines = Lines::default();
        let made = lines.clone();
        let (subscriber, _) = subscriber(&settings, move || made.clone()).expect("a log");
        tracing::subscriber::with_default(subscriber, tell);
        let lines = lines.0.lock().expect("no panic");
        String::from_utf8_lossy(&lines).into_owned()
    }

    #[test]
    fn what_libraries_say_of_payloads_is_left_out_at_every_level() {
        for log in ["trace", "trace,hyper=trace", "hyper::proto=trace,info"] {
            let lines = logged(log, || {
                tracing::trace!(target: "hyper::proto::h1", "authorization: a-token");
                tracing::debug!(target: "alipay_sidecar_of_others", "a-token");
                tracing::info!(target: "hyper::proto::h1", "shallow");
                tracing::error!(target: "alipay_sidecar::cli", "ours");
            });
            assert!(!lines.contains("a-token"), "{log}: {lines}");
            assert!(
                lines.contains("shallow") && lines.contains("ours"),
                "{log}: {lines}"
            );
        }
    }

    #[test]
    fn a_line_of_json_has_each_field_as_what_it_is() {
        let line = logged("info", || {
            tracing::warn!(
                target: "alipay_sidecar::cli",
                count = 7,
                is_so = true,
                text = "a \"b\"\n\u{1b}",
                debug = ?Some(1),
                display = %"shown",
                absent = Option::<&str>::None,
                "said"
            );
        });
        let (time, rest) = line.split_once("Z\",").expect("a time");
        assert!(time.starts_with(r#"{"timestamp":"20"#), "{time}");
        let expected = concat!(
            r#""level":"WARN","message":"said","count":7,"is_so":true,"text":"a \"b\"\n\u001b","#,
            r#""debug":"Some(1)","display":"shown"}"#,
            "\n",
        );
        assert_eq!(rest, expected);
    }

    #[test]
    fn what_the_configuration_takes_is_meant_as_it_is_documented() {
        for (log, said) in [
            ("off", ""),
            ("WARN", "warn"),
            (" off , alipay_sidecar::cli=DEBUG ", "warn debug"),
            ("debug,alipay_sidecar=warn", "warn"),
            ("alipay_sidecar::proxy=trace", ""),
        ] {
            let lines = logged(log, || {
                tracing::warn!(target: "alipay_sidecar::cli::run", "warn");
                tracing::debug!(target: "alipay_sidecar::cli::run", "debug");
            });
            let message = |line: &str| {
                let line: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
                line["message"].as_str().expect("a text").to_owned()
            };
            let found: Vec<_> = lines.lines().map(message).collect();
            assert_eq!(found.join(" "), said, "{log}");
        }
    }

    #[test]
    fn level_and_format_follow_other_settings() {
        let settings = |log: &str, log_format| TelemetryConfig {
            log: log.to_owned(),
            log_format,
            ..TelemetryConfig::default()
        };
        let lines = Lines::default();
        let made = lines.clone();
        let (subscriber, follow) =
            subscriber(&settings("warn", LogFormat::Human), move || made.clone()).expect("a log");
        let say = |word: &str| tracing::info!(target: "alipay_sidecar::cli", "{word}");
        tracing::subscriber::with_default(subscriber, || {
            say("before");
            follow(&settings("info", LogFormat::Json));
            say("after");
            follow(&settings("error", LogFormat::Json));
            say("later");
        });
        let lines = lines.0.lock().expect("no panic");
        let lines = String::from_utf8_lossy(&lines);
        let json: serde_json::Value = serde_json::from_str(&lines).expect("one line of JSON");
        assert_eq!(json["message"], "after", "{lines}");
    }
}
