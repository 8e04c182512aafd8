//! Notifications: verify → commit → ack. For 应用网关 and `notify_url` alike: what a notification
//! is, its content says, not its path.
//!
//! Protocol: 异步通知, “验签” and “返回 success”; 应用网关.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::audit::entry::Entry;
use crate::gateway::app::SigningApp;
use crate::gateway::platform::Asker;
use crate::model::id::EventId;
use crate::protocol::notification::{Notification, UnverifiedNotification};
use crate::store::error::StoreError;
use crate::store::{Backlog, Change, Effect};
use crate::telemetry::trace_context::TraceParent;
use crate::unbroken::unbroken;
use crate::webhook::answer::{self, Answer};
use crate::webhook::error::{Known, Refusal};
use crate::webhook::intake::{self, Intake};
use crate::webhook::metrics::{Dropped, Kind, Outcome};
use crate::webhook::receipt::{Became, Came};
use crate::webhook::{Inner, Settings, second_body, service_check};

/// How long an unknown platform certificate is waited for: Alipay waits for our ack meanwhile.
const CERTIFICATE_PATIENCE: Duration = Duration::from_secs(4);

/// What arrived, unverified.
pub(super) struct Arrival {
    /// The rest of the notify path, empty for the app gateway.
    pub(super) notify_path: String,
    /// The query of the notify address, without its `?`.
    pub(super) notify_query: String,
    pub(super) content_type: Option<String>,
    pub(super) body: Bytes,
    /// When, Unix milliseconds.
    pub(super) now: i64,
    pub(super) origin: Origin,
    pub(super) came: Came,
}

/// Where it arrived from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// Out of what was refused; accepted, it keeps the id and leaves there.
    Refused(EventId),
    /// From a sender, named as the quarantine counts it.
    Sender(String),
}

impl Arrival {
    /// Who sent it; nobody where it comes out of what was refused.
    fn sender(&self) -> &str {
        match &self.origin {
            Origin::Refused(_) => "",
            Origin::Sender(sender) => sender,
        }
    }

    /// What takes it out of those refused, where it comes from there.
    fn release(&self) -> Option<Change> {
        match self.origin {
            Origin::Refused(id) => Some(Change::Release(id)),
            Origin::Sender(_) => None,
        }
    }

    /// What takes it out of those refused once it is accepted: an earlier attempt may be among them.
    fn release_accepted(&self, refused: u64) -> Option<Change> {
        if refused == 0 || self.release().is_some() {
            return self.release();
        }
        let parsed = UnverifiedNotification::parse(self.content_type.as_deref(), &self.body);
        let content = Sha256::digest(parsed.ok()?.lasting_content());
        Some(Change::ReleaseContent(content.into()))
    }
}

/// What was verified, and by whose key.
pub(super) struct Verified {
    pub(super) app: Arc<SigningApp>,
    pub(super) notification: Notification,
}

impl Verified {
    fn known(&self) -> Known {
        Known::of(&self.app, &self.notification)
    }
}

/// Takes one notification.
pub(super) async fn receive(inner: &Inner, settings: &Settings, arrival: &Arrival) -> Answer {
    let verified = match verify(inner, arrival).await {
        Ok(verified) => verified,
        Err(refusal) => return refuse(inner, arrival, &refusal),
    };
    let kind = Kind::of(&verified.notification);
    if kind == Kind::ServiceCheck {
        return check_service(inner, arrival, &verified).await;
    }
    match store(inner, settings, arrival, &verified).await {
        Ok((outcome, event_id)) => {
            inner.parts.metrics.count(kind, outcome);
            log(inner, (kind, outcome), (arrival, &verified), event_id);
            answer::success()
        }
        Err(refusal) => {
            let (known, told) = (verified.known(), (kind, refusal.outcome()));
            inner.record(&arrival.came, told, || verified.known(), Became::Nothing);
            inner.refuse_known((kind, &refusal), arrival.sender(), &known)
        }
    }
}

