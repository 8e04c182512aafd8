//! Which bytes of a message are signed, read a second time: by another JSON parser, on bytes where
//! the code under test decodes, and with another RSA.

use std::collections::HashMap;
use std::sync::LazyLock;

use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::signature::SignType;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rsa::pkcs8::DecodePublicKey as _;
use rsa::{Pkcs1v15Sign, RsaPublicKey};
use serde_json::value::RawValue;
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use super::golden::{self, Golden, Kind, spi_parts, v3_parts};
use crate::protocol::{file, text};

/// What may have been signed, and the signature.
type Reading = (Vec<u8>, Vec<u8>);
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;
/// The members of a JSON object, in their order.
pub(super) struct Object(pub(super) Vec<(String, Box<RawValue>)>);

/// Whether the signed bytes and the signature are those of the golden message.
pub(super) fn is_same(golden: &Golden, wire: &[u8]) -> bool {
    static SIGNED: LazyLock<HashMap<&str, Reading>> = LazyLock::new(|| {
        let signed = |golden| signed(golden).expect("Alipay's keys signed each");
        golden::all()
            .iter()
            .map(|golden| (golden.name.as_str(), signed(golden)))
            .collect()
    });
    readings(&golden.kind, wire).contains(&SIGNED[golden.name.as_str()])
}

/// Whether a reply has no signature, and nobody could take it for a success.
pub(super) fn is_unsigned_error(golden: &Golden, wire: &[u8]) -> bool {
    let Kind::Reply { charset, .. } = &golden.kind else {
        return false;
    };
    let Some(object) = decoded(wire, *charset).and_then(|text| Object::parse(&text)) else {
        return false;
    };
    let is_nothing = |sign: &str| matches!(sign, "null" | "\"\"");
    let mut nodes = object
        .0
        .iter()
        .filter(|(name, _)| name.ends_with("_response"));
    object.only("sign").is_none_or(is_nothing)
        && nodes.all(|(_, node)| {
            let code =
                Object::parse(node.get()).and_then(|node| node.only("code").map(str::to_owned));
            code.is_some_and(|code| !["10000", "10003"].contains(&code.trim_matches('"')))
        })
}

/// The reading of the golden message that a key of the vectors signed.
fn signed(golden: &Golden) -> Option<Reading> {
    let keys = file("keys");
    let readings = readings(&golden.kind, &golden.wire);
    ["alipay2048", "alipay1024"].into_iter().find_map(|name| {
        let der = STANDARD
            .decode(text(&keys["keys"][name], "spki_bare"))
            .unwrap();
        let key = RsaPublicKey::from_public_key_der(&der).unwrap();
        readings
            .iter()
            .find(|(content, sign)| is_signed(&golden.kind, &key, content, sign))
            .cloned()
    })
}

fn is_signed(kind: &Kind, key: &RsaPublicKey, content: &[u8], sign: &[u8]) -> bool {
    let sha256 = || {
        key.verify(
            Pkcs1v15Sign::new::<Sha256>(),
            &Sha256::digest(content),
            sign,
        )
        .is_ok()
    };
    let sha1 = || {
        key.verify(Pkcs1v15Sign::new::<Sha1>(), &Sha1::digest(content), sign)
            .is_ok()
    };
    let may_be_sha1 = match kind {
        Kind::Reply { sign_type, .. } => *sign_type == SignType::Rsa,
        Kind::Notification { app, .. } => *app == SignType::Rsa,
        _ => false,
    };
    if may_be_sha1 { sha1() } else { sha256() }
}

fn readings(kind: &Kind, wire: &[u8]) -> Vec<Reading> {
    match kind {
        Kind::Reply {
            method, charset, ..
        } => {
            let root = format!("{}_response", method.replace('.', "_"));
            reply(wire, &root, *charset).unwrap_or_default()
        }
        Kind::V3 { .. } => v3(wire).into_iter().collect(),
        Kind::Notification { .. } => pairs(wire).map(|pairs| form(&pairs)).unwrap_or_default(),
        Kind::Spi => spi(wire).unwrap_or_default(),
        Kind::ClientData => client_data(wire).unwrap_or_default(),
        Kind::AppResult => app_result(wire).unwrap_or_default(),
    }
}

fn reply(wire: &[u8], root: &str, charset: Charset) -> Option<Vec<Reading>> {
    let object = Object::parse(&decoded(wire, charset)?)?;
    let sign = STANDARD.decode(object.text("sign")?).ok()?;
    let has_root = object.0.iter().any(|(name, _)| name == root);
    let node = object.only(if has_root { root } else { "error_response" })?;
    let spellings = [node.to_owned(), node.replace("\\/", "/")];
    let encoded = spellings.map(|node| (encoded(&node, charset), sign.clone()));
    Some(encoded.to_vec())
}

fn v3(wire: &[u8]) -> Option<Reading> {
    let (headers, body) = v3_parts(wire);
    let only = |wanted: &str| {
        let mut found = headers
            .iter()
            .filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
        let (_, value) = found.next()?;
        found.next().is_none().then_some(*value)
    };
    let (timestamp, nonce) = (only("alipay-timestamp")?, only("alipay-nonce")?);
    let content = [timestamp, nonce, body, b""].join(&b'\n');
    Some((content, STANDARD.decode(only("alipay-signature")?).ok()?))
}

