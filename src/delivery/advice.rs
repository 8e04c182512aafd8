//! What is probably a mistake in the routes, though nothing forbids it: pure.

use crate::config::delivery::{DeliveryConfig, DeliveryRoute};
use crate::delivery::glob;
use crate::model::event_type;

/// What the methods of SPI calls begin with; there are more than anybody knows.
const SPI: [&str; 2] = ["spi.", "*"];

/// Judges every route of `config`, one text for each that looks wrong. `base_path` is
/// `webhook.base_path`; `apps` are the ids of all apps, where they are known.
#[must_use]
pub fn of_routes(config: &DeliveryConfig, base_path: &str, apps: Option<&[String]>) -> Vec<String> {
    let mut advice = Vec::new();
    for (index, route) in config.routes.iter().enumerate() {
        let found = [
            event_type(route),
            apps.and_then(|apps| app(route, apps)),
            path(route, base_path),
            shadow(route, config.routes.iter().take(index)),
        ];
        let number = index + 1;
        let texts = found.into_iter().flatten();
        advice.extend(texts.map(|text| format!("`delivery.route[{number}]`: {text}")));
    }
    advice
}

fn event_type(route: &DeliveryRoute) -> Option<String> {
    let pattern = route.event_type.as_deref()?;
    let path = route.path.as_deref().unwrap_or_default();
    let may_be_spi = path.starts_with("/spi/") || SPI.iter().any(|spi| pattern.starts_with(spi));
    if may_be_spi
        || event_type::KNOWN
            .iter()
            .any(|known| glob::fits(pattern, known))
    {
        return None;
    }
    let nearest = nearest(pattern)?;
    Some(format!(
        "match = \"{pattern}\" fits no event type that this version knows; the nearest is \
         `{nearest}` (Alipay may have others)"
    ))
}

fn nearest(pattern: &str) -> Option<&'static str> {
    let letters = pattern.replace('*', "");
    let known = event_type::KNOWN.into_iter();
    known.min_by_key(|known| {
        // A pattern leaves letters away, so only as many of them as it has are compared.
        let begin: String = known.chars().take(letters.chars().count()).collect();
        let whole = strsim::damerau_levenshtein(&letters, known);
        (strsim::damerau_levenshtein(&letters, &begin), whole)
    })
}

fn app(route: &DeliveryRoute, apps: &[String]) -> Option<String> {
    let app = route.app.as_ref().filter(|app| !apps.contains(app))?;
    let known = match apps {
        [] => "there are none".to_owned(),
        apps => format!("there are {}", apps.join(", ")),
    };
    Some(format!(
        "app = \"{app}\" is none of the apps that are configured or stored; {known}"
    ))
}

fn path(route: &DeliveryRoute, base_path: &str) -> Option<String> {
    let pattern = route.path.as_deref()?;
    let public = format!("{base_path}/notify");
    if let Some(rest) = pattern.strip_prefix(&public) {
        return Some(format!(
            "path = \"{pattern}\" is compared with what stands behind {public}; write \"{rest}\""
        ));
    }
    let can_occur = pattern.starts_with(['/', '*']);
    (!can_occur).then(|| {
        format!(
            "path = \"{pattern}\" can't occur: a notify path begins with `/`, such as /orders/42"
        )
    })
}

fn shadow<'a>(
    route: &DeliveryRoute,
    earlier: impl Iterator<Item = &'a DeliveryRoute>,
) -> Option<String> {
    let first = earlier
        .enumerate()
        .find(|(_, before)| covers(before, route));
    first.map(|(index, _)| {
        let number = index + 1;
        format!(
            "never reached: all that fits it fits `delivery.route[{number}]`, which comes first"
        )
    })
}

/// Whether everything that fits `route` fits `before`.
fn covers(before: &DeliveryRoute, route: &DeliveryRoute) -> bool {
    let pattern = |before: &Option<String>, route: &Option<String>| match (before, route) {
        (None, _) => true,
        (Some(before), None) => before == "*",
        // A `*` of the later pattern is text to the earlier one, so only a `*` can take it.
        (Some(before), Some(route)) => glob::fits(before, route),
    };
    let exact =
        |before: &Option<String>, route: &Option<String>| before.is_none() || before == route;
    pattern(&before.event_type, &route.event_type)
        && pattern(&before.path, &route.path)
        && exact(&before.app, &route.app)
        && exact(&before.merchant, &route.merchant)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(event_type: &str, app: &str, path: &str) -> DeliveryRoute {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        DeliveryRoute {
            event_type: given(event_type),
            app: given(app),
            path: given(path),
            ..DeliveryRoute::default()
        }
    }

    fn check(routes: &[DeliveryRoute], expected: &[&str]) {
        let config = DeliveryConfig {
            routes: routes.to_vec(),
            ..DeliveryConfig::default()
        };
        let apps = ["2021".to_owned()];
        let found = of_routes(&config, "/alipay", Some(&apps));
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.contains(expected), "{found}");
        }
    }

    #[test]
    fn good_routes_get_no_advice() {
        check(
            &[
                route("trade_status_sync", "2021", "/orders/*"),
                route("trade_*", "", ""),
                route("merchant.*", "", ""),
                route("alipay.open.*", "", ""),
                route("*.cancelled", "", ""),
                route("spi.alipay.anything", "", ""),
                route("alipay.anything", "", "/spi/*"),
                route("", "", "*"),
            ],
            &[],
        );
    }

    #[test]
    fn a_pattern_that_no_known_type_fits_is_named_with_the_nearest() {
        for (pattern, nearest) in [
            ("trade_status", "trade_status_sync"),
            ("trade.status.sync", "trade_status_sync"),
            ("TRADE_SUCCESS", "this version knows"),
            ("merchant_*", "merchant."),
            ("merchant.authorised", "merchant.authorized"),
            ("alipay.open.auth.cancelled", "alipay.open.auth."),
        ] {
            check(&[route(pattern, "", "")], &[nearest]);
        }
    }

    #[test]
    fn what_no_notification_can_be_is_named() {
        check(&[route("", "2022", "")], &["\"2022\" is none of the apps"]);
        check(&[route("", "", "orders/*")], &["begins with `/`"]);
        let public = route("", "", "/alipay/notify/orders/*");
        check(&[public], &["write \"/orders/*\""]);
    }

    #[test]
    fn a_route_behind_one_that_takes_all_of_it_is_named() {
        let any = route("", "", "");
        let trades = route("trade_*", "", "");
        let shop = DeliveryRoute {
            merchant: Some("shop".to_owned()),
            ..trades.clone()
        };
        let first = "fits `delivery.route[1]`";
        check(&[any.clone(), trades.clone()], &[first]);
        check(&[trades.clone(), trades.clone()], &[first]);
        check(&[trades.clone(), shop.clone()], &[first]);
        check(&[trades.clone(), route("trade_st*", "", "/a")], &[first]);
        check(&[shop, trades.clone(), any], &[]);
        check(&[route("trade_status_sync", "", ""), trades], &[]);
        check(&[route("", "", "/a/*"), route("", "", "")], &[]);
    }
}
