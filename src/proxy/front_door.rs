//! What is refused before a request is read: web pages, foreign hosts, heads over the limit, heads
//! that others may read in another way.
//!
//! A port on loopback can be reached from every web page open in a browser on the host; pages
//! give themselves away by `Origin` or `Sec-Fetch-Site`, and a rebound DNS name by `Host`.

use http::HeaderMap;
use http::header::{CONTENT_ENCODING, ORIGIN};
use http::request::Parts;
use http::uri::Authority;

use crate::net::head::{self, HeadFault};
use crate::net::listener::Peer;
use crate::proxy::error::{ErrorCode, ProxyError};

/// Who stands at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Visitor {
    /// Whoever reached the port: a web page perhaps.
    Any,
    /// One with a valid bearer token, which no web page has.
    Bearer,
}

/// The fields by which a backend tags a call.
const TAGS: [&str; 9] = [
    "alipay-app",
    "alipay-app-auth-token",
    "alipay-encrypt-type",
    "alipay-merchant",
    "alipay-timeout",
    "alipay-user",
    "authorization",
    "origin",
    "sec-fetch-site",
];

/// Checks the head of a request.
///
/// # Errors
/// `headers-too-large`, `browser-refused`, `parameter-invalid`, `body-invalid`,
/// `http-method-not-allowed`.
pub(crate) fn check(
    head: &Parts,
    allowed_hosts: &[String],
    visitor: Visitor,
) -> Result<(), ProxyError> {
    head::check_whole(head).map_err(unclear)?;
    if visitor == Visitor::Any {
        check_origin(head, allowed_hosts)?;
    }
    check_clear(head)?;
    check_spelling(&head.headers)?;
    if head.headers.contains_key(CONTENT_ENCODING) {
        return Err(ProxyError::refused(
            ErrorCode::BodyInvalid,
            "the body has a Content-Encoding; send it plain",
        ));
    }
    Ok(())
}

/// Refuses web pages and foreign hosts; no page can reach a unix socket.
///
/// # Errors
/// `browser-refused`.
pub(crate) fn check_origin(head: &Parts, allowed_hosts: &[String]) -> Result<(), ProxyError> {
    if is_unix(head) {
        return Ok(());
    }
    let refused = |detail: &str| Err(ProxyError::refused(ErrorCode::BrowserRefused, detail));
    if head.headers.contains_key(ORIGIN) || head.headers.contains_key("sec-fetch-site") {
        return refused(
            "the request comes from a web page (it has Origin or Sec-Fetch-Site); ask from a \
             backend, whose requests have neither",
        );
    }
    let Ok(Some(host)) = head::host(head) else {
        return refused(&HeadFault::Host.to_string());
    };
    let authorities = [Some(&host), head.uri.authority()];
    let is_foreign = |authority: &&Authority| !is_allowed(authority, allowed_hosts);
    match authorities.into_iter().flatten().any(|a| is_foreign(&a)) {
        true => refused(
            "Host is neither a loopback name nor in `proxy.allowed_hosts`; ask by a loopback name, \
             or add it there",
        ),
        false => Ok(()),
    }
}

/// Refuses what a server before us may have read in another way.
///
/// # Errors
/// `body-invalid`, `browser-refused`, `http-method-not-allowed`, `parameter-invalid`.
fn check_clear(head: &Parts) -> Result<(), ProxyError> {
    match head::check(head, &TAGS) {
        // On a unix socket `Host` says nothing: many clients write whatever comes to mind.
        Err(HeadFault::Host | HeadFault::Target) if is_unix(head) => Ok(()),
        checked => checked.map_err(unclear),
    }
}

/// How a backend is told of a fault.
fn unclear(fault: HeadFault) -> ProxyError {
    let code = match fault {
        HeadFault::Host | HeadFault::Target => ErrorCode::BrowserRefused,
        HeadFault::TooLarge => ErrorCode::HeadersTooLarge,
        HeadFault::Connect => ErrorCode::HttpMethodNotAllowed,
        HeadFault::ContentTypes | HeadFault::TransferEncoding => ErrorCode::BodyInvalid,
        HeadFault::ConnectionNames(_)
        | HeadFault::Expectation
        | HeadFault::Fragment
        | HeadFault::TargetByte
        | HeadFault::Version => ErrorCode::ParameterInvalid,
    };
    ProxyError::refused(code, fault.to_string())
}

/// Refuses a tag with `_` in the place of `-`: some servers take the two for one.
///
/// # Errors
/// `parameter-invalid`.
fn check_spelling(headers: &HeaderMap) -> Result<(), ProxyError> {
    let is_tag = |name: &&str| name.contains('_') && TAGS.contains(&&*name.replace('_', "-"));
    let names = headers.keys().map(http::HeaderName::as_str);
    match { names }.find(is_tag) {
        None => Ok(()),
        Some(name) => Err(ProxyError::refused(
            ErrorCode::ParameterInvalid,
            format!("`{name}` is spelled with `_`; headers are spelled with `-` here"),
        )),
    }
}

fn is_unix(head: &Parts) -> bool {
    matches!(head.extensions.get(), Some(Peer::Unix { .. }))
}

