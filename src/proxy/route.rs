//! The routes of the proxy listener: what a path asks for.

use http::Method;

use crate::protocol::charset::Charset;
use crate::protocol::params::Params;
use crate::proxy::check::Check;
use crate::proxy::error::{ErrorCode, ProxyError};
use crate::proxy::events::Event;
use crate::proxy::v3;

/// Where a request wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    /// The selector of `/m/{selector}/…`, decoded.
    pub(crate) selector: Option<String>,
    /// The rest of the path.
    pub(crate) target: Target,
}

/// The routes of the proxy listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// `/calls/{request_id}`; an empty id: the query names the call.
    Calls {
        /// The id, as it was written.
        id: String,
    },
    /// `/verify/…` and `/v2/client-data/decrypt`.
    Check(Check),
    /// `/events/…`.
    Events(Event),
    /// `/gateway.do`.
    Gateway,
    /// None that exists.
    Unknown,
    /// `/v2/{method}` and what stands behind it.
    V2 {
        /// Alipay's method name, still to be checked.
        method: String,
        /// What is wanted.
        action: Action,
    },
    /// `/v3/…`.
    V3 {
        /// The path from `/v3/` on, as it came.
        path: String,
    },
}

/// What `/v2/{method}…` is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Call Alipay.
    Call,
    /// Sign an order string.
    OrderString,
    /// Sign an auto-submitting form.
    PageForm,
    /// Sign a URL.
    PageUrl,
}

impl Route {
    /// Reads a request path.
    #[must_use]
    pub(crate) fn of(path: &str) -> Self {
        if let Some(rest) = path.strip_prefix("/m/") {
            let (selector, target) = rest.split_once('/').unwrap_or((rest, ""));
            let decoded = form_decoded(selector).unwrap_or_default();
            let target = match Target::of(&format!("/{target}")) {
                // They aren't a merchant's: the prefix would look like a filter.
                Target::Events(_) => Target::Unknown,
                target => target,
            };
            return Self {
                selector: Some(decoded),
                target,
            };
        }
        Self {
            selector: None,
            target: Target::of(path),
        }
    }
}

impl Route {
    /// The route of a call, with the parts that differ left open; `None`: it is none.
    pub(crate) fn pattern(&self) -> Option<String> {
        let target = match &self.target {
            Target::Gateway => "/gateway.do",
            Target::V2 { action, .. } => match action {
                Action::Call => "/v2/{method}",
                Action::OrderString => "/v2/{method}/order-string",
                Action::PageForm => "/v2/{method}/page-form",
                Action::PageUrl => "/v2/{method}/page-url",
            },
            Target::V3 { .. } => "/v3/{path}",
            Target::Calls { .. } | Target::Check(_) | Target::Events(_) | Target::Unknown => {
                return None;
            }
        };
        Some(match &self.selector {
            None => target.to_owned(),
            Some(_) => format!("/m/{{selector}}{target}"),
        })
    }
}

impl Target {
    fn of(path: &str) -> Self {
        match path {
            "/calls" => return Self::Calls { id: String::new() },
            "/gateway.do" => return Self::Gateway,
            "/v2/client-data/decrypt" => return Self::Check(Check::ClientData),
            "/verify/app-result" => return Self::Check(Check::AppResult),
            "/verify/return" => return Self::Check(Check::Return),
            _ => {}
        }
        if let Some(id) = path.strip_prefix("/calls/") {
            return match id.is_empty() || id.contains('/') {
                true => Self::Unknown,
                false => Self::Calls { id: id.to_owned() },
            };
        }
        if path.starts_with("/v3/") {
            return Self::V3 {
                path: path.to_owned(),
            };
        }
        if let Some(rest) = path.strip_prefix("/events/") {
            return Event::of(rest).map_or(Self::Unknown, Self::Events);
        }
        let Some(rest) = path.strip_prefix("/v2/") else {
            return Self::Unknown;
        };
        let (method, action) = match rest.split_once('/') {
            None => (rest, Action::Call),
            Some((method, "order-string")) => (method, Action::OrderString),
            Some((method, "page-form")) => (method, Action::PageForm),
            Some((method, "page-url")) => (method, Action::PageUrl),
            Some(_) => return Self::Unknown,
        };
        Self::V2 {
            method: method.to_owned(),
            action,
        }
    }
}

