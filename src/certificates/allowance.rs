//! How often Alipay is asked for certificates.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::gateway::platform::{Asker, CertificateRefusal};
use crate::model::id::AppId;

/// How many downloads each kind of asker may begin per app within [`WINDOW_MS`]: Alipay has one or
/// two certificates in use at a time.
const DOWNLOADS: usize = 6;
/// The time that [`DOWNLOADS`] counts for, milliseconds.
const WINDOW_MS: i64 = 60_000;
/// How long a certificate that isn't to be believed is remembered, milliseconds.
const REFUSED_MS: i64 = 60_000;
/// How long a download that failed on its way is remembered, milliseconds: what is executed
/// meanwhile can't be verified, so an outage must not last longer here than there.
const UNAVAILABLE_MS: i64 = 1_000;
/// How many failures are remembered for each app and kind of asker.
const FAILURES: usize = 64;

/// What each app has used up.
#[derive(Default)]
pub(super) struct Allowances(Mutex<HashMap<(AppId, Asker), Used>>);

/// What was used up by one kind of asker.
#[derive(Default)]
struct Used {
    /// When the last downloads began.
    begun: VecDeque<i64>,
    /// What failed, when, and for how long that counts.
    failed: VecDeque<(String, i64, i64)>,
}

impl Allowances {
    /// Takes the right to one download of `sn` at the time `now`.
    ///
    /// # Errors
    /// [`CertificateRefusal::TooMany`].
    pub(super) fn take(
        &self,
        app_id: &AppId,
        sn: &str,
        asker: Asker,
        now: i64,
    ) -> Result<(), CertificateRefusal> {
        let mut all = self.lock();
        let used = all.entry((app_id.clone(), asker)).or_default();
        used.forget(now);
        let has_failed = used.failed.iter().any(|(failed, ..)| failed == sn);
        if has_failed || used.begun.len() >= DOWNLOADS {
            return Err(CertificateRefusal::TooMany);
        }
        used.begun.push_back(now);
        Ok(())
    }

    /// Remembers that a download of `sn` which began at `now` failed, and why. One that an outage has
    /// cost a reply isn't counted among those that may begin.
    pub(super) fn failed(
        &self,
        app_id: &AppId,
        (sn, refusal): (&str, &CertificateRefusal),
        asker: Asker,
        now: i64,
    ) {
        // Strangers may name what they like; only replies are worth another try at once.
        let is_outage = matches!(
            (refusal, asker),
            (CertificateRefusal::Unavailable(_), Asker::Reply)
        );
        let counts = match (refusal, asker) {
            (CertificateRefusal::Withheld(_), Asker::Reply) => UNAVAILABLE_MS,
            _ if is_outage => UNAVAILABLE_MS,
            _ => REFUSED_MS,
        };
        let mut all = self.lock();
        let used = all.entry((app_id.clone(), asker)).or_default();
        if is_outage && let Some(begun) = used.begun.iter().rposition(|at| *at == now) {
            used.begun.remove(begun);
        }
        used.failed.push_back((sn.to_owned(), now, counts));
        if used.failed.len() > FAILURES {
            used.failed.pop_front();
        }
    }

    /// Nothing that can panic runs under the lock.
    fn lock(&self) -> MutexGuard<'_, HashMap<(AppId, Asker), Used>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Used {
    /// Forgets what is old, and what a clock that has since gone back has dated later than now.
    fn forget(&mut self, now: i64) {
        self.begun.retain(|at| (0..WINDOW_MS).contains(&(now - at)));
        self.failed
            .retain(|(_, at, counts)| (0..*counts).contains(&(now - at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app() -> AppId {
        AppId::new("2021000000000001").expect("id")
    }

    fn may(allowances: &Allowances, sn: &str, asker: Asker, now: i64) -> bool {
        allowances.take(&app(), sn, asker, now).is_ok()
    }

    #[test]
    fn six_downloads_a_minute_are_allowed_to_each_kind_of_asker() {
        const NOW: i64 = 1_795_335_630_999;
        let allowances = Allowances::default();
        for number in 0..DOWNLOADS {
            let sn = number.to_string();
            assert!(may(&allowances, &sn, Asker::Notification, NOW));
        }
        let ask = |asker, at| may(&allowances, "one more", asker, at);
        assert!(!ask(Asker::Notification, NOW + 59_999));
        assert!(ask(Asker::Reply, NOW));
        assert!(ask(Asker::Notification, NOW + 60_000));
    }

    #[test]
    fn the_last_failures_are_remembered_and_no_more() {
        let allowances = Allowances::default();
        let fail = |number: usize| {
            let refused = CertificateRefusal::KeyMode;
            allowances.failed(&app(), (&number.to_string(), &refused), Asker::Reply, 0);
        };
        (0..FAILURES).for_each(fail);
        assert!(!may(&allowances, "0", Asker::Reply, 1));
        fail(FAILURES);
        assert!(may(&allowances, "0", Asker::Reply, 1));
        assert!(!may(&allowances, "1", Asker::Reply, 1));
    }

    #[test]
    fn what_failed_is_asked_for_again_after_a_minute_and_what_a_jumping_clock_dated_at_once() {
        let allowances = Allowances::default();
        assert!(may(&allowances, "a", Asker::Reply, 1_000));
        let refused = CertificateRefusal::KeyMode;
        allowances.failed(&app(), ("a", &refused), Asker::Reply, 1_000);
        assert!(!may(&allowances, "a", Asker::Reply, 60_999));
        assert!(may(&allowances, "b", Asker::Reply, 60_999));
        assert!(may(&allowances, "a", Asker::Reply, 61_000));
        allowances.failed(&app(), ("a", &refused), Asker::Reply, 9_000_000);
        assert!(may(&allowances, "a", Asker::Reply, 5_000));
    }

    #[test]
    fn a_reply_tries_again_a_second_after_an_outage() {
        let allowances = Allowances::default();
        let outage = CertificateRefusal::Unavailable("no connection".to_owned());
        for asker in [Asker::Notification, Asker::Reply] {
            allowances.failed(&app(), ("a", &outage), asker, 0);
            assert!(!may(&allowances, "a", asker, 999));
        }
        assert!(may(&allowances, "a", Asker::Reply, 1_000));
        assert!(!may(&allowances, "a", Asker::Notification, 1_000));
    }

    #[test]
    fn an_outage_uses_up_no_reply_s_downloads_and_a_stranger_s() {
        let outage = CertificateRefusal::Unavailable("no connection".to_owned());
        for (asker, goes_on) in [(Asker::Reply, true), (Asker::Notification, false)] {
            let allowances = Allowances::default();
            for second in 0..DOWNLOADS {
                let (sn, now) = (second.to_string(), second as i64 * 1_000);
                assert!(may(&allowances, &sn, asker, now));
                allowances.failed(&app(), (&sn, &outage), asker, now);
            }
            assert_eq!(may(&allowances, "one more", asker, 6_000), goes_on);
        }
    }
}
