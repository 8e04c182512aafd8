//! Who is being delivered to, so that a backend that hangs holds up nobody but itself.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use tokio::task::Id;

use crate::delivery::brake::{Brake, Reach, Turn};
use crate::delivery::routes::{Routes, Target};
use crate::model::id::EventId;

/// A backend whose places are all taken, half of them for this long, is slow: what is owed to it
/// steps back behind what is owed to others. A few orders that hang don't make it so.
pub(super) const SLOW: Duration = Duration::from_secs(2);
/// A backend whose places are all taken for about this long is busy: what is owed to it steps back
/// where it would fill whatever is looked at. A faster one is soon through with that.
pub(super) const BUSY: Duration = Duration::from_millis(20);
/// How far it steps back at most, milliseconds: the longest wait once the backend is well again.
const FARTHEST_MS: i64 = 60_000;
/// At what pace what is owed to a backend that is held back lines up, milliseconds: about that at
/// which one that is back takes it.
const HELD_PACE_MS: i64 = 1;

/// The attempts under way, by the backend they are made at.
#[derive(Default)]
pub(super) struct Lanes {
    under_way: HashMap<Id, UnderWay>,
    /// Until when what waits for a backend has been put off, Unix milliseconds.
    tails: HashMap<String, i64>,
    /// Of the backends that were not found lately.
    brakes: HashMap<String, Brake>,
    /// How long attempts took lately.
    took: HashMap<String, Duration>,
    /// The backends that the routes name; `None`: nobody has said.
    named: Option<HashSet<String>>,
}

struct UnderWay {
    entry: EventId,
    url: String,
    began: Instant,
}

/// The end of an attempt.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) entry: EventId,
    pub(super) url: String,
    pub(super) turn: Turn,
}

/// Whether an attempt may be made at a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    /// Not before another one has ended, and that is worth a place behind others, at this pace,
    /// milliseconds.
    Busy(i64),
    /// It may.
    Free,
    /// Not before another one has ended, which is soon.
    Full,
    /// Nobody is found there, and somebody tries, or will: its turn comes at this Unix millisecond.
    Held(i64),
    /// The backend is slow: its turn comes at this Unix millisecond.
    Slow(i64),
}

impl Lanes {
    pub(super) fn began(&mut self, task: Id, entry: EventId, url: &str) {
        let under_way = UnderWay {
            entry,
            url: url.to_owned(),
            began: Instant::now(),
        };
        self.under_way.insert(task, under_way);
    }

    /// An attempt is over, and what it meant is stored.
    pub(super) fn ended(&mut self, task: Id, reach: Reach) -> Option<Ended> {
        let UnderWay { entry, url, began } = self.under_way.remove(&task)?;
        if self
            .named
            .as_ref()
            .is_some_and(|named| !named.contains(&url))
        {
            // A reload has taken it out of the routes: nobody will try it again.
            let turn = Turn::Same;
            return Some(Ended { entry, url, turn });
        }
        let [.., jitter] = entry.to_bytes();
        let brake = self.brakes.entry(url.clone()).or_default();
        let turn = brake.ended(reach, began, Instant::now(), jitter);
        let age = began.elapsed();
        let took = self.took.entry(url.clone()).or_insert(age);
        *took = (*took * 3 + age) / 4;
        Some(Ended { entry, url, turn })
    }

    /// Forgets what is known of backends that `routes` don't name.
    pub(super) fn keep(&mut self, routes: &Routes) {
        let named: HashSet<_> = routes.targets().map(|target| target.url.clone()).collect();
        self.tails.retain(|url, _| named.contains(url));
        self.brakes.retain(|url, _| named.contains(url));
        self.took.retain(|url, _| named.contains(url));
        self.named = Some(named);
    }

    /// How many backends are held back.
    pub(super) fn held(&self) -> usize {
        let held = self.brakes.values().filter(|brake| brake.since().is_some());
        held.count()
    }

