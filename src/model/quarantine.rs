//! Who has to go when room for refused notifications is short. Pure, so that every store, and the
//! webhook before it writes, decides alike.
//!
//! Anybody may send what is refused, so whoever sends much must only displace himself: a network
//! over its share loses its own; beyond that, what nothing connects with an app of ours goes first,
//! what Alipay signed last, and of each kind what came once before what came again: Alipay sends
//! again what isn't acked. Among equals the network that takes the most loses, of its places the
//! oldest.

use std::collections::HashMap;
use std::hash::Hash;

use crate::model::refused::Standing;

/// How much may be kept.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Notifications in all.
    pub places: usize,
    /// Bytes in all.
    pub bytes: u64,
    /// The part of both that one network may take: one n-th.
    pub share: u8,
}

/// One kept notification, as far as room is concerned.
#[derive(Debug, Clone, Copy)]
pub struct Place<I, N> {
    /// Which; in order of receipt.
    pub id: I,
    /// Who sent it.
    pub network: N,
    /// What it may be.
    pub standing: Standing,
    /// Whether it came more than once.
    pub came_again: bool,
    /// How many bytes it takes.
    pub bytes: u64,
}

impl<I, N> Place<I, N> {
    /// The lower goes first.
    fn rank(&self) -> (Standing, bool) {
        (self.standing, self.came_again)
    }
}

/// How much somebody takes.
#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    places: usize,
    bytes: u64,
}

