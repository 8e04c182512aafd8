//! What Alipay demands, byte by byte; pure.

pub mod secret;
pub mod signature;