fn spi(wire: &[u8]) -> Option<Vec<Reading>> {
    let (query, body) = spi_parts(wire);
    let mut all = pairs(query)?;
    for (name, value) in pairs(body)? {
        match all.iter().find(|(known, _)| *known == name) {
            Some((_, same)) if *same == value => {}
            Some(_) => return None,
            None => all.push((name, value)),
        }
    }
    Some(form(&all))
}

fn client_data(wire: &[u8]) -> Option<Vec<Reading>> {
    let object = Object::parse(std::str::from_utf8(wire).ok()?)?;
    let object = match object
        .text("response")
        .filter(|_| object.only("sign").is_none())
    {
        Some(inner) => Object::parse(&inner)?,
        None => object,
    };
    let sign = STANDARD
        .decode(object.text("sign")?.replace(' ', "+"))
        .ok()?;
    let response = object.text("response")?;
    let spellings = [
        response.clone(),
        format!("\"{}\"", response.replace(' ', "+")),
    ];
    Some(
        spellings
            .map(|text| (text.into_bytes(), sign.clone()))
            .to_vec(),
    )
}

fn app_result(wire: &[u8]) -> Option<Vec<Reading>> {
    let text = std::str::from_utf8(wire).ok()?;
    let object = Object::parse(text)?;
    let text = object.text("result").unwrap_or_else(|| text.to_owned());
    let object = Object::parse(&text)?;
    let mut roots = object
        .0
        .iter()
        .filter(|(name, _)| name.ends_with("_response"));
    let (root, _) = roots.next()?;
    if roots.next().is_some() {
        return None;
    }
    reply(text.as_bytes(), root, Charset::Utf8)
}

/// The names and values of a form, as bytes; `None` if a name stands twice.
pub(super) fn pairs(raw: &[u8]) -> Option<Pairs> {
    let mut pairs = Pairs::new();
    for segment in raw
        .split(|byte| *byte == b'&')
        .filter(|segment| !segment.is_empty())
    {
        let end = segment
            .iter()
            .position(|byte| *byte == b'=')
            .unwrap_or(segment.len());
        let (name, value) = (
            unescape(&segment[..end])?,
            unescape(segment.get(end + 1..).unwrap_or_default())?,
        );
        if pairs.iter().any(|(known, _)| *known == name) {
            return None;
        }
        pairs.push((name, value));
    }
    Some(pairs)
}

pub(super) fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut rest = text;
    while let [byte, behind @ ..] = rest {
        rest = behind;
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = rest
                    .get(..2)
                    .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
                rest = &rest[2..];
                u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
            }
            other => *other,
        });
    }
    Some(out)
}

/// The readings in use: with and without `sign_type`, the empty values, and `alipay_cert_sn`.
fn form(pairs: &Pairs) -> Vec<Reading> {
    let sign = pairs.iter().find(|(name, _)| name == b"sign");
    let sign: Vec<u8> = sign.map(|(_, value)| value.clone()).unwrap_or_default();
    let sign = String::from_utf8_lossy(&sign).replace(' ', "+");
    let Ok(sign) = STANDARD.decode(sign) else {
        return Vec::new();
    };
    let mut sorted = pairs.clone();
    sorted.sort();
    let content = |left_out: u8| {
        let is_kept = |(name, value): &&(Vec<u8>, Vec<u8>)| {
            !(name == b"sign"
                || (left_out & 1 != 0 && name == b"sign_type")
                || (left_out & 2 != 0 && is_blank(value))
                || (left_out & 4 != 0 && name == b"alipay_cert_sn"))
        };
        let kept = sorted.iter().filter(is_kept);
        let written: Vec<_> = kept
            .map(|(name, value)| [name.as_slice(), value].join(&b'='))
            .collect();
        written.join(&b'&')
    };
    (0..8)
        .map(|left_out| (content(left_out), sign.clone()))
        .collect()
}

fn is_blank(value: &[u8]) -> bool {
    // Java's white space; the four information separators, too.
    std::str::from_utf8(value).is_ok_and(|text| {
        text.chars().all(|c| {
            ('\u{1c}'..='\u{1f}').contains(&c)
                || (c.is_whitespace()
                    && !matches!(c, '\u{85}' | '\u{a0}' | '\u{2007}' | '\u{202f}'))
        })
    })
}

pub(super) fn decoded(bytes: &[u8], charset: Charset) -> Option<String> {
    match charset {
        Charset::Gbk => {
            let text =
                encoding_rs::GBK.decode_without_bom_handling_and_without_replacement(bytes)?;
            Some(text.into_owned())
        }
        _ => String::from_utf8(bytes.to_vec()).ok(),
    }
}

pub(super) fn encoded(text: &str, charset: Charset) -> Vec<u8> {
    match charset {
        Charset::Gbk => encoding_rs::GBK.encode(text).0.into_owned(),
        _ => text.as_bytes().to_vec(),
    }
}

impl Object {
    pub(super) fn parse(text: &str) -> Option<Self> {
        struct Members;
        impl<'de> serde::de::Visitor<'de> for Members {
            type Value = Vec<(String, Box<RawValue>)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        let mut reader = serde_json::Deserializer::from_str(text);
        let members = serde::Deserializer::deserialize_map(&mut reader, Members).ok()?;
        reader.end().ok()?;
        Some(Self(members))
    }

    /// The raw value of the member of that name, if there is exactly one.
    pub(super) fn only(&self, name: &str) -> Option<&str> {
        let mut found = self.0.iter().filter(|(known, _)| known == name);
        let (_, value) = found.next()?;
        found.next().is_none().then(|| value.get())
    }

    fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.only(name)?).ok()
    }
}
