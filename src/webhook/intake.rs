//! What a verified notification changes in the store.

use std::time::Duration;

use crate::config::delivery::AuthorizationDelivery;
use crate::model::authorization::{Authorization, Rank, Revocation, Source};
use crate::model::event::{MERCHANT_AUTHORIZED, MERCHANT_REVOKED};
use crate::model::id::{AppId, AuthAppId, EventId, Pid};
use crate::model::merchant::{Merchant, MerchantStatus};
use crate::model::notification::{Body, DeliveryForm, InboxEntry};
use crate::model::token::AppAuthToken;
use crate::model::user_token::{UserKey, UserName};
use crate::protocol::notification::{AuthorizationPush, Cancellation};
use crate::protocol::secret::Secret;
use crate::store::error::StoreError;
use crate::store::{Change, MemoKey, MerchantKey};
use crate::token::error::TokenError;
use crate::webhook::app_gateway::{Arrival, Origin, Verified};
use crate::webhook::error::Refusal;
use crate::webhook::{Inner, Settings};

/// How long Alipay may take to say whether a token holds: it waits for our ack meanwhile.
const QUERY_PATIENCE: Duration = Duration::from_secs(4);
/// How long a notification without a `notify_id` is known again, milliseconds: as long as the
/// others are by default.
const UNNAMED_MS: i64 = 9 * 24 * 3600 * 1000;
/// How far our clock and Alipay's may be apart: with more, no call of v3 is taken.
const CLOCKS_DIFFER_MS: i64 = 10 * 60 * 1000;

/// One verified notification and everything it is judged by.
pub(super) struct Intake<'a> {
    pub(super) inner: &'a Inner,
    pub(super) settings: &'a Settings,
    pub(super) arrival: &'a Arrival,
    pub(super) verified: &'a Verified,
}

/// What is to be committed, and the id it will be known by.
pub(super) struct Plan {
    pub(super) event_id: EventId,
    pub(super) changes: Vec<Change>,
}

/// What is kept of a push whose token is another record's: what the backend is told of it.
pub(super) fn conflicting(intake: &Intake<'_>, id: EventId) -> Vec<Change> {
    let kept = intake.hand_on(id);
    kept.into_iter().chain(intake.once(id)).collect()
}

