//! The routes of the webhook listener: what a path leads to.

use crate::config::webhook::WebhookConfig;

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    AuthCallback,
    AuthStart,
    /// With the rest of the notify path, empty for the app gateway.
    Notification(&'a str),
    /// With the path that the backend is told: `/spi/{name}`.
    Spi(&'a str),
}

/// What `path`, or the route it is an alias of, leads to.
pub(super) fn route<'a>(config: &'a WebhookConfig, path: &'a str) -> Option<Route<'a>> {
    let path = config.aliases.get(path).map_or(path, String::as_str);
    let below = path.strip_prefix(config.base_path.as_str())?;
    match below {
        "/gateway" | "/notify" => Some(Route::Notification("")),
        "/auth" => Some(Route::AuthCallback),
        "/auth/start" => Some(Route::AuthStart),
        other => other
            .strip_prefix("/notify")
            .filter(|rest| rest.starts_with('/'))
            .map(Route::Notification)
            .or_else(|| spi_name(other).map(|_| Route::Spi(other))),
    }
}

/// The route of a notification, with the part that differs left open.
pub(super) fn notification_route(notify_path: &str) -> &'static str {
    match notify_path {
        "" => "/gateway",
        _ => "/notify/{path}",
    }
}

/// The one segment behind `/spi/`.
fn spi_name(below: &str) -> Option<&str> {
    let name = below.strip_prefix("/spi/")?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Option<Route<'_>>) {
        let mut config = WebhookConfig::default();
        config.aliases.insert(
            "/pay/notify.php".to_owned(),
            "/alipay/notify/php".to_owned(),
        );
        assert_eq!(route(&config, path), expected, "{path}");
    }

    #[test]
    fn paths_lead_to_their_routes_and_nowhere_else() {
        check("/alipay/gateway", Some(Route::Notification("")));
        check("/alipay/notify", Some(Route::Notification("")));
        check(
            "/alipay/notify/orders/42",
            Some(Route::Notification("/orders/42")),
        );
        check("/pay/notify.php", Some(Route::Notification("/php")));
        check(
            "/alipay/spi/order.query",
            Some(Route::Spi("/spi/order.query")),
        );
        check("/alipay/auth", Some(Route::AuthCallback));
        check("/alipay/auth/start", Some(Route::AuthStart));
        for nowhere in [
            "/",
            "/alipay",
            "/alipay/",
            "/alipay/gateway/",
            "/alipay/notifyx",
            "/gateway",
            "/alipay/spi",
            "/alipay/spi/",
            "/alipay/spi/x/y",
            "/alipayx/gateway",
            "/pay/notify.php/x",
        ] {
            check(nowhere, None);
        }
    }
}
