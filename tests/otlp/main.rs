//! What a collector of traces gets: `cargo test --features otlp --test otlp`.
//!
//! A target of its own, because it needs the feature; `traceparent` without a collector is shown by
//! `tests/it/traces.rs`.
#![expect(
    clippy::indexing_slicing,
    clippy::panic,
    unreachable_pub,
    reason = "helpers of tests may fail, and nobody outside sees them"
)]

#[cfg(all(feature = "cli", target_os = "linux"))]
mod canaries;
mod collector;
#[path = "../it/support/mod.rs"]
#[allow(dead_code, reason = "this target uses a part; the other one the rest")]
mod support;
mod traces;
