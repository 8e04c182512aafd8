//! Signs, sends and verifies Alipay calls for merchants, and takes Alipay's notifications.
#![forbid(unsafe_code)]

pub mod clock;
pub mod config;
pub mod model;
pub mod net;
pub mod protocol;
#[cfg(feature = "simulator")]
pub mod simulator;
pub mod store;
