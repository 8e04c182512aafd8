//! The room that bodies share while they are read and kept, and how much of it one network may have.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::net::crowd::public_network;
use crate::net::listener::Peer;

/// Room that bodies share. Clones share it.
#[derive(Debug, Clone)]
pub struct Room {
    bytes: usize,
    all: Arc<Semaphore>,
    /// `None`: nobody is told apart.
    share: Option<Share>,
}

/// What one public network may have of it.
#[derive(Debug, Clone)]
struct Share {
    bytes: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
    /// Whose bodies these are; `None`: not of one public network.
    network: Option<IpAddr>,
}

/// What a body takes of a [`Room`]; dropping it gives it back.
#[derive(Debug, Default)]
pub struct Held {
    permit: Option<OwnedSemaphorePermit>,
    of_share: Option<OfShare>,
}

/// What it takes of its network's share.
#[derive(Debug)]
struct OfShare {
    share: Share,
    bytes: usize,
}

/// Others take all of it, or those of the same network their share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no room for a further body at present")]
pub struct NoRoom;

impl Room {
    /// Room for so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self {
            bytes,
            all: Arc::new(Semaphore::new(bytes)),
            share: None,
        }
    }

    /// The same, of which one public network may have `bytes`. Private addresses have no share:
    /// behind one of them stands an ingress, and behind that everybody.
    #[must_use]
    pub fn shared(self, bytes: usize) -> Self {
        let share = Share {
            bytes,
            taken: Arc::default(),
            network: None,
        };
        Self {
            share: Some(share),
            ..self
        }
    }

    /// This room where `other` is as large in all, else that. What bodies under way hold of the
    /// former then isn't counted in the latter.
    #[must_use]
    pub fn unless(&self, other: Self) -> Self {
        let share = |room: &Self| room.share.as_ref().map(|share| share.bytes);
        match self.bytes == other.bytes && share(self) == share(&other) {
            true => self.clone(),
            false => other,
        }
    }

    /// The same room for the bodies that come from `peer`.
    #[must_use]
    pub fn of(&self, peer: Option<Peer>) -> Self {
        let mut room = self.clone();
        if let Some(share) = &mut room.share {
            share.network = peer.and_then(public_network);
        }
        room
    }

    /// Takes `bytes` more of it, without waiting: who waited would hold what others wait for.
    ///
    /// # Errors
    /// [`NoRoom`].
    pub fn take(&self, bytes: usize, held: &mut Held) -> Result<(), NoRoom> {
        let permits = u32::try_from(bytes).map_err(|_| NoRoom)?;
        let more = Arc::clone(&self.all).try_acquire_many_owned(permits);
        let more = more.map_err(|_| NoRoom)?;
        if let Some(share) = &self.share {
            share.take(bytes, &mut held.of_share)?;
        }
        match &mut held.permit {
            Some(former) => former.merge(more),
            None => held.permit = Some(more),
        }
        Ok(())
    }
}

impl Held {
    /// Gives so many bytes of it back, or all if it has less.
    pub fn give_back(&mut self, bytes: usize) {
        if let Some(permit) = &mut self.permit {
            let bytes = bytes.min(permit.num_permits());
            drop(permit.split(bytes));
        }
        if let Some(of_share) = &mut self.of_share {
            of_share.give_back(bytes);
        }
    }
}

impl Share {
    fn take(&self, bytes: usize, held: &mut Option<OfShare>) -> Result<(), NoRoom> {
        let Some(network) = self.network else {
            return Ok(());
        };
        let mut taken = self.taken();
        let of_network = taken.get(&network).copied().unwrap_or_default();
        let together = of_network.saturating_add(bytes);
        if together > self.bytes {
            return Err(NoRoom);
        }
        taken.insert(network, together);
        let of_share = held.get_or_insert_with(|| OfShare {
            share: self.clone(),
            bytes: 0,
        });
        of_share.bytes = of_share.bytes.saturating_add(bytes);
        Ok(())
    }

    /// Nothing that can panic runs under the lock.
    fn taken(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OfShare {
    fn give_back(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        let Some(network) = self.share.network else {
            return;
        };
        let mut taken = self.share.taken();
        if let Some(of_network) = taken.get_mut(&network) {
            *of_network = of_network.saturating_sub(bytes);
            if *of_network == 0 {
                taken.remove(&network);
            }
        }
    }
}

impl Drop for OfShare {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: &str) -> Option<Peer> {
        let address = format!("{address}:4711").parse();
        Some(Peer::Tcp(address.expect("an address")))
    }

    fn take(room: &Room, peer: Option<Peer>, bytes: usize) -> Option<Held> {
        let mut held = Held::default();
        let taken = room.of(peer).take(bytes, &mut held);
        taken.is_ok().then_some(held)
    }

    #[test]
    fn a_network_has_its_share_and_leaves_the_rest_to_others() {
        let room = Room::new(100).shared(10);
        let mut held = take(&room, from("203.0.113.7"), 6).expect("its share");
        assert!(take(&room, from("203.0.113.7"), 5).is_none());
        assert!(take(&room, from("[::ffff:203.0.113.7]"), 5).is_none());
        let more = room.of(from("203.0.113.7")).take(4, &mut held);
        more.expect("the rest of its share");
        assert!(take(&room, from("203.0.113.8"), 10).is_some());
        drop(held);
        assert!(take(&room, from("203.0.113.7"), 10).is_some());
        let share = room.share.as_ref().expect("shared");
        assert!(share.taken().is_empty(), "nobody is remembered");
    }

    #[test]
    fn a_part_can_be_given_back() {
        let room = Room::new(100).shared(10);
        let mut held = take(&room, from("203.0.113.7"), 10).expect("its share");
        held.give_back(4);
        assert_eq!(room.all.available_permits(), 94);
        assert!(take(&room, from("203.0.113.7"), 5).is_none());
        assert!(take(&room, from("203.0.113.7"), 4).is_some());
        held.give_back(7);
        assert_eq!(room.all.available_permits(), 100);
        let more = room.of(from("203.0.113.7")).take(10, &mut held);
        more.expect("its share again");
        drop(held);
        let share = room.share.as_ref().expect("shared");
        assert!(share.taken().is_empty(), "nobody is remembered");
        assert_eq!(room.all.available_permits(), 100);
    }

    #[test]
    fn an_ingress_and_who_is_not_told_apart_have_all_of_it() {
        let room = Room::new(100).shared(10);
        for peer in [from("10.1.2.3"), Some(Peer::Unix { uid: None }), None] {
            let all = take(&room, peer, 100).expect("all");
            assert!(take(&room, from("203.0.113.7"), 1).is_none());
            drop(all);
        }
        let whole = Room::new(100);
        assert!(take(&whole, from("203.0.113.7"), 100).is_some());
    }

    #[test]
    fn what_is_refused_takes_nothing() {
        let room = Room::new(100).shared(10);
        assert!(take(&room, from("203.0.113.7"), 11).is_none());
        assert_eq!(room.all.available_permits(), 100);
        let full = take(&room, None, 95).expect("room");
        assert!(take(&room, from("203.0.113.7"), 6).is_none());
        drop(full);
        assert!(take(&room, from("203.0.113.7"), 10).is_some());
    }
}
