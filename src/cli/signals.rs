//! The signals that end the program: the first one cleanly, a second one at once.

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::cli::output::complain;

/// Ends at the first SIGTERM or SIGINT. At the next one the program ends at once, with exit code
/// 1: what was under way is broken off. To be called once.
///
/// The signals have a thread of their own, which hears them whatever the rest of the program waits
/// for.
pub(crate) fn ended() -> anyhow::Result<impl Future<Output = ()> + Send> {
    let (first, given) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("the system gave no event queue")?;
    let mut signals = {
        let _entered = runtime.enter();
        Signals {
            terminate: signal(SignalKind::terminate()).context("SIGTERM can't be watched")?,
            interrupt: signal(SignalKind::interrupt()).context("SIGINT can't be watched")?,
        }
    };
    let watch = move || {
        runtime.block_on(async {
            signals.next().await;
            // Whoever waited may have ended by itself.
            let _ = first.send(());
            signals.next().await;
            complain("alipay-sidecar: a second signal: ending at once");
            std::process::exit(1);
        });
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(watch)
        .context("the system gave no thread")?;
    Ok(async move {
        // The thread never goes before the program.
        let _ = given.await;
    })
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
