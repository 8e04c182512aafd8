//! The metrics of a sidecar that is being built: a host's registry gets them last and all at once, so that
//! what can't be built leaves nothing behind that the next attempt would find taken.

use std::collections::HashMap;

use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::MetricFamily;

/// Hands what was registered in `ours` over to `registry`, with the metrics of the process.
///
/// # Errors
/// The registry's, when a name is taken; it is left as it was.
pub(super) fn hand_over(ours: Registry, registry: &Registry) -> prometheus::Result<()> {
    registry.register(Box::new(Gathered::of(ours)?))?;
    // Fails where the system has no such metrics, or where the host registered them already.
    let _ = registry.register(Box::new(ProcessCollector::for_self()));
    Ok(())
}

/// What a registry gathers, as one collector of another.
struct Gathered {
    registry: Registry,
    /// Of what has a series; the names of the others aren't compared with the host's.
    descriptions: Vec<Desc>,
}

impl Gathered {
    fn of(registry: Registry) -> prometheus::Result<Self> {
        let families = registry.gather();
        let descriptions = families.iter().map(description);
        Ok(Self {
            descriptions: descriptions.collect::<Result<_, _>>()?,
            registry,
        })
    }
}

fn description(family: &MetricFamily) -> prometheus::Result<Desc> {
    let labels = family
        .get_metric()
        .first()
        .map(prometheus::proto::Metric::get_label);
    let names = labels.unwrap_or_default().iter();
    let names = names.map(|label| label.name().to_owned()).collect();
    let (name, help) = (family.name().to_owned(), family.help().to_owned());
    Desc::new(name, help, names, HashMap::new())
}

impl Collector for Gathered {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.registry.gather()
    }
}
