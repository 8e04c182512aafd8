//! A second implementation, written from the protocol's pages alone: it calls nothing of the crate,
//! and works on bytes where the crate works on text.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::generate::Random;

/// Names and values as text, in the order of their making.
pub(super) type Pairs = Vec<(String, String)>;
/// Names and values as bytes in the charset of the call.
pub(super) type Fields = BTreeMap<Vec<u8>, Vec<u8>>;

/// What text is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writing {
    Gbk,
    Utf8,
}

impl Writing {
    /// Encodes, or gives nothing where a character is lacking.
    pub(super) fn bytes(self, text: &str) -> Option<Vec<u8>> {
        match self {
            Self::Utf8 => Some(text.as_bytes().to_vec()),
            Self::Gbk => text.encode_utf16().try_fold(Vec::new(), |mut out, unit| {
                match u8::try_from(unit) {
                    Ok(ascii @ 0..0x80) => out.push(ascii),
                    _ => out.extend(GBK.codes.get(&unit)?),
                }
                Some(out)
            }),
        }
    }

    /// Encodes names and values.
    pub(super) fn fields(self, pairs: &[(String, String)]) -> Option<Fields> {
        let encoded =
            |(name, value): &(String, String)| Some((self.bytes(name)?, self.bytes(value)?));
        pairs.iter().map(encoded).collect()
    }
}

/// Java's GBK, as Java itself wrote it down: `new String(code, "GBK")` as UTF-16BE for each of the
/// 23,940 codes in their order (JDK 17.0.15).
struct Gbk {
    codes: BTreeMap<u16, [u8; 2]>,
    characters: Vec<char>,
}

static GBK: LazyLock<Gbk> = LazyLock::new(|| {
    let leads = 0x81..=0xfe_u8;
    let codes = leads.flat_map(|lead| {
        let trails = (0x40..=0xfe_u8).filter(|trail| *trail != 0x7f);
        trails.map(move |trail| [lead, trail])
    });
    let table = include_bytes!("java_gbk.utf16be").chunks_exact(2);
    let units = table.map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
    let codes: BTreeMap<_, _> = units.zip(codes).collect();
    let characters = codes
        .keys()
        .filter_map(|unit| char::from_u32(u32::from(*unit)));
    Gbk {
        characters: characters.collect(),
        codes,
    }
});

/// Every character that GBK has beside ASCII.
pub(super) fn gbk_characters() -> &'static [char] {
    &GBK.characters
}

/// Page 01, “Sign string”: all but `sign`, without what is empty, sorted by bytes, joined.
pub(super) fn v2_content(pairs: &[(String, String)], writing: Writing) -> Option<Vec<u8>> {
    Some(joined(&writing.fields(&sent(pairs))?))
}

/// What of these parameters is signed and sent.
pub(super) fn sent(pairs: &[(String, String)]) -> Pairs {
    let is_sent = |(name, value): &&(String, String)| name != "sign" && !is_empty(value);
    pairs.iter().filter(is_sent).cloned().collect()
}

/// Fields in their order: `name=value&…`.
pub(super) fn joined(fields: &Fields) -> Vec<u8> {
    let pairs = fields
        .iter()
        .map(|(name, value)| [name, &b"="[..], value].concat());
    pairs.collect::<Vec<_>>().join(&b'&')
}

/// What `StringUtils.isEmpty` of Alipay's Java SDK takes for empty: nothing but characters for which
/// `Character.isWhitespace` is true. The list is what JDK 17 gives over all characters.
pub(super) fn is_empty(value: &str) -> bool {
    value.chars().all(|character| BLANK.contains(&character))
}

pub(super) const BLANK: [char; 25] = [
    '\u{9}', '\u{a}', '\u{b}', '\u{c}', '\u{d}', '\u{1c}', '\u{1d}', '\u{1e}', '\u{1f}', '\u{20}',
    '\u{1680}', '\u{2000}', '\u{2001}', '\u{2002}', '\u{2003}', '\u{2004}', '\u{2005}', '\u{2006}',
    '\u{2008}', '\u{2009}', '\u{200a}', '\u{2028}', '\u{2029}', '\u{205f}', '\u{3000}',
];

