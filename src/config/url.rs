//! URLs: what each kind may hold. User information is refused everywhere: it is a secret.

use http::Uri;
use http::uri::Authority;

use crate::config::error::Mismatch;

/// A URL split into what the checks look at.
struct Url {
    scheme: String,
    host: String,
    path: String,
    query: bool,
}

/// Where signed calls and authorisation pages go: https, or http for loopback alone.
pub(crate) fn upstream(text: &str) -> Result<String, Mismatch> {
    const EXPECTED: &str = "an https:// URL without a query (http:// for loopback alone)";
    let url = parse(text, EXPECTED)?;
    if url.query {
        return Err(Mismatch::of_text(text, EXPECTED));
    }
    if url.scheme == "http" && !is_loopback(&url.host) {
        return Err(Mismatch::of_text(text, EXPECTED)
            .hint("signed calls never travel in clear text; write https://"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// An [`upstream`] without a path.
pub(crate) fn upstream_origin(text: &str) -> Result<String, Mismatch> {
    let expected = "an origin without a path, such as \"https://openapi.alipay.com\"";
    let url = parse(text, expected)?;
    if url.path != "/" {
        return Err(Mismatch::of_text(text, expected));
    }
    upstream(text)
}

/// An http proxy on the way out.
pub(crate) fn egress(text: &str) -> Result<String, Mismatch> {
    const EXPECTED: &str = "the http:// URL of a proxy, such as \"http://egress:3128\"";
    let url = parse(text, EXPECTED)?;
    if url.scheme != "http" || url.path != "/" || url.query {
        return Err(Mismatch::of_text(text, EXPECTED));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// An address of ours as the world sees it, without a trailing slash.
pub(crate) fn public(text: &str) -> Result<String, Mismatch> {
    const EXPECTED: &str =
        "an http:// or https:// URL without a query, such as \"https://isv.example.com\"";
    let url = parse(text, EXPECTED)?;
    if url.query {
        return Err(Mismatch::of_text(text, EXPECTED));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// Where a collector of traces takes them.
pub(crate) fn collector(text: &str) -> Result<String, Mismatch> {
    const EXPECTED: &str =
        "an http:// or https:// URL without a query, such as \"http://127.0.0.1:4318\"";
    let url = parse(text, EXPECTED)?;
    if url.query {
        return Err(Mismatch::of_text(text, EXPECTED));
    }
    Ok(text.to_owned())
}

/// A page that a browser is sent to. What stands behind a `#` is for the page: front ends keep their
/// own address there.
pub(crate) fn page(text: &str) -> Result<String, Mismatch> {
    let (address, fragment) = text.split_once('#').unwrap_or((text, ""));
    any(address)?;
    // It travels in a header, so it holds what a URL may.
    let is_plain = |b: u8| b.is_ascii_graphic() && b != b'#';
    match fragment.bytes().all(is_plain) {
        true => Ok(text.to_owned()),
        false => Err(Mismatch::of_text(text, "an http:// or https:// URL")
            .hint("behind the `#` stand printable ASCII characters alone")),
    }
}

/// Any page or endpoint.
pub(crate) fn any(text: &str) -> Result<String, Mismatch> {
    parse(text, "an http:// or https:// URL").map(|_| text.to_owned())
}

/// A prefix of URLs. One without a path gets a `/`, so that `https://a.example` doesn't allow
/// `https://a.example.evil.org`.
pub(crate) fn prefix(text: &str) -> Result<String, Mismatch> {
    const EXPECTED: &str = "the start of an http:// or https:// URL, host and all";
    let url = parse(text, EXPECTED)?;
    if url.query {
        return Err(Mismatch::of_text(text, EXPECTED));
    }
    let bare = url.path == "/" && !text.ends_with('/');
    Ok(if bare {
        format!("{text}/")
    } else {
        text.to_owned()
    })
}

fn parse(text: &str, expected: &str) -> Result<Url, Mismatch> {
    let wrong = || Mismatch::of_text(text, expected);
    if text.contains('@') {
        // What stands before the `@` may be a password, so nothing of it is shown.
        return Err(Mismatch::new("a URL with `@` (not shown)", expected)
            .hint("user information isn't allowed in a URL"));
    }
    if text.contains('#') {
        return Err(wrong().hint("it has a fragment (`#…`)"));
    }
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let scheme = uri.scheme_str().unwrap_or_default();
    let host = uri.host().unwrap_or_default();
    let is_whole = uri.authority().is_some_and(is_whole);
    if !matches!(scheme, "http" | "https") || host.is_empty() || !is_whole {
        return Err(wrong());
    }
    Ok(Url {
        scheme: scheme.to_owned(),
        host: host.to_owned(),
        path: uri.path().to_owned(),
        query: uri.query().is_some(),
    })
}

/// Whether behind the host stands nothing, or `:` and a port. `http` takes any text there: what isn't a number
/// below 65536 it gives back as none, so that the standard port would be meant, and `+80` as 80.
pub(crate) fn is_whole(authority: &Authority) -> bool {
    let text = authority.as_str();
    let address = text.rsplit_once('@').map_or(text, |(_, address)| address);
    let is_port = |port: &str| {
        let is_number = port.bytes().all(|b| b.is_ascii_digit());
        is_number && port.parse::<u16>().is_ok()
    };
    let behind = address.strip_prefix(authority.host());
    behind.is_some_and(|rest| rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port))
}

/// Whether what goes to `url` stays on this host, or is encrypted.
pub(crate) fn is_private(url: &str) -> bool {
    parse(url, "").is_ok_and(|url| url.scheme == "https" || is_loopback(&url.host))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clear_text_is_for_loopback_alone() {
        for good in [
            "https://a.example",
            "http://127.0.0.1:9",
            "http://[::1]:9",
            "http://localhost",
        ] {
            assert_eq!(upstream_origin(good).as_deref(), Ok(good));
        }
        let refused = [
            "http://a.example",
            "http://127.0.0.1.evil.org",
            "http://localhost@evil.org",
            "ftp://127.0.0.1",
            "https://a/?q",
            "https://a/#f",
            "https://a:65536",
            "https://a:",
            "https://a:+443",
            "https://a:443x",
            "//a",
            "a",
            "",
        ];
        for bad in refused {
            assert!(upstream(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn user_information_is_refused_and_not_shown() {
        let fault = any("https://user:hunter2@a.example/").expect_err("refused");
        assert!(!fault.to_string().contains("hunter2"), "{fault}");
    }

    #[test]
    fn a_fragment_is_for_pages_alone() {
        for good in [
            "https://a.example/app?k=v#/done",
            "https://a.example/#",
            "https://a/",
        ] {
            assert_eq!(page(good).as_deref(), Ok(good));
        }
        for bad in [
            "https://a/#a#b",
            "https://a/#a b",
            "https://a/#中",
            "https://a/#\r\nx:1",
        ] {
            assert!(page(bad).is_err(), "{bad}");
        }
        for bad in ["https://u:p@a/#/", "//a#/", "ftp://a/#/", "#/"] {
            assert!(page(bad).is_err(), "{bad}");
        }
        for other in [any, upstream, public, prefix, collector, egress] {
            let fault = other("https://a.example/#/done").expect_err("refused");
            assert!(fault.to_string().contains("fragment"), "{fault}");
        }
    }

    #[test]
    fn a_prefix_ends_its_host() {
        assert_eq!(
            prefix("https://a.example").as_deref(),
            Ok("https://a.example/")
        );
        assert_eq!(
            prefix("https://a.example/x").as_deref(),
            Ok("https://a.example/x")
        );
    }
}
