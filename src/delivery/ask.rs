//! One question to the backend, which has no second chance: it isn't stored, and Alipay waits.

use std::sync::Arc;
use std::time::Duration;

use crate::delivery::attempt::{self, Try};
use crate::delivery::routes::Target;
use crate::delivery::{Inner, claim, outgoing};
use crate::model::notification::InboxEntry;
use crate::net::client::{Reply, SendError};
use crate::store::error::StoreError;

/// Asks the backends of a [`Dispatcher`](crate::delivery::Dispatcher), by its routes as they are
/// configured at the time. Clones share them.
#[derive(Clone)]
pub struct Asker(pub(super) Arc<Inner>);

/// Why a question got no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// Nobody is configured to be asked.
    #[error("no [[delivery.route]] fits it and there is no delivery.url")]
    NoRoute,
    /// The backend's answer wasn't a 2xx.
    #[error("the backend answered with status {0}, expected 2xx")]
    Status(u16),
    /// The merchant's record, which a route asks for, couldn't be read.
    #[error("the merchant's record could not be read: {0}")]
    Store(#[from] StoreError),
    /// The question couldn't be laid out as a request.
    #[error("{0}")]
    Unmade(String),
    /// The backend didn't answer.
    #[error("the backend did not answer: {0}")]
    Unanswered(#[from] SendError),
    /// The time was over.
    #[error("there was no time left for the backend to answer")]
    TooLate,
}

impl Asker {
    /// Posts `question` once to the backend that its route names, as a delivery is posted, and
    /// gives the 2xx answer. `deadline` is for everything; the route's own is kept where shorter.
    ///
    /// # Errors
    /// [`AskError`]. The backend may have acted after all of them but [`AskError::NoRoute`] and
    /// [`AskError::Store`].
    ///
    /// # Cancel safety
    /// Dropping the future breaks the connection off; the backend may have acted.
    pub async fn ask(&self, question: &InboxEntry, deadline: Duration) -> Result<Reply, AskError> {
        let asked = tokio::time::timeout(deadline, self.send(question, deadline)).await;
        let reply = asked.map_err(|_| AskError::TooLate)??;
        match reply.status.is_success() {
            true => Ok(reply),
            false => Err(AskError::Status(reply.status.as_u16())),
        }
    }

    async fn send(&self, question: &InboxEntry, deadline: Duration) -> Result<Reply, AskError> {
        let plan = self.0.plan.load_full();
        let known = claim::known(&*self.0.store, &plan, question).await?;
        let question = &known.told_in(question.clone());
        let target = plan.routes.target(question, &known);
        let target: &Target = target.ok_or(AskError::NoRoute)?;
        let asked = Try {
            entry: question,
            target,
            signer: plan.signer.as_ref(),
            install_key: plan.means.install_key.as_ref(),
            number: 1,
            now: question.received_at,
            span: attempt::span(&plan.means.tracer, question, (target, 1)),
        };
        let outgoing = outgoing::lay_out(question, target.format);
        let request = attempt::request(&asked, outgoing).await;
        let request = request.map_err(|error| AskError::Unmade(error.to_string()))?;
        let deadline = deadline.min(target.timeout);
        let sent = plan.means.client.send(request, deadline).await;
        match &sent {
            Ok(reply) => asked.span.set_status(reply.status.as_u16()),
            Err(error) => asked.span.fail(error.cause.kind()),
        }
        Ok(sent?)
    }
}

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asker")
    }
}
