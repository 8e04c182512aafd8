//! The tests that go through the front door of a module or of the whole program.

#[cfg(feature = "cli")]
mod cli;
mod config;
mod crash;
mod layering;
mod protocol;
#[cfg(feature = "simulator")]
mod simulator;
mod store;
mod store_embedded;
