//! A folder for a sidecar that talks to the simulator: keys, store key, configuration.
use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rsa::{
    RsaPrivateKey,
    pkcs8::{EncodePrivateKey as _, EncodePublicKey as _, LineEnding},
    rand_core::{OsRng, RngCore as _},
};
use serde_json::{Value, json};
use toml::{Table, Value as Toml};

use super::{
    Simulator,
    error::SimulatorError,
    seed::{AppMode, SimulatedApp},
};

/// The app's private key, below the folder.
const APP_KEY: &str = "keys/app_private_key.pem";
/// The platform's public key, below the folder.
const ALIPAY_KEY: &str = "keys/alipay_public_key.pem";
/// The app's AES key, below the folder.
const ENCRYPT_KEY: &str = "keys/encrypt_key";
/// The platform's private key: the simulator's own, so that a second start keeps it.
const PLATFORM_KEY: &str = "keys/simulator_private_key.pem";

/// The keys of `[[app]]` that follow from how the simulator knows the app.
const KEYS_OF_APP: [&str; 5] = [
    "alipay_public_key",
    "app_cert",
    "alipay_cert",
    "alipay_root_cert",
    "encrypt_key",
];

/// Where the sidecar of a workspace listens.
#[derive(Clone, Debug)]
pub struct WorkspaceListeners {
    /// `[proxy] listen`.
    pub proxy: String,
    /// `[webhook] listen`; the app gateway and `public_url` follow from it.
    pub webhook: String,
    /// `[admin] listen`.
    pub admin: String,
}

impl Default for WorkspaceListeners {
    fn default() -> Self {
        Self {
            proxy: "127.0.0.1:2088".to_owned(),
            webhook: "127.0.0.1:2089".to_owned(),
            admin: "127.0.0.1:2090".to_owned(),
        }
    }
}

/// The keys an earlier start has left in a workspace.
pub(super) struct KeptKeys {
    pub(super) app: String,
    pub(super) platform: String,
}

/// Reads the keys of an existing workspace; none when it has none.
pub(super) fn kept_keys(dir: &Path) -> Option<KeptKeys> {
    let read = |name| fs::read_to_string(dir.join(name)).ok();
    Some(KeptKeys {
        app: read(APP_KEY)?,
        platform: read(PLATFORM_KEY)?,
    })
}

/// Refuses a folder that has files of the same names which no simulator wrote, as `init` writes them:
/// a private key, a configuration, merchants' tokens.
///
/// # Errors
/// [`SimulatorError::Occupied`].
pub(super) fn check_vacant(dir: &Path) -> Result<(), SimulatorError> {
    if dir.join(PLATFORM_KEY).exists() {
        return Ok(());
    }
    let written = [
        APP_KEY,
        ALIPAY_KEY,
        ENCRYPT_KEY,
        "keys/app_cert.crt",
        "keys/alipay_cert.crt",
        "keys/alipay_root_cert.crt",
        "config.toml",
        "merchants.jsonl",
    ];
    let paths = written.map(|name| dir.join(name));
    match paths
        .into_iter()
        .find(|path| path.symlink_metadata().is_ok())
    {
        Some(path) => Err(SimulatorError::Occupied { path }),
        None => Ok(()),
    }
}

