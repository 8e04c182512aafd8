//! What is counted of the audit log.

use prometheus::{IntCounter, Registry};

/// `alipay_sidecar_audit_lines_total` and `alipay_sidecar_audit_lost_total`. Clones share the
/// counts.
#[derive(Debug, Clone)]
pub struct AuditMetrics {
    pub(super) lines: IntCounter,
    pub(super) lost: IntCounter,
}

impl AuditMetrics {
    /// Registers the counters.
    ///
    /// # Errors
    /// The registry's, when a name is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let lines = IntCounter::new(
            "alipay_sidecar_audit_lines_total",
            "Lines of the audit log that are on disk.",
        )?;
        let lost = IntCounter::new(
            "alipay_sidecar_audit_lost_total",
            "Lines that the audit log lost, because its disk refused them or they came too fast.",
        )?;
        registry.register(Box::new(lines.clone()))?;
        registry.register(Box::new(lost.clone()))?;
        Ok(Self { lines, lost })
    }
}
