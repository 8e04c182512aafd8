//! Secrets leave the environment before anything is served: the system shows the environment that a
//! process was started with for as long as it lives.
//!
//! A program can't wipe that text without unsafe code. So `run` starts itself over, once, with an
//! environment that holds none of them: the same process, with the same sockets. The values go over
//! in memory without a name, as standard input of the second start, which empties it; and with them
//! the configuration's text, which a pipe wouldn't give again.

use std::path::Path;

use crate::cli::failure::Failure;
use crate::config::Source;
use crate::protocol::secret::Secret;

/// Variables that hold secrets, taken out of the environment.
#[derive(Debug, Default)]
pub(crate) struct TakenVariables(Vec<(String, Secret<String>)>);

impl TakenVariables {
    /// Takes out those that the configuration at `path` refers to, and gives that, too. Where there are any, this
    /// starts the program over, and is called again there; to be called before anything else is
    /// taken from the environment, and before there is a second thread.
    pub(crate) fn take(path: &Path) -> Result<(Self, Source), Failure> {
        #[cfg(target_os = "linux")]
        return handing_over::take(path);
        #[cfg(not(target_os = "linux"))]
        Ok((Self::default(), Source::read(path)))
    }

    /// Each with its value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (String, String)> {
        let pairs = self.0.iter();
        pairs.map(|(name, value)| (name.clone(), value.expose().clone()))
    }
}

#[cfg(target_os = "linux")]
mod handing_over {
    use std::ffi::OsString;
    use std::fs::File;
    use std::io::{Read, Seek, Stdin, Write};
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::process::CommandExt;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};

    use anyhow::{Context as _, anyhow};
    use rustix::fs::{MemfdFlags, fcntl_get_seals, fstat, ftruncate, memfd_create};
    use zeroize::Zeroizing;

    use super::TakenVariables;
    use crate::cli::failure::Failure;
    use crate::config::{Source, process_environment, secret_variables};
    use crate::protocol::secret::Secret;

    /// For which process secrets stand in standard input: not for its children.
    const HANDED_TO: &str = "ALIPAY_SIDECAR_HANDED_TO";

    pub(super) fn take(path: &Path) -> Result<(TakenVariables, Source), Failure> {
        if std::env::var(HANDED_TO).is_ok_and(|pid| pid == own_pid()) {
            return received(path).context(WHAT).map_err(Failure::from);
        }
        let source = Source::read(path);
        let environment: Vec<_> = process_environment().collect();
        let names = secret_variables(&source, &environment);
        let secrets = environment.into_iter();
        let secrets: Vec<_> = secrets.filter(|(name, _)| names.contains(name)).collect();
        if secrets.is_empty() {
            return Ok((TakenVariables::default(), source));
        }
        Err(start_over(&source, &secrets))
    }

    /// Becomes the same program without `secrets` in its environment; returns where that fails.
    fn start_over(source: &Source, secrets: &[(String, String)]) -> Failure {
        let handed = match written(source, secrets) {
            Ok(handed) => handed,
            Err(error) => return failed(error),
        };
        let mut arguments = own_arguments().into_iter();
        let mut command = Command::new(own_program());
        if let Some(name) = arguments.next() {
            command.arg0(name);
        }
        command.args(arguments).env(HANDED_TO, own_pid());
        for (name, _) in secrets {
            command.env_remove(name);
        }
        failed(command.stdin(Stdio::from(handed)).exec())
    }

    fn failed(error: std::io::Error) -> Failure {
        let hint = "give them as `file:` or `cred:` references";
        anyhow!("{WHAT} ({error}); {hint}").into()
    }

    /// In memory: how long the configuration is (`-`: it couldn't be read), a line feed, its text;
    /// then `secrets`, names and values each ended by a NUL, which neither can hold.
    fn written(source: &Source, secrets: &[(String, String)]) -> std::io::Result<File> {
        let mut memory = File::from(memfd_create("secrets", MemfdFlags::CLOEXEC)?);
        match source.text() {
            Some(text) => write!(memory, "{}\n{text}", text.len())?,
            None => memory.write_all(b"-\n")?,
        }
        for text in secrets.iter().flat_map(|(name, value)| [name, value]) {
            memory.write_all(text.as_bytes())?;
            memory.write_all(&[0])?;
        }
        memory.rewind()?;
        Ok(memory)
    }

    /// What the first start has written. Nothing of it is left there.
    fn received(path: &Path) -> anyhow::Result<(TakenVariables, Source)> {
        let stdin = std::io::stdin();
        let size = size_of_memory(&stdin)?;
        // Room for all of it: a text that grows leaves copies.
        let mut text = Zeroizing::new(String::with_capacity(size + 1));
        stdin.lock().read_to_string(&mut text)?;
        ftruncate(&stdin, 0)?;
        let (source, secrets) = split(path, &text).context("it isn't complete")?;
        let mut texts = secrets.split_terminator('\0');
        let mut taken = Vec::new();
        while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
            taken.push((name.to_owned(), Secret::new(value.to_owned())));
        }
        Ok((TakenVariables(taken), source))
    }

    /// How much was handed over. Whatever else stands in standard input is neither believed nor
    /// emptied: only memory without a name is, as nobody but a first start hands it to this process.
    fn size_of_memory(stdin: &Stdin) -> anyhow::Result<usize> {
        let about = fstat(stdin)?;
        if about.st_nlink != 0 || fcntl_get_seals(stdin).is_err() {
            return Err(anyhow!(
                "standard input isn't what a first start handed over; {HANDED_TO} is set by the \
                 program itself alone: take it out of the environment"
            ));
        }
        Ok(usize::try_from(about.st_size)?)
    }

    fn split<'t>(path: &Path, text: &'t str) -> Option<(Source, &'t str)> {
        let (length, rest) = text.split_once('\n')?;
        if length == "-" {
            return Some((Source::read(path), rest));
        }
        let (config, secrets) = rest.split_at_checked(length.parse().ok()?)?;
        Some((Source::of_text(path, config.to_owned()), secrets))
    }

    /// The file of this program; where another has taken its name meanwhile, the system's own
    /// handle of it.
    fn own_program() -> PathBuf {
        let named = std::env::current_exe().ok();
        let there = named.filter(|path| path.exists());
        there.unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
    }

    /// The arguments that the system was given, its own name first. Where the dynamic linker was
    /// started with this program (`ld.so ./alipay-sidecar run`), it is the file of the process, and
    /// [`args_os`](std::env::args_os) lacks what was for it.
    fn own_arguments() -> Vec<OsString> {
        let line = std::fs::read("/proc/self/cmdline").unwrap_or_default();
        match line.strip_suffix(&[0]) {
            None => std::env::args_os().collect(),
            Some(line) => {
                let arguments = line.split(|byte| *byte == 0);
                arguments
                    .map(|one| OsString::from_vec(one.to_vec()))
                    .collect()
            }
        }
    }

    fn own_pid() -> String {
        std::process::id().to_string()
    }

    const WHAT: &str = "the secrets couldn't be taken out of the environment";
}