/// The HTTP methods of v3.
const V3_METHODS: [Method; 5] = [
    Method::DELETE,
    Method::GET,
    Method::PATCH,
    Method::POST,
    Method::PUT,
];

/// The HTTP methods a route takes, as the `Allow` header lists them.
///
/// # Errors
/// `http-method-not-allowed`.
pub(crate) fn check_http_method(target: &Target, method: &Method) -> Result<(), ProxyError> {
    let allow = match target {
        Target::Calls { .. } if *method == Method::GET => return Ok(()),
        Target::Calls { .. } => "GET",
        Target::Gateway if *method == Method::GET || *method == Method::POST => return Ok(()),
        Target::Check(_) | Target::Events(_) | Target::V2 { .. } if *method == Method::POST => {
            return Ok(());
        }
        Target::Gateway => "GET, POST",
        Target::Check(_) | Target::Events(_) | Target::V2 { .. } => "POST",
        Target::V3 { .. } if V3_METHODS.contains(method) => return Ok(()),
        Target::V3 { .. } => v3::METHODS,
        Target::Unknown => return Ok(()),
    };
    Err(ProxyError {
        allow: Some(allow),
        ..ProxyError::refused(
            ErrorCode::HttpMethodNotAllowed,
            format!("this route takes {allow}"),
        )
    })
}

fn form_decoded(text: &str) -> Option<String> {
    let raw = format!("s={}", text.replace('+', "%2B").replace('&', "%26"));
    let decoded = Params::from_form(raw.as_bytes(), Charset::Utf8).ok()?;
    decoded.get("s").map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(method: &str, action: Action) -> Target {
        Target::V2 {
            method: method.to_owned(),
            action,
        }
    }

    #[test]
    fn paths_name_routes() {
        let check = |path: &str, selector: Option<&str>, target: Target| {
            let expected = Route {
                selector: selector.map(ToOwned::to_owned),
                target,
            };
            assert_eq!(Route::of(path), expected, "{path}");
        };
        check("/gateway.do", None, Target::Gateway);
        check("/m/shop/gateway.do", Some("shop"), Target::Gateway);
        check(
            "/m/pid%3A2088102146225135/gateway.do",
            Some("pid:2088102146225135"),
            Target::Gateway,
        );
        check(
            "/v2/alipay.trade.query",
            None,
            v2("alipay.trade.query", Action::Call),
        );
        check(
            "/m/a/v2/a.b/order-string",
            Some("a"),
            v2("a.b", Action::OrderString),
        );
        check("/v2/a.b/page-url", None, v2("a.b", Action::PageUrl));
        check("/v2/a.b/page-form", None, v2("a.b", Action::PageForm));
        check("/v2/a.b/other", None, Target::Unknown);
        check("/v2/a.b/page-url/x", None, Target::Unknown);
        for (path, wanted) in [
            ("/verify/return", Check::Return),
            ("/verify/app-result", Check::AppResult),
            ("/v2/client-data/decrypt", Check::ClientData),
        ] {
            check(path, None, Target::Check(wanted));
            check(&format!("/m/a{path}"), Some("a"), Target::Check(wanted));
            check(&format!("{path}/"), None, Target::Unknown);
        }
        let id = "017f22e2".to_owned();
        check("/calls/017f22e2", None, Target::Calls { id });
        check("/calls", None, Target::Calls { id: String::new() });
        check("/calls/", None, Target::Unknown);
        check("/calls/a/b", None, Target::Unknown);
        check("/verify", None, Target::Unknown);
        for (path, wanted) in [
            ("/events/claim", Event::Claim),
            ("/events/1/ack", Event::Ack("1".to_owned())),
            ("/events/1/nack", Event::Nack("1".to_owned())),
            ("/events/1/extend", Event::Extend("1".to_owned())),
        ] {
            check(path, None, Target::Events(wanted));
            check(&format!("/m/a{path}"), Some("a"), Target::Unknown);
        }
        for path in ["/events", "/events/", "/events/1", "/events/1/ack/"] {
            check(path, None, Target::Unknown);
        }
        check("/m/a/m/b/gateway.do", Some("a"), Target::Unknown);
        check("/m/a", Some("a"), Target::Unknown);
        check("/gateway.do/", None, Target::Unknown);
        let path = "/v3/alipay/trade/query".to_owned();
        check(&path.clone(), None, Target::V3 { path });
        check("/", None, Target::Unknown);
    }
}
