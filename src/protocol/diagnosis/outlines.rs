//! The ways in which the text of a form as a whole may have been harmed.

use super::{
    cause::{Cause, ParamsCause, TextCause},
    fields::Fields,
    html,
    search::LARGEST,
    work::Work,
};
use crate::protocol::{charset::Charset, form, params::name};

/// A form as it may have been, the charset it was signed in, and what then happened to it.
pub(super) struct Outline {
    pub(super) causes: Vec<Cause>,
    pub(super) fields: Fields,
    pub(super) charset: Charset,
}

impl Outline {
    /// Tells whether its charset has all of its characters. One that isn't writable was never
    /// signed, whatever one change is taken back.
    pub(super) fn is_writable(&self) -> bool {
        let writable = |text: &str| self.charset.encode(text).is_ok();
        let is_utf_8 = self.charset == Charset::Utf8;
        is_utf_8
            || self
                .fields
                .iter()
                .all(|(name, value)| writable(name) && writable(value))
    }
}

/// Lists the readings of a form's text, that of the strict reader first (of a large text this one
/// alone). `if_verbatim` is what it
/// means if the text was signed without decoding.
pub(super) fn all(
    raw: &[u8],
    declared: Charset,
    if_verbatim: ParamsCause,
    work: &Work,
) -> Vec<Outline> {
    let (trimming, raw) = trimmed(raw);
    let other = match declared {
        Charset::Gbk => Charset::Utf8,
        _ => Charset::Gbk,
    };
    let outline = |cause: Option<Cause>, fields: Fields, charset: Charset| Outline {
        causes: trimming.iter().cloned().chain(cause).collect(),
        fields: fields.metered(work),
        charset,
    };
    let read = Fields::read(raw, declared);
    if raw.len() > LARGEST {
        return vec![outline(None, read, declared)];
    }
    let converted = |signed: Charset, arrived: Charset| {
        let (signed, arrived) = (signed.label(), arrived.label());
        Some(TextCause::CharsetConverted { signed, arrived }.into())
    };
    let mut outlines = vec![
        outline(None, read.clone(), declared),
        outline(
            Some(Cause::misread(other, declared)),
            Fields::read(raw, other),
            other,
        ),
        outline(converted(other, declared), read.clone(), other),
        outline(
            converted(declared, other),
            Fields::read(raw, other),
            declared,
        ),
    ];
    if let Some(name) = read.duplicate() {
        let name = super::cause::named(name);
        let cause = || Some(ParamsCause::Duplicate { name: name.clone() }.into());
        outlines.push(outline(cause(), read.first_of_duplicates(), declared));
        outlines.push(outline(cause(), read.last_of_duplicates(), declared));
    }
    let rewritten = rewritten(raw).into_iter();
    outlines.extend(
        rewritten.map(|(cause, raw)| outline(Some(cause), Fields::read(&raw, declared), declared)),
    );
    if let Some((fields, charset)) = of_json(raw) {
        let reason = "a JSON object, where the form that Alipay posts is expected; keep the bytes \
                      that arrived"
            .to_owned();
        let cause = TextCause::NotTheMessage { reason };
        outlines.push(outline(Some(cause.into()), fields, charset));
    }
    outlines.push(outline(
        Some(if_verbatim.into()),
        Fields::read_verbatim(raw, declared),
        declared,
    ));
    outlines
}

/// Takes a byte order mark and white space from the ends.
pub(super) fn trimmed(raw: &[u8]) -> (Vec<Cause>, &[u8]) {
    let mut causes: Vec<Cause> = Vec::new();
    let without_mark = raw.strip_prefix(b"\xef\xbb\xbf");
    if without_mark.is_some() {
        causes.push(TextCause::ByteOrderMark.into());
    }
    let text = without_mark.unwrap_or(raw);
    let trimmed = text.trim_ascii();
    if trimmed.len() != text.len() {
        causes.push(TextCause::OuterWhiteSpace.into());
    }
    (causes, trimmed)
}

/// Reads the members of an object as parameters: so frameworks dump a form into a log.
fn of_json(raw: &[u8]) -> Option<(Fields, Charset)> {
    use serde_json::{Map, Value};
    let members: Map<String, Value> = serde_json::from_slice(raw).ok()?;
    let pairs = members.into_iter().map(|(name, value)| match value {
        Value::String(text) => (name, text),
        other => (name, other.to_string()),
    });
    let fields: Fields = pairs.collect();
    let label = fields.get(name::CHARSET).unwrap_or_default();
    let charset = Charset::from_label(label).unwrap_or_default();
    Some((fields, charset))
}

/// Undoes what tools do to a whole form.
fn rewritten(raw: &[u8]) -> Vec<(Cause, Vec<u8>)> {
    let mut found: Vec<(Cause, Vec<u8>)> = Vec::new();
    let has = |wanted: &[u8]| raw.windows(wanted.len()).any(|window| window == wanted);
    if has(b"&amp;") {
        let text = String::from_utf8_lossy(raw);
        let cause = ParamsCause::HtmlEscaped { place: None };
        found.push((cause.into(), html::unescape(&text).into_bytes()));
    }
    if has(b"\n") {
        let lines: Vec<_> = raw
            .split(|&byte| byte == b'\n')
            .map(<[u8]>::trim_ascii)
            .collect();
        for joint in [&b""[..], b"&"] {
            found.push((TextCause::LinesWrapped.into(), lines.join(joint)));
        }
    }
    let is_encoded = has(b"%3D") || has(b"%3d");
    if let Some(decoded) = is_encoded.then(|| form::unescape(raw, 0).ok()).flatten() {
        let cause = ParamsCause::EncodedTwice { place: None };
        found.push((cause.into(), decoded));
    }
    found
}
