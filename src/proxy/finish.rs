//! A call that was begun is finished, whether or not its caller still listens.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use crate::gateway::error::Outcome;
use crate::proxy::admission::{Admitted, Call};
use crate::proxy::call::{self, Answer, Wanted};
use crate::proxy::error::{ErrorCode, ProxyError, bug, ended_by_bug};
use crate::proxy::story::Story;
use crate::proxy::{Proxy, v3};
use crate::unbroken::unbroken;

/// Who polls what answers a request.
#[derive(Clone, Copy)]
pub(super) enum PolledBy {
    /// A connection of ours, until there is an answer or nobody wants it: a call is made there.
    Connection,
    /// A host, who may keep it and not poll it: a call has a task of its own.
    Anybody,
}

impl Proxy {
    /// The call itself, which goes on when its caller goes, and `end` made of its answer while it
    /// still holds its slot.
    ///
    /// # Errors
    /// A bug ended it, or its caller's patience.
    pub(super) async fn finish<T, F>(
        &self,
        admitted: Admitted,
        wanted: Wanted,
        (story, polled_by): (Arc<Story>, PolledBy),
        end: impl FnOnce(Self, Result<Answer, ProxyError>, Arc<Story>) -> F + Send + 'static,
    ) -> Result<T, ProxyError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send,
    {
        let proxy = self.clone();
        let (parts, told) = (Arc::clone(&self.parts), Arc::clone(&story));
        let mut admitted = admitted;
        let keeps_users = self.parts.tokens.users().are_kept();
        let patience = admitted.call.take_patience(keeps_users);
        // Boxed here: on its way it would be copied several times.
        let call = Box::pin(async move {
            let Admitted {
                call,
                who,
                known,
                slot,
                in_flight,
            } = admitted;
            let answer = match (&call, known) {
                (Call::V2(call), Some(reply)) => {
                    Ok(call::tell_known(&proxy.parts, call, *reply, &told))
                }
                (Call::V2(call), None) => {
                    call::make(&proxy.parts, (call, &who), wanted, &told).await
                }
                (Call::V3(call), _) => v3::make(&proxy.parts, call, &who, &told).await,
            };
            let ended = end(proxy, answer, told).await;
            drop((slot, in_flight));
            ended
        });
        // What a bug ended is told, whether or not anybody waits.
        let call = async move {
            let ended = AssertUnwindSafe(call).catch_unwind().await;
            let error = |_| ended_by_bug(story.departure.outcome());
            ended.map_err(|bug| story.broken(&parts, error(bug)))
        };
        match polled_by {
            PolledBy::Connection => within(patience, unbroken(call)).await,
            PolledBy::Anybody => {
                let task = tokio::spawn(call);
                // It has no bug, so the runtime ends.
                let done = async { task.await.unwrap_or_else(|_| Err(bug())) };
                within(patience, done).await
            }
        }
    }
}

/// What `call` gives, unless that takes longer than its caller waits.
async fn within<T>(
    patience: Option<Duration>,
    call: impl Future<Output = Result<T, ProxyError>>,
) -> Result<T, ProxyError> {
    match patience {
        None => call.await,
        Some(patience) => match tokio::time::timeout(patience, call).await {
            Ok(done) => done,
            Err(_) => Err(goes_on(patience)),
        },
    }
}

/// What is said to a caller who doesn't wait for tokens as long as the sidecar does.
fn goes_on(patience: Duration) -> ProxyError {
    let detail = format!(
        "Alipay didn't answer within {patience:?}, the caller's own deadline (`Alipay-Timeout`); the call \
         goes on, and the tokens that it brings are stored"
    );
    ProxyError {
        outcome: Outcome::Unknown,
        ..ProxyError::refused(ErrorCode::UpstreamTimeout, detail)
    }
}