    /// How long until somebody may try a backend that is held back, where one is.
    pub(super) fn next_try(&self) -> Option<Duration> {
        let now = Instant::now();
        let pauses = self.brakes.values().filter_map(|brake| brake.pause(now));
        // One that is over has somebody trying, or nothing to try.
        pauses.filter(|pause| !pause.is_zero()).min()
    }

    /// How many attempts may begin now at all backends of `routes`, or more.
    pub(super) fn free(&self, routes: &Routes) -> usize {
        let free = routes.targets().map(|target| self.free_at(target));
        free.fold(0, usize::saturating_add)
    }

    fn free_at(&self, target: &Target) -> usize {
        let lane = self.under_way.values().filter(|a| a.url == target.url);
        let Some((since, pause)) = self.held_at(&target.url) else {
            return target.concurrency.saturating_sub(lane.count());
        };
        let mut tries = lane.filter(|attempt| attempt.began >= since);
        usize::from(pause.is_zero() && tries.next().is_none())
    }

    /// Since when a backend is held back, and how long nobody may try it.
    fn held_at(&self, url: &str) -> Option<(Instant, Duration)> {
        let brake = self.brakes.get(url)?;
        Some((brake.since()?, brake.pause(Instant::now())?))
    }

    /// Whether there is room at the backend of `target`. What is put off lines up at the pace of
    /// the backend, so that it comes back about when its turn is.
    pub(super) fn room(&mut self, target: &Target, now: i64) -> Room {
        if self.free_at(target) > 0 {
            return Room::Free;
        }
        let url = target.url.as_str();
        if let Some((_, pause)) = self.held_at(url) {
            return Room::Held(self.line_up(url, now, milliseconds(pause), HELD_PACE_MS));
        }
        let lane = self.under_way.values().filter(|known| known.url == url);
        let mut ages: Vec<Duration> = lane.map(|known| known.began.elapsed()).collect();
        ages.sort_unstable();
        let usual = ages.get(ages.len().saturating_sub(1) / 2);
        let usual = usual.copied().unwrap_or_default();
        let places = u32::try_from(target.concurrency).unwrap_or(u32::MAX).max(1);
        if usual >= SLOW {
            return Room::Slow(self.line_up(url, now, 0, milliseconds(usual / places)));
        }
        let took = self.took.get(url).map_or(usual, |took| usual.max(*took));
        match took < BUSY {
            true => Room::Full,
            false => Room::Busy(milliseconds(took / places).max(1)),
        }
    }

