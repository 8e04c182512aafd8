//! The triple PID – auth_app_id – app_auth_token, and what changes it.

use crate::model::authorization::{Authorization, Doubt, Proof, Rank, Refusal, Revocation, Source};
use crate::model::id::{Alias, AppId, AuthAppId, Pid};
use crate::model::token::AppAuthToken;
use crate::protocol::secret::Secret;

/// How far ahead of our clock Alipay's may be, milliseconds. What claims to be later still ranks by
/// our clock: a slip of the pen in one message must not outrank all that come after it for years.
const AHEAD_MS: i64 = 24 * 3600 * 1000;

/// One merchant application that authorised one of ours: unique per (`app_id`, `auth_app_id`),
/// never per PID, because one merchant can own several applications.
#[derive(Debug, Clone)]
pub struct Merchant {
    /// Our application.
    pub app_id: AppId,
    /// The merchant's application.
    pub auth_app_id: AuthAppId,
    /// The merchant's user id, once Alipay told it (open_id mode may never).
    pub pid: Option<Pid>,
    /// The operator's name for it.
    pub alias: Option<Alias>,
    /// The ISV's own tenant id, from `ref=` of the authorisation link.
    pub reference: Option<String>,
    /// The pair in force.
    pub token: AppAuthToken,
    /// The pair before it, kept until the new one has worked.
    pub previous_token: Option<AppAuthToken>,
    /// When the authorisation was given, Unix milliseconds: the newest wins.
    pub auth_time: i64,
    /// Whether `auth_time` is ours (arrival) and not Alipay's.
    pub auth_time_estimated: bool,
    /// Whether calls may be made for it.
    pub status: MerchantStatus,
    /// What makes it suspect, or revoked it where that was learned from a reply of Alipay's.
    pub doubt: Option<Doubt>,
    /// Whether Alipay refused the `app_refresh_token` in force: it isn't sent again.
    pub refresh_refused: bool,
    /// Where the authorisation came from.
    pub source: Source,
    /// The merchant's AES key for client data, base64.
    pub encrypt_key: Option<Secret<String>>,
    /// Whether Alipay told us that key, so that it may be asked again; else an operator gave it.
    pub encrypt_key_fetched: bool,
    /// When the record was last changed, Unix milliseconds.
    pub updated_at: i64,
}

/// Whether a merchant's authorisation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MerchantStatus {
    /// Calls go through.
    Authorized,
    /// Cancelled at the given Unix millisecond: calls are `merchant-unauthorized`.
    Revoked {
        /// When the merchant cancelled.
        at: i64,
    },
    /// Alipay refused one of its tokens at the given Unix millisecond, without saying that the
    /// merchant cancelled. Calls go through; the first one that works clears it.
    Suspect {
        /// When the doubt arose.
        at: i64,
    },
}

impl MerchantStatus {
    /// The word used in JSON and as the metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authorized => "authorized",
            Self::Revoked { .. } => "revoked",
            Self::Suspect { .. } => "suspect",
        }
    }
}

/// What is stored before an authorisation arrives.
#[derive(Debug, Clone, Copy)]
pub enum Before<'a> {
    /// No record, but a cancellation at the given Unix millisecond that came before what it
    /// cancels.
    Cancelled(i64),
    /// Nothing.
    Nothing,
    /// The merchant's record.
    Record(&'a Merchant),
}

/// What an authorisation does to the stored record.
#[derive(Debug)]
pub enum Authorized {
    /// The record to store.
    Applied(Box<Merchant>),
    /// An authorisation stands; the token only becomes known as this record's.
    Known,
    /// A newer authorisation or cancellation is stored: nothing changes.
    Stale,
}