/// Writes the workspace of one app into `dir`, as its mode and encryption are. An existing store key
/// stays, and so does a configuration that leads a sidecar to this simulator, by whatever addresses
/// it is called and administered itself. One that doesn't, and was edited, is kept under another
/// name: [`Simulator::replaced_config`].
///
/// # Errors
/// [`SimulatorError::AppUnknown`] when there is no such app or its private key is not known,
/// [`SimulatorError::Certificate`], [`SimulatorError::Occupied`], [`SimulatorError::Write`].
pub fn write_workspace(
    simulator: &Simulator,
    dir: &Path,
    app_id: Option<&str>,
    listeners: &WorkspaceListeners,
) -> Result<(), SimulatorError> {
    let (app, platform) = simulator.0.with_world(|world| {
        let app = world.app(app_id)?.clone();
        Ok::<_, SimulatorError>((app, Arc::clone(world.platform.key())))
    })?;
    let unknown = || SimulatorError::AppUnknown(app.app_id.clone());
    let key = app.private_key.as_ref().ok_or_else(unknown)?;
    check_vacant(dir)?;
    make_dir(&dir.join("keys"))?;
    make_dir(&dir.join("data"))?;
    // First: by this one the folder is known as a simulator's.
    write(dir.join(PLATFORM_KEY), &pem(&platform), 0o600)?;
    write(dir.join(APP_KEY), &pem(key), 0o600)?;
    let credentials = match app.mode {
        AppMode::Certificate => write_certificates(simulator, dir, &app)?,
        AppMode::Key => write_public_key(dir, &platform)?,
    };
    let encryption = write_encrypt_key(dir, &app)?;
    if !dir.join("store.key").exists() {
        write(dir.join("store.key"), &format!("{}\n", store_key()), 0o600)?;
    }
    write(
        dir.join("merchants.jsonl"),
        &merchants(simulator, &app.app_id),
        0o600,
    )?;
    let config = config(&simulator.url(), &app.app_id, listeners);
    let config = format!("{config}{credentials}{encryption}");
    let path = dir.join("config.toml");
    match fs::read_to_string(&path) {
        Ok(there) if fits(&there, &config) => return Ok(()),
        Ok(there) if is_as_written(&there, listeners) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        _ => {
            let kept = move_aside(&path)?;
            // A second workspace of one simulator is a test's: the first is the one that is told.
            let _ = simulator.0.replaced_config.set(kept);
        }
    }
    write(path, &config, 0o644)
}

/// Gives a file another name, which no file has.
fn move_aside(path: &Path) -> Result<PathBuf, SimulatorError> {
    let old = path.with_extension("toml.old");
    let numbered = (1..).map(|number| old.with_extension(format!("old.{number}")));
    let mut names = std::iter::once(old.clone()).chain(numbered);
    let free = names.find(|name| name.symlink_metadata().is_err());
    let free = free.unwrap_or(old);
    fs::rename(path, &free).map_err(|source| failed(&free, source))?;
    Ok(free)
}

/// Whether nobody has changed a configuration since it was written, for whatever simulator and
/// webhook.
fn is_as_written(there: &str, listeners: &WorkspaceListeners) -> bool {
    let table = there.parse::<Table>().unwrap_or_default();
    let text = |section: &str, name: &str| {
        let value = table.get(section)?.as_table()?.get(name)?.as_str()?;
        Some(value.to_owned())
    };
    let written = || {
        let listeners = WorkspaceListeners {
            webhook: text("webhook", "listen")?,
            ..listeners.clone()
        };
        let app = table.get("app")?.as_array()?.first()?;
        let app_id = app.get("app_id")?.as_str()?;
        Some(config(&text("upstream", "v3")?, app_id, &listeners))
    };
    let is_key = |line: &str| {
        let mut keys = KEYS_OF_APP.iter();
        keys.any(|key| line.starts_with(&format!("{key} = \"file:keys/")))
    };
    written()
        .and_then(|written| there.strip_prefix(&written))
        .is_some_and(|keys| keys.lines().all(is_key))
}

/// Whether a configuration has all that it would be written with, and no other key of the app's.
/// Where the sidecar is called and administered is no matter of Alipay's.
fn fits(there: &str, wanted: &str) -> bool {
    let (Ok(there), Ok(mut wanted)) = (there.parse::<Table>(), wanted.parse::<Table>()) else {
        return false;
    };
    wanted.retain(|section, _| !["proxy", "admin"].contains(&section));
    let has = |name| {
        let app = |table: &Table| table.get("app")?.as_array()?.first()?.as_table().cloned();
        [&there, &wanted].map(|table| app(table).is_some_and(|app| app.contains_key(name)))
    };
    let is_either = |name| matches!(has(name), [true, true] | [false, false]);
    has_all(&there, &wanted) && KEYS_OF_APP.into_iter().all(is_either)
}

/// Whether `there` says all that `wanted` says; of a list, its first entry.
fn has_all(there: &Table, wanted: &Table) -> bool {
    wanted
        .iter()
        .all(|(name, wanted)| match (there.get(name), wanted) {
            (Some(Toml::Table(there)), Toml::Table(wanted)) => has_all(there, wanted),
            (Some(Toml::Array(there)), Toml::Array(wanted)) => {
                match (there.first(), wanted.first()) {
                    (Some(Toml::Table(there)), Some(Toml::Table(wanted))) => has_all(there, wanted),
                    (there, wanted) => there == wanted,
                }
            }
            (there, wanted) => there == Some(wanted),
        })
}

