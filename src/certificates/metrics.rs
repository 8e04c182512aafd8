//! How often platform certificates were fetched.

use prometheus::{IntCounterVec, Opts};

use crate::gateway::platform::CertificateRefusal;
use crate::registrar::Registrar;

/// Every outcome: `ok`, and the kinds of [`CertificateRefusal`].
const OUTCOMES: [&str; 11] = [
    "certificate-expired",
    "certificate-foreign",
    "certificate-holder",
    "certificate-key",
    "certificate-key-mode",
    "certificate-limited",
    "certificate-missing",
    "certificate-unavailable",
    "certificate-unreadable",
    "certificate-untrusted",
    "ok",
];

/// `alipay_sidecar_certificate_downloads_total`. Clones share the counts.
#[derive(Debug, Clone)]
pub struct CertificateMetrics(IntCounterVec);

impl CertificateMetrics {
    /// Registers the counter.
    ///
    /// # Errors
    /// The registry's, when the name is taken.
    pub fn register(registry: &impl Registrar) -> Result<Self, prometheus::Error> {
        let options = Opts::new(
            "alipay_sidecar_certificate_downloads_total",
            "Platform certificates asked for, by what became of them.",
        );
        let downloads = IntCounterVec::new(options, &["outcome"])?;
        registry.register(Box::new(downloads.clone()))?;
        // Present from the start, so that the first one is an increase and not a new series.
        for outcome in OUTCOMES {
            downloads.with_label_values(&[outcome]);
        }
        Ok(Self(downloads))
    }

    pub(super) fn fetched(&self, result: &Result<(), CertificateRefusal>) {
        let outcome = result
            .as_ref()
            .map_or_else(CertificateRefusal::kind, |()| "ok");
        self.0.with_label_values(&[outcome]).inc();
    }
}
