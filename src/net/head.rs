//! What makes the head of a request mean different things to different readers.
//!
//! A server before us and we must agree where a request ends and what stands in it, or the rest of
//! one becomes another. hyper refuses most of what isn't clear; this is what it takes.

use http::header::{
    AUTHORIZATION, AsHeaderName, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
    EXPECT, HOST, TRANSFER_ENCODING,
};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderMap, HeaderName, Method, Version};

use crate::config::url::is_whole;

/// The fields that say where a message ends and how it is to be read; a server that removes one of
/// them, because `Connection` names it, sees another message than we.
const FRAMING: [HeaderName; 5] = [
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    HOST,
    TRANSFER_ENCODING,
];

/// How long a head may be, bytes.
pub const LARGEST: usize = 64 << 10;

/// How many fields a head may have: hyper has a place for each, and each costs every request something.
pub const MOST_FIELDS: usize = 512;

/// Why the head of a request isn't clear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeadFault {
    /// `CONNECT`: this is no tunnel.
    #[error("CONNECT asks for a tunnel; there is none here")]
    Connect,
    /// `Connection` names a field that is no matter of the connection.
    #[error(
        "`Connection` names `{0}`, so that a server before this one would have removed it; name \
         nothing there but `close`, `keep-alive` and the like"
    )]
    ConnectionNames(&'static str),
    /// Two `Content-Type`s.
    #[error("`Content-Type` stands twice; send one")]
    ContentTypes,
    /// An `Expect` that isn't `100-continue`.
    #[error("`Expect` is something else than `100-continue`; leave it out")]
    Expectation,
    /// The target has a `#`: what stood behind it is gone.
    #[error("the request target has a `#`, behind which nothing is read; write it `%23`")]
    Fragment,
    /// `Host` is missing, stands twice, or can't be read.
    #[error("the request needs exactly one `Host`, a name or an address with or without a port")]
    Host,
    /// The target is in absolute form and names another authority than `Host`.
    #[error("the request target names another server than `Host`; send the path alone")]
    Target,
    /// The target has a byte that may not stand in one; nothing from there on was read.
    #[error(
        "the request target has a character that may not stand there as it is; percent-encode what \
         each parameter is: a space is `%20`, `\"` is `%22`, `<` is `%3C`, a line end `%0A`, and what isn't ASCII \
         its bytes"
    )]
    TargetByte,
    /// It has more than [`LARGEST`] bytes, or more than [`MOST_FIELDS`] fields.
    #[error("the head has more than {LARGEST} bytes, or more than {MOST_FIELDS} fields")]
    TooLarge,
    /// `Transfer-Encoding` isn't `chunked` alone.
    #[error("`Transfer-Encoding` is something else than `chunked`; send the body plain")]
    TransferEncoding,
    /// Behind the target stands no version; nothing from there on was read.
    #[error(
        "behind the request target stands something else than `HTTP/1.1`, written like that; percent-encode what \
         stands within the target: a space is `%20`, `\"` is `%22`"
    )]
    Version,
}

/// An extension of a request whose target was cut off at a `#`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fragment;

/// An extension of a request of whose head only the beginning was read, since that stood behind it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CutOff(pub(crate) HeadFault);

/// Checks a head that came over a connection. `own` are further fields that `Connection` may not
/// name.
///
/// # Errors
/// The first [`HeadFault`] found.
pub fn check(head: &Parts, own: &[&'static str]) -> Result<(), HeadFault> {
    check_whole(head)?;
    if head.method == Method::CONNECT {
        return Err(HeadFault::Connect);
    }
    if head.extensions.get::<Fragment>().is_some() {
        return Err(HeadFault::Fragment);
    }
    check_framing(&head.headers)?;
    check_connection(&head.headers, own)?;
    check_target(head, host(head)?)
}

/// Checks that all of a head is there, and that it hasn't more than [`LARGEST`] bytes, as it would be
/// written. What was cut off of one may have been what matters.
///
/// # Errors
/// [`HeadFault::TooLarge`], also of what came with more fields than [`MOST_FIELDS`];
/// [`HeadFault::TargetByte`] and [`HeadFault::Version`].
pub fn check_whole(head: &Parts) -> Result<(), HeadFault> {
    if let Some(CutOff(fault)) = head.extensions.get() {
        return Err(*fault);
    }
    let fields = head.headers.iter();
    let fields: usize = fields.map(|(n, v)| n.as_str().len() + v.len() + 4).sum();
    let target = head.uri.path_and_query();
    match fields + target.map_or(0, |target| target.as_str().len()) > LARGEST {
        true => Err(HeadFault::TooLarge),
        false => Ok(()),
    }
}

/// The token of `Authorization: Bearer`, whose scheme has no case (RFC 9110); `None` where that isn't
/// there, or nobody could say which of two is meant.
#[must_use]
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut given = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return None;
    };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let is_bearer = scheme.eq_ignore_ascii_case("bearer");
    is_bearer.then(|| token.trim_matches(' '))
}

