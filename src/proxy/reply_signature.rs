//! `proxy.reply_signature = "local"`: replies and the sidecar's own errors under the signature of
//! the install key, so that an SDK needs that one key, whatever becomes of Alipay's.
//!
//! The rule: a call that was made is never turned into one that wasn't. Whoever holds a slot
//! (`proxy.max_in_flight`) has a place in the queue of signatures and waits there, past the deadline
//! of the call if need be: as many jobs as there are slots are ahead of it at most. A refusal that
//! holds none takes one of `REFUSALS` places, or goes out unsigned: under a storm of bad requests
//! signing the answers would starve the good ones.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body_util::Full;
use tokio::sync::Semaphore;

use crate::clock::Clock;
use crate::gateway::VerifiedReply;
use crate::gateway::error::Outcome;
use crate::gateway::v3::VerifiedV3Reply;
use crate::install_key::{InstallKey, InstallKeyError};
use crate::protocol::sign_content;
use crate::protocol::signature::SignType;
use crate::protocol::signed_reply::{self, ERROR_RESPONSE};
use crate::protocol::v3_response::V3Verification;
use crate::proxy::error::{ErrorCode, ProxyError};
use crate::proxy::reply::{self, Shape};

/// How many refusals may wait for a signature at once.
pub(crate) const REFUSALS: usize = 256;

/// Signs what goes back. Clones share everything.
#[derive(Clone)]
pub struct ReplySigner {
    key: InstallKey,
    clock: Arc<dyn Clock>,
    refusals: Arc<Semaphore>,
}

/// Whether an answer has a place in the queue of signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It holds a slot.
    Held,
    /// It takes one of [`REFUSALS`], if one is free.
    IfFree,
}

impl ReplySigner {
    /// Signs with `key`; the answers of v3 are stamped by `clock`.
    #[must_use]
    pub fn new(key: InstallKey, clock: Arc<dyn Clock>) -> Self {
        Self {
            key,
            clock,
            refusals: Arc::new(Semaphore::new(REFUSALS)),
        }
    }

    /// Alipay's reply on `/gateway.do`: its node byte for byte, a ciphertext with its quotes, in an
    /// envelope of our own.
    pub(super) async fn whole(
        &self,
        reply: &VerifiedReply,
        sign_type: SignType,
    ) -> Result<Response<Full<Bytes>>, ProxyError> {
        let (key, node) = (reply.envelope.node_key(), reply.envelope.sent_node());
        let sign = self.key.sign(sign_type, node.to_vec()).await;
        let sign = sign.map_err(|error| not_signed(&error))?;
        let body = signed_reply::envelope(key, &node, &sign);
        Ok(reply::whole(reply, body.into()))
    }

    /// Alipay's reply on v3, its body byte for byte, or as the sidecar opened it.
    pub(super) async fn v3(
        &self,
        reply: &VerifiedV3Reply,
    ) -> Result<Response<Full<Bytes>>, ProxyError> {
        let mut response = reply::v3(reply);
        reply::remove_v3_signature(&mut response);
        // Alipay doesn't sign nothing either.
        if reply.response.verification() != V3Verification::NoContent {
            let signed = self.sign_v3(&mut response, reply.body()).await;
            signed.map_err(|error| not_signed(&error))?;
        }
        Ok(response)
    }

    /// Signs `response`, which tells `error` in `shape`; it stays as it is where there is no place.
    pub(super) async fn error(
        &self,
        response: &mut Response<Full<Bytes>>,
        error: &ProxyError,
        (shape, sign_type): (Shape, SignType),
        place: Place,
    ) {
        let _permit = match place {
            Place::Held => None,
            Place::IfFree => match self.refusals.try_acquire() {
                Ok(permit) => Some(permit),
                Err(_) => return,
            },
        };
        let signed = match shape {
            Shape::Gateway => self.sign_gateway(response, error, sign_type).await,
            Shape::Http => return,
            Shape::V3 => self.sign_v3(response, &reply::v3_body(error)).await,
        };
        if let Err(error) = signed {
            tracing::error!(%error, "an error of ours goes out unsigned");
        }
    }

