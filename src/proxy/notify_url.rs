//! The `notify_url` of a call: relative ones are completed, foreign ones reported or refused.
//!
//! Whoever can choose the `notify_url` learns of every payment made with it, so it is looked at
//! although Alipay would take any.

use http::Uri;

use crate::config::proxy::NotifyUrlMode;
use crate::config::url::is_whole;
use crate::proxy::error::{ErrorCode, ProxyError};

/// What a `notify_url` may be.
#[derive(Debug, Clone)]
pub struct NotifyUrlRule {
    /// The public address of the notify route (`https://isv.example.com/alipay/notify`), if known.
    notify_base: Option<String>,
    /// Prefixes that are ours: `public_url` and `notify_url_allow`.
    own: Vec<String>,
    mode: NotifyUrlMode,
}

/// A `notify_url` that may be sent.
#[derive(Debug, PartialEq, Eq)]
pub enum NotifyUrl {
    /// Not ours; passes, but is reported.
    Foreign(String),
    /// Ours or allowed.
    Own(String),
}

impl NotifyUrlRule {
    /// The rule for these settings.
    #[must_use]
    pub fn new(
        public_url: Option<&str>,
        base_path: &str,
        allow: &[String],
        mode: NotifyUrlMode,
    ) -> Self {
        Self {
            notify_base: public_url.map(|url| format!("{url}{base_path}/notify")),
            own: public_url
                .into_iter()
                .map(ToOwned::to_owned)
                .chain(allow.iter().cloned())
                .collect(),
            mode,
        }
    }

    /// Decides about `url`.
    ///
    /// # Errors
    /// `notify-url-forbidden`.
    pub fn judge(&self, url: &str) -> Result<NotifyUrl, ProxyError> {
        if !is_clean(url) {
            return Err(forbidden(
                "it is malformed; give an http or https URL, or a path of ours",
            ));
        }
        if url.starts_with('/') {
            return match &self.notify_base {
                Some(base) => Ok(NotifyUrl::Own(format!("{base}{url}"))),
                None => Err(forbidden(
                    "it is relative, and `webhook.public_url` isn't set",
                )),
            };
        }
        let Some(target) = Absolute::parse(url) else {
            return Err(forbidden(
                "it is neither an http or https URL nor a path of ours",
            ));
        };
        let own = self
            .own
            .iter()
            .filter_map(|p| Absolute::parse(p))
            .any(|p| target.is_below(&p));
        if own || self.notify_base.is_none() {
            return Ok(NotifyUrl::Own(url.to_owned()));
        }
        match self.mode {
            NotifyUrlMode::Enforce => Err(forbidden(
                "it is neither below `webhook.public_url` nor in `proxy.notify_url_allow`",
            )),
            NotifyUrlMode::Report => Ok(NotifyUrl::Foreign(url.to_owned())),
        }
    }
}

fn forbidden(reason: &str) -> ProxyError {
    ProxyError::refused(
        ErrorCode::NotifyUrlForbidden,
        format!("the notify_url is refused: {reason}"),
    )
}

/// Nothing that two URL parsers could read differently: no control or white space, no
/// backslash, no network-path reference, no dot segment in any spelling, no user information.
fn is_clean(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let lower = path.to_ascii_lowercase();
    // As servers read it: some take an encoded slash for one, others what follows `;` for a parameter.
    let escapes = [("%2e", "."), ("%2f", "/"), ("%3b", ";")];
    let read = |path: String, (escape, plain)| path.replace(escape, plain);
    let decoded = escapes.into_iter().fold(lower, read);
    let has_dots = decoded.split(['/', ';']).any(|s| matches!(s, "." | ".."));
    let has_user = url.contains("://") && authority(path).contains('@');
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace() && c != '\\';
    let is_doubtful = has_dots || has_user || decoded.contains("%5c") || url.starts_with("//");
    !url.is_empty() && url.chars().all(is_plain) && !is_doubtful
}

fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default()
}

/// An absolute http or https URL, ready to be compared.
struct Absolute {
    scheme: String,
    host: String,
    port: u16,
    path: String,
}

