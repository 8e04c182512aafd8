//! From a file and the environment to a [`Config`], every fault reported at once.

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::Config;
use crate::config::admin::AdminConfig;
use crate::config::app;
use crate::config::caller::CallerConfig;
use crate::config::delivery::DeliveryConfig;
use crate::config::document::{self, Item, Place, Table, Value};
#[cfg(feature = "cli")]
use crate::config::error::Unread;
use crate::config::error::{ConfigErrors, Fault, Mismatch};
use crate::config::listen::Listen;
use crate::config::proxy::ProxyConfig;
use crate::config::reference::References;
use crate::config::secret_variables;
use crate::config::section::{Reading, Section, VARIABLE_PREFIX, unknown};
use crate::config::source::Source;
use crate::config::store::StoreConfig;
use crate::config::telemetry::TelemetryConfig;
use crate::config::token::TokenConfig;
use crate::config::upstream::UpstreamConfig;
use crate::config::webhook::WebhookConfig;

/// The reference configuration: every key, its unit and its default.
pub const REFERENCE: &str = include_str!("../../config.toml");

impl Config {
    /// Reads the file at `path`, with the `ALIPAY_SIDECAR_…` variables of `environment` over it.
    ///
    /// Blocks: it reads files, and runs the commands of `exec:` references.
    ///
    /// # Errors
    /// [`ConfigErrors`] with every fault.
    pub fn load(
        path: &Path,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigErrors> {
        Self::from_source(&Source::read(path), environment)
    }

    /// The same of a file that was read before.
    ///
    /// # Errors
    /// [`ConfigErrors`] with every fault.
    pub fn from_source(
        source: &Source,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigErrors> {
        let (reading, config) = read_source(source, environment)?;
        reading.finish(config)
    }

    /// As [`Self::from_source`], for who is about to serve: what this version doesn't do is a fault,
    /// too, and so is what `look` finds of the files that the configuration names. It is asked
    /// whatever else is wrong, so that all is told at once.
    ///
    /// # Errors
    /// [`ConfigErrors`] with every fault.
    pub fn from_source_to_serve(
        source: &Source,
        environment: impl IntoIterator<Item = (String, String)>,
        look: impl FnOnce(&Self) -> Vec<Fault>,
    ) -> Result<Self, ConfigErrors> {
        let (reading, config) = read_source(source, environment)?;
        let mut unsupported = config.unsupported();
        if reading.has_fault_below("caller") {
            // One that can't be read isn't missing.
            unsupported.retain(|fault| fault.key != "proxy.listen");
        }
        reading.faults_of_keys(unsupported);
        reading.faults_of_keys(look(&config));
        reading.finish(config)
    }

    /// As [`Self::from_source`], for who asks a sidecar that runs: secrets that can't be read here are
    /// left out, and some sections with them; they are given, too. It is no configuration to serve by:
    /// callers may be missing.
    ///
    /// # Errors
    /// [`ConfigErrors`] with every fault, where there is another one.
    #[cfg(feature = "cli")]
    pub(crate) fn from_source_to_ask(
        source: &Source,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(Self, Unread), ConfigErrors> {
        let (reading, config) = read_source(source, environment)?;
        let Err(errors) = reading.finish(()) else {
            return Ok((config, Unread::default()));
        };
        match errors.clone().but_for_secrets() {
            (Some(_), _) => Err(errors),
            (None, unread) => Ok((config, unread)),
        }
    }

    /// As [`Self::from_source`], for who only asks a sidecar whether it is ready, as often as every few
    /// seconds: nothing that the configuration refers to is read, so that it has no secret and no section
    /// that can't do without one. What such sections have in common, as two callers a name, isn't seen.
    ///
    /// # Errors
    /// [`ConfigErrors`] with every other fault of the text itself.
    #[cfg(feature = "cli")]
    pub(crate) fn from_source_to_probe(
        source: &Source,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigErrors> {
        let (reading, config) = read_source_by(source, environment, References::unfollowed)?;
        let errors = reading.finish(()).err();
        match errors.and_then(|errors| errors.but_for_secrets().0) {
            Some(errors) => Err(errors),
            None => Ok(config),
        }
    }

    /// Reads `text` as [`Self::load`] does; `directory` is what its paths are relative to.
    ///
    /// # Errors
    /// [`ConfigErrors`] with every fault.
    pub fn from_toml(
        text: &str,
        directory: &Path,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigErrors> {
        let reading = Reading::new(None, references(text, directory, environment));
        let config = read(&reading, text);
        reading.finish(config)
    }
}

fn read_source(
    source: &Source,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<(Reading, Config), ConfigErrors> {
    read_source_by(source, environment, |references| references)
}

fn read_source_by(
    source: &Source,
    environment: impl IntoIterator<Item = (String, String)>,
    change: impl FnOnce(References) -> References,
) -> Result<(Reading, Config), ConfigErrors> {
    let text = source.checked()?;
    let references = change(references(text, &source.directory(), environment));
    let reading = Reading::new(Some(source.path()), references);
    let config = read(&reading, text);
    Ok((reading, config))
}

/// References of the configuration `text`: its secrets in the environment aren't for commands.
fn references(
    text: &str,
    directory: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
) -> References {
    let references = References::new(directory, environment);
    let secrets = secret_variables::named(text, references.variables());
    references.withholding(secrets)
}

/// The variables of this process; those that aren't UTF-8 can't be ours and are left out.
pub fn process_environment() -> impl Iterator<Item = (String, String)> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    std::env::vars_os().filter_map(text)
}

/// The sections that stand once, and may therefore be set by environment variables.
const SECTIONS: [&str; 9] = [
    "proxy",
    "webhook",
    "admin",
    "upstream",
    "store",
    "delivery",
    "tokens",
    "audit",
    "telemetry",
];

/// The sections that repeat.
const LISTS: [&str; 2] = ["app", "caller"];

fn read(reading: &Reading, text: &str) -> Config {
    let mut root = match document::parse(text) {
        Ok(root) => root,
        Err(faults) => {
            reading.faults(faults);
            return Config::default();
        }
    };
    let mut variables = variables(reading);
    let (apps, callers) = (root.remove("app"), root.remove("caller"));
    let mut section = |name| Section::of_root(reading, &mut root, &mut variables, name);
    let (proxy, webhook, admin) = (section("proxy"), section("webhook"), section("admin"));
    let (upstream, store) = (section("upstream"), section("store"));
    let (mut delivery, tokens) = (section("delivery"), section("tokens"));
    let (audit, telemetry) = (section("audit"), section("telemetry"));
    let proxy_config = ProxyConfig::read(&proxy);
    let mut config = Config {
        webhook: WebhookConfig::read(&webhook),
        admin: AdminConfig::read(&admin),
        upstream: UpstreamConfig::read(&upstream),
        store: StoreConfig::read(&store),
        apps: app::read_all(reading, apps),
        callers: CallerConfig::read_all(reading, callers, &proxy_config.listen),
        delivery: DeliveryConfig::read(&mut delivery),
        tokens: TokenConfig::read(&tokens),
        telemetry: TelemetryConfig::read(&audit, &telemetry),
        proxy: proxy_config,
        ..Config::default()
    };
    // One that can't be read is told already.
    if !reading.has_fault_below("caller")
        && let Some(mismatch) = config.callers_missing()
    {
        proxy.fault("listen", mismatch);
    }
    for (section, mismatch) in taken_twice(&config, [&proxy, &webhook, &admin]) {
        section.fault("listen", mismatch);
    }
    for (key, mismatch) in config.mixed() {
        upstream.fault(key, mismatch);
    }
    for section in [&proxy, &webhook, &admin, &upstream, &store] {
        section.finish();
    }
    for section in [&delivery, &tokens, &audit, &telemetry] {
        section.finish();
    }
    unknown_sections(reading, &root);
    single_underscores(reading, text);
    config.origins = reading.origins();
    config
}

/// The listeners, in the order of `sections`, whose address one before them has.
fn taken_twice<'s, 'r>(
    config: &Config,
    sections: [&'s Section<'r>; 3],
) -> Vec<(&'s Section<'r>, Mismatch)> {
    let listens = [
        ("proxy.listen", &config.proxy.listen),
        ("webhook.listen", &config.webhook.listen),
        ("admin.listen", &config.admin.listen),
    ];
    let mut before: Vec<(&str, &Listen)> = Vec::new();
    let mut faults = Vec::new();
    for (section, (key, listen)) in sections.into_iter().zip(listens) {
        if let Some((other, _)) = before.iter().find(|(_, other)| other.collides(listen)) {
            let found = format!("\"{listen}\", where `{other}` listens");
            faults.push((section, Mismatch::new(found, "an address of its own")));
        }
        before.push((key, listen));
    }
    faults
}

/// The variables `ALIPAY_SIDECAR_<SECTION>__<KEY>`, by section and key.
fn variables(reading: &Reading) -> BTreeMap<String, Table> {
    let mut sections: BTreeMap<String, Table> = BTreeMap::new();
    for (variable, text) in reading.references().variables() {
        let Some(name) = variable.strip_prefix(VARIABLE_PREFIX) else {
            continue;
        };
        let place = Place::Variable(variable.to_owned());
        // Without `__` it isn't ours: Kubernetes sets ALIPAY_SIDECAR_SERVICE_HOST for a service.
        let Some((section, key)) = name.split_once("__") else {
            continue;
        };
        let (section, key) = (section.to_ascii_lowercase(), key.to_ascii_lowercase());
        if !SECTIONS.contains(&section.as_str()) {
            let mismatch = unknown("section", &section, SECTIONS.into_iter());
            reading.fault(&format!("{section}.{key}"), &place, mismatch);
            continue;
        }
        let value = Value::Variable(text.to_owned());
        let item = Item { value, place };
        sections.entry(section).or_default().insert(key, item);
    }
    sections
}

/// Records variables that are a known key but for the second underscore, unless the file's `text` or
/// another variable refers to them: a secret may well be in `ALIPAY_SIDECAR_STORE_KEY`.
fn single_underscores(reading: &Reading, text: &str) {
    let referred = secret_variables::named(text, reading.references().variables());
    for key in reading.known() {
        let name = key.replace('.', "_").to_ascii_uppercase();
        let variable = format!("{VARIABLE_PREFIX}{name}");
        let mut variables = reading.references().variables();
        let is_set = variables.any(|(name, _)| name == variable);
        if is_set && !referred.contains(&variable) {
            let found = Mismatch::new("one underscore", "two between section and key");
            reading.fault(&key, &Place::Variable(variable), found);
        }
    }
}

fn unknown_sections(reading: &Reading, root: &Table) {
    for (name, item) in root {
        let known = SECTIONS.into_iter().chain(LISTS);
        reading.fault(name, &item.place, unknown("section", name, known));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference file with every commented-out key and section put in force.
    fn uncommented() -> String {
        let is_word = |key: &str| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
        let is_key = |line: &str| line.split_once(" = ").is_some_and(|(key, _)| is_word(key));
        let is_sample = |line: &str| line.starts_with('[') || is_key(line);
        let lines = REFERENCE.lines().map(|line| match line.strip_prefix("# ") {
            Some(sample) if is_sample(sample) && !sample.starts_with("# ") => sample,
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn reading() -> Reading {
        let environment = [("SHOP_TOKEN".to_owned(), "secret".to_owned())];
        Reading::new(None, References::new(Path::new("/nowhere"), environment))
    }

    #[test]
    fn the_samples_of_the_reference_file_parse() {
        let reading = reading();
        let text = uncommented();
        read(&reading, &text);
        let faults = reading
            .finish(())
            .expect_err("the sample's files aren't there");
        for fault in faults.faults() {
            assert!(fault.mismatch.found.contains("/nowhere/"), "{fault}");
        }
        assert!(text.contains("\n[[app]]\n") && text.contains("\n[[delivery.route]]\n"));
    }

    #[test]
    fn the_reference_file_names_every_key() {
        let reading = reading();
        read(&reading, &uncommented());
        let mut section = String::new();
        let mut named = std::collections::BTreeSet::new();
        for line in REFERENCE.lines().map(|line| line.trim_start_matches("# ")) {
            let header = line.strip_prefix('[').map(|l| l.trim_start_matches('['));
            if let Some((name, _)) = header.and_then(|line| line.split_once(']')) {
                name.clone_into(&mut section);
            } else if let Some((key, _)) = line.split_once(" = ") {
                named.insert(format!("{section}.{key}"));
            }
        }
        let missing: Vec<_> = reading
            .known()
            .into_iter()
            .filter(|key| key != "delivery.route" && !named.contains(key))
            .collect();
        assert_eq!(missing, Vec::<String>::new());
    }
}
