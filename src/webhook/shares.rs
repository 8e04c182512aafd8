//! An allowance of which each public network has an eighth, so that whoever uses his up keeps himself out
//! and nobody else; behind an ingress everybody has the same address, and all that there is.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::webhook::allowance::{Allowance, Used};

/// How many public networks have to come together to use all of it up.
const NETWORKS: i64 = 8;
/// How many shares are remembered at once; other networks count among all alone.
const SHARES: usize = 4096;

/// What was used up of the allowances of each `K`, by all and by each network.
pub(super) struct Shares<K>(Mutex<Table<K>>);

/// Of which allowance, and from which public network, where it came from one.
type Whose<'a, K> = (&'a K, Option<IpAddr>);

struct Table<K> {
    /// No more entries than there are `K`s.
    wholes: HashMap<K, Used>,
    networks: HashMap<(K, IpAddr), Used>,
}

impl<K: Clone + Eq + Hash> Shares<K> {
    /// Whether one more may happen.
    ///
    /// # Errors
    /// After how many seconds it may, unless others come first.
    pub(super) fn may(&self, whole: Allowance, whose: Whose<'_, K>, now: i64) -> Result<(), u32> {
        self.table().may(whole, whose, now)
    }

    /// Counts one that has happened.
    pub(super) fn count(&self, whole: Allowance, whose: Whose<'_, K>, now: i64) {
        self.table().count(whole, whose, now);
    }

    /// Counts one if it may happen.
    ///
    /// # Errors
    /// As [`Self::may`].
    pub(super) fn take(&self, whole: Allowance, whose: Whose<'_, K>, now: i64) -> Result<(), u32> {
        let mut table = self.table();
        table.may(whole, whose, now)?;
        table.count(whole, whose, now);
        Ok(())
    }

    /// Nothing that can panic runs under the lock.
    fn table(&self) -> MutexGuard<'_, Table<K>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K> Default for Shares<K> {
    fn default() -> Self {
        Self(Mutex::new(Table {
            wholes: HashMap::new(),
            networks: HashMap::new(),
        }))
    }
}

impl<K: Clone + Eq + Hash> Table<K> {
    fn may(&self, whole: Allowance, (key, network): Whose<'_, K>, now: i64) -> Result<(), u32> {
        let share = network.and_then(|network| {
            let used = self.networks.get(&(key.clone(), network));
            used.copied()
        });
        let all = self.wholes.get(key).copied();
        let all = all.unwrap_or_default().wait_s(whole, now);
        let share = share.unwrap_or_default().wait_s(share_of(whole), now);
        match all.max(share) {
            0 => Ok(()),
            wait_s => Err(wait_s),
        }
    }

    fn count(&mut self, whole: Allowance, (key, network): Whose<'_, K>, now: i64) {
        let all = self.wholes.entry(key.clone()).or_default();
        all.count(whole, now);
        let Some(network) = network else {
            return;
        };
        let (shares, key) = (&mut self.networks, (key.clone(), network));
        if shares.len() >= SHARES && !shares.contains_key(&key) {
            shares.retain(|_, used| !used.is_forgotten(now));
        }
        if shares.len() < SHARES || shares.contains_key(&key) {
            shares.entry(key).or_default().count(share_of(whole), now);
        }
    }
}

/// What one network may have of an allowance, rounded up.
fn share_of(whole: Allowance) -> Allowance {
    Allowance {
        burst: (whole.burst + NETWORKS - 1) / NETWORKS,
        interval_ms: whole.interval_ms.saturating_mul(NETWORKS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Allowance = Allowance {
        burst: 60,
        interval_ms: 1000,
    };

    /// Counts one of the network of that number.
    fn count(shares: &Shares<()>, network: usize, now: i64) {
        let network = u32::try_from(network).expect("an address");
        let network = IpAddr::V4(network.into());
        shares.count(WHOLE, (&(), Some(network)), now);
    }

    #[test]
    fn what_is_remembered_of_networks_is_bounded() {
        let shares = Shares::default();
        for n in 0..10_000 {
            count(&shares, n, 0);
        }
        assert_eq!(shares.table().networks.len(), SHARES);
    }

    #[test]
    fn who_has_been_quiet_is_forgotten_once_there_is_no_room() {
        const LATER: i64 = 86_400_000;
        let shares = Shares::default();
        count(&shares, 0, 0);
        count(&shares, 1, LATER);
        assert_eq!(shares.table().networks.len(), 2);
        for n in 2..SHARES {
            count(&shares, n, 0);
        }
        count(&shares, 1, LATER);
        assert_eq!(shares.table().networks.len(), SHARES);
        count(&shares, SHARES, LATER);
        assert_eq!(shares.table().networks.len(), 2);
    }

    #[test]
    fn a_share_is_an_eighth_rounded_up() {
        for (whole, share) in [(1, 1), (8, 1), (9, 2), (16, 2), (60, 8)] {
            let whole = Allowance {
                burst: whole,
                interval_ms: 5,
            };
            assert_eq!(share_of(whole).burst, share);
            assert_eq!(share_of(whole).interval_ms, 40);
        }
    }
}