/// Says `fail`, and keeps what was refused, as long as its sender hasn't sent too much of that.
fn refuse(inner: &Inner, arrival: &Arrival, refusal: &Refusal) -> Answer {
    let is_looked_at = inner.report((Kind::Other, refusal), arrival.sender(), refusal.known());
    if let (Some(kind), Origin::Sender(sender)) = (refusal.kept_as(), &arrival.origin) {
        match is_looked_at {
            true => {
                let id = inner.ids.next(arrival.now);
                let reason = refusal.to_string();
                inner.quarantine.offer(id, sender, arrival, (kind, reason));
            }
            false => inner.parts.metrics.count_dropped(Dropped::Limited, 1),
        }
    }
    refusal.answer()
}

/// Checks that it is for an app of ours and that Alipay signed it.
///
/// Verification is done here, on the async worker: it costs some 20 µs, less than a hop.
pub(super) async fn verify(inner: &Inner, arrival: &Arrival) -> Result<Verified, Refusal> {
    let unverified = UnverifiedNotification::parse(arrival.content_type.as_deref(), &arrival.body)
        .map_err(Refusal::Malformed)?;
    let (app_id, cert_sn) = (unverified.claimed_app_id(), unverified.alipay_cert_sn());
    let app = claimed_app(inner, app_id, cert_sn, CERTIFICATE_PATIENCE).await?;
    let notification = unverified
        .verify(&app.platform.all_keys(), app.sign_type)
        .map_err(|error| {
            let (content_type, body) = (arrival.content_type.clone(), arrival.body.clone());
            // An operator who verifies again asks for explanations by himself.
            if let Origin::Sender(sender) = &arrival.origin
                && inner.strangers.may(sender, arrival.now)
            {
                let diagnostics = &inner.parts.diagnostics;
                diagnostics.notification(&app, content_type, body);
            }
            Refusal::Forged(error)
        })?;
    if !notification.is_genuine() {
        return Err(Refusal::Other);
    }
    let notification = open(&app, notification);
    let keeps_users = inner.parts.tokens.users().are_kept();
    let decides = notification.authorization().is_some()
        || notification.cancellation().is_some()
        || keeps_users && notification.user_cancellation().is_some();
    if decides && notification.is_encrypted() {
        // Acked, what it says of tokens would be lost: Alipay asks again once the key is mended.
        let known = Known::of(&app, &notification);
        return Err(Refusal::Closed(Box::new(known)));
    }
    Ok(Verified { app, notification })
}

/// Decrypts contents. What can't be opened here is genuine all the same, so the backend gets it.
fn open(app: &SigningApp, notification: Notification) -> Notification {
    if !notification.is_encrypted() {
        return notification;
    }
    let closed = notification.clone();
    let Some(key) = app.content_key() else {
        tracing::warn!(app_id = %app.app_id, "an encrypted notification came, but the app has no encrypt_key");
        return closed;
    };
    notification.open(key).unwrap_or_else(|error| {
        tracing::warn!(app_id = %app.app_id, %error, "an encrypted notification can't be opened");
        closed
    })
}

/// Finds the app that a message claims to be for, and makes the certificate known that it names, if
/// that can be done within `patience`, while Alipay waits. If not, the message is refused, and the
/// next one finds the certificate.
pub(super) async fn claimed_app(
    inner: &Inner,
    app_id: Option<&str>,
    alipay_cert_sn: Option<&str>,
    patience: Duration,
) -> Result<Arc<SigningApp>, Refusal> {
    let app = app_id
        .and_then(|id| inner.parts.apps.named(id))
        .ok_or(Refusal::Foreign)?;
    if let Some(sn) = alipay_cert_sn
        && app.platform.may_learn(sn)
    {
        let certificates = &inner.parts.certificates;
        let learning = certificates.learn(&app, sn, Asker::Notification);
        // Why it failed is told where it failed.
        let _ = tokio::time::timeout(patience, learning).await;
    }
    Ok(app)
}

