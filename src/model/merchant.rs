//! The triple PID – auth_app_id – app_auth_token, and what changes it.

use crate::model::authorization::{Authorization, Rank, Revocation, Source};
use crate::model::id::{Alias, AppId, AuthAppId, Pid};
use crate::model::token::AppAuthToken;
use crate::protocol::secret::Secret;

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
}

impl MerchantStatus {
    /// The word used in JSON and as the metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authorized => "authorized",
            Self::Revoked { .. } => "revoked",
        }
    }
}

/// What an authorisation does to the stored record.
#[derive(Debug)]
pub enum Authorized {
    /// The record to store.
    Applied(Box<Merchant>),
    /// A newer authorisation or cancellation is stored: nothing changes.
    Stale,
}

impl Merchant {
    /// Decides what `authorization` makes of the `stored` record.
    ///
    /// Protocol: plugins, authorisation message: apply only if `auth_time` is newer. The very
    /// same message again (same time, same token) is stale, too, so applying is idempotent.
    /// What an authorisation doesn't say (PID, alias, reference) the record keeps.
    #[must_use]
    pub fn authorize(stored: Option<&Self>, authorization: &Authorization, now: i64) -> Authorized {
        let newest = stored.map(Self::newest_change);
        let auth_time = match (authorization.rank, newest) {
            (Rank::AuthTime(at) | Rank::EstimatedTime(at), Some(newest)) if at <= newest => {
                return Authorized::Stale;
            }
            (Rank::AuthTime(at) | Rank::EstimatedTime(at), _) => at,
            (Rank::AfterStored, Some(newest)) => now.max(newest.saturating_add(1)),
            (Rank::AfterStored, None) => now,
        };
        Authorized::Applied(Box::new(Self {
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
            auth_time,
            auth_time_estimated: !matches!(authorization.rank, Rank::AuthTime(_)),
            status: MerchantStatus::Authorized,
            source: authorization.source,
            encrypt_key: authorization
                .encrypt_key
                .clone()
                .or_else(|| stored.and_then(|m| m.encrypt_key.clone())),
            encrypt_key_fetched: authorization.encrypt_key.is_none()
                && stored.is_some_and(|m| m.encrypt_key_fetched),
            updated_at: now,
        }))
    }

    /// The record after `revocation`, or nothing where a newer authorisation stands. One without
    /// a time is known to hold and ranks after what is stored, whatever the clock says.
    #[must_use]
    pub fn revoke(&self, revocation: &Revocation, now: i64) -> Option<Self> {
        let newest = self.newest_change();
        let at = match revocation.at {
            Some(at) if at <= newest => return None,
            Some(at) => at,
            None => now.max(newest.saturating_add(1)),
        };
        Some(Self {
            status: MerchantStatus::Revoked { at },
            updated_at: now,
            ..self.clone()
        })
    }

    fn newest_change(&self) -> i64 {
        match self.status {
            MerchantStatus::Authorized => self.auth_time,
            MerchantStatus::Revoked { at } => at.max(self.auth_time),
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
        match Merchant::authorize(None, &authorization(token, Rank::AuthTime(auth_time)), 0) {
            Authorized::Applied(merchant) => *merchant,
            Authorized::Stale => panic!("nothing is stored that could be newer"),
        }
    }

    fn token_after(stored: &Merchant, rank: Rank, now: i64) -> String {
        match Merchant::authorize(Some(stored), &authorization("new", rank), now) {
            Authorized::Applied(merchant) => merchant.token.app_auth_token.expose().clone(),
            Authorized::Stale => stored.token.app_auth_token.expose().clone(),
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
}
