//! The install's own key: what backends verify instead of Alipay's (`proxy.reply_signature =
//! "local"`).
//!
//! It signs on threads of its own, so that RSA never runs on an async worker, and so that a reply
//! never waits behind, or is refused for, the signatures of calls that weren't made yet.

use crate::protocol::error::ProtocolError;
use crate::protocol::key::{AppPrivateKey, RsaPublicKey};
use crate::protocol::signature::SignType;
use crate::workers::{WorkError, Workers};

/// Signs with the install's key. Clones share its threads; `Debug` shows no key.
#[derive(Debug, Clone)]
pub struct InstallKey {
    key: AppPrivateKey,
    workers: Workers,
}

/// A signature wasn't made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallKeyError {
    /// The key can't make this kind of signature.
    #[error("the install key can't sign this")]
    Key(#[from] ProtocolError),
    /// The threads didn't.
    #[error("the install key's threads didn't sign: {0}")]
    Work(#[from] WorkError),
}

impl InstallKey {
    /// Starts the threads. At most `places` signatures may wait for one; further ones are refused.
    ///
    /// # Errors
    /// The system's, when it can't start a thread.
    pub fn start(key: AppPrivateKey, places: usize) -> std::io::Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = Workers::start_behind("reply", threads, places)?;
        Ok(Self { key, workers })
    }

    /// The public half, which backends configure as Alipay's public key.
    #[must_use]
    pub fn public_key(&self) -> &RsaPublicKey {
        self.key.public_key()
    }

    /// Signs `content` as `sign_type` and gives the signature in base64.
    ///
    /// # Errors
    /// [`InstallKeyError`].
    ///
    /// # Cancel safety
    /// Safe: a signature nobody takes has no effect.
    pub async fn sign(
        &self,
        sign_type: SignType,
        content: Vec<u8>,
    ) -> Result<String, InstallKeyError> {
        let key = self.key.clone();
        let job = move || key.sign(sign_type, &content);
        Ok(self.workers.run(job).await??)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_public_half_verifies_what_is_signed() {
        let key = AppPrivateKey::of_vectors("app2048");
        let install = InstallKey::start(key, 4).expect("threads");
        for sign_type in [SignType::Rsa, SignType::Rsa2] {
            let sign = install.sign(sign_type, b"a".to_vec()).await.expect("room");
            let verified = install.public_key().verify(sign_type, b"a", &sign);
            assert!(verified.is_ok(), "{sign_type}");
        }
    }

    #[tokio::test]
    async fn no_room_is_an_error() {
        let key = AppPrivateKey::of_vectors("app2048");
        let install = InstallKey::start(key, 0).expect("threads");
        let refused = install.sign(SignType::Rsa2, Vec::new()).await;
        let full = matches!(refused, Err(InstallKeyError::Work(WorkError::QueueFull)));
        assert!(full, "{refused:?}");
    }
}
