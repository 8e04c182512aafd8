//! Secrets by reference: the configuration says where a secret is, never what it is.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use zeroize::Zeroizing;

use crate::config::error::Mismatch;
use crate::config::exec;
use crate::config::file::{self, LONGEST, Patient};
use crate::config::section::nearest;
use crate::protocol::secret::Secret;

/// Reads what references name: `env:NAME`, `file:path`, `cred:name`, `exec:command`.
#[derive(Clone)]
pub struct References {
    directory: PathBuf,
    environment: BTreeMap<String, Zeroizing<String>>,
    withheld: BTreeSet<String>,
    are_followed: bool,
    /// How long one reference may take.
    patience: Duration,
    /// Whether pipes may take longer than that.
    awaits_pipes: bool,
}

impl std::fmt::Debug for References {
    /// The environment holds secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "References({})", self.directory.display())
    }
}

/// Where a reference points to.
enum Reference<'t> {
    Credential(&'t str),
    Environment(&'t str),
    Exec(&'t str),
    File(&'t str),
}

/// Who may read the file of a reference.
#[derive(Clone, Copy)]
enum Readers {
    Anyone,
    OwnerAndGroup,
}

impl References {
    /// References relative to `directory`, in `environment`.
    #[must_use]
    pub fn new(directory: &Path, environment: impl IntoIterator<Item = (String, String)>) -> Self {
        let environment = environment.into_iter();
        let wiped = environment.map(|(name, value)| (name, Zeroizing::new(value)));
        Self {
            directory: directory.to_owned(),
            environment: wiped.collect(),
            withheld: BTreeSet::new(),
            are_followed: true,
            patience: TIMEOUT,
            awaits_pipes: false,
        }
    }

    /// The same, but a pipe may take as long as it likes: somebody is there who may have to type a
    /// passphrase for whoever writes to it, and can break it off.
    #[cfg(feature = "cli")]
    #[must_use]
    pub(crate) fn awaiting_pipes(self) -> Self {
        let awaits_pipes = true;
        Self {
            awaits_pipes,
            ..self
        }
    }

    /// The same, but commands of `exec:` don't see these variables.
    #[must_use]
    pub(crate) fn withholding(self, withheld: BTreeSet<String>) -> Self {
        Self { withheld, ..self }
    }

    /// The same, but nothing is read and no command is run: what has the form of a reference is one that
    /// can't be read here.
    #[cfg(feature = "cli")]
    #[must_use]
    pub(crate) fn unfollowed(self) -> Self {
        let are_followed = false;
        Self {
            are_followed,
            ..self
        }
    }

    /// The secret that `text` refers to, without one trailing newline.
    ///
    /// Blocks: `exec:` and a pipe take up to 10 seconds, the latter longer for who awaits pipes.
    ///
    /// # Errors
    /// [`Mismatch`] for plain text (which isn't shown), a file that others can read, and whatever
    /// can't be read or is empty.
    pub fn secret(&self, text: &str) -> Result<Secret<String>, Mismatch> {
        self.read(&Reference::parse(text)?, Readers::OwnerAndGroup)
    }

    /// The public text that `text` refers to, or `text` itself where it is a key or certificate.
    ///
    /// # Errors
    /// As [`Self::secret`], but a file may be readable by anyone.
    pub fn public(&self, text: &str) -> Result<String, Mismatch> {
        let reference = match Reference::parse(text) {
            Ok(reference) => reference,
            Err(_) if is_key_text(text) => return Ok(text.to_owned()),
            Err(mismatch) => return Err(mismatch),
        };
        let public = self.read(&reference, Readers::Anyone)?;
        Ok(public.expose().clone())
    }

    /// Whether `text` has the form of what [`Self::secret`] takes; nothing is read.
    #[cfg(feature = "cli")]
    pub(crate) fn check_secret(text: &str) -> Result<(), Mismatch> {
        Reference::parse(text).map(|_| ())
    }

    /// Whether `text` has the form of what [`Self::public`] takes; nothing is read.
    #[cfg(feature = "cli")]
    pub(crate) fn check_public(text: &str) -> Result<(), Mismatch> {
        match is_key_text(text) {
            true => Ok(()),
            false => Self::check_secret(text),
        }
    }

    /// The path of a secret file that can be read: `file:` alone. A pipe isn't taken, because whoever
    /// uses the path reads it a second time.
    ///
    /// # Errors
    /// As [`Self::secret`].
    pub fn secret_file(&self, text: &str) -> Result<PathBuf, Mismatch> {
        let Reference::File(path) = Reference::parse(text)? else {
            return Err(Mismatch::new("another reference", "`file:path`"));
        };
        let path = self.path(path);
        if self.are_followed {
            check_file(&path)?;
            self.read_file(&path, Readers::OwnerAndGroup)?;
        }
        Ok(path)
    }

    /// The path of a public file that can be read, with or without `file:`.
    ///
    /// # Errors
    /// [`Mismatch`] when it can't.
    pub fn public_file(&self, text: &str) -> Result<PathBuf, Mismatch> {
        let path = self.public_path(text);
        // Whoever uses it reads it: a system's own file of authorities has hundreds of kilobytes.
        if self.are_followed {
            check_file(&path)?;
        }
        Ok(path)
    }

    /// The same, whether it can be read or not.
    pub(crate) fn public_path(&self, text: &str) -> PathBuf {
        self.path(text.strip_prefix("file:").unwrap_or(text))
    }

    /// What relative paths are relative to.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The environment's variables.
    pub(crate) fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.environment
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.join(path)
    }

    fn read(
        &self,
        reference: &Reference<'_>,
        readers: Readers,
    ) -> Result<Secret<String>, Mismatch> {
        if !self.are_followed {
            return Err(Mismatch::new("a reference that isn't followed", "a secret").elsewhere());
        }
        let text = match reference {
            Reference::Credential(name) => self.credential(name)?,
            Reference::Environment(name) => self.variable(name)?,
            Reference::Exec(command) => self.command(command)?,
            Reference::File(path) => self.read_file(&self.path(path), readers)?,
        };
        let text = text.strip_suffix('\n').unwrap_or(&text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        if text.is_empty() {
            return Err(Mismatch::new(
                "a reference to nothing but an empty text",
                "a secret",
            ));
        }
        Ok(Secret::new(text.to_owned()))
    }

    fn variable(&self, name: &str) -> Result<Zeroizing<String>, Mismatch> {
        self.environment.get(name).cloned().ok_or_else(|| {
            let mismatch = Mismatch::new(
                format!("`env:{name}`, which isn't set"),
                "an environment variable",
            );
            mismatch.elsewhere().hint(format!(
                "set {name} where the sidecar is started (a unit's Environment=, a container's env), or \
                 write `file:` and a path"
            ))
        })
    }

    fn credential(&self, name: &str) -> Result<Zeroizing<String>, Mismatch> {
        let directory = self
            .environment
            .get("CREDENTIALS_DIRECTORY")
            .ok_or_else(|| {
                Mismatch::new(
                    "`cred:` while $CREDENTIALS_DIRECTORY isn't set",
                    "systemd credentials",
                )
                .elsewhere()
                .hint("add LoadCredential= to the unit, or use another kind of reference")
            })?;
        let path = Path::new(directory.as_str()).join(name);
        self.read_file(&path, Readers::OwnerAndGroup)
    }

    fn command(&self, command: &str) -> Result<Zeroizing<String>, Mismatch> {
        exec::run(command, &self.withheld, self.patience)
    }

    fn read_file(&self, path: &Path, readers: Readers) -> Result<Zeroizing<String>, Mismatch> {
        let patience = (!self.awaits_pipes).then_some(self.patience);
        read_file(path, readers, patience)
    }
}

impl<'t> Reference<'t> {
    fn parse(text: &'t str) -> Result<Self, Mismatch> {
        match text.split_once(':') {
            Some(("cred", name)) if name.is_empty() || name.contains('/') || name == ".." => {
                let expected = "`cred:name` with a plain name";
                Err(Mismatch::new("`cred:` with a path", expected))
            }
            Some(("cred", name)) => Ok(Self::Credential(name)),
            Some(("env", name)) => Ok(Self::Environment(name)),
            Some(("exec", command)) if command.trim().is_empty() => {
                Err(Mismatch::new("`exec:` alone", exec::EXPECTED))
            }
            Some(("exec", command)) => Ok(Self::Exec(command)),
            Some(("file", path)) => Ok(Self::File(path)),
            Some((kind, _)) if is_kind(kind) => {
                let found = "a reference of an unknown kind, or plain text (not shown)";
                Err(Mismatch::new(found, REFERENCE).hint(hint_for(kind)))
            }
            _ => Err(Mismatch::new("plain text (not shown)", REFERENCE)
                .hint("put the value into a file of mode 0600 and write `file:` and its path")),
        }
    }
}

/// Whether a text may be meant as the kind of a reference, such as `vault`.
fn is_kind(text: &str) -> bool {
    (1..=16).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b"+-".contains(&b))
}

/// What to write instead of the reference `kind`, which isn't shown: it may be part of a secret.
fn hint_for(kind: &str) -> String {
    match nearest(kind, ["cred", "env", "exec", "file"].into_iter()) {
        Some(known) => format!("did you mean `{known}:`?"),
        None => "what another store keeps, a command prints: `exec:command`".to_owned(),
    }
}

/// What is taken where a reference belongs.
const REFERENCE: &str = "a reference: `env:NAME`, `file:path`, `cred:name` or `exec:command`";

/// Whether `text` is a pasted key or certificate; a path that lacks its `file:` is none.
fn is_key_text(text: &str) -> bool {
    let base64 = |b: u8| b.is_ascii_alphanumeric() || b"+/=\r\n ".contains(&b);
    text.contains("-----BEGIN") || (text.len() > 100 && text.bytes().all(base64))
}

/// A file that can be opened, and however often: a pipe gives its text once.
fn check_file(path: &Path) -> Result<(), Mismatch> {
    let opened = file::open(path).and_then(|file| file.metadata());
    match opened.map_err(|error| unreadable(path, &error))?.is_file() {
        true => Ok(()),
        false => {
            let found = format!("{}, which is no file", path.display());
            Err(Mismatch::new(found, "a readable file"))
        }
    }
}

fn read_file(
    path: &Path,
    readers: Readers,
    patience: Option<Duration>,
) -> Result<Zeroizing<String>, Mismatch> {
    let unreadable = |error: std::io::Error| unreadable(path, &error);
    let file = file::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode();
    if matches!(readers, Readers::OwnerAndGroup) && mode & 0o007 != 0 {
        let found = format!("{} with mode {:04o}", path.display(), mode & 0o7777);
        let mismatch = Mismatch::new(found, "a secret that others can't read");
        return Err(mismatch.hint(format!("run `chmod 600 {}`", path.display())));
    }
    let mut source = Patient::new(file, patience).map_err(unreadable)?;
    let text = file::read_whole(&mut source).map_err(unreadable)?;
    if text.len() > LONGEST {
        let found = format!("{}, which is longer than 64 KiB", path.display());
        return Err(Mismatch::new(found, "one secret, key or certificate chain"));
    }
    Ok(text)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Mismatch {
    let path = path.display();
    let found = format!("{path}, which can't be read ({error})");
    let mismatch = Mismatch::new(found, "a readable file").elsewhere();
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => mismatch.hint(format!(
            "give it to the user that the sidecar runs as, and let that user into its folders: `chown \
             USER {path}; chmod 600 {path}`"
        )),
        _ => mismatch,
    }
}

/// A key store or a pipe that takes longer than this would hold up every restart.
const TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};
    #[cfg(feature = "cli")]
    use std::process::Command;

    use super::*;

    #[test]
    fn a_file_that_may_not_be_read_needs_another_owner() {
        let told = |kind| unreadable(Path::new("/k"), &Error::from(kind)).hint;
        let hint = told(ErrorKind::PermissionDenied).expect("a hint");
        assert!(hint.contains("chown USER /k; chmod 600 /k"), "{hint}");
        // Whoever names the file knows how one is made.
        assert_eq!(told(ErrorKind::NotFound), None);
    }

    #[cfg(feature = "cli")]
    #[test]
    fn who_types_a_passphrase_has_the_time_for_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pipe");
        let made = Command::new("mkfifo")
            .args(["-m", "600"])
            .arg(&path)
            .status();
        assert!(made.expect("mkfifo").success());
        let hurried = References {
            patience: Duration::from_millis(20),
            ..References::new(folder.path(), [])
        };
        let late = |read: &References, text| read.secret(text).expect_err("too late").found;
        assert!(late(&hurried, "exec:sleep 60").contains("took longer"));
        assert!(late(&hurried, "file:pipe").contains("a pipe"));
        let unhurried = hurried.awaiting_pipes();
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(60));
            std::fs::write(path, "opensesame\n")
        });
        let read = unhurried.secret("file:pipe").expect("in the end");
        assert_eq!(read.expose(), "opensesame");
        writer.join().expect("no panic").expect("written");
        // A command has its limit whoever is there.
        assert!(late(&unhurried, "exec:sleep 60").contains("took longer"));
    }
}
