//! What may have happened to a signed text as a whole: a node of a reply, a body of v3.

use super::{
    cause::{Cause, Newline, TextCause, V3Cause},
    fields::Fields,
    json_text, repairs,
};
use crate::protocol::charset::Charset;

/// A text before a change, and the change.
pub(super) type Repaired = (Vec<Cause>, Vec<u8>);

/// Lists what a text may have been: one change taken back, then two.
pub(super) fn variants(body: &[u8], charset: Charset) -> impl Iterator<Item = Repaired> {
    let once = single(body, charset);
    let again = once.clone();
    let twice = again.into_iter().flat_map(move |(causes, body)| {
        let second = single(&body, charset).into_iter();
        second.map(move |(more, body)| ([causes.clone(), more].concat(), body))
    });
    once.into_iter().chain(twice)
}

fn single(body: &[u8], charset: Charset) -> Vec<Repaired> {
    let mut found = ends(body);
    if body.len() > LONGEST {
        return found;
    }
    found.extend(conversions(body, charset));
    let Ok(text) = charset.decode(body) else {
        return found;
    };
    let encode = |(causes, text): (Vec<Cause>, String)| Some((causes, charset.encode(&text).ok()?));
    found.extend(
        json_text::rewritings(&text, None)
            .into_iter()
            .filter_map(encode),
    );
    let field = Fields::default().with("", &text);
    let repaired = repairs::of_all(&field).into_iter();
    found.extend(repaired.filter_map(|(causes, fields)| {
        let text = fields.get("")?.to_owned();
        encode((causes, text))
    }));
    found
}

/// Undoes what editors and shells do to the ends.
fn ends(body: &[u8]) -> Vec<Repaired> {
    let newline = |what: Newline| vec![V3Cause::TrailingNewline(what).into()];
    let mut found: Vec<Repaired> = Vec::new();
    let stripped = body.strip_suffix(b"\n");
    if let Some(stripped) = stripped {
        let bare = stripped.strip_suffix(b"\r").unwrap_or(stripped);
        found.push((newline(Newline::Added), bare.to_vec()));
        found.push((newline(Newline::Added), stripped.to_vec()));
    }
    if let Some(bare) = body.strip_prefix(b"\xef\xbb\xbf") {
        found.push((vec![TextCause::ByteOrderMark.into()], bare.to_vec()));
    }
    let trimmed = body.trim_ascii();
    if trimmed.len() != body.len() {
        found.push((vec![TextCause::OuterWhiteSpace.into()], trimmed.to_vec()));
    }
    for ending in [&b"\n"[..], b"\r\n"] {
        found.push((newline(Newline::Lost), [body, ending].concat()));
    }
    found
}

/// Undoes a conversion from one charset to the other.
fn conversions(body: &[u8], charset: Charset) -> Vec<Repaired> {
    let other = match charset {
        Charset::Gbk => Charset::Utf8,
        Charset::Utf8 => Charset::Gbk,
    };
    let mut found: Vec<Repaired> = Vec::new();
    let mut add = |signed: Charset, arrived: Charset| {
        let text = arrived.decode(body).ok();
        let converted = text.and_then(|text| signed.encode(&text).ok());
        if let Some(converted) = converted.filter(|converted| converted != body) {
            let (signed, arrived) = (signed.label(), arrived.label());
            let cause = TextCause::CharsetConverted { signed, arrived };
            found.push((vec![cause.into()], converted));
        }
    };
    add(other, charset);
    add(charset, other);
    found
}

/// Of a longer body only the ends are looked at: a dozen copies of it would be held at once.
const LONGEST: usize = 1 << 20;
