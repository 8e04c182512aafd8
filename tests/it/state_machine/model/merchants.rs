//! Triples, and what is learned of them.

use std::collections::BTreeMap;

use alipay_sidecar::model::authorization::{
    Authorization, Doubt, Evidence, Purchase, Rank, Refusal, Revocation, Source,
};
use alipay_sidecar::model::delivery::DeliveryState;
use alipay_sidecar::model::merchant::MerchantStatus;

use super::{Answer, DAY_MS, Done, Refused, gone};

/// The triple.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Triple {
    pub(in super::super) token: String,
    pub(in super::super) previous: Option<String>,
    pub(in super::super) auth_time: i64,
    pub(in super::super) estimated: bool,
    pub(in super::super) status: MerchantStatus,
    pub(in super::super) doubt: Option<Doubt>,
    pub(in super::super) refresh_refused: bool,
    pub(in super::super) alias: Option<String>,
    pub(in super::super) pid: Option<String>,
    /// The AES key, and whether Alipay told it.
    pub(in super::super) key: Option<(String, bool)>,
    pub(in super::super) source: Source,
    pub(in super::super) updated_at: i64,
}

impl Triple {
    fn revoked_at(&self) -> Option<i64> {
        match self.status {
            MerchantStatus::Revoked { at } => Some(at),
            MerchantStatus::Authorized | MerchantStatus::Suspect { .. } => None,
        }
    }

    fn newest(&self) -> i64 {
        self.revoked_at().unwrap_or(i64::MIN).max(self.auth_time)
    }

    fn is_inferred(&self) -> bool {
        self.revoked_at().is_some() && self.doubt.is_some()
    }

    /// What a time of its own must be newer than: one who is taken for cancelled because a token was
    /// refused may have authorised another before.
    fn newest_against(&self, token: &str) -> i64 {
        match self.is_inferred() && self.token != token {
            true => self.auth_time,
            false => self.newest(),
        }
    }

    /// The same for a token that Alipay says holds: a guess of ours doesn't count where Alipay refused it.
    fn newest_against_since(&self, token: &str) -> i64 {
        match self.is_inferred() && self.token != token && self.estimated {
            true => i64::MIN,
            false => self.newest_against(token),
        }
    }

    /// Whether it differs in its times alone, which nobody but we has set.
    fn says(&self, other: &Self) -> bool {
        let timeless = |triple: &Self| Self {
            previous: None,
            auth_time: 0,
            updated_at: 0,
            doubt: None,
            ..triple.clone()
        };
        self.estimated && timeless(self) == timeless(other)
    }
}

#[derive(Debug, Clone, Default)]
pub(in super::super) struct Merchants {
    pub(in super::super) all: BTreeMap<String, Triple>,
    /// Whose each token is, or was.
    pub(in super::super) owners: BTreeMap<String, String>,
    /// Cancellations that came before what they cancel: when, and how long that is known.
    cancelled: BTreeMap<String, (i64, i64)>,
}

fn is_absurd(now: i64, at: i64) -> bool {
    at > now + DAY_MS
}

fn plausible(now: i64, at: i64) -> i64 {
    if is_absurd(now, at) { now } else { at }
}

impl Merchants {
    /// Whether this very one is in force.
    pub(super) fn has(&self, given: &Authorization) -> bool {
        let (Rank::AuthTime(at) | Rank::EstimatedTime(at)) = given.rank else {
            return false;
        };
        let stored = self.all.get(given.auth_app_id.as_str());
        stored.is_some_and(|triple| {
            triple.auth_time == at && triple.token == *given.token.app_auth_token.expose()
        })
    }

