//! What may be done to forms: notifications, and SPI calls with their query.

use super::bodies::around;
use super::golden::{Golden, Kind, spi_parts};
use super::oracle::unescape;

type Change = (&'static str, Vec<u8>);
/// Names and values, still encoded.
type Raw = Vec<(Vec<u8>, Vec<u8>)>;

pub(super) fn all(golden: &Golden, others: &[Golden]) -> Vec<Change> {
    let mut changes = Vec::new();
    match golden.kind {
        Kind::Spi => {
            let (query, body) = spi_parts(&golden.wire);
            for (name, form) in of_form(query) {
                changes.push((name, [&form, &b"\n"[..], body].concat()));
            }
            for (name, form) in of_form(body) {
                changes.push((name, [query, b"\n", &form].concat()));
            }
            changes.extend(between(query, body));
        }
        _ => {
            changes.extend(of_form(&golden.wire));
            changes.extend(of_others(&golden.wire, others));
        }
    }
    if let Ok(text) = std::str::from_utf8(&golden.wire) {
        let made = around(text).into_iter();
        changes.extend(made.map(|(name, text)| (name, text.into_bytes())));
    }
    changes
}

fn parse(form: &[u8]) -> Raw {
    let segments = form
        .split(|byte| *byte == b'&')
        .filter(|segment| !segment.is_empty());
    let pair = |segment: &[u8]| {
        let end = segment
            .iter()
            .position(|byte| *byte == b'=')
            .unwrap_or(segment.len());
        (
            segment[..end].to_vec(),
            segment.get(end + 1..).unwrap_or_default().to_vec(),
        )
    };
    segments.map(pair).collect()
}

fn join(pairs: &Raw) -> Vec<u8> {
    let written: Vec<_> = pairs
        .iter()
        .map(|(name, value)| [name.as_slice(), value].join(&b'='))
        .collect();
    written.join(&b'&')
}

fn of_form(form: &[u8]) -> Vec<Change> {
    let pairs = parse(form);
    let mut changes = whole(form, &pairs);
    for at in 0..pairs.len() {
        let with = |change: &dyn Fn(&mut Raw)| {
            let mut pairs = pairs.clone();
            change(&mut pairs);
            join(&pairs)
        };
        changes.extend(names(&pairs, at, &with));
        changes.extend(values(&pairs, at, &with));
        changes.extend(neighbours(&pairs, at, &with));
        if pairs[at].0 == b"sign" {
            changes.extend(signature(&pairs[at].1, &|value| {
                with(&|pairs| pairs[at].1.clone_from(&value))
            }));
        }
    }
    changes
}

fn whole(form: &[u8], pairs: &Raw) -> Vec<Change> {
    let text = String::from_utf8_lossy(form).into_owned();
    let more = |more: &str| [form, more.as_bytes()].concat();
    let mut turned = pairs.clone();
    turned.reverse();
    let mut sorted = pairs.clone();
    sorted.sort();
    vec![
        ("order reversed", join(&turned)),
        ("order of the names", join(&sorted)),
        ("an ampersand behind", more("&")),
        ("ampersands between", text.replace('&', "&&").into()),
        ("semicolons between", text.replace('&', ";").into()),
        ("a parameter more", more("&trade_status=TRADE_SUCCESS")),
        ("a parameter more, nameless", more("&=x")),
        ("a parameter more, empty", more("&extra=")),
        ("a parameter more, blank", more("&extra=%20%09")),
        ("a parameter more, valueless", more("&extra")),
        ("a parameter more, first", [b"x=1&", form].concat()),
        ("sign_type more, weaker", more("&sign_type=RSA")),
        ("charset more", more("&charset=GBK")),
        ("certificate more", more("&alipay_cert_sn=0")),
        ("certificate more, escaped", more("&alipay%5Fcert_sn=0")),
        ("small digits of hex", lower_hex(&text).into()),
        ("plus for spaces", text.replace("%20", "+").into()),
        ("%20 for spaces", text.replace('+', "%20").into()),
        (
            "percent signs encoded again",
            text.replace('%', "%25").into(),
        ),
        ("all decoded", unescape(form).unwrap_or_default()),
        ("behind a question mark", [b"?", form].concat()),
        ("broken percent", more("&x=%")),
        ("broken percent, short", more("&x=%4")),
        ("broken percent, no digits", more("&x=%zz")),
        ("bytes of no charset", more("&x=%FF%FF")),
        ("surrogates", more("&x=%ED%A0%80")),
        ("overlong", more("&x=%C0%AF")),
    ]
}

fn lower_hex(text: &str) -> String {
    let mut pieces = text.split('%');
    let mut out = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let (digits, rest) = piece.split_at(2.min(piece.len()));
        out.extend(["%", &digits.to_lowercase(), rest]);
    }
    out
}

