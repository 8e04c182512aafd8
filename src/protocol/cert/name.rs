//! Names as Java's `X500Principal.getName()` prints them: that text goes into the serial number.
//!
//! RFC 2253, with what OpenJDK's `AVA.toRFC2253String` adds: `=` and `#` are escaped anywhere, a
//! NUL is `\00`, and each leading or trailing space or carriage return is escaped.

use rsa::pkcs8::{
    ObjectIdentifier,
    der::{self, AnyRef, Decode, Reader, Tag, Tagged},
};

use super::der::inside;

/// Prints a `Name` (DER, with its header).
pub(super) fn rfc2253(name: &[u8]) -> der::Result<String> {
    let mut sets = inside(name, Tag::Sequence)?;
    let mut printed = Vec::new();
    while !sets.is_finished() {
        printed.push(relative_name(sets.tlv_bytes()?)?);
    }
    printed.reverse();
    Ok(printed.join(","))
}

fn relative_name(set: &[u8]) -> der::Result<String> {
    let mut pairs = inside(set, Tag::Set)?;
    let mut printed = Vec::new();
    while !pairs.is_finished() {
        printed.push(attribute(pairs.tlv_bytes()?)?);
    }
    Ok(printed.join("+"))
}

fn attribute(pair: &[u8]) -> der::Result<String> {
    let mut reader = inside(pair, Tag::Sequence)?;
    let oid: ObjectIdentifier = reader.decode()?;
    let value = reader.tlv_bytes()?;
    let dotted = oid.to_string();
    let keyword = KEYWORDS
        .iter()
        .find_map(|&(known, keyword)| (known == dotted).then_some(keyword));
    let any = AnyRef::from_der(value)?;
    let text = keyword.and_then(|keyword| Some((keyword, string(any)?)));
    let printed = match text {
        Some((keyword, text)) => format!("{keyword}={}", escaped(&text)),
        None => format!("{}=#{}", keyword.unwrap_or(&dotted), super::hex(value)),
    };
    reader.finish(printed)
}

/// Reads the kinds of string that Java prints as such; the others are printed in hexadecimal.
fn string(value: AnyRef<'_>) -> Option<String> {
    let bytes = value.value();
    match value.tag() {
        Tag::Utf8String => Some(String::from_utf8_lossy(bytes).into_owned()),
        Tag::PrintableString | Tag::TeletexString | Tag::Ia5String => {
            Some(bytes.iter().copied().map(char::from).collect())
        }
        Tag::BmpString => {
            let (units, rest) = bytes.as_chunks::<2>();
            let units: Vec<_> = units.iter().copied().map(u16::from_be_bytes).collect();
            rest.is_empty().then(|| String::from_utf16_lossy(&units))
        }
        _ => None,
    }
}

fn escaped(text: &str) -> String {
    let is_space = |c: char| matches!(c, ' ' | '\r');
    let (leading, rest) = text.split_at(text.len() - text.trim_start_matches(is_space).len());
    let (middle, trailing) = rest.split_at(rest.trim_end_matches(is_space).len());
    let mut out = String::with_capacity(text.len());
    let escape = |out: &mut String, c| out.extend(['\\', c]);
    leading.chars().for_each(|c| escape(&mut out, c));
    for c in middle.chars() {
        match c {
            ',' | '=' | '+' | '<' | '>' | '#' | ';' | '"' | '\\' => escape(&mut out, c),
            '\0' => out.push_str("\\00"),
            other => out.push(other),
        }
    }
    trailing.chars().for_each(|c| escape(&mut out, c));
    out
}

/// The types that RFC 2253 has a keyword for; all others stand as dotted numbers.
const KEYWORDS: [(&str, &str); 9] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rfc_2253_and_java_escape_is_escaped() {
        for (text, expected) in [
            ("plain 中文", "plain 中文"),
            ("a,b+c\"d\\e<f>g;h", "a\\,b\\+c\\\"d\\\\e\\<f\\>g\\;h"),
            ("#a#b=c", "\\#a\\#b\\=c"),
            ("  a b  ", "\\ \\ a b\\ \\ "),
            ("   ", "\\ \\ \\ "),
            ("\ra\0b", "\\\ra\\00b"),
            ("", ""),
        ] {
            assert_eq!(escaped(text), expected, "{text:?}");
        }
    }

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        [&[tag, u8::try_from(content.len()).unwrap()], &content[..]].concat()
    }

    fn pair(oid: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        der(0x30, &[&der(6, &[oid]), &der(tag, &[value])])
    }

    #[test]
    fn names_are_printed_backwards_and_sets_in_their_order() {
        let many = der(
            0x31,
            &[
                &pair(&[0x55, 4, 3], 12, b"x"),
                &pair(&[0x55, 4, 11], 19, b"y"),
            ],
        );
        let country = der(0x31, &[&pair(&[0x55, 4, 6], 19, b"CN")]);
        let title = der(0x31, &[&pair(&[0x55, 4, 12], 12, b"t")]);
        let name = der(0x30, &[&country, &many, &title]);
        assert_eq!(rfc2253(&name).unwrap(), "2.5.4.12=#0c0174,CN=x+OU=y,C=CN");
        assert_eq!(rfc2253(&der(0x30, &[])).unwrap(), "");
    }

    #[test]
    fn strings_of_other_kinds_are_read_as_java_does() {
        for (tag, value, expected) in [
            (0x1e, b"\x4e\x2d\0A".as_slice(), "CN=中A"),
            (0x14, b"\xe9", "CN=é"),
            (0x16, b"a@b", "CN=a@b"),
            (0x1e, b"\0", "CN=#1e0100"),
            (0x04, b"\x01", "CN=#040101"),
        ] {
            let name = der(0x30, &[&der(0x31, &[&pair(&[0x55, 4, 3], tag, value)])]);
            assert_eq!(rfc2253(&name).unwrap(), expected);
        }
    }
}
