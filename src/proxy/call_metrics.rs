//! Counts what becomes of the records of calls.

use prometheus::{IntCounterVec, Opts};

use crate::registrar::Registrar;

/// `alipay_sidecar_call_records_total`. Clones share the counts.
#[derive(Debug, Clone)]
pub struct CallRecordMetrics(IntCounterVec);

impl CallRecordMetrics {
    /// Registers the counter.
    ///
    /// # Errors
    /// The registry's, when the name is taken.
    pub fn register(registry: &impl Registrar) -> Result<Self, prometheus::Error> {
        let options = Opts::new(
            "alipay_sidecar_call_records_total",
            "Records of calls: stored; lost, because the store failed or too many waited; displaced \
             by newer ones before their day was over.",
        );
        let records = IntCounterVec::new(options, &["outcome"])?;
        registry.register(Box::new(records.clone()))?;
        for outcome in ["displaced", "lost", "stored"] {
            records.with_label_values(&[outcome]);
        }
        Ok(Self(records))
    }

    /// Counts records that ended so.
    pub(super) fn count(&self, outcome: &str, records: u64) {
        self.0.with_label_values(&[outcome]).inc_by(records);
    }
}