type With<'a> = &'a dyn Fn(&dyn Fn(&mut Raw)) -> Vec<u8>;

fn names(pairs: &Raw, at: usize, with: With<'_>) -> Vec<Change> {
    let (name, value) = pairs[at].clone();
    let named = |what: &'static str, new: Vec<u8>| {
        (what, with(&|pairs: &mut Raw| pairs[at].0.clone_from(&new)))
    };
    let twice = |what: &'static str, new: Vec<u8>, value: &[u8], place: usize| {
        (
            what,
            with(&|pairs: &mut Raw| pairs.insert(place, (new.clone(), value.to_vec()))),
        )
    };
    let escaped = [
        format!("%{:02X}", name.first().copied().unwrap_or(b'x')).as_bytes(),
        name.get(1..).unwrap_or_default(),
    ]
    .concat();
    vec![
        (
            "a parameter gone",
            with(&|pairs: &mut Raw| drop(pairs.remove(at))),
        ),
        named("a name in capitals", name.to_ascii_uppercase()),
        named("a name with a space", [&name, &b"+"[..]].concat()),
        named("a name behind a space", [b"%20", name.as_slice()].concat()),
        named("a name with brackets", [&name, &b"[]"[..]].concat()),
        named("a name with a NUL", [&name, &b"%00"[..]].concat()),
        named("a name escaped", escaped.clone()),
        named("a name with a dot", [&name, &b".x"[..]].concat()),
        twice(
            "a parameter twice, equal",
            name.clone(),
            &value,
            pairs.len(),
        ),
        twice("a parameter twice, other first", name.clone(), b"x", 0),
        twice(
            "a parameter twice, other last",
            name.clone(),
            b"x",
            pairs.len(),
        ),
        twice("a parameter twice, empty", name.clone(), b"", pairs.len()),
        twice("a parameter twice, one escaped", escaped, b"x", pairs.len()),
        twice(
            "a parameter twice, one with brackets",
            [&name, &b"[0]"[..]].concat(),
            b"x",
            pairs.len(),
        ),
        twice(
            "a parameter twice, one in capitals",
            name.to_ascii_uppercase(),
            b"x",
            pairs.len(),
        ),
    ]
}

fn values(pairs: &Raw, at: usize, with: With<'_>) -> Vec<Change> {
    let value = pairs[at].1.clone();
    let valued = |what: &'static str, new: Vec<u8>| {
        (what, with(&|pairs: &mut Raw| pairs[at].1.clone_from(&new)))
    };
    let every = |byte: &u8| format!("%{byte:02X}").into_bytes();
    let decoded = unescape(&value).unwrap_or_default();
    vec![
        valued("a value empty", Vec::new()),
        valued("a value blank", b"%20".to_vec()),
        valued("a value with a space behind", [&value, &b"+"[..]].concat()),
        valued("a value behind a space", [b"+", value.as_slice()].concat()),
        valued("a value with a line break", [&value, &b"%0A"[..]].concat()),
        valued("a value with a NUL", [&value, &b"%00"[..]].concat()),
        valued(
            "a value with an invisible character",
            [&value, &b"%E2%80%8B"[..]].concat(),
        ),
        valued("a value in capitals", value.to_ascii_uppercase()),
        valued(
            "a value in quotes",
            [b"%22", value.as_slice(), b"%22"].concat(),
        ),
        valued(
            "a value with every byte encoded",
            decoded.iter().flat_map(every).collect(),
        ),
        valued("a value longer by a digit", [&value, &b"0"[..]].concat()),
        valued("a value null", b"null".to_vec()),
        valued(
            "a value of wide digits",
            String::from_utf8_lossy(&value)
                .replace('0', "%EF%BC%90")
                .into(),
        ),
    ]
}

