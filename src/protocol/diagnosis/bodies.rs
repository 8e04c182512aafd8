//! What may have happened to a signed text as a whole: a node of a reply, a body of v3.

use std::rc::Rc;

use super::{
    cause::{Cause, Newline, TextCause, V3Cause},
    fields::Fields,
    json_text, repairs,
    search::LARGEST,
    work::{GBK, Work},
};
use crate::protocol::charset::Charset;

/// A text before a change, and the change.
pub(super) type Repaired = (Vec<Cause>, Vec<u8>);

/// Lists what a text may have been: one change taken back, then two. Nothing for a large one.
pub(super) fn variants(
    body: &[u8],
    charset: Charset,
    work: &Work,
) -> impl Iterator<Item = Repaired> + use<> {
    let body = Some(body).filter(|body| body.len() <= LARGEST);
    let body: Option<Rc<[u8]>> = body.map(Rc::from);
    let (again, account) = (body.clone(), work.clone());
    let once = body.into_iter();
    let once = once.flat_map(move |body| single(&body, charset, &account));
    let (first, account) = (again.into_iter(), work.clone());
    let first = first.flat_map(move |body| single(&body, charset, &account));
    let work = work.clone();
    let twice = first.flat_map(move |(causes, body)| {
        let second = single(&body, charset, &work);
        second.map(move |(more, body)| ([causes.clone(), more].concat(), body))
    });
    once.chain(twice)
}

fn single(body: &[u8], charset: Charset, work: &Work) -> impl Iterator<Item = Repaired> + use<> {
    work.charge(ENDS * body.len());
    let mut found = ends(body);
    found.extend(conversions(body, charset));
    let text = charset.decode(body).ok();
    let work = work.clone();
    let written = text.into_iter().flat_map(move |text| {
        let account = work.clone();
        let json = json_text::rewritings(&text, None, &work);
        let whole = std::iter::once_with(move || of_whole(&text, &account));
        let (both, work) = (json.chain(whole.flatten()), work.clone());
        both.filter_map(move |(causes, text)| {
            if charset == Charset::Gbk {
                work.charge(GBK * text.len());
            }
            Some((causes, charset.encode(&text).ok()?))
        })
    });
    found.into_iter().chain(written)
}

/// Takes back what happens to whole values.
fn of_whole(text: &str, work: &Work) -> Vec<(Vec<Cause>, String)> {
    let field = Fields::default().metered(work).with("", text);
    let repaired = repairs::of_all(&field);
    let text = |(causes, fields): repairs::Repaired| Some((causes, fields.get("")?.to_owned()));
    repaired.filter_map(text).collect()
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

/// What the ends and the charsets of a byte cost.
const ENDS: usize = 16;
