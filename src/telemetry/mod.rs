//! Traces: which one a call, a notification or a delivery belongs to, and the spans that a collector
//! gets of it.
//!
//! Invariants: a span holds names, codes and ids, never a body, a token or a URL; nobody waits for a
//! collector, and what it costs is bounded; whose trace something belongs to is told without one, too.

#[cfg(feature = "otlp")]
pub mod exporter;
pub mod metrics;
#[cfg(feature = "otlp")]
mod otlp;
pub mod queue;
pub mod span;
pub mod trace_context;
