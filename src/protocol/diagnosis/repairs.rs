//! What may have happened to parameters on the way, taken back one change at a time.

use super::{
    cause::{Cause, ParamsCause, TextCause, named},
    fields::Fields,
    html, json_text, known_names,
    work::{self, Work},
};
use crate::protocol::{charset::Charset, form, params::name};

/// Fields before a change, and the change.
pub(super) type Repaired = (Vec<Cause>, Fields);

/// What a change is called, and how it is taken back in a value.
type Change = (fn(Place) -> ParamsCause, fn(&str) -> String);

/// Which parameter a change is found in; `None` for several.
type Place = Option<String>;

/// Takes back what happens to all parameters alike.
pub(super) fn of_all(fields: &Fields) -> impl Iterator<Item = Repaired> {
    const CHANGES: [Change; 8] = [
        (html_escaped, html::unescape),
        (plus_as_space, plus_for_space_in_base64),
        (space_as_plus, space_for_plus),
        (encoded_twice, decoded),
        (padded, trimmed),
        (line_endings, line_feeds),
        (line_endings, carriage_returns),
        (|_| ParamsCause::NullWord, empty_for_null),
    ];
    let mapped = fields.work().while_left(CHANGES.into_iter());
    let mapped = mapped.filter_map(|(cause, change)| {
        let changed = fields.map(change)?;
        Some((vec![cause(None).into()], changed))
    });
    mapped
        .chain(std::iter::once_with(|| without_unknown(fields)).flatten())
        .chain(misread(fields))
        .chain(renamed_charset(fields))
}

fn html_escaped(place: Place) -> ParamsCause {
    ParamsCause::HtmlEscaped { place }
}

fn plus_as_space(place: Place) -> ParamsCause {
    ParamsCause::PlusAsSpace { place }
}

fn space_as_plus(place: Place) -> ParamsCause {
    ParamsCause::SpaceAsPlus { place }
}

fn decoded_twice(place: Place) -> ParamsCause {
    ParamsCause::DecodedTwice { place }
}

fn encoded_twice(place: Place) -> ParamsCause {
    ParamsCause::EncodedTwice { place }
}

fn padded(place: Place) -> ParamsCause {
    ParamsCause::ValuePadded { place }
}

fn line_endings(place: Place) -> ParamsCause {
    ParamsCause::LineEndings { place }
}

fn space_for_plus(value: &str) -> String {
    value.replace('+', " ")
}

fn plus_for_space(value: &str) -> String {
    value.replace(' ', "+")
}

fn trimmed(value: &str) -> String {
    value.trim().to_owned()
}

fn line_feeds(value: &str) -> String {
    value.replace("\r\n", "\n")
}

fn carriage_returns(value: &str) -> String {
    line_feeds(value).replace('\n', "\r\n")
}

fn empty_for_null(value: &str) -> String {
    match value {
        "null" | "undefined" | "None" => String::new(),
        other => other.to_owned(),
    }
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
        let values = other_values(name, value, fields.work());
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
    if signed != arrived && space_for_plus(signed) == arrived {
        return Some(vec![plus_as_space(Some(named(name))).into()]);
    }
    let field = Fields::default().with(name, arrived);
    let mut known = other_values(name, arrived, field.work());
    let direct = known.find_map(|(causes, value)| (value == signed).then_some(causes));
    direct.or_else(|| {
        let mut ways = misread(&field);
        ways.find_map(|(causes, field)| (field.get(name) == Some(signed)).then_some(causes))
    })
}

