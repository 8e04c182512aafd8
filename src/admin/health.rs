//! `/livez` and `/readyz`: the sidecar's own ability; that Alipay is down is a metric.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::gateway::app::Apps;
use crate::store::Store;

/// Tells whether the sidecar can do its work.
#[derive(Clone)]
pub struct Health {
    apps: Apps,
    store: Arc<dyn Store>,
    draining: Arc<AtomicBool>,
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// All of the below.
    pub ready: bool,
    /// Commits succeed at present.
    pub store_writable: bool,
    /// At least one app can sign.
    pub app_usable: bool,
    /// The sidecar is about to stop.
    pub draining: bool,
}

impl Health {
    /// The health of a sidecar with these parts.
    #[must_use]
    pub fn new(apps: Apps, store: Arc<dyn Store>) -> Self {
        Self {
            apps,
            store,
            draining: Arc::default(),
        }
    }

    /// Makes the sidecar unready for good.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Whether calls should be sent here.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let store_writable = self.store.is_writable();
        let app_usable = !self.apps.ids().is_empty();
        let draining = self.draining.load(Ordering::Relaxed);
        Readiness {
            ready: store_writable && app_usable && !draining,
            store_writable,
            app_usable,
            draining,
        }
    }
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Health({:?})", self.readiness())
    }
}
