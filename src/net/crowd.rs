//! Who is connected to a listener, and how many of one network.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::net::listener::Peer;

/// How often connections that are closed at once are told of in the log.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Counts the connections of each public network. Clones share the counts.
#[derive(Debug, Clone)]
pub(crate) struct Crowd(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    share: Option<u32>,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// No more entries than there are connections.
    networks: HashMap<IpAddr, u32>,
    turned_away: u64,
    told: Option<Instant>,
}

/// One connection among them; dropping it leaves.
#[derive(Debug)]
pub(crate) struct Member {
    crowd: Crowd,
    network: Option<IpAddr>,
}

impl Crowd {
    /// A crowd in which each public network may have `share` connections.
    pub(crate) fn new(share: Option<u32>) -> Self {
        Self(Arc::new(Inner {
            share,
            counts: Mutex::default(),
        }))
    }

    /// Takes a connection in; `None` where its network has its share already.
    pub(crate) fn enter(&self, peer: Peer) -> Option<Member> {
        let network = self.0.share.and_then(|_| public_network(peer));
        if let (Some(network), Some(share)) = (network, self.0.share) {
            let mut counts = self.counts();
            let count = counts.networks.entry(network).or_default();
            if *count >= share {
                counts.turn_away(network);
                return None;
            }
            *count += 1;
        }
        Some(Member {
            crowd: self.clone(),
            network,
        })
    }

    /// Nothing that can panic runs under the lock.
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn turn_away(&mut self, network: IpAddr) {
        self.turned_away = self.turned_away.saturating_add(1);
        if self.told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
            return;
        }
        self.told = Some(Instant::now());
        let connections = std::mem::take(&mut self.turned_away);
        tracing::warn!(%network, connections, "connections closed: their network has its share");
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let Some(network) = self.network else {
            return;
        };
        let mut counts = self.crowd.counts();
        if let Some(count) = counts.networks.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                counts.networks.remove(&network);
            }
        }
    }
}

/// The network that stands for whoever is at the other end, if it is a public one: of IPv6 a /48,
/// which is what one customer gets.
pub(crate) fn public_network(peer: Peer) -> Option<IpAddr> {
    let Peer::Tcp(address) = peer else {
        return None;
    };
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => {
            let [first, second, ..] = v4.octets();
            let is_shared = first == 100 && (64..128).contains(&second);
            let is_private = v4.is_loopback() || v4.is_private() || v4.is_link_local() || is_shared;
            (!is_private).then_some(IpAddr::V4(v4))
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            let is_private = v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local();
            (!is_private).then(|| Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::Tcp(format!("{address}:4711").parse().expect("an address"))
    }

    #[test]
    fn a_public_network_has_a_share_and_a_reverse_proxy_has_none() {
        let crowd = Crowd::new(Some(2));
        let first = crowd.enter(peer("203.0.113.7")).expect("room");
        let _second = crowd.enter(peer("203.0.113.7")).expect("room");
        assert!(crowd.enter(peer("203.0.113.7")).is_none());
        assert!(crowd.enter(peer("[::ffff:203.0.113.7]")).is_none());
        let _other = crowd.enter(peer("203.0.113.8")).expect("another network");
        drop(first);
        let _third = crowd.enter(peer("203.0.113.7")).expect("given back");
        let ingress = ["127.0.0.1", "10.1.2.3", "100.64.0.1", "[fd00::1]"];
        let several = ingress.iter().cycle().take(40);
        let members: Vec<_> = several.filter_map(|a| crowd.enter(peer(a))).collect();
        assert_eq!(members.len(), 40);
    }

    #[test]
    fn an_ipv6_network_is_what_one_customer_gets() {
        let crowd = Crowd::new(Some(1));
        let member = crowd.enter(peer("[2001:db8:1:2::3]")).expect("room");
        assert!(crowd.enter(peer("[2001:db8:1:ffff::1]")).is_none());
        assert!(crowd.enter(peer("[2001:db8:2::1]")).is_some());
        drop(member);
        assert!(crowd.counts().networks.is_empty());
    }
}
