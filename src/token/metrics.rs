//! How refreshes end.

use prometheus::{IntCounterVec, Opts, Registry};

use crate::gateway::error::Outcome;
use crate::model::user_token::UserToken;
use crate::token::error::TokenError;
use crate::token::users::UserTokenError;

/// `alipay_sidecar_token_refreshes_total` and its twin for users. Clones share the counts.
#[derive(Debug, Clone)]
pub struct TokenMetrics {
    refreshes: IntCounterVec,
    user_refreshes: IntCounterVec,
}

impl TokenMetrics {
    /// Registers the counters.
    ///
    /// # Errors
    /// The registry's, when the name is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Ok(Self {
            refreshes: counter(
                registry,
                "alipay_sidecar_token_refreshes_total",
                "Refreshes of an app_auth_token by how they ended.",
            )?,
            user_refreshes: counter(
                registry,
                "alipay_sidecar_user_token_refreshes_total",
                "Refreshes of users' access tokens by how they ended.",
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
}

fn counter(
    registry: &Registry,
    name: &str,
    help: &str,
) -> Result<IntCounterVec, prometheus::Error> {
    let counter = IntCounterVec::new(Opts::new(name, help), &["outcome"])?;
    registry.register(Box::new(counter.clone()))?;
    // Present from the start, so that the first one is an increase and not a new series.
    for outcome in ["refreshed", "refused", "not-sent", "unknown"] {
        counter.with_label_values(&[outcome]);
    }
    Ok(counter)
}
