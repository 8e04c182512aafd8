//! Tests through the front door, one module per part.
#[cfg(feature = "simulator")]
mod simulator;
