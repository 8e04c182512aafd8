//! Sends spans to a collector: OTLP over HTTP, in batches, one after the other.
//!
//! Protocol: OpenTelemetry Protocol 1.x, “OTLP/HTTP”. A collector that is away, or asks to come again
//! later, is tried again after a pause that grows; meanwhile spans wait in the queue, and what has no
//! room there is lost and counted. What it refuses for good is lost at once.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Request, StatusCode, Uri};
use http_body_util::Full;
use tokio::sync::Mutex;

use crate::net::client::Client;
use crate::net::shutdown::Shutdown;
use crate::telemetry::otlp::{self, Sender};
use crate::telemetry::queue::Queue;
use crate::telemetry::span::Finished;
use crate::telemetry::trace_context::TraceId;

/// How long spans wait for others to go with.
const EVERY: Duration = Duration::from_secs(1);
/// The first pause after a failure; it doubles,
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// up to this one.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long the collector may take over one batch; OpenTelemetry's own default.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the last spans may take at the end, of the 25 s that an end has.
const FINISH_WITHIN: Duration = Duration::from_secs(2);
/// Where a collector takes traces, below an address that has no path.
const TRACES: &str = "/v1/traces";
/// What we call ourselves to the collector.
const AGENT: &str = concat!("alipay-sidecar/", env!("CARGO_PKG_VERSION"));

/// Sends what waits in a queue.
pub struct Exporter {
    queue: Arc<Queue>,
    collector: ArcSwapOption<Collector>,
    sender: Sender,
    /// One at a time sends.
    sending: Mutex<Sending>,
}

/// Where spans go.
struct Collector {
    url: String,
    client: Client,
}

/// What is on its way: it stays here until the collector has it, or never will.
#[derive(Default)]
struct Sending {
    batch: Vec<Finished>,
    is_failing: bool,
}

/// What became of a look at the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// A batch has left the queue; there may be more.
    Batch,
    /// It has to be tried again.
    Failed,
    /// There was none.
    Nothing,
}

/// Why the collector doesn't have a batch.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Away(String),
    #[error("it answered with status {0}")]
    Refused(StatusCode),
}

impl Failure {
    /// Whether the same batch may be taken later; OTLP/HTTP, “Retryable Response Codes”.
    fn is_passing(&self) -> bool {
        match self {
            Self::Away(_) => true,
            Self::Refused(status) => matches!(status.as_u16(), 429 | 502 | 503 | 504),
        }
    }
}

impl Exporter {
    /// An exporter that knows no collector yet.
    #[must_use]
    pub fn new(queue: Arc<Queue>) -> Self {
        Self {
            queue,
            collector: ArcSwapOption::empty(),
            sender: Sender {
                version: env!("CARGO_PKG_VERSION"),
                instance: TraceId::random().to_string(),
            },
            sending: Mutex::default(),
        }
    }

    /// Sends to `endpoint` from now on, or to nobody.
    pub fn follow(&self, endpoint: Option<&str>, client: &Client) {
        let collector = endpoint.map(|endpoint| Collector {
            url: url(endpoint),
            client: client.clone(),
        });
        self.queue.switch(collector.is_some());
        self.collector.store(collector.map(Arc::new));
    }

    /// Sends what ends, until `shutdown`.
    ///
    /// # Cancel safety
    /// Safe: what is on its way may come twice, under the same ids.
    pub async fn run(&self, shutdown: &Shutdown) {
        let mut pause: Option<Duration> = None;
        loop {
            tokio::select! {
                () = shutdown.wait() => return,
                sent = self.send_all() => pause = (sent == Sent::Failed).then(|| longer(pause)),
            }
            let more = async {
                match pause {
                    None => drop(tokio::time::timeout(EVERY, self.queue.is_full.notified()).await),
                    Some(pause) => tokio::time::sleep(pause).await,
                }
            };
            tokio::select! {
                () = shutdown.wait() => return,
                () = more => {}
            }
        }
    }

