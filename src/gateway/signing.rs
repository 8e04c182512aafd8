//! The keys an app signs with: the one in force, and the next during a key change.
//!
//! Nobody knows at which moment Alipay takes a newly uploaded public key. So the next key lies
//! ready, and a signed refusal of the former (nothing was executed) lets it take over.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::FutureExt;

use crate::gateway::signer::{SignError, Signer};
use crate::model::app_keys::AppCertificate;
use crate::model::id::AppId;
use crate::protocol::key::RsaPublicKey;
use crate::protocol::signature::SignType;

/// One key of an app, ready to sign.
pub struct KeyInUse {
    /// What signs with it: threads of our own, or a KMS.
    pub signer: Arc<dyn Signer>,
    /// Its public half (应用公钥).
    pub public_key: RsaPublicKey,
    /// Its certificate; `None` where Alipay knows the bare public key.
    pub certificate: Option<AppCertificate>,
}

impl KeyInUse {
    /// Signs an answer of ours to Alipay. A signer that panics is one that fails: what is answered
    /// then is said by whoever asks.
    ///
    /// # Errors
    /// [`SignError`].
    pub(crate) async fn sign_answer(
        &self,
        sign_type: SignType,
        content: Vec<u8>,
    ) -> Result<String, SignError> {
        let signing = async { self.signer.sign(sign_type, content).await };
        let signed = AssertUnwindSafe(signing).catch_unwind().await;
        signed.unwrap_or_else(|_| Err(SignError::Failed("a bug ended the signer".to_owned())))
    }
}

/// The one or two keys of an app. Exactly one is in force at any moment.
pub struct SigningKeys {
    keys: Vec<KeyInUse>,
    in_force: AtomicUsize,
}

impl SigningKeys {
    /// Keys of which `current` is in force.
    #[must_use]
    pub fn new(current: KeyInUse, next: Option<KeyInUse>) -> Self {
        Self {
            keys: std::iter::once(current).chain(next).collect(),
            in_force: AtomicUsize::new(0),
        }
    }

    /// The key in force.
    #[must_use]
    pub fn in_force(&self) -> &KeyInUse {
        let index = self.in_force.load(Ordering::Acquire);
        self.keys
            .get(index)
            .expect("there is a first key, and `promote` takes indices of the list alone")
    }

    /// The key to try once Alipay has refused `refused`.
    pub(crate) fn other(&self, refused: &KeyInUse) -> Option<&KeyInUse> {
        self.keys
            .iter()
            .find(|key| key.public_key != refused.public_key)
    }

    /// Puts `key` in force; tells whether it wasn't before.
    pub(crate) fn promote(&self, key: &KeyInUse) -> bool {
        let is_it = |other: &KeyInUse| other.public_key == key.public_key;
        let Some(index) = self.keys.iter().position(is_it) else {
            return false;
        };
        self.in_force.swap(index, Ordering::AcqRel) != index
    }

    /// Takes over a promotion, where the same key was configured to be first: another order is the
    /// operator's word.
    pub(crate) fn inherit(&self, former: &Self) {
        let first = |keys: &Self| keys.keys.first().map(|key| key.public_key.clone());
        if first(self) == first(former) {
            self.promote(former.in_force());
        }
    }

    /// All keys, the configured order.
    pub fn iter(&self) -> impl Iterator<Item = &KeyInUse> {
        self.keys.iter()
    }
}

/// Who keeps in mind which key is in force.
pub trait Promotions: Send + Sync {
    /// Of the app's two keys one gave way to the other: `from_to`. `first` is the one that the
    /// configuration has first. Must not wait.
    fn took_over(&self, app_id: &AppId, first: &KeyInUse, from_to: (&KeyInUse, &KeyInUse));
}

/// Nobody does: the next process begins with the first key again.
pub(crate) struct Forgotten;

impl Promotions for Forgotten {
    fn took_over(&self, _: &AppId, _: &KeyInUse, _: (&KeyInUse, &KeyInUse)) {}
}

impl std::fmt::Debug for KeyInUse {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyInUse")
            .field("public_key", &self.public_key)
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.keys).finish()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::protocol::key::AppPrivateKey;

    struct Idle;

    impl Signer for Idle {
        fn sign(&self, _: SignType, _: Vec<u8>) -> BoxFuture<'_, Result<String, SignError>> {
            Box::pin(std::future::ready(Err(SignError::Overloaded)))
        }
    }

    fn key(name: &str) -> KeyInUse {
        KeyInUse {
            signer: Arc::new(Idle),
            public_key: AppPrivateKey::of_vectors(name).public_key().clone(),
            certificate: None,
        }
    }

    fn is(key: &KeyInUse, name: &str) -> bool {
        key.public_key == *AppPrivateKey::of_vectors(name).public_key()
    }

    #[test]
    fn the_next_key_takes_over_once() {
        let keys = SigningKeys::new(key("app1024"), Some(key("app2048")));
        assert!(is(keys.in_force(), "app1024"));
        let next = keys.other(keys.in_force()).expect("the next");
        assert!(is(next, "app2048"));
        assert!(!keys.promote(keys.in_force()));
        assert!(keys.promote(next));
        assert!(is(keys.in_force(), "app2048"));
        assert!(!keys.promote(next));
        assert!(!keys.promote(&key("alipay1024")));
        assert!(is(keys.in_force(), "app2048"));
        assert_eq!(keys.iter().count(), 2);
        let one = SigningKeys::new(key("app1024"), None);
        assert!(one.other(one.in_force()).is_none());
    }

    #[test]
    fn a_promotion_is_inherited_where_the_same_key_is_first() {
        let former = SigningKeys::new(key("app1024"), Some(key("app2048")));
        former.promote(&key("app2048"));
        let same = SigningKeys::new(key("app1024"), Some(key("app2048")));
        same.inherit(&former);
        assert!(is(same.in_force(), "app2048"));
        let turned = SigningKeys::new(key("app2048"), Some(key("app1024")));
        turned.promote(&key("app1024"));
        turned.inherit(&former);
        assert!(is(turned.in_force(), "app1024"));
    }
}
