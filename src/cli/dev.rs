//! `dev`: everything on loopback with throw-away keys against the built-in simulator.

use anyhow::anyhow;
use clap::Args;

use crate::cli::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct DevArguments {
    /// Walk through one call, one authorisation, one user token and one notification
    #[arg(long)]
    pub(crate) tour: bool,
    /// A fault for the simulator to make
    #[arg(long, value_name = "NAME")]
    pub(crate) fault: Option<String>,
    /// The first port: proxy; +1 webhook, +2 admin, +11 simulator
    #[arg(long, value_name = "PORT", default_value_t = 2088)]
    pub(crate) listen_base: u16,
}

pub(crate) fn execute(arguments: &DevArguments) -> Result<(), Failure> {
    // The simulator and the sidecar are wired in here.
    let _ = (arguments.tour, &arguments.fault, arguments.listen_base);
    Err(anyhow!("`dev` isn't wired yet").into())
}
