//! How many `ref`s that no `state` can carry `/auth/start` keeps in the store: it is open to the world,
//! and each takes a place there for a day.

use std::net::IpAddr;

use crate::webhook::allowance::Allowance;
use crate::webhook::shares::Shares;

/// 480 at once, then six a minute. Each is kept for 24.5 h: while the process runs fewer than 9,400 of its own
/// are there at any time, which is a few megabytes. A start keeps what is there and has all 480 again.
const KEPT: Allowance = Allowance {
    burst: 480,
    interval_ms: 10_000,
};

/// What all, and each network, have used up of that. After a start it is all there again.
#[derive(Default)]
pub(super) struct LongRefs(Shares<()>);

impl LongRefs {
    /// Counts one more of that public network, if it may be kept.
    ///
    /// # Errors
    /// After how many seconds it may, unless others come first.
    pub(super) fn take(&self, network: Option<IpAddr>, now: i64) -> Result<(), u32> {
        let Self(shares) = self;
        shares.take(KEPT, (&(), network), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_network_leaves_the_others_their_room() {
        let refs = LongRefs::default();
        let taken = |network: &str, now| {
            let network = network.parse().expect("an address");
            let take = |_: &usize| refs.take(Some(network), now).is_ok();
            (0..100).filter(take).count()
        };
        assert_eq!(taken("203.0.113.7", 0), 60);
        assert_eq!(taken("203.0.113.8", 0), 60);
        assert_eq!(taken("203.0.113.7", 79_999), 0);
        assert_eq!(taken("203.0.113.7", 80_000), 1);
        // A day later all that was kept has expired, and all of the room is there again.
        assert_eq!(taken("203.0.113.7", 86_400_000), 60);
    }

    #[test]
    fn all_together_have_no_more_than_there_is() {
        let refs = LongRefs::default();
        let taken = (0..20).map(|n: u8| {
            let network = IpAddr::from([203, 0, 113, n]);
            let take = |_: &usize| refs.take(Some(network), 0).is_ok();
            (0..100).filter(take).count()
        });
        assert_eq!(taken.sum::<usize>(), 480);
        // Whoever has some of his share left waits for the whole, whoever hasn't for his share.
        let [full, fresh] = [0, 20].map(|n| Some(IpAddr::from([203, 0, 113, n])));
        let waits = [None, fresh, full].map(|network| refs.take(network, 0));
        assert_eq!(waits, [Err(10), Err(10), Err(80)]);
        assert_eq!(refs.take(full, 79_999), Err(1));
        assert_eq!(refs.take(full, 80_000), Ok(()));
    }
}
