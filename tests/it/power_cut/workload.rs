//! The workload: a list of commits that is the same whoever applies it, with every kind of change
//! there is. Here: notifications, their deliveries, merchants; the rest is in `kept`.

use alipay_sidecar::model::authorization::{Doubt, Evidence, Rank, Refusal, Revocation};
use alipay_sidecar::model::delivery::{Attempt, AttemptError, Lease, Settlement, Via};
use alipay_sidecar::model::id::EventId;
use alipay_sidecar::model::notification::{Body, DeliveryForm, InboxEntry};
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::store::embedded::EmbeddedStore;
use alipay_sidecar::store::error::StoreError;
use alipay_sidecar::store::{Change, Effect, Fate, MemoKey, Store};
use bytes::Bytes;

use super::random::Random;
use crate::store::{START, alias, app, authorization, authorize, entry, merchant_app, pid, secret};

/// How much time passes between two rounds of the workload, milliseconds.
pub(super) const ROUND_MS: i64 = 3_600_000;
/// How long what is delivered is kept, milliseconds.
pub(super) const RETAIN_MS: i64 = 3 * ROUND_MS;
/// Every so many rounds a month is over, so that dead letters and `notify_id`s are forgotten, too.
const MONTH: u32 = 5;
pub(super) const MONTH_MS: i64 = 31 * 24 * 3_600_000;
/// How many orders, merchants and tokens there are.
pub(super) const FEW: usize = 5;

/// What is durable as a whole or not at all.
#[derive(Debug)]
pub(super) enum Unit {
    Commit(Vec<Change>),
    Prune {
        now: i64,
    },
    /// A commit that is refused after it has written: nothing of it may be seen.
    Refused(Vec<Change>),
}

impl Unit {
    /// Gives the effects of its changes.
    pub(super) async fn apply(&self, store: &EmbeddedStore) -> Result<Vec<Effect>, StoreError> {
        match self {
            Self::Commit(changes) => store.commit(changes.clone()).await,
            Self::Prune { now } => {
                store.prune(*now, RETAIN_MS).await?;
                Ok(Vec::new())
            }
            Self::Refused(changes) => match store.commit(changes.clone()).await {
                Err(StoreError::TokenConflict { .. }) => Ok(Vec::new()),
                Err(other) => Err(other),
                Ok(effects) => panic!("it had to be refused: {effects:?}"),
            },
        }
    }

    /// What it changes.
    pub(super) fn changes(&self) -> &[Change] {
        match self {
            Self::Commit(changes) => changes,
            Self::Prune { .. } | Self::Refused(_) => &[],
        }
    }

    /// The entry that it receives, if that is all it does.
    pub(super) fn received(&self) -> Option<&InboxEntry> {
        match self.changes() {
            [Change::Receive(entry)] => Some(entry),
            _ => None,
        }
    }
}

/// Makes the workload, round by round.
pub(super) struct Writer {
    pub(super) random: Random,
    pub(super) units: Vec<Unit>,
    ids: Vec<EventId>,
    /// What was claimed, and when.
    claimed: Vec<(EventId, i64)>,
    /// The token that each merchant has.
    tokens: [Option<String>; FEW],
    /// What was refused and isn't released yet, by its content.
    pub(super) refused: Vec<(EventId, u8)>,
    pub(super) now: i64,
}

