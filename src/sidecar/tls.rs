//! TLS of the three listeners, and what else the configuration names as files of certificates.

use std::io;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};

use crate::config::Config;
use crate::config::error::{Fault, Mismatch};
use crate::gateway::app::Apps;
use crate::model::app_keys::TrustEnds;
use crate::net::client::ClientError;
use crate::net::tls::{Identity, Tls};
use crate::protocol::cert::Bundle;
use crate::registrar::Registrar;
use crate::sidecar::builder::upstream_client;
use crate::sidecar::reply_key;

/// What accepts TLS on each listener.
#[derive(Clone, Default)]
pub(super) struct Acceptors {
    pub(super) proxy: Tls,
    pub(super) webhook: Tls,
    pub(super) admin: Tls,
}

impl Acceptors {
    /// Connections that come from now on get these.
    pub(super) fn set(&self, identities: Identities) {
        let Identities([proxy, webhook, admin]) = identities;
        self.proxy.set(proxy);
        self.webhook.set(webhook);
        self.admin.set(admin);
    }
}

/// The certificate of each listener with its key; `None`: it speaks plain HTTP.
pub(super) struct Identities([Option<Identity>; 3]);

impl Identities {
    /// Reads what `config` names. Blocks.
    ///
    /// # Errors
    /// What can't be read or doesn't fit, by its key in the configuration.
    pub(super) fn read(config: &Config) -> io::Result<Self> {
        let [proxy, webhook, admin] = pairs(config).map(|(key, cert, tls_key)| {
            let (Some(cert), Some(tls_key)) = (cert, tls_key) else {
                return Ok(None);
            };
            let named =
                |error: io::Error| io::Error::new(error.kind(), format!("`{key}`: {error}"));
            Identity::read(cert, tls_key).map(Some).map_err(named)
        });
        Ok(Self([proxy?, webhook?, admin?]))
    }
}

/// The files that `config` names and that can't be used: a certificate that doesn't fit its key,
/// roots that are none, an install key that is no key. Blocks.
#[must_use]
pub fn unusable_files(config: &Config) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (key, cert, tls_key) in pairs(config) {
        if let (Some(cert), Some(tls_key)) = (cert, tls_key)
            && let Err(error) = Identity::read(cert, tls_key)
        {
            let expected = "a PEM chain, and in `tls_key` the key of its first certificate";
            let mismatch = Mismatch::new(format!("an unusable pair ({error})"), expected);
            faults.push(Fault::of_key(key, mismatch));
        }
    }
    if let Err(error) = upstream_client(config) {
        let (key, expected) = match error {
            ClientError::Proxy(_) => ("upstream.proxy", "the http:// URL of a proxy"),
            _ => ("upstream.ca_file", "root certificates, PEM"),
        };
        let mismatch = Mismatch::new(error.to_string(), expected);
        faults.push(Fault::of_key(key, mismatch));
    }
    if let Err(errors) = reply_key::read(config) {
        faults.extend_from_slice(errors.faults());
    }
    faults
}

/// Shows when the certificate of each listener ends, and those of certificate mode. It looks at the
/// apps whenever Prometheus asks: platform certificates come while the program runs.
#[derive(Clone)]
pub(super) struct Expiry {
    gauge: IntGaugeVec,
    apps: Arc<ArcSwap<Apps>>,
}

impl Expiry {
    /// Registers the metric. A certificate that can't be read shows nothing here: binding its
    /// listener fails and says why.
    pub(super) fn register(
        config: &Config,
        apps: &Apps,
        registry: &impl Registrar,
    ) -> prometheus::Result<Self> {
        let options = Opts::new(
            "alipay_sidecar_certificate_expiry_timestamp_seconds",
            "When a certificate in use ends, Unix time; of several the one that ends first.",
        );
        let expiry = Self {
            gauge: IntGaugeVec::new(options, &["kind"])?,
            apps: Arc::new(ArcSwap::from_pointee(apps.clone())),
        };
        expiry.follow(config, apps);
        registry.register(Box::new(expiry.clone()))?;
        Ok(expiry)
    }