impl Merchant {
    /// Decides what `authorization` makes of what is stored.
    ///
    /// Protocol: plugins, authorisation message: apply only if `auth_time` is newer. The very
    /// same message again (same time, same token) is stale, too, so applying is idempotent.
    /// What an authorisation doesn't say (PID, alias, reference) the record keeps.
    #[must_use]
    pub fn authorize(before: Before<'_>, authorization: &Authorization, now: i64) -> Authorized {
        let stored = before.record();
        if authorization.rank == Rank::Unranked
            && stored.is_some_and(|m| m.status == MerchantStatus::Authorized)
        {
            return Authorized::Known;
        }
        let newest = before.newest_change();
        let plausible = authorization.rank.plausible(now);
        let auth_time = match (plausible, newest) {
            (Some(at), Some(newest)) if at <= newest => return Authorized::Stale,
            (Some(at), _) => at,
            // What claims a time that can't be would otherwise be new each time it comes.
            (None, _) if authorization.repeats_absurdly(stored) => return Authorized::Stale,
            (None, Some(newest)) => now.max(newest.saturating_add(1)),
            (None, None) => now,
        };
        Authorized::Applied(Box::new(Self {
            auth_time,
            auth_time_estimated: plausible.is_none(),
            ..Self::authorized_by(stored, authorization, now)
        }))
    }

    /// The record with everything that `authorization` says, and what it doesn't kept.
    fn authorized_by(stored: Option<&Self>, authorization: &Authorization, now: i64) -> Self {
        let same_refresh_token =
            |m: &Self| m.token.app_refresh_token == authorization.token.app_refresh_token;
        Self {
            app_id: authorization.app_id.clone(),
            auth_app_id: authorization.auth_app_id.clone(),
            pid: authorization
                .pid
                .clone()
                .or_else(|| stored.and_then(|m| m.pid.clone())),
            alias: authorization
                .alias
                .clone()
                .or_else(|| stored.and_then(|m| m.alias.clone())),
            reference: authorization
                .reference
                .clone()
                .or_else(|| stored.and_then(|m| m.reference.clone())),
            token: authorization.token.clone(),
            previous_token: stored.map(|m| m.token.clone()),
            auth_time: now,
            auth_time_estimated: true,
            status: MerchantStatus::Authorized,
            doubt: None,
            refresh_refused: stored.is_some_and(|m| m.refresh_refused && same_refresh_token(m)),
            source: authorization.source,
            encrypt_key: authorization
                .encrypt_key
                .clone()
                .or_else(|| stored.and_then(|m| m.encrypt_key.clone())),
            encrypt_key_fetched: authorization.encrypt_key.is_none()
                && stored.is_some_and(|m| m.encrypt_key_fetched),
            updated_at: now,
        }
    }

    /// The record after `revocation`, or nothing where a newer authorisation stands. One without
    /// a time is known to hold and ranks after what is stored, whatever the clock says.
    #[must_use]
    pub fn revoke(&self, revocation: &Revocation, now: i64) -> Option<Self> {
        let newest = self.newest_change();
        let at = match revocation.at {
            Some(at) if revocation.plausible(at, now) <= newest => return None,
            Some(at) => revocation.plausible(at, now),
            None => now.max(newest.saturating_add(1)),
        };
        Some(Self {
            status: MerchantStatus::Revoked { at },
            doubt: None,
            updated_at: now,
            ..self.clone()
        })
    }

    /// The record after Alipay refused one of its tokens, or nothing where that tells nothing new:
    /// the token was replaced meanwhile, the merchant has cancelled, or was suspect before.
    #[must_use]
    pub fn refuse(&self, refusal: &Refusal, now: i64) -> Option<Self> {
        let is_current = self.token.app_auth_token == refusal.app_auth_token;
        if !is_current || matches!(self.status, MerchantStatus::Revoked { .. }) {
            return None;
        }
        let refused = Self {
            doubt: Some(refusal.doubt),
            refresh_refused: self.refresh_refused || refusal.doubt == Doubt::RefreshTokenRefused,
            updated_at: now,
            ..self.clone()
        };
        if refusal.proof == Proof::Invalid {
            let at = now.max(self.newest_change().saturating_add(1));
            let status = MerchantStatus::Revoked { at };
            return Some(Self { status, ..refused });
        }
        let suspect = Self {
            status: match self.status {
                MerchantStatus::Authorized => MerchantStatus::Suspect { at: now },
                known => known,
            },
            ..refused
        };
        let is_new =
            suspect.status != self.status || suspect.refresh_refused != self.refresh_refused;
        is_new.then_some(suspect)
    }

