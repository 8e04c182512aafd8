//! How refreshes end, and what Alipay says of tokens that it refused.

use prometheus::{IntCounterVec, Opts, Registry};

use crate::gateway::error::Outcome;
use crate::token::TokenStatus;
use crate::token::error::TokenError;

/// `alipay_sidecar_token_refreshes_total` and `alipay_sidecar_token_checks_total`. Clones share the
/// counts.
#[derive(Debug, Clone)]
pub struct TokenMetrics {
    refreshes: IntCounterVec,
    checks: IntCounterVec,
}

impl TokenMetrics {
    /// Registers the counters.
    ///
    /// # Errors
    /// The registry's, when a name is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        // Present from the start, so that the first one is an increase and not a new series.
        let counter = |name: &str, help: &str, outcomes: &[&str]| {
            let options = Opts::new(format!("alipay_sidecar_{name}"), help);
            let counter = IntCounterVec::new(options, &["outcome"])?;
            registry.register(Box::new(counter.clone()))?;
            for outcome in outcomes {
                counter.with_label_values(&[*outcome]);
            }
            Ok::<_, prometheus::Error>(counter)
        };
        Ok(Self {
            refreshes: counter(
                "token_refreshes_total",
                "Refreshes of an app_auth_token by how they ended.",
                &["refreshed", "refused", "not-sent", "unknown"],
            )?,
            checks: counter(
                "token_checks_total",
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

    pub(super) fn checked(&self, answer: &Result<TokenStatus, TokenError>) {
        let outcome = match answer {
            Ok(TokenStatus::Invalid) => "invalid",
            Ok(TokenStatus::Valid) => "valid",
            Err(_) => "unanswered",
        };
        self.checks.with_label_values(&[outcome]).inc();
    }
}
