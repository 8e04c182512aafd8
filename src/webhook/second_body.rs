//! A second body under one `notify_id`: acked and not delivered, but kept and flagged. Alipay says
//! that one id is one notification; where that isn't so, somebody has to look.

use sha2::{Digest as _, Sha256};

use crate::model::id::EventId;
use crate::model::notification::Body;
use crate::model::refused::Variant;
use crate::protocol::notification::UnverifiedNotification;
use crate::store::error::StoreError;
use crate::store::{Change, Effect};
use crate::webhook::Inner;
use crate::webhook::app_gateway::{Arrival, Verified};
use crate::webhook::metrics::Outcome;

/// How many differing parameters are named: enough to see what differs.
const NAMED: usize = 32;

/// Compares what arrived with the entry that its `notify_id` is `known` by, and keeps it where it
/// says something else. What differs between Alipay's attempts (time, signature) doesn't count.
pub(super) async fn judge(
    inner: &Inner,
    arrival: &Arrival,
    verified: &Verified,
    known: EventId,
) -> Result<Outcome, StoreError> {
    let Some(variant) = variant(inner, arrival, known).await? else {
        return Ok(Outcome::Duplicate);
    };
    let differs = variant.differs.join(", ");
    let change = Change::KeepVariant {
        of: known,
        variant: Box::new(variant),
    };
    let effects = inner.parts.store.commit(vec![change]).await?;
    let kept = match effects.first() {
        Some(Effect::Applied) => true,
        Some(Effect::Full) => false,
        // This one was seen before, or its entry is gone.
        _ => return Ok(Outcome::Duplicate),
    };
    tracing::warn!(
        app_id = %verified.app.app_id,
        notify_id = verified.notification.notify_id().unwrap_or_default(),
        event_id = %known,
        differs,
        kept,
        "a second body came under a notify_id that is known; it isn't delivered"
    );
    Ok(Outcome::DuplicateDiffers)
}

async fn variant(
    inner: &Inner,
    arrival: &Arrival,
    known: EventId,
) -> Result<Option<Variant>, StoreError> {
    let first = match inner.parts.store.entry(known).await {
        Ok(found) => found.and_then(|(entry, _)| entry.body),
        // Nothing can be compared with it, and Alipay can't mend it by sending again.
        Err(StoreError::Damaged { record }) => {
            tracing::error!(record, "a resend can't be compared with a damaged record");
            None
        }
        Err(error) => return Err(error),
    };
    let Some(first) = first else {
        return Ok(None);
    };
    let before = UnverifiedNotification::parse(Some(&first.content_type), &first.bytes);
    let newer = UnverifiedNotification::parse(arrival.content_type.as_deref(), &arrival.body);
    let (Ok(before), Ok(newer)) = (before, newer) else {
        return Ok(None);
    };
    let mut differs = before.differences(&newer);
    if differs.is_empty() {
        return Ok(None);
    }
    differs.truncate(NAMED);
    Ok(Some(Variant {
        received_at: arrival.now,
        notify_path: arrival.notify_path.clone(),
        body: Body {
            content_type: arrival.content_type.clone().unwrap_or_default(),
            bytes: arrival.body.clone(),
        },
        differs,
        content: Sha256::digest(newer.lasting_content()).into(),
    }))
}
