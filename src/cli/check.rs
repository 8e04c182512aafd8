//! `check`: everything that can be known without asking Alipay; with `--online`, by asking too. The
//! file is judged first, and by itself.

use std::collections::BTreeSet;

use clap::Args;
use serde::Serialize;

use crate::cli::check_certificates::{self, Ending, Nearness};
use crate::cli::check_keys;
use crate::cli::check_online::{self, Looks};
use crate::cli::check_store::Stored;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::output;
use crate::cli::output::Form;
use crate::clock::{Clock, SystemClock};
use crate::config::proxy::NotifyUrlMode;
use crate::config::{Config, environment};
use crate::delivery::advice;
use crate::model::app::App;
use crate::net::spool;

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
    let mut findings = Findings::default();
    let stored = Stored::look(context, &config).await?;
    findings.look_at_file(&config, &stored);
    let is_good = findings.faults.is_empty();
    findings.faults.extend(stored.fault.clone());
    let difference = match &stored.running {
        Some(running) => running.difference(context, &config)?,
        None => None,
    };
    let looks = match (arguments.online, difference) {
        (true, None) => online(context, &config, &stored, &mut findings).await,
        (true, Some(difference)) => {
            let nothing_asked = format!("{difference}, and check again: nothing was asked");
            findings.faults.push(nothing_asked);
            None
        }
        (false, difference) => {
            findings.warnings.extend(difference);
            None
        }
    };
    let report = Report {
        config: context.path().display().to_string(),
        fingerprint: config.fingerprint(),
        apps: stored.app_ids(&config).len(),
        running: stored.running.map(|running| running.view.fingerprint),
        good: findings.good,
        warnings: findings.warnings,
        online: looks,
        faults: findings.faults,
    };
    report.tell(is_good, &arguments.form)
}

/// What of the settings that `run` begins with is worth a word in its log: what this verb says of them,
/// too. `stored` are the apps of the store, where it could tell.
pub(crate) fn doubts(config: &Config, stored: Option<&[App]>) -> Vec<String> {
    let apps: Vec<_> = config
        .apps
        .iter()
        .chain(stored.unwrap_or_default())
        .collect();
    let ids: BTreeSet<_> = apps.iter().map(|app| app.app_id.to_string()).collect();
    let ids: Vec<_> = ids.into_iter().collect();
    let mut findings = Findings::default();
    findings.look_at_settings(config, (&apps, stored.map(|_| &*ids)));
    // Certificates that have ended are no reason not to run.
    let Findings {
        warnings, faults, ..
    } = findings;
    faults.into_iter().chain(warnings).collect()
}

/// What was found so far, one line each.
#[derive(Default)]
struct Findings {
    good: Vec<String>,
    warnings: Vec<String>,
    faults: Vec<String>,
}

impl Findings {
    /// What the file alone says, and what it says together with the apps of the store.
    fn look_at_file(&mut self, config: &Config, stored: &Stored) {
        if let Some(path) = &config.telemetry.audit_file
            && let Err(error) = crate::audit::probe(path)
        {
            let error = anyhow::Error::from(error);
            self.faults.push(format!("{error:#}"));
        }
        let apps = config.apps.iter().chain(stored.apps.iter().flatten());
        let apps: Vec<_> = apps.collect();
        let ids = stored.fault.is_none().then(|| stored.app_ids(config));
        self.look_at_settings(config, (&apps, ids.as_deref()));
        let is_hidden = |app: &App| config.apps.iter().any(|own| own.app_id == app.app_id);
        let used = stored.apps.iter().flatten().filter(|app| !is_hidden(app));
        let elsewhere = used.filter(|app| app.has_key_elsewhere());
        self.faults.extend(elsewhere.map(|app| {
            format!(
                "app {} of the store has a private key elsewhere: only the program that hands in its signers \
                 can serve this store",
                app.app_id
            )
        }));
        let mixtures = stored.apps.iter().flatten();
        let mixtures = mixtures.filter_map(|app| environment::mixture(app, &config.upstream));
        self.faults
            .extend(mixtures.map(|(key, mismatch)| format!("`upstream.{key}`: {mismatch}")));
        let now = SystemClock.now_ms();
        match clock(now) {
            Ok(plausible) => self.good.push(plausible),
            Err(wrong) => self.faults.push(wrong),
        }
    }