    pub(super) fn authorize(
        &mut self,
        now: i64,
        given: &Authorization,
        has_entry: bool,
    ) -> Result<Done, Refused> {
        let merchant = given.auth_app_id.as_str();
        let token = given.token.app_auth_token.expose();
        let stored = self.all.get(merchant).cloned();
        let is_learned = match (given.rank, &stored) {
            (Rank::Unranked, Some(_)) => true,
            (Rank::Since(since), Some(stored)) => {
                stored.revoked_at().is_none() || since <= stored.newest_against_since(token)
            }
            _ => false,
        };
        if is_learned {
            self.free_token(merchant, token)?;
            self.owners.insert(token.clone(), merchant.to_owned());
            return Ok(Done::silent(Answer::Applied));
        }
        let Some((auth_time, estimated)) = self.rank(now, given) else {
            return Ok(Done::stale());
        };
        let triple = granted(stored.as_ref(), given, (auth_time, estimated, now));
        self.free_token(merchant, token)?;
        self.free_alias(merchant, triple.alias.as_deref())?;
        let repeated = stored.is_some_and(|stored| stored.says(&triple));
        let told = has_entry && !(repeated && given.source == Source::Import);
        if told || !repeated {
            self.all.insert(merchant.to_owned(), triple);
            self.owners.insert(token.clone(), merchant.to_owned());
        }
        Ok(Done {
            told: told.then_some(DeliveryState::Pending),
            ..Done::silent(Answer::Applied)
        })
    }

    /// The time an authorisation counts from, and whether that is a guess; `None` where it is old.
    fn rank(&self, now: i64, given: &Authorization) -> Option<(i64, bool)> {
        let merchant = given.auth_app_id.as_str();
        let stored = self.all.get(merchant);
        let newest = match stored {
            Some(stored) => Some(stored.newest()),
            None => self.cancelled(now, merchant),
        };
        let token = given.token.app_auth_token.expose();
        let against = stored.map(|stored| stored.newest_against(token)).or(newest);
        let is_new = |at: i64| against.is_none_or(|against| at > against);
        let after = newest.map_or(now, |newest| now.max(newest + 1));
        let again = stored.is_some_and(|s| s.token == *given.token.app_auth_token.expose());
        match given.rank {
            Rank::AuthTime(at) | Rank::EstimatedTime(at) | Rank::Proved { auth_time: at, .. }
                if is_absurd(now, at) =>
            {
                (!again).then_some((after, true))
            }
            // Every cancellation here has a time of its own, which a proof doesn't count against.
            Rank::AuthTime(at) | Rank::Proved { auth_time: at, .. } => {
                is_new(at).then_some((at, false))
            }
            Rank::EstimatedTime(at) => is_new(at).then_some((at, true)),
            Rank::Bought {
                purchase: Purchase::Renewal,
                ..
            } if stored.is_some_and(|s| s.revoked_at().is_some()) => None,
            Rank::Bought {
                purchase: Purchase::Renewal | Purchase::Revival,
                ..
            } if stored.is_none() => None,
            Rank::Bought { at, over, .. } => {
                let at = plausible(now, at);
                let renews = given.renews.as_ref().map(|renews| renews.expose());
                let is_replaced = renews.is_some_and(|of| stored.is_none_or(|s| s.token != *of));
                if is_replaced {
                    return is_new(at).then_some((at, true));
                }
                let over = over.filter(|_| renews.is_none());
                let at = at.max(over.or(newest).map_or(at, |older| older + 1));
                (over.is_none() || is_new(at)).then_some((at, true))
            }
            Rank::Since(since) => {
                let against = stored.map(|stored| stored.newest_against_since(token));
                let against = against.or(newest).unwrap_or(i64::MIN);
                Some((plausible(now, since).max(against + 1), true))
            }
            Rank::AfterStored | Rank::Unranked => Some((after, true)),
        }
    }

    fn free_token(&self, merchant: &str, token: &str) -> Result<(), Refused> {
        match self.owners.get(token) {
            Some(owner) if owner != merchant => Err(Refused::TokenConflict),
            _ => Ok(()),
        }
    }

