//! Spans and where they go, as it is configured.

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::Config;
use crate::net::client::Client;
use crate::net::shutdown::Shutdown;
use crate::registrar::Registrar;
#[cfg(feature = "otlp")]
use crate::telemetry::exporter::Exporter;
use crate::telemetry::metrics::TraceMetrics;
use crate::telemetry::queue::Queue;
use crate::telemetry::span::Tracer;

/// Begins spans and sends them. Without the feature `otlp` nobody is ever sent one, so none is begun.
pub(super) struct Traces {
    pub(super) tracer: Tracer,
    #[cfg(feature = "otlp")]
    exporter: Exporter,
}

impl Traces {
    pub(super) fn new(
        clock: &Arc<dyn Clock>,
        registry: &impl Registrar,
    ) -> prometheus::Result<Self> {
        let queue = Arc::new(Queue::new(TraceMetrics::register(registry)?));
        Ok(Self {
            #[cfg(feature = "otlp")]
            exporter: Exporter::new(Arc::clone(&queue)),
            tracer: Tracer::new(queue, Arc::clone(clock)),
        })
    }

    /// Sends where `config` says from now on, by `client`: as deliveries do, never through the
    /// proxy on the way to Alipay.
    pub(super) fn follow(&self, config: &Config, client: &Client) {
        let endpoint = config.telemetry.otlp_endpoint.as_deref();
        #[cfg(feature = "otlp")]
        self.exporter.follow(endpoint, client);
        #[cfg(not(feature = "otlp"))]
        let _ = (endpoint, client);
    }

    /// Sends what ends, until `shutdown`.
    pub(super) async fn run(&self, shutdown: &Shutdown) {
        #[cfg(feature = "otlp")]
        self.exporter.run(shutdown).await;
        #[cfg(not(feature = "otlp"))]
        let _ = shutdown;
    }

    /// Ends once what still waits is sent, or 2 s later.
    pub(super) async fn finished(&self) {
        #[cfg(feature = "otlp")]
        self.exporter.finish().await;
    }
}
