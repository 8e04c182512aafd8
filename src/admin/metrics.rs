//! `/metrics`: what the store holds, read when Prometheus asks; the rest is counted where it
//! happens.

use prometheus::{Encoder, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder};

use crate::admin::health::Readiness;
use crate::registrar::Registrar;
use crate::store::Counts;

/// The gauges that are read from the store, and the registry of all metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    pending: IntGauge,
    dead: IntGauge,
    damaged: IntGauge,
    oldest: IntGauge,
    refused: IntGauge,
    high_water: IntGauge,
    ready: IntGauge,
    store_writable: IntGauge,
    generation: IntGauge,
    reloaded: IntGauge,
    loaded_at: IntGauge,
    merchants: IntGaugeVec,
}

impl Metrics {
    /// Registers the gauges and the build's name.
    ///
    /// # Errors
    /// The registry's, when a name is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Self::register_by(registry, registry.clone())
    }

    /// The same where `registrar` stands before what `registry` will have.
    pub(crate) fn register_by(
        registrar: &impl Registrar,
        registry: Registry,
    ) -> Result<Self, prometheus::Error> {
        let gauge = |name: &str, help: &str| -> Result<IntGauge, prometheus::Error> {
            let gauge = IntGauge::new(format!("alipay_sidecar_{name}"), help)?;
            registrar.register(Box::new(gauge.clone()))?;
            Ok(gauge)
        };
        let pending = gauge("inbox_pending", "Deliveries owed to the backend.")?;
        let dead = gauge("inbox_dead", "Deliveries given up; they can be replayed.")?;
        let damaged = gauge(
            "store_damaged_records",
            "Damaged records of the store that were moved aside, for 30 days.",
        )?;
        let oldest = gauge("inbox_oldest_seconds", "Age of the oldest delivery owed.")?;
        let refused = gauge("inbox_refused", "Refused notifications that are kept.")?;
        let high_water = gauge(
            "inbox_high_water",
            "Deliveries owed above which new notifications are refused.",
        )?;
        let ready = gauge("ready", "1 while /readyz says yes.")?;
        let store_writable = gauge(
            "store_writable",
            "1 while the store takes writes, and its disk isn’t full.",
        )?;
        let generation = gauge(
            "config_generation",
            "How often the configuration was loaded.",
        )?;
        let reloaded = gauge(
            "config_last_reload_successful",
            "1 unless the last reload was refused; then the configuration before is in force.",
        )?;
        let loaded_at = gauge(
            "config_loaded_timestamp_seconds",
            "When the configuration in force was loaded, Unix time.",
        )?;
        let merchants = IntGaugeVec::new(
            Opts::new(
                "alipay_sidecar_merchants",
                "Merchants by the state of their authorisation.",
            ),
            &["state"],
        )?;
        registrar.register(Box::new(merchants.clone()))?;
        let build = IntGaugeVec::new(
            Opts::new(
                "alipay_sidecar_build_info",
                "Always 1; the labels tell the build.",
            ),
            &["version"],
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registrar.register(Box::new(build))?;
        Ok(Self {
            registry,
            pending,
            dead,
            damaged,
            oldest,
            refused,
            high_water,
            ready,
            store_writable,
            generation,
            reloaded,
            loaded_at,
            merchants,
        })
    }

    /// Shows which configuration is in force, since when, and its `delivery.high_water`.
    pub fn in_force(&self, generation: u64, loaded_at_ms: i64, high_water: u64) {
        self.generation.set(number(generation));
        self.loaded_at.set(loaded_at_ms / 1000);
        self.reloaded.set(1);
        self.high_water.set(number(high_water));
    }

    /// Shows that a reload was refused.
    pub fn reload_refused(&self) {
        self.reloaded.set(0);
    }

    /// Shows what `/readyz` would say.
    pub fn observe(&self, readiness: Readiness) {
        self.ready.set(readiness.ready.into());
        self.store_writable.set(readiness.store_writable.into());
    }

    /// All metrics in the text format.
    ///
    /// # Errors
    /// The encoder's.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }

    /// Takes what the store holds at `now_ms`, Unix milliseconds.
    pub fn count(&self, counts: &Counts, now_ms: i64) {
        self.pending.set(number(counts.pending));
        self.dead.set(number(counts.dead));
        self.damaged.set(number(counts.damaged));
        self.refused.set(number(counts.refused));
        let age = counts
            .oldest_pending_at
            .map_or(0, |at| (now_ms - at).max(0) / 1000);
        self.oldest.set(age);
        let merchants = |state: &str| self.merchants.with_label_values(&[state]);
        merchants("authorized").set(number(counts.merchants_authorized));
        merchants("revoked").set(number(counts.merchants_revoked));
        merchants("suspect").set(number(counts.merchants_suspect));
    }
}

fn number(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
