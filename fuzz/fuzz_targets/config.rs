//! The configuration: read the same twice, every fault told, and no secret in anything that is
//! shown. References that run programs or lead out of the folder are left out: this is no sandbox.
#![no_main]

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::LazyLock;

use alipay_sidecar::Config;
use alipay_sidecar::config::error::ConfigErrors;
use alipay_sidecar_fuzz::keys;
use libfuzzer_sys::fuzz_target;

/// Marks what must never be shown.
const SECRET: &str = "s3cr3t-c4n4ry";

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("config-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let put = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("set");
    };
    put("key.pem", keys::private("app2048"));
    put("alipay.txt", keys::public("alipay2048"));
    put("secret", SECRET);
    put("store.key", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=");
    folder
});

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if !is_harmless(text) {
        return;
    }
    let environment = || {
        [
            ("SECRET", SECRET),
            ("STORE_KEY", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE="),
            ("KEY", keys::private("app2048")),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let read = || Config::from_toml(text, &FOLDER, environment());
    let found = read();
    match &found {
        Ok(config) => {
            is_silent(&config.to_redacted_json().to_string());
            is_silent(&format!("{config:?}"));
        }
        Err(errors) => {
            assert!(!errors.faults().is_empty());
            is_silent(&errors.to_string());
            is_silent(&format!("{errors:?}"));
        }
    }
    // What depends on chance does so with every fourth input as well, in half of the time.
    if data.len().is_multiple_of(4) {
        let same = |found: Result<Config, ConfigErrors>| {
            let config = found.map(|config| config.fingerprint());
            config.map_err(|errors| errors.to_string())
        };
        assert_eq!(same(read()), same(found));
    }
});

fn is_silent(shown: &str) {
    assert!(!shown.contains(SECRET));
    let private = keys::private("app2048")
        .lines()
        .nth(3)
        .expect("a line of the key");
    assert!(!shown.contains(private));
}

/// Whether no text in it may run anything, or name a file elsewhere.
fn is_harmless(text: &str) -> bool {
    // Only an escape could make such a word of others.
    if !["exec", "/", "..", "\\"]
        .iter()
        .any(|word| text.contains(word))
    {
        return true;
    }
    let Ok(table) = text.parse::<toml::Table>() else {
        // The reader stops before anything is looked up.
        return true;
    };
    is_harmless_value(&toml::Value::Table(table))
}

fn is_harmless_value(value: &toml::Value) -> bool {
    match value {
        toml::Value::String(text) => {
            let is_url = text.starts_with("http://") || text.starts_with("https://");
            !text.contains("exec") && (is_url || !text.contains('/') && !text.contains(".."))
        }
        toml::Value::Array(values) => values.iter().all(is_harmless_value),
        toml::Value::Table(table) => table.values().all(is_harmless_value),
        _ => true,
    }
}
