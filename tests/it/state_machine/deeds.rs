//! What a step of a history means now: the changes that are committed.

use alipay_sidecar::model::authorization::{
    Doubt, Evidence, Purchase, Rank, Refusal, Revocation, Source,
};
use alipay_sidecar::model::delivery::{
    Attempt, AttemptError, DeliveryState, Lease, Settlement, Via,
};
use alipay_sidecar::model::id::{AuthAppId, EventId, Pid};
use alipay_sidecar::model::merchant::MerchantStatus;
use alipay_sidecar::model::notification::InboxEntry;
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::store::{Change, Fate};

use super::Pair;
use super::model::Triple;
use super::steps::{Step, Told, Which};
use crate::store::{alias, app, authorization, authorize, entry, merchant_app, secret};

impl Pair {
    pub(super) fn changes(&mut self, step: &Step) -> Vec<Change> {
        if let Step::Accept(which) = step {
            return self.accept(*which);
        }
        vec![match step {
            Step::Accept(_) => unreachable!("it is two changes"),
            Step::Accompany => Change::Accompany(Box::new(self.receive(None, None))),
            Step::Again(which) => match self.received.get(which % self.received.len().max(1)) {
                Some(known) => Change::Receive(Box::new(known.clone())),
                None => Change::Receive(Box::new(self.receive(None, None))),
            },
            Step::OfAuthorization { in_force, step } => Change::OfAuthorization {
                fate: [Fate::Applied, Fate::InForce][usize::from(*in_force)],
                changes: self.changes(step),
            },
            Step::Claim { .. }
            | Step::Extend { .. }
            | Step::PutOff { .. }
            | Step::Receive { .. }
            | Step::Replay { .. }
            | Step::Settle { .. } => self.delivery(step),
            Step::Authorize { .. }
            | Step::Doubt { .. }
            | Step::FetchedKey { .. }
            | Step::FillPid { .. }
            | Step::Name { .. }
            | Step::Remove { .. }
            | Step::Revoke { .. }
            | Step::Used { .. } => self.merchant(step),
            step => self.kept(step),
        }]
    }

    fn delivery(&mut self, step: &Step) -> Change {
        let now = self.model.now;
        match step {
            Step::Claim { which, by } => {
                let due = self.model.inbox.claimable(now, usize::MAX).0;
                let (since, until) = (now, now + by);
                Change::Claim {
                    id: self.pick(*which, &due),
                    lease: Lease { since, until },
                }
            }
            Step::Extend { which, by } => Change::Extend {
                id: self.pick(*which, &self.leased()),
                now,
                until: now + by,
            },
            Step::PutOff { which, by, parked } => {
                let (id, until) = (self.any(*which), now + by);
                match parked {
                    true => Change::Park { id, until },
                    false => Change::Postpone { id, until },
                }
            }
            Step::Receive { notify, order } => {
                Change::Receive(Box::new(self.receive(*notify, *order)))
            }
            Step::Replay { which } => {
                let settled = self.model.inbox.entries.iter();
                let settled = settled.filter(|(_, owed)| owed.state != DeliveryState::Pending);
                let settled: Vec<_> = settled.map(|(id, _)| *id).collect();
                let id = self.pick(*which, &settled);
                Change::Replay { id, now }
            }
            Step::Settle {
                which,
                end,
                pulled,
                owed,
            } => self.settle(*which, *end, *pulled, *owed),
            other => unreachable!("{other:?}"),
        }
    }

