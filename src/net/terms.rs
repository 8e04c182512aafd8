//! On which terms a listener serves: how long its peers may take, and how many there may be.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};

use crate::net::crowd::public_network;
use crate::net::listener::Peer;

/// How long peers may take, and how many there may be. Every wait has its end: who doesn't send,
/// or doesn't read, holds nothing for long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// For a TLS handshake.
    pub handshake: Duration,
    /// For the first byte of the first request of a public address; `None`: as long as between two
    /// requests, which private addresses have in any case: an ingress may connect ahead.
    pub first_byte: Option<Duration>,
    /// For a whole head, from its first byte.
    pub head: Duration,
    /// Bytes of a head that is read at all, so that what is too long is refused in our shape; what
    /// exceeds even this is answered with a bare 431.
    pub head_bytes: usize,
    /// For a whole body, from the end of its head.
    pub body: Duration,
    /// Between two requests.
    pub idle: Duration,
    /// For a peer to take anything of what is written.
    pub stall: Duration,
    /// The same once the end has begun: who doesn't read then holds up everybody else.
    pub stall_at_the_end: Duration,
    /// Connections open at once; further ones wait in the backlog.
    pub connections: u32,
    /// How many of them one public network may have; further ones are closed. Private addresses
    /// aren't counted: behind one of them stands an ingress, and behind that everybody.
    pub per_network: Option<u32>,
}

/// Connections of one listener at the most.
const CONNECTIONS: u32 = 16_384;
/// How many listeners and other users of descriptors (store, calls, deliveries) share them alike.
const SHARES: u64 = 4;
/// The fewest connections that a public network may have: a load balancer with a public address
/// keeps some dozen open.
const LEAST_PER_NETWORK: u32 = 64;
/// How many public networks have to come together to fill a listener.
const NETWORKS: u32 = 8;
/// The same of a head that a stranger sends: none that is taken is longer, and an unfinished one is
/// counted nowhere.
const STRANGERS_HEAD: usize = 72 << 10;
/// How long a connection that everybody may open stays without its first byte.
const FIRST_BYTE: Duration = Duration::from_secs(30);

impl Default for Terms {
    /// Contract §11: heads and bodies within 30 s, idle connections for at least 5 minutes.
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            first_byte: None,
            head: Duration::from_secs(30),
            head_bytes: 256 << 10,
            body: Duration::from_secs(30),
            idle: Duration::from_secs(330),
            stall: Duration::from_secs(30),
            stall_at_the_end: Duration::from_secs(5),
            connections: connections(descriptors()),
            per_network: None,
        }
    }
}

impl Terms {
    /// The same for a listener that is open to the world: nobody keeps it busy, or fills the memory, by
    /// himself.
    #[must_use]
    pub fn for_everybody(self) -> Self {
        let first_byte = self.first_byte.unwrap_or(FIRST_BYTE);
        let share = (self.connections / NETWORKS).max(LEAST_PER_NETWORK);
        Self {
            first_byte: Some(first_byte),
            head_bytes: self.head_bytes.min(STRANGERS_HEAD),
            per_network: Some(self.per_network.unwrap_or(share)),
            ..self
        }
    }
}

impl Terms {
    /// Those of a connection of `peer`.
    pub(crate) fn towards(self, peer: Peer) -> Self {
        let first_byte = public_network(peer).and(self.first_byte);
        Self { first_byte, ..self }
    }
}

/// Of `descriptors`, as many as leave something for the other listeners, and for everything that
/// isn't a listener: connections of strangers must never keep us from Alipay or from the disk.
fn connections(descriptors: Option<u64>) -> u32 {
    let share = descriptors.map_or(u64::MAX, |all| all / SHARES);
    u32::try_from(share).map_or(CONNECTIONS, |share| share.clamp(1, CONNECTIONS))
}

/// How many descriptors the process may have; `None`: any number.
fn descriptors() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        for (descriptors, expected) in [
            (None, 16_384),
            (Some(1 << 20), 16_384),
            (Some(1024), 256),
            (Some(3), 1),
        ] {
            assert_eq!(connections(descriptors), expected);
        }
    }

    #[test]
    fn nobody_fills_a_public_listener_alone() {
        let plain = Terms {
            connections: 16_384,
            ..Terms::default()
        };
        let open = plain.for_everybody();
        assert_eq!(open.per_network, Some(2048));
        assert_eq!(open.first_byte, Some(Duration::from_secs(30)));
        let few = Terms {
            connections: 256,
            ..plain
        };
        assert_eq!(few.for_everybody().per_network, Some(64));
    }

    #[test]
    fn an_ingress_may_connect_ahead_and_a_stranger_may_not() {
        let open = Terms::default().for_everybody();
        let first_byte = |peer| open.towards(peer).first_byte;
        let of = |address: &str| first_byte(Peer::Tcp(address.parse().expect("an address")));
        for stranger in ["203.0.113.7:1", "[2001:db8::1]:1"] {
            assert_eq!(of(stranger), Some(FIRST_BYTE), "{stranger}");
        }
        for ingress in [
            "127.0.0.1:1",
            "10.1.2.3:1",
            "[::ffff:10.1.2.3]:1",
            "[fd00::1]:1",
        ] {
            assert_eq!(of(ingress), None, "{ingress}");
        }
        let path = Peer::Unix { uid: None };
        assert_eq!(first_byte(path), None);
    }
}
