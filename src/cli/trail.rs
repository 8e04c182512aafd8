//! What the audit log is told of changes that the command line itself makes to a store, where no
//! sidecar runs: a running one tells it of requests to `/api`.
//!
//! Invariant: the log is opened before anything is changed, so that what couldn't be told isn't done.

use std::sync::Arc;

use anyhow::Context as _;
use prometheus::Registry;

use crate::admin::error::AdminError;
use crate::audit::Audit;
use crate::audit::entry::{Entry, Event};
use crate::audit::metrics::AuditMetrics;
use crate::cli::failure::Failure;
use crate::cli::{output, store};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::sidecar::{AuditBeside, COMMAND, open_audit};
use crate::store::Store;
use crate::store::seal::StoreKey;

/// The audit log of a store that nobody else has open.
pub(crate) struct Trail {
    audit: Audit,
    metrics: AuditMetrics,
}

/// What is done, and to what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Act<'a> {
    /// The verb, such as `merchant add`.
    pub(crate) verb: &'static str,
    /// Whose record, or which file: nothing secret.
    pub(crate) subject: Option<&'a str>,
}

impl Trail {
    /// Opens the log that `config` names, beside its store.
    pub(crate) async fn open(config: &Config, store: &Arc<dyn Store>) -> Result<Self, Failure> {
        let registry = Registry::new();
        let metrics = AuditMetrics::register(&registry).map_err(anyhow::Error::from)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let beside = AuditBeside {
            metrics: &metrics,
            clock: &clock,
            store,
            patience: std::time::Duration::ZERO,
            by: Some(COMMAND),
        };
        let opened = open_audit(config, beside).await;
        let audit = opened.context(NOTHING_CHANGED)?;
        Ok(Self { audit, metrics })
    }

    /// Writes one line, and has the store know of it.
    pub(crate) async fn tell(&self, act: Act<'_>, outcome: &'static str) {
        self.audit.tell(|| entry(act, outcome));
        self.audit.finished().await;
        if self.metrics.lost() > 0 {
            output::complain(format!(
                "warning: the audit log doesn't tell of `{}`: its disk refuses lines",
                act.verb
            ));
        }
    }

    /// Makes a change, and tells what became of it.
    pub(crate) async fn told<T>(
        &self,
        act: Act<'_>,
        change: impl Future<Output = Result<T, AdminError>>,
    ) -> Result<T, Failure> {
        let changed = change.await;
        let outcome = match &changed {
            Ok(_) => "ok",
            Err(error) if error.status() < 500 => "refused",
            Err(_) => "failed",
        };
        self.tell(act, outcome).await;
        Ok(changed?)
    }
}

/// Finds out whether the log can be written, before a change after which the store is another.
pub(crate) fn probe(config: &Config) -> Result<(), Failure> {
    let Some(path) = &config.telemetry.audit_file else {
        return Ok(());
    };
    let probed = crate::audit::probe(path);
    Ok(probed.context(NOTHING_CHANGED)?)
}

/// Tells of a change that was made, after which the store is another. It was made, whatever becomes
/// of this.
pub(crate) async fn tell_after(config: &Config, act: Act<'_>) {
    if let Err(failure) = told_after(config, act).await {
        output::complain(&failure);
        let verb = act.verb;
        output::complain(format!(
            "warning: `{verb}` was done; the audit log doesn't tell of it"
        ));
    }
}

async fn told_after(config: &Config, act: Act<'_>) -> Result<(), Failure> {
    let text = config.store.key.as_ref().map(|key| key.expose().as_str());
    let key = StoreKey::from_base64(text.unwrap_or_default()).map_err(anyhow::Error::from)?;
    let store = store::open_with(config, key)?;
    Trail::open(config, &store).await?.tell(act, "ok").await;
    Ok(())
}

/// Who has the store's key and files is the operator; which of the host's users that was, the system
/// says.
fn entry(act: Act<'_>, outcome: &'static str) -> Entry {
    let uid = rustix::process::getuid().as_raw();
    Entry::new(Event::Admin, COMMAND, outcome)
        .with("action", act.verb)
        .with_some("subject", act.subject)
        .with_number("uid", uid.into())
}

const NOTHING_CHANGED: &str =
    "nothing was changed: the audit log, which has to tell of it, can't be written";