    fn settle(
        &self,
        which: Which,
        end: Option<Option<i64>>,
        pulled: bool,
        owed: Option<bool>,
    ) -> Change {
        let now = self.model.now;
        let fit = match pulled {
            true => self.leased(),
            false => self.model.inbox.pending().map(|(id, _)| *id).collect(),
        };
        let id = self.pick(which, &fit);
        let found = self.model.inbox.entries.get(&id);
        let lease = found.and_then(|owed| owed.lease);
        let attempt = match lease.filter(|_| pulled) {
            Some(lease) => lease.ended(now, end.map(|_| AttemptError::Nacked)),
            None => Attempt {
                at: now,
                duration_ms: 5,
                via: [Via::Push, Via::Pull][usize::from(pulled)],
                reason: None,
                status: Some(500),
                error: Some(AttemptError::Status),
                to: (!pulled).then(|| "https://backend.example/events".to_owned()),
            },
        };
        let since = found.map_or(now, |owed| owed.owed_since);
        Change::Settle {
            id,
            attempt,
            owed_since: owed.map(|is_now| since - i64::from(!is_now)),
            settlement: match end {
                None => Settlement::Delivered,
                Some(None) => Settlement::GivenUp,
                Some(Some(by)) => Settlement::RetryAt(now + by),
            },
        }
    }

    fn leased(&self) -> Vec<EventId> {
        let leases = self.model.inbox.leased().into_iter();
        leases.map(|(_, id)| id).collect()
    }

    /// One of those that are fit, or one of all.
    fn pick(&self, which: Which, fit: &[EventId]) -> EventId {
        match fit.get(which.number % fit.len().max(1)) {
            Some(id) if which.fit => *id,
            _ => self.any(which.number),
        }
    }

    fn merchant(&mut self, step: &Step) -> Change {
        let now = self.model.now;
        let app_id = app();
        let auth_app_id = |merchant: &u8| merchant_app(u32::from(*merchant));
        match step {
            Step::Authorize {
                merchant,
                token,
                rank: (kind, at),
                alias,
                pid,
                key,
                source,
                told,
            } => {
                let rank = rank(*kind, now + at);
                let mut given = authorization(u32::from(*merchant), &token_text(*token), rank);
                given.alias = alias.map(|n| self::alias(&alias_text(n)));
                given.pid = pid.map(self::pid);
                given.encrypt_key = key.map(|n| secret(&format!("given{n}")));
                let sources = [Source::Import, Source::Push, Source::Refresh];
                given.source = sources[usize::from(*source)];
                // A refresh goes on with the token in force, or one that has been replaced.
                let in_force = self.model.merchants.all.get(given.auth_app_id.as_str());
                given.renews = match kind {
                    2 => in_force.map(|triple| secret(&triple.token)),
                    6 => Some(secret(&token_text(0))),
                    _ => None,
                };
                authorize(given, self.told(*told))
            }
            Step::Doubt {
                merchant,
                token,
                doubt,
                evidence,
                told,
            } => Change::Doubt {
                refusal: Refusal {
                    app_id,
                    auth_app_id: self.fit(*merchant, |_| true),
                    app_auth_token: self.token(&self.fit(*merchant, |_| true), *token),
                    doubt: doubt_kind(*doubt),
                    at: now - 1,
                    evidence: evidence_kind(*evidence),
                },
                entry: self.told(*told).map(Box::new),
            },
            Step::FetchedKey { merchant, key } => Change::FetchedKey {
                app_id,
                auth_app_id: auth_app_id(merchant),
                encrypt_key: secret(&format!("told{key}")),
            },
            Step::FillPid { merchant, pid } => Change::FillPid {
                app_id,
                auth_app_id: self.fit(*merchant, |triple| triple.pid.is_none()),
                pid: self::pid(*pid),
            },
            Step::Name { merchant, alias } => Change::NameMerchant {
                app_id,
                auth_app_id: auth_app_id(merchant),
                alias: alias.map(|n| self::alias(&alias_text(n))),
            },
            Step::Remove { merchant } => Change::RemoveMerchant(app_id, auth_app_id(merchant)),
            Step::Revoke {
                merchant,
                at,
                only,
                told,
            } => Change::Revoke {
                revocation: Revocation {
                    app_id,
                    auth_app_id: auth_app_id(merchant),
                    at: at.map(|by| now + by),
                    estimated: false,
                    only: only.map(|only| self.token(&merchant_app(u32::from(*merchant)), only)),
                },
                entry: self.told(*told).map(Box::new),
            },
            Step::Used {
                merchant,
                token,
                worked,
            } => {
                let is_suspect =
                    |triple: &Triple| matches!(triple.status, MerchantStatus::Suspect { .. });
                let auth_app_id = self.fit(*merchant, |t| *worked || is_suspect(t));
                let app_auth_token = self.token(&auth_app_id, *token);
                match worked {
                    true => Change::Worked {
                        app_id,
                        auth_app_id,
                        app_auth_token,
                    },
                    false => Change::Trust {
                        app_id,
                        auth_app_id,
                        app_auth_token,
                    },
                }
            }
            other => unreachable!("{other:?}"),
        }
    }

