//! How refreshes end, and what Alipay says of tokens that it refused.

use prometheus::{IntCounterVec, Opts};

use crate::gateway::error::Outcome;
use crate::model::user_token::UserToken;
use crate::registrar::Registrar;
use crate::token::TokenStatus;
use crate::token::error::TokenError;
use crate::token::users::UserTokenError;

/// `alipay_sidecar_token_refreshes_total`, its twin for users, and
/// `alipay_sidecar_token_checks_total`. Clones share the counts.
#[derive(Debug, Clone)]
pub struct TokenMetrics {
    refreshes: IntCounterVec,
    user_refreshes: IntCounterVec,
    checks: IntCounterVec,
}

impl TokenMetrics {
    /// Registers the counters.
    ///
    /// # Errors
    /// The registry's, when a name is taken.
    pub fn register(registry: &impl Registrar) -> Result<Self, prometheus::Error> {
        let counter = |name, help, outcomes| counter(registry, (name, help), outcomes);
        Ok(Self {
            refreshes: counter(
                "alipay_sidecar_token_refreshes_total",
                "Refreshes of an app_auth_token by how they ended.",
                &REFRESHES,
            )?,
            user_refreshes: counter(
                "alipay_sidecar_user_token_refreshes_total",
                "Refreshes of users' access tokens by how they ended.",
                &REFRESHES,
            )?,
            checks: counter(
                "alipay_sidecar_token_checks_total",
                "Checks of an app_auth_token that Alipay refused, by what it said.",
                &["invalid", "valid", "unanswered"],
            )?,
        })
    }

    pub(super) fn refreshed<T>(&self, result: &Result<T, TokenError>) {
        let outcome = match result {
            Ok(_) => "refreshed",
            Err(error) if error.is_refusal() => "refused",
            Err(error) if error.outcome() == Outcome::NotSent => "not-sent",
            Err(_) => "unknown",
        };
        self.refreshes.with_label_values(&[outcome]).inc();
    }

    pub(super) fn user_refreshed(&self, result: &Result<UserToken, UserTokenError>) {
        let outcome = match result {
            Ok(_) => "refreshed",
            Err(UserTokenError::Refused { .. }) => "refused",
            Err(UserTokenError::Rejected { .. } | UserTokenError::Unsent(_)) => "not-sent",
            Err(_) => "unknown",
        };
        self.user_refreshes.with_label_values(&[outcome]).inc();
    }

    pub(super) fn checked(&self, answer: &Result<TokenStatus, TokenError>) {
        let outcome = match answer {
            Ok(TokenStatus::Invalid) => "invalid",
            Ok(TokenStatus::Valid) => "valid",
            Err(_) => "unanswered",
        };
        self.checks.with_label_values(&[outcome]).inc();
    }
}

/// How refreshes end.
const REFRESHES: [&str; 4] = ["refreshed", "refused", "not-sent", "unknown"];

fn counter(
    registry: &impl Registrar,
    (name, help): (&str, &str),
    outcomes: &[&str],
) -> Result<IntCounterVec, prometheus::Error> {
    let counter = IntCounterVec::new(Opts::new(name, help), &["outcome"])?;
    registry.register(Box::new(counter.clone()))?;
    // Present from the start, so that the first one is an increase and not a new series.
    for outcome in outcomes {
        counter.with_label_values(&[*outcome]);
    }
    Ok(counter)
}
