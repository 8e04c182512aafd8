//! Signs, sends and verifies Alipay calls for merchants, and takes Alipay's notifications.
#![forbid(unsafe_code)]

pub mod admin;
#[cfg(feature = "cli")]
pub mod cli;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod gateway;
pub mod model;
pub mod net;
pub mod protocol;
pub mod proxy;
pub mod sidecar;
#[cfg(feature = "simulator")]
pub mod simulator;
pub mod store;
pub mod token;
pub mod webhook;
pub mod workers;
