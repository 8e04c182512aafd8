//! The signals that end the program, the first one cleanly, a second one at once; and SIGHUP, which
//! asks for another look at the configuration.

use std::sync::Arc;

use anyhow::Context;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, oneshot};

use crate::cli::output::complain;

/// Ends at the first SIGTERM or SIGINT. At the next one the program ends at once, with exit code
/// 1: what was under way is broken off. To be called once.
///
/// The signals have a thread of their own, which hears them whatever the rest of the program waits
/// for.
pub(crate) fn ended() -> anyhow::Result<impl Future<Output = ()> + Send> {
    watch(None)
}

/// The same, and what is notified of each SIGHUP; several that come while nobody listens count as
/// one. From now on none ends the program.
pub(crate) fn heard() -> anyhow::Result<(impl Future<Output = ()> + Send, Arc<Notify>)> {
    let hang_ups = Arc::new(Notify::new());
    Ok((watch(Some(Arc::clone(&hang_ups)))?, hang_ups))
}

fn watch(hang_ups: Option<Arc<Notify>>) -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
    let (first, given) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("the system gave no event queue")?;
    let mut signals = {
        let _entered = runtime.enter();
        let hang_up = |told| {
            let signal = signal(SignalKind::hangup()).context("SIGHUP can't be watched")?;
            anyhow::Ok((signal, told))
        };
        Signals {
            terminate: signal(SignalKind::terminate()).context("SIGTERM can't be watched")?,
            interrupt: signal(SignalKind::interrupt()).context("SIGINT can't be watched")?,
            hang_up: hang_ups.map(hang_up).transpose()?,
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
    /// And who is told of it.
    hang_up: Option<(Signal, Arc<Notify>)>,
}

impl Signals {
    /// Ends at the next signal that ends the program.
    async fn next(&mut self) {
        let hang_ups = async {
            match &mut self.hang_up {
                None => std::future::pending().await,
                Some((signal, told)) => loop {
                    signal.recv().await;
                    told.notify_one();
                },
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            () = hang_ups => {}
        }
    }
}
