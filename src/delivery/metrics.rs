//! How attempts end.

use prometheus::{IntCounterVec, Opts, Registry};

use crate::model::delivery::AttemptError;

/// `alipay_sidecar_delivery_attempts_total`. Clones share the counts.
#[derive(Debug, Clone)]
pub struct DeliveryMetrics(IntCounterVec);

impl DeliveryMetrics {
    /// Registers the counter.
    ///
    /// # Errors
    /// The registry's, when the name is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let options = Opts::new(
            "alipay_sidecar_delivery_attempts_total",
            "Attempts to hand a notification to the backend, by how they ended.",
        );
        let attempts = IntCounterVec::new(options, &["outcome"])?;
        registry.register(Box::new(attempts.clone()))?;
        Ok(Self(attempts))
    }

    pub(super) fn attempted(&self, error: Option<AttemptError>) {
        let outcome = error.map_or("delivered", AttemptError::as_str);
        self.0.with_label_values(&[outcome]).inc();
    }
}
