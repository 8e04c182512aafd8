//! Which backend takes an entry.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::config::delivery::{AckRule, DeliveryConfig, DeliveryFormat, DeliveryRoute};
use crate::delivery::glob;
use crate::delivery::whose::Known;
use crate::model::id::{Alias, AuthAppId, Pid};
use crate::model::notification::{DeliveryForm, InboxEntry};

/// `[delivery]`'s url and its routes, ready to choose from.
#[derive(Debug)]
pub(super) struct Routes {
    rules: Vec<Rule>,
    rest: Option<Target>,
    /// That of what fits no rule.
    format: DeliveryFormat,
}

/// A backend and how it wants things.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) url: String,
    pub(super) format: DeliveryFormat,
    pub(super) timeout: Duration,
    /// How many attempts run at once towards the url.
    pub(super) concurrency: usize,
    ack: Option<AckRule>,
    warned: AtomicBool,
}

#[derive(Debug)]
struct Rule {
    conditions: DeliveryRoute,
    target: Target,
}

impl Routes {
    /// How long the slowest backend may take.
    pub(super) fn longest_timeout(&self) -> Duration {
        let targets = self.rules.iter().map(|rule| &rule.target);
        let timeouts = targets.chain(&self.rest).map(|target| target.timeout);
        timeouts.max().unwrap_or_default()
    }

    pub(super) fn new(config: &DeliveryConfig) -> Self {
        let rules = config
            .routes
            .iter()
            .map(|route| Rule {
                conditions: route.clone(),
                target: Target {
                    url: route.url.clone(),
                    format: route.format.unwrap_or(config.format),
                    timeout: route.timeout.unwrap_or(config.timeout),
                    concurrency: route.concurrency.unwrap_or(config.concurrency),
                    ack: route.ack.or(config.ack),
                    warned: AtomicBool::new(false),
                },
            })
            .collect();
        let rest = config.url.as_ref().map(|url| Target {
            url: url.clone(),
            format: config.format,
            timeout: config.timeout,
            concurrency: config.concurrency,
            ack: config.ack,
            warned: AtomicBool::new(false),
        });
        Self {
            rules,
            rest,
            format: config.format,
        }
    }

    /// Whether nothing can be delivered at all.
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.rest.is_none()
    }

    /// Whether there is more than one backend, so that one can be in the way of another.
    pub(super) fn several_backends(&self) -> bool {
        let mut urls = self.targets().map(|target| &target.url);
        let first = urls.next();
        urls.any(|url| Some(url) != first)
    }

    /// The most attempts that any backend takes at once.
    pub(super) fn most_at_once(&self) -> usize {
        let limits = self.targets().map(|target| target.concurrency);
        limits.max().unwrap_or_default()
    }

    /// Every backend, as often as it is named.
    pub(super) fn targets(&self) -> impl Iterator<Item = &Target> {
        self.rules.iter().map(|rule| &rule.target).chain(&self.rest)
    }

    /// Whether an entry that no route of `former` fitted may have one now: the routes are others, or they
    /// ask for merchants, whom an operator or Alipay may have named since.
    pub(super) fn may_fit_more_than(&self, former: &Self) -> bool {
        let conditions = self.rules.iter().map(Rule::conditions);
        let are_same = conditions.eq(former.rules.iter().map(Rule::conditions))
            && self.rest.is_some() == former.rest.is_some();
        !are_same || self.need_merchant()
    }

    /// Whether the merchant's record must be looked up to choose.
    pub(super) fn need_merchant(&self) -> bool {
        self.rules
            .iter()
            .any(|rule| rule.conditions.merchant.is_some())
    }

    /// Whether the entry may go out as JSON, which says whose it is, and only the merchant's record
    /// can tell.
    pub(super) fn want_pid(&self, entry: &InboxEntry) -> bool {
        let rules = self.rules.iter();
        let mut formats = rules.map(|rule| rule.target.format).chain([self.format]);
        entry.pid.is_none()
            && match entry.form {
                DeliveryForm::AsConfigured => formats.any(|format| format == DeliveryFormat::Json),
                DeliveryForm::Redacted => true,
                DeliveryForm::Event | DeliveryForm::Verbatim => false,
            }
    }

    /// The first target whose conditions all fit.
    pub(super) fn target(&self, entry: &InboxEntry, known: &Known) -> Option<&Target> {
        self.rules
            .iter()
            .find(|rule| rule.fits(entry, known))
            .map(|rule| &rule.target)
            .or(self.rest.as_ref())
    }
}

