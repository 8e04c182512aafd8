//! `run`: serve.

use anyhow::anyhow;
use clap::Args;

use crate::cli::context::Context;
use crate::cli::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    /// Create the store if there is none
    #[arg(long)]
    pub(crate) create_store: bool,
}

pub(crate) fn execute(context: &Context, arguments: &RunArguments) -> Result<(), Failure> {
    let config = context.load()?;
    let key = context.store_key(&config)?;
    if arguments.create_store && !config.store.path.exists() {
        crate::cli::store::create(&config.store.path, &key)?;
    }
    let _store = crate::cli::store::open(context, &config)?;
    // The sidecar is wired in here.
    Err(anyhow!("`run` isn't wired yet").into())
}
