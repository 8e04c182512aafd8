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
    #[cfg(feature = "otlp")]
    pub(super) fn switch(&self, on: bool) {
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
        if spans.len() % BATCH == 0 {
            self.is_full.notify_one();
        }
    }

    /// Takes the oldest, a batch at most.
    #[cfg(feature = "otlp")]
    pub(super) fn take(&self) -> Vec<Finished> {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        let many = spans.len().min(BATCH);
        spans.drain(..many).collect()
    }
}