    fn free_alias(&self, merchant: &str, alias: Option<&str>) -> Result<(), Refused> {
        let mut others = self.all.iter().filter(|(other, _)| *other != merchant);
        if alias.is_some() && others.any(|(_, other)| other.alias.as_deref() == alias) {
            return Err(Refused::AliasTaken);
        }
        Ok(())
    }

    fn cancelled(&self, now: i64, merchant: &str) -> Option<i64> {
        let (at, until) = self.cancelled.get(merchant)?;
        (*until > now).then_some(*at)
    }

    pub(super) fn revoke(&mut self, now: i64, revocation: &Revocation) -> Done {
        let merchant = revocation.auth_app_id.as_str();
        let at = revocation.at.map(|at| plausible(now, at));
        let known = self.cancelled(now, merchant);
        let Some(stored) = self.all.get_mut(merchant) else {
            if let Some(at) = at.filter(|at| known.is_none_or(|known| *at > known)) {
                let until = now + 30 * DAY_MS;
                self.cancelled.insert(merchant.to_owned(), (at, until));
            }
            return Done {
                told: Some(DeliveryState::Pending),
                ..Done::silent(Answer::Missing)
            };
        };
        let newest = stored.newest();
        let only = revocation.only.as_ref().map(|only| only.expose());
        let is_other = only.is_some_and(|only| *only != stored.token);
        let at = match (at, only) {
            (Some(at), None)
                if at <= newest && !(stored.is_inferred() && at > stored.auth_time) =>
            {
                return Done::stale();
            }
            (Some(at), None) => at,
            _ if is_other || stored.revoked_at().is_some() => return Done::stale(),
            (at, _) => at.unwrap_or(now).max(newest + 1),
        };
        stored.status = MerchantStatus::Revoked { at };
        (stored.doubt, stored.updated_at) = (None, now);
        Done {
            answer: Answer::Applied,
            told: Some(DeliveryState::Pending),
            ends_users: true,
        }
    }

    pub(super) fn doubt(&mut self, now: i64, refusal: &Refusal) -> Done {
        let Some(stored) = self.all.get_mut(refusal.auth_app_id.as_str()) else {
            return Done::silent(Answer::Missing);
        };
        let is_other = stored.token != *refusal.app_auth_token.expose();
        if is_other || stored.revoked_at().is_some() {
            return Done::silent(Answer::Stale);
        }
        let is_refresh = refusal.doubt == Doubt::RefreshTokenRefused;
        let is_news = is_refresh && !stored.refresh_refused;
        let at = plausible(now, refusal.at);
        let before = stored.status;
        let newest = stored.newest();
        let after = match refusal.evidence {
            Evidence::Invalid => MerchantStatus::Revoked {
                at: at.max(newest + 1),
            },
            Evidence::None if before == MerchantStatus::Authorized => {
                MerchantStatus::Suspect { at }
            }
            Evidence::None | Evidence::WorkedSince => before,
        };
        if before == after && !is_news {
            return Done::silent(Answer::Stale);
        }
        stored.status = after;
        stored.refresh_refused |= is_refresh;
        stored.updated_at = now;
        if refusal.evidence != Evidence::WorkedSince {
            stored.doubt = Some(refusal.doubt);
        }
        Done {
            answer: Answer::Applied,
            told: (before != after).then_some(DeliveryState::Pending),
            ends_users: stored.revoked_at().is_some(),
        }
    }

    /// What is heard of the token in force while it isn't revoked.
    fn hear(
        &mut self,
        merchant: &str,
        token: &str,
        change: impl FnOnce(&mut Triple) -> bool,
    ) -> Answer {
        let Some(stored) = self.all.get_mut(merchant) else {
            return Answer::Missing;
        };
        let is_heard = stored.token == token && stored.revoked_at().is_none() && change(stored);
        [Answer::Stale, Answer::Applied][usize::from(is_heard)].clone()
    }

