//! The audit log, as it is configured.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::audit::chain::ChainKey;
use crate::audit::error::AuditError;
use crate::audit::metrics::AuditMetrics;
use crate::audit::{Audit, AuditOptions, OpenError};
use crate::clock::Clock;
use crate::config::Config;
use crate::config::error::{Fault, Mismatch};
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
        match Audit::open(beside.options(config, path)).await {
            Err(OpenError::Audit(AuditError::Locked { .. }))
                if tokio::time::Instant::now() < until =>
            {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            opened => return Ok(opened?),
        }
    }
}

impl AuditBeside<'_> {
    fn options(&self, config: &Config, path: &Path) -> AuditOptions {
        let key = config.store.key.as_ref();
        AuditOptions {
            path: path.to_owned(),
            retain: config.telemetry.audit_retain,
            max_size: config.telemetry.audit_max_size,
            by: self.by,
            key: key.map(|key| ChainKey::derive(key.expose().as_bytes())),
            clock: Arc::clone(self.clock),
            metrics: self.metrics.clone(),
            store: Arc::clone(self.store),
        }
    }
}

/// What is wrong with the log that `config` names, where `audit` is another.
pub(super) fn unusable(audit: &Audit, config: &Config) -> Option<Fault> {
    let path = config.telemetry.audit_file.as_deref()?;
    if audit.is_written_to(Some(path)) {
        return None;
    }
    // Our own log under another name has its lock, and lets go of it.
    let probed = match audit.may_be_at(path) {
        true => crate::audit::probe(path),
        false => crate::audit::probe_alone(path),
    };
    let error = probed.err()?;
    let mismatch = Mismatch::new(error.to_string(), "a file that can be written, or \"\"");
    Some(Fault::of_key("audit.file", mismatch))
}

/// Has the log follow `config`, which is in force. Ends once lines go where they should.
pub(super) async fn follow(audit: &Audit, config: &Config, beside: AuditBeside<'_>) {
    audit.keep(
        config.telemetry.audit_retain,
        config.telemetry.audit_max_size,
    );
    let path = config.telemetry.audit_file.as_deref();
    if audit.is_written_to(path) {
        return;
    }
    if path.is_none() {
        tracing::warn!("the audit log ends here: calls and changes are told nowhere from now on");
    }
    let options = path.map(|path| beside.options(config, path));
    // It was probed: what fails here is that another process has taken it since, or the like.
    if let Err(error) = audit.move_to(options.as_ref()).await {
        tracing::error!(
            %error,
            "the audit log can't be begun in its new file; lines wait for the next reload"
        );
    }
}
