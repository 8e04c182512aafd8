//! Another configuration for a sidecar that runs: checked, built beside the one in force, swapped.
//!
//! Whatever can fail comes first and changes nothing. Then one store of a pointer puts the new
//! generation in force, and what follows it (deliveries, TLS of the listeners, metrics) can't fail.
//! What is under way ends by the generation it began with; no connection is closed.

use std::sync::Arc;
use std::time::Duration;

use crate::admin::configuration::{ConfigView, ReloadError, Reloaded};
use crate::admin::token::TokenInForce;
use crate::audit::entry::{Entry, Event};
use crate::config::Config;
use crate::config::error::{ConfigErrors, Fault};
use crate::net::shutdown::Stage;
use crate::sidecar::audit::AuditBeside;
use crate::sidecar::builder::{BuildError, admin_token};
use crate::sidecar::generation::{Generation, Making};
use crate::sidecar::means::Means;
use crate::sidecar::tls::Identities;
use crate::sidecar::{Sidecar, audit, unusable_files};

/// Where a configuration comes from, and comes from again when it is reloaded.
pub trait ConfigSource: Send + Sync + 'static {
    /// Reads it anew. It may block: it runs on a thread where that harms nobody.
    ///
    /// # Errors
    /// [`ReloadError::Configuration`] with all that is wrong with it, or
    /// [`ReloadError::NoSource`].
    fn load(&self) -> Result<Config, ReloadError>;

    /// Hears that `config` is in force now, for what isn't the sidecar's own (the log).
    fn in_force(&self, config: &Config) {
        let _ = config;
    }
}

/// What is read before anything is built.
struct Prepared {
    config: Config,
    means: Means,
    identities: Identities,
    admin_token: TokenInForce,
}

impl Sidecar {
    /// Puts `config` in force, but for each `listen`, `webhook.base_path` and `[store]`, which have
    /// to be the same. Calls under way end by the configuration they began with, and nothing is
    /// dropped; one that is wrong changes nothing. Files that it names (certificates of listeners,
    /// roots, keys) are read anew.
    ///
    /// # Errors
    /// [`ReloadError`]; then nothing has changed.
    ///
    /// # Cancel safety
    /// Safe: a reload that was begun goes on.
    pub async fn reload(&self, config: Config) -> Result<Reloaded, ReloadError> {
        self.begin_reload(move |_| Ok(config)).await
    }

    /// The same with what the [`ConfigSource`] gives, as SIGHUP and `POST /api/reload` do.
    ///
    /// # Errors
    /// As there; [`ReloadError::NoSource`] where the builder was given none.
    ///
    /// # Cancel safety
    /// As there.
    pub async fn reload_from_source(&self) -> Result<Reloaded, ReloadError> {
        const NONE: &str = "the program that holds this sidecar made its configuration itself: \
                            there is no file to read again";
        self.begin_reload(|sidecar| match &sidecar.parts.source {
            Some(source) => source.load(),
            None => Err(ReloadError::NoSource(NONE.to_owned())),
        })
        .await
    }

    /// The configuration in force, without its secrets, as `GET /api/config` shows it.
    #[must_use]
    pub fn configuration(&self) -> ConfigView {
        let Generation {
            config,
            fingerprint,
            number,
            loaded_at,
            ..
        } = &*self.current();
        ConfigView::new(config, fingerprint, *number, *loaded_at)
    }

    /// Makes the apps that can sign those of the configuration and of the store as it is now.
    pub(super) async fn follow_apps(&self) -> Result<(), ReloadError> {
        let current = self.current();
        let mut all = current.config.apps.clone();
        all.extend(self.parts.lasting.store.apps().await?);
        let replaced = current.apps.replace(&all, &current.config.upstream);
        replaced.map_err(|error| ReloadError::App(error.to_string()))?;
        self.report_refused(&current);
        Ok(())
    }