    /// The record after a call with `app_auth_token` worked, or nothing where that tells nothing
    /// new. The first call that works drops the pair before, and clears a suspicion.
    #[must_use]
    pub fn worked(&self, app_auth_token: &Secret<String>, now: i64) -> Option<Self> {
        let is_current = self.token.app_auth_token == *app_auth_token;
        let is_revoked = matches!(self.status, MerchantStatus::Revoked { .. });
        if !is_current || is_revoked || !self.is_on_trial() {
            return None;
        }
        Some(Self {
            previous_token: None,
            status: MerchantStatus::Authorized,
            doubt: None,
            updated_at: now,
            ..self.clone()
        })
    }

    /// Whether a call that works would tell something new.
    #[must_use]
    pub fn is_on_trial(&self) -> bool {
        self.previous_token.is_some() || matches!(self.status, MerchantStatus::Suspect { .. })
    }

    /// The token before the one in force, where that one came by a refresh and hasn't worked yet.
    /// What the merchant itself has replaced by authorising anew is never used again.
    #[must_use]
    pub fn fallback(&self) -> Option<&Secret<String>> {
        let is_revoked = matches!(self.status, MerchantStatus::Revoked { .. });
        let previous = self.previous_token.as_ref()?;
        let usable = self.source == Source::Refresh && !is_revoked;
        usable.then_some(&previous.app_auth_token)
    }

    fn newest_change(&self) -> i64 {
        match self.status {
            MerchantStatus::Authorized | MerchantStatus::Suspect { .. } => self.auth_time,
            MerchantStatus::Revoked { at } => at.max(self.auth_time),
        }
    }
}

impl<'a> Before<'a> {
    fn record(self) -> Option<&'a Merchant> {
        match self {
            Self::Record(merchant) => Some(merchant),
            Self::Cancelled(_) | Self::Nothing => None,
        }
    }

    fn newest_change(self) -> Option<i64> {
        match self {
            Self::Cancelled(at) => Some(at),
            Self::Nothing => None,
            Self::Record(merchant) => Some(merchant.newest_change()),
        }
    }
}

impl Rank {
    /// Alipay's time, where it can be true.
    fn plausible(self, now: i64) -> Option<i64> {
        match self {
            Self::AuthTime(at) if at <= now.saturating_add(AHEAD_MS) => Some(at),
            Self::AfterStored | Self::AuthTime(_) | Self::Unranked => None,
        }
    }
}

impl Authorization {
    /// Whether it claims a time that can't be, and brings the token that is stored already.
    fn repeats_absurdly(&self, stored: Option<&Merchant>) -> bool {
        let same = |m: &Merchant| m.token.app_auth_token == self.token.app_auth_token;
        matches!(self.rank, Rank::AuthTime(_)) && stored.is_some_and(same)
    }
}

