//! What outlives every configuration: the store, the logs, the dispatcher, whatever counts or waits.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::admin::configuration::{ConfigView, Configuration, ReloadError, Reloaded};
use crate::admin::drain::Drain;
use crate::admin::metrics::Metrics;
use crate::admin::token::{self, LeftToken, TokenInForce};
use crate::audit::Audit;
use crate::audit::metrics::AuditMetrics;
use crate::certificates::metrics::CertificateMetrics;
use crate::clock::Clock;
use crate::config::Config;
use crate::delivery::Dispatcher;
use crate::gateway::diagnosis::Diagnostics;
use crate::gateway::metrics::CallMetrics;
use crate::net::shutdown::Ending;
use crate::proxy::calls::CallRecords;
use crate::proxy::events::Events;
use crate::proxy::logins::Logins;
use crate::proxy::metrics::ProxyMetrics;
use crate::sidecar::pruning::SharedAge;
use crate::sidecar::tls::{Acceptors, Expiry};
use crate::sidecar::traces::Traces;
use crate::sidecar::{Sidecar, SidecarParts};
use crate::store::Store;
use crate::token::metrics::TokenMetrics;
use crate::webhook::metrics::WebhookMetrics;
use crate::webhook::state::StateKey;

/// What outlives every configuration.
pub(super) struct Lasting {
    pub(super) audit: Audit,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) store: Arc<dyn Store>,
    pub(super) state_key: StateKey,
    pub(super) dispatcher: Dispatcher,
    pub(super) drain: Drain,
    pub(super) ending: Ending,
    pub(super) diagnostics: Diagnostics,
    /// What became of calls.
    pub(super) calls: CallRecords,
    pub(super) logins: Logins,
    pub(super) events: Arc<Events>,
    pub(super) expiry: Expiry,
    pub(super) tls: Acceptors,
    pub(super) metrics: AllMetrics,
    pub(super) traces: Traces,
    pub(super) hook: Arc<Hook>,
    /// Listeners of ours are bound, and the admin token stands beside the store.
    pub(super) is_bound: AtomicBool,
    /// Where that stands.
    pub(super) left_token: Mutex<Option<LeftToken>>,
    /// It stands nowhere yet, for want of room.
    pub(super) owes_token: AtomicBool,
    /// How old records are.
    pub(super) age: SharedAge,
    /// No audit log is kept, whatever is configured.
    pub(super) without_audit: bool,
}

impl Lasting {
    pub(super) fn is_bound(&self) -> bool {
        self.is_bound.load(Ordering::Acquire)
    }

    /// Leaves `token` beside the store where none is configured. Only a sidecar with a store of its
    /// own does: a host that hands in a store configures the token. Where there is no room for it, calls
    /// go on all the same: the one that stands there stays in force, or none is left for now.
    pub(super) fn leave_admin_token(
        &self,
        config: &Config,
        token: &TokenInForce,
    ) -> io::Result<()> {
        let left = self.left_token.lock();
        let mut left = left.unwrap_or_else(PoisonError::into_inner);
        if config.admin.token.is_some() || config.store.key.is_none() {
            *left = None;
            self.owes_token.store(false, Ordering::Release);
            return Ok(());
        }
        let store = &config.store.path;
        let now = match token::leave(store, &token.get(), left.as_ref()) {
            Ok(now) => now,
            Err(error) if token::is_want_of_room(&error) => {
                self.keep_token(store, token, &mut left, &error);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if self.owes_token.swap(false, Ordering::AcqRel) {
            tracing::info!("there is room for the admin token now: the command line is let in");
        }
        if left.is_none() && now.path() != token::path(store) {
            tracing::warn!(
                path = %now.path().display(),
                "the admin token of another sidecar stands in the folder of the store; ours is in a \
                 file of its own, where the command line finds it"
            );
        }
        *left = Some(now);
        Ok(())
    }

    /// What becomes of the admin token where there is no room for a new one.
    fn keep_token(
        &self,
        store: &Path,
        token: &TokenInForce,
        left: &mut Option<LeftToken>,
        error: &io::Error,
    ) {
        if let Some((kept, standing)) = token::keep(store, left.take()) {
            self.owes_token.store(false, Ordering::Release);
            tracing::warn!(
                %error,
                "there is no room for a new admin token; the one that stands there stays in force"
            );
            token.set(standing);
            *left = Some(kept);
        } else if !self.owes_token.swap(true, Ordering::AcqRel) {
            tracing::warn!(
                %error,
                "there is no room for the admin token: the command line isn't let in until there is"
            );
        }
    }

    pub(super) fn owes_token(&self) -> bool {
        self.owes_token.load(Ordering::Acquire)
    }
}

/// What every part counts.
pub(super) struct AllMetrics {
    pub(super) admin: Metrics,
    pub(super) audit: AuditMetrics,
    pub(super) calls: CallMetrics,
    pub(super) certificates: CertificateMetrics,
    pub(super) proxy: ProxyMetrics,
    pub(super) tokens: TokenMetrics,
    pub(super) webhook: WebhookMetrics,
}

/// The way from the admin service, which is a part of every configuration, back to the sidecar.
#[derive(Default)]
pub(super) struct Hook(OnceLock<Weak<SidecarParts>>);

impl Hook {
    /// Leads to `sidecar` from now on.
    pub(super) fn set(&self, sidecar: &Sidecar) {
        // It is set once, by who builds the sidecar.
        let _ = self.0.set(Arc::downgrade(&sidecar.parts));
    }

    fn sidecar(&self) -> Option<Sidecar> {
        let parts = self.0.get()?.upgrade()?;
        Some(Sidecar { parts })
    }
}

impl Configuration for Hook {
    fn shown(&self) -> ConfigView {
        match self.sidecar() {
            Some(sidecar) => sidecar.configuration(),
            // Nobody asks a sidecar that is gone.
            None => ConfigView::new(&Config::default(), "", 0, 0),
        }
    }

    fn reload(&self) -> BoxFuture<'_, Result<Reloaded, ReloadError>> {
        async move {
            match self.sidecar() {
                Some(sidecar) => sidecar.reload_from_source().await,
                None => Err(ReloadError::Ending),
            }
        }
        .boxed()
    }

    fn follow_apps(&self) -> BoxFuture<'_, Result<(), ReloadError>> {
        async move {
            match self.sidecar() {
                Some(sidecar) => sidecar.follow_apps().await,
                None => Err(ReloadError::Ending),
            }
        }
        .boxed()
    }
}
