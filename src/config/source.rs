//! The file of a configuration, read once: it may be a pipe, which gives its text to the first who
//! asks.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::config::error::{ConfigErrors, Mismatch};

/// A configuration's text, and where it stands.
#[derive(Clone)]
pub struct Source {
    path: PathBuf,
    /// The system's reason where there is none.
    text: Result<String, Unreadable>,
}

impl std::fmt::Debug for Source {
    /// Without the text, which may hold a secret that doesn't belong there.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("path", &self.path)
            .field("text", &self.text.as_ref().map(String::len))
            .finish()
    }
}

impl Source {
    /// Reads the file at `path`. One that can't be read is a fault to whoever loads it.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            text: std::fs::read_to_string(path).map_err(|error| Unreadable {
                reason: error.to_string(),
                kind: error.kind(),
            }),
        }
    }

    /// A text that was read from `path` before.
    #[must_use]
    pub fn of_text(path: &Path, text: String) -> Self {
        Self {
            path: path.to_owned(),
            text: Ok(text),
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its text, where it could be read.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref().ok()
    }

    /// Whether it gives its text to the first reader alone: a pipe, or what the process was started
    /// with.
    #[must_use]
    pub fn is_gone_once_read(&self) -> bool {
        let is_file = |about: std::fs::Metadata| about.is_file();
        self.is_descriptor() || std::fs::metadata(&self.path).is_ok_and(|about| !is_file(about))
    }

    /// What stands in `/dev` or `/proc` is a name of a pipe, beside which nobody keeps keys.
    fn is_descriptor(&self) -> bool {
        let absolute = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        ["/dev", "/proc"].iter().any(|at| absolute.starts_with(at))
    }

    /// What its relative paths are taken from, absolute where the system can tell: the directory it
    /// stands in, or, of a pipe, the working directory.
    pub(super) fn directory(&self) -> PathBuf {
        let absolute = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        match (self.is_descriptor(), std::env::current_dir()) {
            (true, Ok(directory)) => directory,
            _ => absolute.parent().map(Path::to_owned).unwrap_or_default(),
        }
    }

    /// Its text.
    ///
    /// # Errors
    /// It couldn't be read.
    pub(super) fn checked(&self) -> Result<&str, ConfigErrors> {
        self.text.as_deref().map_err(|error| {
            let found = format!("no readable file ({})", error.reason);
            let mismatch = Mismatch::new(found, "a configuration");
            ConfigErrors::of_key(&self.path, "", mismatch.hint(error.hint()))
        })
    }
}

/// Why a file couldn't be read.
#[derive(Debug, Clone)]
struct Unreadable {
    reason: String,
    kind: ErrorKind,
}

impl Unreadable {
    fn hint(&self) -> &'static str {
        match self.kind {
            ErrorKind::PermissionDenied => {
                "let the user that the sidecar runs as read it (`chown`, `chmod`), and enter its folders"
            }
            ErrorKind::InvalidData => "the file must be text in UTF-8",
            _ => "`alipay-sidecar init` writes one; `-c FILE` names another",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_missing_file_is_to_be_written() {
        for (kind, part) in [
            (ErrorKind::NotFound, "init"),
            (ErrorKind::PermissionDenied, "chown"),
            (ErrorKind::InvalidData, "UTF-8"),
        ] {
            let reason = String::new();
            let hint = Unreadable { reason, kind }.hint();
            assert!(hint.contains(part), "{hint}");
        }
    }

    #[test]
    fn paths_are_taken_from_where_the_file_stands_and_those_of_a_pipe_from_here() {
        let here = std::env::current_dir().expect("a directory");
        for (path, expected) in [
            ("/etc/sidecar/config.toml", Path::new("/etc/sidecar")),
            ("config.toml", &here),
            ("/dev/stdin", &here),
            ("/proc/self/fd/63", &here),
            ("/devices/config.toml", Path::new("/devices")),
        ] {
            let source = Source::of_text(Path::new(path), String::new());
            assert_eq!(source.directory(), expected, "{path}");
        }
    }
}