/// Writes the platform's public key and gives the keys of `[[app]]` for it.
fn write_public_key(dir: &Path, platform: &RsaPrivateKey) -> Result<String, SimulatorError> {
    let public = platform
        .to_public_key()
        .to_public_key_pem(LineEnding::LF)
        .unwrap_or_default();
    write(dir.join(ALIPAY_KEY), &public, 0o644)?;
    Ok(format!("alipay_public_key = \"file:{ALIPAY_KEY}\"\n"))
}

/// Writes the three certificate files and gives the keys of `[[app]]` for them.
fn write_certificates(
    simulator: &Simulator,
    dir: &Path,
    app: &SimulatedApp,
) -> Result<String, SimulatorError> {
    let files = simulator.certificate_files(&app.app_id)?;
    let mut config = String::new();
    for (name, text) in [
        ("app_cert", &files.app_cert),
        ("alipay_cert", &files.alipay_cert),
        ("alipay_root_cert", &files.alipay_root_cert),
    ] {
        let file = format!("keys/{name}.crt");
        write(dir.join(&file), text, 0o644)?;
        config.push_str(&format!("{name} = \"file:{file}\"\n"));
    }
    Ok(config)
}

/// Writes the app's AES key, if it has one, and gives the key of `[[app]]` for it.
fn write_encrypt_key(dir: &Path, app: &SimulatedApp) -> Result<String, SimulatorError> {
    let Some(key) = &app.encryption.key else {
        return Ok(String::new());
    };
    write(
        dir.join(ENCRYPT_KEY),
        &format!("{}\n", key.to_base64()),
        0o600,
    )?;
    Ok(format!("encrypt_key = \"file:{ENCRYPT_KEY}\"\n"))
}

/// Writes a private key as PKCS#8 PEM.
pub(super) fn pem(key: &RsaPrivateKey) -> String {
    key.to_pkcs8_pem(LineEnding::LF)
        .map(|pem| pem.to_string())
        .unwrap_or_default()
}

fn store_key() -> String {
    let mut key = [0; 32];
    OsRng.fill_bytes(&mut key);
    STANDARD.encode(key)
}

/// Writes the merchants' tokens as `merchant import` takes them, the newest of each.
fn merchants(simulator: &Simulator, app_id: &str) -> String {
    let state = simulator.state();
    let items = |name: &str| {
        state
            .get(name)
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default()
    };
    let mut lines = String::new();
    for grant in items("grants") {
        let text = |name: &str| grant.get(name).cloned().unwrap_or_default();
        if text("app_id") != app_id || text("state") != "Valid" {
            continue;
        }
        let line = json!({
            "app_id": text("app_id"),
            "auth_app_id": text("auth_app_id"),
            "user_id": text("pid"),
            "app_auth_token": text("app_auth_token"),
            "app_refresh_token": text("app_refresh_token"),
            "auth_time": text("auth_time"),
        });
        lines.push_str(&format!("{line}\n"));
    }
    lines
}

fn config(simulator: &str, app_id: &str, listeners: &WorkspaceListeners) -> String {
    let WorkspaceListeners {
        proxy,
        webhook,
        admin,
    } = listeners;
    format!(
        r#"# A sidecar that talks to the Alipay simulator. Throw-away keys: no production use.

[proxy]
listen = "{proxy}"

[webhook]
listen = "{webhook}"
public_url = "http://{webhook}"

[admin]
listen = "{admin}"

[upstream]
gateway = "{simulator}/gateway.do"
v3 = "{simulator}"
authorize = "{simulator}"

[store]
url = "redb:data/sidecar.redb"
key = "file:store.key"

[[app]]
app_id = "{app_id}"
private_key = "file:{APP_KEY}"
"#
    )
}

fn make_dir(path: &Path) -> Result<(), SimulatorError> {
    fs::create_dir_all(path).map_err(|source| failed(path, source))
}

/// Writes a file that never has wider permissions than `mode`, not even for a moment.
fn write(path: PathBuf, text: &str, mode: u32) -> Result<(), SimulatorError> {
    let result = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(&path)
        .and_then(|mut file| {
            file.set_permissions(Permissions::from_mode(mode))?;
            file.write_all(text.as_bytes())
        });
    result.map_err(|source| failed(&path, source))
}

fn failed(path: &Path, source: io::Error) -> SimulatorError {
    SimulatorError::Write {
        path: path.to_owned(),
        source,
    }
}