    /// A new key may make good what was refused; the operator needn't wait to hear of it.
    fn report_refused(&self, current: &Generation) {
        let webhook = current.webhook.clone();
        tokio::spawn(async move { webhook.report_refused().await });
    }

    async fn begin_reload(
        &self,
        load: impl FnOnce(&Self) -> Result<Config, ReloadError> + Send + 'static,
    ) -> Result<Reloaded, ReloadError> {
        let sidecar = self.clone();
        let task = tokio::spawn(async move {
            let _alone = sidecar.parts.reloading.lock().await;
            let reloaded = sidecar.load_and_swap(load).await;
            sidecar.tell(&reloaded);
            reloaded
        });
        let bug = || ReloadError::Failed("the reload ended in a bug; see the log".to_owned());
        task.await.map_err(|_| bug())?
    }

    async fn load_and_swap(
        &self,
        load: impl FnOnce(&Self) -> Result<Config, ReloadError> + Send + 'static,
    ) -> Result<Reloaded, ReloadError> {
        self.refuse_at_end()?;
        let former = self.current();
        let sidecar = self.clone();
        let prepare = move || sidecar.prepare(load(&sidecar)?);
        let prepared = tokio::task::spawn_blocking(prepare).await;
        let bug = || ReloadError::Failed("the reload ended in a bug; see the log".to_owned());
        let prepared = prepared.map_err(|_| bug())??;
        // Nobody stores an app between the look at all of them and the swap.
        let _alone = former.apps.changing().await;
        let mut apps = prepared.config.apps.clone();
        apps.extend(self.parts.lasting.store.apps().await?);
        let apps = former.apps.successor(&apps, &prepared.config.upstream);
        let apps = apps.map_err(|error| ReloadError::App(error.to_string()))?;
        let making = Making {
            config: prepared.config,
            means: prepared.means,
            apps,
            admin_token: prepared.admin_token,
        };
        let next = Generation::new(making, &self.parts.lasting, Some(&former));
        next.certificates.recall(&next.apps.all()).await?;
        self.refuse_at_end()?;
        if self.parts.lasting.is_bound() {
            // Last: where anything above fails, the command line goes on with the former one.
            let (config, token) = (next.config.clone(), next.admin_token.clone());
            let sidecar = self.clone();
            let leaving = move || sidecar.parts.lasting.leave_admin_token(&config, &token);
            let left = tokio::task::spawn_blocking(leaving).await;
            left.map_err(|_| bug())?.map_err(|e| failed(&e))?;
        }
        let reloaded = Reloaded {
            generation: next.number,
            fingerprint: next.fingerprint.clone(),
            loaded_at: next.loaded_at,
            changed: former.config.changed_keys(&next.config),
        };
        self.swap(next, prepared.identities);
        let lasting = &self.parts.lasting;
        let current = self.current();
        if current.config.telemetry.audit_file.is_none() {
            // Its last line says so: of what follows nobody tells.
            let ended = || Entry::new(Event::Audit, "log", "ended");
            lasting
                .audit
                .tell(|| ended().with_number("generation", reloaded.generation));
        }
        let beside = AuditBeside {
            metrics: &lasting.metrics.audit,
            clock: &lasting.clock,
            store: &lasting.store,
            patience: Duration::ZERO,
            by: None,
        };
        audit::follow(&lasting.audit, &current.config, beside).await;
        Ok(reloaded)
    }

    fn refuse_at_end(&self) -> Result<(), ReloadError> {
        match self.parts.lasting.ending.stage() < Stage::Leaving {
            true => Ok(()),
            false => Err(ReloadError::Ending),
        }
    }

