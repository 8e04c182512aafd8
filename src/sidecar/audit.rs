//! The audit log, as it is configured.

use std::sync::Arc;
use std::time::Duration;

use crate::audit::chain::ChainKey;
use crate::audit::error::AuditError;
use crate::audit::metrics::AuditMetrics;
use crate::audit::{Audit, AuditOptions, OpenError};
use crate::clock::Clock;
use crate::config::Config;
use crate::sidecar::builder::BuildError;
use crate::store::Store;

/// How often a log that another process writes is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long at the least: the sidecar before this one closes its store and its log one after the
/// other.
const PATIENCE: Duration = Duration::from_secs(2);

/// What it is opened beside.
pub(crate) struct AuditBeside<'a> {
    pub(crate) metrics: &'a AuditMetrics,
    pub(crate) clock: &'a Arc<dyn Clock>,
    pub(crate) store: &'a Arc<dyn Store>,
    /// How long the sidecar before this one may take to end.
    pub(crate) patience: Duration,
    /// Who opens it, where that is no sidecar.
    pub(crate) by: Option<&'static str>,
}

/// Opens the log that `config` names.
pub(crate) async fn open_audit(
    config: &Config,
    beside: AuditBeside<'_>,
) -> Result<Audit, BuildError> {
    let Some(path) = &config.telemetry.audit_file else {
        return Ok(Audit::off());
    };
    let until = tokio::time::Instant::now() + beside.patience.max(PATIENCE);
    loop {
        let key = config.store.key.as_ref();
        let options = AuditOptions {
            path: path.clone(),
            retain: config.telemetry.audit_retain,
            max_size: config.telemetry.audit_max_size,
            by: beside.by,
            key: key.map(|key| ChainKey::derive(key.expose().as_bytes())),
            clock: Arc::clone(beside.clock),
            metrics: beside.metrics.clone(),
            store: Arc::clone(beside.store),
        };
        match Audit::open(options).await {
            Err(OpenError::Audit(AuditError::Locked { .. }))
                if tokio::time::Instant::now() < until =>
            {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            opened => return Ok(opened?),
        }
    }
}
