//! Inbox entries and deliveries as they stand in the file.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::records::{Hidden, Unreadable, to_json};
use crate::model::delivery::{Attempt, Delivery, DeliveryState, Lease};
use crate::model::event::AuthorizationEvent;
use crate::model::id::{AppId, AuthAppId, EventId, Pid};
use crate::model::notification::{Body, DeliveryForm, InboxEntry};
use crate::protocol::sign_content::Scheme;
use crate::store::error::StoreError;
use crate::store::seal::{Place, Sealer};

/// All of an entry but the bytes of its body, which follow it as they are: JSON would blow them up.
#[derive(Serialize, Deserialize)]
struct EntryHead {
    app_id: String,
    notify_id: Option<String>,
    event_type: String,
    auth_app_id: Option<String>,
    pid: Option<String>,
    received_at: i64,
    notify_path: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    notify_query: String,
    order_key: Option<String>,
    content_type: Option<String>,
    #[serde(default)]
    opened_content: Option<Hidden>,
    #[serde(default)]
    scheme: Option<SignScheme>,
    event: Option<AuthorizationEvent>,
    form: Form,
}

/// [`Scheme`], as `rsaCheckV1` and `rsaCheckV2` of the SDKs.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SignScheme {
    V1,
    V2,
}

impl From<Scheme> for SignScheme {
    fn from(scheme: Scheme) -> Self {
        match scheme {
            Scheme::V1 => Self::V1,
            Scheme::V2 => Self::V2,
        }
    }
}

impl From<SignScheme> for Scheme {
    fn from(scheme: SignScheme) -> Self {
        match scheme {
            SignScheme::V1 => Self::V1,
            SignScheme::V2 => Self::V2,
        }
    }
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Form {
    AsConfigured,
    Event,
    Redacted,
    Verbatim,
}

impl From<DeliveryForm> for Form {
    fn from(form: DeliveryForm) -> Self {
        match form {
            DeliveryForm::AsConfigured => Self::AsConfigured,
            DeliveryForm::Event => Self::Event,
            DeliveryForm::Redacted => Self::Redacted,
            DeliveryForm::Verbatim => Self::Verbatim,
        }
    }
}

impl From<Form> for DeliveryForm {
    fn from(form: Form) -> Self {
        match form {
            Form::AsConfigured => Self::AsConfigured,
            Form::Event => Self::Event,
            Form::Redacted => Self::Redacted,
            Form::Verbatim => Self::Verbatim,
        }
    }
}

impl From<&InboxEntry> for EntryHead {
    fn from(entry: &InboxEntry) -> Self {
        Self {
            app_id: entry.app_id.to_string(),
            notify_id: entry.notify_id.clone(),
            event_type: entry.event_type.clone(),
            auth_app_id: entry.auth_app_id.as_ref().map(ToString::to_string),
            pid: entry.pid.as_ref().map(ToString::to_string),
            received_at: entry.received_at,
            notify_path: entry.notify_path.clone(),
            notify_query: entry.notify_query.clone(),
            order_key: entry.order_key.clone(),
            content_type: entry.body.as_ref().map(|body| body.content_type.clone()),
            opened_content: entry.opened_content.clone().map(Hidden::from),
            scheme: entry.scheme.map(SignScheme::from),
            event: entry.event.clone(),
            form: entry.form.into(),
        }
    }
}

impl EntryHead {
    fn into_entry(self, id: EventId, body: &[u8]) -> Result<InboxEntry, Unreadable> {
        let auth_app_id = self.auth_app_id.as_deref().map(AuthAppId::new).transpose();
        let pid = self.pid.as_deref().map(Pid::new).transpose();
        Ok(InboxEntry {
            id,
            app_id: AppId::new(&self.app_id).map_err(|_| Unreadable)?,
            notify_id: self.notify_id,
            event_type: self.event_type,
            auth_app_id: auth_app_id.map_err(|_| Unreadable)?,
            pid: pid.map_err(|_| Unreadable)?,
            received_at: self.received_at,
            notify_path: self.notify_path,
            notify_query: self.notify_query,
            order_key: self.order_key,
            body: self.content_type.map(|content_type| Body {
                content_type,
                bytes: Bytes::copy_from_slice(body),
            }),
            opened_content: self.opened_content.map(Into::into),
            scheme: self.scheme.map(Into::into),
            event: self.event,
            form: self.form.into(),
        })
    }
}

/// Seals an entry.
pub(super) fn seal_entry(
    sealer: &Sealer,
    place: Place<'_>,
    entry: &InboxEntry,
) -> Result<Vec<u8>, StoreError> {
    let head = to_json(place, &EntryHead::from(entry))?;
    let body = entry.body.as_ref().map_or(&[][..], |body| &body.bytes);
    sealer.seal(place, &join(place, &head, body)?)
}

/// The head's length in 4 bytes, the head, the body.
pub(super) fn join(
    place: Place<'_>,
    head: &[u8],
    body: &[u8],
) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let length = u32::try_from(head.len()).map_err(|_| StoreError::Unavailable {
        reason: format!("{place} is too large to be stored"),
    })?;
    let mut plain = Zeroizing::new(Vec::with_capacity(4 + head.len() + body.len()));
    plain.extend(length.to_be_bytes());
    plain.extend(head);
    plain.extend(body);
    Ok(plain)
}

