//! How long the parts of a call take.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounter, Registry};

/// On which route a call came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// `/gateway.do`.
    Gateway,
    /// The sidecar itself: exchanges and refreshes of tokens.
    Internal,
    /// `/v2/{method}` and the crate's own `request`.
    V2,
    /// `/v3/…`.
    V3,
}

impl Api {
    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Internal => "internal",
            Self::V2 => "v2",
            Self::V3 => "v3",
        }
    }
}

/// A part of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// From the request to the credentials.
    Resolve,
    /// Waiting for a signing thread, and signing.
    Sign,
    /// From us to Alipay and back.
    Upstream,
    /// Cutting the envelope and verifying it.
    Verify,
    /// All of it.
    Total,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Sign => "sign",
            Self::Upstream => "upstream",
            Self::Verify => "verify",
            Self::Total => "total",
        }
    }
}

/// Bounds in seconds: from a store look-up (µs) to Alipay's slowest answers.
const BUCKETS: [f64; 14] = [
    1e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 1e-2, 5e-2, 0.1, 0.25, 1.0, 5.0, 15.0,
];

/// What is measured of calls, whoever makes them. Clones share the counts.
#[derive(Debug, Clone)]
pub struct CallMetrics {
    durations: HistogramVec,
    key_changes: IntCounter,
}

impl CallMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// The registry's, when a name is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let options = HistogramOpts::new(
            "alipay_sidecar_request_duration_seconds",
            "How long the phases of a call take.",
        )
        .buckets(BUCKETS.to_vec());
        let durations = HistogramVec::new(options, &["api", "phase"])?;
        let key_changes = IntCounter::new(
            "alipay_sidecar_private_key_changes_total",
            "How often the other of an app's two private keys took over.",
        )?;
        registry.register(Box::new(durations.clone()))?;
        registry.register(Box::new(key_changes.clone()))?;
        Ok(Self {
            durations,
            key_changes,
        })
    }

    /// Counts one phase of one call.
    pub fn observe(&self, api: Api, phase: Phase, took: Duration) {
        self.durations
            .with_label_values(&[api.as_str(), phase.as_str()])
            .observe(took.as_secs_f64());
    }

    /// Counts that another private key took over.
    pub(crate) fn key_changed(&self) {
        self.key_changes.inc();
    }
}
