//! Who holds the private key: the seam where a KMS or an HSM can stand.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::BoxFuture;
use tokio::runtime::{Handle, RuntimeFlavor};

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
    /// The signer failed, and would again.
    #[error("the request could not be signed: {0}")]
    Failed(String),
    /// The key can't make this kind of signature.
    #[error("the request could not be signed")]
    Key(#[from] ProtocolError),
    /// Too many requests wait for a signature.
    #[error("too many requests wait for a signature")]
    Overloaded,
    /// The signer can't be asked at present, as a KMS that is down, or that says “later”: the same
    /// call may be made again soon.
    ///
    /// Callers hear no more than that; what the error and its sources say is for the log.
    #[error("the signer is not available at present")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
}

/// What `error` says, and what each of its sources does.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}

/// Signs with parsed keys on threads of its own, so that nobody waits for an async worker that
/// computes. Where no other signature is under way, a fast one is made in its caller's place, while
/// another worker sees to everybody else: a thread that sleeps takes as long to wake as half of a
/// signature.
#[derive(Debug, Clone)]
pub struct LocalSigners {
    workers: Workers,
    in_place: InPlace,
}

impl LocalSigners {
    /// Signers that share `workers`.
    #[must_use]
    pub fn new(workers: Workers) -> Self {
        Self {
            workers,
            in_place: InPlace::default(),
        }
    }
}

impl Signers for LocalSigners {
    fn signer(&self, _: &App, key: &SigningKey) -> Arc<dyn Signer> {
        match &key.private {
            None => Arc::new(Nobody),
            Some(key) => Arc::new(LocalSigner {
                key: key.clone(),
                signers: self.clone(),
            }),
        }
    }

    fn can_sign_with(&self, _: &App, key: &SigningKey) -> bool {
        key.private.is_some()
    }
}

/// Stands for a key that is kept elsewhere.
struct Nobody;

impl Signer for Nobody {
    fn sign(&self, _: SignType, _: Vec<u8>) -> BoxFuture<'_, Result<String, SignError>> {
        let elsewhere = "the private key is kept elsewhere".to_owned();
        Box::pin(std::future::ready(Err(SignError::Failed(elsewhere))))
    }
}

/// The one signature that is made in its caller's place. Clones share it, and so should sidecars that share a
/// runtime of few workers ([`SidecarBuilder::signers`](crate::sidecar::SidecarBuilder::signers)): each for itself
/// would keep one busy.
#[derive(Debug, Clone, Default)]
struct InPlace(Arc<AtomicBool>);

/// It is being made.
struct Alone<'a>(&'a AtomicBool);

