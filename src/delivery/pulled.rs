//! What a claim gives out: what a push would have posted.

use bytes::Bytes;

use crate::delivery::{Inner, Plan, claim, outgoing, signed_anew};
use crate::model::notification::InboxEntry;
use crate::store::error::StoreError;

/// One entry that was claimed, as a push would have posted it.
pub struct Pulled {
    /// The entry.
    pub entry: InboxEntry,
    /// Which attempt it is, from 1.
    pub attempt: u32,
    /// When the lease ends, Unix milliseconds.
    pub lease_until: i64,
    /// The type of the body.
    pub content_type: String,
    /// The body.
    pub body: Bytes,
}

impl std::fmt::Debug for Pulled {
    /// Without the body: a notification that is handed on as it came may hold a token.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pulled")
            .field("entry", &self.entry)
            .field("attempt", &self.attempt)
            .field("lease_until", &self.lease_until)
            .field("content_type", &self.content_type)
            .field("body_len", &self.body.len())
            .finish()
    }
}

/// What a push would post, of each entry that was claimed.
pub(super) async fn lay_out(
    inner: &Inner,
    (claimed, lease_until): (Vec<(InboxEntry, u32)>, i64),
) -> Vec<Pulled> {
    let mut pulled = Vec::with_capacity(claimed.len());
    for (entry, attempt) in claimed {
        let plan = inner.plan.load_full();
        let entry = plan.present(entry);
        match outgoing(inner, &plan, &entry).await {
            Ok(sent) => pulled.push(Pulled {
                entry,
                attempt,
                lease_until,
                content_type: sent.content_type,
                body: sent.body,
            }),
            Err(error) => {
                tracing::error!(%error, event_id = %entry.id, "a claimed event isn't given out; it comes again when its lease ends");
            }
        }
    }
    pulled
}

async fn outgoing(
    inner: &Inner,
    plan: &Plan,
    entry: &InboxEntry,
) -> Result<outgoing::Outgoing, Unmade> {
    let known = claim::known(&*inner.store, plan, entry).await?;
    let target = plan.routes.target(entry, &known);
    let format = target.map_or(plan.format, |target| target.format);
    let sent = outgoing::lay_out(&known.told_in(entry.clone()), format);
    match &plan.means.install_key {
        None => Ok(sent),
        Some(key) => Ok(signed_anew::sign(key, sent, entry.scheme).await?),
    }
}

/// Why a claimed entry isn't given out.
#[derive(Debug, thiserror::Error)]
enum Unmade {
    #[error("it can't be signed anew: {0}")]
    Signature(#[from] signed_anew::Error),
    #[error("the merchant can't be looked up: {0}")]
    Store(#[from] StoreError),
}