/// Lists what the value of one parameter may have been.
fn other_values<'a>(
    name: &'a str,
    value: &'a str,
    work: &'a Work,
) -> impl Iterator<Item = (Vec<Cause>, String)> + 'a {
    const LAST: [Change; 5] = [
        (encoded_twice, decoded),
        (html_escaped, html::unescape),
        (padded, trimmed),
        (line_endings, line_feeds),
        (line_endings, carriage_returns),
    ];
    let place = move || Some(named(name));
    let changed = move |(cause, change): Change| (cause(place()), change(value));
    let spaces = value.match_indices(' ').take(MOST_SPACES);
    let one_space = spaces.map(move |(at, _)| {
        let (before, behind) = value.split_at(at);
        let behind = behind.get(1..).unwrap_or_default();
        (plus_as_space(place()), format!("{before}+{behind}"))
    });
    let encoded = std::iter::once_with(move || encodings(value)).flatten();
    let known = std::iter::once_with(move || changed((plus_as_space, plus_for_space)))
        .chain(one_space)
        .chain(std::iter::once_with(move || {
            changed((space_as_plus, space_for_plus))
        }))
        .chain(encoded.map(move |encoded| (decoded_twice(place()), encoded)))
        .chain(LAST.into_iter().map(changed))
        .chain(with_ends(name, value));
    let known = known.inspect(|(_, other)| work.charge(2 * other.len()));
    work.while_left(known)
        .filter(move |(_, other)| other != value)
        .map(|(cause, other)| (vec![cause.into()], other))
        .chain(json_text::rewritings(value, Some(name), work))
}

/// Puts white space back to the ends of a value.
fn with_ends<'a>(
    name: &'a str,
    value: &'a str,
) -> impl Iterator<Item = (ParamsCause, String)> + 'a {
    const PADDINGS: [&str; 5] = [" ", "\n", "\r\n", "\t", "\u{3000}"];
    let trimmed = |name: &str| ParamsCause::ValueTrimmed { name: named(name) };
    PADDINGS.into_iter().flat_map(move |padding| {
        let ends = [format!("{value}{padding}"), format!("{padding}{value}")];
        ends.map(|padded| (trimmed(name), padded))
    })
}

/// Encodes a value as it may have stood before a second decoding: as JavaScript and as Java write
/// it, in capital and in small digits.
fn encodings(value: &str) -> Vec<String> {
    let encoded = form::escape(value, Charset::Utf8).ok();
    let Some(encoded) = encoded.filter(|encoded| encoded != value) else {
        return Vec::new();
    };
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
    let names = fields.names().into_iter();
    let unknown = names.filter(|name| !known_names::is_known(name));
    let names: Vec<_> = unknown.map(named).collect();
    (!names.is_empty()).then(|| {
        let cause = ParamsCause::Added { names };
        let known = fields.keep(|name, _| known_names::is_known(name));
        (vec![cause.into()], known)
    })
}

/// Undoes what a reader of another charset made of the text.
fn misread(fields: &Fields) -> impl Iterator<Item = Repaired> {
    const UTF_8: Charset = Charset::Utf8;
    const GBK: Charset = Charset::Gbk;
    type Bytes = fn(&str) -> Option<Vec<u8>>;
    const WAYS: [(Charset, &str, Bytes); 4] = [
        (UTF_8, "GBK", |value| GBK.encode(value).ok()),
        (GBK, "utf-8", |value| UTF_8.encode(value).ok()),
        (UTF_8, "ISO-8859-1", latin),
        (GBK, "ISO-8859-1", latin),
    ];
    let ways = fields.work().while_left(WAYS.into_iter());
    ways.filter_map(|(charset, read, bytes)| {
        let reread = |value: &str| {
            fields.work().charge(work::GBK * value.len());
            let text = bytes(value).and_then(|bytes| charset.decode(&bytes).ok());
            text.unwrap_or_else(|| value.to_owned())
        };
        let meant = charset.label();
        let cause = TextCause::CharsetMisread { meant, read };
        Some((vec![cause.into()], fields.map(reread)?))
    })
}

fn latin(value: &str) -> Option<Vec<u8>> {
    let bytes = value.chars().map(|c| u8::try_from(u32::from(c)).ok());
    bytes.collect()
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