/// Page 09: the sign contents that a notification may have been signed over.
pub(super) fn notification_contents(
    pairs: &[(String, String)],
    writing: Writing,
) -> Option<Vec<Vec<u8>>> {
    let mut contents = Vec::new();
    for certificate_kept in [true, false] {
        for type_kept in [false, true] {
            for empties_kept in [false, true] {
                let is_signed = |(name, value): &&(String, String)| match name.as_str() {
                    "sign" => false,
                    "sign_type" if !type_kept => false,
                    "alipay_cert_sn" if !certificate_kept => false,
                    _ => empties_kept || !is_empty(value),
                };
                let signed: Pairs = pairs.iter().filter(is_signed).cloned().collect();
                contents.push(joined(&writing.fields(&signed)?));
            }
        }
    }
    Some(contents)
}

/// Page 06: the lines of a v3 request.
pub(super) fn v3_content(lines: [&str; 3], body: &[u8], token: Option<&str>) -> Vec<u8> {
    let [auth, method, target] = lines;
    let mut content = format!("{auth}\n{}\n{target}\n", method.to_uppercase()).into_bytes();
    content.extend([body, b"\n"].concat());
    if let Some(token) = token.filter(|token| !token.is_empty()) {
        content.extend(format!("{token}\n").as_bytes());
    }
    content
}

/// Writes a form in one of the many ways in which a client may.
pub(super) fn write_form(
    pairs: &[(String, String)],
    writing: Writing,
    random: &mut Random,
) -> Option<Vec<u8>> {
    let mut form = Vec::new();
    for (name, value) in pairs {
        if !form.is_empty() {
            form.push(b'&');
        }
        escape(&mut form, &writing.bytes(name)?, random);
        // A name alone has an empty value.
        if !value.is_empty() || random.one_in(2) {
            form.push(b'=');
        }
        escape(&mut form, &writing.bytes(value)?, random);
        if random.one_in(40) {
            form.push(b'&');
        }
    }
    Some(form)
}

fn escape(form: &mut Vec<u8>, bytes: &[u8], random: &mut Random) {
    for &byte in bytes {
        let is_special = matches!(byte, b'%' | b'&' | b'+' | b'=' | b' ');
        let is_plain = byte.is_ascii_alphanumeric();
        match byte {
            b' ' if random.one_in(2) => form.push(b'+'),
            _ if is_plain && !random.one_in(30) => form.push(byte),
            // Old clients send bytes as they are.
            _ if !is_special && random.one_in(8) => form.push(byte),
            _ if random.one_in(2) => form.extend(format!("%{byte:02X}").as_bytes()),
            _ => form.extend(format!("%{byte:02x}").as_bytes()),
        }
    }
}

/// Reads a form strictly: nothing where it is malformed or has a name twice.
pub(super) fn read_form(form: &[u8]) -> Option<Fields> {
    let mut fields = Fields::new();
    for pair in form
        .split(|byte| *byte == b'&')
        .filter(|pair| !pair.is_empty())
    {
        let end = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (unescape(&pair[..end])?, unescape(&pair[end + 1..])?);
        if fields.insert(name, value).is_some() {
            return None;
        }
    }
    Some(fields)
}

fn unescape(mut piece: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    while let [first, rest @ ..] = piece {
        piece = match (first, rest) {
            (b'%', [high, low, rest @ ..]) => {
                let digits = [*high, *low];
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                out.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
                rest
            }
            (b'%', _) => return None,
            (b'+', rest) => {
                out.push(b' ');
                rest
            }
            (other, rest) => {
                out.push(*other);
                rest
            }
        };
    }
    Some(out)
}
