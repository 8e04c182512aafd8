//! The `alipay-sidecar` program.
fn main() {}
