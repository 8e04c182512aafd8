//! `simulator`: the Alipay simulator alone.

use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;

use crate::cli::failure::Failure;

#[derive(Debug, Args)]
pub(crate) struct SimulatorArguments {
    /// Where to write the keys and a config.toml for a sidecar that talks to it
    #[arg(long, value_name = "D")]
    pub(crate) dir: Option<PathBuf>,
    /// Its port
    #[arg(long, value_name = "PORT", default_value_t = 2099)]
    pub(crate) listen_base: u16,
}

pub(crate) fn execute(arguments: &SimulatorArguments) -> Result<(), Failure> {
    // The simulator is wired in here.
    let _ = (&arguments.dir, arguments.listen_base);
    Err(anyhow!("`simulator` isn't wired yet").into())
}
