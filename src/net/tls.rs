//! What a listener speaks TLS with, replaceable while it serves: certificates are renewed.

use std::io;
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// What accepts TLS on one listener, or nothing: then it speaks plain HTTP. Clones share it.
///
/// A connection keeps what it was accepted with; the next one gets what was set since.
#[derive(Clone, Default)]
pub struct Tls(Arc<ArcSwapOption<ServerConfig>>);

impl Tls {
    /// Accepts with `identity` from now on.
    pub fn set(&self, identity: Option<Identity>) {
        self.0.store(identity.map(|identity| identity.0));
    }

    /// What accepts the next connection.
    #[must_use]
    pub fn acceptor(&self) -> Option<TlsAcceptor> {
        self.0.load_full().map(TlsAcceptor::from)
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0.load().is_some() {
            true => "Tls",
            false => "Tls(off)",
        })
    }
}

/// A certificate chain with its key. `Debug` shows neither.
#[derive(Clone)]
pub struct Identity(Arc<ServerConfig>);

impl Identity {
    /// Reads both, PEM. Blocks.
    ///
    /// # Errors
    /// What can't be read, by path; or why rustls refuses the pair.
    pub fn read(cert: &Path, key: &Path) -> io::Result<Self> {
        let unreadable = |path: &Path, error: rustls::pki_types::pem::Error| {
            let text = format!("{}: {error}", path.display());
            io::Error::new(io::ErrorKind::InvalidData, text)
        };
        let chain = CertificateDer::pem_file_iter(cert)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| unreadable(cert, error))?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|b| b.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(Self(Arc::new(config)))
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}
