//! What programs of tests write is searched for the secrets of their folder, whatever a test is about.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::canaries::search::Secrets;

/// Fails where `written` shows a secret of a folder: a private key in it, the store key, one of the
/// `tokens`. Not while a test fails already: that says more.
pub fn none_in(written: &[u8], folder: &Path, tokens: &[String]) {
    if std::thread::panicking() {
        return;
    }
    let mut secrets = Secrets::default();
    for file in ["app.pem", "keys/app_private_key.pem"] {
        if let Ok(pem) = std::fs::read_to_string(folder.join(file)) {
            secrets.add_private_key(file, &pem);
        }
    }
    if let Ok(key) = std::fs::read_to_string(folder.join("store.key")) {
        secrets.add("store key", &STANDARD.decode(key.trim()).expect("base64"));
    }
    for token in tokens {
        secrets.add("token", token.as_bytes());
    }
    assert!(secrets.len() >= 2, "the folder has secrets");
    let found = secrets.found_in(written);
    assert!(found.is_empty(), "the program wrote {found:?}");
}

#[test]
fn what_a_program_must_not_write_is_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let pem = super::keys::private("app2048");
    std::fs::write(folder.path().join("app.pem"), &pem).expect("written");
    let key = STANDARD.encode([7; 32]);
    std::fs::write(folder.path().join("store.key"), &key).expect("written");
    let tokens = ["202611BB-a-token".to_owned()];
    let shows = |text: &str| {
        let search = || none_in(text.as_bytes(), folder.path(), &tokens);
        std::panic::catch_unwind(search).is_err()
    };
    let line = pem.lines().nth(12).expect("a line");
    for leak in [key.as_str(), line, "app_auth_token=202611BB-a-token&"] {
        assert!(shows(&format!("a log {leak} of a program")), "{leak}");
    }
    assert!(!shows("a log of a program"));
}
