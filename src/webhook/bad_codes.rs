//! How many codes that are none we have Alipay refuse.
//!
//! The callback is open to the world, isn't signed, and a code can't be judged but by asking Alipay,
//! whose patience with an app is limited. Codes that are good cost nothing here, nor does what Alipay
//! refuses for another reason than the code; bad ones do, and where an app's are used up, nothing is asked for a while: who was wrongly turned
//! away comes again with the same code, which lives for a day.
//!
//! Each public network has an eighth of it, so that whoever sends rubbish keeps himself out and nobody
//! else; behind an ingress everybody has the same address, and all that there is. Callbacks without
//! `state` have an allowance of their own, since they are the cheapest to send: used up, they keep
//! nobody from coming back by a link of ours.

use std::collections::HashMap;
use std::net::IpAddr;
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
/// How many public networks have to come together to use all of it up.
const NETWORKS: i64 = 8;
/// How many shares are remembered at once; other networks count among all alone.
const SHARES: usize = 4096;
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

/// Whose a code is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker<'a> {
    /// Of which app it is to be.
    pub(super) app_id: &'a AppId,
    /// How it came.
    pub(super) binding: Binding,
    /// From which public network, where it came from one.
    pub(super) network: Option<IpAddr>,
}

type Key = (AppId, Binding);

/// What the bad codes of each app, and of each network of its, have used up.
#[derive(Default)]
pub(super) struct BadCodes(Mutex<Table>);

#[derive(Default)]
struct Table {
    /// No more entries than there are apps.
    apps: HashMap<Key, Used>,
    networks: HashMap<(Key, IpAddr), Used>,
}

impl BadCodes {
    /// Whether Alipay may be asked about one more.
    pub(super) fn may(&self, asker: Asker<'_>, now: i64) -> bool {
        let (table, key, whole) = (self.table(), asker.key(), asker.binding.allowance());
        let share = asker.network.and_then(|network| {
            let used = table.networks.get(&(key.clone(), network));
            used.copied()
        });
        let all = table.apps.get(&key).copied();
        all.unwrap_or_default().may(whole, now)
            && share.unwrap_or_default().may(share_of(whole), now)
    }

    /// Counts one that Alipay refused.
    pub(super) fn count(&self, asker: Asker<'_>, now: i64) {
        let (mut table, key, whole) = (self.table(), asker.key(), asker.binding.allowance());
        let all = table.apps.entry(key.clone()).or_default();
        all.count(whole, now);
        let Some(network) = asker.network else {
            return;
        };
        let (shares, key) = (&mut table.networks, (key, network));
        if shares.len() >= SHARES && !shares.contains_key(&key) {
            shares.retain(|_, used| !used.is_forgotten(now));
        }
        if shares.len() < SHARES || shares.contains_key(&key) {
            shares.entry(key).or_default().count(share_of(whole), now);
        }
    }

    /// Nothing that can panic runs under the lock.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asker<'_> {
    fn key(&self) -> Key {
        (self.app_id.clone(), self.binding)
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

    /// How many of `times` bad codes are asked about at once.
    fn asked(codes: &BadCodes, network: Option<&str>, times: usize) -> usize {
        let app_id = AppId::new("2021000122671080").expect("an id");
        let asker = Asker {
            app_id: &app_id,
            binding: Binding::Bound,
            network: network.map(|network| network.parse().expect("an address")),
        };
        let ask = |_: &usize| {
            let may = codes.may(asker, 0);
            if may {
                codes.count(asker, 0);
            }
            may
        };
        (0..times).filter(ask).count()
    }

    #[test]
    fn a_public_network_has_a_share_and_an_ingress_all_there_is() {
        let codes = BadCodes::default();
        assert_eq!(asked(&codes, Some("203.0.113.7"), 100), 8);
        assert_eq!(asked(&codes, Some("203.0.113.8"), 100), 8);
        assert_eq!(asked(&codes, None, 100), 60 - 16);
        assert_eq!(asked(&codes, Some("203.0.113.9"), 100), 0);
    }

    /// Counts a bad code of the network of that number.
    fn count(codes: &BadCodes, network: usize, now: i64) {
        let app_id = AppId::new("2021000122671080").expect("an id");
        let network = u32::try_from(network).expect("an address");
        let asker = Asker {
            app_id: &app_id,
            binding: Binding::Bound,
            network: Some(IpAddr::V4(network.into())),
        };
        codes.count(asker, now);
    }

    #[test]
    fn what_is_remembered_of_networks_is_bounded() {
        let codes = BadCodes::default();
        for n in 0..10_000 {
            count(&codes, n, 0);
        }
        assert_eq!(codes.table().networks.len(), SHARES);
    }

    #[test]
    fn who_has_been_quiet_is_forgotten_once_there_is_no_room() {
        const LATER: i64 = 86_400_000;
        let codes = BadCodes::default();
        count(&codes, 0, 0);
        count(&codes, 1, LATER);
        assert_eq!(codes.table().networks.len(), 2);
        for n in 2..SHARES {
            count(&codes, n, 0);
        }
        count(&codes, 1, LATER);
        assert_eq!(codes.table().networks.len(), SHARES);
        count(&codes, SHARES, LATER);
        assert_eq!(codes.table().networks.len(), 2);
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