    /// What is doubtful, or over, without anything forbidding it; `ids` are those of all apps, where they
    /// are known.
    fn look_at_settings(&mut self, config: &Config, (apps, ids): (&[&App], Option<&[String]>)) {
        let now = SystemClock.now_ms();
        self.warnings.extend(check_keys::short_ones(config, apps));
        self.warnings.extend(check_keys::same_ones(apps));
        self.look_at_certificates(&check_certificates::endings(config, apps), now);
        self.warnings
            .extend(environment::advice(apps, &config.upstream));
        if ids.is_some_and(<[String]>::is_empty) {
            self.warnings.push(NO_APP.to_owned());
        }
        let base_path = &config.webhook.base_path;
        self.warnings
            .extend(advice::of_routes(&config.delivery, base_path, ids));
        self.warnings
            .extend(without_effect(config).map(ToOwned::to_owned));
        self.warnings.extend(never_fitting(config));
        self.warnings.extend(temporary_files());
    }

    fn look_at_certificates(&mut self, endings: &[Ending], now: i64) {
        self.good.extend(check_certificates::first(endings, now));
        for ending in endings {
            match ending.nearness(now) {
                Nearness::Far => {}
                Nearness::Passed => self.faults.push(ending.told(now)),
                Nearness::Soon => self.warnings.push(ending.told(now)),
            }
        }
    }
}

/// Asks, where the store can be used; what goes wrong is a fault.
async fn online(
    context: &Context,
    config: &Config,
    stored: &Stored,
    findings: &mut Findings,
) -> Option<Looks> {
    if stored.fault.is_some() {
        let unasked = "nothing was asked of Alipay: see to the store first";
        findings.warnings.push(unasked.to_owned());
        return None;
    }
    match check_online::look(context, config, stored.running.as_ref()).await {
        Ok(looks) => {
            findings.good.extend(looks.good());
            findings.warnings.extend(looks.warnings());
            findings.faults.extend(looks.faults());
            Some(looks)
        }
        Err(failure) => {
            findings.faults.push(failure.text());
            None
        }
    }
}

/// All of it, as `--json` gives it.
#[derive(Serialize)]
struct Report {
    config: String,
    fingerprint: String,
    apps: usize,
    /// The fingerprint of what runs, where something does.
    running: Option<String>,
    good: Vec<String>,
    warnings: Vec<String>,
    online: Option<Looks>,
    faults: Vec<String>,
}

impl Report {
    /// Tells the verdict on the file before all else: it holds whatever the store and Alipay say.
    fn tell(&self, is_good: bool, form: &Form) -> Result<(), Failure> {
        if form.json {
            output::say_json(self)?;
        } else {
            for warning in &self.warnings {
                output::complain(format!("warning: {warning}"));
            }
            let verdict = if is_good { "good" } else { "faulty" };
            output::say(format!(
                "{} is {verdict} ({})",
                self.config, self.fingerprint
            ));
            self.good.iter().for_each(output::say);
        }
        match self.faults.len() {
            0 => Ok(()),
            _ => Err(Failure::told(self.faults.join("\n"))),
        }
    }
}

const NO_APP: &str = "no app is configured or stored; add an [[app]] or use `app add`";

/// What the clock says, where that can be: Alipay refuses requests whose timestamp is far off.
fn clock(now_ms: i64) -> Result<String, String> {
    let now = output::time_of(now_ms);
    match (EARLIEST_MS..LATEST_MS).contains(&now_ms) {
        true => Ok(format!("clock: {now} here")),
        false => Err(format!(
            "this machine's clock says {now}; set it: Alipay refuses wrong timestamps"
        )),
    }
}

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

/// Names and patterns that fit nothing that occurs.
fn never_fitting(config: &Config) -> Vec<String> {
    let hosts = config.proxy.allowed_hosts.iter();
    let hosts = hosts.filter(|host| host.contains('*')).map(|host| {
        format!("`proxy.allowed_hosts`: \"{host}\" is no pattern, and no host is called so; name each host")
    });
    // Only a path has slashes.
    let is_no_path = |pattern: &&String| pattern.contains('/') && !pattern.starts_with(['/', '*']);
    let methods = config.callers.iter().flat_map(|caller| {
        let patterns = caller.methods.iter().filter(is_no_path);
        patterns.map(|pattern| {
            format!(
                "caller {}: methods = \"{pattern}\" can't occur: a v3 path begins with `/`, such as \
                 /v3/alipay/trade/query",
                caller.name
            )
        })
    });
    hosts.chain(methods).collect()
}

/// What becomes of large uploads where no temporary file can be made.
fn temporary_files() -> Option<String> {
    let error = spool::probe().err()?;
    let folder = std::env::temp_dir();
    Some(format!(
        "no temporary file can be written in {}: {error}; calls with large files fail so. Make room \
         there, let the sidecar write there, or name another folder by TMPDIR",
        folder.display()
    ))
}

/// 2025-01-01: no release of this program is older.
const EARLIEST_MS: i64 = 1_735_689_600_000;

/// 2100-01-01.
const LATEST_MS: i64 = 4_102_444_800_000;
