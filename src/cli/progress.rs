//! How far long work has come, said on a terminal as it goes, elsewhere now and then.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::cli::output;

/// How often progress is shown on a terminal.
const SHOWN: Duration = Duration::from_millis(500);
/// How often a line of it is written elsewhere: what takes longer looks as if it hung.
const WRITTEN: Duration = Duration::from_secs(5);

/// Says how far long work has come.
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
        let often = if self.is_terminal { SHOWN } else { WRITTEN };
        // What is done within the first while needs no progress.
        let since = self.shown.get_or_insert_with(Instant::now);
        if since.elapsed() < often {
            return;
        }
        *since = Instant::now();
        let line = format!("{done} {}", self.what);
        if self.is_terminal {
            self.is_visible = true;
            output::rewrite(line);
        } else {
            output::complain(line);
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
