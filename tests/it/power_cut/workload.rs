//! The workload: a list of commits that is the same whoever applies it, and a picture of all that a
//! store shows, to compare two stores by.

use std::collections::HashSet;

use alipay_sidecar::model::authorization::{Rank, Revocation};
use alipay_sidecar::model::delivery::{Attempt, AttemptError, DeliveryState, Settlement, Via};
use alipay_sidecar::model::id::EventId;
use alipay_sidecar::model::notification::{Body, DeliveryForm, InboxEntry};
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::store::embedded::EmbeddedStore;
use alipay_sidecar::store::error::StoreError;
use alipay_sidecar::store::{Change, Directory, Inbox, MemoKey, MerchantKey, Store};
use bytes::Bytes;

use super::random::Random;
use crate::store::{START, app, authorization, authorize, entry, merchant_app};

/// How much time passes between two rounds of the workload, milliseconds.
const ROUND_MS: i64 = 3_600_000;
/// How long what is delivered is kept, milliseconds.
const RETAIN_MS: i64 = 3 * ROUND_MS;
/// Every so many rounds a month is over, so that dead letters and `notify_id`s are forgotten, too.
const MONTH: u32 = 8;
const MONTH_MS: i64 = 31 * 24 * 3_600_000;
/// How many orders, merchants and tokens there are.
const FEW: usize = 5;

/// What is durable as a whole or not at all.
#[derive(Debug)]
pub(super) enum Unit {
    Commit(Vec<Change>),
    Prune { now: i64 },
}

impl Unit {
    pub(super) async fn apply(&self, store: &EmbeddedStore) -> Result<(), StoreError> {
        match self {
            Self::Commit(changes) => store.commit(changes.clone()).await.map(drop),
            Self::Prune { now } => store.prune(*now, RETAIN_MS).await.map(drop),
        }
    }

    /// The entry that it receives, if that is all it does.
    pub(super) fn received(&self) -> Option<&InboxEntry> {
        match self {
            Self::Commit(changes) => match changes.as_slice() {
                [Change::Receive(entry)] => Some(entry),
                _ => None,
            },
            Self::Prune { .. } => None,
        }
    }
}

/// Makes the workload, round by round.
struct Writer {
    random: Random,
    units: Vec<Unit>,
    ids: Vec<EventId>,
    now: i64,
}

/// What happens in `rounds` rounds.
pub(super) fn workload(rounds: u32) -> Vec<Unit> {
    let mut writer = Writer {
        random: Random::new(1),
        units: Vec::new(),
        ids: Vec::new(),
        now: START,
    };
    for round in 0..rounds {
        writer.round(round);
    }
    writer.units
}

impl Writer {
    fn round(&mut self, round: u32) {
        self.now += ROUND_MS;
        for n in 0..3 + self.random.below(5) {
            let received = self.entry(&format!("notify-{round}-{n}"));
            self.commit(vec![Change::Receive(Box::new(received))]);
        }
        self.unnamed(round);
        self.merchant(round);
        for _ in 0..6 {
            self.settle();
        }
        let (id, until) = (self.any(), self.now + ROUND_MS);
        self.commit(vec![Change::Postpone { id, until }]);
        let (id, now) = (self.any(), self.now);
        self.commit(vec![Change::Replay { id, now }]);
        if round % MONTH == MONTH - 1 {
            self.now += MONTH_MS;
        }
        let now = self.now;
        self.units.push(Unit::Prune { now });
    }

    fn commit(&mut self, changes: Vec<Change>) {
        self.units.push(Unit::Commit(changes));
    }

    fn entry(&mut self, notify_id: &str) -> InboxEntry {
        self.now += 1;
        let order = self.random.below(2 * FEW);
        let bytes = vec![b'a'; self.random.below(3000)];
        let entry = InboxEntry {
            order_key: (order < FEW).then(|| format!("order-{order}")),
            body: Some(Body {
                content_type: "application/x-www-form-urlencoded".to_owned(),
                bytes: Bytes::from(bytes),
            }),
            ..entry(self.now, Some(notify_id))
        };
        self.ids.push(entry.id);
        entry
    }

