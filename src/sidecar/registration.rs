//! The metrics of a sidecar that is being built: a host's registry gets them last and all at once, so that
//! what can't be built leaves no metric behind that the next attempt would find taken.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Counter, MetricFamily};
use rustix::time::{ClockId, clock_gettime};

use crate::registrar::Registrar;

/// Takes the metrics of the parts.
#[derive(Default)]
pub(super) struct Registration {
    registry: Registry,
    /// Of all of them, those without a series, too: a registry doesn't tell what it has.
    descriptions: Mutex<Vec<Desc>>,
}

impl Registrar for Registration {
    fn register(&self, collector: Box<dyn Collector>) -> prometheus::Result<()> {
        let described: Vec<Desc> = collector.desc().into_iter().cloned().collect();
        self.registry.register(collector)?;
        let descriptions = self.descriptions.lock();
        let mut descriptions = descriptions.unwrap_or_else(PoisonError::into_inner);
        descriptions.extend(described);
        Ok(())
    }
}

impl Registration {
    /// Whether `host` would take them. It shows none of them afterwards, though it keeps for good which
    /// labels and help go with a name, so that another metric may not have the name with others.
    ///
    /// # Errors
    /// The registry's, when a name is taken.
    pub(super) fn try_with(&self, host: &Registry) -> prometheus::Result<()> {
        // Nothing is collected from a registry that has nothing.
        let attempt = || Box::new(self.gathered(Registry::new()));
        host.register(attempt())?;
        host.unregister(attempt())
    }

    /// Hands them over to `host`, with the metrics of the process.
    ///
    /// # Errors
    /// As [`Self::try_with`].
    pub(super) fn hand_over(self, host: &Registry) -> prometheus::Result<()> {
        host.register(Box::new(self.gathered(self.registry.clone())))?;
        // Fails where the system has no such metrics, or where the host registered them already.
        let _ = host.register(Box::new(OfProcess(ProcessCollector::for_self())));
        Ok(())
    }

    fn gathered(&self, registry: Registry) -> Gathered {
        let descriptions = self.descriptions.lock();
        let descriptions = descriptions.unwrap_or_else(PoisonError::into_inner);
        Gathered {
            registry,
            descriptions: descriptions.clone(),
        }
    }
}

/// What a registry gathers, as one collector of another.
struct Gathered {
    registry: Registry,
    descriptions: Vec<Desc>,
}

impl Collector for Gathered {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}

/// The metrics of the process, but for its time on processors as fine as the system tells it: the
/// library's whole seconds make a rate jump.
struct OfProcess(ProcessCollector);

impl Collector for OfProcess {
    fn desc(&self) -> Vec<&Desc> {
        self.0.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.0.collect();
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let used = Duration::try_from(used).unwrap_or_default();
        let is_cpu = |family: &&mut MetricFamily| family.name() == "process_cpu_seconds_total";
        let cpu = families.iter_mut().filter(is_cpu);
        for metric in cpu.flat_map(MetricFamily::mut_metric) {
            let mut counter = Counter::default();
            counter.set_value(used.as_secs_f64());
            metric.set_counter(counter);
        }
        families
    }
}
