//! Secrets leave the environment before anything is served: the system shows the environment that a
//! process was started with for as long as it lives.
//!
//! A program can't wipe that text without unsafe code. So `run` starts itself over, once, with an
//! environment that holds none of them: the same process, with the same sockets. The values go over
//! in memory without a name, as standard input of the second start, which empties it.

use std::path::Path;

use crate::cli::failure::Failure;
use crate::protocol::secret::Secret;

/// Variables that hold secrets, taken out of the environment; and the text of a configuration that
/// can't be read twice.
#[derive(Debug, Default)]
pub(crate) struct TakenVariables {
    variables: Vec<(String, Secret<String>)>,
    text: Option<Secret<String>>,
}

impl TakenVariables {
    /// Takes out those that the configuration at `path` refers to. Where there are any, this
    /// starts the program over, and is called again there; to be called before anything else is
    /// taken from the environment, and before there is a second thread.
    pub(crate) fn take(path: &Path) -> Result<Self, Failure> {
        #[cfg(target_os = "linux")]
        return handing_over::take(path);
        #[cfg(not(target_os = "linux"))]
        {
            let _ = path;
            Ok(Self::default())
        }
    }

    /// The configuration, where it came through a pipe.
    pub(crate) fn text(&self) -> Option<&str> {
        self.text.as_ref().map(|text| text.expose().as_str())
    }

    /// Each with its value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (String, String)> {
        let pairs = self.variables.iter();
        pairs.map(|(name, value)| (name.clone(), value.expose().clone()))
    }
}

#[cfg(target_os = "linux")]
mod handing_over {
    use std::fs::File;
    use std::io::{Read, Seek, Write};
    use std::os::unix::process::CommandExt;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};

    use anyhow::{Context as _, anyhow};
    use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
    use zeroize::Zeroizing;

    use super::TakenVariables;
    use crate::cli::failure::Failure;
    use crate::config::{process_environment, secret_variables, secret_variables_of_text};
    use crate::protocol::secret::Secret;

    /// For which process secrets stand in standard input: not for its children.
    const HANDED_TO: &str = "ALIPAY_SIDECAR_HANDED_TO";

    pub(super) fn take(path: &Path) -> Result<TakenVariables, Failure> {
        if std::env::var(HANDED_TO).is_ok_and(|pid| pid == own_pid()) {
            return received().context(WHAT).map_err(Failure::from);
        }
        let environment: Vec<_> = process_environment().collect();
        let text = piped(path);
        let names = match &text {
            Some(text) => secret_variables_of_text(text.expose(), &environment),
            None => secret_variables(path, &environment),
        };
        let secrets = environment.into_iter();
        let secrets: Vec<_> = secrets.filter(|(name, _)| names.contains(name)).collect();
        if secrets.is_empty() {
            let variables = Vec::new();
            return Ok(TakenVariables { variables, text });
        }
        Err(start_over(&secrets, text.as_ref()))
    }

    /// The text of a configuration that is gone once it is read, or stands in what the second start
    /// gets another of: a pipe, standard input. One that can't be read is left to who loads it.
    fn piped(path: &Path) -> Option<Secret<String>> {
        let descriptors = ["/dev/fd", "/dev/stdin", "/proc"];
        let is_descriptor = descriptors.iter().any(|place| path.starts_with(place));
        if std::fs::metadata(path).ok()?.is_file() && !is_descriptor {
            return None;
        }
        std::fs::read_to_string(path).ok().map(Secret::new)
    }

    /// Becomes the same program without `secrets` in its environment; returns where that fails.
    fn start_over(secrets: &[(String, String)], text: Option<&Secret<String>>) -> Failure {
        let handed = match written(secrets, text) {
            Ok(handed) => handed,
            Err(error) => return failed(error),
        };
        let mut arguments = std::env::args_os();
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

    /// `secrets` in memory, names and values each ended by a NUL, which neither can hold. The text of
    /// the configuration has no name.
    fn written(
        secrets: &[(String, String)],
        configuration: Option<&Secret<String>>,
    ) -> std::io::Result<File> {
        let mut memory = File::from(memfd_create("secrets", MemfdFlags::CLOEXEC)?);
        for text in secrets.iter().flat_map(|(name, value)| [name, value]) {
            memory.write_all(text.as_bytes())?;
            memory.write_all(&[0])?;
        }
        if let Some(text) = configuration {
            memory.write_all(&[0])?;
            memory.write_all(text.expose().replace('\0', "\u{fffd}").as_bytes())?;
            memory.write_all(&[0])?;
        }
        memory.rewind()?;
        Ok(memory)
    }

    /// What the first start has written. Nothing of it is left there.
    fn received() -> anyhow::Result<TakenVariables> {
        let stdin = std::io::stdin();
        let size = usize::try_from(fstat(&stdin)?.st_size)?;
        // Room for all of it: a text that grows leaves copies.
        let mut text = Zeroizing::new(String::with_capacity(size + 1));
        stdin.lock().read_to_string(&mut text)?;
        ftruncate(&stdin, 0)?;
        let mut texts = text.split_terminator('\0');
        let mut taken = TakenVariables::default();
        while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
            let value = Secret::new(value.to_owned());
            match name {
                "" => taken.text = Some(value),
                name => taken.variables.push((name.to_owned(), value)),
            }
        }
        Ok(taken)
    }

    /// The file of this program; where another has taken its name meanwhile, the system's own
    /// handle of it.
    fn own_program() -> PathBuf {
        let named = std::env::current_exe().ok();
        let there = named.filter(|path| path.exists());
        there.unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
    }

    fn own_pid() -> String {
        std::process::id().to_string()
    }

    const WHAT: &str = "the secrets couldn't be taken out of the environment";
}
