//! What the user hands in besides arguments: references, files, standard input.

use std::io::{IsTerminal, Read};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use crate::cli::failure::Failure;
use crate::config::error::Mismatch;
use crate::config::process_environment;
use crate::config::reference::References;
use crate::protocol::secret::Secret;

/// The secret of `--token REF`: a reference relative to the working directory, or `-` for the
/// terminal (without echo) or standard input.
pub(crate) fn secret(argument: &str, reference: &str) -> Result<Secret<String>, Failure> {
    if reference == "-" {
        return from_stdin(argument);
    }
    let misused = |mismatch| misused(argument, &mismatch);
    References::check_secret(reference).map_err(misused)?;
    let secret = references().secret(reference);
    Ok(secret.map_err(|mismatch| anyhow!("{argument}: {mismatch}"))?)
}

/// The same for a text of several lines, such as a PEM: `-` is all of standard input.
pub(crate) fn secret_text(argument: &str, reference: &str) -> Result<Secret<String>, Failure> {
    if reference != "-" {
        return secret(argument, reference);
    }
    let mut text = String::new();
    let read = std::io::stdin()
        .lock()
        .take(LONGEST)
        .read_to_string(&mut text);
    read.with_context(|| format!("{argument}: standard input can't be read"))?;
    if text.trim().is_empty() {
        return Err(anyhow!("{argument}: standard input was empty").into());
    }
    Ok(Secret::new(text))
}

/// The same for an argument that may be absent.
pub(crate) fn optional_secret(
    argument: &str,
    reference: Option<&str>,
) -> Result<Option<Secret<String>>, Failure> {
    reference
        .map(|reference| secret(argument, reference))
        .transpose()
}

/// The public text of a reference, or the text itself.
pub(crate) fn public(argument: &str, reference: &str) -> Result<String, Failure> {
    let misused = |mismatch| misused(argument, &mismatch);
    References::check_public(reference).map_err(misused)?;
    let public = references().public(reference);
    Ok(public.map_err(|mismatch| anyhow!("{argument}: {mismatch}"))?)
}

/// What has no form of a reference is wrong usage; what one names may just not be there.
fn misused(argument: &str, mismatch: &Mismatch) -> Failure {
    Failure::Usage(format!("{argument}: {mismatch}"))
}

/// Those of arguments: relative to the working directory, and patient with pipes where somebody is there.
pub(crate) fn references() -> References {
    let references = References::new(Path::new(""), process_environment());
    match is_attended() {
        true => references.awaiting_pipes(),
        false => references,
    }
}

/// Whether there may be somebody who types what a pipe waits for, and who can break it off.
fn is_attended() -> bool {
    std::io::stdin().is_terminal()
        || std::io::stdout().is_terminal()
        || std::io::stderr().is_terminal()
}

/// The bytes of the file at `path`; `-` is standard input.
pub(crate) fn file(path: &str) -> Result<Vec<u8>, Failure> {
    if path != "-" {
        return Ok(std::fs::read(path).with_context(|| format!("{path} can't be read"))?);
    }
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().read_to_end(&mut bytes);
    read.context("standard input can't be read")?;
    Ok(bytes)
}

fn from_stdin(argument: &str) -> Result<Secret<String>, Failure> {
    let stdin = std::io::stdin();
    let quiet = stdin.is_terminal().then(Quiet::begin);
    if quiet.is_some() {
        crate::cli::output::complain(format!("{argument}, not shown while you type:"));
    }
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    drop(quiet);
    read.with_context(|| format!("{argument}: standard input can't be read"))?;
    line.truncate(line.trim_end_matches(['\r', '\n']).len());
    if line.is_empty() {
        return Err(anyhow!("{argument}: standard input was empty").into());
    }
    Ok(Secret::new(line))
}

/// The terminal doesn't show what is typed until this is dropped.
struct Quiet(Option<rustix::termios::Termios>);

impl Quiet {
    fn begin() -> Self {
        let stdin = std::io::stdin();
        let Ok(before) = tcgetattr(&stdin) else {
            return Self(None);
        };
        let mut quiet = before.clone();
        quiet.local_modes.remove(LocalModes::ECHO);
        let changed = tcsetattr(&stdin, OptionalActions::Flush, &quiet);
        Self(changed.ok().map(|()| before))
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            // A terminal that is gone needs no echo.
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Flush, before);
        }
    }
}

/// No key is longer, bytes.
const LONGEST: u64 = 64 * 1024;