    /// A merchant that is fit for it, mostly.
    fn fit(&self, merchant: u8, fits: impl Fn(&Triple) -> bool) -> AuthAppId {
        let all = self.model.merchants.all.iter();
        let fitting: Vec<_> = all.filter(|(_, triple)| fits(triple)).collect();
        match fitting.get(usize::from(merchant) % fitting.len().max(1)) {
            Some((id, _)) if merchant > 0 => AuthAppId::new(id).expect("an id"),
            _ => merchant_app(u32::from(merchant)),
        }
    }

    /// This token, or the one in force.
    fn token(&self, merchant: &AuthAppId, token: Option<u8>) -> Secret<String> {
        let stored = self.model.merchants.all.get(merchant.as_str());
        let in_force = stored.map(|stored| stored.token.clone());
        let token = token.map(token_text).or(in_force);
        secret(&token.unwrap_or_default())
    }

    fn told(&mut self, told: Told) -> Option<InboxEntry> {
        told.map(|notify| self.receive(notify, None))
    }

    fn receive(&mut self, notify: Option<u8>, order: Option<(u8, u8)>) -> InboxEntry {
        let now = self.model.now;
        let notify_id = notify.map(|n| format!("notify{n}"));
        let received = InboxEntry {
            id: self.ids.next(now),
            auth_app_id: order.map(|(owner, _)| merchant_app(u32::from(owner))),
            order_key: order.map(|(_, order)| format!("order{order}")),
            ..entry(now, notify_id.as_deref())
        };
        let last = self.received.last();
        assert!(last.is_none_or(|last| last.id < received.id), "ids go up");
        self.received.push(received.clone());
        received
    }

    /// One of the entries there were; a new id where there was none.
    pub(super) fn any(&self, which: usize) -> EventId {
        let count = self.received.len().max(1);
        let found = self.received.get(which % count);
        found.map_or_else(|| EventId::new(self.model.now), |received| received.id)
    }
}

fn rank(kind: u8, at: i64) -> Rank {
    let bought = |purchase, over| Rank::Bought { purchase, at, over };
    match kind {
        0 => Rank::AfterStored,
        1 => Rank::EstimatedTime(at),
        2 => bought(Purchase::Renewal, None),
        3 => Rank::Since(at),
        4 => Rank::Unranked,
        6 => bought(Purchase::Revival, Some(at - 2)),
        7 => bought(Purchase::Exchange, Some(at + 1)),
        _ => Rank::AuthTime(at),
    }
}

fn doubt_kind(n: u8) -> Doubt {
    match n {
        0 => Doubt::NewTokenRefused,
        1 => Doubt::RefreshTokenRefused,
        _ => Doubt::TokenRefused,
    }
}

fn evidence_kind(n: u8) -> Evidence {
    match n {
        0 => Evidence::Invalid,
        1 => Evidence::WorkedSince,
        _ => Evidence::None,
    }
}

pub(super) fn alias_text(n: u8) -> String {
    format!("shop{n}")
}

pub(super) fn token_text(n: u8) -> String {
    format!("token{n}")
}

pub(super) fn pid(n: u8) -> Pid {
    Pid::new(&format!("208810214622513{n}")).expect("a PID")
}
