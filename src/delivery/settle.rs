//! What an attempt means is written down before anything else happens to the entry.

use std::sync::Arc;
use std::time::Duration;

use crate::delivery::attempt::{self, Try};
use crate::delivery::brake::Reach;
use crate::delivery::routes::Target;
use crate::delivery::schedule::{self, Failure};
use crate::delivery::whose::Known;
use crate::delivery::{Inner, Plan};
use crate::model::delivery::{Attempt, AttemptError, Delivery, Settlement};
use crate::model::notification::InboxEntry;
use crate::store::error::StoreError;
use crate::store::{Change, Effect};
use crate::telemetry::trace_context::TraceParent;

/// The first pause after a settlement couldn't be stored; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest one: the store opens itself again within seconds once the disk is well, and until
/// the settlement is stored the attempt keeps its place at the backend from others.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// One claimed delivery.
pub(super) struct Owed {
    pub(super) entry: InboxEntry,
    pub(super) delivery: Delivery,
    pub(super) known: Known,
    pub(super) plan: Arc<Plan>,
}

/// Attempts `owed` once and settles it; tells whether it found its backend.
pub(super) async fn deliver(inner: Arc<Inner>, owed: Owed) -> Reach {
    let (entry, plan) = (&owed.entry, &owed.plan);
    let Some(target) = plan.routes.target(entry, &owed.known) else {
        return Reach::Untried;
    };
    let number = owed.delivery.attempts.saturating_add(1);
    let attempted = Try {
        entry,
        target,
        signer: plan.signer.as_ref(),
        install_key: plan.means.install_key.as_ref(),
        number,
        now: inner.clock.now_ms(),
        span: attempt::span(&plan.means.tracer, entry, (target, number)),
    };
    let (attempt, reach) = attempt::make(&plan.means.client, &attempted).await;
    if owed.delivery.lease.is_some() {
        inner.metrics.attempted(Some(AttemptError::LeaseExpired));
    }
    inner.metrics.attempted(attempt.error);
    let settlement = judge(&inner, &owed, (target, number), &attempt);
    let is_settled = settle(&inner, &owed, &attempt, settlement).await;
    let is_given_up = is_settled && settlement == Settlement::GivenUp;
    if is_given_up {
        inner.metrics.gave_up();
    }
    report(&owed, target, &attempt, is_given_up);
    reach
}

fn judge(
    inner: &Inner,
    owed: &Owed,
    (target, number): (&Target, u32),
    attempt: &Attempt,
) -> Settlement {
    if attempt.error.is_none() {
        return Settlement::Delivered;
    }
    // The tail of the id is random, so deliveries that failed together part.
    let [.., jitter] = owed.entry.id.to_bytes();
    let failure = Failure {
        attempts: number,
        at: inner.clock.now_ms(),
        owed_since: owed.delivery.owed_since,
        jitter: jitter.rotate_left(number),
        timeout: target.timeout,
    };
    schedule::after(failure, owed.plan.give_up_after)
}

/// One line per attempt, a warning where somebody has to look.
fn report(owed: &Owed, target: &Target, attempt: &Attempt, is_given_up: bool) {
    let outcome = attempt.error.map_or("delivered", AttemptError::as_str);
    let (event_id, status) = (owed.entry.id, attempt.status.unwrap_or_default());
    let number = owed.delivery.attempts.saturating_add(1);
    let w3c_trace_id = TraceParent::of_event(event_id.to_bytes()).trace_id;
    if attempt.error == Some(AttemptError::NotSuccess) && target.first_not_success() {
        tracing::warn!(%event_id, status, "the backend said 2xx, but not `success`: not taken");
    }
    if is_given_up {
        tracing::warn!(
            %event_id, attempts = number, outcome, status,
            to = attempt.to, reason = attempt.reason,
            event_type = owed.entry.event_type, %w3c_trace_id,
            "a delivery is given up; `inbox replay` makes it owed again"
        );
    } else {
        tracing::debug!(%event_id, attempt = number, outcome, status, reason = attempt.reason, %w3c_trace_id, "delivery attempted");
    }
}

/// The pause after one of that length, when it was in vain.
fn longer(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_PAUSE)
}

/// Stores the settlement, however long the store is unavailable: meanwhile the entry counts as
/// under way, so that the backend doesn't get it over and over. Tells whether it counted: somebody
/// may have said meanwhile that it is done, or owed anew. What the store refuses for good, as of a
/// record that was damaged meanwhile, is in nobody's way: whoever looks next finds it damaged.
async fn settle(inner: &Inner, owed: &Owed, attempt: &Attempt, settlement: Settlement) -> bool {
    let mut pause = FIRST_PAUSE;
    loop {
        let change = Change::Settle {
            id: owed.entry.id,
            attempt: attempt.clone(),
            owed_since: Some(owed.delivery.owed_since),
            settlement,
        };
        let error = match inner.store.commit(vec![change]).await {
            Ok(effects) => return matches!(effects.as_slice(), [Effect::Applied]),
            Err(error @ StoreError::Unavailable { .. }) => error,
            Err(error) => {
                tracing::error!(%error, event_id = %owed.entry.id, "the end of an attempt can't be stored");
                return false;
            }
        };
        tracing::warn!(%error, event_id = %owed.entry.id, "the end of an attempt can't be stored yet");
        tokio::time::sleep(pause).await;
        pause = longer(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        assert_eq!(longer(FIRST_PAUSE), FIRST_PAUSE * 2);
        assert_eq!(longer(LONGEST_PAUSE / 4), LONGEST_PAUSE / 2);
        assert_eq!(longer(LONGEST_PAUSE), LONGEST_PAUSE);
        assert_eq!(longer(LONGEST_PAUSE * 3 / 4), LONGEST_PAUSE);
    }
}
