//! What may be done to JSON: to the bodies of v2 replies, and what front ends hand on.

use alipay_sidecar::protocol::charset::Charset;

use super::golden::{Golden, Kind};
use super::oracle::{Object, decoded, encoded};

type Change = (&'static str, Vec<u8>);

/// The text, its members as they stand, and where the signed one and the signature are among them.
struct Text {
    whole: String,
    members: Vec<(String, String)>,
    node: usize,
    sign: usize,
}

impl Text {
    fn read(golden: &Golden, charset: Charset) -> Option<Self> {
        let whole = decoded(&golden.wire, charset)?;
        let members = Object::parse(&whole)?.0;
        let members: Vec<(String, String)> = members
            .into_iter()
            .map(|(name, value)| (name, value.get().to_owned()))
            .collect();
        let at = |wanted: &dyn Fn(&str) -> bool| members.iter().position(|(name, _)| wanted(name));
        let node = at(&|name| name.ends_with("_response"));
        let node = node.or_else(|| at(&|name| name == "response"));
        Some(Self {
            node: node?,
            sign: at(&|name| name == "sign")?,
            whole,
            members,
        })
    }

    /// The object with its members changed.
    fn with(&self, change: impl FnOnce(&mut Vec<(String, String)>)) -> String {
        let mut members = self.members.clone();
        change(&mut members);
        let written = members
            .iter()
            .map(|(name, value)| format!("{}:{value}", key(name)));
        format!("{{{}}}", written.collect::<Vec<_>>().join(","))
    }

    fn with_node(&self, node: &str) -> String {
        self.with(|members| members[self.node].1 = node.to_owned())
    }

    fn with_sign(&self, sign: &str) -> String {
        self.with(|members| members[self.sign].1 = sign.to_owned())
    }

    fn node(&self) -> &str {
        &self.members[self.node].1
    }

    /// The signature, without its quotes.
    fn sign(&self) -> &str {
        self.members[self.sign].1.trim_matches('"')
    }
}

/// A name as JSON; those given raw begin with a quote.
fn key(name: &str) -> String {
    match name.starts_with('"') {
        true => name.to_owned(),
        false => format!("\"{name}\""),
    }
}

pub(super) fn all(golden: &Golden, others: &[Golden]) -> Vec<Change> {
    let charset = match golden.kind {
        Kind::Reply { charset, .. } => charset,
        _ => Charset::Utf8,
    };
    let Some(text) = Text::read(golden, charset) else {
        // The whole map of an app's payment: its members aren't the signed ones.
        return outer(golden);
    };
    let mut changes: Vec<(&'static str, String)> = Vec::new();
    changes.extend(members(&text));
    changes.extend(node(&text));
    changes.extend(signature(&text));
    changes.extend(around(&text.whole));
    let mut all: Vec<Change> = changes
        .into_iter()
        .map(|(name, text)| (name, encoded(&text, charset)))
        .collect();
    all.extend(of_others(golden, &text, charset, others));
    all.extend(outer(golden));
    all
}

fn members(text: &Text) -> Vec<(&'static str, String)> {
    let (node, sign) = (text.node, text.sign);
    let name = text.members[node].0.clone();
    let escaped =
        |name: &str| format!("\"\\u{:04x}{}\"", u32::from(name.as_bytes()[0]), &name[1..]);
    let mut changes = vec![
        ("order reversed", text.with(|members| members.reverse())),
        (
            "another member",
            text.with(|members| members.push(("x".into(), "1".into()))),
        ),
        (
            "node twice, forged first",
            text.with(|m| m.insert(0, (name.clone(), FORGED.into()))),
        ),
        (
            "node twice, forged last",
            text.with(|m| m.push((name.clone(), FORGED.into()))),
        ),
        ("node twice, equal", text.with(|m| m.push(m[node].clone()))),
        (
            "node twice, one escaped",
            text.with(|m| m.push((escaped(&name), FORGED.into()))),
        ),
        ("sign twice, equal", text.with(|m| m.push(m[sign].clone()))),
        (
            "sign twice, forged first",
            text.with(|m| m.insert(0, ("sign".into(), "\"AAAA\"".into()))),
        ),
        (
            "sign twice, one null",
            text.with(|m| m.push(("sign".into(), "null".into()))),
        ),
        (
            "sign twice, one escaped",
            text.with(|m| m.push((escaped("sign"), "\"AAAA\"".into()))),
        ),
        (
            "name of the node escaped",
            text.with(|m| m[node].0 = escaped(&name)),
        ),
        (
            "name of sign escaped",
            text.with(|m| m[sign].0 = escaped("sign")),
        ),
        (
            "name of the node in capitals",
            text.with(|m| m[node].0 = name.to_uppercase()),
        ),
        (
            "name of sign in capitals",
            text.with(|m| m[sign].0 = "SIGN".into()),
        ),
        (
            "name of the node with a space",
            text.with(|m| m[node].0 = format!("{name} ")),
        ),
        (
            "another method's root",
            text.with(|m| m[node].0 = "alipay_other_response".into()),
        ),
        (
            "another method's root beside",
            text.with(|m| m.push(("alipay_other_response".into(), FORGED.into()))),
        ),
        (
            "the root called error_response",
            text.with(|m| m[node].0 = "error_response".into()),
        ),
        (
            "error_response beside",
            text.with(|m| m.push(("error_response".into(), ERROR.into()))),
        ),
        (
            "error_response before",
            text.with(|m| m.insert(0, ("error_response".into(), ERROR.into()))),
        ),
        ("no node", text.with(|m| drop(m.remove(node)))),
        ("no sign", text.with(|m| drop(m.remove(sign)))),
        (
            "certificate named",
            text.with(|m| m.push(("alipay_cert_sn".into(), "\"0\"".into()))),
        ),
        (
            "certificate named twice",
            text.with(|m| {
                for sn in ["\"0\"", "\"1\""] {
                    m.push(("alipay_cert_sn".into(), sn.into()));
                }
            }),
        ),
        (
            "name and value of sign swapped",
            text.with(|m| {
                m[sign] = (text.sign().replace('\\', ""), "\"sign\"".into());
            }),
        ),
    ];
    if let Some(at) = text
        .members
        .iter()
        .position(|(name, _)| name == "alipay_cert_sn")
    {
        changes.push(("no certificate", text.with(|m| drop(m.remove(at)))));
    }
    changes
}

fn node(text: &Text) -> Vec<(&'static str, String)> {
    let node = text.node();
    let forged = |name, node: String| (name, text.with_node(&node));
    let mut changes = vec![
        forged("node forged", FORGED.to_owned()),
        forged("node empty", "{}".to_owned()),
        forged("node null", "null".to_owned()),
        forged("node in a list", format!("[{node}]")),
        forged("node as a text", serde_json::to_string(node).unwrap()),
        forged("space before a brace", node.replacen('{', "{ ", 1)),
        forged("space behind a comma", node.replacen(',', ", ", 1)),
        forged("line break at the end", node.replace("\"}", "\"\n}")),
        forged("slashes escaped", node.replace('/', "\\/")),
        forged("slashes unescaped", node.replace("\\/", "/")),
        forged("slashes twice escaped", node.replace("\\/", "\\\\/")),
        forged(
            "a character escaped",
            node.replacen("code", "c\\u006fde", 1),
        ),
        forged(
            "a value escaped",
            node.replacen("Success", "Succes\\u0073", 1),
        ),
        forged(
            "another character for the same",
            node.replacen("\\u", "\\U", 1),
        ),
        forged("number for a text", node.replacen("\"10000\"", "10000", 1)),
        forged("other capitals", node.replacen("Success", "success", 1)),
        forged("a member more", node.replacen('{', "{\"x\":1,", 1)),
        forged(
            "a member more at the end",
            format!("{},\"code\":\"10000\"}}", node.trim_end_matches('}')),
        ),
        forged(
            "sign moved into the node",
            node.replacen('{', &format!("{{\"sign\":\"{}\",", text.sign()), 1),
        ),
        (
            "sign in the node alone",
            text.with(|members| {
                let sign = members[text.sign].1.clone();
                members[text.node].1 = node.replacen('{', &format!("{{\"sign\":{sign},"), 1);
                members.remove(text.sign);
            }),
        ),
        (
            "the reply in its own node",
            text.with(|members| {
                members[text.node].1 = text.whole.clone();
            }),
        ),
        ("the node as the reply", node.to_owned()),
        (
            "white space around everything",
            text.with(|members| {
                for (name, value) in members {
                    *name = format!("\"{name}\"\t");
                    *value = format!(" \r\n\t{value} ");
                }
            }),
        ),
    ];
    if let Some(object) = Object::parse(node) {
        for at in 0..object.0.len() {
            let written = |leave: &dyn Fn(usize) -> usize| {
                let kept = (0..object.0.len())
                    .map(leave)
                    .filter(|n| *n < object.0.len());
                let kept = kept.map(|n| format!("\"{}\":{}", object.0[n].0, object.0[n].1.get()));
                format!("{{{}}}", kept.collect::<Vec<_>>().join(","))
            };
            changes.push(forged(
                "a member of the node gone",
                written(&|n| if n == at { usize::MAX } else { n }),
            ));
            changes.push(forged(
                "a member of the node twice",
                written(&|n| if n == at { 0 } else { n }),
            ));
            changes.push(forged(
                "the node's members in another order",
                written(&|n| match n {
                    0 => at,
                    n if n == at => 0,
                    n => n,
                }),
            ));
        }
    }
    changes
}

fn signature(text: &Text) -> Vec<(&'static str, String)> {
    let sign = text.sign();
    let as_text = |name, sign: String| (name, text.with_sign(&format!("\"{sign}\"")));
    let raw = |name, sign: &str| (name, text.with_sign(sign));
    vec![
        as_text("sign empty", String::new()),
        as_text("sign a space", " ".to_owned()),
        as_text("sign with a line break", format!("{sign}\\n")),
        as_text(
            "sign with a line break inside",
            format!("{}\\n{}", &sign[..4], &sign[4..]),
        ),
        as_text("sign behind a space", format!(" {sign}")),
        as_text("sign unpadded", sign.trim_end_matches('=').to_owned()),
        as_text("sign padded more", format!("{sign}=")),
        as_text(
            "sign of the web's alphabet",
            sign.replace("\\/", "/").replace('+', "-").replace('/', "_"),
        ),
        as_text("sign with spaces for plus", sign.replace('+', " ")),
        as_text(
            "sign with its slashes escaped",
            sign.replace("\\/", "/").replace('/', "\\/"),
        ),
        as_text(
            "sign with a character escaped",
            format!("\\u{:04x}{}", sign.as_bytes()[0], &sign[1..]),
        ),
        as_text("sign twice in one", format!("{sign}{sign}")),
        as_text(
            "sign percent-encoded",
            sign.replace("\\/", "/")
                .replace('+', "%2B")
                .replace('/', "%2F"),
        ),
        as_text("sign in capitals", sign.to_uppercase()),
        as_text("sign of zeros", "A".repeat(342) + "=="),
        as_text("sign of ones", "/".repeat(342) + "=="),
        raw("sign null", "null"),
        raw("sign a number", "0"),
        raw("sign true", "true"),
        raw("sign a list", &format!("[\"{sign}\"]")),
        raw("sign an object", &format!("{{\"sign\":\"{sign}\"}}")),
    ]
}

/// What needn't know the format.
pub(super) fn around(whole: &str) -> Vec<(&'static str, String)> {
    vec![
        ("BOM before", format!("\u{feff}{whole}")),
        ("space before and behind", format!(" \n{whole}\r\n")),
        ("NUL behind", format!("{whole}\0")),
        ("text behind", format!("{whole}x")),
        ("a second object behind", format!("{whole}{{}}")),
        ("itself behind", format!("{whole}{whole}")),
        ("a comma behind", format!("{whole},")),
        ("a comment behind", format!("{whole}// x")),
        ("a comment before", format!("/* x */{whole}")),
        ("in a list", format!("[{whole}]")),
        ("as a callback", format!("callback({whole})")),
        (
            "a comma before the end",
            whole
                .strip_suffix('}')
                .map_or(String::new(), |head| format!("{head},}}")),
        ),
        ("single quotes", whole.replace('"', "'")),
        (
            "quotes of a word processor",
            whole.replacen('"', "\u{201c}", 1),
        ),
        ("no-break spaces", whole.replace(':', ":\u{a0}")),
        ("nothing", String::new()),
    ]
}

/// The bytes as they are, in another charset or encoding.
fn outer(golden: &Golden) -> Vec<Change> {
    let utf8 = String::from_utf8(golden.wire.clone()).ok();
    let mut changes = Vec::new();
    if let Some(text) = utf8 {
        let wide: Vec<u8> = text.encode_utf16().flat_map(u16::to_be_bytes).collect();
        changes.push(("in UTF-16", wide));
        changes.push(("in GBK", encoded(&text, Charset::Gbk)));
    } else if let Some(text) = decoded(&golden.wire, Charset::Gbk) {
        changes.push(("in UTF-8", text.into_bytes()));
    }
    changes.push((
        "upper bits gone",
        golden.wire.iter().map(|byte| byte & 0x7f).collect(),
    ));
    changes
}

/// The node of one good message under the signature of another.
fn of_others(golden: &Golden, text: &Text, charset: Charset, others: &[Golden]) -> Vec<Change> {
    let others = others.iter().filter(|other| other.name != golden.name);
    let others = others.filter(|other| matches!(other.kind, Kind::Reply { .. }));
    let others: Vec<_> = others
        .filter_map(|other| Text::read(other, Charset::Utf8))
        .collect();
    let mut changes = Vec::new();
    for other in &others {
        if other.node() != text.node() {
            let node = text.with_node(other.node());
            changes.push(("another message's node", encoded(&node, charset)));
            let sign = text.with_sign(&format!("\"{}\"", other.sign()));
            changes.push(("another message's signature", encoded(&sign, charset)));
        }
    }
    changes
}

const FORGED: &str = r#"{"code":"10000","msg":"Success","trade_status":"TRADE_SUCCESS"}"#;
const ERROR: &str = r#"{"code":"40004","msg":"Business Failed"}"#;
