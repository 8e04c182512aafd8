//! Who sends what isn't Alipay's, and how much is made of it.
//!
//! Everything is verified, whoever sends it: that costs some 20 µs, and Alipay may come by the same
//! address as everybody else, that of an ingress. What a bad one is worth beyond its answer is
//! bounded by network: a line in the log, a place in the quarantine, an explanation. Beyond the bound
//! it is counted, and answered as before. So whoever floods hides at most what the quarantine would
//! lose to him anyway, and what was Alipay's comes again for 25 hours.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::refused;
use crate::webhook::allowance::{Allowance, Used};

/// What is made of the bad ones of one network: at once more than the quarantine keeps of it, so that
/// an app whose key is wrong loses nothing of what it would keep; then two a second.
const NETWORK: Allowance = Allowance {
    burst: 600,
    interval_ms: 500,
};
/// The same of all networks together: ten lines of log a second, however many networks one has.
const ALL: Allowance = Allowance {
    burst: 2000,
    interval_ms: 100,
};
/// How many networks are remembered at once; others count among all alone.
const NETWORKS: usize = 4096;

/// What strangers have used up.
#[derive(Default)]
pub(super) struct Strangers(Mutex<Table>);

#[derive(Default)]
struct Table {
    networks: HashMap<String, Used>,
    all: Used,
    /// How many were passed over since the last one that wasn't.
    passed_over: u64,
}

impl Strangers {
    /// Whether something is made of one more of `sender`'s, and how many were passed over before it.
    pub(super) fn take(&self, sender: &str, now: i64) -> Option<u64> {
        let mut table = self.table();
        if !table.take(refused::network(sender), now) {
            table.passed_over = table.passed_over.saturating_add(1);
            return None;
        }
        Some(std::mem::take(&mut table.passed_over))
    }

    /// Whether something would be.
    pub(super) fn may(&self, sender: &str, now: i64) -> bool {
        let mut table = self.table();
        let used = table.networks.get(&refused::network(sender)).copied();
        used.unwrap_or_default().may(NETWORK, now) && table.all.may(ALL, now)
    }

    /// Nothing that can panic runs under the lock.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn take(&mut self, network: String, now: i64) -> bool {
        if !self.all.may(ALL, now) {
            return false;
        }
        if self.networks.len() >= NETWORKS && !self.networks.contains_key(&network) {
            self.networks.retain(|_, used| !used.is_forgotten(now));
        }
        let is_full = self.networks.len() >= NETWORKS && !self.networks.contains_key(&network);
        let taken = is_full || self.networks.entry(network).or_default().take(NETWORK, now);
        if taken {
            self.all.count(ALL, now);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(strangers: &Strangers, sender: &str, times: usize) -> usize {
        (0..times)
            .filter(|_| strangers.take(sender, 0).is_some())
            .count()
    }

    #[test]
    fn a_network_is_bounded_and_no_other_suffers() {
        let strangers = Strangers::default();
        assert_eq!(taken(&strangers, "203.0.113.7", 640), 600);
        assert!(!strangers.may("203.0.113.7", 0));
        assert!(strangers.may("203.0.113.8", 0));
        assert_eq!(strangers.take("203.0.113.8", 0), Some(40));
        assert!(strangers.may("203.0.113.7", 500));
        assert_eq!(taken(&strangers, "2001:db8:1::1", 500), 500);
        assert_eq!(taken(&strangers, "2001:db8:1:2::1", 500), 100);
    }

    #[test]
    fn all_together_are_bounded_and_so_is_what_is_remembered_of_them() {
        let strangers = Strangers::default();
        let senders = (0..10_000).map(|n| format!("10.0.{}.{}", n / 256, n % 256));
        let made = senders.filter(|s| strangers.take(s, 0).is_some()).count();
        assert_eq!(made, 2000);
        // One that is remembered stays bounded in a table that is full; one that isn't counts among
        // all alone.
        let strangers = Strangers::default();
        {
            let mut table = strangers.table();
            for n in 0..NETWORKS {
                let mut used = Used::default();
                used.count(NETWORK, 0);
                let name = format!("10.{}.{}.0", n / 256, n % 256);
                table.networks.insert(refused::network(&name), used);
            }
        }
        assert_eq!(taken(&strangers, "10.0.0.0", 640), 599);
        assert_eq!(taken(&strangers, "203.0.113.7", 640), 640);
        assert_eq!(strangers.table().networks.len(), NETWORKS);
        // Ten a second for long enough that the table fills: it forgets who has been quiet.
        for n in 0..20_000_i64 {
            strangers.take(&format!("192.0.{}.{}", n / 256, n % 256), n * 100);
            assert!(strangers.table().networks.len() <= NETWORKS);
        }
    }

    #[test]
    fn who_has_been_quiet_is_forgotten_once_there_is_no_room() {
        const LATER: i64 = 3_600_000;
        let strangers = Strangers::default();
        assert!(strangers.take("203.0.113.1", 0).is_some());
        assert!(strangers.take("203.0.113.2", LATER).is_some());
        assert_eq!(strangers.table().networks.len(), 2);
        for n in 2..NETWORKS {
            let mut used = Used::default();
            used.count(NETWORK, 0);
            let quiet = format!("10.{}.{}.0", n / 256, n % 256);
            strangers.table().networks.insert(quiet, used);
        }
        assert!(strangers.take("203.0.113.2", LATER).is_some());
        assert_eq!(strangers.table().networks.len(), NETWORKS);
        assert!(strangers.take("203.0.113.3", LATER).is_some());
        assert_eq!(strangers.table().networks.len(), 2);
    }
}
