//! What is refused before a request is read: web pages, foreign hosts, heads over the limit.
//!
//! A port on loopback can be reached from every web page open in a browser on the host; pages
//! give themselves away by `Origin` or `Sec-Fetch-Site`, and a rebound DNS name by `Host`.

use http::header::{CONTENT_ENCODING, HOST, HeaderValue, ORIGIN};
use http::request::Parts;
use http::uri::Authority;

use crate::net::listener::Peer;
use crate::proxy::error::{ErrorCode, ProxyError};

/// The largest head, bytes: request line and header fields together.
const HEAD_BYTES: usize = 64 << 10;

/// Who stands at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Visitor {
    /// Whoever reached the port: a web page perhaps.
    Any,
    /// One with a valid bearer token, which no web page has.
    Bearer,
}

/// Checks the head of a request.
///
/// # Errors
/// `headers-too-large`, `browser-refused`, `body-invalid` (a `Content-Encoding`).
pub(crate) fn check(
    head: &Parts,
    allowed_hosts: &[String],
    visitor: Visitor,
) -> Result<(), ProxyError> {
    let fields: usize = head
        .headers
        .iter()
        .map(|(n, v)| n.as_str().len() + v.len() + 4)
        .sum();
    let target = head
        .uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    if fields + target > HEAD_BYTES {
        return Err(ProxyError::refused(
            ErrorCode::HeadersTooLarge,
            format!("the head has more than {HEAD_BYTES} bytes"),
        ));
    }
    match visitor {
        Visitor::Any => check_origin(head, allowed_hosts)?,
        Visitor::Bearer => check_one_host(head)?,
    }
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
    if let Some(Peer::Unix { .. }) = head.extensions.get() {
        return Ok(());
    }
    let refused = |detail: &str| Err(ProxyError::refused(ErrorCode::BrowserRefused, detail));
    if head.headers.contains_key(ORIGIN) || head.headers.contains_key("sec-fetch-site") {
        return refused("the request comes from a web page (Origin or Sec-Fetch-Site)");
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return refused("the request needs exactly one Host");
    };
    let host = host
        .to_str()
        .ok()
        .and_then(|host| host.parse::<Authority>().ok());
    let authorities = [host.as_ref(), head.uri.authority()];
    for authority in authorities.into_iter().flatten() {
        if !is_allowed(authority, allowed_hosts) {
            return refused("Host is neither a loopback name nor in `proxy.allowed_hosts`");
        }
    }
    if host.is_some() {
        Ok(())
    } else {
        refused("Host can't be read")
    }
}

/// Refuses what means two hosts, whoever sends it: what stands before us may have meant the other.
fn check_one_host(head: &Parts) -> Result<(), ProxyError> {
    if let Some(Peer::Unix { .. }) = head.extensions.get() {
        return Ok(());
    }
    let mut hosts = head.headers.get_all(HOST).iter();
    let (host, second) = (hosts.next(), hosts.next());
    let is_same = head
        .uri
        .authority()
        .zip(host)
        .is_none_or(|(target, host)| is_same_host(target, host));
    match second.is_none() && is_same {
        true => Ok(()),
        false => Err(ProxyError::refused(
            ErrorCode::BrowserRefused,
            "the request names two hosts",
        )),
    }
}

/// Whether both name one host, with its port or without.
fn is_same_host(target: &Authority, host: &HeaderValue) -> bool {
    let host = host.to_str().ok();
    let Some(host) = host.and_then(|host| host.parse::<Authority>().ok()) else {
        return false;
    };
    let ports = target.port_u16().zip(host.port_u16());
    target.host().eq_ignore_ascii_case(host.host()) && ports.is_none_or(|(one, other)| one == other)
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
    let named = |allowed: &String| {
        allowed.eq_ignore_ascii_case(host) || allowed.eq_ignore_ascii_case(authority.as_str())
    };
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
        let found = match check(head, &["sidecar.internal".to_owned()], visitor) {
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
        check_bearer("passes", "/", &[]);
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
            &[foreign, ("x", &"x".repeat(HEAD_BYTES))],
        );
    }

    #[test]
    fn loopback_and_allowed_hosts_pass() {
        for host in [
            "127.0.0.1:2088",
            "localhost",
            "[::1]:2088",
            "sidecar.internal:2088",
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
            &[local, ("x", &"x".repeat(HEAD_BYTES))],
        );
        check_head("body-invalid", "/", &[local, ("content-encoding", "gzip")]);
    }
}
