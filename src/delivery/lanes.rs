//! Who is being delivered to, so that a backend that hangs holds up nobody but itself.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::task::Id;

use crate::delivery::routes::Target;
use crate::model::id::EventId;

/// A backend whose places are all taken, half of them for this long, is slow: what is owed to it
/// steps back behind what is owed to others. A few orders that hang don't make it so.
pub(super) const SLOW: Duration = Duration::from_secs(2);
/// How far it steps back at most, milliseconds: the longest wait once the backend is well again.
const FARTHEST_MS: i64 = 60_000;

/// The attempts under way, by the backend they are made at.
#[derive(Default)]
pub(super) struct Lanes {
    under_way: HashMap<Id, UnderWay>,
    /// Until when what waits for a slow backend has been put off, Unix milliseconds.
    tails: HashMap<String, i64>,
}

struct UnderWay {
    entry: EventId,
    url: String,
    began: Instant,
}

/// Whether an attempt may be made at a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// It may.
    Free,
    /// Not before another one has ended, which is soon.
    Full,
    /// The backend is slow: its turn comes at this Unix millisecond.
    Slow(i64),
}

impl Lanes {
    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }

    pub(super) fn holds(&self, entry: EventId) -> bool {
        self.under_way.values().any(|known| known.entry == entry)
    }

    pub(super) fn began(&mut self, task: Id, entry: EventId, url: &str) {
        let under_way = UnderWay {
            entry,
            url: url.to_owned(),
            began: Instant::now(),
        };
        self.under_way.insert(task, under_way);
    }

    pub(super) fn ended(&mut self, task: Id) -> Option<EventId> {
        self.under_way.remove(&task).map(|ended| ended.entry)
    }

    /// Whether there is room at the backend of `target`. What is put off lines up at the pace of the backend, so
    /// that it comes back about when its turn is.
    pub(super) fn room(&mut self, target: &Target, now: i64) -> Room {
        let (url, at_once) = (target.url.as_str(), target.concurrency);
        let lane = self.under_way.values().filter(|known| known.url == url);
        let mut ages: Vec<Duration> = lane.map(|known| known.began.elapsed()).collect();
        if ages.len() < at_once {
            return Room::Free;
        }
        ages.sort_unstable();
        let usual = ages.get(ages.len().saturating_sub(1) / 2);
        let usual = usual.copied().unwrap_or_default();
        if usual < SLOW {
            return Room::Full;
        }
        let pace = usual.as_millis() / at_once.max(1) as u128;
        let pace = i64::try_from(pace).unwrap_or(FARTHEST_MS);
        let tail = self.tails.entry(url.to_owned()).or_insert(now);
        *tail = (*tail).max(now).saturating_add(pace);
        *tail = (*tail).min(now.saturating_add(FARTHEST_MS));
        Room::Slow(*tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_700_000_000_000;

    /// How many attempts the backends of these tests take at once.
    const AT_ONCE: usize = 32;

    fn target(url: &str) -> Target {
        Target::of_test(url, AT_ONCE)
    }

    /// `count` attempts at `url` that began `age` ago.
    fn fill(lanes: &mut Lanes, url: &str, count: usize, age: Duration) {
        for _ in 0..count {
            let task = tokio::spawn(std::future::pending::<()>()).id();
            lanes.began(task, EventId::new(NOW), url);
            let began = Instant::now().checked_sub(age).expect("after the start");
            lanes.under_way.get_mut(&task).expect("just put").began = began;
        }
    }

    #[tokio::test]
    async fn each_backend_has_room_of_its_own() {
        let mut lanes = Lanes::default();
        fill(&mut lanes, "a", AT_ONCE - 1, Duration::ZERO);
        assert_eq!(lanes.room(&target("a"), NOW), Room::Free);
        fill(&mut lanes, "b", AT_ONCE, Duration::ZERO);
        assert_eq!(lanes.room(&target("b"), NOW), Room::Full);
        assert_eq!(lanes.room(&target("a"), NOW), Room::Free);
    }

    #[tokio::test]
    async fn a_few_attempts_that_hang_make_no_backend_slow() {
        let mut lanes = Lanes::default();
        fill(&mut lanes, "a", AT_ONCE / 2, Duration::ZERO);
        fill(&mut lanes, "a", AT_ONCE / 2, Duration::from_secs(16));
        assert_eq!(lanes.room(&target("a"), NOW), Room::Full);
        fill(&mut lanes, "a", 1, Duration::from_secs(16));
        assert!(matches!(lanes.room(&target("a"), NOW), Room::Slow(_)));
    }

    #[tokio::test]
    async fn what_waits_for_a_slow_backend_lines_up_at_its_pace() {
        let mut lanes = Lanes::default();
        fill(&mut lanes, "a", AT_ONCE, Duration::from_secs(16));
        let mut at = |now| match lanes.room(&target("a"), now) {
            Room::Slow(until) => until - now,
            room => panic!("{room:?}"),
        };
        let pace = at(NOW);
        assert!((500..600).contains(&pace), "{pace}");
        let next = [at(NOW), at(NOW)];
        assert!(next[0] >= 2 * pace && next[1] > next[0], "{next:?}");
        let farthest = (0..1000).map(|_| at(NOW)).max();
        assert_eq!(farthest, Some(FARTHEST_MS));
        assert!((500..600).contains(&at(NOW + 2 * FARTHEST_MS)));
    }
}
