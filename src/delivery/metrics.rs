//! How attempts end.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

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
        let metrics = Self(attempts);
        // Present from the start, so that the first one is an increase and not a new series.
        metrics.of(None);
        for error in AttemptError::ALL {
            metrics.of(Some(error));
        }
        Ok(metrics)
    }

    pub(super) fn attempted(&self, error: Option<AttemptError>) {
        self.of(error).inc();
    }

    fn of(&self, error: Option<AttemptError>) -> IntCounter {
        let outcome = error.map_or("delivered", AttemptError::as_str);
        self.0.with_label_values(&[outcome])
    }
}
