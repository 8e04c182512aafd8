//! What was refused, verified again with the keys of now, by the way that a live arrival takes; and
//! explained.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::id::EventId;
use crate::model::refused::RefusedNotification;
use crate::protocol::diagnosis::{self, Cause, Explanation, Keys};
use crate::protocol::notification::UnverifiedNotification;
use crate::store::Change;
use crate::store::error::StoreError;
use crate::webhook::app_gateway::{self, Arrival, Origin};
use crate::webhook::error::Refusal;
use crate::webhook::metrics::{Kind, Outcome};
use crate::webhook::receipt::Came;
use crate::webhook::{Inner, Settings, Webhook};

/// How many are read at once: 16 MiB at the most are kept in all.
const PAGE: usize = 50;

/// What became of one refused notification.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Reverified {
    /// The sidecar's id; an accepted one has the same in the inbox.
    pub id: String,
    /// What became of it.
    pub outcome: ReverifyOutcome,
    /// Why it wasn't accepted.
    pub reason: Option<String>,
}

/// What became of a refused notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReverifyOutcome {
    /// It verifies and is in the inbox now, which delivers it unless something newer is known.
    Accepted,
    /// It verifies, but Alipay's resend was accepted meanwhile; it isn't kept any more.
    Duplicate,
    /// It verifies, but can't be taken at present; it is kept.
    Postponed,
    /// It still doesn't verify; it is kept.
    Refused,
}

impl ReverifyOutcome {
    /// The word used in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Postponed => "postponed",
            Self::Refused => "refused",
        }
    }
}

/// Why a signature holds or doesn't, without values.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Explained {
    /// Whether it verifies with the keys of now.
    pub verified: bool,
    /// The verdict in one line.
    pub text: String,
    /// What had to be taken back before the signature held, the decisive one first.
    pub causes: Vec<ExplainedCause>,
    /// What isn't the cause, but strange.
    pub remarks: Vec<ExplainedCause>,
}

/// One cause of a failure.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct ExplainedCause {
    /// The fixed word for it.
    pub cause: String,
    /// The same for people.
    pub text: String,
}

impl Webhook {
    /// Verifies one refused notification again; `None` where there is none of that id.
    ///
    /// # Errors
    /// The store's; then it is still kept, or accepted: doing it again is safe.
    ///
    /// # Cancel safety
    /// Safe: it is accepted and leaves with one commit.
    pub async fn reverify_one(&self, id: EventId) -> Result<Option<Reverified>, StoreError> {
        self.flush().await;
        let settings = &self.0.settings;
        match self.0.parts.store.refused_one(id).await? {
            Some(refused) => self.0.reverify(settings, &refused).await.map(Some),
            None => Ok(None),
        }
    }

    /// Verifies every refused notification again, in the order in which they came.
    ///
    /// # Errors
    /// The store's; what was accepted until then stays accepted.
    ///
    /// # Cancel safety
    /// Safe: each is accepted and leaves with one commit.
    pub async fn reverify_all(&self) -> Result<Vec<Reverified>, StoreError> {
        self.flush().await;
        let settings = &self.0.settings;
        let mut all = Vec::new();
        let mut after = None;
        loop {
            let page = self.0.parts.store.refused(after, PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(all);
            };
            after = Some(last.id);
            for refused in &page {
                all.push(self.0.reverify(settings, refused).await?);
            }
        }
    }

    /// Tells in the log whether refused notifications verify with the keys of now. It changes
    /// nothing: whether events of last week are still wanted, an operator decides.
    ///
    /// # Cancel safety
    /// Safe.
    pub async fn report_refused(&self) {
        match self.0.count_good().await {
            Ok((0, _)) => {}
            Ok((kept, 0)) => tracing::info!(kept, "refused notifications are kept; none verifies"),
            Ok((kept, verify)) => tracing::warn!(
                kept,
                verify,
                "refused notifications verify now; `inbox reverify` takes and delivers them"
            ),
            Err(error) => tracing::warn!(%error, "refused notifications could not be read"),
        }
    }

    /// Explains the signature of a notification, refused or accepted, by the keys of now; `None`
    /// where there is none of that id.
    ///
    /// # Errors
    /// The store's.
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    pub async fn explain(&self, id: EventId) -> Result<Option<Explained>, StoreError> {
        let store = &self.0.parts.store;
        if let Some(refused) = store.refused_one(id).await? {
            let body = (refused.content_type, refused.body);
            return Ok(Some(self.0.explain(body).await));
        }
        let Some((entry, _)) = store.entry(id).await? else {
            return Ok(None);
        };
        Ok(Some(match entry.body {
            Some(body) => {
                let body = (Some(body.content_type), body.bytes);
                self.0.explain(body).await
            }
            None => Explained::plain("an event of the sidecar's own: nothing was signed"),
        }))
    }
}

