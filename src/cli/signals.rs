//! The signals that end the program cleanly.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};

/// Ends at the first SIGTERM or SIGINT.
pub(crate) fn ended() -> anyhow::Result<impl Future<Output = ()> + Send> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM can't be watched")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT can't be watched")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
