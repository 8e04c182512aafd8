//! How far long work has come, said on a terminal.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::cli::output;

/// How often progress is shown.
const SHOWN: Duration = Duration::from_millis(500);

/// Says on a terminal how far long work has come.
pub(crate) struct Progress {
    what: &'static str,
    shown: Option<Instant>,
    is_terminal: bool,
    is_visible: bool,
}

impl Progress {
    pub(crate) fn new(what: &'static str) -> Self {
        Self {
            what,
            shown: None,
            is_terminal: std::io::stderr().is_terminal(),
            is_visible: false,
        }
    }

    /// So much is done by now.
    pub(crate) fn show(&mut self, done: u64) {
        if !self.is_terminal {
            return;
        }
        // What is done within the first half second needs no progress.
        let since = self.shown.get_or_insert_with(Instant::now);
        if since.elapsed() >= SHOWN {
            *since = Instant::now();
            self.is_visible = true;
            output::rewrite(format!("{done} {}", self.what));
        }
    }

    /// Takes the last word away.
    pub(crate) fn end(&mut self) {
        if std::mem::take(&mut self.is_visible) {
            output::rewrite("");
        }
    }
}

/// An error's line begins where it should.
impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}
