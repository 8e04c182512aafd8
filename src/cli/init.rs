//! `init`: a configuration, keys and an empty store.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde_json::json;
use zeroize::Zeroizing;

use crate::cli::failure::Failure;
use crate::cli::output::Form;
use crate::cli::{files, output, store};
use crate::config::{Config, REFERENCE, process_environment};
use crate::protocol::key::AppPrivateKey;
use crate::store::seal::StoreKey;

#[derive(Debug, Args)]
pub(crate) struct InitArguments {
    /// Where to write
    #[arg(long, default_value = ".", value_name = "D")]
    dir: PathBuf,
    #[command(flatten)]
    form: Form,
}

pub(crate) fn execute(arguments: &InitArguments) -> Result<(), Failure> {
    let directory = &arguments.dir;
    refuse_to_overwrite(directory)?;
    for part in ["keys", "data"] {
        files::create_directory(&directory.join(part))?;
    }
    let app_public_key = write_key_pair(directory, "app")?;
    write_key_pair(directory, "reply")?;
    let store_key = StoreKey::generate();
    let text = Zeroizing::new(format!("{}\n", store_key.to_base64().expose()));
    files::create_private(&directory.join(STORE_KEY), &text)?;
    store::create(&directory.join(STORE), &store_key)?;
    let path = directory.join(CONFIG);
    files::create_private(&path, &template())?;
    // Everything is written by now: a fault of the environment's is told, and what to paste as well.
    let config = Config::load(&path, process_environment()).or_else(|faults| {
        output::complain(format!(
            "the environment doesn't fit, and `run` will refuse it; what follows is without it\n{faults}"
        ));
        Config::load(&path, std::iter::empty())
    })?;
    tell(arguments, &app_public_key, &config)
}

/// Nothing is written where anything of ours stands: a store key that is lost takes every token
/// with it.
fn refuse_to_overwrite(directory: &Path) -> Result<(), Failure> {
    let ours = [
        CONFIG,
        STORE_KEY,
        STORE,
        "keys/app_private_key.pem",
        "keys/reply_private_key.pem",
    ];
    let paths = ours.map(|name| directory.join(name));
    match paths.iter().find(|path| path.symlink_metadata().is_ok()) {
        None => Ok(()),
        Some(path) => {
            let path = path.display();
            Err(anyhow!("{path} exists already; nothing was written, choose another --dir").into())
        }
    }
}

/// Makes a key pair, `keys/<name>_private_key.pem` and `keys/<name>_public_key.txt`, and gives the
/// public half as Alipay's console takes it.
fn write_key_pair(directory: &Path, name: &str) -> Result<String, Failure> {
    let key = AppPrivateKey::generate(KEY_BITS).context("no key could be made")?;
    let public = key.public_key().to_bare_base64();
    let keys = directory.join("keys");
    let pem = key.to_pkcs8_pem();
    files::create_private(&keys.join(format!("{name}_private_key.pem")), pem.expose())?;
    files::create_private(
        &keys.join(format!("{name}_public_key.txt")),
        &format!("{public}\n"),
    )?;
    Ok(public)
}

/// The reference configuration, with the install key set.
fn template() -> String {
    let reply_key = "reply_key = \"file:keys/reply_private_key.pem\"";
    REFERENCE.replacen("reply_key = \"\"", reply_key, 1)
}

fn tell(arguments: &InitArguments, app_public_key: &str, config: &Config) -> Result<(), Failure> {
    let webhook = &config.webhook;
    let origin = webhook
        .public_url
        .as_deref()
        .unwrap_or("https://<your public host>");
    let app_gateway = format!("{origin}{}/gateway", webhook.base_path);
    let callback = format!("{origin}{}/auth", webhook.base_path);
    let auth_redirect_uri = webhook.auth_redirect_uri.clone().unwrap_or(callback);
    if arguments.form.json {
        return output::say_json(&json!({
            "app_public_key": app_public_key,
            "app_gateway": app_gateway,
            "auth_redirect_uri": auth_redirect_uri,
        }));
    }
    let directory = arguments.dir.display();
    output::say(format!(
        "Wrote {directory}/{CONFIG}, keys and an empty store.\n"
    ));
    output::say("Paste into Alipay's console (open.alipay.com, the application, 开发设置):\n");
    output::say(format!(
        "应用公钥 (application public key)\n{app_public_key}\n"
    ));
    output::say(format!("应用网关 (app gateway)\n{app_gateway}\n"));
    output::say(format!(
        "授权回调地址 (authorisation callback)\n{auth_redirect_uri}\n"
    ));
    output::say(format!(
        "Then save the 支付宝公钥 that the console shows as {directory}/keys/alipay_public_key.pem,\n\
         uncomment [[app]] in {CONFIG}, set its app_id and webhook.public_url, and run\n\
         `alipay-sidecar -c {directory}/{CONFIG} check`."
    ));
    Ok(())
}

/// What Alipay's own key tool makes.
const KEY_BITS: usize = 2048;

const CONFIG: &str = "config.toml";
const STORE_KEY: &str = "data/store.key";
const STORE: &str = "data/sidecar.redb";