impl Intake<'_> {
    /// Decides what the notification changes. Reads the store, and asks Alipay about a
    /// cancellation that may be out of date, or that a push may have come after.
    pub(super) async fn plan(&self) -> Result<Plan, Refusal> {
        let notification = &self.verified.notification;
        let id = match self.arrival.origin {
            Origin::Refused(id) => id,
            Origin::Sender(_) => self.inner.ids.next(self.arrival.now),
        };
        let mut changes = if let Some(push) = notification.authorization() {
            match push.ok().and_then(|push| self.authorization(push)) {
                Some(authorization) => {
                    let ranked = Box::pin(self.ranked(authorization)).await?;
                    self.authorize(id, ranked)
                }
                None => self.hand_on(id),
            }
        } else if let Some(cancellation) = notification.cancellation() {
            match Box::pin(self.cancelled(&cancellation)).await? {
                Cancelled::Known(revocation) => self.revoke(id, revocation),
                Cancelled::Unknown(revocation) => self.cancel_unknown(id, revocation),
                Cancelled::Nothing => self.hand_on(id),
            }
        } else {
            self.hand_on(id)
        };
        changes.extend(self.forgotten_user());
        changes.extend(self.once(id));
        Ok(Plan {
            event_id: id,
            changes,
        })
    }

    /// Makes a notification without a `notify_id` known by what was signed. Alipay signs other
    /// things by the same rules (the query of a `return_url`, which every customer sees): without
    /// this, anybody who has one could fill the inbox with it.
    fn once(&self, id: EventId) -> Option<Change> {
        if self.verified.notification.notify_id().is_some() {
            return None;
        }
        Some(Change::Remember {
            key: self.unnamed_key(),
            value: Secret::new(id.to_bytes().to_vec()),
            expires_at: self.inner.parts.clock.now_ms().saturating_add(UNNAMED_MS),
        })
    }

    fn unnamed_key(&self) -> MemoKey {
        let app_id = self.verified.app.app_id.as_str();
        let signed = [app_id, self.verified.notification.sign_content()];
        MemoKey::new("unnamed-notification", &signed)
    }

    /// Whether it came before.
    pub(super) async fn is_known(&self) -> Result<bool, StoreError> {
        let store = &self.inner.parts.store;
        let Some(notify_id) = self.verified.notification.notify_id() else {
            let now = self.inner.parts.clock.now_ms();
            return Ok(store.recall(self.unnamed_key(), now).await?.is_some());
        };
        let push = self.verified.notification.authorization();
        let push = push.and_then(Result::ok);
        let received_by = self.verified.app.app_id.clone();
        let filed_under = push.map(|push| self.own_app_id(&push.app_id));
        let filed_under = filed_under.filter(|app_id| *app_id != received_by);
        for app_id in [Some(received_by), filed_under].into_iter().flatten() {
            let known = store.known(app_id, notify_id.to_owned()).await?;
            if known.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The tokens of a user who cancelled: those for the merchant it names, else for our own app.
    /// A login after the message was sent isn't meant: what Alipay sends again, or what was refused
    /// and is verified now, may be days old.
    fn forgotten_user(&self) -> Vec<Change> {
        let Some(said) = self.verified.notification.user_cancellation() else {
            return Vec::new();
        };
        let auth_app_id = match said.auth_app_id.as_deref().map(AuthAppId::new) {
            None => None,
            Some(Ok(id)) => Some(id).filter(|id| id.as_str() != self.verified.app.app_id.as_str()),
            // It names somebody, but nobody who can be told.
            Some(Err(_)) => return Vec::new(),
        };
        let obtained_until = said.sent_at.map(|at| at.saturating_add(CLOCKS_DIFFER_MS));
        let names = [said.user_id, said.open_id].into_iter().flatten();
        let forget = |name| Change::ForgetUser {
            key: UserKey {
                app_id: self.verified.app.app_id.clone(),
                auth_app_id: auth_app_id.clone(),
                name,
            },
            only: None,
            obtained_until,
        };
        names
            .filter_map(|name| UserName::new(&name))
            .map(forget)
            .collect()
    }

    /// Keeps the notification for the backend and nothing else.
    fn hand_on(&self, id: EventId) -> Vec<Change> {
        vec![Change::Receive(Box::new(self.plain_entry(id)))]
    }

    /// Keeps the time of a cancellation whose authorisation isn't known yet, and hands it on.
    fn cancel_unknown(&self, id: EventId, revocation: Revocation) -> Vec<Change> {
        vec![Change::Revoke {
            revocation,
            entry: Some(Box::new(self.plain_entry(id))),
        }]
    }

    fn plain_entry(&self, id: EventId) -> InboxEntry {
        let secret = self.verified.notification.holds_secret();
        let form = match (secret, self.settings.authorization) {
            (false, _) => DeliveryForm::AsConfigured,
            (true, AuthorizationDelivery::Event) => DeliveryForm::Redacted,
            (true, AuthorizationDelivery::Both | AuthorizationDelivery::Verbatim) => {
                DeliveryForm::Verbatim
            }
        };
        self.entry(id, form)
    }

    fn authorize(&self, id: EventId, authorization: Authorization) -> Vec<Change> {
        let mut entry = self.main_entry(id, MERCHANT_AUTHORIZED);
        entry.app_id = authorization.app_id.clone();
        entry.auth_app_id = Some(authorization.auth_app_id.clone());
        entry.pid = authorization.pid.clone();
        let first = Change::Authorize {
            authorization: Box::new(authorization),
            entry: Some(Box::new(entry)),
        };
        std::iter::once(first).chain(self.verbatim_copy()).collect()
    }

    fn revoke(&self, id: EventId, revocation: Revocation) -> Vec<Change> {
        let mut entry = self.main_entry(id, MERCHANT_REVOKED);
        entry.auth_app_id = Some(revocation.auth_app_id.clone());
        let first = Change::Revoke {
            revocation,
            entry: Some(Box::new(entry)),
        };
        std::iter::once(first).chain(self.verbatim_copy()).collect()
    }

    /// The entry that goes with an authorisation or cancellation: the event, or Alipay's bytes.
    fn main_entry(&self, id: EventId, event_type: &str) -> InboxEntry {
        match self.settings.authorization {
            AuthorizationDelivery::Verbatim => self.entry(id, DeliveryForm::Verbatim),
            AuthorizationDelivery::Both | AuthorizationDelivery::Event => InboxEntry {
                event_type: event_type.to_owned(),
                ..self.entry(id, DeliveryForm::Event)
            },
        }
    }

    /// With `delivery.authorization = "both"`, Alipay's bytes as an entry of their own, that shares
    /// the fate of the first one: of what is stale, the backend hears neither way. The `notify_id`
    /// stands on the first one.
    fn verbatim_copy(&self) -> Option<Change> {
        (self.settings.authorization == AuthorizationDelivery::Both).then(|| {
            Change::Accompany(Box::new(InboxEntry {
                notify_id: None,
                ..self.entry(
                    self.inner.ids.next(self.arrival.now),
                    DeliveryForm::Verbatim,
                )
            }))
        })
    }

    fn entry(&self, id: EventId, form: DeliveryForm) -> InboxEntry {
        let (notification, arrival) = (&self.verified.notification, self.arrival);
        let auth_app_id = notification
            .auth_app_id()
            .and_then(|id| AuthAppId::new(&id).ok());
        InboxEntry {
            id,
            app_id: self.verified.app.app_id.clone(),
            notify_id: notification.notify_id().map(ToOwned::to_owned),
            event_type: notification.event_type().to_owned(),
            pid: None,
            received_at: arrival.now,
            notify_path: arrival.notify_path.clone(),
            notify_query: arrival.notify_query.clone(),
            order_key: notification.out_trade_no(),
            scheme: Some(notification.scheme()),
            opened_content: notification
                .opened_content()
                .map(|text| Secret::new(text.to_owned())),
            auth_app_id,
            body: Some(Body {
                content_type: arrival
                    .content_type
                    .clone()
                    .unwrap_or_else(|| "application/x-www-form-urlencoded".to_owned()),
                bytes: arrival.body.clone(),
            }),
            event: None,
            form,
        }
    }

    /// What a push authorises; nothing where its version isn't known to us, or an id in it is
    /// none.
    fn authorization(&self, push: AuthorizationPush) -> Option<Authorization> {
        if !push.version_supported {
            return None;
        }
        let now = self.arrival.now;
        Some(Authorization {
            app_id: self.own_app_id(&push.app_id),
            auth_app_id: AuthAppId::new(&push.auth_app_id).ok()?,
            pid: push.user_id.as_deref().and_then(|id| Pid::new(id).ok()),
            alias: None,
            reference: None,
            token: AppAuthToken {
                app_auth_token: push.app_auth_token,
                app_refresh_token: push.app_refresh_token,
                stated_expiry: push.expires_in.and_then(|s| expiry(now, s)),
            },
            rank: push
                .auth_time
                .map_or_else(|| self.rank_untimed(), Rank::AuthTime),
            source: Source::Push,
            bound: true,
            is_plugin: push.is_plugin,
            agent_app_id: push.agent_app_id,
            renews: None,
            trigger: push.trigger,
            error: push.error,
            encrypt_key: None,
        })
    }

    /// The push as it ranks against what is stored. One that is older than nothing but the sending of a
    /// cancellation may yet have come after that: then Alipay is asked whether its token holds, and
    /// where it can't be asked the push is refused, so that it comes again. What came before is known
    /// anyway.
    async fn ranked(&self, given: Authorization) -> Result<Authorization, Refusal> {
        let key = MerchantKey::Exact(given.app_id.clone(), given.auth_app_id.clone());
        let stored = match self.inner.parts.store.find(key).await {
            // The push replaces it.
            Err(StoreError::Damaged { .. }) => None,
            other => other?.pop(),
        };
        let Some(rank) = stored.and_then(|merchant| merchant.rank_if_proved(&given)) else {
            return Ok(given);
        };
        if self.is_known().await? {
            return Ok(given);
        }
        match self.holds(&given).await {
            Some(true) => Ok(Authorization { rank, ..given }),
            Some(false) => Ok(given),
            None => Err(Refusal::Unproved),
        }
    }

    /// Whether Alipay says that the token of a push holds; `None` where it can't be asked now.
    async fn holds(&self, given: &Authorization) -> Option<bool> {
        let holds = self.inner.parts.tokens.holds(given);
        match tokio::time::timeout(QUERY_PATIENCE, holds).await {
            Ok(Ok(holds)) => Some(holds),
            // It won't answer otherwise however often the push comes, which then would be lost.
            Ok(Err(
                error @ (TokenError::AppUnknown { .. }
                | TokenError::Refused { .. }
                | TokenError::Reply(_)),
            )) => {
                tracing::warn!(%error, "Alipay doesn't say whether the token of a push holds");
                Some(false)
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "whether the token of a push holds could not be checked");
                None
            }
            Err(_) => {
                tracing::warn!("whether the token of a push holds could not be checked in time");
                None
            }
        }
    }

    /// How a push without a time of its own ranks: now, but what was refused days ago must not win
    /// over what came since.
    fn rank_untimed(&self) -> Rank {
        match self.arrival.origin {
            Origin::Refused(_) => Rank::AuthTime(self.arrival.now),
            Origin::Sender(_) => Rank::AfterStored,
        }
    }

    /// The triple belongs to `detail.app_id` where that is ours, else to the receiver.
    fn own_app_id(&self, claimed: &str) -> AppId {
        let app = self.inner.parts.apps.named(claimed);
        app.unwrap_or_else(|| self.verified.app.clone())
            .app_id
            .clone()
    }

    /// What a cancellation revokes; nothing where its merchant can't be told, or Alipay doesn't
    /// confirm a cancellation that isn't newer than the authorisation. One that only says when it
    /// was sent may be an old one sent again: it is asked about, and counts as newer where Alipay
    /// can't be asked.
    async fn cancelled(&self, said: &Cancellation) -> Result<Cancelled, StoreError> {
        let merchant = match self.merchant(said).await {
            // Refusing the message would lose it, and the merchant can't be called any more anyway.
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::error!(%error, "the merchant of a cancellation can't be read");
                None
            }
            other => other?,
        };
        let Some(merchant) = merchant else {
            return Ok(self
                .unknown(said)
                .map_or(Cancelled::Nothing, Cancelled::Unknown));
        };
        let plain = Revocation::new(&merchant, said.at);
        if said.at.is_some() && merchant.revoke(&plain, self.arrival.now).is_some() {
            return Ok(Cancelled::Known(plain));
        }
        // Its time stays, though this one was sent later: it may be the same cancellation sent again, and what
        // was given between the two would rank below it, even what Alipay calls good (`Rank::Since`, or
        // `Rank::Proved` over the time before). What is cancelled of that shows by its first refused call.
        if matches!(merchant.status, MerchantStatus::Revoked { .. }) {
            return Ok(Cancelled::Nothing);
        }
        let asked_at = self.inner.parts.clock.now_ms();
        match self.confirms(&merchant).await {
            Some(true) => {}
            Some(false) => return Ok(Cancelled::Nothing),
            None => {
                let sent = Revocation {
                    estimated: true,
                    ..Revocation::new(&merchant, said.sent_at)
                };
                let is_newer = said.at.is_none()
                    && said.sent_at.is_some()
                    && merchant.revoke(&sent, self.arrival.now).is_some();
                return Ok(match is_newer {
                    true => Cancelled::Known(sent),
                    false => Cancelled::Nothing,
                });
            }
        }
        // It holds for the token asked about: another may have come meanwhile.
        let at = said.at.or(said.sent_at).unwrap_or(asked_at).min(asked_at);
        Ok(Cancelled::Known(Revocation {
            estimated: said.at.is_none(),
            ..Revocation::confirmed(&merchant, at)
        }))
    }

    /// The cancellation of a merchant without a record, where it says of which and when.
    fn unknown(&self, said: &Cancellation) -> Option<Revocation> {
        let auth_app_id = said.auth_app_id.as_deref()?;
        Some(Revocation {
            app_id: self.verified.app.app_id.clone(),
            auth_app_id: AuthAppId::new(auth_app_id).ok()?,
            // It happened no later than it was sent.
            at: Some(said.at.or(said.sent_at)?),
            estimated: said.at.is_none(),
            only: None,
        })
    }

    /// The one record that a cancellation means.
    async fn merchant(&self, said: &Cancellation) -> Result<Option<Merchant>, StoreError> {
        let app_id = &self.verified.app.app_id;
        if let Some(id) = &said.auth_app_id {
            let Ok(id) = AuthAppId::new(id) else {
                return Ok(None);
            };
            let key = MerchantKey::Exact(app_id.clone(), id);
            return Ok(self.inner.parts.store.find(key).await?.pop());
        }
        let Some(pid) = said.user_id.as_deref().and_then(|id| Pid::new(id).ok()) else {
            return Ok(None);
        };
        let key = MerchantKey::Pid(pid);
        let mut found = self.inner.parts.store.find_all(key).await?;
        found.merchants.retain(|record| record.app_id == *app_id);
        found
            .damaged
            .retain(|record| record.may_be_of(app_id.as_str()));
        match (found.merchants.pop(), found.damaged.pop()) {
            (None, Some(damaged)) => Err(damaged.into()),
            (Some(only), None) if found.merchants.is_empty() => Ok(Some(only)),
            // None, or several, whether they can be read or not: never guess.
            _ => Ok(None),
        }
    }

    /// Whether Alipay says that the authorisation is over; `None` where it can't be asked, or what it
    /// says leaves that open: calls with a dead token fail by themselves.
    async fn confirms(&self, merchant: &Merchant) -> Option<bool> {
        let ended = self.inner.parts.tokens.has_ended(merchant);
        match tokio::time::timeout(QUERY_PATIENCE, ended).await {
            Ok(Ok(None)) => {
                tracing::warn!("a cancellation could not be checked: a new pair may yet be had");
                None
            }
            Ok(Ok(has_ended)) => has_ended,
            Ok(Err(error)) => {
                tracing::warn!(%error, "a cancellation could not be checked");
                None
            }
            Err(_) => {
                tracing::warn!("a cancellation could not be checked in time");
                None
            }
        }
    }
}

/// What a cancellation means.
enum Cancelled {
    /// It revokes a record.
    Known(Revocation),
    /// Nothing that the sidecar could tell.
    Nothing,
    /// It came before the authorisation that it cancels.
    Unknown(Revocation),
}

/// The moment `seconds` after `now`, where there is one.
fn expiry(now: i64, seconds: u64) -> Option<i64> {
    i64::try_from(seconds)
        .ok()?
        .checked_mul(1000)?
        .checked_add(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_ends_has_no_expiry() {
        assert_eq!(expiry(5, 2), Some(2005));
        assert_eq!(expiry(5, 0), Some(5));
        for seconds in [
            u64::MAX,
            i64::MAX.unsigned_abs(),
            i64::MAX.unsigned_abs() / 1000,
        ] {
            assert_eq!(expiry(i64::MAX - 1, seconds), None);
        }
    }
}
