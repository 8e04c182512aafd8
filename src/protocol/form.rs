//! `application/x-www-form-urlencoded`, decoded once and encoded in a charset.

use std::borrow::Cow;

use memchr::memchr2;

use super::{charset::Charset, error::ProtocolError};

/// Splits a form into its still encoded pairs: offset, name, value.
///
/// Empty segments (`a=1&&b=2`) are skipped, a name without `=` has an empty value.
pub(super) fn segments(raw: &[u8]) -> impl Iterator<Item = (usize, &[u8], &[u8])> {
    let mut start = 0;
    raw.split(|&byte| byte == b'&').filter_map(move |segment| {
        let at = start;
        start += segment.len() + 1;
        let mut halves = segment.splitn(2, |&byte| byte == b'=');
        let name = halves.next()?;
        (!segment.is_empty()).then(|| (at, name, halves.next().unwrap_or_default()))
    })
}

/// Takes the form encoding off once: `+` becomes a space, `%XX` a byte. `at` is where the piece
/// stands in the form.
pub(super) fn unescape(piece: &[u8], at: usize) -> Result<Vec<u8>, ProtocolError> {
    unescape_cow(piece, at).map(Cow::into_owned)
}

/// The same; a piece that has neither isn't copied.
pub(super) fn unescape_cow(piece: &[u8], at: usize) -> Result<Cow<'_, [u8]>, ProtocolError> {
    if memchr2(b'+', b'%', piece).is_none() {
        return Ok(Cow::Borrowed(piece));
    }
    // What is decoded may be kept: it takes no more room than it needs.
    let escapes = piece.iter().filter(|byte| **byte == b'%').count();
    let mut out = Vec::with_capacity(piece.len().saturating_sub(2 * escapes));
    let mut rest = piece;
    loop {
        let (plain, behind) = rest.split_at(memchr2(b'+', b'%', rest).unwrap_or(rest.len()));
        out.extend_from_slice(plain);
        rest = match behind {
            [] => return Ok(Cow::Owned(out)),
            [b'+', after @ ..] => {
                out.push(b' ');
                after
            }
            [b'%', high, low, after @ ..]
                if let Some(byte) = hex_digit(*high).zip(hex_digit(*low)) =>
            {
                out.push(byte.0 * 16 + byte.1);
                after
            }
            _ => {
                return Err(ProtocolError::PercentInvalid {
                    at: at + (piece.len() - behind.len()),
                });
            }
        };
    }
}

/// Percent-encodes everything but RFC 3986's unreserved characters; a space becomes `%20`, which
/// means the same in a query, a form and an order string.
pub(super) fn escape(text: &str, charset: Charset) -> Result<String, ProtocolError> {
    let mut out = Vec::new();
    escape_into(&mut out, text, charset)?;
    Ok(as_text(out))
}

fn escape_into(out: &mut Vec<u8>, text: &str, charset: Charset) -> Result<(), ProtocolError> {
    let bytes = charset.encode_cow(text)?;
    for piece in bytes.split_inclusive(|byte| !is_unreserved(*byte)) {
        match piece.split_last() {
            Some((&last, before)) if !is_unreserved(last) => {
                out.extend_from_slice(before);
                out.extend([b'%', digit(last >> 4), digit(last & 15)]);
            }
            _ => out.extend_from_slice(piece),
        }
    }
    Ok(())
}

fn is_unreserved(byte: u8) -> bool {
    UNRESERVED.get(usize::from(byte)).is_some_and(|is| *is)
}

/// Of each byte, whether it stands for itself: to look that up takes a third of comparing it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::indexing_slicing,
    reason = "less than 256, as the compiler proves"
)]
static UNRESERVED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        let character = byte as u8;
        table[byte] =
            character.is_ascii_alphanumeric() || matches!(character, b'-' | b'.' | b'_' | b'~');
        byte += 1;
    }
    table
};

fn digit(value: u8) -> u8 {
    match value {
        0..=9 => b'0' + value,
        _ => b'A' + (value - 10),
    }
}

/// Joins pairs as `name=value&…`, encoded.
pub(super) fn join<'a>(
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    charset: Charset,
) -> Result<String, ProtocolError> {
    let mut out = Vec::with_capacity(USUAL);
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push(b'&');
        }
        escape_into(&mut out, name, charset)?;
        out.push(b'=');
        escape_into(&mut out, value, charset)?;
    }
    Ok(as_text(out))
}

/// How many bytes a query usually has, most of which are the signature.
const USUAL: usize = 1024;

fn as_text(escaped: Vec<u8>) -> String {
    String::from_utf8(escaped).expect("unreserved characters, `%`, `=` and `&` are ASCII")
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_no_decoding_is_not_copied() {
        let is_copied = |piece: &[u8]| matches!(unescape_cow(piece, 0), Ok(Cow::Owned(_)));
        assert!(!is_copied(b"") && !is_copied("a=中".as_bytes()));
        assert!(is_copied(b"a+") && is_copied(b"%41"));
    }

    #[test]
    fn what_is_decoded_takes_no_more_room_than_it_needs() {
        for piece in [
            "%41".repeat(100),
            "a+".repeat(100),
            "%e4%b8%ad+%41".repeat(10),
        ] {
            let decoded = unescape(piece.as_bytes(), 0).unwrap();
            assert_eq!(decoded.capacity(), decoded.len(), "{piece}");
        }
        // Refused, whatever room was made.
        for piece in ["%%%%", "%", "a%4"] {
            assert!(unescape(piece.as_bytes(), 0).is_err(), "{piece}");
        }
    }

    #[test]
    fn an_escape_that_is_none_is_told_with_its_place() {
        for (piece, place) in [
            ("%", 0),
            ("a%4", 1),
            ("%41%4g", 3),
            ("+%g4", 1),
            ("%%41", 0),
        ] {
            let told = unescape(piece.as_bytes(), 10).unwrap_err();
            let at = 10 + place;
            assert_eq!(told, ProtocolError::PercentInvalid { at }, "{piece}");
        }
        assert_eq!(unescape(b"%41%4a+%4Ab", 0).unwrap(), b"AJ Jb");
    }

    #[test]
    fn every_byte_but_the_unreserved_is_written_as_two_digits() {
        for c in (0..=0x7f).map(char::from) {
            let plain = c.is_ascii_alphanumeric() || "-._~".contains(c);
            let expected = match plain {
                true => c.to_string(),
                false => format!("%{:02X}", u32::from(c)),
            };
            // Alone, before and behind plain ones.
            for text in ["", "ab"].map(|plain| format!("{plain}{c}{plain}")) {
                let escaped = escape(&text, Charset::Utf8).unwrap();
                let expected = text.replace(c, &expected);
                assert_eq!(escaped, expected, "{c:?}");
            }
        }
        assert_eq!(escape("", Charset::Utf8).unwrap(), "");
        assert_eq!(escape("a中", Charset::Utf8).unwrap(), "a%E4%B8%AD");
        assert_eq!(escape("a中", Charset::Gbk).unwrap(), "a%D6%D0");
    }
}
