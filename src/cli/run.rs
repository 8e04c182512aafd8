//! `run`: serve.

use anyhow::Context as _;
use clap::Args;
use prometheus::Registry;

use crate::cli::context::Context;
use crate::cli::failure::Failure;
use crate::cli::logging::Log;
use crate::cli::{logging, signals, store};
use crate::config::Config;
use crate::sidecar::Sidecar;

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Create the store if there is none
    #[arg(long)]
    pub(crate) create_store: bool,
}

pub(crate) fn execute(context: &Context, arguments: &RunArguments) -> Result<(), Failure> {
    let config = context.load_to_serve()?;
    let key = context.store_key(&config)?;
    if arguments.create_store && !config.store.path.exists() {
        store::create(&config.store.path, &key)?;
    }
    forbid_core_dumps();
    let log = logging::start(&config.telemetry)?;
    context.serve(serve(config, &log))
}

async fn serve(config: Config, log: &Log) -> Result<(), Failure> {
    let ended = signals::ended()?;
    let registry = Registry::new();
    log.count_in(&registry).map_err(anyhow::Error::from)?;
    let built = Sidecar::builder(config).registry(registry).build().await;
    let sidecar = built?;
    let bound = sidecar.bind().await.context("the sidecar can't start")?;
    tracing::info!(
        proxy = %bound.proxy_address(),
        webhook = %bound.webhook_address(),
        admin = %bound.admin_address(),
        version = env!("CARGO_PKG_VERSION"),
        "serving"
    );
    bound.run(ended).await;
    tracing::info!("stopped");
    Ok(())
}

/// A core dump would hold every key: contract §11.
fn forbid_core_dumps() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    // Lowering a limit of one's own is always allowed.
    let _ = setrlimit(Resource::Core, none);
}