impl Taken {
    fn add(&mut self, bytes: u64) {
        self.places += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn take(&mut self, bytes: u64) {
        self.places = self.places.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    fn exceeds(self, places: usize, bytes: u64) -> bool {
        self.places > places || self.bytes > bytes
    }
}

impl Bounds {
    /// Whether one network may have as much.
    #[must_use]
    pub fn is_a_share(&self, places: usize, bytes: u64) -> bool {
        let share = self.share.max(1);
        places <= self.places / usize::from(share) && bytes <= self.bytes / u64::from(share)
    }

    /// Whether all of them together may.
    #[must_use]
    pub fn is_within(&self, places: usize, bytes: u64) -> bool {
        places <= self.places && bytes <= self.bytes
    }

    /// The ids that have to go, so that the rest stays within bounds.
    #[must_use]
    pub fn displaced<I: Copy + Ord, N: Copy + Eq + Hash>(
        &self,
        mut places: Vec<Place<I, N>>,
    ) -> Vec<I> {
        let mut all = Taken::default();
        let mut networks: HashMap<N, Taken> = HashMap::new();
        for place in &places {
            all.add(place.bytes);
            networks.entry(place.network).or_default().add(place.bytes);
        }
        let mut gone = Vec::new();
        while let Some(index) = self.next_out(&places, all, &networks) {
            let out = places.swap_remove(index);
            all.take(out.bytes);
            if let Some(taken) = networks.get_mut(&out.network) {
                taken.take(out.bytes);
            }
            gone.push(out.id);
        }
        gone
    }

    fn next_out<I: Copy + Ord, N: Copy + Eq + Hash>(
        &self,
        places: &[Place<I, N>],
        all: Taken,
        networks: &HashMap<N, Taken>,
    ) -> Option<usize> {
        let share = u64::from(self.share.max(1));
        let own_places = self.places / usize::from(self.share.max(1));
        let greedy = networks
            .iter()
            .find(|(_, taken)| taken.exceeds(own_places, self.bytes / share))
            .map(|(network, _)| *network);
        if let Some(network) = greedy {
            return lowest(places, |place| place.network == network);
        }
        if !all.exceeds(self.places, self.bytes) {
            return None;
        }
        let by_bytes = all.bytes > self.bytes;
        let rank = places.iter().map(Place::rank).min()?;
        let takes_of = |network: &N| {
            let taken = networks.get(network).copied().unwrap_or_default();
            if by_bytes {
                taken.bytes
            } else {
                u64::try_from(taken.places).unwrap_or(u64::MAX)
            }
        };
        let of_rank = places.iter().filter(|place| place.rank() == rank);
        let network = of_rank
            .map(|place| place.network)
            .max_by_key(|network| takes_of(network))?;
        lowest(places, |place| {
            place.rank() == rank && place.network == network
        })
    }
}

/// The place of the lowest rank among those that `fits` names, the oldest of them.
fn lowest<I: Copy + Ord, N>(
    places: &[Place<I, N>],
    fits: impl Fn(&Place<I, N>) -> bool,
) -> Option<usize> {
    let fitting = places.iter().enumerate().filter(|(_, place)| fits(place));
    fitting
        .min_by_key(|(_, place)| (place.rank(), place.id))
        .map(|(index, _)| index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Standing::{Ours, Signed, Stranger};

    const BOUNDS: Bounds = Bounds {
        places: 8,
        bytes: 80,
        share: 2,
    };

    fn places(rows: &[(u32, &'static str, Standing, u64)]) -> Vec<Place<u32, &'static str>> {
        let place = |&(id, network, standing, bytes)| Place {
            id,
            network,
            standing,
            came_again: false,
            bytes,
        };
        rows.iter().map(place).collect()
    }

    #[test]
    fn within_bounds_nobody_goes() {
        let rows: Vec<_> = (0..4)
            .flat_map(|n| [(n, "a", Ours, 10), (n + 10, "b", Stranger, 10)])
            .collect();
        assert!(BOUNDS.displaced(places(&rows)).is_empty());
        assert!(BOUNDS.is_a_share(4, 40) && BOUNDS.is_within(8, 80));
        assert!(!BOUNDS.is_a_share(5, 40) && !BOUNDS.is_a_share(4, 41));
        assert!(!BOUNDS.is_within(9, 80) && !BOUNDS.is_within(8, 81));
    }

    #[test]
    fn a_network_over_its_share_loses_its_own_oldest() {
        let rows: Vec<_> = (0..6).map(|n| (n, "flood", Ours, 1)).collect();
        let rows = [rows, vec![(0, "alipay", Ours, 1)]].concat();
        let gone = BOUNDS.displaced(places(&rows));
        assert_eq!(gone, [0, 1]);
    }

    #[test]
    fn strangers_go_before_what_names_an_app_of_ours() {
        let mut rows: Vec<_> = (0..4).map(|n| (n, "alipay", Ours, 1)).collect();
        rows.extend((10..14).map(|n| (n, "ingress", Ours, 1)));
        rows.push((20, "stranger", Stranger, 1));
        assert_eq!(BOUNDS.displaced(places(&rows)), [20], "the newcomer itself");
        let mixed = [
            (5, "a", Ours, 1),
            (1, "a", Ours, 1),
            (2, "a", Stranger, 1),
            (3, "a", Ours, 1),
            (4, "a", Ours, 1),
        ];
        assert_eq!(BOUNDS.displaced(places(&mixed)), [2]);
    }

    #[test]
    fn what_alipay_signed_and_what_came_again_stay_longest() {
        let mut rows: Vec<_> = (0..4).map(|n| (n, "alipay", Signed, 1)).collect();
        rows.extend((10..14).map(|n| (n, "flood", Ours, 1)));
        rows.push((20, "other", Ours, 1));
        let mut places = places(&rows);
        for place in places.iter_mut().filter(|place| place.id != 12) {
            place.came_again = place.standing == Ours;
        }
        assert_eq!(BOUNDS.displaced(places), [12], "the one that came once");
        assert_eq!(BOUNDS.displaced(self::places(&rows)), [10], "a forged one");
    }

    #[test]
    fn among_equals_the_network_that_takes_most_goes_first() {
        let mut rows: Vec<_> = (0..4).map(|n| (n, "big", Ours, 1)).collect();
        rows.extend((10..13).map(|n| (n, "middle", Ours, 1)));
        rows.extend([(20, "small", Ours, 1), (21, "other", Ours, 1)]);
        assert_eq!(BOUNDS.displaced(places(&rows)), [0]);
    }

    #[test]
    fn bytes_are_taken_from_whom_they_are_owed_by() {
        let rows = [
            (1, "alipay", Ours, 5),
            (2, "alipay", Ours, 5),
            (3, "alipay", Ours, 5),
            (4, "fat", Ours, 30),
            (5, "fatter", Ours, 39),
        ];
        assert_eq!(BOUNDS.displaced(places(&rows)), [5]);
        assert_eq!(
            BOUNDS.displaced(places(&[(1, "a", Ours, 41)])),
            [1],
            "one that is larger than the share isn't kept"
        );
    }
}