/// Opens an entry.
pub(super) fn open_entry(
    sealer: &Sealer,
    place: Place<'_>,
    id: EventId,
    sealed: &[u8],
) -> Result<InboxEntry, StoreError> {
    let plain = sealer.open(place, sealed)?;
    split(&plain)
        .and_then(|(head, body)| {
            let head = serde_json::from_slice::<EntryHead>(head).ok()?;
            head.into_entry(id, body).ok()
        })
        .ok_or_else(|| place.damaged())
}

/// Head and body of what [`join`] put together.
pub(super) fn split(plain: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = plain.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// A delivery, with what the indexes need to know of its entry.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct DeliveryRecord {
    /// Where it stands.
    pub(super) state: DeliveryState,
    /// Attempts since it became owed.
    pub(super) attempts: u32,
    /// When it became owed, Unix milliseconds.
    pub(super) owed_since: i64,
    /// When the next attempt is due, Unix milliseconds.
    pub(super) next_attempt_at: i64,
    /// The last attempts, oldest first.
    pub(super) history: Vec<Attempt>,
    /// When the entry was received, Unix milliseconds.
    pub(super) received_at: i64,
    /// When it was settled, Unix milliseconds; meaningful while not pending.
    pub(super) settled_at: i64,
    /// The digest of the entry's order key.
    pub(super) order: Option<[u8; 16]>,
    /// The last claim, while nothing was said about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) lease: Option<Lease>,
    /// Whether it was put off only because no route fits it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) parked: bool,
    /// Whether no route fitted it when it was last looked at, whoever has claimed it since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) apart: bool,
}

/// Names the line of those of an order that no route fitted.
pub(super) fn apart(mut order: [u8; 16]) -> [u8; 16] {
    let [first, ..] = &mut order;
    *first = !*first;
    order
}

impl DeliveryRecord {
    /// The delivery of something received at `received_at`, owed and due from `owed_since` on.
    pub(super) fn new(
        state: DeliveryState,
        (received_at, owed_since): (i64, i64),
        order: Option<[u8; 16]>,
    ) -> Self {
        Self {
            state,
            attempts: 0,
            owed_since,
            next_attempt_at: owed_since,
            history: Vec::new(),
            received_at,
            settled_at: owed_since,
            order,
            lease: None,
            parked: false,
            apart: false,
        }
    }

    /// In which line it stands: that of its order, or of those of its order that no route fitted.
    pub(super) fn line(&self) -> Option<[u8; 16]> {
        let order = self.order?;
        Some(if self.apart { apart(order) } else { order })
    }

    /// The delivery for the model.
    pub(super) fn into_delivery(self, id: EventId) -> Delivery {
        Delivery {
            id,
            state: self.state,
            attempts: self.attempts,
            owed_since: self.owed_since,
            next_attempt_at: self.next_attempt_at,
            parked: self.parked && self.state == DeliveryState::Pending,
            lease: self.lease,
            history: self.history,
        }
    }
}
