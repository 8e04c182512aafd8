//! Why a signature didn't hold, told in the log.
//!
//! The refusal itself says nothing more than that; here the known mistakes are tried until one
//! explains it. That costs processor time, and whoever sends rubbish may cause it: so it happens on
//! a thread of its own, one at a time, and a few times a minute.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::Semaphore;

use crate::gateway::app::SigningApp;
use crate::protocol::charset::Charset;
use crate::protocol::diagnosis::{self, Keys, V3Message};

/// How many diagnoses are begun within [`WINDOW`].
const DIAGNOSES: usize = 10;
/// The time that [`DIAGNOSES`] counts for.
const WINDOW: Duration = Duration::from_secs(60);

/// Explains refusals in the log. Clones share the allowances.
#[derive(Debug, Clone)]
pub struct Diagnostics(Arc<Inner>);

/// What strangers send has an allowance of its own: it must not silence what Alipay's replies are
/// worth.
#[derive(Debug)]
struct Inner {
    strangers: Allowance,
    alipay: Allowance,
}

#[derive(Debug)]
struct Allowance {
    free: Arc<Semaphore>,
    used: Mutex<Used>,
}

#[derive(Debug, Default)]
struct Used {
    begun: VecDeque<Instant>,
    /// How many were passed over since the last one.
    skipped: u64,
}

impl Diagnostics {
    /// One with its whole allowance.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            strangers: Allowance::new(),
            alipay: Allowance::new(),
        }))
    }

    /// Tells why a notification for `app` was refused.
    pub fn notification(&self, app: &SigningApp, content_type: Option<String>, body: Bytes) {
        self.0.strangers.explain(app, move |keys| {
            diagnosis::notification(content_type.as_deref(), &body, keys).to_string()
        });
    }

    /// Tells why Alipay's reply to a call of `method` was refused.
    pub(super) fn reply(&self, app: &SigningApp, method: &str, (body, charset): (Bytes, Charset)) {
        let method = method.to_owned();
        self.0.alipay.explain(app, move |keys| {
            diagnosis::reply(&body, Some(&method), charset, keys).to_string()
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
        self.0.alipay.explain(app, move |keys| {
            let message = V3Message {
                headers: &headers,
                body: &body,
            };
            diagnosis::v3_response(status, message, keys).to_string()
        });
    }

    /// Tells where our sign content differs from the one that Alipay says it has checked.
    pub(super) fn refused_signature(
        &self,
        app: &SigningApp,
        method: &str,
        (ours, sub_msg): (String, &str),
    ) {
        let (method, sub_msg) = (method.to_owned(), sub_msg.to_owned());
        self.0.alipay.explain(app, move |_| {
            let verdict = diagnosis::gateway_difference(&ours, &sub_msg);
            format!("Alipay refused our signature of {method}: {verdict}")
        });
    }
}

impl SigningApp {
    /// The keys that a signature for this app is explained by.
    pub(crate) fn diagnosis_keys(&self) -> Keys {
        let own = self.signing.iter().map(|key| key.public_key.clone());
        let own: Vec<_> = own.collect();
        let keys = Keys::new(self.platform.bare(), &own).with_sign_type(self.sign_type);
        // As certificates, so that the causes of certificate mode can be told.
        let certificates = self.platform.certificates();
        certificates.iter().fold(keys, |keys, known| {
            let with = keys.clone().with_alipay_text(&known.text);
            with.unwrap_or(keys)
        })
    }
}

impl Default for Diagnostics {
    fn default() -> Self {
        Self::new()
    }
}

impl Allowance {
    fn new() -> Self {
        Self {
            free: Arc::new(Semaphore::new(1)),
            used: Mutex::default(),
        }
    }

    fn explain(&self, app: &SigningApp, explain: impl FnOnce(&Keys) -> String + Send + 'static) {
        let free = Arc::clone(&self.free).try_acquire_owned().ok();
        let Some((free, skipped)) = free.zip(self.take(Instant::now())) else {
            self.used().skipped += 1;
            return;
        };
        let keys = app.diagnosis_keys();
        let app_id = app.app_id.clone();
        tokio::task::spawn_blocking(move || {
            // Names and causes alone: an explanation prints no value.
            let explanation = explain(&keys);
            tracing::warn!(%app_id, explanation, skipped, "why a signature was refused");
            drop(free);
        });
    }

    /// Takes the right to one diagnosis, and tells how many were passed over before it.
    fn take(&self, now: Instant) -> Option<u64> {
        let mut used = self.used();
        used.begun.retain(|at| now.duration_since(*at) < WINDOW);
        if used.begun.len() >= DIAGNOSES {
            return None;
        }
        used.begun.push_back(now);
        Some(std::mem::take(&mut used.skipped))
    }

    /// Nothing that can panic runs under the lock.
    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_diagnoses_a_minute_are_begun() {
        let allowance = Allowance::new();
        let start = Instant::now();
        for _ in 0..DIAGNOSES {
            assert_eq!(allowance.take(start), Some(0));
        }
        assert_eq!(allowance.take(start + WINDOW / 2), None);
        allowance.used().skipped += 1;
        assert_eq!(allowance.take(start + WINDOW), Some(1));
    }
}