impl Target {
    #[cfg(test)]
    pub(super) fn of_test(url: &str, concurrency: usize) -> Self {
        Self {
            url: url.to_owned(),
            format: DeliveryFormat::Form,
            timeout: Duration::from_secs(1),
            concurrency,
            ack: None,
            warned: AtomicBool::new(false),
        }
    }

    /// What counts as taken of what is answered in the way of that format, unless it is configured.
    pub(super) fn ack(&self, answered: DeliveryFormat) -> AckRule {
        self.ack.unwrap_or(match answered {
            DeliveryFormat::Form => AckRule::SuccessBody,
            DeliveryFormat::Json => AckRule::AnySuccessStatus,
        })
    }

    /// Whether this is the first time that it said 2xx, but not `success`.
    pub(super) fn first_not_success(&self) -> bool {
        !self.warned.swap(true, Ordering::Relaxed)
    }
}

impl Rule {
    /// All that [`Self::fits`] goes by.
    fn conditions(&self) -> [Option<&str>; 4] {
        // A further one must be named here.
        let DeliveryRoute {
            url: _,
            event_type,
            app,
            merchant,
            path,
            format: _,
            ack: _,
            timeout: _,
            concurrency: _,
        } = &self.conditions;
        [event_type, app, merchant, path].map(Option::as_deref)
    }

    fn fits(&self, entry: &InboxEntry, known: &Known) -> bool {
        let is = |condition: &Option<String>, fits: &dyn Fn(&str) -> bool| {
            condition.as_deref().is_none_or(fits)
        };
        is(&self.conditions.event_type, &|p| {
            glob::fits(p, &entry.event_type)
        }) && is(&self.conditions.app, &|app| app == entry.app_id.as_str())
            && is(&self.conditions.path, &|p| {
                glob::fits(p, &entry.notify_path)
            })
            && is(&self.conditions.merchant, &|merchant| {
                is_merchant(merchant, entry, known)
            })
    }
}

