//! The spans that have ended and nobody has yet: bounded, so that a collector which is away or slow
//! costs some memory and nothing else.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::telemetry::metrics::TraceMetrics;
use crate::telemetry::span::Finished;

/// How many spans wait at most: some 2 s of 1,000 calls a second, and some MiB.
const WAITING: usize = 8_192;
/// How many go out together.
pub(super) const BATCH: usize = 512;

/// What has ended. Filled by spans, emptied by the exporter.
#[derive(Debug)]
pub struct Queue {
    spans: Mutex<VecDeque<Finished>>,
    is_on: AtomicBool,
    /// Told when a whole batch waits.
    pub(super) is_full: Notify,
    pub(super) metrics: TraceMetrics,
}

impl Queue {
    /// An empty one, which takes nothing until somebody is there to be sent to.
    #[must_use]
    pub fn new(metrics: TraceMetrics) -> Self {
        Self {
            spans: Mutex::default(),
            is_on: AtomicBool::new(false),
            is_full: Notify::new(),
            metrics,
        }
    }

    /// Whether anybody is to be sent anything; otherwise spans aren't even begun.
    #[must_use]
    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Takes spans from now on, or no longer.
    pub fn switch(&self, on: bool) {
        self.is_on.store(on, Ordering::Relaxed);
    }

    /// Lets `span` wait, or go where there is no room: what waits is older, and may be the beginning
    /// of what somebody looks for.
    pub(super) fn push(&self, span: Finished) {
        // Neither pushing nor taking can be left half done.
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        if spans.len() >= WAITING {
            drop(spans);
            return self.metrics.dropped(1);
        }
        spans.push_back(span);
        if spans.len().is_multiple_of(BATCH) {
            self.is_full.notify_one();
        }
    }

    /// Takes the oldest, a batch at most.
    #[must_use]
    pub fn take(&self) -> Vec<Finished> {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let many = spans.len().min(BATCH);
        spans.drain(..many).collect()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::telemetry::span::Kind;
    use crate::telemetry::trace_context::TraceParent;

    fn finished(number: u64) -> Finished {
        Finished {
            place: TraceParent::of_event([7; 16]),
            parent: None,
            link: None,
            name: "a span".into(),
            kind: Kind::Internal,
            began_ns: number,
            ended_ns: number,
            attributes: Vec::new(),
            is_error: false,
        }
    }

    #[test]
    fn what_finds_no_room_is_lost_and_counted_and_the_oldest_go_first() {
        let registry = Registry::new();
        let queue = Queue::new(TraceMetrics::register(&registry).expect("new"));
        let first_lost = u64::try_from(WAITING).expect("small");
        (0..first_lost + 3).for_each(|number| queue.push(finished(number)));
        let batches: Vec<_> = std::iter::repeat_with(|| queue.take())
            .take_while(|batch| !batch.is_empty())
            .collect();
        assert!(batches.iter().all(|batch| batch.len() == BATCH));
        let began = batches.iter().flatten().map(|span| span.began_ns);
        assert!(began.eq(0..first_lost));
        let metrics = prometheus::TextEncoder::new().encode_to_string(&registry.gather());
        let dropped = r#"alipay_sidecar_trace_spans_total{outcome="dropped"} 3"#;
        assert!(metrics.expect("text").contains(dropped));
    }
}
