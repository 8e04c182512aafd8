//! Why a signature didn't hold, told in the log.
//!
//! The refusal itself says nothing more than that; here the known mistakes are tried until one
//! explains it. That costs processor time, and whoever sends rubbish may cause it: so it happens on
//! a thread of its own, one at a time, and a few times a minute.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::Semaphore;

use crate::gateway::app::SigningApp;
use crate::protocol::charset::Charset;
use crate::protocol::diagnosis::{self, Explanation, Keys, V3Message};

/// How many diagnoses are begun within [`WINDOW`].
const DIAGNOSES: usize = 10;
/// The time that [`DIAGNOSES`] counts for.
const WINDOW: Duration = Duration::from_secs(60);

/// Explains refusals in the log. Clones share the allowance.
#[derive(Debug, Clone)]
pub struct Diagnostics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    free: Arc<Semaphore>,
    begun: Mutex<VecDeque<Instant>>,
}

impl Diagnostics {
    /// One with its whole allowance.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            free: Arc::new(Semaphore::new(1)),
            begun: Mutex::default(),
        }))
    }

    /// Tells why a notification for `app` was refused.
    pub fn notification(&self, app: &SigningApp, content_type: Option<String>, body: Bytes) {
        self.explain(app, move |keys| {
            diagnosis::notification(content_type.as_deref(), &body, keys)
        });
    }

    /// Tells why Alipay's reply to a call of `method` was refused.
    pub(super) fn reply(&self, app: &SigningApp, method: &str, (body, charset): (Bytes, Charset)) {
        let method = method.to_owned();
        self.explain(app, move |keys| {
            diagnosis::reply(&body, Some(&method), charset, keys)
        });
    }

    /// Tells why Alipay's v3 reply was refused.
    pub(super) fn v3_response(
        &self,
        app: &SigningApp,
        (status, headers, body): (u16, &HeaderMap, Bytes),
    ) {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec()))
            .collect();
        self.explain(app, move |keys| {
            let message = V3Message {
                headers: &headers,
                body: &body,
            };
            diagnosis::v3_response(status, message, keys)
        });
    }

    /// Tells where our sign content differs from the one that Alipay says it has checked.
    pub(super) fn refused_signature(app: &SigningApp, method: &str, ours: &str, sub_msg: &str) {
        let verdict = diagnosis::gateway_difference(ours, sub_msg);
        tracing::warn!(app_id = %app.app_id, method, %verdict, "Alipay refused our signature");
    }

    fn explain(
        &self,
        app: &SigningApp,
        explain: impl FnOnce(&Keys) -> Explanation + Send + 'static,
    ) {
        let Ok(free) = Arc::clone(&self.0.free).try_acquire_owned() else {
            return;
        };
        if !self.0.take(Instant::now()) {
            return;
        }
        let own: Vec<_> = app
            .signing
            .iter()
            .map(|key| key.public_key.clone())
            .collect();
        let keys = Keys::new(&app.platform.all_keys(), &own).with_sign_type(app.sign_type);
        let app_id = app.app_id.clone();
        tokio::task::spawn_blocking(move || {
            // Names and causes alone: an explanation prints no value.
            let explanation = explain(&keys);
            tracing::warn!(%app_id, %explanation, "why a signature was refused");
            drop(free);
        });
    }
}

impl Default for Diagnostics {
    fn default() -> Self {
        Self::new()
    }
}

impl Inner {
    /// Takes the right to one diagnosis.
    fn take(&self, now: Instant) -> bool {
        // Nothing that can panic runs under the lock.
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.retain(|at| now.duration_since(*at) < WINDOW);
        let may = begun.len() < DIAGNOSES;
        if may {
            begun.push_back(now);
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_diagnoses_a_minute_are_begun() {
        let diagnostics = Diagnostics::new();
        let start = Instant::now();
        for _ in 0..DIAGNOSES {
            assert!(diagnostics.0.take(start));
        }
        assert!(!diagnostics.0.take(start + WINDOW / 2));
        assert!(diagnostics.0.take(start + WINDOW));
    }
}
