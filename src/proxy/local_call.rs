//! What a backend may send: routes, headers, parameters, bodies.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method};

use crate::gateway::upload::FilePart;
use crate::protocol::charset::{self, Charset, CharsetLabel};
use crate::protocol::json;
use crate::protocol::params::{self, Params, name};
use crate::protocol::secret::Secret;
use crate::proxy::error::{ErrorCode, ProxyError};
use crate::proxy::resolve::Tags;
use crate::proxy::upload::Upload;

/// Where a request wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The selector of `/m/{selector}/…`, decoded.
    pub selector: Option<String>,
    /// The rest of the path.
    pub target: Target,
}

/// The routes of the proxy listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
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
    V3,
}

/// What `/v2/{method}…` is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
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
    pub fn of(path: &str) -> Self {
        if let Some(rest) = path.strip_prefix("/m/") {
            let (selector, target) = rest.split_once('/').unwrap_or((rest, ""));
            let decoded = form_decoded(selector).unwrap_or_default();
            return Self {
                selector: Some(decoded),
                target: Target::of(&format!("/{target}")),
            };
        }
        Self {
            selector: None,
            target: Target::of(path),
        }
    }
}

impl Target {
    fn of(path: &str) -> Self {
        if path == "/gateway.do" {
            return Self::Gateway;
        }
        if path.starts_with("/v3/") {
            return Self::V3;
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

/// The body of a request, as it was read.
#[derive(Debug)]
pub(super) enum Sent {
    /// A form, or JSON.
    Plain(Bytes),
    /// Parts.
    Upload(Upload),
}

/// One unsigned request of a backend, checked, still without credentials.
#[derive(Debug, Clone)]
pub struct LocalCall {
    /// Alipay's method name.
    pub method: String,
    /// Every parameter but those the sidecar owns.
    pub parameters: Params,
    /// The files of an upload.
    pub files: Vec<FilePart>,
    /// What they came in, are sent on in, and are answered in.
    pub charset: CharsetLabel,
    /// For whom.
    pub tags: Tags,
    /// `Alipay-Timeout`.
    pub timeout: Option<Duration>,
}

impl LocalCall {
    /// Reads a request of `/gateway.do`, as SDKs speak it: parameters in query and form body.
    ///
    /// # Errors
    /// Contract §3's 400s.
    pub(super) fn from_gateway(
        head: &Parts,
        selector: Option<String>,
        sent: Sent,
    ) -> Result<Self, ProxyError> {
        let query = head.uri.query().unwrap_or_default().as_bytes();
        let (charset, body, files) = match sent {
            Sent::Plain(body) => {
                let charset = charset(query, &body)?;
                let body = Params::from_form(&body, charset.charset())?;
                (charset, body, Vec::new())
            }
            Sent::Upload(upload) => {
                let charset = charset(query, &[])?;
                check_upload_charset(charset.charset())?;
                (charset, upload.parameters, upload.files)
            }
        };
        let mut parameters = union(Params::from_form(query, charset.charset())?, &body)?;
        check_files(&parameters, &files)?;
        parameters
            .iter()
            .try_for_each(|(name, _)| check_name(name))?;
        if parameters
            .get(name::FORMAT)
            .is_some_and(|f| f.eq_ignore_ascii_case("xml"))
        {
            return Err(ProxyError::refused(
                ErrorCode::ParameterInvalid,
                "format=XML isn't supported; leave `format` out, or send JSON",
            ));
        }
        let mut tags = tags(&head.headers, selector)?;
        tags.token = parameters
            .get(name::APP_AUTH_TOKEN)
            .filter(|token| !token.is_empty())
            .map(|token| Secret::new(token.to_owned()));
        tags.own_app_id = parameters.get(name::APP_ID).map(ToOwned::to_owned);
        let encrypt_type = parameters.remove(name::ENCRYPT_TYPE);
        let owned: Vec<String> = parameters
            .iter()
            .filter(|(n, _)| params::is_owned(n))
            .map(|(n, _)| n.into())
            .collect();
        for name in owned {
            parameters.remove(&name);
        }
        if let Some(encrypt_type) = encrypt_type {
            parameters.push(name::ENCRYPT_TYPE, encrypt_type)?;
        }
        let method = method(&parameters.remove(name::METHOD).unwrap_or_default())?;
        Ok(Self {
            method,
            parameters,
            files,
            charset,
            tags,
            timeout: timeout(&head.headers)?,
        })
    }

    /// Reads a request of `/v2/{method}…`: JSON body, further parameters in the query.
    ///
    /// # Errors
    /// Contract §3's 400s.
    pub(super) fn from_v2(
        head: &Parts,
        route: (Option<String>, &str),
        sent: Sent,
    ) -> Result<Self, ProxyError> {
        let (selector, wanted) = route;
        let method = method(wanted)?;
        let query = head.uri.query().unwrap_or_default().as_bytes();
        let mut parameters = Params::from_form(query, Charset::Utf8)?;
        for (name, _) in parameters.iter() {
            check_parameter(name)?;
        }
        let files = match sent {
            Sent::Plain(body) if body.is_empty() => Vec::new(),
            Sent::Plain(body) => {
                parameters.push(name::BIZ_CONTENT, biz_content(&body)?)?;
                Vec::new()
            }
            Sent::Upload(upload) => {
                for (name, value) in upload.parameters.iter() {
                    // An upload's body has no other place for it.
                    if name != name::BIZ_CONTENT {
                        check_parameter(name)?;
                    }
                    parameters.push(name, value)?;
                }
                upload.files
            }
        };
        check_spellings(&parameters)?;
        check_files(&parameters, &files)?;
        Ok(Self {
            method,
            parameters,
            files,
            charset: CharsetLabel::default(),
            tags: tags(&head.headers, selector)?,
            timeout: timeout(&head.headers)?,
        })
    }
}

/// The text of a JSON object, exactly as it came.
///
/// # Errors
/// `body-invalid`.
pub(crate) fn biz_content(body: &[u8]) -> Result<&str, ProxyError> {
    let invalid = |reason: String| {
        ProxyError::refused(
            ErrorCode::BodyInvalid,
            format!("the body must be one JSON object in UTF-8: {reason}"),
        )
    };
    json::is_one_object(body, Charset::Utf8).map_err(|e| invalid(e.to_string()))?;
    std::str::from_utf8(body).map_err(|e| invalid(e.to_string()))
}

/// Checks the form of a method name, which also keeps it fit for a metric label.
///
/// # Errors
/// `method-required`, `method-invalid`.
pub(crate) fn method(text: &str) -> Result<String, ProxyError> {
    if text.is_empty() {
        return Err(ProxyError::refused(
            ErrorCode::MethodRequired,
            "give Alipay's method, like `alipay.trade.query`",
        ));
    }
    let segment = |s: &str| {
        !s.is_empty()
            && s.bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
    };
    let named = text.len() <= 128 && text.contains('.') && text.split('.').all(segment);
    if !named {
        return Err(ProxyError::refused(
            ErrorCode::MethodInvalid,
            "a method is names joined by dots, like `alipay.trade.query`, at most 128 characters",
        ));
    }
    Ok(text.to_owned())
}

/// Checks the name of a further top-level parameter of a `/v2` call.
///
/// # Errors
/// `parameter-invalid`, `parameter-duplicate`, `parameter-reserved`.
pub(crate) fn check_parameter(parameter: &str) -> Result<(), ProxyError> {
    check_name(parameter)?;
    let is = |name: &str| parameter.eq_ignore_ascii_case(name);
    if is(name::METHOD) || is(name::BIZ_CONTENT) {
        return Err(ProxyError::refused(
            ErrorCode::ParameterDuplicate,
            format!(
                "`{parameter}` stands in the query; on this route the path and the body say it"
            ),
        ));
    }
    if params::is_owned(parameter) {
        return Err(ProxyError::refused(
            ErrorCode::ParameterReserved,
            format!(
                "the sidecar sets `{parameter}` itself; leave it out, and tag the merchant by header or path"
            ),
        ));
    }
    Ok(())
}

/// Joins query and body: a parameter in both is an error, unless it is one that the sidecar
/// replaces anyway and both say the same (official SDKs send that).
fn union(mut query: Params, body: &Params) -> Result<Params, ProxyError> {
    for (name, value) in body.iter() {
        match query.get(name) {
            Some(same) if same == value && params::is_owned(name) => {}
            _ => query.push(name, value)?,
        }
    }
    check_spellings(&query)?;
    Ok(query)
}

/// A parameter that stands twice in different case is one given twice: nobody knows which of the
/// two Alipay would take.
fn check_spellings(parameters: &Params) -> Result<(), ProxyError> {
    let mut seen = HashSet::new();
    let twice = parameters
        .iter()
        .find(|(name, _)| !seen.insert(name.to_ascii_lowercase()));
    if twice.is_none() {
        return Ok(());
    }
    Err(ProxyError::refused(
        ErrorCode::ParameterDuplicate,
        "a parameter is given twice, in different spellings",
    ))
}

fn check_name(name: &str) -> Result<(), ProxyError> {
    if params::is_name(name) {
        return Ok(());
    }
    Err(ProxyError::refused(
        ErrorCode::ParameterInvalid,
        "a parameter name is 1 to 64 letters, digits, `_`, `.` or `-`",
    ))
}

/// The charset that the request itself names: first in the query, as Alipay reads it. GBK goes on
/// as it was spelled; UTF-8 is always spelled as ours.
fn charset(query: &[u8], body: &[u8]) -> Result<CharsetLabel, ProxyError> {
    let named = charset::label_of_form(query).or_else(|| charset::label_of_form(body));
    let label = named.map_or_else(
        || Ok(CharsetLabel::default()),
        |label| CharsetLabel::parse(&label),
    )?;
    match label.charset() {
        Charset::Utf8 => Ok(CharsetLabel::default()),
        _ => Ok(label),
    }
}

fn tags(headers: &HeaderMap, selector: Option<String>) -> Result<Tags, ProxyError> {
    let header = single(headers, "alipay-merchant").map_err(|()| {
        ProxyError::refused(
            ErrorCode::MerchantConflict,
            "the header `Alipay-Merchant` stands twice",
        )
    })?;
    let app = single(headers, "alipay-app").map_err(|()| {
        ProxyError::refused(
            ErrorCode::ParameterDuplicate,
            "the header `Alipay-App` stands twice",
        )
    })?;
    Ok(Tags {
        header,
        path: selector,
        app,
        ..Tags::default()
    })
}

fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, ProxyError> {
    let invalid = || {
        ProxyError::refused(
            ErrorCode::ParameterInvalid,
            "`Alipay-Timeout` is a duration like `4s` or `800ms`",
        )
    };
    let Some(text) = single(headers, "alipay-timeout").map_err(|()| invalid())? else {
        return Ok(None);
    };
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .ok_or_else(invalid)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| invalid())?;
    match (number, unit) {
        (0, _) => Err(invalid()),
        (ms, "ms") => Ok(Some(Duration::from_millis(ms))),
        (s, "s") => Ok(Some(Duration::from_secs(s))),
        _ => Err(invalid()),
    }
}

/// A header that may stand once: bytes that aren't visible ASCII give an empty value, which names
/// nobody.
fn single(headers: &HeaderMap, name: &str) -> Result<Option<String>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => Ok(Some(value.to_str().unwrap_or_default().to_owned())),
        (Some(_), Some(_)) => Err(()),
    }
}

