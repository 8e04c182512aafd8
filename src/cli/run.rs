//! `run`: serve.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use prometheus::Registry;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use crate::cli::activation::Activation;
use crate::cli::configuration_file::ConfigurationFile;
use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::logging::Log;
use crate::cli::service_manager::ServiceManager;
use crate::cli::{check, logging, service_manager, signals, store};
use crate::config::Config;
use crate::config::error::Mismatch;
use crate::config::value;
use crate::sidecar::Sidecar;

/// How much longer than its end may take a program whose sockets a supervisor holds waits for the
/// one before it.
const BEYOND_THE_END: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Create the store if there is none
    #[arg(long)]
    pub(crate) create_store: bool,
    /// How long to wait for a store that another process has open, such as 30s; by default not at
    /// all; where a supervisor handed over sockets, 5 s longer than an end takes: 30 s, or
    /// upstream.timeout and 15 s where that is longer
    #[arg(long, value_parser = duration, value_name = "TIME")]
    pub(crate) wait_for_store: Option<Duration>,
}

fn duration(text: &str) -> Result<Duration, Mismatch> {
    value::duration(text)
}

pub(crate) fn execute(context: &Context, arguments: &RunArguments) -> Result<(), Failure> {
    let context = Arc::new(Context::of_clean_environment(context.path())?);
    let mut activation = Activation::take()?;
    let (ended, hang_ups) = signals::heard()?;
    let config = activation.configure(&context)?;
    let key = context.store_key(&config)?;
    if arguments.create_store && !config.store.path.exists() {
        store::create(&config.store.path, &key)?;
    }
    allow_all_descriptors();
    let log = Arc::new(logging::start(&config.telemetry)?);
    let file = ConfigurationFile::new(
        Arc::clone(&context),
        activation.variables(),
        Arc::clone(&log),
    );
    let hand_over = match activation.is_empty() {
        true => Duration::ZERO,
        false => hand_over(&config),
    };
    let patience = arguments.wait_for_store.unwrap_or(hand_over);
    let begun_with = config.clone();
    context.serve(async {
        let mut ended = std::pin::pin!(ended);
        let sidecar = tokio::select! {
            built = build(config, (patience, file), &log) => built?,
            () = ended.as_mut() => {
                tracing::info!("stopped before it served");
                return Ok(());
            }
        };
        tell_doubts(&sidecar, begun_with).await;
        serve(&sidecar, activation, (ended, hang_ups)).await
    })
}

/// Tells the log what `check` warns of, in the background: keys are read, and calls needn't wait.
async fn tell_doubts(sidecar: &Sidecar, config: Config) {
    let stored = sidecar.store().apps().await.ok();
    tokio::task::spawn_blocking(move || {
        for doubt in check::doubts(&config, stored.as_deref()) {
            tracing::warn!(doubt, "the configuration may not do what is meant");
        }
    });
}

/// How long the program before this one may have the store: its configuration is taken to be the
/// same.
fn hand_over(config: &Config) -> Duration {
    Sidecar::end_takes_at_most(config).saturating_add(BEYOND_THE_END)
}

async fn serve(
    sidecar: &Sidecar,
    activation: Activation,
    (ended, hang_ups): (impl Future<Output = ()> + Send, Arc<Notify>),
) -> Result<(), Failure> {
    let manager = ServiceManager::of_environment();
    let sockets = activation.listeners().context("the sidecar can't start")?;
    let bound = sidecar.bind_beside(sockets).await;
    let bound = bound.context("the sidecar can't start")?;
    tracing::info!(
        proxy = %bound.proxy_address(),
        webhook = %bound.webhook_address(),
        admin = %bound.admin_address(),
        version = env!("CARGO_PKG_VERSION"),
        "serving"
    );
    manager.ready();
    let stopped = async {
        ended.await;
        let at_most = sidecar.end_takes_now().as_secs();
        tracing::info!(at_most_seconds = at_most, "ending what is under way");
        manager.stopping();
    };
    let ended = tokio::select! {
        ended = bound.run(stopped) => ended,
        never = follow(sidecar, &hang_ups, &manager) => match never {},
        never = live(sidecar, &manager) => match never {},
    };
    ended.context("the sidecar stopped, but not cleanly")?;
    tracing::info!("stopped");
    Ok(())
}

/// Reloads the configuration whenever somebody asks by SIGHUP. How that ended, the log tells.
async fn follow(sidecar: &Sidecar, hang_ups: &Notify, manager: &ServiceManager) -> Infallible {
    loop {
        hang_ups.notified().await;
        manager.reloading();
        let reloaded = sidecar.reload_from_source().await;
        manager.reloaded(reloaded.as_ref().map(|reloaded| reloaded.generation));
    }
}

/// Tells whoever watches that the program is alive: its tasks run, and the store's threads answer. What
/// they answer doesn't matter, because a restart mends no disk.
async fn live(sidecar: &Sidecar, manager: &ServiceManager) -> Infallible {
    let Some(every) = service_manager::watched_every() else {
        return std::future::pending().await;
    };
    let store = sidecar.store();
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let _ = store.counts().await;
        manager.alive();
    }
}

async fn build(
    config: Config,
    (patience, file): (Duration, ConfigurationFile),
    log: &Log,
) -> Result<Sidecar, Failure> {
    let registry = Registry::new();
    log.count_in(&registry).map_err(anyhow::Error::from)?;
    ServiceManager::of_environment().opening();
    let builder = Sidecar::builder(config).registry(registry);
    let builder = builder.source(Arc::new(file));
    Ok(builder.wait_for_store(patience).build().await?)
}

/// Takes all the descriptors that the system grants: its default, made for `select`, is spent by a
/// thousand connections.
pub(crate) fn allow_all_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let granted = getrlimit(Resource::Nofile).maximum;
    let all = Rlimit {
        current: granted,
        maximum: granted,
    };
    // Without them, listeners take fewer connections.
    let _ = setrlimit(Resource::Nofile, all);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hand_over_outlasts_the_longest_end() {
        let mut config = Config::default();
        assert_eq!(hand_over(&config), Duration::from_secs(30));
        config.upstream.timeout = Duration::from_secs(60);
        assert_eq!(hand_over(&config), Duration::from_secs(75));
    }
}
