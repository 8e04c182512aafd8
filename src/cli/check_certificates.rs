//! When the certificates in use end: by what `check` says of it nobody is taken by surprise.

use std::fmt;

use crate::cli::output;
use crate::config::Config;
use crate::model::app::App;
use crate::model::app_keys::{AppKeys, TrustEnds};
use crate::sidecar::listener_certificate_ends;

/// How long before its end a certificate is worth a warning, milliseconds: 30 days, as the alert on
/// the metric has it.
const SOON_MS: i64 = 30 * DAY_MS;
const DAY_MS: i64 = 24 * 3600 * 1000;

/// A certificate in use.
pub(crate) struct Ending {
    /// Its key in the configuration, and whose it is.
    name: String,
    /// The last moment of its validity, Unix milliseconds.
    at: i64,
    /// Where another comes from.
    cure: &'static str,
}

/// How near its end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Nearness {
    Far,
    Passed,
    Soon,
}

impl Ending {
    pub(crate) fn nearness(&self, now: i64) -> Nearness {
        match self.at {
            at if at < now => Nearness::Passed,
            at if at < now.saturating_add(SOON_MS) => Nearness::Soon,
            _ => Nearness::Far,
        }
    }

    /// What is wrong with it at `now`.
    pub(crate) fn told(&self, now: i64) -> String {
        let verb = if self.at < now { "ended" } else { "ends" };
        let (when, cure) = (When(self.at, now), self.cure);
        format!("{} {verb} {when}; {cure}", self.name)
    }
}

/// The first of `endings` to end, for whoever asked whether they were looked at; `None`: there is no
/// certificate.
pub(crate) fn first(endings: &[Ending], now: i64) -> Option<String> {
    let first = endings.iter().min_by_key(|ending| ending.at)?;
    let (name, when) = (&first.name, When(first.at, now));
    Some(match endings.len() {
        1 => format!("certificates: there is {name}, which ends {when}"),
        count => format!("certificates: of {count} the first to end is {name}, {when}"),
    })
}

/// Every certificate of the listeners and of `apps` whose end can be read.
pub(crate) fn endings(config: &Config, apps: &[&App]) -> Vec<Ending> {
    let listeners = listener_certificate_ends(config).into_iter();
    let listeners = listeners.map(|(key, at)| Ending {
        name: format!("`{key}`"),
        at,
        cure: "put a renewed one in its place, and reload",
    });
    let of_apps = apps.iter().flat_map(|app| of_app(app));
    listeners.chain(of_apps).collect()
}

fn of_app(app: &App) -> Vec<Ending> {
    let Ok(keys) = app.parse_keys() else {
        return Vec::new();
    };
    let trust = keys.certificates.as_ref();
    let TrustEnds { platform, root } = trust
        .map(|trust| TrustEnds::of(&trust.platform, &trust.roots))
        .unwrap_or_default();
    let own = own(&keys)
        .into_iter()
        .map(|at| ("app_cert", at, "issue a new one in Alipay's console"));
    let others = [
        (
            "alipay_cert",
            platform,
            "download it again; a newer one is fetched meanwhile",
        ),
        (
            "alipay_root_cert",
            root,
            "download alipayRootCert.crt again from Alipay's console",
        ),
    ];
    let others = others
        .into_iter()
        .filter_map(|(key, at, cure)| Some((key, at?, cure)));
    let named = own.chain(others).map(|(key, at, cure)| Ending {
        name: format!("`{key}` of app {}", app.app_id),
        at,
        cure,
    });
    named.collect()
}

fn own(keys: &AppKeys) -> Vec<i64> {
    let keys = std::iter::once(&keys.current).chain(&keys.next);
    keys.filter_map(|key| key.certificate.as_ref()?.not_after)
        .collect()
}

/// A moment, and how far it is.
struct When(i64, i64);

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(at, now) = self;
        let days = (at - now) / DAY_MS;
        write!(f, "at {}", output::time_of(*at))?;
        match days {
            0 => Ok(()),
            1.. => write!(f, " (in {days} days)"),
            _ => write!(f, " ({} days ago)", -days),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_790_000_000_000;

    fn ending(at: i64) -> Ending {
        Ending {
            name: "`webhook.tls_cert`".to_owned(),
            at,
            cure: "renew it",
        }
    }

    #[test]
    fn the_end_is_near_from_thirty_days_on() {
        for (at, expected, text) in [
            (NOW + 31 * DAY_MS, Nearness::Far, "(in 31 days)"),
            (NOW + 30 * DAY_MS, Nearness::Far, "(in 30 days)"),
            (NOW + 30 * DAY_MS - 1, Nearness::Soon, "ends at"),
            (NOW, Nearness::Soon, "ends at"),
            (NOW - 1, Nearness::Passed, "ended at"),
            (NOW - 3 * DAY_MS, Nearness::Passed, "(3 days ago); renew it"),
        ] {
            let ending = ending(at);
            assert_eq!(ending.nearness(NOW), expected, "{at}");
            assert!(ending.told(NOW).contains(text), "{}", ending.told(NOW));
        }
    }

    #[test]
    fn the_first_to_end_stands_for_all() {
        assert_eq!(first(&[], NOW), None);
        let one = first(&[ending(NOW + DAY_MS)], NOW).expect("one");
        assert!(one.contains("there is `webhook.tls_cert`"), "{one}");
        let two = [ending(NOW + 9 * DAY_MS), ending(NOW + 5 * DAY_MS)];
        let two = first(&two, NOW).expect("two");
        assert!(two.contains("of 2") && two.contains("(in 5 days)"), "{two}");
    }
}