/// Makes a verified notification durable; where it was refused before, it leaves there with the
/// same commit.
pub(super) async fn store(
    inner: &Inner,
    settings: &Settings,
    arrival: &Arrival,
    verified: &Verified,
) -> Result<(Outcome, EventId), Refusal> {
    let intake = Intake {
        inner,
        settings,
        arrival,
        verified,
    };
    let Backlog { pending, refused } = inner.parts.store.backlog().await?;
    // What is known takes no room, and is acked again.
    if pending >= settings.high_water && !intake.is_known().await? {
        return Err(Refusal::Backlog { pending });
    }
    let mut plan = intake.plan().await?;
    plan.changes.extend(arrival.release_accepted(refused));
    let committed = match commit(inner, plan.changes).await {
        Err(StoreError::TokenConflict { owner }) => {
            // Alipay can't mend it, so it is kept for the operator and acked.
            tracing::warn!(
                event_id = %plan.event_id, owner,
                "the token of a verified push is already another merchant's; it was not stored"
            );
            let mut kept = intake::conflicting(&intake, plan.event_id);
            kept.extend(arrival.release_accepted(refused));
            let effects = commit(inner, kept).await?;
            (effects, Outcome::TokenConflict)
        }
        other => (other?, Outcome::Accepted),
    };
    let (effects, outcome) = committed;
    if let Some(known) = effects.iter().find_map(known) {
        let outcome = second_body::judge(inner, arrival, verified, known).await?;
        if let Some(release) = arrival.release() {
            inner.parts.store.commit(vec![release]).await?;
        }
        return Ok((outcome, known));
    }
    Ok((outcome, plan.event_id))
}

/// Commits, and tells the dispatcher where something became owed: also where whoever waits for the answer leaves
/// meanwhile, since the store doesn't know of that.
async fn commit(inner: &Inner, changes: Vec<Change>) -> Result<Vec<Effect>, StoreError> {
    let (store, wake) = (
        Arc::clone(&inner.parts.store),
        Arc::clone(&inner.parts.wake),
    );
    unbroken(async move {
        let effects = store.commit(changes).await?;
        if effects.iter().find_map(known).is_none() {
            wake.notify_one();
        }
        Ok(effects)
    })
    .await
}

/// The id that a notification has from before.
fn known(effect: &Effect) -> Option<EventId> {
    match effect {
        Effect::Duplicate(id) => Some(*id),
        Effect::Remembered(id) => {
            let id = <[u8; 16]>::try_from(id.expose().as_slice());
            Some(EventId::from_bytes(id.unwrap_or_default()))
        }
        _ => None,
    }
}

async fn check_service(inner: &Inner, arrival: &Arrival, verified: &Verified) -> Answer {
    match service_check::reply(verified).await {
        Ok(reply) => {
            inner
                .parts
                .metrics
                .count(Kind::ServiceCheck, Outcome::Accepted);
            let entry = || entry((Kind::ServiceCheck, Outcome::Accepted), verified);
            inner.parts.audit.tell_of_repeated(entry);
            tracing::info!(app_id = %verified.app.app_id, "alipay.service.check answered");
            reply
        }
        Err(error) => {
            let refusal = Refusal::from(error);
            let told = (Kind::ServiceCheck, &refusal);
            inner.refuse_known(told, arrival.sender(), &verified.known())
        }
    }
}

/// Tells the log, the audit log and the collector of traces what became of a notification.
pub(super) fn log(
    inner: &Inner,
    (kind, outcome): (Kind, Outcome),
    (arrival, verified): (&Arrival, &Verified),
    event_id: EventId,
) {
    let became = Became::of(outcome, event_id);
    let known = || verified.known();
    inner.record(&arrival.came, (kind, outcome), known, became);
    let id = event_id.to_string();
    let entry = || entry((kind, outcome), verified).with("event_id", &id);
    match outcome.is_once() {
        true => inner.parts.audit.tell(entry),
        false => inner.parts.audit.tell_of_repeated(entry),
    }
    tracing::info!(
        kind = kind.as_str(),
        outcome = outcome.as_str(),
        app_id = %verified.app.app_id,
        notify_id = verified.notification.notify_id().unwrap_or_default(),
        event_id = %id,
        w3c_trace_id = %TraceParent::of_event(event_id.to_bytes()).trace_id,
        "notification"
    );
}

/// What the audit log tells of a verified notification.
fn entry((kind, outcome): (Kind, Outcome), verified: &Verified) -> Entry {
    let entry = Entry::new(kind.event(), kind.as_str(), outcome.as_str());
    verified.known().told_in(entry)
}
