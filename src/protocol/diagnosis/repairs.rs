//! What may have happened to parameters on the way, taken back one change at a time.

use super::{
    cause::{Cause, ParamsCause, TextCause, named},
    fields::Fields,
    html, json_text, known_names,
};
use crate::protocol::{charset::Charset, form, params::name};

/// Fields before a change, and the change.
pub(super) type Repaired = (Vec<Cause>, Fields);

/// Takes back what happens to all parameters alike.
pub(super) fn of_all(fields: &Fields) -> Vec<Repaired> {
    let none = || None;
    let mapped = [
        (
            ParamsCause::HtmlEscaped { place: none() },
            fields.map(html::unescape),
        ),
        (
            ParamsCause::PlusAsSpace { place: none() },
            fields.map(plus_for_space_in_base64),
        ),
        (
            ParamsCause::SpaceAsPlus { place: none() },
            fields.map(|value| value.replace('+', " ")),
        ),
        (
            ParamsCause::EncodedTwice { place: none() },
            fields.map(decoded),
        ),
        (
            ParamsCause::ValuePadded { place: none() },
            fields.map(|value| value.trim().to_owned()),
        ),
        (
            ParamsCause::LineEndings { place: none() },
            fields.map(|value| value.replace("\r\n", "\n")),
        ),
        (
            ParamsCause::LineEndings { place: none() },
            fields.map(|value| value.replace("\r\n", "\n").replace('\n', "\r\n")),
        ),
        (
            ParamsCause::NullWord,
            fields.map(|value| match value {
                "null" | "undefined" | "None" => String::new(),
                other => other.to_owned(),
            }),
        ),
    ];
    let mut found: Vec<Repaired> = mapped
        .into_iter()
        .filter_map(|(cause, fields)| Some((vec![cause.into()], fields?)))
        .collect();
    found.extend(without_unknown(fields));
    found.extend(misread(fields));
    found.extend(renamed_charset(fields));
    found
}

/// Puts other names into `charset`.
fn renamed_charset(fields: &Fields) -> impl Iterator<Item = Repaired> {
    const LABELS: [&str; 7] = ["utf-8", "UTF-8", "GBK", "gbk", "GB2312", "gb2312", "utf8"];
    let current = fields.get(name::CHARSET);
    let others = LABELS
        .into_iter()
        .filter(move |label| current.is_some_and(|current| current != *label));
    others.map(|signed| {
        let cause = TextCause::CharsetRenamed { signed };
        (vec![cause.into()], fields.replace(name::CHARSET, signed))
    })
}

/// Changes the value of one parameter, for each of them.
pub(super) fn of_each(fields: &Fields) -> impl Iterator<Item = Repaired> {
    signed_names(fields).flat_map(move |name| {
        let value = fields.get(name).unwrap_or_default();
        let values = other_values(name, value).into_iter();
        values.map(move |(causes, value)| (causes, fields.replace(name, &value)))
    })
}

/// Leaves each parameter out.
pub(super) fn without_each(fields: &Fields) -> impl Iterator<Item = Repaired> {
    signed_names(fields).map(move |name| {
        let names = vec![named(name)];
        let added = ParamsCause::Added { names };
        (vec![added.into()], fields.without(&[name]))
    })
}

fn signed_names(fields: &Fields) -> impl Iterator<Item = &str> {
    let names = fields.names().into_iter();
    names.filter(|&name| name != name::SIGN)
}

/// Adds what is often dropped, because a framework takes it for its own.
pub(super) fn with_dropped(fields: &Fields) -> impl Iterator<Item = Repaired> {
    let app_id = fields.get(name::APP_ID).unwrap_or_default().to_owned();
    let own = [(name::AUTH_APP_ID, app_id)].into_iter();
    let usual = USUAL.iter().map(|&(name, value)| (name, value.to_owned()));
    usual
        .chain(own)
        .filter(|(name, value)| !value.is_empty() && fields.get(name).is_none())
        .map(|(name, value)| {
            let cause = ParamsCause::Dropped { name: named(name) };
            (vec![cause.into()], fields.with(name, &value))
        })
}

