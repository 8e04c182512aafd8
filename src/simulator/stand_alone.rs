//! The simulator as a program of its own: default seed, workspace, run.
use std::{future::Future, path::PathBuf};

use super::{
    Simulator,
    error::SimulatorError,
    seed::{AppMode, DEFAULT_APP_ID, SimulatedApp},
    workspace::{self, WorkspaceListeners, write_workspace},
};

/// How a simulator of its own is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses to listen on; the first is the one that others are told.
    pub listen: Vec<String>,
    /// Where the workspace for a sidecar goes; none: no files. Keys already there are kept.
    pub dir: Option<PathBuf>,
    /// The mode of the app; certificates are new at every start.
    pub mode: AppMode,
    /// The app's AES key, base64 of 16 bytes; none: its calls are not encrypted.
    pub encrypt_key: Option<String>,
    /// Where the sidecar listens.
    pub sidecar: WorkspaceListeners,
    /// How many times sooner than Alipay's the retries come.
    pub time_scale: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: vec!["127.0.0.1:2099".to_owned()],
            dir: None,
            mode: AppMode::Key,
            encrypt_key: None,
            sidecar: WorkspaceListeners::default(),
            time_scale: 1.0,
        }
    }
}

/// Binds, seeds and writes the workspace; the simulator is then ready to [`Simulator::run`].
///
/// # Errors
/// [`SimulatorError::Bind`], [`SimulatorError::NoListener`], [`SimulatorError::Key`],
/// [`SimulatorError::EncryptKey`], [`SimulatorError::Certificate`], [`SimulatorError::Occupied`],
/// [`SimulatorError::Write`].
pub async fn start(options: &Options) -> Result<Simulator, SimulatorError> {
    if let Some(dir) = &options.dir {
        workspace::check_vacant(dir)?;
    }
    let kept = options.dir.as_deref().and_then(workspace::kept_keys);
    let app_gateway = format!("http://{}/alipay/gateway", options.sidecar.webhook);
    let mut app = match &kept {
        Some(keys) => SimulatedApp::with_private_key(DEFAULT_APP_ID, &keys.app)?,
        None => SimulatedApp::generate(DEFAULT_APP_ID)?,
    };
    app.mode = options.mode;
    if let Some(key) = &options.encrypt_key {
        app = app.encrypt_key(key)?;
    }
    let mut builder = Simulator::builder()
        .app(app.app_gateway(app_gateway))
        .default_merchants(DEFAULT_APP_ID)
        .time_scale(options.time_scale);
    if let Some(keys) = kept {
        builder = builder.platform_key(keys.platform);
    }
    for address in &options.listen {
        builder = builder.listen(address).await?;
    }
    let simulator = builder.build()?;
    if let Some(dir) = &options.dir {
        write_workspace(&simulator, dir, Some(DEFAULT_APP_ID), &options.sidecar)?;
    }
    Ok(simulator)
}

/// Starts a simulator, says when it is ready, and serves until `shutdown` ends.
///
/// # Errors
/// As [`start`].
///
/// # Cancel safety
/// Dropping the future stops serving at once.
pub async fn run(
    options: &Options,
    ready: impl FnOnce(&Simulator),
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), SimulatorError> {
    let simulator = start(options).await?;
    ready(&simulator);
    simulator.run(shutdown).await
}