    /// Shows those of another configuration from now on.
    pub(super) fn follow(&self, config: &Config, apps: &Apps) {
        self.gauge.reset();
        for (key, not_after) in listener_certificate_ends(config) {
            let kind = key.trim_end_matches(".tls_cert");
            self.gauge.with_label_values(&[kind]).set(not_after / 1000);
        }
        self.apps.store(Arc::new(apps.clone()));
    }
}

impl Collector for Expiry {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let apps = self.apps.load().all();
        let own = apps.iter().filter_map(|app| {
            let certificate = app.signing.in_force().certificate.as_ref();
            certificate.and_then(|certificate| certificate.not_after)
        });
        let trusted = apps.iter().filter_map(|app| {
            let roots = app.platform.roots()?;
            Some(TrustEnds::of(&app.platform.certificates(), roots))
        });
        let trusted: Vec<_> = trusted.collect();
        let platform = trusted.iter().filter_map(|ends| ends.platform).min();
        let root = trusted.iter().filter_map(|ends| ends.root).min();
        for (kind, not_after) in [("app", own.min()), ("alipay", platform), ("root", root)] {
            match not_after {
                Some(not_after) => self.gauge.with_label_values(&[kind]).set(not_after / 1000),
                // The last one may have gone with its app; that there was none is no error.
                None => drop(self.gauge.remove_label_values(&[kind])),
            }
        }
        self.gauge.collect()
    }
}

/// When the certificate of each listener that has one ends, Unix milliseconds, by its key in the
/// configuration. Blocks.
pub(crate) fn listener_certificate_ends(config: &Config) -> Vec<(&'static str, i64)> {
    let ends = pairs(config);
    let ends = ends
        .into_iter()
        .filter_map(|(key, cert, _)| Some((key, cert.and_then(end_of)?)));
    ends.collect()
}

/// When the first certificate of a PEM file ends, Unix milliseconds.
fn end_of(cert: &Path) -> Option<i64> {
    let text = std::fs::read_to_string(cert).ok()?;
    Bundle::parse(&text).ok()?.first().ok()?.not_after()
}

type Pair<'c> = (&'static str, Option<&'c Path>, Option<&'c Path>);

fn pairs(config: &Config) -> [Pair<'_>; 3] {
    let Config {
        proxy,
        webhook,
        admin,
        ..
    } = config;
    [
        (
            "proxy.tls_cert",
            proxy.tls_cert.as_deref(),
            proxy.tls_key.as_deref(),
        ),
        (
            "webhook.tls_cert",
            webhook.tls_cert.as_deref(),
            webhook.tls_key.as_deref(),
        ),
        (
            "admin.tls_cert",
            admin.tls_cert.as_deref(),
            admin.tls_key.as_deref(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::app::Signers;
    use crate::gateway::signer::Signer;
    use crate::model::app::App;
    use crate::model::app_keys::SigningKey;

    struct NoSigners;

    impl Signers for NoSigners {
        fn signer(&self, _: &App, _: &SigningKey) -> Arc<dyn Signer> {
            unreachable!("there is no app")
        }
    }

    #[test]
    fn the_end_of_a_listeners_certificate_is_a_metric() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cert.pem");
        let names = vec!["localhost".to_owned()];
        let certified = rcgen::generate_simple_self_signed(names).expect("a certificate");
        std::fs::write(&path, certified.cert.pem()).expect("written");
        let mut config = Config::default();
        config.webhook.tls_cert = Some(path);
        let registry = prometheus::Registry::new();
        let apps = Apps::new(Arc::new(NoSigners));
        Expiry::register(&config, &apps, &registry).expect("a fresh registry");
        let gathered = registry.gather();
        let [family] = gathered.as_slice() else {
            panic!("one family");
        };
        let [series] = family.get_metric() else {
            panic!("one listener has a certificate");
        };
        assert_eq!(series.get_label()[0].value(), "webhook");
        // rcgen's certificates end with the year 4095.
        let end = series.get_gauge().get_value();
        assert!((67_090_118_400.0..67_200_000_000.0).contains(&end), "{end}");
    }
}
