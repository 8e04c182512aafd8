//! The signals that end listeners and background work.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Tells many tasks that they should end. Clones share the signal.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// Gives the signal; dropping it gives the signal, too.
#[derive(Debug)]
pub struct ShutdownTrigger(watch::Sender<bool>);

impl Shutdown {
    /// A signal and the hand that gives it.
    #[must_use]
    pub fn new() -> (ShutdownTrigger, Self) {
        let (sender, receiver) = watch::channel(false);
        (ShutdownTrigger(sender), Self(receiver))
    }

    /// Ends once the signal was given.
    ///
    /// # Cancel safety
    /// Safe: the signal stays given.
    pub fn wait(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut receiver = self.0.clone();
        async move {
            // An error means that the trigger was dropped, which is the signal as well.
            let _ = receiver.wait_for(|given| *given).await;
        }
    }

    /// Whether the signal was given.
    #[must_use]
    pub fn is_given(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

impl ShutdownTrigger {
    /// Gives the signal.
    pub fn trigger(&self) {
        self.0.send_replace(true);
    }
}

/// How far a listener's end has come; each stage includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It serves.
    Open,
    /// Each answer says that it is the last of its connection.
    Leaving,
    /// Nothing more is accepted.
    Deaf,
    /// Connections on which nothing is asked are closed.
    Closing,
    /// Whatever is left is broken off.
    Cut,
}

/// Tells a listener and its connections how far its end has come. Clones share it.
#[derive(Debug, Clone)]
pub struct Ending(watch::Receiver<Stage>);

/// Moves the stages on; dropping it cuts.
#[derive(Debug)]
pub struct EndingHand(watch::Sender<Stage>);

impl Ending {
    /// A listener that is open, and the hand that ends it.
    #[must_use]
    pub fn new() -> (EndingHand, Self) {
        let (sender, receiver) = watch::channel(Stage::Open);
        (EndingHand(sender), Self(receiver))
    }

    /// Ends once `stage` is reached.
    ///
    /// # Cancel safety
    /// Safe: a stage stays reached.
    pub fn reached(&self, stage: Stage) -> impl Future<Output = ()> + Send + 'static {
        let mut receiver = self.0.clone();
        async move {
            // An error means that the hand was dropped, which cuts.
            let _ = receiver.wait_for(|now| *now >= stage).await;
        }
    }

    /// How far it has come.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self.0.has_changed() {
            Ok(_) => *self.0.borrow(),
            Err(_) => Stage::Cut,
        }
    }
}

impl EndingHand {
    /// Moves on to `stage`; never back.
    pub fn reach(&self, stage: Stage) {
        self.0.send_if_modified(|now| {
            let moves = *now < stage;
            *now = (*now).max(stage);
            moves
        });
    }
}

/// Counts who is inside, so that their leaving can be waited for. Clones share it.
#[derive(Debug, Clone)]
pub struct Gate(Arc<Semaphore>);

/// Somebody inside; dropping it leaves.
#[derive(Debug)]
pub struct Inside(#[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>);

impl Gate {
    /// A gate with nobody inside.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(PLACES as usize)))
    }

    /// Goes in. Where a million are inside already, uncounted.
    #[must_use]
    pub fn enter(&self) -> Inside {
        Inside(Arc::clone(&self.0).try_acquire_owned().ok())
    }

    /// How many are inside.
    #[must_use]
    pub fn inside(&self) -> usize {
        (PLACES as usize).saturating_sub(self.0.available_permits())
    }

    /// Ends once nobody is inside. Who comes meanwhile isn't counted: shut the door first.
    ///
    /// # Cancel safety
    /// Safe: it only watches.
    pub async fn emptied(&self) {
        // The semaphore is never closed.
        let _ = self.0.acquire_many(PLACES).await;
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

/// Far more than there are connections.
const PLACES: u32 = 1 << 20;

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn stages_come_in_order_and_never_go_back() {
        let (hand, ending) = Ending::new();
        assert!(ending.reached(Stage::Leaving).now_or_never().is_none());
        hand.reach(Stage::Closing);
        hand.reach(Stage::Leaving);
        assert_eq!(ending.stage(), Stage::Closing);
        assert!(ending.reached(Stage::Deaf).now_or_never().is_some());
        assert!(ending.reached(Stage::Cut).now_or_never().is_none());
        drop(hand);
        assert_eq!(ending.stage(), Stage::Cut);
        ending.reached(Stage::Cut).await;
    }

    #[tokio::test]
    async fn a_gate_is_emptied_once_all_have_left() {
        let gate = Gate::new();
        gate.emptied().await;
        let (one, other) = (gate.enter(), gate.enter());
        assert_eq!(gate.inside(), 2);
        drop(one);
        assert!(gate.emptied().now_or_never().is_none());
        drop(other);
        gate.emptied().await;
        assert_eq!(gate.inside(), 0);
    }
}