/// Parts don't say what they are written in, and SDKs send uploads in UTF-8.
fn check_upload_charset(charset: Charset) -> Result<(), ProxyError> {
    if charset == Charset::Utf8 {
        return Ok(());
    }
    Err(ProxyError::refused(
        ErrorCode::CharsetUnsupported,
        "an upload is sent with `charset=utf-8`; this version takes no other",
    ))
}

/// A file is a parameter, too: its name has the same form, and may stand once.
fn check_files(parameters: &Params, files: &[FilePart]) -> Result<(), ProxyError> {
    for file in files {
        check_name(&file.name)?;
        let twice = |(name, _): (&str, &str)| name.eq_ignore_ascii_case(&file.name);
        if parameters.iter().any(twice) {
            return Err(ProxyError::refused(
                ErrorCode::ParameterDuplicate,
                format!("`{}` is a file and a parameter", file.name),
            ));
        }
        if params::is_owned(&file.name) {
            return Err(ProxyError::refused(
                ErrorCode::ParameterReserved,
                format!(
                    "the sidecar sets `{}` itself; it can't be a file",
                    file.name
                ),
            ));
        }
    }
    Ok(())
}

fn form_decoded(text: &str) -> Option<String> {
    let raw = format!("s={}", text.replace('+', "%2B").replace('&', "%26"));
    let decoded = Params::from_form(raw.as_bytes(), Charset::Utf8).ok()?;
    decoded.get("s").map(ToOwned::to_owned)
}

