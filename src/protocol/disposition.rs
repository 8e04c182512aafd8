//! The `Content-Disposition` of a part of an upload, read in the charset of the call.
//!
//! Protocol: 公共请求参数, file upload. The SDKs write names and file names as bytes of the request's
//! charset (`WebUtils` of the Java SDK), with or without spaces; a second byte of GBK may be `\`,
//! so the bytes are decoded before anything is looked for in them. What .NET writes of a name beyond ASCII
//! (`=?utf-8?B?…?=`) stays as it is: no form knows it, and Alipay gets from .NET's own SDK the same.

use thiserror::Error;

use super::{charset::Charset, error::ProtocolError};

/// Holds what a part says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disposition {
    /// The parameter's name.
    pub name: String,
    /// The file's name; only a file has one, be it empty.
    pub file_name: Option<String>,
}

impl Disposition {
    /// Reads the header's value.
    ///
    /// # Errors
    ///
    /// Each [`DispositionError`]. What can't be read is never passed over: a file whose name is
    /// unreadable would pass for a text, and be signed. A `filename*` beside a `filename` says nothing
    /// (RFC 7578, 4.2: forms have none; .NET writes both).
    pub fn parse(header: &[u8], charset: Charset) -> Result<Self, DispositionError> {
        let text = charset.decode(header)?;
        let (kind, mut rest) = text.split_once(';').unwrap_or((&text, ""));
        if !kind.trim().eq_ignore_ascii_case("form-data") {
            return Err(DispositionError::Kind);
        }
        let (mut name, mut file_name, mut is_extended) = (None, None, false);
        while !rest.trim().is_empty() {
            let (key, value, behind) = parameter(rest)?;
            rest = behind;
            let place = match key.to_ascii_lowercase().as_str() {
                "name" => &mut name,
                "filename" => &mut file_name,
                "name*" => return Err(DispositionError::Extended),
                "filename*" => {
                    is_extended = true;
                    continue;
                }
                _ => continue,
            };
            if place.replace(value).is_some() {
                return Err(DispositionError::Duplicate);
            }
        }
        if is_extended && file_name.is_none() {
            return Err(DispositionError::Extended);
        }
        let name = name.filter(|name| !name.is_empty());
        Ok(Self {
            name: name.ok_or(DispositionError::NameMissing)?,
            file_name,
        })
    }
}

/// Says why a part's head can't be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum DispositionError {
    /// Bytes that aren't of the charset of the call.
    #[error("the name or file name of a part can't be read: {0}")]
    Charset(#[from] ProtocolError),
    /// One of its parameters stands twice.
    #[error("a part has two names, or two file names")]
    Duplicate,
    /// A name in the form of RFC 5987 alone.
    #[error(
        "a part has a `name*`, or a `filename*` and no `filename`, which forms don't know (RFC 7578); \
         write `name` and `filename` in the charset of the call"
    )]
    Extended,
    /// Something else than a part of a form.
    #[error("a part has no `Content-Disposition: form-data`")]
    Kind,
    /// Quotes that aren't closed, or text where a parameter should stand.
    #[error("the `Content-Disposition` of a part isn't `form-data; name=\"…\"; filename=\"…\"`")]
    Malformed,
    /// No name, or an empty one.
    #[error("a part has no name")]
    NameMissing,
}

impl DispositionError {
    /// Names the kind of fault in a fixed word for replies, logs and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        "part-invalid"
    }
}

/// Cuts `key=value` off, and gives what stands behind the `;` that ends it.
fn parameter(text: &str) -> Result<(&str, String, &str), DispositionError> {
    let (key, rest) = text.split_once('=').ok_or(DispositionError::Malformed)?;
    let rest = rest.trim_start();
    let (value, behind) = match rest.strip_prefix('"') {
        Some(inside) => quoted(inside)?,
        None => {
            let end = rest.find(';').unwrap_or(rest.len());
            let (value, behind) = rest.split_at(end);
            (value.trim().to_owned(), behind)
        }
    };
    let behind = behind.trim_start();
    match behind.strip_prefix(';') {
        Some(behind) => Ok((key.trim(), value, behind)),
        None if behind.is_empty() => Ok((key.trim(), value, "")),
        None => Err(DispositionError::Malformed),
    }
}