    /// The turn of the next one in the line for `url`, which begins in `pause` milliseconds.
    pub(super) fn line_up(&mut self, url: &str, now: i64, pause: i64, pace: i64) -> i64 {
        let tail = self.tails.entry(url.to_owned()).or_insert(now);
        *tail = (*tail).max(now.saturating_add(pause)).saturating_add(pace);
        *tail = (*tail).min(now.saturating_add(FARTHEST_MS));
        *tail
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(FARTHEST_MS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::delivery::{DeliveryConfig, DeliveryRoute};

    const NOW: i64 = 1_700_000_000_000;

    /// How many attempts the backends of these tests take at once.
    const AT_ONCE: usize = 32;

    fn target(url: &str) -> Target {
        Target::of_test(url, AT_ONCE)
    }

    /// `count` attempts at `url` that began `age` ago. Those of no age keep it, however slow the
    /// machine is: they begin in an hour.
    fn fill(lanes: &mut Lanes, url: &str, count: usize, age: Duration) {
        for _ in 0..count {
            let task = tokio::spawn(std::future::pending::<()>()).id();
            lanes.began(task, EventId::new(NOW), url);
            let now = Instant::now();
            let began = match age {
                Duration::ZERO => now + Duration::from_hours(1),
                age => now.checked_sub(age).expect("after the start"),
            };
            lanes.under_way.get_mut(&task).expect("just put").began = began;
        }
    }

    /// Routes to the backends `urls`.
    fn routes(urls: &[&str]) -> Routes {
        let route = |url: &&str| DeliveryRoute {
            url: (*url).to_owned(),
            concurrency: Some(AT_ONCE),
            ..DeliveryRoute::default()
        };
        Routes::new(&DeliveryConfig {
            routes: urls.iter().map(route).collect(),
            ..DeliveryConfig::default()
        })
    }

    /// Lets an attempt at `url` begin and end.
    fn attempt(lanes: &mut Lanes, url: &str, reach: Reach) -> Turn {
        let task = tokio::spawn(std::future::pending::<()>()).id();
        lanes.began(task, EventId::new(NOW), url);
        lanes.ended(task, reach).expect("it began").turn
    }

    /// Lets a backend be held back.
    fn hold(lanes: &mut Lanes, url: &str) {
        while attempt(lanes, url, Reach::Nobody) != Turn::Held {}
    }

    #[tokio::test]
    async fn a_backend_that_is_not_found_is_held_back_alone_until_it_answers() {
        let (mut lanes, routes) = (Lanes::default(), routes(&["a", "b"]));
        assert_eq!(lanes.free(&routes), 2 * AT_ONCE);
        hold(&mut lanes, "a");
        assert_eq!((lanes.held(), lanes.free(&routes)), (1, AT_ONCE));
        assert_eq!(lanes.room(&target("b"), NOW), Room::Free);
        let pause = lanes.next_try().expect("a pause");
        let Room::Held(until) = lanes.room(&target("a"), NOW) else {
            panic!("it is tried at once");
        };
        assert!(until > NOW && until <= NOW + 1 + milliseconds(pause));
        assert!(matches!(lanes.room(&target("a"), NOW), Room::Held(next) if next == until + 1));
        std::thread::sleep(pause);
        assert_eq!((lanes.next_try(), lanes.free(&routes)), (None, AT_ONCE + 1));
        fill(&mut lanes, "a", 1, Duration::ZERO);
        assert!(matches!(lanes.room(&target("a"), NOW), Room::Held(_)));
        assert_eq!(lanes.free(&routes), AT_ONCE);
        assert_eq!(attempt(&mut lanes, "a", Reach::Found), Turn::Released);
        assert_eq!((lanes.held(), lanes.free(&routes)), (0, 2 * AT_ONCE - 1));
    }

    #[tokio::test]
    async fn what_no_route_names_any_more_is_forgotten() {
        let mut lanes = Lanes::default();
        hold(&mut lanes, "a");
        hold(&mut lanes, "b");
        lanes.keep(&routes(&["b"]));
        assert_eq!(lanes.held(), 1);
        assert_eq!(lanes.room(&target("a"), NOW), Room::Free);
        // Nor do attempts there that end only now bring it back.
        for _ in 0..2 * AT_ONCE {
            assert_eq!(attempt(&mut lanes, "a", Reach::Nobody), Turn::Same);
        }
        assert_eq!(lanes.held(), 1);
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
    async fn a_backend_that_takes_its_time_is_busy_at_its_own_pace() {
        let mut lanes = Lanes::default();
        fill(&mut lanes, "a", AT_ONCE, Duration::from_millis(640));
        let Room::Busy(pace) = lanes.room(&target("a"), NOW) else {
            panic!("it takes long enough");
        };
        assert!((20..40).contains(&pace), "{pace}");
        let until = lanes.line_up("a", NOW, 0, pace);
        assert_eq!(lanes.line_up("a", NOW, 0, pace), until + pace);
        // Those that just began tell nothing of how long they will take; those before them do.
        let mut lanes = Lanes::default();
        lanes
            .took
            .insert("a".to_owned(), Duration::from_millis(640));
        fill(&mut lanes, "a", AT_ONCE, Duration::ZERO);
        assert_eq!(lanes.room(&target("a"), NOW), Room::Busy(20));
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