impl InPlace {
    /// `None` while another is being made, or where no other async worker could go on meanwhile.
    fn begin(&self) -> Option<Alone<'_>> {
        let runtime = Handle::try_current().ok()?;
        let has_others = runtime.runtime_flavor() == RuntimeFlavor::MultiThread
            && runtime.metrics().num_workers() > 1;
        if !has_others || self.0.swap(true, Ordering::Acquire) {
            return None;
        }
        let alone = Alone(&self.0);
        see_to_others(&runtime);
        Some(alone)
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Has another worker watch for what arrives while this one computes. tokio does so only where
/// something is due: of two tasks with nothing to do this worker keeps one, and wakes another for the
/// other, which then watches, since it finds nothing else.
fn see_to_others(runtime: &Handle) {
    for _ in 0..2 {
        drop(runtime.spawn(std::future::ready(())));
    }
}

struct LocalSigner {
    key: AppPrivateKey,
    signers: LocalSigners,
}

impl Signer for LocalSigner {
    fn sign(
        &self,
        sign_type: SignType,
        content: Vec<u8>,
    ) -> BoxFuture<'_, Result<String, SignError>> {
        let key = self.key.clone();
        Box::pin(async move {
            let LocalSigners { workers, in_place } = &self.signers;
            if key.is_fast(sign_type)
                && workers.are_idle()
                && let Some(_alone) = in_place.begin()
            {
                return Ok(key.sign(sign_type, &content)?);
            }
            match workers.run(move || key.sign(sign_type, &content)).await {
                Ok(signed) => Ok(signed?),
                Err(WorkError::QueueFull) => Err(SignError::Overloaded),
                Err(error) => Err(SignError::Failed(error.to_string())),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream as Socket;
    use std::sync::mpsc;
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::*;

    /// Longer than any worker needs to be woken.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn pair() -> (Socket, Socket) {
        let (near, far) = Socket::pair().expect("a pair");
        near.set_nonblocking(true).expect("set");
        (near, far)
    }

    fn two_workers() -> tokio::runtime::Runtime {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = runtime.worker_threads(2).enable_io().build();
        runtime.expect("a runtime")
    }

    /// Whoever is told has no chain of errors, but the text.
    #[test]
    fn why_a_signer_is_not_available_is_told_with_what_caused_it() {
        #[derive(Debug, thiserror::Error)]
        #[error("the KMS did not answer")]
        struct Silent(#[source] std::io::Error);
        let silent = Silent(std::io::Error::other("connection refused"));
        let error = SignError::Unavailable(Box::new(silent));
        assert_eq!(error.to_string(), "the signer is not available at present");
        let source = error.source().expect("the host's");
        assert_eq!(chain(source), "the KMS did not answer: connection refused");
    }

    /// The worker that watched for what arrives is the one that computes then.
    #[test]
    fn what_arrives_while_a_worker_signs_is_seen_to_by_another() {
        let runtime = two_workers();
        let ((busy, mut to_busy), (other, mut to_other)) = (pair(), pair());
        let (computes, computing) = mpsc::channel();
        let (goes_on, went_on) = mpsc::channel();
        let computed = runtime.spawn(async move {
            let mut busy = UnixStream::from_std(busy).expect("watched");
            busy.read_u8().await.expect("a byte");
            let in_place = InPlace::default();
            let _alone = in_place.begin().expect("two workers");
            computes.send(()).expect("the test waits");
            went_on.recv_timeout(PATIENCE)
        });
        runtime.spawn(async move {
            let mut other = UnixStream::from_std(other).expect("watched");
            other.read_u8().await.expect("a byte");
            goes_on.send(()).expect("the first one waits");
        });
        // Both wait, and both workers rest.
        std::thread::sleep(Duration::from_millis(100));
        to_busy.write_all(&[1]).expect("sent");
        computing.recv().expect("it computes");
        to_other.write_all(&[1]).expect("sent");
        let went_on = runtime.block_on(computed).expect("no panic");
        assert_eq!(went_on, Ok(()), "nobody saw to the other one");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_signature_at_a_time_is_made_in_place() {
        let in_place = InPlace::default();
        let first = in_place.begin().expect("nobody signs");
        assert!(in_place.begin().is_none());
        drop(first);
        assert!(in_place.begin().is_some());
    }

    #[tokio::test]
    async fn no_signature_is_made_in_place_where_nobody_else_could_go_on() {
        assert!(InPlace::default().begin().is_none());
    }

    /// A signer of its own flag, on one signing thread.
    fn signer(key: AppPrivateKey) -> LocalSigner {
        let workers = Workers::start("sign", 1, 8).expect("a thread");
        LocalSigner {
            key,
            signers: LocalSigners::new(workers),
        }
    }

    #[test]
    fn a_fast_signature_is_made_in_place_and_no_other() {
        let key = |bits| AppPrivateKey::generate(bits).expect("a key");
        assert!(!key(3072).is_fast(SignType::Rsa2));
        assert!(!key(2048).is_fast(SignType::Rsa));
        let signer = signer(key(2048));
        two_workers().block_on(async {
            // A thread that begins is idle only once it has begun to wait.
            while !signer.signers.workers.are_idle() {
                tokio::task::yield_now().await;
            }
            let signed = signer.sign(SignType::Rsa2, b"text".to_vec());
            let signed = signed.now_or_never().expect("nobody else did it");
            assert!(signed.is_ok());
        });
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn where_others_sign_none_is_made_in_place() {
        let signer = signer(AppPrivateKey::generate(2048).expect("a key"));
        let (hold, held) = mpsc::channel::<()>();
        let (began, begun) = mpsc::channel();
        let workers = signer.signers.workers.clone();
        let other = tokio::spawn(async move {
            let job = move || {
                began.send(()).expect("the test waits");
                held.recv()
            };
            workers.run(job).await
        });
        begun.recv().expect("the other began");
        let signed = signer.sign(SignType::Rsa2, b"text".to_vec());
        let mut signed = std::pin::pin!(signed);
        assert!(signed.as_mut().now_or_never().is_none());
        hold.send(()).expect("the other one waits");
        assert!(signed.await.is_ok());
        assert_eq!(other.await.expect("no panic"), Ok(Ok(())));
    }
}
