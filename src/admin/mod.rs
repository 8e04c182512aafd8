//! What operators and Prometheus see: probes, metrics and the JSON API.

pub mod health;
pub mod metrics;
pub mod token;