/// Checks what the end of the message depends on.
///
/// # Errors
/// [`HeadFault`].
pub fn check_framing(headers: &HeaderMap) -> Result<(), HeadFault> {
    let is_other = |field: HeaderName, only: &str| {
        let mut values = headers.get_all(field).iter();
        let is_only =
            |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(only.as_bytes());
        match (values.next(), values.next()) {
            (None, _) => false,
            (Some(value), None) => !is_only(value),
            (Some(_), Some(_)) => true,
        }
    };
    if is_other(TRANSFER_ENCODING, "chunked") {
        return Err(HeadFault::TransferEncoding);
    }
    if is_other(EXPECT, "100-continue") {
        return Err(HeadFault::Expectation);
    }
    match is_doubled(headers, CONTENT_TYPE) {
        true => Err(HeadFault::ContentTypes),
        false => Ok(()),
    }
}

/// The one `Host`. From HTTP/2 on the `:authority` of the target may stand in its place; HTTP/1.0 may
/// do without.
///
/// # Errors
/// [`HeadFault::Host`].
pub fn host(head: &Parts) -> Result<Option<Authority>, HeadFault> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().ok(),
        (None, _) if head.version > Version::HTTP_11 => head.uri.authority().map(Authority::as_str),
        (None, _) if head.version != Version::HTTP_11 => return Ok(None),
        _ => None,
    };
    let read = host.and_then(|host| host.parse::<Authority>().ok());
    read.filter(is_plain).map(Some).ok_or(HeadFault::Host)
}

/// Whether an authority is a name or an address, with or without a port, and nothing else.
fn is_plain(authority: &Authority) -> bool {
    let text = authority.as_str();
    // A `Host` may have an empty port (RFC 9110).
    let has_empty_port = text.strip_prefix(authority.host()) == Some(":");
    has_empty_port || (!text.contains('@') && is_whole(authority))
}

/// Whether a field stands there more than once.
#[must_use]
pub fn is_doubled(headers: &HeaderMap, field: impl AsHeaderName) -> bool {
    headers.get_all(field).iter().nth(1).is_some()
}

fn check_connection(headers: &HeaderMap, own: &[&'static str]) -> Result<(), HeadFault> {
    for value in headers.get_all(CONNECTION) {
        // What can't be read as text can't name a field.
        for option in value.to_str().unwrap_or_default().split(',') {
            let is_named = |field: &&str| option.trim().eq_ignore_ascii_case(field);
            let framing = FRAMING.iter().map(known_name);
            let named = framing.chain(own.iter().copied()).find(|f| is_named(f));
            if let Some(field) = named {
                return Err(HeadFault::ConnectionNames(field));
            }
        }
    }
    Ok(())
}

/// The name of one of [`FRAMING`], for as long as the program runs.
fn known_name(field: &HeaderName) -> &'static str {
    match field {
        field if field == CONTENT_ENCODING => "content-encoding",
        field if field == CONTENT_LENGTH => "content-length",
        field if field == CONTENT_TYPE => "content-type",
        field if field == HOST => "host",
        _ => "transfer-encoding",
    }
}

