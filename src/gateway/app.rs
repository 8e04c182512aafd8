//! The apps that can sign, with their keys parsed.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::environment;
use crate::config::error::Mismatch;
use crate::config::upstream::{Endpoints, UpstreamConfig};
use crate::gateway::platform::PlatformKeys;
use crate::gateway::signer::{SignError, Signer};
use crate::gateway::signing::{KeyInUse, SigningKeys};
use crate::model::app::App;
use crate::model::app_keys::{AppKeysError, SigningKey};
use crate::model::id::AppId;
use crate::protocol::encryption::ContentKey;
use crate::protocol::key::RsaPublicKey;
use crate::protocol::signature::SignType;

/// An app that is ready to sign and verify.
pub struct SigningApp {
    /// The identity that signs.
    pub app_id: AppId,
    /// Where Alipay is for it.
    pub endpoints: Endpoints,
    /// What it signs with.
    pub signing: SigningKeys,
    /// What Alipay signs with.
    pub platform: PlatformKeys,
    /// How it signs v2.
    pub sign_type: SignType,
    content_key: Option<ContentKey>,
}

impl SigningApp {
    /// Signs with the key in force; the result is base64.
    ///
    /// # Errors
    /// [`SignError`].
    ///
    /// # Cancel safety
    /// Safe: a signature nobody takes has no effect.
    pub async fn sign(&self, sign_type: SignType, content: Vec<u8>) -> Result<String, SignError> {
        let key = self.signing.in_force();
        key.signer.sign(sign_type, content).await
    }

    /// The public half of the key in force (应用公钥).
    #[must_use]
    pub fn public_key(&self) -> &RsaPublicKey {
        &self.signing.in_force().public_key
    }

    /// `app_cert_sn` of the key in force, in certificate mode.
    #[must_use]
    pub fn app_cert_sn(&self) -> Option<&str> {
        let certificate = self.signing.in_force().certificate.as_ref();
        certificate.map(|certificate| certificate.sn.as_str())
    }

    /// What encrypts its contents, if anything does.
    #[must_use]
    pub fn content_key(&self) -> Option<&ContentKey> {
        self.content_key.as_ref()
    }

    /// Takes over what `former`, the same app, has learned while it ran.
    fn inherit(&self, former: &Self) {
        self.platform.inherit(&former.platform);
        self.signing.inherit(&former.signing);
    }
}

impl std::fmt::Debug for SigningApp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningApp({})", self.app_id)
    }
}

/// Gives the signers of an app.
pub trait Signers: Send + Sync + 'static {
    /// The signer for one key of `app`: the one in force, or the next.
    fn signer(&self, app: &App, key: &SigningKey) -> Arc<dyn Signer>;

    /// Whether there is one: an app whose key nobody can sign with is refused. Signers of a KMS need no
    /// private half.
    fn can_sign_with(&self, app: &App, key: &SigningKey) -> bool {
        let _ = (app, key);
        true
    }
}

/// All apps that can sign: those of the configuration and those of the store.
///
/// Replaced as a whole, so that a reader sees one consistent set and waits for no lock. Clones
/// share the set; successors share the right to change it.
#[derive(Clone)]
pub struct Apps {
    set: Arc<ArcSwap<BTreeMap<AppId, Arc<SigningApp>>>>,
    signers: Arc<dyn Signers>,
    changing: Arc<tokio::sync::Mutex<()>>,
}

/// An app that can't be used.
#[derive(Debug, thiserror::Error)]
#[error("app {app_id}: {source}")]
#[non_exhaustive]
pub struct AppError {
    /// Which.
    pub app_id: AppId,
    /// Why.
    pub source: AppFault,
}

/// Why an app can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppFault {
    /// Its keys.
    #[error(transparent)]
    Keys(#[from] AppKeysError),
    /// Its private key is kept elsewhere, and nobody signs with it.
    #[error(
        "its private key is kept elsewhere, and no signer for it was handed in \
         (`SidecarBuilder::signers`)"
    )]
    NoSigner,
    /// It would call production in one dialect and the sandbox in the other.
    #[error("`upstream.{key}`: {mismatch}")]
    Mixed {
        /// The key of `[upstream]`.
        key: &'static str,
        /// What it says, and what is expected.
        mismatch: Mismatch,
    },
}

