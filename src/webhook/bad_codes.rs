//! How many codes that are none we have Alipay refuse.
//!
//! The callback is open to the world, isn't signed, and a code can't be judged but by asking Alipay,
//! whose patience with an app is limited. Codes that are good cost nothing here; those that Alipay
//! refuses do, and where an app's are used up, nothing is asked for a while: who was wrongly turned
//! away comes again with the same code, which lives for a day.
//!
//! Per app, not per address: behind an ingress everybody has the same. Callbacks without `state` have
//! an allowance of their own, since they are the cheapest to send: used up, they keep nobody from
//! coming back by a link of ours.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::id::AppId;
use crate::webhook::allowance::{Allowance, Used};

/// Refused codes without a `state`: 30 a minute.
const UNBOUND: Allowance = Allowance {
    burst: 30,
    interval_ms: 2000,
};
/// Refused codes with one of ours: 60 a minute.
const BOUND: Allowance = Allowance {
    burst: 60,
    interval_ms: 1000,
};
/// When it is worth to come again, seconds: by then there is room for one more, or somebody else
/// has taken it.
pub(super) const RETRY_AFTER_S: u32 = 2;

/// How a callback says who began the authorisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Binding {
    /// By a `state` of ours.
    Bound,
    /// Not at all.
    Unbound,
}

/// What the codes of each app have used up; no more entries than there are apps.
#[derive(Default)]
pub(super) struct BadCodes(Mutex<HashMap<(AppId, Binding), Used>>);

impl BadCodes {
    /// Whether Alipay may be asked about one more.
    pub(super) fn may(&self, app_id: &AppId, binding: Binding, now: i64) -> bool {
        let used = self.used().get(&(app_id.clone(), binding)).copied();
        used.unwrap_or_default().may(binding.allowance(), now)
    }

    /// Counts one that Alipay refused.
    pub(super) fn count(&self, app_id: &AppId, binding: Binding, now: i64) {
        let mut used = self.used();
        let used = used.entry((app_id.clone(), binding)).or_default();
        used.count(binding.allowance(), now);
    }

    /// Nothing that can panic runs under the lock.
    fn used(&self) -> MutexGuard<'_, HashMap<(AppId, Binding), Used>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Binding {
    fn allowance(self) -> Allowance {
        match self {
            Self::Bound => BOUND,
            Self::Unbound => UNBOUND,
        }
    }
}
