//! Who takes the metrics of a part: a registry, or what stands before one.

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
