//! The configuration: text becomes typed, checked values in one pass.
//!
//! Order: defaults < file < `ALIPAY_SIDECAR_<SECTION>__<KEY>` environment < flags. All faults are
//! reported at once, each with its file, line, key, what was found and what to do.

pub mod admin;
pub mod app;
pub mod caller;
pub mod delivery;
mod document;
pub mod environment;
pub mod error;
mod exec;
pub(crate) mod file;
pub mod listen;
mod load;
mod misfits;
pub mod origin;
pub mod proxy;
pub mod reference;
mod reload;
mod secret_variables;
mod section;
mod source;
pub mod store;
pub mod telemetry;
mod tls;
pub mod token;
pub mod unsupported;
pub mod upstream;
pub(crate) mod url;
pub(crate) mod value;
mod view;
pub mod webhook;

pub use load::{REFERENCE, process_environment};
#[cfg(feature = "cli")]
pub(crate) use reload::changed_values;
pub use secret_variables::secret_variables;
pub(crate) use section::nearest;
pub use source::Source;

use crate::model::app::App;

/// Everything an operator can set; `Config::default()` is what an empty file gives.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// `[proxy]`.
    pub proxy: proxy::ProxyConfig,
    /// `[webhook]`.
    pub webhook: webhook::WebhookConfig,
    /// `[admin]`.
    pub admin: admin::AdminConfig,
    /// `[upstream]`.
    pub upstream: upstream::UpstreamConfig,
    /// `[store]`.
    pub store: store::StoreConfig,
    /// `[[app]]`.
    pub apps: Vec<App>,
    /// `[[caller]]`.
    pub callers: Vec<caller::CallerConfig>,
    /// `[delivery]` and `[[delivery.route]]`.
    pub delivery: delivery::DeliveryConfig,
    /// `[tokens]`.
    pub tokens: token::TokenConfig,
    /// `[audit]` and `[telemetry]`.
    pub telemetry: telemetry::TelemetryConfig,
    /// Where all of it was set; empty where it wasn't read.
    pub origins: origin::Origins,
}
