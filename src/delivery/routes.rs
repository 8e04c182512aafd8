//! Which backend takes an entry.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::config::delivery::{AckRule, DeliveryConfig, DeliveryFormat, DeliveryRoute};
use crate::delivery::glob;
use crate::model::notification::InboxEntry;

/// `[delivery]`'s url and its routes, ready to choose from.
#[derive(Debug)]
pub(super) struct Routes {
    rules: Vec<Rule>,
    rest: Option<Target>,
}

/// A backend and how it wants things.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) url: String,
    pub(super) format: DeliveryFormat,
    pub(super) timeout: Duration,
    ack: Option<AckRule>,
    warned: AtomicBool,
}

#[derive(Debug)]
struct Rule {
    conditions: DeliveryRoute,
    target: Target,
}

impl Routes {
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
                    ack: route.ack.or(config.ack),
                    warned: AtomicBool::new(false),
                },
            })
            .collect();
        let rest = config.url.as_ref().map(|url| Target {
            url: url.clone(),
            format: config.format,
            timeout: config.timeout,
            ack: config.ack,
            warned: AtomicBool::new(false),
        });
        Self { rules, rest }
    }

    /// Whether nothing can be delivered at all.
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.rest.is_none()
    }

    /// Whether a merchant's alias must be known to choose.
    pub(super) fn needs_alias(&self) -> bool {
        self.rules
            .iter()
            .filter_map(|rule| rule.conditions.merchant.as_deref())
            .any(|merchant| merchant.bytes().any(|b| !b.is_ascii_digit()))
    }

    /// The first target whose conditions all fit.
    pub(super) fn target(&self, entry: &InboxEntry, alias: Option<&str>) -> Option<&Target> {
        self.rules
            .iter()
            .find(|rule| rule.fits(entry, alias))
            .map(|rule| &rule.target)
            .or(self.rest.as_ref())
    }
}

impl Target {
    /// What counts as taken where JSON (`true` for [`DeliveryFormat::Json`]) or a form goes out.
    pub(super) fn ack(&self, sent: DeliveryFormat) -> AckRule {
        self.ack.unwrap_or(match sent {
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
    fn fits(&self, entry: &InboxEntry, alias: Option<&str>) -> bool {
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
                is_merchant(merchant, entry, alias)
            })
    }
}

/// Whether `selector` (as of contract §2, `pid:`, `app:` and `alias:` in front make it exact)
/// names the entry's merchant.
fn is_merchant(selector: &str, entry: &InboxEntry, alias: Option<&str>) -> bool {
    let pid = entry.pid.as_ref().map(|pid| pid.as_str());
    let auth_app_id = entry.auth_app_id.as_ref().map(|id| id.as_str());
    match selector.split_once(':') {
        Some(("pid", given)) => pid == Some(given),
        Some(("app", given)) => auth_app_id == Some(given),
        Some(("alias", given)) => alias == Some(given),
        _ => [pid, auth_app_id, alias].contains(&Some(selector)),
    }
}
