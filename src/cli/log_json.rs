//! A line of the log as JSON.
//!
//! What `tracing_subscriber`'s own JSON gives, but for spans, of which there are none: that writes a line in
//! some eighty pieces, each of which it checks for being text, and takes twice the time. Every call has a line.

use std::fmt;

use serde::Serializer as _;
use serde::ser::SerializeMap as _;
use tracing::{Event, Subscriber};
use tracing_serde::{AsSerde as _, SerdeMapVisitor};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

/// How much room a line has at first, bytes: what that of a call needs.
const USUAL: usize = 512;

/// Writes each event as one object: when, how grave, and what its fields say.
pub(super) struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'l> LookupSpan<'l>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut timestamp = String::with_capacity(32);
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let line = line(&timestamp, event).map_err(|_| fmt::Error)?;
        writer.write_str(std::str::from_utf8(&line).map_err(|_| fmt::Error)?)
    }
}

fn line(timestamp: &str, event: &Event<'_>) -> serde_json::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(USUAL);
    let mut serializer = serde_json::Serializer::new(&mut line);
    let mut members = serializer.serialize_map(None)?;
    members.serialize_entry("timestamp", timestamp)?;
    members.serialize_entry("level", &event.metadata().level().as_serde())?;
    let mut fields = SerdeMapVisitor::new(members);
    event.record(&mut fields);
    fields.take_serializer()?.end()?;
    line.push(b'\n');
    Ok(line)
}
