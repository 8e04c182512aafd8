//! Alipay's rules a second time, as plainly as they can be written.

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::key::RsaPublicKey;
use alipay_sidecar::protocol::signature::SignType;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Every two-byte code of GBK with its character, as Java prints them: leads 0x81 to 0xFE, trails
/// 0x40 to 0xFE but 0x7F.
static JAVA: LazyLock<HashMap<[u8; 2], char>> = LazyLock::new(|| {
    let table = include_bytes!("../../tests/it/differential/java_gbk.utf16be");
    let codes = (0x81..=0xfe_u8).flat_map(|lead| {
        let trails = (0x40..=0xfe_u8).filter(|trail| *trail != 0x7f);
        trails.map(move |trail| [lead, trail])
    });
    let units = table
        .chunks_exact(2)
        .map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
    let characters = units.map(|unit| char::from_u32(unit.into()).expect("no surrogate"));
    codes.zip(characters).collect()
});

static JAVA_BACK: LazyLock<HashMap<char, [u8; 2]>> =
    LazyLock::new(|| JAVA.iter().map(|(code, c)| (*c, *code)).collect());

/// Decodes bytes of a charset, all of them or none.
#[must_use]
pub fn decode(bytes: &[u8], charset: Charset) -> Option<String> {
    if charset == Charset::Utf8 {
        return String::from_utf8(bytes.to_vec()).ok();
    }
    let mut text = String::new();
    let mut rest = bytes.iter().copied();
    while let Some(lead) = rest.next() {
        text.push(match lead {
            0..=0x7f => char::from(lead),
            lead => *JAVA.get(&[lead, rest.next()?])?,
        });
    }
    Some(text)
}

/// Encodes text, all of it or nothing.
#[must_use]
pub fn encode(text: &str, charset: Charset) -> Option<Vec<u8>> {
    if charset == Charset::Utf8 {
        return Some(text.as_bytes().to_vec());
    }
    let mut bytes = Vec::new();
    for c in text.chars() {
        match c.is_ascii() {
            true => bytes.push(c as u8),
            false => bytes.extend(JAVA_BACK.get(&c)?),
        }
    }
    Some(bytes)
}

/// Takes the form encoding off once; `None` where a `%` has no two digits behind it.
#[must_use]
pub fn unescape(text: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut rest = text.iter().copied();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high * 16 + low).ok()?
            }
            other => other,
        });
    }
    Some(bytes)
}

/// An input as text, as its parts may be read: as it stands, with the percent encoding taken off
/// wherever it is one, and both without the lines that divide a chunked body.
#[must_use]
pub fn spellings(input: &[u8]) -> Vec<String> {
    let decoded = unescape_leniently(input);
    let joined = [without_chunks(input), without_chunks(&decoded)];
    let all = [input, &decoded, &joined[0], &joined[1]];
    all.map(|text| String::from_utf8_lossy(text).into_owned())
        .into()
}

/// Takes the percent encoding off where there is one.
fn unescape_leniently(text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, behind)) = rest.split_first() {
        let code = rest.get(..3).filter(|_| byte == b'%');
        match code.and_then(unescape) {
            Some(decoded) => {
                bytes.extend(decoded);
                rest = &rest[3..];
            }
            None => {
                bytes.push(byte);
                rest = behind;
            }
        }
    }
    bytes
}

/// Leaves out every line that may tell the size of a chunk, with its breaks.
fn without_chunks(text: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(text);
    let is_size = |line: &&str| {
        let digits = line.split([';', ' ', '\t']).next().unwrap_or_default();
        !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let kept = text.split("\r\n").filter(|line| !is_size(line));
    kept.collect::<String>().into_bytes()
}

/// Reads a form: pairs in their order; `None` where anything can't be read, or a name stands twice.
#[must_use]
pub fn form(raw: &[u8], charset: Charset) -> Option<Vec<(String, String)>> {
    let mut pairs: Vec<(String, String)> = Vec::new();
    for segment in raw
        .split(|byte| *byte == b'&')
        .filter(|segment| !segment.is_empty())
    {
        let at = segment.iter().position(|byte| *byte == b'=');
        let (name, value) = match at {
            Some(at) => (&segment[..at], &segment[at + 1..]),
            None => (segment, &[][..]),
        };
        let read = |piece| decode(&unescape(piece)?, charset);
        let (name, value) = (read(name)?, read(value)?);
        if pairs.iter().any(|(known, _)| *known == name) {
            return None;
        }
        pairs.push((name, value));
    }
    Some(pairs)
}

/// What Java's `StringUtils` takes for empty.
#[must_use]
pub fn is_blank(text: &str) -> bool {
    text.chars().all(|c| {
        ('\u{1c}'..='\u{1f}').contains(&c)
            || (c.is_whitespace() && !"\u{85}\u{a0}\u{2007}\u{202f}".contains(c))
    })
}

/// Joins what `keep` leaves as `name=value&…`, by the bytes of the names.
#[must_use]
pub fn content<'a>(
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    keep: impl Fn(&str, &str) -> bool,
) -> String {
    let kept = pairs.into_iter().filter(|(name, value)| keep(name, value));
    let sorted: BTreeMap<&[u8], String> = kept
        .map(|(name, value)| (name.as_bytes(), format!("{name}={value}")))
        .collect();
    sorted.into_values().collect::<Vec<_>>().join("&")
}

/// The sign contents that a notification may have: with and without `sign_type`, the empty values,
/// and `alipay_cert_sn`.
#[must_use]
pub fn notification_contents(pairs: &[(String, String)]) -> Vec<String> {
    let mut contents = Vec::new();
    for left_out in 0..8 {
        let (kind, empty, certificate) = (left_out & 1 != 0, left_out & 2 != 0, left_out & 4 != 0);
        contents.push(content(borrowed(pairs), |name, value| {
            name != "sign"
                && !(kind && name == "sign_type")
                && !(empty && is_blank(value))
                && !(certificate && name == "alipay_cert_sn")
        }));
    }
    contents
}

/// The same pairs, borrowed.
pub fn borrowed(pairs: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    pairs
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
}

/// Whether any of the keys made `sign` over `content`.
#[must_use]
pub fn is_signed(keys: &[RsaPublicKey], sign_type: SignType, content: &[u8], sign: &str) -> bool {
    let fits = |key: &RsaPublicKey| key.verify(sign_type, content, sign).is_ok();
    keys.iter().any(fits)
}

/// The members of a JSON object as another parser sees them: names decoded, values as they stand.
pub struct Object<'a>(pub Vec<(String, &'a RawValue)>);

impl<'a> Object<'a> {
    /// Reads one.
    #[must_use]
    pub fn parse(text: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(text).ok()
    }

    /// The member of that name, if there is exactly one.
    #[must_use]
    pub fn only(&self, name: &str) -> Option<&'a str> {
        let mut found = self.0.iter().filter(|(known, _)| known == name);
        let (_, value) = found.next()?;
        found.next().is_none().then(|| value.get())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Members).map(Object)
    }
}
