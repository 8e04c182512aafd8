//! Writing to the terminal. Who closed it doesn't want to read on, so that is no failure; what can't
//! be written for another reason, as on a full disk, is one.

use std::fmt::Display;
use std::io::{self, ErrorKind, Write};
use std::sync::{Mutex, PoisonError};

use clap::Args;
use serde::Serialize;

use crate::cli::failure::Failure;

/// In which form data is printed.
#[derive(Debug, Args)]
pub(crate) struct Form {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Writes a line to standard output.
pub(crate) fn say(line: impl Display) {
    note(writeln!(io::stdout().lock(), "{line}"));
}

/// Writes bytes, and a newline where they have none, to standard output.
pub(crate) fn say_bytes(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    note(stdout.write_all(bytes));
    if !bytes.ends_with(b"\n") {
        note(stdout.write_all(b"\n"));
    }
}

/// Why standard output, which the process has once, took not all of what was said.
static LOST: Mutex<Option<io::Error>> = Mutex::new(None);

fn note(written: io::Result<()>) {
    let Err(error) = written else { return };
    if error.kind() != ErrorKind::BrokenPipe {
        let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
        lost.get_or_insert(error);
    }
}

/// Says whether all that was said was written: the exit code tells a script that it may use it.
///
/// # Errors
/// The first failure.
pub(crate) fn finish() -> Result<(), Failure> {
    note(io::stdout().flush());
    let mut lost = LOST.lock().unwrap_or_else(PoisonError::into_inner);
    match lost.take() {
        None => Ok(()),
        Some(error) => {
            let error = anyhow::Error::from(error);
            Err(error.context("standard output can't be written").into())
        }
    }
}

/// Writes a line to standard error.
pub(crate) fn complain(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Writes a line to standard error in the place of the one before.
pub(crate) fn rewrite(line: impl Display) {
    let _ = write!(io::stderr().lock(), "\r\u{1b}[K{line}");
}

/// Writes `value` as JSON to standard output.
pub(crate) fn say_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(anyhow::Error::from)?;
    say(text);
    Ok(())
}

/// Writes a table with aligned columns.
pub(crate) fn say_table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) {
    let mut widths = header.map(|title| title.chars().count());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String; N]| {
        let padded = cells.iter().zip(widths);
        let text: String = padded
            .map(|(cell, width)| format!("{cell:width$}  "))
            .collect();
        say(text.trim_end());
    };
    line(&header.map(str::to_owned));
    rows.iter().for_each(line);
}

/// A text of others on one line: nothing in it reaches the terminal as a command. Quotes stay what
/// they are.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\'' | '"' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    shown
}

/// What stands for nothing in a table.
pub(crate) fn or_dash(text: Option<&str>) -> String {
    text.unwrap_or("-").to_owned()
}

/// A Unix millisecond as people read it, in UTC.
pub(crate) fn time_of(unix_ms: i64) -> String {
    let nanoseconds = i128::from(unix_ms) * 1_000_000;
    let format =
        time::macros::format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z");
    time::OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
        .ok()
        .and_then(|time| time.format(&format).ok())
        .unwrap_or_else(|| unix_ms.to_string())
}

/// Reads what [`time_of`] writes.
pub(crate) fn read_time(text: &str) -> Option<i64> {
    let format = time::format_description::well_known::Rfc3339;
    let time = time::OffsetDateTime::parse(text, &format).ok()?;
    i64::try_from(time.unix_timestamp_nanos() / 1_000_000).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_stays_readable_and_commands_nothing() {
        assert_eq!(printable("isn't \"base64\" 中"), "isn't \"base64\" 中");
        assert_eq!(
            printable("a\n\u{1b}[31m\u{202e}"),
            "a\\n\\u{1b}[31m\\u{202e}"
        );
        assert_eq!(printable("\\n"), "\\\\n");
    }
}
