//! How long the parts of a call take.

use std::time::Duration;

use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts};

use crate::registrar::Registrar;

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
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Gateway, Self::Internal, Self::V2, Self::V3];

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
    /// Signing, and waiting for a signing thread where others sign.
    Sign,
    /// From us to Alipay and back.
    Upstream,
    /// Cutting the envelope and verifying it.
    Verify,
    /// All of it.
    Total,
}

impl Phase {
    /// Every one.
    pub const ALL: [Self; 5] = [
        Self::Resolve,
        Self::Sign,
        Self::Upstream,
        Self::Verify,
        Self::Total,
    ];

    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
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

/// Why Alipay doesn't take what signs for an app: what its codes have in common.
const REFUSALS: [&str; 2] = ["invalid-signature", "app-cert-not-exist"];

/// What is measured of calls, whoever makes them. Clones share the counts.
#[derive(Debug, Clone)]
pub struct CallMetrics {
    durations: HistogramVec,
    key_changes: IntCounter,
    refused_signatures: IntCounterVec,
}

impl CallMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// The registry's, when a name is taken.
    pub fn register(registry: &impl Registrar) -> Result<Self, prometheus::Error> {
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
        let refused_signatures = IntCounterVec::new(
            Opts::new(
                "alipay_sidecar_signature_refusals_total",
                "Calls that Alipay refused for our signature or certificate, with every key tried.",
            ),
            &["reason"],
        )?;
        // Present from the start, so that the first one is an increase and not a new series.
        for reason in REFUSALS {
            refused_signatures.with_label_values(&[reason]);
        }
        registry.register(Box::new(refused_signatures.clone()))?;
        registry.register(Box::new(durations.clone()))?;
        registry.register(Box::new(key_changes.clone()))?;
        Ok(Self {
            durations,
            key_changes,
            refused_signatures,
        })
    }

    /// Counts one phase of one call.
    pub fn observe(&self, api: Api, phase: Phase, took: Duration) {
        self.durations
            .with_label_values(&[api.as_str(), phase.as_str()])
            .observe(took.as_secs_f64());
    }

    /// Counts a call that Alipay refused with `code`, in either dialect's spelling.
    pub(crate) fn signature_refused(&self, code: &str) {
        if let Some(reason) = REFUSALS.iter().find(|reason| code.contains(**reason)) {
            self.refused_signatures.with_label_values(&[reason]).inc();
        }
    }

    /// Counts that another private key took over.
    pub(crate) fn key_changed(&self) {
        self.key_changes.inc();
    }
}