/// What happens in `rounds` rounds.
pub(super) fn workload(rounds: u32) -> Vec<Unit> {
    let mut writer = Writer {
        random: Random::new(1),
        units: Vec::new(),
        ids: Vec::new(),
        claimed: Vec::new(),
        tokens: Default::default(),
        refused: Vec::new(),
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
        for n in 0..3 + self.random.below(4) {
            let received = self.entry(&format!("notify-{round}-{n}"));
            self.commit(vec![Change::Receive(Box::new(received))]);
        }
        self.unnamed(round);
        self.merchant(round);
        for _ in 0..3 {
            self.settle();
        }
        self.put_off();
        self.pulled();
        self.doubted(round);
        self.described(round);
        self.conflict(round);
        self.keep(round);
        if round % MONTH == MONTH - 1 {
            self.now += MONTH_MS;
        }
        let now = self.now;
        self.units.push(Unit::Prune { now });
    }

    pub(super) fn commit(&mut self, changes: Vec<Change>) {
        self.units.push(Unit::Commit(changes));
    }

    /// One of the first `end` numbers.
    fn few(&mut self, end: usize) -> u32 {
        u32::try_from(self.random.below(end)).expect("few")
    }

    pub(super) fn entry(&mut self, notify_id: &str) -> InboxEntry {
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
        if round % 3 == 1 {
            self.commit(vec![Change::Unremember(memo(round - 1))]);
        }
    }

    fn merchant(&mut self, round: u32) {
        let n = match round % 4 {
            3 => self.given(),
            _ => self.few(FEW),
        };
        let entry = InboxEntry {
            form: DeliveryForm::Event,
            ..self.entry(&format!("notify-{round}-merchant"))
        };
        let at = time_of(round);
        let change = if round % 4 == 3 {
            Change::Revoke {
                revocation: Revocation {
                    app_id: app(),
                    auth_app_id: merchant_app(n),
                    at: Some(at),
                    estimated: false,
                    only: None,
                },
                entry: Some(Box::new(entry)),
            }
        } else {
            self.tokens[n as usize] = Some(token(round));
            let mut given = authorization(n, &token(round), Rank::AuthTime(at));
            given.pid = None;
            authorize(given, Some(entry))
        };
        let told = Change::OfAuthorization {
            fate: Fate::Applied,
            changes: vec![Change::FetchedKey {
                app_id: app(),
                auth_app_id: merchant_app(n),
                encrypt_key: secret(&format!("told-{round}")),
            }],
        };
        self.commit(vec![change, told]);
    }

    /// A merchant that was given a token.
    fn given(&mut self) -> u32 {
        let from = self.few(FEW);
        let all = (from..)
            .take(FEW)
            .map(|n| n % u32::try_from(FEW).expect("few"));
        let mut given = all.filter(|n| self.tokens[*n as usize].is_some());
        given.next().unwrap_or(from)
    }

    /// What is learned of tokens while they are used.
    fn doubted(&mut self, round: u32) {
        let n = self.given();
        let Some(token) = self.tokens[n as usize].clone() else {
            return;
        };
        let evidence = [Evidence::None, Evidence::None, Evidence::Invalid][round as usize % 3];
        let refusal = Refusal {
            app_id: app(),
            auth_app_id: merchant_app(n),
            app_auth_token: secret(&token),
            doubt: [Doubt::TokenRefused, Doubt::RefreshTokenRefused][round as usize % 2],
            at: time_of(round) + 1,
            evidence,
        };
        let entry = Some(Box::new(self.entry(&format!("notify-{round}-doubt"))));
        self.commit(vec![Change::Doubt { refusal, entry }]);
        let (app_id, auth_app_id) = (app(), merchant_app(n));
        let app_auth_token = secret(&token);
        self.commit(vec![match round % 2 {
            0 => Change::Trust {
                app_id,
                auth_app_id,
                app_auth_token,
            },
            _ => Change::Worked {
                app_id,
                auth_app_id,
                app_auth_token,
            },
        }]);
    }

    /// What operators and Alipay add to merchants; now and then one goes.
    fn described(&mut self, round: u32) {
        let n = self.few(FEW);
        let (app_id, auth_app_id) = (app(), merchant_app(n));
        let companion = self.entry(&format!("notify-{round}-companion"));
        let (own_app, merchant) = (app_id.clone(), auth_app_id.clone());
        let name = Change::NameMerchant {
            app_id: app_id.clone(),
            auth_app_id: auth_app_id.clone(),
            alias: Some(alias(&format!("shop{n}"))),
        };
        self.commit(vec![name, Change::Accompany(Box::new(companion))]);
        let fetched = |name: &str| Change::FetchedKey {
            app_id: own_app.clone(),
            auth_app_id: merchant.clone(),
            encrypt_key: secret(&format!("{name}-{round}")),
        };
        self.commit(vec![fetched("key")]);
        let pid = pid();
        self.commit(vec![Change::FillPid {
            app_id,
            auth_app_id,
            pid,
        }]);
        if round % 4 == 2 {
            self.commit(vec![Change::RemoveMerchant(app(), merchant_app(n))]);
            self.tokens[n as usize] = None;
        }
    }

    /// A merchant that claims the token of another, in one commit with what is well.
    fn conflict(&mut self, round: u32) {
        let Some(owned) = self.tokens.iter().flatten().next().cloned() else {
            return;
        };
        let before = self.ids.len();
        let entry = self.entry(&format!("notify-{round}-conflict"));
        self.ids.truncate(before);
        let stranger = authorization(99, &owned, Rank::AuthTime(time_of(round)));
        let changes = vec![Change::Receive(Box::new(entry)), authorize(stranger, None)];
        self.units.push(Unit::Refused(changes));
    }

    fn settle(&mut self) {
        let settlement = match self.random.below(4) {
            0 => Settlement::GivenUp,
            1 => Settlement::RetryAt(self.now + ROUND_MS / 2),
            _ => Settlement::Delivered,
        };
        let id = self.any();
        self.settled(id, (self.now, Via::Push), settlement);
    }

    fn settled(&mut self, id: EventId, (at, via): (i64, Via), settlement: Settlement) {
        let attempt = Attempt {
            reason: None,
            at,
            duration_ms: 7,
            via,
            status: (via == Via::Push).then_some(200),
            error: match settlement {
                Settlement::Delivered => None,
                _ if via == Via::Pull => Some(AttemptError::Nacked),
                _ => Some(AttemptError::NotSuccess),
            },
            to: (via == Via::Push).then(|| "https://backend.example/events".to_owned()),
        };
        self.commit(vec![Change::Settle {
            id,
            attempt,
            owed_since: None,
            settlement,
        }]);
    }

    fn put_off(&mut self) {
        let (id, until) = (self.any(), self.now + ROUND_MS);
        self.commit(vec![Change::Postpone { id, until }]);
        let (id, until) = (self.any(), self.now + 2 * ROUND_MS);
        self.commit(vec![Change::Park { id, until }]);
        let (id, now) = (self.any(), self.now);
        self.commit(vec![Change::Replay { id, now }]);
    }

    /// A backend that pulls: some leases are settled, some extended, some lapse.
    fn pulled(&mut self) {
        let since = self.now;
        let until = since + ROUND_MS / 2;
        for _ in 0..3 {
            let id = self.any();
            let lease = Lease { since, until };
            self.commit(vec![Change::Claim { id, lease }]);
            self.claimed.push((id, since));
        }
        let (id, _) = self.claimed[self.claimed.len() - 1 - self.random.below(3)];
        let (now, until) = (self.now + 1, self.now + ROUND_MS);
        self.commit(vec![Change::Extend { id, now, until }]);
        let back = self.random.below(self.claimed.len().min(6));
        let (id, since) = self.claimed[self.claimed.len() - 1 - back];
        let settlement = match self.random.below(3) {
            0 => Settlement::RetryAt(self.now + ROUND_MS / 3),
            _ => Settlement::Delivered,
        };
        self.settled(id, (since, Via::Pull), settlement);
    }

    /// One of the latest entries.
    pub(super) fn any(&mut self) -> EventId {
        let back = self.random.below(self.ids.len().min(20));
        self.ids[self.ids.len() - 1 - back]
    }
}

pub(super) fn memo(round: u32) -> MemoKey {
    MemoKey::new("unnamed", &[&round.to_string()])
}

/// When a merchant authorised or cancelled: by the clock of the store, which stands still.
fn time_of(round: u32) -> i64 {
    START + i64::from(round) * 1000
}

pub(super) fn token(round: u32) -> String {
    format!("token-{round}")
}
