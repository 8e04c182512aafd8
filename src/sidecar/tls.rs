//! TLS of the three listeners, and what else the configuration names as files of certificates.

use std::io;
use std::path::Path;

use tokio_rustls::TlsAcceptor;

use crate::config::Config;
use crate::config::error::{Fault, Mismatch};
use crate::net::listener::tls_acceptor;
use crate::sidecar::builder::upstream_client;

/// What accepts TLS on each listener; `None`: it speaks plain HTTP.
pub(super) struct Acceptors {
    pub(super) proxy: Option<TlsAcceptor>,
    pub(super) webhook: Option<TlsAcceptor>,
    pub(super) admin: Option<TlsAcceptor>,
}

impl Acceptors {
    /// Reads the certificates and keys that `config` names.
    ///
    /// # Errors
    /// What can't be read or doesn't fit, by its key in the configuration.
    pub(super) fn of(config: &Config) -> io::Result<Self> {
        let [proxy, webhook, admin] = pairs(config).map(|(key, cert, tls_key)| {
            let (Some(cert), Some(tls_key)) = (cert, tls_key) else {
                return Ok(None);
            };
            let named =
                |error: io::Error| io::Error::new(error.kind(), format!("`{key}`: {error}"));
            tls_acceptor(cert, tls_key).map(Some).map_err(named)
        });
        Ok(Self {
            proxy: proxy?,
            webhook: webhook?,
            admin: admin?,
        })
    }
}

/// The files that `config` names and that can't be used: a certificate that doesn't fit its key,
/// roots that are none. Blocks.
#[must_use]
pub fn unusable_files(config: &Config) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (key, cert, tls_key) in pairs(config) {
        if let (Some(cert), Some(tls_key)) = (cert, tls_key)
            && let Err(error) = tls_acceptor(cert, tls_key)
        {
            let expected = "a PEM chain, and in `tls_key` the key of its first certificate";
            let mismatch = Mismatch::new(format!("an unusable pair ({error})"), expected);
            faults.push(Fault::of_key(key, mismatch));
        }
    }
    if let Err(error) = upstream_client(config) {
        let mismatch = Mismatch::new(error.to_string(), "root certificates, PEM");
        faults.push(Fault::of_key("upstream.ca_file", mismatch));
    }
    faults
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