impl Absolute {
    fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.split('#').next()?.parse().ok()?;
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let default_port = match scheme.as_str() {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let host = uri
            .host()
            .filter(|host| !host.is_empty())?
            .to_ascii_lowercase();
        let authority = uri.authority()?;
        // An empty port is the standard one (RFC 3986 §3.2.3).
        let is_bare = authority.as_str().strip_suffix(':') == Some(authority.host());
        if !is_bare && !is_whole(authority) {
            return None;
        }
        let port = authority.port_u16().unwrap_or(default_port);
        Some(Self {
            scheme,
            host,
            port,
            path: uri.path().to_owned(),
        })
    }

    /// Whether `prefix` is the same origin and its path ends at a segment of ours.
    fn is_below(&self, prefix: &Self) -> bool {
        let base = prefix.path.trim_end_matches('/');
        self.scheme == prefix.scheme
            && self.host == prefix.host
            && self.port == prefix.port
            && self
                .path
                .strip_prefix(base)
                .is_some_and(|r| r.is_empty() || r.starts_with('/'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mode: NotifyUrlMode, public_url: Option<&str>, url: &str, expected: &str) {
        let allow = ["https://old.example.com/pay/".to_owned()];
        let rule = NotifyUrlRule::new(public_url, "/alipay", &allow, mode);
        let found = match rule.judge(url) {
            Ok(NotifyUrl::Own(url)) => url,
            Ok(NotifyUrl::Foreign(_)) => "foreign".to_owned(),
            Err(_) => "forbidden".to_owned(),
        };
        assert_eq!(found, expected, "{url}");
    }

    const PUBLIC: Option<&str> = Some("https://isv.example.com");

    #[test]
    fn a_relative_one_becomes_the_public_address_of_the_notify_route() {
        let full = "https://isv.example.com/alipay/notify/orders/42";
        check(NotifyUrlMode::Enforce, PUBLIC, "/orders/42", full);
        check(NotifyUrlMode::Report, None, "/orders/42", "forbidden");
    }

    #[test]
    fn a_foreign_one_is_reported_or_forbidden() {
        for url in [
            "https://evil.example/x",
            "https://isv.example.com.evil.example/x",
            "https://isv.example.com:8443/x",
            "http://isv.example.com/x",
            "https://old.example.com/payments",
        ] {
            check(NotifyUrlMode::Report, PUBLIC, url, "foreign");
            check(NotifyUrlMode::Enforce, PUBLIC, url, "forbidden");
            check(NotifyUrlMode::Enforce, None, url, url);
        }
    }

    #[test]
    fn ours_and_allowed_ones_pass() {
        for url in [
            "https://isv.example.com/alipay/notify/1?a=b",
            "https://ISV.example.com:443/x",
            "https://isv.example.com:/hook",
            "https://old.example.com/pay/notify.php",
        ] {
            check(NotifyUrlMode::Enforce, PUBLIC, url, url);
        }
    }

    #[test]
    fn malformed_ones_are_forbidden_in_every_mode() {
        for url in [
            "//evil.example/x",
            "/../x",
            "/a/../b",
            "/a/%2e%2E/b",
            "/a/..",
            "/..%2fx",
            "/a/..%2Fb",
            "/a%2f%2e%2e%2fb",
            "/a/..;/b",
            "/a/%2e%2e%3Bx/b",
            "https://old.example.com/pay/..%2fother/hook",
            "/a\r\nb",
            "/a b",
            "ftp://isv.example.com/x",
            "javascript:alert(1)",
            "https://",
            "https://user@isv.example.com/x",
            "https://isv.example.com:8443x/hook",
            "https://isv.example.com:99999/hook",
            "https://isv.example.com::/hook",
            "https://isv.example.com:abc/hook",
            "https://isv.example.com:+443/hook",
            "https://isv.example.com:443:8443/hook",
            "https://isv.example.com/a/../b",
            "https:\\\\evil.example",
            "orders/42",
        ] {
            check(NotifyUrlMode::Report, PUBLIC, url, "forbidden");
            check(NotifyUrlMode::Report, None, url, "forbidden");
        }
    }
}
