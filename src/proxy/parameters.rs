//! Which parameters a backend may send, and how often.

use std::collections::HashSet;

use crate::gateway::upload::FilePart;
use crate::protocol::charset::{self, Charset, CharsetLabel};
use crate::protocol::params::{self, Params, name};
use crate::proxy::error::{ErrorCode, ProxyError};

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
    if is_said(parameter) {
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

/// Whether it says what is called, or with which contents.
fn is_said(parameter: &str) -> bool {
    let said = [name::METHOD, name::BIZ_CONTENT];
    said.iter().any(|name| parameter.eq_ignore_ascii_case(name))
}

/// The same parameters with those that the sidecar reads or sets spelled as Alipay spells them: a
/// tag, a `charset` or a `notify_url` in another case means the same, and must not be overlooked.
/// No two of `given` may differ in case alone.
pub(crate) fn canonical(given: Params) -> Result<Params, ProxyError> {
    let mut all = Params::new();
    for (name, value) in given {
        let known = params::is_owned(&name) || name.eq_ignore_ascii_case(name::NOTIFY_URL);
        if known && name.eq_ignore_ascii_case(name::CHARSET) && *name != *name::CHARSET {
            return Err(ProxyError::refused(
                ErrorCode::ParameterInvalid,
                "`charset` is spelled in lower case: everything else is read by it",
            ));
        }
        if known {
            all.push(name.to_ascii_lowercase(), value)?;
        } else {
            all.push(name, value)?;
        }
    }
    Ok(all)
}

/// Joins query and body: a parameter in both is an error, unless it is one that the sidecar
/// replaces anyway and both say the same (official SDKs send that).
pub(super) fn union(mut query: Params, body: Params) -> Result<Params, ProxyError> {
    for (name, value) in body {
        match query.get(&name) {
            Some(same) if same == value && params::is_owned(&name) => {}
            _ => query.push(name, value)?,
        }
    }
    check_spellings(&query)?;
    Ok(query)
}

/// A parameter that stands twice in different case is one given twice: nobody knows which of the
/// two Alipay would take.
pub(crate) fn check_spellings(parameters: &Params) -> Result<(), ProxyError> {
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

pub(super) fn check_name(name: &str) -> Result<(), ProxyError> {
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
pub(super) fn charset(query: &[u8], body: &[u8]) -> Result<CharsetLabel, ProxyError> {
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

/// The parts of an upload were read by the `charset` of its query; one among them that names another
/// came too late.
pub(super) fn check_upload_charset(parts: &Params, read_in: Charset) -> Result<(), ProxyError> {
    let named = parts.get(name::CHARSET).filter(|label| !label.is_empty());
    match named.map(Charset::from_label).transpose()? {
        Some(other) if other != read_in => Err(ProxyError::refused(
            ErrorCode::ParameterInvalid,
            "a part of the upload names another `charset` than its query; it must stand in the \
             query, as Alipay reads everything else by it",
        )),
        _ => Ok(()),
    }
}

/// A file is a parameter, too: its name has the same form, and may stand once.
pub(super) fn check_files(parameters: &Params, files: &[FilePart]) -> Result<(), ProxyError> {
    let mut behind = files;
    while let Some((file, others)) = behind.split_first() {
        behind = others;
        check_name(&file.name)?;
        let is_it = |other: &FilePart| other.name.eq_ignore_ascii_case(&file.name);
        if others.iter().any(is_it) {
            return Err(ProxyError::refused(
                ErrorCode::ParameterDuplicate,
                format!("two files have the name `{}`", file.name),
            ));
        }
        let twice = |(name, _): (&str, &str)| name.eq_ignore_ascii_case(&file.name);
        if is_said(&file.name) {
            return Err(ProxyError::refused(
                ErrorCode::ParameterDuplicate,
                format!("`{}` says what is called; it can't be a file", file.name),
            ));
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::room::Room;
    use crate::net::spool::Spool;

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

    fn of(pairs: &[(&str, &str)]) -> Params {
        let mut all = Params::new();
        for (name, value) in pairs {
            all.push(*name, *value).expect("named once");
        }
        all
    }

    fn pairs(given: &Params) -> Vec<(String, String)> {
        let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        given.iter().map(owned).collect()
    }

    fn refusal<T>(result: Result<T, ProxyError>) -> &'static str {
        result.err().map_or("passes", |error| error.code.as_str())
    }

    #[test]
    fn a_further_parameter_is_neither_ours_nor_said_already() {
        for (name, expected) in [
            ("notify_url", "passes"),
            ("method", "parameter-duplicate"),
            ("Biz_Content", "parameter-duplicate"),
            ("sign", "parameter-reserved"),
            ("App_Auth_Token", "parameter-reserved"),
            ("a b", "parameter-invalid"),
            ("", "parameter-invalid"),
        ] {
            assert_eq!(refusal(check_parameter(name)), expected, "{name}");
        }
    }

    #[test]
    fn what_the_sidecar_reads_is_spelled_as_alipay_spells_it() {
        let given = of(&[
            ("SIGN", "s"),
            ("Notify_Url", "n"),
            ("Mine", "m"),
            ("charset", "c"),
        ]);
        let expected = of(&[
            ("sign", "s"),
            ("notify_url", "n"),
            ("Mine", "m"),
            ("charset", "c"),
        ]);
        let found = canonical(given).expect("each once");
        assert_eq!(pairs(&found), pairs(&expected));
        let charset = canonical(of(&[("Charset", "c")]));
        assert_eq!(refusal(charset), "parameter-invalid");
    }

    #[test]
    fn what_stands_in_query_and_body_is_ours_and_says_the_same() {
        for (query, body, expected) in [
            (("a", "1"), ("b", "1"), "passes"),
            (("sign", "1"), ("sign", "1"), "passes"),
            (("sign", "1"), ("sign", "2"), "parameter-duplicate"),
            (("a", "1"), ("a", "1"), "parameter-duplicate"),
            (("a", "1"), ("A", "1"), "parameter-duplicate"),
        ] {
            let found = union(of(&[query]), of(&[body]));
            assert_eq!(refusal(found), expected, "{query:?} {body:?}");
        }
        let both = union(
            of(&[("a", "1"), ("sign", "s")]),
            of(&[("sign", "s"), ("b", "2")]),
        );
        let expected = of(&[("a", "1"), ("sign", "s"), ("b", "2")]);
        assert_eq!(pairs(&both.expect("both")), pairs(&expected));
    }

    #[test]
    fn the_charset_of_a_request_is_its_querys_first() {
        let label = |query: &str, body: &str| {
            let found = charset(query.as_bytes(), body.as_bytes()).expect("a charset");
            found.as_str().to_owned()
        };
        let ours = CharsetLabel::default();
        assert_eq!(label("", ""), ours.as_str());
        assert_eq!(label("charset=utf8", "charset=GBK"), ours.as_str());
        assert_eq!(label("a=1", "charset=gbk"), "gbk");
        assert_eq!(label("charset=GBK", "charset=utf-8"), "GBK");
        assert_ne!(refusal(charset(b"charset=latin1", b"")), "passes");
    }

    #[test]
    fn a_part_of_an_upload_may_repeat_the_charset_it_was_read_in() {
        for (parts, expected) in [
            (of(&[]), "passes"),
            (of(&[("charset", "")]), "passes"),
            (of(&[("charset", "GBK")]), "passes"),
            (of(&[("charset", "utf-8")]), "parameter-invalid"),
        ] {
            assert_eq!(
                refusal(check_upload_charset(&parts, Charset::Gbk)),
                expected
            );
        }
    }

    #[tokio::test]
    async fn a_file_is_named_like_a_parameter_and_once() {
        let content = Spool::new(0, Room::new(0)).finish().await.expect("empty");
        for (name, expected) in [
            ("image", "passes"),
            ("Title", "parameter-duplicate"),
            ("Sign", "parameter-reserved"),
            ("a b", "parameter-invalid"),
        ] {
            let file = FilePart {
                name: name.to_owned(),
                file_name: String::new(),
                content_type: String::new(),
                content: content.clone(),
            };
            let found = check_files(&of(&[("title", "t")]), &[file]);
            assert_eq!(refusal(found), expected, "{name}");
        }
    }
}