/// Whether `selector` (as of contract §2, `pid:`, `app:` and `alias:` in front make it exact)
/// names the entry's merchant.
fn is_merchant(selector: &str, entry: &InboxEntry, known: &Known) -> bool {
    let auth_app_id = entry.auth_app_id.as_ref().map(AuthAppId::as_str);
    let alias = known.alias.as_ref().map(Alias::as_str);
    let pid = entry.pid.as_ref().or(known.pid.as_ref()).map(Pid::as_str);
    if selector == "self" {
        // What is about the app itself, and no merchant's.
        return auth_app_id.is_none_or(|id| id == entry.app_id.as_str());
    }
    match selector.split_once(':') {
        Some(("pid", given)) => pid == Some(given),
        Some(("app", given)) => auth_app_id == Some(given),
        Some(("alias", given)) => alias == Some(given),
        _ => [pid, auth_app_id, alias].contains(&Some(selector)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::id::{AppId, EventId};
    use crate::model::notification::DeliveryForm;

    fn entry() -> InboxEntry {
        InboxEntry {
            id: EventId::new(0),
            app_id: AppId::new("2021").expect("id"),
            notify_id: None,
            event_type: "trade_status_sync".to_owned(),
            auth_app_id: AuthAppId::new("2031").ok(),
            pid: None,
            received_at: 0,
            notify_path: "/orders/42".to_owned(),
            notify_query: String::new(),
            order_key: None,
            opened_content: None,
            scheme: None,
            body: None,
            event: None,
            form: DeliveryForm::AsConfigured,
        }
    }

    fn check(change: impl FnOnce(&mut DeliveryRoute), fits: bool) {
        let mut route = DeliveryRoute::default();
        change(&mut route);
        let config = DeliveryConfig {
            routes: vec![route.clone()],
            ..DeliveryConfig::default()
        };
        let known = Known {
            alias: Alias::new("shop").ok(),
            pid: Pid::new("2088000000001001").ok(),
        };
        let routes = Routes::new(&config);
        assert_eq!(routes.target(&entry(), &known).is_some(), fits, "{route:?}");
    }

    #[test]
    fn every_condition_that_is_given_must_fit() {
        check(|_| (), true);
        check(|r| r.event_type = Some("trade_*".to_owned()), true);
        check(|r| r.event_type = Some("merchant.*".to_owned()), false);
        check(|r| r.app = Some("2021".to_owned()), true);
        check(|r| r.app = Some("2022".to_owned()), false);
        check(|r| r.path = Some("/orders/*".to_owned()), true);
        check(|r| r.path = Some("/orders".to_owned()), false);
        for merchant in [
            "2031",
            "app:2031",
            "shop",
            "alias:shop",
            "2088000000001001",
            "pid:2088000000001001",
        ] {
            check(|r| r.merchant = Some(merchant.to_owned()), true);
        }
        for merchant in ["2032", "pid:2031", "alias:2031", "app:shop", "Shop", ""] {
            check(|r| r.merchant = Some(merchant.to_owned()), false);
        }
        check(
            |r| {
                r.merchant = Some("shop".to_owned());
                r.app = Some("2022".to_owned());
            },
            false,
        );
    }

    #[test]
    fn the_same_conditions_fit_no_more_unless_they_ask_for_merchants() {
        let route = |path: &str, merchant: Option<&str>| DeliveryRoute {
            url: format!("http://{path}"),
            path: Some(path.to_owned()),
            merchant: merchant.map(str::to_owned),
            ..DeliveryRoute::default()
        };
        let routes = |routes: &[DeliveryRoute], url: Option<&str>| {
            Routes::new(&DeliveryConfig {
                url: url.map(str::to_owned),
                routes: routes.to_vec(),
                ..DeliveryConfig::default()
            })
        };
        let (a, b) = (route("a", None), route("b", None));
        let moved = DeliveryRoute {
            url: "http://elsewhere".to_owned(),
            ..a.clone()
        };
        let of_type = DeliveryRoute {
            event_type: Some("trade_*".to_owned()),
            ..a.clone()
        };
        let of_app = DeliveryRoute {
            app: Some("2021".to_owned()),
            ..a.clone()
        };
        let former = routes(std::slice::from_ref(&a), None);
        for (now, may) in [
            (routes(&[moved], None), false),
            (routes(&[of_type], None), true),
            (routes(&[of_app], None), true),
            (routes(&[a.clone(), b.clone()], None), true),
            (routes(std::slice::from_ref(&b), None), true),
            (routes(&[], None), true),
            (routes(std::slice::from_ref(&a), Some("http://rest")), true),
        ] {
            assert_eq!(now.may_fit_more_than(&former), may, "{now:?}");
        }
        // Of others in another order some are compared in vain, and none is forgotten.
        let (one, other) = ([a.clone(), b.clone()], [b.clone(), a.clone()]);
        assert!(routes(&other, None).may_fit_more_than(&routes(&one, None)));
        let named = [route("a", Some("shop"))];
        assert!(routes(&named, None).may_fit_more_than(&routes(&named, None)));
    }

    #[test]
    fn the_ack_follows_what_goes_out_unless_it_is_configured() {
        let config = |ack| DeliveryConfig {
            url: Some("http://x".to_owned()),
            ack,
            ..DeliveryConfig::default()
        };
        let ack = |configured, sent| {
            let routes = Routes::new(&config(configured));
            let target = routes.target(&entry(), &Known::default()).expect("a url");
            target.ack(sent)
        };
        assert_eq!(ack(None, DeliveryFormat::Form), AckRule::SuccessBody);
        assert_eq!(ack(None, DeliveryFormat::Json), AckRule::AnySuccessStatus);
        let configured = Some(AckRule::SuccessBody);
        assert_eq!(ack(configured, DeliveryFormat::Json), AckRule::SuccessBody);
    }
}
