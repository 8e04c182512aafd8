//! Refused notifications and second bodies as they stand in the file: a head in JSON and the body
//! as it is.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::inbox_records::{join, split};
use super::lookup::{refused_place, variant_key, variant_place};
use super::records::to_json;
use crate::model::id::EventId;
use crate::model::notification::Body;
use crate::model::refused::{RefusedNotification, Variant};
use crate::store::error::StoreError;
use crate::store::seal::Sealer;

#[derive(Serialize, Deserialize)]
struct RefusedHead {
    received_at: i64,
    last_received_at: i64,
    times: u32,
    peer: String,
    notify_path: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    notify_query: String,
    content_type: Option<String>,
    refusal: String,
    reason: String,
    app_id: Option<String>,
    notify_id: Option<String>,
    event_type: Option<String>,
    content: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct VariantHead {
    received_at: i64,
    notify_path: String,
    content_type: String,
    differs: Vec<String>,
    content: [u8; 32],
}

/// Seals a refused notification for its place.
pub(super) fn seal_refused(
    sealer: &Sealer,
    refused: &RefusedNotification,
) -> Result<Vec<u8>, StoreError> {
    let key = refused.id.to_bytes();
    let place = refused_place(&key);
    let head = RefusedHead {
        received_at: refused.received_at,
        last_received_at: refused.last_received_at,
        times: refused.times,
        peer: refused.peer.clone(),
        notify_path: refused.notify_path.clone(),
        notify_query: refused.notify_query.clone(),
        content_type: refused.content_type.clone(),
        refusal: refused.refusal.as_str().to_owned(),
        reason: refused.reason.clone(),
        app_id: refused.app_id.clone(),
        notify_id: refused.notify_id.clone(),
        event_type: refused.event_type.clone(),
        content: refused.content,
    };
    let plain = join(place, &to_json(place, &head)?, &refused.body)?;
    sealer.seal(place, &plain)
}

/// Opens the refused notification `id`.
pub(super) fn open_refused(
    sealer: &Sealer,
    id: EventId,
    sealed: &[u8],
) -> Result<RefusedNotification, StoreError> {
    let key = id.to_bytes();
    let place = refused_place(&key);
    let plain = sealer.open(place, sealed)?;
    let read = || {
        let (head, body) = split(&plain)?;
        let head: RefusedHead = serde_json::from_slice(head).ok()?;
        Some(RefusedNotification {
            id,
            received_at: head.received_at,
            last_received_at: head.last_received_at,
            times: head.times,
            peer: head.peer,
            notify_path: head.notify_path,
            notify_query: head.notify_query,
            content_type: head.content_type,
            body: Bytes::copy_from_slice(body),
            refusal: head.refusal.parse().ok()?,
            reason: head.reason,
            app_id: head.app_id,
            notify_id: head.notify_id,
            event_type: head.event_type,
            content: head.content,
        })
    };
    read().ok_or_else(|| place.damaged())
}

/// Seals a second body for its place.
pub(super) fn seal_variant(
    sealer: &Sealer,
    (of, content): (&[u8; 16], &[u8; 16]),
    variant: &Variant,
) -> Result<Vec<u8>, StoreError> {
    let key = variant_key(of, content);
    let place = variant_place(&key);
    let head = VariantHead {
        received_at: variant.received_at,
        notify_path: variant.notify_path.clone(),
        content_type: variant.body.content_type.clone(),
        differs: variant.differs.clone(),
        content: variant.content,
    };
    let plain = join(place, &to_json(place, &head)?, &variant.body.bytes)?;
    sealer.seal(place, &plain)
}

/// Opens a second body.
pub(super) fn open_variant(
    sealer: &Sealer,
    (of, content): (&[u8; 16], &[u8; 16]),
    sealed: &[u8],
) -> Result<Variant, StoreError> {
    let key = variant_key(of, content);
    let place = variant_place(&key);
    let plain = sealer.open(place, sealed)?;
    let read = || {
        let (head, body) = split(&plain)?;
        let head: VariantHead = serde_json::from_slice(head).ok()?;
        Some(Variant {
            received_at: head.received_at,
            notify_path: head.notify_path,
            body: Body {
                content_type: head.content_type,
                bytes: Bytes::copy_from_slice(body),
            },
            differs: head.differs,
            content: head.content,
        })
    };
    read().ok_or_else(|| place.damaged())
}
