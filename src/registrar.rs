//! Who takes the metrics of a part: a registry, or what stands before one.

use std::sync::Arc;

use prometheus::Registry;
use prometheus::core::Collector;

/// Takes metrics that are to be shown.
pub trait Registrar {
    /// Has what `collector` collects be shown from now on.
    ///
    /// # Errors
    /// The registry's, when a name is taken.
    fn register(&self, collector: Box<dyn Collector>) -> prometheus::Result<()>;
}

impl Registrar for Registry {
    fn register(&self, collector: Box<dyn Collector>) -> prometheus::Result<()> {
        Self::register(self, collector)
    }
}

/// A shared one is as good.
impl<T: Registrar + ?Sized> Registrar for Arc<T> {
    fn register(&self, collector: Box<dyn Collector>) -> prometheus::Result<()> {
        T::register(self, collector)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::metrics::DeliveryMetrics;

    #[test]
    fn a_shared_registry_is_taken_as_it_is() {
        let shared = Arc::new(Registry::new());
        DeliveryMetrics::register(&shared).expect("registered");
        assert!(!shared.gather().is_empty());
        let any: Arc<dyn Registrar> = shared;
        DeliveryMetrics::register(&any).expect_err("its names are taken");
    }
}