/// Reads up to the closing quote. `\"` is a quote; any other backslash is one (browsers and file
/// names of Windows).
fn quoted(text: &str) -> Result<(String, &str), DispositionError> {
    let mut value = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, c)) = characters.next() {
        let escaped = c == '\\' && characters.next_if(|(_, next)| *next == '"').is_some();
        match c {
            '"' => return Ok((value, text.get(at + 1..).unwrap_or_default())),
            _ if escaped => value.push('"'),
            other => value.push(other),
        }
    }
    Err(DispositionError::Malformed)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(header: &str, name: &str, file_name: Option<&str>) {
        for charset in [Charset::Utf8, Charset::Gbk] {
            let bytes = charset.encode(header).unwrap();
            let read = Disposition::parse(&bytes, charset).unwrap();
            let file_name = file_name.map(str::to_owned);
            assert_eq!((read.name.as_str(), read.file_name), (name, file_name));
        }
    }

    #[test]
    fn every_sdk_spells_it_otherwise() {
        check("form-data; name=\"image_type\"", "image_type", None);
        check(
            "form-data;name=\"a\";filename=\"a.png\"",
            "a",
            Some("a.png"),
        );
        check("Form-Data ; filename=a.png ; NAME=a ", "a", Some("a.png"));
        check("form-data; name=\"a\"; filename=\"\"", "a", Some(""));
        check("form-data; name=\"a\"; x=\"name=b\";", "a", None);
        check(
            "form-data; name=a; filename=a.png; filename*=utf-8''b.png",
            "a",
            Some("a.png"),
        );
        check(
            "form-data; FileName*=; filename*=\"x\"; name=a; filename=\"=?utf-8?B?5Zu+?=\"",
            "a",
            Some("=?utf-8?B?5Zu+?="),
        );
        check(
            "form-data; name=\";\"; filename=\"a; name=b\"",
            ";",
            Some("a; name=b"),
        );
    }

    #[test]
    fn quotes_may_be_escaped_and_backslashes_stand_for_themselves() {
        check(r#"form-data; name="a\"b""#, "a\"b", None);
        check(
            r#"form-data; name="a"; filename="C:\x\乗.png""#,
            "a",
            Some(r"C:\x\乗.png"),
        );
        // The second byte of 乗 is a backslash; no quote is escaped by half a character.
        check("form-data; filename=\"乗\"; name=\"a\"", "a", Some("乗"));
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        use DispositionError as E;
        for (header, expected) in [
            ("", E::Kind),
            ("attachment; name=\"a\"", E::Kind),
            ("form-data", E::NameMissing),
            ("form-data; name=\"\"", E::NameMissing),
            ("form-data; filename=\"a\"", E::NameMissing),
            ("form-data; name=\"a", E::Malformed),
            ("form-data; name=\"a\\\"", E::Malformed),
            ("form-data; name=\"a\" b", E::Malformed),
            ("form-data; name", E::Malformed),
            ("form-data; name=\"a\"; Name=\"b\"", E::Duplicate),
            ("form-data; name=a; filename=b; filename=c", E::Duplicate),
            ("form-data; name=a; filename*=utf-8''b", E::Extended),
            ("form-data; name=a; filename=b; name*=utf-8''c", E::Extended),
        ] {
            let error = Disposition::parse(header.as_bytes(), Charset::Utf8).unwrap_err();
            assert_eq!(error, expected, "{header}");
        }
        for charset in [Charset::Utf8, Charset::Gbk] {
            let header = b"form-data; name=\"a\"; filename=\"\xff\"";
            let error = Disposition::parse(header, charset).unwrap_err();
            assert!(matches!(error, E::Charset(_)), "{error}");
        }
    }

    proptest! {
        #[test]
        fn reading_never_panics(header in ".{0,60}", bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            for charset in [Charset::Utf8, Charset::Gbk] {
                let _ = Disposition::parse(&bytes, charset);
                let _ = Disposition::parse(format!("form-data;{header}").as_bytes(), charset);
            }
        }
    }
}