/// The HTTP methods a route takes, as the `Allow` header lists them.
///
/// # Errors
/// `http-method-not-allowed`.
pub(crate) fn check_http_method(target: &Target, method: &Method) -> Result<(), ProxyError> {
    let allow = match target {
        Target::Gateway if *method == Method::GET || *method == Method::POST => return Ok(()),
        Target::V2 { .. } if *method == Method::POST => return Ok(()),
        Target::Gateway => "GET, POST",
        Target::V2 { .. } => "POST",
        Target::Unknown | Target::V3 => return Ok(()),
    };
    Err(ProxyError {
        allow: Some(allow),
        ..ProxyError::refused(
            ErrorCode::HttpMethodNotAllowed,
            format!("this route takes {allow}"),
        )
    })
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
        check("/m/a/m/b/gateway.do", Some("a"), Target::Unknown);
        check("/m/a", Some("a"), Target::Unknown);
        check("/gateway.do/", None, Target::Unknown);
        check("/v3/alipay/trade/query", None, Target::V3);
        check("/", None, Target::Unknown);
    }

    #[test]
    fn method_names_have_a_form() {
        for good in ["alipay.trade.query", "koubei.x-y.z_1"] {
            assert!(method(good).is_ok(), "{good}");
        }
        for bad in [
            "alipay",
            ".a",
            "a.",
            "a..b",
            "a.b c",
            "a.b/c",
            "支付.a",
            &"a.".repeat(70),
        ] {
            assert!(method(bad).is_err(), "{bad}");
        }
    }
}