    async fn sign_gateway(
        &self,
        response: &mut Response<Full<Bytes>>,
        error: &ProxyError,
        sign_type: SignType,
    ) -> Result<(), InstallKeyError> {
        let node = reply::gateway_node(error);
        let sign = self.key.sign(sign_type, node.clone().into_bytes()).await?;
        let body = signed_reply::envelope(ERROR_RESPONSE, node.as_bytes(), &sign);
        *response.body_mut() = Full::new(body.into());
        Ok(())
    }

    async fn sign_v3(
        &self,
        response: &mut Response<Full<Bytes>>,
        body: &[u8],
    ) -> Result<(), InstallKeyError> {
        let timestamp = self.clock.now_ms().to_string();
        let nonce = uuid::Uuid::now_v7().simple().to_string();
        // Digits and letters alone, so there is always a content.
        let content = sign_content::v3_response(&timestamp, &nonce, body).unwrap_or_default();
        let sign = self.key.sign(SignType::Rsa2, content).await?;
        let headers = response.headers_mut();
        for (name, value) in [
            ("alipay-timestamp", timestamp),
            ("alipay-nonce", nonce),
            ("alipay-signature", sign),
        ] {
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for ReplySigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReplySigner({:?})", self.key.public_key())
    }
}

/// Only a bug gets here. What Alipay said is lost to the caller, what it did isn't undone.
fn not_signed(error: &InstallKeyError) -> ProxyError {
    tracing::error!(%error, "a reply could not be signed anew");
    ProxyError {
        outcome: Outcome::Unknown,
        ..ProxyError::refused(
            ErrorCode::Internal,
            "the call was made, but its reply could not be signed; see the log, and ask with a \
             query before you try again",
        )
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;
    use crate::clock::SystemClock;
    use crate::protocol::key::AppPrivateKey;
    use crate::workers::WorkError;

    fn signer(places: usize, refusals: usize) -> ReplySigner {
        let key = AppPrivateKey::of_vectors("app2048");
        let key = InstallKey::start(key, places).expect("threads");
        ReplySigner {
            refusals: Arc::new(Semaphore::new(refusals)),
            ..ReplySigner::new(key, Arc::new(SystemClock))
        }
    }

    /// Whether an error of ours is signed, in both dialects.
    async fn is_signed(signer: &ReplySigner, place: Place) -> [bool; 2] {
        let error = ProxyError::refused(ErrorCode::Overloaded, "later");
        let mut gateway = reply::error(&error, Shape::Gateway, "id");
        let mut v3 = reply::error(&error, Shape::V3, "id");
        let form = |shape| (shape, SignType::Rsa2);
        signer
            .error(&mut gateway, &error, form(Shape::Gateway), place)
            .await;
        signer.error(&mut v3, &error, form(Shape::V3), place).await;
        let in_headers = v3.headers().contains_key("alipay-signature");
        let body = gateway.into_body().collect().await.expect("in memory");
        let body: serde_json::Value = serde_json::from_slice(&body.to_bytes()).expect("JSON");
        assert_eq!(body["error_response"]["sub_code"], "sidecar.overloaded");
        [body["sign"].is_string(), in_headers]
    }

    #[tokio::test]
    async fn a_refusal_goes_out_unsigned_where_there_is_no_place() {
        let free = signer(1, 1);
        assert_eq!(is_signed(&free, Place::IfFree).await, [true; 2]);
        let taken = signer(1, 0);
        assert_eq!(is_signed(&taken, Place::IfFree).await, [false; 2]);
        assert_eq!(is_signed(&taken, Place::Held).await, [true; 2]);
        let broken = signer(0, 1);
        assert_eq!(is_signed(&broken, Place::Held).await, [false; 2]);
    }

    #[test]
    fn a_call_that_was_made_is_never_told_as_one_that_was_not() {
        let error = not_signed(&InstallKeyError::Work(WorkError::QueueFull));
        assert_eq!(error.outcome, Outcome::Unknown);
        assert!(!error.retryable);
    }
}