fn is_allowed(authority: &Authority, allowed_hosts: &[String]) -> bool {
    let host = authority
        .host()
        .trim_start_matches('[')
        .trim_end_matches(']');
    let loopback = host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    // An IPv6 address stands in its brackets there, too.
    let names = [host, authority.host(), authority.as_str()];
    let named = |allowed: &String| names.iter().any(|name| allowed.eq_ignore_ascii_case(name));
    !authority.as_str().contains('@') && (loopback || allowed_hosts.iter().any(named))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn check_head(expected: &str, uri: &str, headers: &[(&str, &str)]) {
        let head = head(uri, headers);
        check_visitor((expected, Visitor::Any), &head, (uri, headers));
    }

    fn check_bearer(expected: &str, uri: &str, headers: &[(&str, &str)]) {
        let head = head(uri, headers);
        check_visitor((expected, Visitor::Bearer), &head, (uri, headers));
    }

    fn check_visitor(
        (expected, visitor): (&str, Visitor),
        head: &Parts,
        shown: (&str, &[(&str, &str)]),
    ) {
        let found = match check(
            head,
            &["sidecar.internal".to_owned(), "[2001:db8::1]".to_owned()],
            visitor,
        ) {
            Ok(()) => "passes",
            Err(error) => error.code.as_str(),
        };
        assert_eq!(found, expected, "{shown:?} {visitor:?}");
    }

    #[test]
    fn a_bearer_comes_from_anywhere_but_from_two_hosts() {
        let foreign = ("host", "sidecar.example");
        check_bearer("passes", "/", &[foreign]);
        check_bearer(
            "passes",
            "/",
            &[foreign, ("origin", "https://shop.example")],
        );
        check_bearer("browser-refused", "/", &[]);
        let absolute = "http://sidecar.example:2088/gateway.do";
        check_bearer("passes", absolute, &[foreign]);
        check_bearer(
            "passes",
            "http://[2001:db8::1]/",
            &[("host", "[2001:DB8::1]:2088")],
        );
        check_bearer(
            "browser-refused",
            absolute,
            &[("host", "sidecar.example:2089")],
        );
        check_bearer("browser-refused", "/", &[foreign, foreign]);
        check_bearer("browser-refused", absolute, &[("host", "other.example")]);
        check_bearer(
            "headers-too-large",
            "/",
            &[foreign, ("x", &"x".repeat(head::LARGEST))],
        );
    }

    #[test]
    fn loopback_and_allowed_hosts_pass() {
        for host in [
            "127.0.0.1:2088",
            "localhost",
            "[::1]:2088",
            "sidecar.internal:2088",
            "[2001:db8::1]",
            "[2001:DB8::1]:2088",
        ] {
            check_head("passes", "/gateway.do", &[("host", host)]);
        }
        check_head(
            "passes",
            "http://127.0.0.1:2088/gateway.do",
            &[("host", "127.0.0.1")],
        );
    }

    #[test]
    fn web_pages_and_foreign_hosts_are_refused() {
        let local = ("host", "127.0.0.1:2088");
        check_head("browser-refused", "/", &[("host", "evil.example")]);
        check_head(
            "browser-refused",
            "/",
            &[local, ("origin", "http://127.0.0.1:2088")],
        );
        check_head("browser-refused", "/", &[local, ("sec-fetch-site", "none")]);
        check_head("browser-refused", "/", &[local, local]);
        check_head("browser-refused", "/", &[]);
        check_head("browser-refused", "/", &[("host", "u@127.0.0.1")]);
        check_head(
            "browser-refused",
            "http://evil.example/gateway.do",
            &[local],
        );
    }

    #[test]
    fn large_heads_and_encoded_bodies_are_refused() {
        let local = ("host", "127.0.0.1:2088");
        check_head(
            "headers-too-large",
            "/",
            &[local, ("x", &"x".repeat(head::LARGEST))],
        );
        check_head("body-invalid", "/", &[local, ("content-encoding", "gzip")]);
        // A field has four bytes more than its name and value.
        let rest = head::LARGEST - "/".len() - "host127.0.0.1:2088".len() - 4 - "x".len() - 4;
        check_head("passes", "/", &[local, ("x", &"x".repeat(rest))]);
        let longer = [local, ("x", &*"x".repeat(rest + 1))];
        check_head("headers-too-large", "/", &longer);
    }

    #[test]
    fn what_others_may_read_differently_is_refused() {
        let local = ("host", "127.0.0.1:2088");
        let tag = ("alipay-merchant", "shop");
        for named in ["Alipay-Merchant", "close, alipay-app", "AUTHORIZATION"] {
            let fields = [local, tag, ("connection", named)];
            check_head("parameter-invalid", "/", &fields);
        }
        for name in ["alipay_merchant", "Alipay_App", "alipay-app_auth-token"] {
            check_head("parameter-invalid", "/", &[local, (name, "shop")]);
        }
        let encoding = ("transfer-encoding", "gzip, chunked");
        check_head("body-invalid", "/", &[local, encoding]);
        check_head("browser-refused", "http://127.0.0.1:2089/", &[local]);
        check_head("passes", "/", &[local, tag, ("connection", "close")]);
    }

    #[test]
    fn a_unix_socket_takes_any_host_but_no_doubtful_framing() {
        let with = |fields: &[(&str, &str)]| {
            let mut request = http::Request::get("/");
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            let (mut head, ()) = request.body(()).expect("a request").into_parts();
            head.extensions.insert(Peer::Unix { uid: None });
            check(&head, &[], Visitor::Any).map_err(|error| error.code.as_str())
        };
        assert_eq!(with(&[]), Ok(()));
        assert_eq!(with(&[("host", "2f72756e"), ("host", "x")]), Ok(()));
        let doubtful = [("transfer-encoding", "gzip, chunked")];
        assert_eq!(with(&doubtful), Err("body-invalid"));
    }
}