/// Leaves out every two parameters.
pub(super) fn without_pairs(fields: &Fields) -> impl Iterator<Item = Repaired> {
    let names = fields.names();
    let count = match names.len() {
        0..=MOST_PAIRED => names.len(),
        _ => 0,
    };
    let pairs =
        (0..count).flat_map(move |first| (first + 1..count).map(move |second| (first, second)));
    pairs.filter_map(move |(first, second)| {
        let pair = [*names.get(first)?, *names.get(second)?];
        let names = pair.map(named).to_vec();
        Some((
            vec![ParamsCause::Added { names }.into()],
            fields.without(&pair),
        ))
    })
}

/// Says what made one value of a parameter of another; `None` if no single known change did.
pub(super) fn between(name: &str, arrived: &str, signed: &str) -> Option<Vec<Cause>> {
    let known = other_values(name, arrived).into_iter();
    if signed != arrived && signed.replace('+', " ") == arrived {
        let place = Some(named(name));
        return Some(vec![ParamsCause::PlusAsSpace { place }.into()]);
    }
    let direct = known
        .filter_map(|(causes, value)| (value == signed).then_some(causes))
        .next();
    direct.or_else(|| {
        let field = Fields::default().with(name, arrived);
        let ways = misread(&field).into_iter();
        ways.filter_map(|(causes, field)| (field.get(name) == Some(signed)).then_some(causes))
            .next()
    })
}

/// Lists what the value of one parameter may have been.
fn other_values(name: &str, value: &str) -> Vec<(Vec<Cause>, String)> {
    let place = || Some(named(name));
    let mut found: Vec<(Vec<Cause>, String)> = Vec::new();
    let mut add = |cause: ParamsCause, other: String| {
        if other != value {
            found.push((vec![cause.into()], other));
        }
    };
    let plus = ParamsCause::PlusAsSpace { place: place() };
    add(plus, value.replace(' ', "+"));
    for (at, _) in value.match_indices(' ').take(MOST_SPACES) {
        let plus = ParamsCause::PlusAsSpace { place: place() };
        let (before, behind) = value.split_at(at);
        add(
            plus,
            format!("{before}+{}", behind.get(1..).unwrap_or_default()),
        );
    }
    let space = ParamsCause::SpaceAsPlus { place: place() };
    add(space, value.replace('+', " "));
    for encoded in encodings(value) {
        add(ParamsCause::DecodedTwice { place: place() }, encoded);
    }
    add(ParamsCause::EncodedTwice { place: place() }, decoded(value));
    add(
        ParamsCause::HtmlEscaped { place: place() },
        html::unescape(value),
    );
    let padded = ParamsCause::ValuePadded { place: place() };
    add(padded, value.trim().to_owned());
    let lines = ParamsCause::LineEndings { place: place() };
    add(lines.clone(), value.replace("\r\n", "\n"));
    add(lines, value.replace("\r\n", "\n").replace('\n', "\r\n"));
    for padding in [" ", "\n", "\r\n", "\t", "\u{3000}"] {
        let trimmed = || ParamsCause::ValueTrimmed { name: named(name) };
        add(trimmed(), format!("{value}{padding}"));
        add(trimmed(), format!("{padding}{value}"));
    }
    found.extend(json_text::rewritings(value, Some(name)));
    found
}

