//! What operators and Prometheus see: probes, metrics and the JSON API.

pub mod apps;
pub mod error;
pub mod health;
pub mod import;
pub mod inbox;
mod json;
pub mod merchants;
pub mod metrics;
pub mod page;
pub mod token;