impl Revocation {
    /// When the merchant cancelled, as far as that can be true.
    #[must_use]
    pub fn plausible(&self, at: i64, now: i64) -> i64 {
        if at <= now.saturating_add(AHEAD_MS) {
            at
        } else {
            now
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn authorization(token: &str, rank: Rank) -> Authorization {
        Authorization {
            app_id: AppId::new("2021000000000001").expect("id"),
            auth_app_id: AuthAppId::new("2021000000000101").expect("id"),
            pid: None,
            alias: None,
            reference: None,
            token: AppAuthToken {
                app_auth_token: Secret::new(token.to_owned()),
                app_refresh_token: None,
                stated_expiry: None,
            },
            rank,
            source: Source::Push,
            bound: true,
            is_plugin: true,
            agent_app_id: None,
            trigger: None,
            error: None,
            encrypt_key: None,
        }
    }

    fn stored(token: &str, auth_time: i64) -> Merchant {
        match Merchant::authorize(
            Before::Nothing,
            &authorization(token, Rank::AuthTime(auth_time)),
            0,
        ) {
            Authorized::Applied(merchant) => *merchant,
            _ => panic!("nothing is stored that could be newer"),
        }
    }

    fn token_after(stored: &Merchant, rank: Rank, now: i64) -> String {
        match Merchant::authorize(Before::Record(stored), &authorization("new", rank), now) {
            Authorized::Applied(merchant) => merchant.token.app_auth_token.expose().clone(),
            _ => stored.token.app_auth_token.expose().clone(),
        }
    }

    #[test]
    fn the_newest_auth_time_wins_not_the_latest_arrival() {
        let merchant = stored("old", 1000);
        assert_eq!(token_after(&merchant, Rank::AuthTime(999), 5000), "old");
        assert_eq!(token_after(&merchant, Rank::AuthTime(1000), 5000), "old");
        assert_eq!(token_after(&merchant, Rank::AuthTime(1001), 5000), "new");
    }

    #[test]
    fn an_exchange_always_ranks_after_what_is_stored() {
        let merchant = stored("old", 9000);
        assert_eq!(token_after(&merchant, Rank::AfterStored, 5000), "new");
    }

    #[test]
    fn a_newer_authorisation_revives_a_cancelled_merchant_and_an_older_does_not() {
        let cancelled = stored("old", 1000)
            .revoke(&Revocation::new(&stored("old", 1000), Some(2000)), 2000)
            .expect("newer than the authorisation");
        assert_eq!(cancelled.status, MerchantStatus::Revoked { at: 2000 });
        assert_eq!(token_after(&cancelled, Rank::AuthTime(1500), 3000), "old");
        assert_eq!(token_after(&cancelled, Rank::AuthTime(2500), 3000), "new");
    }

    #[test]
    fn a_cancellation_known_to_hold_ranks_last_whatever_the_clock_says() {
        let merchant = stored("old", 9000);
        let revoked = |now| {
            let revocation = Revocation::new(&merchant, None);
            merchant.revoke(&revocation, now).map(|after| after.status)
        };
        assert_eq!(revoked(5000), Some(MerchantStatus::Revoked { at: 9001 }));
        assert_eq!(revoked(9500), Some(MerchantStatus::Revoked { at: 9500 }));
    }

    #[test]
    fn a_cancellation_older_than_the_authorisation_changes_nothing() {
        let merchant = stored("old", 1000);
        assert!(
            merchant
                .revoke(&Revocation::new(&merchant, Some(1000)), 5000)
                .is_none()
        );
    }

    fn refusal(merchant: &Merchant, doubt: Doubt, proof: Proof) -> Refusal {
        Refusal {
            proof,
            ..Refusal::new(merchant, doubt)
        }
    }

    #[test]
    fn what_claims_to_come_from_years_ahead_ranks_as_now() {
        let merchant = stored("old", 1000);
        let absurd = Rank::AuthTime(9000 + 400 * AHEAD_MS);
        let given = authorization("new", absurd);
        let Authorized::Applied(after) =
            Merchant::authorize(Before::Record(&merchant), &given, 9000)
        else {
            panic!("it is newer");
        };
        assert_eq!((after.auth_time, after.auth_time_estimated), (9000, true));
        // The same again brings nothing new, and a true time still outranks it.
        let again = Merchant::authorize(Before::Record(&after), &given, 9500);
        assert!(matches!(again, Authorized::Stale));
        assert_eq!(token_after(&after, Rank::AuthTime(9001), 9600), "new");
        assert_eq!(
            token_after(&merchant, Rank::AuthTime(9000 + AHEAD_MS), 9000),
            "new"
        );
        let revocation = Revocation::new(&merchant, Some(i64::MAX));
        let revoked = merchant.revoke(&revocation, 9000).expect("newer");
        assert_eq!(revoked.status, MerchantStatus::Revoked { at: 9000 });
    }

    #[test]
    fn what_was_cancelled_before_it_arrived_is_stale() {
        let authorize = |rank| {
            let given = authorization("t", rank);
            Merchant::authorize(Before::Cancelled(2000), &given, 5000)
        };
        assert!(matches!(authorize(Rank::AuthTime(2000)), Authorized::Stale));
        assert!(matches!(
            authorize(Rank::AuthTime(2001)),
            Authorized::Applied(_)
        ));
        assert!(matches!(
            authorize(Rank::AfterStored),
            Authorized::Applied(_)
        ));
    }

    #[test]
    fn a_refused_token_makes_suspect_once_and_a_working_call_clears_it() {
        let merchant = stored("t", 1000);
        let refused = refusal(&merchant, Doubt::TokenRefused, Proof::None);
        let suspect = merchant.refuse(&refused, 2000).expect("new");
        assert_eq!(suspect.status, MerchantStatus::Suspect { at: 2000 });
        assert!(suspect.refuse(&refused, 3000).is_none());
        assert!(
            suspect
                .worked(&Secret::new("other".to_owned()), 3000)
                .is_none()
        );
        let worked = suspect.worked(&suspect.token.app_auth_token, 3000);
        let worked = worked.expect("new");
        assert_eq!(
            (worked.status, worked.doubt),
            (MerchantStatus::Authorized, None)
        );
        assert!(worked.worked(&worked.token.app_auth_token, 4000).is_none());
    }

    #[test]
    fn a_token_that_alipay_calls_invalid_revokes_unless_it_was_replaced() {
        let merchant = stored("t", 1000);
        let refused = refusal(&merchant, Doubt::TokenRefused, Proof::Invalid);
        let revoked = merchant.refuse(&refused, 500).expect("new");
        assert_eq!(revoked.status, MerchantStatus::Revoked { at: 1001 });
        assert!(revoked.refuse(&refused, 3000).is_none());
        assert!(
            revoked
                .worked(&revoked.token.app_auth_token, 3000)
                .is_none()
        );
        assert!(stored("newer", 2000).refuse(&refused, 3000).is_none());
    }

    #[test]
    fn a_refused_refresh_token_stays_refused_until_there_is_another() {
        let mut merchant = stored("t", 1000);
        merchant.token.app_refresh_token = Some(Secret::new("r".to_owned()));
        let refused = refusal(&merchant, Doubt::RefreshTokenRefused, Proof::None);
        let suspect = merchant.refuse(&refused, 2000).expect("new");
        let worked = suspect.worked(&suspect.token.app_auth_token, 3000);
        assert!(worked.as_ref().is_some_and(|m| m.refresh_refused));
        let renewed = |refresh_token: &str| {
            let mut given = authorization("t", Rank::AfterStored);
            given.token.app_refresh_token = Some(Secret::new(refresh_token.to_owned()));
            match Merchant::authorize(Before::Record(&suspect), &given, 4000) {
                Authorized::Applied(merchant) => merchant.refresh_refused,
                other => panic!("{other:?}"),
            }
        };
        assert!(renewed("r") && !renewed("other"));
    }

    #[test]
    fn only_a_refresh_leaves_something_to_fall_back_to() {
        let merchant = stored("old", 1000);
        let after = |source| {
            let given = Authorization {
                source,
                ..authorization("new", Rank::AfterStored)
            };
            match Merchant::authorize(Before::Record(&merchant), &given, 2000) {
                Authorized::Applied(merchant) => *merchant,
                other => panic!("{other:?}"),
            }
        };
        assert!(after(Source::Push).fallback().is_none());
        let refreshed = after(Source::Refresh);
        assert_eq!(
            refreshed.fallback().map(Secret::expose),
            Some(&"old".to_owned())
        );
        let worked = refreshed.worked(&refreshed.token.app_auth_token, 3000);
        assert!(worked.expect("new").fallback().is_none());
        let revocation = Revocation::new(&refreshed, None);
        let revoked = refreshed.revoke(&revocation, 3000).expect("newer");
        assert!(revoked.fallback().is_none());
    }

    #[test]
    fn a_learned_token_replaces_nothing_that_stands() {
        let merchant = stored("t", 1000);
        let learned = authorization("learned", Rank::Unranked);
        let authorize = |before| Merchant::authorize(before, &learned, 5000);
        assert!(matches!(
            authorize(Before::Record(&merchant)),
            Authorized::Known
        ));
        assert!(matches!(authorize(Before::Nothing), Authorized::Applied(_)));
        assert!(matches!(
            authorize(Before::Cancelled(9000)),
            Authorized::Applied(_)
        ));
        let revoked = merchant.revoke(&Revocation::new(&merchant, None), 5000);
        let revoked = revoked.expect("newer");
        assert!(matches!(
            authorize(Before::Record(&revoked)),
            Authorized::Applied(_)
        ));
    }
}