    /// A notification without a `notify_id`, which is known again by what it says.
    fn unnamed(&mut self, round: u32) {
        let entry = InboxEntry {
            notify_id: None,
            ..self.entry("")
        };
        let remember = Change::Remember {
            key: memo(round),
            value: Secret::new(entry.id.to_bytes().to_vec()),
            expires_at: self.now + RETAIN_MS,
        };
        self.commit(vec![Change::Receive(Box::new(entry)), remember]);
    }

    fn merchant(&mut self, round: u32) {
        let n = u32::try_from(self.random.below(FEW)).expect("few");
        let entry = InboxEntry {
            form: DeliveryForm::Event,
            ..self.entry(&format!("notify-{round}-merchant"))
        };
        let change = if round % 4 == 3 {
            Change::Revoke {
                revocation: Revocation {
                    app_id: app(),
                    auth_app_id: merchant_app(n),
                    at: Some(self.now),
                    only: None,
                },
                entry: Some(Box::new(entry)),
            }
        } else {
            let rank = Rank::AuthTime(self.now);
            authorize(authorization(n, &token(round), rank), Some(entry))
        };
        self.commit(vec![change]);
    }

    fn settle(&mut self) {
        let settlement = match self.random.below(4) {
            0 => Settlement::GivenUp,
            1 => Settlement::RetryAt(self.now + ROUND_MS / 2),
            _ => Settlement::Delivered,
        };
        let attempt = Attempt {
            at: self.now,
            duration_ms: 7,
            via: Via::Push,
            status: Some(200),
            error: (settlement != Settlement::Delivered).then_some(AttemptError::NotSuccess),
        };
        let id = self.any();
        self.commit(vec![Change::Settle {
            id,
            attempt,
            owed_since: None,
            settlement,
        }]);
    }

    /// One of the latest entries.
    fn any(&mut self) -> EventId {
        let back = self.random.below(self.ids.len().min(20));
        self.ids[self.ids.len() - 1 - back]
    }
}

fn memo(round: u32) -> MemoKey {
    MemoKey::new("unnamed", &[&round.to_string()])
}

fn token(round: u32) -> String {
    format!("token-{round}")
}

/// All that `store` shows, line by line: every record, and what each index finds.
pub(super) async fn picture(store: &EmbeddedStore, rounds: u32) -> Result<Vec<String>, StoreError> {
    let mut lines = vec![format!("{:?}", store.counts().await?)];
    inbox(store, &mut lines).await?;
    for merchant in store.merchants(None, usize::MAX).await? {
        let token = merchant.token.app_auth_token.expose().clone();
        lines.push(format!("{token} {merchant:?}"));
    }
    for round in 0..rounds {
        let key = MerchantKey::Token(Secret::new(token(round)));
        for owner in store.find(key).await? {
            lines.push(format!("token {round} {}", owner.auth_app_id));
        }
        if let Some(value) = store.recall(memo(round), START).await? {
            lines.push(format!("memo {round} {:?}", value.expose()));
        }
    }
    Ok(lines)
}

async fn inbox(store: &EmbeddedStore, lines: &mut Vec<String>) -> Result<(), StoreError> {
    for (entry, delivery) in store.entries(None, None, usize::MAX).await? {
        let body = entry.body.as_ref().map(|body| body.bytes.len());
        lines.push(format!("{body:?} {entry:?} {delivery:?}"));
    }
    for state in [
        DeliveryState::Dead,
        DeliveryState::Delivered,
        DeliveryState::Ignored,
        DeliveryState::Pending,
    ] {
        let listed = store.entries(Some(state), None, usize::MAX).await?;
        let listed = listed.iter();
        let found: Vec<_> = listed.map(|(entry, d)| (entry.id, d.state)).collect();
        lines.push(format!("{state:?} {found:?}"));
    }
    for now in [START, START + 100 * MONTH_MS] {
        let due = store.due(now, usize::MAX, HashSet::new()).await?;
        let ids: Vec<_> = due.now.iter().map(|(entry, _)| entry.id).collect();
        lines.push(format!("due {ids:?} then {:?}", due.next_at));
    }
    Ok(())
}
