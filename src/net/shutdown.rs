//! The signals that end listeners and background work.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::watch;

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
pub struct Gate(Arc<watch::Sender<usize>>);

/// Somebody inside; dropping it leaves.
#[derive(Debug)]
pub struct Inside(Arc<watch::Sender<usize>>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0
            .send_modify(|inside| *inside = inside.saturating_sub(1));
    }
}

impl Gate {
    /// A gate with nobody inside.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(0)))
    }

    /// Goes in.
    #[must_use]
    pub fn enter(&self) -> Inside {
        self.0
            .send_modify(|inside| *inside = inside.saturating_add(1));
        Inside(Arc::clone(&self.0))
    }

    /// How many are inside, whoever waits for their leaving.
    #[must_use]
    pub fn inside(&self) -> usize {
        *self.0.borrow()
    }

    /// Ends once nobody is inside. Who comes meanwhile is waited for: shut the door first.
    ///
    /// # Cancel safety
    /// Safe: it only watches.
    pub async fn emptied(&self) {
        // The sender lives as long as this does.
        let _ = self.0.subscribe().wait_for(|inside| *inside == 0).await;
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

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
        let mut waiting = std::pin::pin!(gate.emptied());
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!(gate.inside(), 1, "who waits isn't counted");
        drop(other);
        gate.emptied().await;
        assert_eq!(gate.inside(), 0);
    }
}
