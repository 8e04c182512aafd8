//! The apps that can sign, with their keys parsed.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::upstream::{Endpoints, UpstreamConfig};
use crate::gateway::signer::Signer;
use crate::model::app::{App, AppKeys, AppKeysError};
use crate::model::id::AppId;
use crate::protocol::signature::SignType;

/// An app that is ready to sign and verify.
pub struct SigningApp {
    /// The identity that signs.
    pub app_id: AppId,
    /// Where Alipay is for it.
    pub endpoints: Endpoints,
    /// Its parsed keys.
    pub keys: AppKeys,
    /// What signs for it: threads of our own, or a KMS.
    pub signer: Arc<dyn Signer>,
    /// How it signs.
    pub sign_type: SignType,
}

impl std::fmt::Debug for SigningApp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningApp({})", self.app_id)
    }
}

/// Gives the signer of an app.
pub trait Signers: Send + Sync + 'static {
    /// The signer for `app`, whose parsed keys are `keys`.
    fn signer(&self, app: &App, keys: &AppKeys) -> Arc<dyn Signer>;
}

/// All apps that can sign: those of the configuration and those of the store.
///
/// Replaced as a whole, so that a reader sees one consistent set and waits for no lock. Clones
/// share the set.
#[derive(Clone)]
pub struct Apps {
    set: Arc<ArcSwap<BTreeMap<AppId, Arc<SigningApp>>>>,
    signers: Arc<dyn Signers>,
}

/// An app that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("app {app_id}: {source}")]
pub struct AppError {
    /// Which.
    pub app_id: AppId,
    /// Why.
    pub source: AppKeysError,
}

impl Apps {
    /// No apps yet.
    #[must_use]
    pub fn new(signers: Arc<dyn Signers>) -> Self {
        Self {
            set: Arc::default(),
            signers,
        }
    }

    /// Replaces the set by `apps`; of several with one `app_id` the first counts.
    ///
    /// # Errors
    /// [`AppError`] for the first app whose keys can't be used; then nothing was replaced.
    pub fn replace(&self, apps: &[App], upstream: &UpstreamConfig) -> Result<(), AppError> {
        let mut set = BTreeMap::new();
        for app in apps {
            if set.contains_key(&app.app_id) {
                continue;
            }
            set.insert(app.app_id.clone(), Arc::new(self.signing(app, upstream)?));
        }
        self.set.store(Arc::new(set));
        Ok(())
    }

    /// The app of that id.
    #[must_use]
    pub fn get(&self, app_id: &AppId) -> Option<Arc<SigningApp>> {
        self.set.load().get(app_id).cloned()
    }

    /// The app whose id that text is.
    #[must_use]
    pub fn named(&self, app_id: &str) -> Option<Arc<SigningApp>> {
        AppId::new(app_id).ok().and_then(|id| self.get(&id))
    }

    /// The app, where there is exactly one.
    #[must_use]
    pub fn only(&self) -> Option<Arc<SigningApp>> {
        let set = self.set.load();
        let mut apps = set.values();
        match (apps.next(), apps.next()) {
            (Some(app), None) => Some(Arc::clone(app)),
            _ => None,
        }
    }

    /// The ids of all apps, in order.
    #[must_use]
    pub fn ids(&self) -> Vec<AppId> {
        self.set.load().keys().cloned().collect()
    }

    fn signing(&self, app: &App, upstream: &UpstreamConfig) -> Result<SigningApp, AppError> {
        let keys = app.parse_keys().map_err(|source| AppError {
            app_id: app.app_id.clone(),
            source,
        })?;
        Ok(SigningApp {
            app_id: app.app_id.clone(),
            endpoints: upstream.endpoints(app.environment),
            signer: self.signers.signer(app, &keys),
            keys,
            sign_type: app.sign_type,
        })
    }
}

impl std::fmt::Debug for Apps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}
