//! Counts spans.

use prometheus::{IntCounterVec, Opts};

use crate::registrar::Registrar;

/// `alipay_sidecar_trace_spans_total`. Clones share the counts.
#[derive(Debug, Clone)]
pub struct TraceMetrics(IntCounterVec);

impl TraceMetrics {
    /// Registers the counter.
    ///
    /// # Errors
    /// The registry's, when the name is taken.
    pub fn register(registry: &impl Registrar) -> Result<Self, prometheus::Error> {
        let options = Opts::new(
            "alipay_sidecar_trace_spans_total",
            "Spans for the collector of traces: exported, or dropped because it was away or slow.",
        );
        let spans = IntCounterVec::new(options, &["outcome"])?;
        registry.register(Box::new(spans.clone()))?;
        for outcome in ["dropped", "exported"] {
            spans.with_label_values(&[outcome]);
        }
        Ok(Self(spans))
    }

    /// Counts spans that were lost.
    pub(super) fn dropped(&self, spans: usize) {
        self.count("dropped", spans);
    }

    /// Counts spans that the collector has.
    #[cfg(feature = "otlp")]
    pub(super) fn exported(&self, spans: usize) {
        self.count("exported", spans);
    }

    fn count(&self, outcome: &str, spans: usize) {
        let spans = u64::try_from(spans).unwrap_or(u64::MAX);
        self.0.with_label_values(&[outcome]).inc_by(spans);
    }
}
