//! `/`: a page for eyes, made of what `/api` tells. It holds nothing itself, and asks for the token.
//!
//! All of it is in the program: it works without internet, and what it may load is itself alone.

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, Response};
use http_body_util::Full;

/// Nothing from elsewhere, nothing inline, in nobody's frame: what strangers wrote is shown here.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
     connect-src 'self'; img-src data:; form-action 'none'; \
     base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

/// The file at `path`, if it is one of the page's.
pub(super) fn file(path: &str) -> Option<Response<Full<Bytes>>> {
    let (kind, text) = match path {
        "/" => ("text/html; charset=utf-8", include_str!("index.html")),
        "/console.css" => ("text/css; charset=utf-8", include_str!("console.css")),
        "/console.js" => ("text/javascript; charset=utf-8", include_str!("console.js")),
        "/plots.js" => ("text/javascript; charset=utf-8", include_str!("plots.js")),
        "/words.js" => ("text/javascript; charset=utf-8", include_str!("words.js")),
        _ => return None,
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    let headers: [(HeaderName, &'static str); 6] = [
        (CONTENT_TYPE, kind),
        // Small, and always that of the program that runs.
        (CACHE_CONTROL, "no-store"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (REFERRER_POLICY, "no-referrer"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
    ];
    for (name, value) in headers {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    Some(response)
}
