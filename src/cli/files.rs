//! New files that nobody else can read, from their first moment.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use anyhow::Context as _;

use crate::cli::failure::Failure;

/// Creates the directory at `path` and those above it, as far as they are missing.
pub(crate) fn create_directory(path: &Path) -> Result<(), Failure> {
    let created = DirBuilder::new().recursive(true).mode(0o700).create(path);
    Ok(created.with_context(|| format!("{} can't be created", path.display()))?)
}

/// Creates the file at `path` with mode 0600; one that exists is left alone, and a failure.
pub(crate) fn create_private(path: &Path, text: &str) -> Result<(), Failure> {
    let create = || {
        let mut options = OpenOptions::new();
        let mut file = options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    Ok(create().with_context(|| format!("{} can't be created", path.display()))?)
}
