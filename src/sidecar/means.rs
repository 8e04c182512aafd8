//! Clients and keys that cost something to make, and live on where a reload leaves them as they
//! are: a pool of warm connections, threads that sign.

use crate::config::Config;
use crate::delivery;
use crate::install_key::InstallKey;
use crate::net::client::Client;
use crate::protocol::key::RsaPublicKey;
use crate::protocol::secret::Secret;
use crate::proxy::reply_signature::REFUSALS;
use crate::sidecar::builder::{BuildError, backend_client, upstream_client};
use crate::telemetry::span::Tracer;

/// Deliveries that may wait for a signature: far more than go to as many backends at once.
const SIGNED_DELIVERIES: usize = 1024;

/// What calls and deliveries go out by.
#[derive(Clone)]
pub(super) struct Means {
    /// Reaches Alipay.
    pub(super) upstream: Client,
    /// Reaches backends.
    pub(super) backend: Client,
    /// Signs replies and deliveries anew, where that is configured.
    pub(super) install_key: Option<InstallKey>,
    made_of: MadeOf,
}

/// What they are made of: where this is the same, so are they.
#[derive(Clone, PartialEq, Eq)]
struct MadeOf {
    clients: String,
    credentials: Option<Secret<String>>,
    roots: Option<Vec<u8>>,
    install_key: Option<(RsaPublicKey, usize)>,
}

impl Means {
    /// Those of `config`; what `former` has of them is kept. Blocks.
    ///
    /// # Errors
    /// What can't be read or used, and the system's where it can't start threads.
    pub(super) fn new(config: &Config, former: Option<&Self>) -> Result<Self, BuildError> {
        let key = super::reply_key::read(config)?;
        // Each call under way has a place in its queue, so that no reply is ever refused its
        // signature.
        let places = config.proxy.max_in_flight + REFUSALS + SIGNED_DELIVERIES;
        let made_of = MadeOf {
            clients: clients(config),
            credentials: config.upstream.proxy_credentials.clone(),
            roots: config
                .upstream
                .ca_file
                .as_deref()
                .and_then(|path| std::fs::read(path).ok()),
            install_key: key.as_ref().map(|key| (key.public_key().clone(), places)),
        };
        let has_clients = |former: &&Self| {
            let former = &former.made_of;
            (&former.clients, &former.credentials, &former.roots)
                == (&made_of.clients, &made_of.credentials, &made_of.roots)
        };
        let has_key = |former: &&Self| former.made_of.install_key == made_of.install_key;
        let (upstream, backend) = match former.filter(has_clients) {
            Some(former) => (former.upstream.clone(), former.backend.clone()),
            None => (upstream_client(config)?, backend_client(config)?),
        };
        let install_key = match (former.filter(has_key), key) {
            (Some(former), _) => former.install_key.clone(),
            (None, None) => None,
            (None, Some(key)) => Some(InstallKey::start(key, places).map_err(BuildError::Threads)?),
        };
        Ok(Self {
            upstream,
            backend,
            install_key,
            made_of,
        })
    }

    /// Whether both sign with one key, on the same threads.
    pub(super) fn has_key_of(&self, other: &Self) -> bool {
        self.made_of.install_key == other.made_of.install_key
    }

    /// By what deliveries go out.
    pub(super) fn of_deliveries(&self, tracer: &Tracer) -> delivery::Means {
        delivery::Means {
            client: self.backend.clone(),
            install_key: self.install_key.clone(),
            tracer: tracer.clone(),
        }
    }
}

/// The values that both clients are made of; their addresses aren't among them.
fn clients(config: &Config) -> String {
    let upstream = &config.upstream;
    let values = (upstream.connect_timeout, &upstream.proxy, &upstream.ca_file);
    format!("{values:?} {:?}", config.delivery.timeout)
}
