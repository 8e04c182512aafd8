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

/// Writes one line that tells what others chose, in part at least: it stays one line, and nothing in
/// it reaches the terminal as a command.
pub(crate) fn say_line(line: impl Display) {
    say(one_line(&line.to_string()));
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
    say(visible_json(&text));
    Ok(())
}

/// Writes `value` as JSON on a line of its own.
pub(crate) fn say_json_line(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value).map_err(anyhow::Error::from)?;
    say(visible_json(&text));
    Ok(())
}

/// Writes a table with aligned columns, each row one line whatever is in it.
pub(crate) fn say_table<const N: usize>(header: [&str; N], rows: Vec<[String; N]>) {
    let rows: Vec<_> = rows
        .into_iter()
        .map(|row| row.map(|cell| one_line(&cell)))
        .collect();
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

/// A text on one line, in which what a terminal would obey, and what shows the rest in another order
/// or not at all, is written out. What [`printable`] made stays what it is.
fn one_line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match misleads(c) {
            true => shown.extend(c.escape_debug()),
            false => shown.push(c),
        }
    }
    shown
}

/// The same JSON. What it leaves as it is but a terminal doesn't, is escaped; such characters stand
/// nowhere but within its strings.
fn visible_json(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if c != '\n' && misleads(c) {
            let mut buffer = [0; 2];
            let units = c.encode_utf16(&mut buffer).iter();
            shown.extend(units.map(|unit| format!("\\u{unit:04x}")));
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Whether a terminal obeys it, hides it, or shows what follows in another order.
fn misleads(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
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

    #[test]
    fn a_line_stays_one_and_commands_nothing() {
        let sent = "中 é \"a\\\" \n\u{1b}[2J\u{9b}31m\u{7f}\u{202e}\u{200b}\u{e0041}";
        let shown = "中 é \"a\\\" \\n\\u{1b}[2J\\u{9b}31m\\u{7f}\\u{202e}\\u{200b}\\u{e0041}";
        assert_eq!(one_line(sent), shown);
        assert_eq!(one_line(&printable(sent)), printable(sent));
    }

    #[test]
    fn json_commands_nothing_and_says_the_same() {
        let sent = serde_json::json!({
            "中\u{9b}": ["a\n\u{1b}[2J\u{9b}31m\u{7f}", "\u{202e}\u{e0041}"],
        });
        let shown = visible_json(&format!("{sent:#}"));
        assert!(!shown.chars().any(|c| c != '\n' && misleads(c)), "{shown}");
        assert!(shown.contains("\\u009b31m\\u007f"), "{shown}");
        assert!(shown.contains("\\u202e\\udb40\\udc41"), "{shown}");
        let read: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
        assert_eq!(read, sent);
    }
}
