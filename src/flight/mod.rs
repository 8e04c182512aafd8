//! Single flight: whoever asks for what is already under way waits for its result.

mod flights;
#[cfg(test)]
mod shuffled;
#[cfg(test)]
mod tests;

pub(crate) use flights::Flights;

/// What the flights run on. `shuffled` compiles the same source on a scheduler that tries other
/// orders, so that what is proved there is what runs here.
mod running {
    pub(super) use std::sync::{Mutex, MutexGuard};
    pub(super) use tokio::spawn;
}
