//! The tests that go through the front door of a module or of the whole program.

#[cfg(feature = "simulator")]
mod auth_redirect;
#[cfg(feature = "cli")]
mod cli;
#[cfg(feature = "cli")]
mod cli_live;
mod config;
mod crash;
#[cfg(feature = "simulator")]
mod delivery;
mod layering;
#[cfg(feature = "simulator")]
mod parts;
mod protocol;
#[cfg(feature = "simulator")]
mod simulator;
mod store;
mod store_embedded;
#[cfg(feature = "simulator")]
mod token;
#[cfg(feature = "simulator")]
mod webhook;
