//! Who holds the private key: the seam where a KMS or an HSM can stand.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use crate::gateway::app::Signers;
use crate::model::app::App;
use crate::model::app_keys::SigningKey;
use crate::protocol::error::ProtocolError;
use crate::protocol::key::AppPrivateKey;
use crate::protocol::signature::SignType;
use crate::workers::{WorkError, Workers};

/// Signs for one app.
pub trait Signer: Send + Sync + 'static {
    /// Signs `content` as `sign_type` and gives the signature in base64. (v3 knows RSA2 alone,
    /// whatever the app's own type is.)
    ///
    /// # Errors
    /// [`SignError`].
    ///
    /// # Cancel safety
    /// Safe: a signature nobody takes has no effect.
    fn sign(
        &self,
        sign_type: SignType,
        content: Vec<u8>,
    ) -> BoxFuture<'_, Result<String, SignError>>;
}

/// A signature wasn't made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SignError {
    /// The signer failed.
    #[error("the request could not be signed: {0}")]
    Failed(String),
    /// The key can't make this kind of signature.
    #[error("the request could not be signed")]
    Key(#[from] ProtocolError),
    /// Too many requests wait for a signature.
    #[error("too many requests wait for a signature")]
    Overloaded,
}

/// Signs with parsed keys on threads of its own, so that RSA never runs on an async worker.
#[derive(Debug, Clone)]
pub struct LocalSigners(Workers);

impl LocalSigners {
    /// Signers that share `workers`.
    #[must_use]
    pub fn new(workers: Workers) -> Self {
        Self(workers)
    }
}

impl Signers for LocalSigners {
    fn signer(&self, _: &App, key: &SigningKey) -> Arc<dyn Signer> {
        Arc::new(LocalSigner {
            key: key.private.clone(),
            workers: self.0.clone(),
        })
    }
}

struct LocalSigner {
    key: AppPrivateKey,
    workers: Workers,
}

impl Signer for LocalSigner {
    fn sign(
        &self,
        sign_type: SignType,
        content: Vec<u8>,
    ) -> BoxFuture<'_, Result<String, SignError>> {
        let key = self.key.clone();
        Box::pin(async move {
            match self
                .workers
                .run(move || key.sign(sign_type, &content))
                .await
            {
                Ok(signed) => Ok(signed?),
                Err(WorkError::QueueFull) => Err(SignError::Overloaded),
                Err(error) => Err(SignError::Failed(error.to_string())),
            }
        })
    }
}