/// Encodes a value as it may have stood before a second decoding: as JavaScript and as Java write
/// it, in capital and in small digits.
fn encodings(value: &str) -> Vec<String> {
    let mut encoded = String::new();
    if form::escape_into(&mut encoded, value, Charset::Utf8).is_err() || encoded == value {
        return Vec::new();
    }
    let java = encoded.replace("%20", "+");
    let small = |text: &str| {
        let mut digits = 0_u8;
        let lower = text.chars().map(|c| {
            let is_digit = digits > 0;
            digits = if c == '%' {
                2
            } else {
                digits.saturating_sub(1)
            };
            if is_digit { c.to_ascii_lowercase() } else { c }
        });
        lower.collect::<String>()
    };
    let plain_uri = encoded.replace("%3A", ":").replace("%2F", "/");
    vec![small(&encoded), small(&java), encoded, java, plain_uri]
}

/// Decodes a value once more; one that can't be decoded stays.
fn decoded(value: &str) -> String {
    if !value.contains('%') {
        return value.to_owned();
    }
    form::unescape(value.as_bytes(), 0)
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .unwrap_or_else(|| value.to_owned())
}

/// Puts `+` back where nothing but base64 stands.
fn plus_for_space_in_base64(value: &str) -> String {
    const SHORTEST: usize = 16;
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '+' | '/' | '=');
    let looks_so = value.len() >= SHORTEST && value.chars().all(is_base64);
    match looks_so {
        true => value.replace(' ', "+"),
        false => value.to_owned(),
    }
}

/// Leaves out all that isn't one of Alipay's names.
fn without_unknown(fields: &Fields) -> Option<Repaired> {
    let unknown: Vec<_> = fields
        .names()
        .into_iter()
        .filter(|name| !known_names::is_known(name))
        .collect();
    let names: Vec<_> = unknown.iter().map(|name| named(name)).collect();
    (!names.is_empty()).then(|| {
        let cause = ParamsCause::Added { names };
        (vec![cause.into()], fields.without(&unknown))
    })
}

/// Undoes what a reader of another charset made of the text.
fn misread(fields: &Fields) -> Vec<Repaired> {
    let latin = |value: &str| -> Option<Vec<u8>> {
        value
            .chars()
            .map(|c| u8::try_from(u32::from(c)).ok())
            .collect()
    };
    let reread = |bytes: Option<Vec<u8>>, charset: Charset, value: &str| {
        bytes
            .and_then(|bytes| charset.decode(&bytes).ok())
            .unwrap_or_else(|| value.to_owned())
    };
    let cause = |meant: &'static str, read: &'static str| {
        vec![TextCause::CharsetMisread { meant, read }.into()]
    };
    let (utf_8, gbk) = (Charset::Utf8, Charset::Gbk);
    let ways = [
        (
            cause("utf-8", "GBK"),
            fields.map(|value| reread(gbk.encode(value).ok(), utf_8, value)),
        ),
        (
            cause("GBK", "utf-8"),
            fields.map(|value| reread(utf_8.encode(value).ok(), gbk, value)),
        ),
        (
            cause("utf-8", "ISO-8859-1"),
            fields.map(|value| reread(latin(value), utf_8, value)),
        ),
        (
            cause("GBK", "ISO-8859-1"),
            fields.map(|value| reread(latin(value), gbk, value)),
        ),
    ];
    ways.into_iter()
        .filter_map(|(cause, fields)| Some((cause, fields?)))
        .collect()
}

/// What a framework may take for its own and drop, with the usual values.
const USUAL: [(&str, &str); 12] = [
    (name::CHARSET, "utf-8"),
    (name::CHARSET, "UTF-8"),
    (name::CHARSET, "GBK"),
    (name::CHARSET, "gbk"),
    (name::VERSION, "1.0"),
    (name::VERSION, "1.1"),
    (name::FORMAT, "JSON"),
    (name::FORMAT, "json"),
    (name::SIGN_TYPE, "RSA2"),
    (name::SIGN_TYPE, "RSA"),
    (name::NOTIFY_TYPE, "trade_status_sync"),
    (name::METHOD, "alipay.trade.wap.pay.return"),
];

/// A value with more spaces is prose, in which a `+` is rare.
const MOST_SPACES: usize = 24;

/// Thirty parameters have 435 pairs.
const MOST_PAIRED: usize = 30;
