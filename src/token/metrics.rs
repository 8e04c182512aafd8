//! How refreshes end.

use prometheus::{IntCounterVec, Opts, Registry};

use crate::gateway::error::Outcome;
use crate::token::error::TokenError;

/// `alipay_sidecar_token_refreshes_total`. Clones share the counts.
#[derive(Debug, Clone)]
pub struct TokenMetrics(IntCounterVec);

impl TokenMetrics {
    /// Registers the counter.
    ///
    /// # Errors
    /// The registry's, when the name is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let options = Opts::new(
            "alipay_sidecar_token_refreshes_total",
            "Refreshes of an app_auth_token by how they ended.",
        );
        let refreshes = IntCounterVec::new(options, &["outcome"])?;
        registry.register(Box::new(refreshes.clone()))?;
        // Present from the start, so that the first one is an increase and not a new series.
        for outcome in ["refreshed", "refused", "not-sent", "unknown"] {
            refreshes.with_label_values(&[outcome]);
        }
        Ok(Self(refreshes))
    }

    pub(super) fn refreshed<T>(&self, result: &Result<T, TokenError>) {
        let outcome = match result {
            Ok(_) => "refreshed",
            Err(error) if error.is_refusal() => "refused",
            Err(error) if error.outcome() == Outcome::NotSent => "not-sent",
            Err(_) => "unknown",
        };
        self.0.with_label_values(&[outcome]).inc();
    }
}