/// A target in absolute form must name the server that `Host` names: with or without its port.
fn check_target(head: &Parts, host: Option<Authority>) -> Result<(), HeadFault> {
    let Some(named) = head.uri.authority() else {
        return Ok(());
    };
    let scheme = head.uri.scheme_str().unwrap_or_default();
    let is_http = ["http", "https"].contains(&scheme);
    let agrees = host.is_none_or(|host| {
        let ports = named.port_u16().zip(host.port_u16());
        named.host().eq_ignore_ascii_case(host.host()) && ports.is_none_or(|(a, b)| a == b)
    });
    if is_http && agrees && is_plain(named) {
        return Ok(());
    }
    Err(HeadFault::Target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(target: &str, fields: &[(&str, &str)]) -> Result<(), HeadFault> {
        let mut request = http::Request::builder().uri(target);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        check(&head, &["alipay-merchant"])
    }

    const HERE: (&str, &str) = ("host", "127.0.0.1:2088");

    #[test]
    fn what_servers_and_sdks_send_is_clear() {
        for fields in [
            &[HERE][..],
            &[("host", "[::1]:2088")],
            &[("host", "sidecar.internal")],
            &[("host", "localhost:")],
            &[HERE, ("connection", "keep-alive, Upgrade, HTTP2-Settings")],
            &[HERE, ("transfer-encoding", "Chunked")],
            &[HERE, ("expect", "100-Continue")],
        ] {
            assert_eq!(checked("/gateway.do", fields), Ok(()), "{fields:?}");
        }
        for (target, host) in [
            ("http://127.0.0.1:2088/gateway.do", "127.0.0.1:2088"),
            ("http://127.0.0.1/gateway.do", "127.0.0.1:2088"),
            ("http://127.0.0.1:2088/gateway.do", "127.0.0.1"),
            ("http://LOCALHOST:2088/", "localhost:2088"),
        ] {
            assert_eq!(checked(target, &[("host", host)]), Ok(()), "{target}");
        }
    }

    #[test]
    fn from_http_2_on_the_authority_stands_for_the_host() {
        let named = |version, target: &str| {
            let request = http::Request::builder().version(version).uri(target);
            let (head, ()) = request.body(()).expect("a request").into_parts();
            host(&head).map(|host| host.map(|host| host.to_string()))
        };
        let target = "https://127.0.0.1:2088/gateway.do";
        for version in [Version::HTTP_2, Version::HTTP_3] {
            assert_eq!(
                named(version, target),
                Ok(Some("127.0.0.1:2088".to_owned()))
            );
            assert_eq!(named(version, "https://u@x.example/"), Err(HeadFault::Host));
            assert_eq!(named(version, "/gateway.do"), Err(HeadFault::Host));
        }
        assert_eq!(named(Version::HTTP_11, target), Err(HeadFault::Host));
        assert_eq!(named(Version::HTTP_10, "/"), Ok(None));
    }

    #[test]
    fn what_readers_may_take_differently_is_refused() {
        let check = |expected, target: &str, fields: &[(&str, &str)]| {
            assert_eq!(
                checked(target, fields),
                Err(expected),
                "{target} {fields:?}"
            );
        };
        for fields in [
            &[][..],
            &[HERE, HERE],
            &[("host", "u@127.0.0.1")],
            &[("host", "127.0.0.1:x")],
            &[("host", "127.0.0.1:99999")],
            &[("host", "127.0.0.1:+2088")],
            &[("host", "127.0.0.1:1:2")],
            &[("host", "a b")],
            &[("host", "")],
        ] {
            check(HeadFault::Host, "/", fields);
        }
        for target in [
            "http://x.example/",
            "http://127.0.0.1:2089/",
            "http://localhost:2088/",
            "http://u@127.0.0.1:2088/",
            "ftp://127.0.0.1:2088/",
        ] {
            check(HeadFault::Target, target, &[HERE]);
        }
        for encoding in ["gzip, chunked", "chunked, chunked", "identity", "xchunked"] {
            let fields = [HERE, ("transfer-encoding", encoding)];
            check(HeadFault::TransferEncoding, "/", &fields);
        }
        let twice = ("transfer-encoding", "chunked");
        check(HeadFault::TransferEncoding, "/", &[HERE, twice, twice]);
        check(HeadFault::Expectation, "/", &[HERE, ("expect", "x")]);
        let form = ("content-type", "text/plain");
        check(HeadFault::ContentTypes, "/", &[HERE, form, form]);
        for (named, field) in [
            ("close, Content-Length", "content-length"),
            ("Alipay-Merchant", "alipay-merchant"),
        ] {
            let expected = HeadFault::ConnectionNames(field);
            check(expected, "/", &[HERE, ("connection", named)]);
        }
    }
}