impl Apps {
    /// No apps yet.
    #[must_use]
    pub fn new(signers: Arc<dyn Signers>) -> Self {
        Self {
            set: Arc::default(),
            signers,
            changing: Arc::default(),
        }
    }

    /// Replaces the set by `apps`; of several with one `app_id` the first counts. What an app has
    /// learned (a key that took over, platform certificates) it keeps.
    ///
    /// # Errors
    /// [`AppError`] for the first app whose keys can't be used; then nothing was replaced.
    pub fn replace(&self, apps: &[App], upstream: &UpstreamConfig) -> Result<(), AppError> {
        let set = self.heirs(apps, upstream)?;
        self.set.store(Arc::new(set));
        Ok(())
    }

    /// A set of its own, made of `apps` as [`Self::replace`] would: whoever still works with this
    /// one doesn't see it.
    ///
    /// # Errors
    /// As [`Self::replace`].
    pub fn successor(&self, apps: &[App], upstream: &UpstreamConfig) -> Result<Self, AppError> {
        let set = self.heirs(apps, upstream)?;
        Ok(Self {
            set: Arc::new(ArcSwap::from_pointee(set)),
            ..self.clone()
        })
    }

    /// The apps, each with what the one of its id has learned.
    fn heirs(
        &self,
        apps: &[App],
        upstream: &UpstreamConfig,
    ) -> Result<BTreeMap<AppId, Arc<SigningApp>>, AppError> {
        let mut set = BTreeMap::new();
        for app in apps {
            if set.contains_key(&app.app_id) {
                continue;
            }
            let signing = self.signing(app, upstream)?;
            if let Some(former) = self.get(&app.app_id) {
                signing.inherit(&former);
            }
            set.insert(app.app_id.clone(), Arc::new(signing));
        }
        Ok(set)
    }

    /// Waits for the right to change the set: who stores an app, reads all of them and replaces the
    /// set must be alone meanwhile, or an older list could overwrite a newer one.
    ///
    /// # Cancel safety
    /// Safe: who leaves gives up the place in the queue.
    pub async fn changing(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.changing).lock_owned().await
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

    /// All apps, in the order of their ids.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<SigningApp>> {
        self.set.load().values().cloned().collect()
    }

    /// The ids of all apps, in order.
    #[must_use]
    pub fn ids(&self) -> Vec<AppId> {
        self.set.load().keys().cloned().collect()
    }

    fn signing(&self, app: &App, upstream: &UpstreamConfig) -> Result<SigningApp, AppError> {
        let fault = |source| AppError {
            app_id: app.app_id.clone(),
            source,
        };
        // Those of the configuration were checked with it; one of the store meets it only here.
        if let Some((key, mismatch)) = environment::mixture(app, upstream) {
            return Err(fault(AppFault::Mixed { key, mismatch }));
        }
        let keys = app.parse_keys().map_err(|error| fault(error.into()))?;
        let mut own = std::iter::once(&keys.current).chain(&keys.next);
        if !own.all(|key| self.signers.can_sign_with(app, key)) {
            return Err(fault(AppFault::NoSigner));
        }
        let in_use = |key: &SigningKey| KeyInUse {
            signer: self.signers.signer(app, key),
            public_key: key.public.clone(),
            certificate: key.certificate.clone(),
        };
        Ok(SigningApp {
            app_id: app.app_id.clone(),
            endpoints: upstream.endpoints(app.environment),
            signing: SigningKeys::new(in_use(&keys.current), keys.next.as_ref().map(in_use)),
            platform: PlatformKeys::new(&keys),
            sign_type: app.sign_type,
            content_key: keys.content_key,
        })
    }
}

impl std::fmt::Debug for Apps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}
