//! `/livez` and `/readyz`: the sidecar's own ability; that Alipay is down is a metric.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;

use crate::gateway::app::Apps;
use crate::net::shutdown::{Ending, Stage};
use crate::store::Store;

/// Tells whether the sidecar can do its work.
#[derive(Clone)]
pub struct Health {
    apps: Apps,
    store: Arc<dyn Store>,
    ending: Ending,
}

/// The answer of `/readyz`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema, Serialize)]
pub struct Readiness {
    /// All of the below.
    pub ready: bool,
    /// Commits succeed at present.
    pub store_writable: bool,
    /// At least one app can sign.
    pub app_usable: bool,
    /// The sidecar is about to stop, or was taken out of service.
    pub draining: bool,
}

impl Health {
    /// The health of a sidecar with these parts, until `ending` begins.
    #[must_use]
    pub fn new(apps: Apps, store: Arc<dyn Store>, ending: Ending) -> Self {
        Self {
            apps,
            store,
            ending,
        }
    }

    /// Whether calls should be sent here.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let store_writable = self.store.is_writable();
        let app_usable = !self.apps.ids().is_empty();
        let draining = self.ending.stage() >= Stage::Leaving;
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