/// Nothing is escaped in what is signed, so that an `&` of a value may pass for one between
/// parameters, and the other way round.
fn neighbours(pairs: &Raw, at: usize, with: With<'_>) -> Vec<Change> {
    let mut sorted: Vec<_> = pairs.iter().filter(|(name, _)| name != b"sign").collect();
    sorted.sort();
    let next = sorted
        .iter()
        .position(|pair| **pair == pairs[at])
        .and_then(|n| sorted.get(n + 1));
    let mut changes = Vec::new();
    if let Some((name, value)) = next.copied().cloned() {
        let folded = [b"%26", name.as_slice(), b"%3D", &value].concat();
        changes.push((
            "the next parameter inside a value",
            with(&|pairs: &mut Raw| {
                pairs[at].1.extend(&folded);
                pairs.retain(|(known, _)| *known != name);
            }),
        ));
        changes.push((
            "the next parameter inside a value, and again",
            with(&|pairs: &mut Raw| {
                pairs[at].1.extend(&folded);
            }),
        ));
        changes.push((
            "values of neighbours swapped",
            with(&|pairs: &mut Raw| {
                let other = pairs.iter().position(|(known, _)| *known == name).unwrap();
                let kept = pairs[at].1.clone();
                pairs[at].1 = std::mem::replace(&mut pairs[other].1, kept);
            }),
        ));
    }
    let value = pairs[at].1.clone();
    if let Some(end) = value.windows(3).position(|bytes| bytes == b"%26") {
        changes.push((
            "a value's ampersand between parameters",
            with(&|pairs: &mut Raw| {
                let rest = value[end + 3..].to_vec();
                pairs[at].1.truncate(end);
                pairs.extend(parse(&rest));
            }),
        ));
    }
    changes
}

fn signature(sign: &[u8], with: &dyn Fn(Vec<u8>) -> Vec<u8>) -> Vec<Change> {
    let text = String::from_utf8_lossy(&unescape(sign).unwrap_or_default()).replace(' ', "+");
    let escaped = |text: &str| {
        text.replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D")
    };
    let signed = |what: &'static str, sign: String| (what, with(sign.into()));
    vec![
        signed("sign unescaped", text.clone()),
        signed("sign unpadded", escaped(text.trim_end_matches('='))),
        signed("sign padded more", escaped(&format!("{text}="))),
        signed(
            "sign of the web's alphabet",
            text.replace('+', "-").replace('/', "_"),
        ),
        signed("sign with a line break", format!("{}%0A", escaped(&text))),
        signed(
            "sign with a line break inside",
            format!("{}%0A{}", escaped(&text[..9]), escaped(&text[9..])),
        ),
        signed("sign behind a space", format!("%20{}", escaped(&text))),
        signed("sign twice in one", escaped(&format!("{text}{text}"))),
        signed("sign of zeros", "A".repeat(342) + "%3D%3D"),
        signed(
            "sign reversed",
            escaped(&text.chars().rev().collect::<String>()),
        ),
        signed("sign null", "null".to_owned()),
    ]
}

/// The parameters of a call between its query and its body.
fn between(query: &[u8], body: &[u8]) -> Vec<Change> {
    let joined = [query, b"&", body].concat();
    vec![
        ("all in the query", [&joined, &b"\n"[..]].concat()),
        ("all in the body", [b"\n", joined.as_slice()].concat()),
        ("query and body swapped", [body, b"\n", query].concat()),
        ("in both places", [&joined, &b"\n"[..], &joined].concat()),
        (
            "another value in the other place",
            [query, b"\n", body, b"&method=spi.x&biz_app_id=9"].concat(),
        ),
        (
            "a parameter more in the other place",
            [query, b"&x=1\n", body].concat(),
        ),
    ]
}

/// Another good message's signature, or its parameter of the same name.
fn of_others(form: &[u8], others: &[Golden]) -> Vec<Change> {
    let pairs = parse(form);
    let others = others
        .iter()
        .filter(|other| matches!(other.kind, Kind::Notification { .. }));
    let mut changes = Vec::new();
    for other in others.filter(|other| other.wire != form) {
        for (name, value) in parse(&other.wire) {
            let mut mixed = pairs.clone();
            if let Some((_, old)) = mixed.iter_mut().find(|(known, _)| *known == name) {
                *old = value;
                let what = match name.as_slice() {
                    b"sign" => "another message's signature",
                    _ => "another message's value",
                };
                changes.push((what, join(&mixed)));
            }
        }
    }
    changes
}
