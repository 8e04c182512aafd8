//! Sockets and HTTP plumbing that knows nothing of Alipay.

pub mod body;
pub mod client;
pub(crate) mod crowd;
pub mod egress;
mod handshake;
pub mod head;
pub mod listener;
mod pace;
pub mod room;
pub mod serve;
pub mod shutdown;
pub mod spool;
pub mod terms;
pub mod tls;