    pub(super) fn worked(&mut self, now: i64, merchant: &str, token: &str) -> Answer {
        self.hear(merchant, token, |stored| {
            let is_suspect = stored.status != MerchantStatus::Authorized;
            if !is_suspect && stored.previous.is_none() {
                return false;
            }
            stored.previous = None;
            stored.status = MerchantStatus::Authorized;
            (stored.doubt, stored.updated_at) = (None, now);
            true
        })
    }

    pub(super) fn trust(&mut self, now: i64, merchant: &str, token: &str) -> Answer {
        self.hear(merchant, token, |stored| {
            if stored.status == MerchantStatus::Authorized {
                return false;
            }
            stored.status = MerchantStatus::Authorized;
            (stored.doubt, stored.updated_at) = (None, now);
            true
        })
    }

    pub(super) fn fetched_key(&mut self, now: i64, merchant: &str, key: &str) -> Answer {
        let Some(stored) = self.all.get_mut(merchant) else {
            return Answer::Missing;
        };
        match &stored.key {
            Some((_, false)) => return Answer::Stale,
            Some((known, true)) if known == key => {}
            _ => {
                stored.key = Some((key.to_owned(), true));
                stored.updated_at = now;
            }
        }
        Answer::Applied
    }

    pub(super) fn fill_pid(&mut self, now: i64, merchant: &str, pid: &str) -> Answer {
        match self.all.get_mut(merchant) {
            None => Answer::Missing,
            Some(stored) if stored.pid.is_some() => Answer::Stale,
            Some(stored) => {
                stored.pid = Some(pid.to_owned());
                stored.updated_at = now;
                Answer::Applied
            }
        }
    }

    pub(super) fn name(
        &mut self,
        now: i64,
        merchant: &str,
        alias: Option<&str>,
    ) -> Result<Answer, Refused> {
        if !self.all.contains_key(merchant) {
            return Ok(Answer::Missing);
        }
        self.free_alias(merchant, alias)?;
        if let Some(stored) = self.all.get_mut(merchant)
            && stored.alias.as_deref() != alias
        {
            stored.alias = alias.map(str::to_owned);
            stored.updated_at = now;
        }
        Ok(Answer::Applied)
    }

    pub(super) fn remove(&mut self, merchant: &str) -> Done {
        if self.all.remove(merchant).is_none() {
            return Done::silent(Answer::Missing);
        }
        self.owners.retain(|_, owner| owner != merchant);
        Done {
            ends_users: true,
            ..Done::silent(Answer::Applied)
        }
    }

    /// Forgets old cancellations.
    pub(super) fn prune(&mut self, now: i64) -> u64 {
        let before = self.cancelled.len();
        self.cancelled.retain(|_, (_, until)| *until >= now);
        gone(before, self.cancelled.len())
    }
}

/// What an authorisation makes of what is stored.
fn granted(
    stored: Option<&Triple>,
    given: &Authorization,
    (auth_time, estimated, now): (i64, bool, i64),
) -> Triple {
    let token = given.token.app_auth_token.expose();
    let again = stored.filter(|stored| stored.token == *token);
    let key = given
        .encrypt_key
        .as_ref()
        .map(|key| (key.expose().clone(), false));
    Triple {
        token: token.clone(),
        previous: match again {
            Some(again) => again.previous.clone(),
            None => stored.map(|stored| stored.token.clone()),
        },
        auth_time,
        estimated,
        status: MerchantStatus::Authorized,
        doubt: None,
        // A pair's refresh token goes with its token here.
        refresh_refused: again.is_some_and(|again| again.refresh_refused),
        alias: given
            .alias
            .as_ref()
            .map(ToString::to_string)
            .or_else(|| stored.and_then(|stored| stored.alias.clone())),
        pid: given
            .pid
            .as_ref()
            .map(ToString::to_string)
            .or_else(|| stored.and_then(|stored| stored.pid.clone())),
        key: key.or_else(|| stored.and_then(|stored| stored.key.clone())),
        source: given.source,
        updated_at: now,
    }
}
