//! The bearer token of `/api`: made at start where none is configured, and left in a file beside
//! the store, so that the command line of the same user can read it.

use std::fs::{OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::protocol::secret::Secret;

/// A new random token.
///
/// # Errors
/// When the system has no random numbers to give: then there is no token rather than a weak one.
pub fn generate() -> io::Result<Secret<String>> {
    let mut bytes = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| io::Error::other("the system gave no random numbers"))?;
    Ok(Secret::new(URL_SAFE_NO_PAD.encode(bytes)))
}

/// Where the token of a sidecar with this store stands.
#[must_use]
pub fn path(store: &Path) -> PathBuf {
    store.with_file_name("admin.token")
}

/// Writes `token` so that only its owner can read it, from the first moment.
///
/// # Errors
/// The system's.
pub fn write(path: &Path, token: &Secret<String>) -> io::Result<()> {
    let fresh = path.with_extension(format!("{}.tmp", std::process::id()));
    let _ = std::fs::remove_file(&fresh);
    let written = write_new(&fresh, token).and_then(|()| std::fs::rename(&fresh, path));
    // A program that is started over and over on a full disk would leave one each time.
    written.inspect_err(|_| {
        let _ = std::fs::remove_file(&fresh);
    })
}

fn write_new(path: &Path, token: &Secret<String>) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(token.expose().as_bytes())
}

/// Whether `given` is the token, in a time that doesn't tell how much of it was right.
#[must_use]
pub fn matches(token: &Secret<String>, given: &str) -> bool {
    use sha2::{Digest, Sha256};
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    let (ours, theirs) = (digest(token.expose()), digest(given));
    aws_lc_rs::constant_time::verify_slices_are_equal(&ours, &theirs).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_matches() {
        let token = Secret::new("token".to_owned());
        assert!(matches(&token, "token"));
        for other in ["", "toke", "tokens", "Token", "token "] {
            assert!(!matches(&token, other), "{other:?}");
        }
    }

    #[test]
    fn each_token_is_new_and_of_32_bytes() {
        let [one, other] = [(); 2].map(|()| generate().expect("random numbers"));
        assert_eq!(URL_SAFE_NO_PAD.decode(one.expose()).unwrap().len(), 32);
        assert_ne!(one, other);
        assert_eq!(
            path(Path::new("data/sidecar.redb")),
            Path::new("data/admin.token")
        );
    }

    #[test]
    fn a_token_that_is_not_written_leaves_no_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("admin.token");
        let token = Secret::new("token".to_owned());
        std::fs::create_dir(&path).expect("created");
        write(&path, &token).expect_err("a directory stands there");
        let names = || directory.path().read_dir().expect("readable").count();
        assert_eq!(names(), 1);
        std::fs::remove_dir(&path).expect("empty");
        write(&path, &token).expect("written");
        assert_eq!(
            (names(), std::fs::read(&path).expect("there")),
            (1, b"token".to_vec())
        );
    }
}
