//! Taking turns with one `app_refresh_token`, whoever sends it to Alipay.

#[cfg(test)]
mod shuffled;
#[cfg(test)]
mod tests;
mod turns;

pub use turns::Turn;
pub(super) use turns::Turns;

/// What the turns run on. `shuffled` compiles the same source on a scheduler that tries other
/// orders.
mod running {
    pub(super) use std::sync::{Mutex, MutexGuard};
}
