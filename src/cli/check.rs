//! `check`: everything that can be known without asking Alipay; with `--online`, by asking too.

use clap::Args;
use serde_json::json;

use crate::admin::apps::AppView;
use crate::admin::page::Page;
use crate::cli::admin_client::AdminClient;
use crate::cli::check_online::{self, Looks};
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output::Form;
use crate::cli::{output, store};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::config::proxy::NotifyUrlMode;
use crate::delivery::advice;
use crate::model::app::App;
use crate::protocol::key::AppPrivateKey;
use crate::store::error::StoreError;

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// Ask Alipay about each app and merchant, and see whether the public address passes what it is
    /// sent unchanged
    #[arg(long)]
    online: bool,
    #[command(flatten)]
    form: Form,
}

pub(crate) async fn execute(context: &Context, arguments: &CheckArguments) -> Result<(), Failure> {
    let config = context.load_to_serve([])?;
    if let Some(path) = &config.telemetry.audit_file {
        crate::audit::probe(path).map_err(anyhow::Error::from)?;
    }
    let mut warnings = Vec::new();
    let stored = stored_apps(context, &config).await?;
    let apps = config.apps.iter().chain(stored.iter().flatten());
    let apps: Vec<_> = apps.collect();
    warnings.extend(apps.iter().filter_map(|app| short_key(app)));
    let now = SystemClock.now_ms();
    warnings.extend(apps.iter().flat_map(|app| certificates(app, now)));
    if stored.as_ref().is_some_and(Vec::is_empty) && config.apps.is_empty() {
        warnings.push("no app is configured or stored; add an [[app]] or use `app add`".to_owned());
    }
    let ids = app_ids(&config, stored.as_deref()).await?;
    let base_path = &config.webhook.base_path;
    warnings.extend(advice::of_routes(&config.delivery, base_path, Some(&ids)));
    warnings.extend(without_effect(&config).map(ToOwned::to_owned));
    warnings.extend(clock(now));
    let looks = match arguments.online {
        true => Some(check_online::look(context, &config).await?),
        false => None,
    };
    let faults = looks.as_ref().map(Looks::faults).unwrap_or_default();
    let fingerprint = config.fingerprint();
    if arguments.form.json {
        output::say_json(&json!({
            "config": context.path().display().to_string(),
            "fingerprint": fingerprint,
            "apps": config.apps.len() + stored.as_ref().map_or(0, Vec::len),
            "warnings": warnings,
            "online": looks,
            "faults": faults,
        }))?;
    } else {
        for warning in &warnings {
            output::complain(format!("warning: {warning}"));
        }
        let path = context.path().display();
        output::say(format!("{path} is good ({fingerprint})"));
        let good = looks.iter().flat_map(Looks::good);
        good.for_each(output::say);
    }
    match faults.len() {
        0 => Ok(()),
        _ => Err(Failure::told(faults.join("\n"))),
    }
}

/// The apps of the store; `None`: a running sidecar has the store, and it has opened it well.
async fn stored_apps(context: &Context, config: &Config) -> Result<Option<Vec<App>>, Failure> {
    let locked = |failure: &Failure| match failure {
        Failure::Other(error) => {
            matches!(error.downcast_ref(), Some(StoreError::Locked { .. }))
        }
        Failure::Configuration(_) | Failure::NotVerified(_) | Failure::Usage(_) => false,
    };
    match store::open(context, config) {
        Ok(store) => Ok(Some(store.apps().await?)),
        Err(failure) if locked(&failure) && AdminClient::new(config).is_running().await? => {
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// The ids of all apps; those of a store that a running sidecar has are asked of it.
async fn app_ids(config: &Config, stored: Option<&[App]>) -> Result<Vec<String>, Failure> {
    let Some(stored) = stored else {
        let page: Page<AppView> = AdminClient::new(config).get("/api/apps").await?;
        let running = page.items.into_iter().map(|app| app.app_id);
        // The file may have more than the sidecar was started with.
        let configured = config.apps.iter().map(|app| app.app_id.to_string());
        return Ok(running.chain(configured).collect());
    };
    let all = config.apps.iter().chain(stored);
    Ok(all.map(|app| app.app_id.to_string()).collect())
}

fn short_key(app: &App) -> Option<String> {
    let bits = AppPrivateKey::from_text(app.private_key.expose())
        .ok()?
        .bits();
    let app_id = &app.app_id;
    (bits < SAFE_BITS).then(|| {
        format!("the key of app {app_id} has {bits} bits; make a new one of {SAFE_BITS} (RSA2)")
    })
}

/// The certificates that end soon, or have ended.
fn certificates(app: &App, now_ms: i64) -> Vec<String> {
    let Ok(keys) = app.parse_keys() else {
        return Vec::new();
    };
    let own = [Some(&keys.current), keys.next.as_ref()]
        .into_iter()
        .flatten();
    let own = own.filter_map(|key| key.certificate.as_ref()?.not_after);
    let platform = keys.certificates.iter().flat_map(|trust| &trust.platform);
    let platform = platform.filter_map(|certificate| certificate.not_after);
    let ends = own
        .map(|at| ("app_cert", at, "issue a new one in Alipay's console"))
        .chain(platform.map(|at| {
            (
                "alipay_cert",
                at,
                "download it again; a newer one is fetched meanwhile",
            )
        }));
    ends.filter(|(_, at, _)| *at < now_ms.saturating_add(SOON_MS))
        .map(|(key, at, what)| {
            let app_id = &app.app_id;
            let verb = if at < now_ms { "ended" } else { "ends" };
            format!(
                "{key} of app {app_id} {verb} at {}; {what}",
                output::time_of(at)
            )
        })
        .collect()
}

/// Alipay refuses requests whose timestamp is far off.
fn clock(now_ms: i64) -> Option<String> {
    let is_sane = (EARLIEST_MS..LATEST_MS).contains(&now_ms);
    let now = output::time_of(now_ms);
    (!is_sane).then(|| format!("this machine's clock says {now}; Alipay refuses wrong timestamps"))
}

const SAFE_BITS: usize = 2048;

/// Fewer characters than these can be guessed: as base64 they are 96 bits.
const GUESSABLE: usize = 16;

/// Settings that promise more than they do as things stand.
fn without_effect(config: &Config) -> impl Iterator<Item = &'static str> {
    let proxy = &config.proxy;
    let judges =
        proxy.notify_url_mode == NotifyUrlMode::Enforce || !proxy.notify_url_allow.is_empty();
    let nothing_is_ours = judges && config.webhook.public_url.is_none();
    let admin = &config.admin;
    let token = admin
        .token
        .as_ref()
        .map(|token| token.expose().chars().count());
    let found = [
        (!admin.listen.is_local() && token.is_some_and(|characters| characters < GUESSABLE)).then_some(
            "`admin.token` is short for a listener that isn't loopback: anybody may guess it, and it \
             exports every merchant; `openssl rand -hex 32` makes one",
        ),
        nothing_is_ours.then_some(
            "`proxy.notify_url_mode` and `proxy.notify_url_allow` judge no absolute notify_url without \
             `webhook.public_url`",
        ),
        config.telemetry.audit_file.is_none().then_some(
            "`audit.file` is empty: calls and changes are told nowhere",
        ),
    ];
    found.into_iter().flatten()
}

/// How long before its end a certificate is worth a warning, milliseconds: 30 days.
const SOON_MS: i64 = 30 * 24 * 3600 * 1000;

/// 2025-01-01: no release of this program is older.
const EARLIEST_MS: i64 = 1_735_689_600_000;

/// 2100-01-01.
const LATEST_MS: i64 = 4_102_444_800_000;
