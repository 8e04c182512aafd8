//! What the platform signs with: its key, and its certificates once somebody needs them.
use std::sync::Arc;

use rsa::RsaPrivateKey;

use super::{certificates::Certificates, error::SimulatorError};

pub(super) struct Platform {
    key: Arc<RsaPrivateKey>,
    /// Founded when first needed: it takes several RSA keys.
    certificates: Option<Certificates>,
}

impl Platform {
    pub(super) fn new(key: RsaPrivateKey) -> Self {
        Self {
            key: Arc::new(key),
            certificates: None,
        }
    }

    /// Gives the key that signs for apps in key mode.
    pub(super) fn key(&self) -> &Arc<RsaPrivateKey> {
        &self.key
    }

    /// Signs for apps in key mode with another key from now on.
    pub(super) fn set_key(&mut self, key: RsaPrivateKey) {
        self.key = Arc::new(key);
    }

    /// Gives the certificates, founding their authority if there is none yet.
    pub(super) fn certificates(&mut self) -> Result<&mut Certificates, SimulatorError> {
        let certificates = match self.certificates.take() {
            Some(certificates) => certificates,
            None => Certificates::new()?,
        };
        Ok(self.certificates.insert(certificates))
    }
}