impl Inner {
    /// How many refused notifications are kept, and how many of them verify.
    async fn count_good(&self) -> Result<(u64, u64), StoreError> {
        let (mut kept, mut good) = (0, 0);
        let mut after = None;
        loop {
            let page = self.parts.store.refused(after, PAGE).await?;
            let Some(last) = page.last() else {
                return Ok((kept, good));
            };
            after = Some(last.id);
            for refused in &page {
                kept += 1;
                let verified = app_gateway::verify(self, &arrival(refused)).await;
                good += u64::from(verified.is_ok());
            }
        }
    }

    async fn reverify(
        &self,
        settings: &Settings,
        refused: &RefusedNotification,
    ) -> Result<Reverified, StoreError> {
        let arrival = arrival(refused);
        let judged = |outcome, reason| Reverified {
            id: refused.id.to_string(),
            outcome,
            reason,
        };
        let verified = match app_gateway::verify(self, &arrival).await {
            Ok(verified) => verified,
            Err(refusal) => {
                let reason = self.still_refused(refused, &refusal).await?;
                return Ok(judged(ReverifyOutcome::Refused, Some(reason)));
            }
        };
        let kind = Kind::of(&verified.notification);
        match app_gateway::store(self, settings, &arrival, &verified).await {
            Ok((outcome, event_id)) => {
                self.parts.metrics.count(kind, outcome);
                app_gateway::log(self, (kind, outcome), (&arrival, &verified), event_id);
                Ok(match outcome {
                    Outcome::Duplicate | Outcome::DuplicateDiffers => {
                        let known = format!("it was accepted as {event_id}");
                        judged(ReverifyOutcome::Duplicate, Some(known))
                    }
                    _ => judged(ReverifyOutcome::Accepted, None),
                })
            }
            Err(Refusal::Store(error)) => Err(error),
            Err(other) => Ok(judged(ReverifyOutcome::Postponed, Some(other.to_string()))),
        }
    }

    /// Keeps the new reason, where it is one.
    async fn still_refused(
        &self,
        refused: &RefusedNotification,
        refusal: &Refusal,
    ) -> Result<String, StoreError> {
        let reason = refusal.to_string();
        if let Some(kind) = refusal.kept_as()
            && (kind, &reason) != (refused.refusal, &refused.reason)
        {
            let change = Change::Rejudge {
                id: refused.id,
                refusal: kind,
                reason: reason.clone(),
            };
            self.parts.store.commit(vec![change]).await?;
        }
        Ok(reason)
    }

    async fn explain(&self, (content_type, body): (Option<String>, bytes::Bytes)) -> Explained {
        let parsed = UnverifiedNotification::parse(content_type.as_deref(), &body);
        let app = match parsed.as_ref().map(|p| p.claimed_app_id()) {
            Ok(claimed) => match claimed.and_then(|id| self.parts.apps.named(id)) {
                Some(app) => Some(app),
                None => return Explained::plain(&Refusal::Foreign.to_string()),
            },
            // Whose it is can't be read; what is wrong with the text can be told all the same.
            Err(_) => self.parts.apps.only(),
        };
        let keys = app.map_or_else(|| Keys::new(&[], &[]), |app| app.diagnosis_keys());
        let explained = tokio::task::spawn_blocking(move || {
            diagnosis::notification(content_type.as_deref(), &body, &keys)
        });
        match explained.await {
            Ok(explanation) => Explained::from(&explanation),
            Err(_) => Explained::plain("it could not be explained, because of a bug"),
        }
    }
}

/// It arrives once more, as of when it came.
fn arrival(refused: &RefusedNotification) -> Arrival {
    Arrival {
        notify_path: refused.notify_path.clone(),
        notify_query: refused.notify_query.clone(),
        content_type: refused.content_type.clone(),
        body: refused.body.clone(),
        now: refused.received_at,
        origin: Origin::Refused(refused.id),
        came: Came::again(),
    }
}

impl Explained {
    fn plain(text: &str) -> Self {
        Self {
            verified: false,
            text: text.to_owned(),
            causes: Vec::new(),
            remarks: Vec::new(),
        }
    }
}

impl From<&Explanation> for Explained {
    fn from(explanation: &Explanation) -> Self {
        let each = |cause: &Cause| ExplainedCause {
            cause: cause.kind().to_owned(),
            text: cause.to_string(),
        };
        Self {
            verified: explanation.holds(),
            text: explanation.to_string(),
            causes: explanation.causes().iter().map(each).collect(),
            remarks: explanation.remarks().iter().map(each).collect(),
        }
    }
}
