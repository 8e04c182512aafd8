//! Why there is no audit log.

use std::path::{Path, PathBuf};

/// Why the audit log can't be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The file can't be opened, read or written.
    #[error("the audit log {} can't be opened: {source}; {hint}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
        /// The system's.
        source: std::io::Error,
    },
    /// Another process writes it.
    #[error(
        "the audit log {} is written by another process; a second sidecar needs an audit.file of its own",
        .path.display()
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// Something else than a file stands there.
    #[error(
        "the audit log {} isn't a regular file; set audit.file to the path of one, or to \"\" to keep none",
        .path.display()
    )]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The thread that writes it can't be started.
    #[error("the thread that writes the audit log could not be started")]
    Thread(#[source] std::io::Error),
}

impl AuditError {
    pub(super) fn of(path: &Path, source: std::io::Error) -> Self {
        use std::io::ErrorKind;
        let hint = match source.kind() {
            ErrorKind::NotFound => {
                "create its directory (only the last one is made by itself), or set audit.file (\"\": no audit log is kept)"
            }
            ErrorKind::PermissionDenied => {
                "let this user write it and its directory, or set audit.file"
            }
            _ => "set audit.file to a path that can be written (\"\": no audit log is kept)",
        };
        Self::File {
            path: path.to_owned(),
            hint,
            source,
        }
    }

    /// Whether the disk only refuses for now, so that what is told can be kept until it doesn't.
    pub(super) fn is_passing(&self) -> bool {
        use std::io::ErrorKind;
        match self {
            Self::File { source, .. } => matches!(
                source.kind(),
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded
            ),
            Self::Locked { .. } | Self::NotAFile { .. } | Self::Thread(_) => false,
        }
    }
}
