//! Sockets and HTTP plumbing that knows nothing of Alipay.

#![warn(clippy::large_futures)]

mod answering;
mod at_once;
pub mod body;
pub mod client;
pub(crate) mod crowd;
pub mod egress;
mod handshake;
pub(crate) mod hang_up;
pub mod head;
mod head_bytes;
mod heads;
pub mod listener;
mod pace;
pub(crate) mod pieces;
pub mod room;
pub mod serve;
pub mod shutdown;
pub mod spool;
mod target_bytes;
pub mod terms;
pub mod tls;
