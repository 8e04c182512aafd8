//! What is counted of the audit log.

use prometheus::IntCounter;

use crate::registrar::Registrar;

/// `alipay_sidecar_audit_lines_total`, `…_lost_total` and `…_displaced_total`. Clones share the
/// counts.
#[derive(Debug, Clone)]
pub struct AuditMetrics {
    pub(super) displaced: IntCounter,
    pub(super) lines: IntCounter,
    pub(super) lost: IntCounter,
}

impl AuditMetrics {
    /// Registers the counters.
    ///
    /// # Errors
    /// The registry's, when a name is taken.
    pub fn register(registry: &impl Registrar) -> Result<Self, prometheus::Error> {
        let lines = IntCounter::new(
            "alipay_sidecar_audit_lines_total",
            "Lines of the audit log that are on disk.",
        )?;
        let lost = IntCounter::new(
            "alipay_sidecar_audit_lost_total",
            "Lines that the audit log lost, because its disk refused them or they came too fast.",
        )?;
        let displaced = IntCounter::new(
            "alipay_sidecar_audit_displaced_total",
            "Lines of the audit log that were removed before audit.retain, because all its files reached audit.max_size.",
        )?;
        for counter in [&displaced, &lines, &lost] {
            registry.register(Box::new(counter.clone()))?;
        }
        Ok(Self {
            displaced,
            lines,
            lost,
        })
    }

    /// How many lines were lost.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.get()
    }
}