    /// Sends what still waits, within 2 s; the rest is lost.
    ///
    /// # Cancel safety
    /// As [`Self::run`].
    pub async fn finish(&self) {
        // Whatever came of it, there is no time left for more.
        let _ = tokio::time::timeout(FINISH_WITHIN, self.send_all()).await;
        // Whoever sends all the same has the rest: it may be polled no more, and is waited for by nobody.
        let Ok(mut sending) = self.sending.try_lock() else {
            return;
        };
        loop {
            let lost = std::mem::take(&mut sending.batch);
            self.queue.metrics.dropped(lost.len());
            sending.batch = self.queue.take();
            if sending.batch.is_empty() {
                return;
            }
        }
    }

    async fn send_all(&self) -> Sent {
        loop {
            match self.send_batch().await {
                Sent::Batch => {}
                ended => return ended,
            }
        }
    }

    async fn send_batch(&self) -> Sent {
        let mut sending = self.sending.lock().await;
        if sending.batch.is_empty() {
            sending.batch = self.queue.take();
        }
        let many = sending.batch.len();
        if many == 0 {
            return Sent::Nothing;
        }
        // Nobody is there any more where it was taken out of the configuration meanwhile.
        let Some(collector) = self.collector.load_full() else {
            sending.batch.clear();
            self.queue.metrics.dropped(many);
            return Sent::Batch;
        };
        let sent = collector.send(&sending.batch, &self.sender).await;
        sending.tell(&sent);
        match sent {
            Ok(()) => self.queue.metrics.exported(many),
            Err(failure) if failure.is_passing() => return Sent::Failed,
            Err(_) => self.queue.metrics.dropped(many),
        }
        sending.batch.clear();
        Sent::Batch
    }
}

impl Sending {
    /// One line when it begins to fail, and one when it works again.
    fn tell(&mut self, sent: &Result<(), Failure>) {
        let was_failing = std::mem::replace(&mut self.is_failing, sent.is_err());
        match (was_failing, sent) {
            (false, Err(reason)) => tracing::warn!(
                %reason,
                "the collector of traces doesn't take spans; calls go on, spans may be lost"
            ),
            (true, Ok(())) => tracing::info!("the collector of traces takes spans again"),
            _ => {}
        }
    }
}

impl Collector {
    async fn send(&self, spans: &[Finished], sender: &Sender) -> Result<(), Failure> {
        let away = |error: &dyn std::fmt::Display| Failure::Away(error.to_string());
        let request = Request::post(&self.url)
            .header(CONTENT_TYPE, otlp::CONTENT_TYPE)
            .header(USER_AGENT, AGENT)
            .body(Full::from(otlp::request(spans, sender)))
            .map_err(|error| away(&error))?;
        let sent = self.client.send(request, TIMEOUT).await;
        let reply = sent.map_err(|error| away(&error))?;
        match reply.status.is_success() {
            true => Ok(()),
            false => Err(Failure::Refused(reply.status)),
        }
    }
}

/// The pause after one more failure.
fn longer(pause: Option<Duration>) -> Duration {
    pause.map_or(FIRST_PAUSE, |pause| (pause * 2).min(LONGEST_PAUSE))
}

/// Where traces go: `/v1/traces` below an address without a path; with one, exactly there.
fn url(endpoint: &str) -> String {
    let uri: Uri = endpoint.parse().unwrap_or_default();
    match uri.path() {
        "" | "/" => format!("{}{TRACES}", endpoint.trim_end_matches('/')),
        _ => endpoint.to_owned(),
    }
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Exporter")
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::telemetry::metrics::TraceMetrics;

    /// A host may have stopped polling what sends.
    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_nobody_who_sends_for_ever() {
        let metrics = TraceMetrics::register(&Registry::new()).expect("new");
        let exporter = Exporter::new(Arc::new(Queue::new(metrics)));
        let _sending = exporter.sending.lock().await;
        let ended = tokio::time::timeout(2 * FINISH_WITHIN, exporter.finish()).await;
        assert!(ended.is_ok(), "it waits");
    }

    #[test]
    fn an_address_without_a_path_gets_the_standard_one() {
        for (endpoint, expected) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("https://otel.example/", "https://otel.example/v1/traces"),
            (
                "https://a.example/api/otlp/traces",
                "https://a.example/api/otlp/traces",
            ),
        ] {
            assert_eq!(url(endpoint), expected);
        }
    }
}
