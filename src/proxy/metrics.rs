//! What is counted of the calls.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts};

use crate::proxy::caller::Violation;
use crate::registrar::Registrar;

/// How many different method names become labels; later ones are counted as `other`.
const METHODS: usize = 200;

/// The proxy's metrics. Clones share the counts.
#[derive(Debug, Clone)]
pub struct ProxyMetrics {
    requests: IntCounterVec,
    in_flight: IntGauge,
    foreign_notify_urls: IntCounter,
    caller_violations: IntCounterVec,
    methods: Arc<Mutex<BTreeSet<String>>>,
}

impl ProxyMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// The registry's, when a name is taken.
    pub fn register(registry: &impl Registrar) -> Result<Self, prometheus::Error> {
        let requests = IntCounterVec::new(
            Opts::new(
                "alipay_sidecar_requests_total",
                "Calls, refused ones included.",
            ),
            &["api", "method", "outcome"],
        )?;
        let in_flight = IntGauge::new("alipay_sidecar_in_flight_requests", "Calls under way.")?;
        let foreign_notify_urls = IntCounter::new(
            "alipay_sidecar_foreign_notify_urls_total",
            "Calls whose notify_url is neither ours nor allowed.",
        )?;
        let caller_violations = IntCounterVec::new(
            Opts::new(
                "alipay_sidecar_caller_violations_total",
                "What callers with mode = \"report\" did and would be refused.",
            ),
            &["rule"],
        )?;
        // Present from the start, so that the first one is an increase and not a new series.
        for violation in Violation::ALL {
            caller_violations.with_label_values(&[violation.as_str()]);
        }
        registry.register(Box::new(caller_violations.clone()))?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(in_flight.clone()))?;
        registry.register(Box::new(foreign_notify_urls.clone()))?;
        Ok(Self {
            requests,
            in_flight,
            foreign_notify_urls,
            caller_violations,
            methods: Arc::default(),
        })
    }

    /// Counts one finished call.
    pub fn count(&self, api: &str, method: Option<&str>, outcome: &str) {
        let method = method.map_or_else(|| "none".to_owned(), |m| self.label(m));
        self.requests
            .with_label_values(&[api, &method, outcome])
            .inc();
    }

    /// Counts a `notify_url` that isn't ours.
    pub fn count_foreign_notify_url(&self) {
        self.foreign_notify_urls.inc();
    }

    /// Counts what would be refused to a caller, by the rule that it breaks.
    pub fn count_caller_violation(&self, rule: &str) {
        self.caller_violations.with_label_values(&[rule]).inc();
    }

    /// Counts a call as under way until the guard is dropped.
    #[must_use]
    pub fn begin(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    fn label(&self, method: &str) -> String {
        // Held for a look-up in a set of at most 200 names; a poisoned one still is such a set.
        let mut methods = self.methods.lock().unwrap_or_else(PoisonError::into_inner);
        if methods.contains(method) {
            return method.to_owned();
        }
        if methods.len() >= METHODS {
            return "other".to_owned();
        }
        methods.insert(method.to_owned());
        method.to_owned()
    }
}

/// A call under way.
#[derive(Debug)]
pub struct InFlight(IntGauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
