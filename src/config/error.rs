//! What can be wrong with a configuration: every fault names its place and what to do.

use std::fmt;
use std::path::{Path, PathBuf};

/// Everything that is wrong with a configuration, reported at once; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    faults: Vec<Fault>,
}

impl ConfigErrors {
    /// These faults; `None`: there is none.
    #[must_use]
    pub fn of_faults(faults: Vec<Fault>) -> Option<Self> {
        (!faults.is_empty()).then(|| Self::new(faults))
    }

    /// Those of them that aren't secrets which can't be read here, if there are any, and those secrets.
    #[cfg(feature = "cli")]
    pub(crate) fn but_for_secrets(self) -> (Option<Self>, Unread) {
        let is_elsewhere = |fault: &Fault| fault.mismatch.is_elsewhere;
        let (unread, others) = self.faults.into_iter().partition(is_elsewhere);
        (Self::of_faults(others), Unread(unread))
    }

    /// The faults, in the order of the file.
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// One fault of `key` in `file`, found by a part that knows more than the file does.
    #[must_use]
    pub fn of_key(file: &Path, key: &str, mismatch: Mismatch) -> Self {
        Self::new(vec![Fault {
            file: Some(file.to_owned()),
            ..Fault::of_key(key, mismatch)
        }])
    }

    pub(crate) fn new(mut faults: Vec<Fault>) -> Self {
        faults.sort_by_key(|fault| fault.line);
        Self { faults }
    }
}

/// The secrets, and files, that can't be read here.
#[cfg(feature = "cli")]
#[derive(Debug, Default)]
pub(crate) struct Unread(Vec<Fault>);

#[cfg(feature = "cli")]
impl Unread {
    /// Makes sure that none of the keys is among them of which `is_needed` holds.
    ///
    /// # Errors
    /// Those that are.
    pub(crate) fn lacks(&self, is_needed: impl Fn(&str) -> bool) -> Result<(), ConfigErrors> {
        let needed = self.0.iter().filter(|fault| is_needed(&fault.key));
        ConfigErrors::of_faults(needed.cloned().collect()).map_or(Ok(()), Err)
    }
}

impl fmt::Display for ConfigErrors {
    /// One line per fault.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

/// One thing that is wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The configuration file, where there is one.
    pub file: Option<PathBuf>,
    /// The line, counted from 1; `None`: the key isn't in the file.
    pub line: Option<usize>,
    /// The environment variable that holds the value, where it isn't the file.
    pub variable: Option<String>,
    /// The key, such as `proxy.listen` or `app[1].private_key` (the first `[[app]]`); empty: the
    /// file as a whole.
    pub key: String,
    /// What was found and expected.
    pub mismatch: Mismatch,
}

impl Fault {
    /// A fault of `key` whose place isn't known.
    #[must_use]
    pub fn of_key(key: &str, mismatch: Mismatch) -> Self {
        Self {
            file: None,
            line: None,
            variable: None,
            key: key.to_owned(),
            mismatch,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.variable, &self.file, self.line) {
            (Some(variable), ..) => write!(f, "{variable}: ")?,
            (None, Some(file), Some(line)) => write!(f, "{}:{line}: ", file.display())?,
            (None, Some(file), None) => write!(f, "{}: ", file.display())?,
            (None, None, Some(line)) => write!(f, "line {line}: ")?,
            (None, None, None) => {}
        }
        if !self.key.is_empty() {
            write!(f, "`{}`: ", self.key)?;
        }
        self.mismatch.fmt(f)
    }
}

/// A value that isn't what its key takes. No text in it is ever a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub struct Mismatch {
    /// What was found.
    pub found: String,
    /// What was expected.
    pub expected: String,
    /// What to do, where it can be known.
    pub hint: Option<String>,
    /// Whether it is a secret that can't be read here, and may well be where the sidecar was started.
    pub(crate) is_elsewhere: bool,
}

impl Mismatch {
    /// `found` stands where `expected` belongs; the texts read as `found …, expected …`.
    #[must_use]
    pub fn new(found: impl Into<String>, expected: impl Into<String>) -> Self {
        Self {
            found: found.into(),
            expected: expected.into(),
            hint: None,
            is_elsewhere: false,
        }
    }

    /// A secret that can't be read here, and may well be where the sidecar was started.
    pub(crate) fn elsewhere(self) -> Self {
        Self {
            is_elsewhere: true,
            ..self
        }
    }

    /// The text `found`, shown, where `expected` belongs: for values that aren't secret.
    #[must_use]
    pub fn of_text(found: &str, expected: impl Into<String>) -> Self {
        Self::new(quoted(found), expected)
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "found {}, expected {}", self.found, self.expected)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// `text` in quotes, with escapes, cut to what fits a line.
pub(crate) fn quoted(text: &str) -> String {
    if text.chars().count() <= SHOWN_CHARS {
        format!("{text:?}")
    } else {
        let start: String = text.chars().take(SHOWN_CHARS).collect();
        format!("{start:?}…")
    }
}

/// Enough for any address, little enough for one line of a terminal.
const SHOWN_CHARS: usize = 80;
