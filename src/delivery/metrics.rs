//! How attempts end, and what is pulled.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};

use crate::model::delivery::AttemptError;
use crate::registrar::Registrar;

/// The counters of deliveries. Clones share the counts.
#[derive(Debug, Clone)]
pub struct DeliveryMetrics {
    attempts: IntCounterVec,
    claimed: IntCounter,
    given_up: IntCounter,
    held_back: IntGauge,
}

impl DeliveryMetrics {
    /// Registers the counters.
    ///
    /// # Errors
    /// The registry's, when a name is taken.
    pub fn register(registry: &impl Registrar) -> Result<Self, prometheus::Error> {
        let options = Opts::new(
            "alipay_sidecar_delivery_attempts_total",
            "Attempts to hand a notification to the backend, pushed or pulled, by how they ended.",
        );
        let metrics = Self {
            attempts: IntCounterVec::new(options, &["outcome"])?,
            claimed: IntCounter::new(
                "alipay_sidecar_events_claimed_total",
                "Notifications and events that backends claimed.",
            )?,
            given_up: IntCounter::new(
                "alipay_sidecar_deliveries_given_up_total",
                "Deliveries that became dead after delivery.give_up_after.",
            )?,
            held_back: IntGauge::new(
                "alipay_sidecar_backends_unreachable",
                "Backends that no connection can be made to: one delivery at a time tries them.",
            )?,
        };
        registry.register(Box::new(metrics.attempts.clone()))?;
        registry.register(Box::new(metrics.claimed.clone()))?;
        registry.register(Box::new(metrics.given_up.clone()))?;
        registry.register(Box::new(metrics.held_back.clone()))?;
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

    pub(super) fn claimed(&self, events: usize) {
        self.claimed
            .inc_by(u64::try_from(events).unwrap_or(u64::MAX));
    }

    pub(super) fn gave_up(&self) {
        self.given_up.inc();
    }

    pub(super) fn held_back(&self, backends: usize) {
        self.held_back
            .set(i64::try_from(backends).unwrap_or(i64::MAX));
    }

    fn of(&self, error: Option<AttemptError>) -> IntCounter {
        let outcome = error.map_or("delivered", AttemptError::as_str);
        self.attempts.with_label_values(&[outcome])
    }
}