    /// Reads what `config` names.
    fn prepare(&self, mut config: Config) -> Result<Prepared, ReloadError> {
        let (lasting, former) = (&self.parts.lasting, self.current());
        if lasting.without_audit {
            config.telemetry.audit_file = None;
        }
        let mut faults = config.unsupported();
        faults.extend(config.put_into_form());
        faults.extend(former.config.unreloadable(&config));
        faults.extend(unusable_files(&config));
        faults.extend(audit::unusable(&lasting.audit, &config));
        if let Some(errors) = placed(&config, faults) {
            return Err(errors.into());
        }
        let means = Means::new(&config, Some(&former.means)).map_err(refused)?;
        let identities = Identities::read(&config).map_err(|e| failed(&e))?;
        // A token that was made stays: the command line holds it.
        let admin_token = match (&config.admin.token, &former.config.admin.token) {
            (None, None) => former.admin_token.clone(),
            _ => TokenInForce::new(admin_token(&config).map_err(refused)?),
        };
        Ok(Prepared {
            config,
            means,
            identities,
            admin_token,
        })
    }

    /// Puts `next` in force.
    fn swap(&self, next: Generation, identities: Identities) {
        let lasting = &self.parts.lasting;
        let next = Arc::new(next);
        self.parts.current.store(Arc::clone(&next));
        lasting.expiry.follow(&next.config, &next.apps);
        lasting.tls.set(identities);
        lasting.traces.follow(&next.config, &next.means.backend);
        let means = next.means.of_deliveries(&lasting.traces.tracer);
        lasting
            .dispatcher
            .reconfigure_with(&next.config.delivery, means);
        lasting.drain.follow(next.work());
        let high_water = next.config.delivery.high_water;
        let metrics = &lasting.metrics.admin;
        metrics.in_force(next.number, next.loaded_at, high_water);
        // Whoever works in the background takes it up.
        self.parts.generations.send_replace(next.number);
        if let Some(source) = &self.parts.source {
            source.in_force(&next.config);
        }
        self.report_refused(&next);
    }

    /// Tells the log, the audit log and the metrics how a reload ended.
    fn tell(&self, reloaded: &Result<Reloaded, ReloadError>) {
        let lasting = &self.parts.lasting;
        let entry = |outcome| Entry::new(Event::Admin, "reload", outcome);
        match reloaded {
            Ok(reloaded) => {
                tracing::info!(
                    generation = reloaded.generation,
                    fingerprint = reloaded.fingerprint,
                    changed = reloaded.changed.join(" "),
                    "configuration reloaded"
                );
                if reloaded.changed.iter().any(|key| key == "caller")
                    && self.current().config.callers.is_empty()
                {
                    tracing::warn!(
                        "no [[caller]] is left: whoever reaches the proxy may call for everyone"
                    );
                }
                lasting.audit.tell(|| {
                    entry("ok")
                        .with_number("generation", reloaded.generation)
                        .with("fingerprint", &reloaded.fingerprint)
                });
            }
            Err(error) => {
                let current = self.current();
                for fault in error.faults() {
                    tracing::error!(%fault, "the configuration is wrong");
                }
                let reason = match error.faults() {
                    [] => error.to_string(),
                    [_] => "a fault in the configuration".to_owned(),
                    faults => format!("{} faults in the configuration", faults.len()),
                };
                tracing::error!(
                    reason,
                    generation = current.number,
                    fingerprint = current.fingerprint,
                    "the configuration was not reloaded; the one before stays in force"
                );
                lasting.metrics.admin.reload_refused();
                lasting.audit.tell(|| {
                    entry("refused")
                        .with("reason", error.kind())
                        .with_number("generation", current.number)
                });
            }
        }
    }
}

/// The faults, each with the place of its key; `None`: there is none.
pub(super) fn placed(config: &Config, faults: Vec<Fault>) -> Option<ConfigErrors> {
    let placed = faults.into_iter().map(|fault| config.origins.placed(fault));
    ConfigErrors::of_faults(placed.collect())
}

fn refused(error: BuildError) -> ReloadError {
    match error {
        BuildError::Configuration(errors) => errors.into(),
        BuildError::Store(error) => error.into(),
        other => ReloadError::Failed(other.to_string()),
    }
}

fn failed(error: &std::io::Error) -> ReloadError {
    ReloadError::Failed(error.to_string())
}
