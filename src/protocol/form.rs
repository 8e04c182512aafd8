//! `application/x-www-form-urlencoded`, decoded once and encoded in a charset.

use std::borrow::Cow;

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
    if !piece.iter().any(|byte| matches!(byte, b'+' | b'%')) {
        return Ok(Cow::Borrowed(piece));
    }
    // What is decoded may be kept: it takes no more room than it needs.
    let escapes = piece.iter().filter(|byte| **byte == b'%').count();
    let mut out = Vec::with_capacity(piece.len().saturating_sub(2 * escapes));
    let mut bytes = piece.iter().enumerate();
    while let Some((offset, &byte)) = bytes.next() {
        out.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || bytes.next().and_then(|(_, &byte)| hex_digit(byte));
                let (high, low) = (digit(), digit());
                high.zip(low)
                    .map(|(high, low)| high * 16 + low)
                    .ok_or(ProtocolError::PercentInvalid { at: at + offset })?
            }
            plain => plain,
        });
    }
    Ok(Cow::Owned(out))
}

/// Percent-encodes everything but RFC 3986's unreserved characters; a space becomes `%20`, which
/// means the same in a query, a form and an order string.
pub(super) fn escape_into(
    out: &mut String,
    text: &str,
    charset: Charset,
) -> Result<(), ProtocolError> {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
    ];
    let bytes = charset.encode_cow(text)?;
    out.reserve(bytes.iter().map(|&byte| written(byte)).sum());
    for &byte in bytes.iter() {
        if is_unreserved(byte) {
            out.push(char::from(byte));
        } else {
            let digits = [byte >> 4, byte & 15];
            out.push('%');
            out.extend(digits.iter().filter_map(|&d| DIGITS.get(usize::from(d))));
        }
    }
    Ok(())
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// How many characters a byte is written as.
fn written(byte: u8) -> usize {
    if is_unreserved(byte) { 1 } else { 3 }
}

/// Joins pairs as `name=value&…`, encoded.
pub(super) fn join<'a>(
    pairs: impl IntoIterator<Item = (&'a str, &'a str)>,
    charset: Charset,
) -> Result<String, ProtocolError> {
    let mut out = String::new();
    for (name, value) in pairs {
        if !out.is_empty() {
            out.push('&');
        }
        escape_into(&mut out, name, charset)?;
        out.push('=');
        escape_into(&mut out, value, charset)?;
    }
    Ok(out)
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
    fn a_byte_is_written_as_so_many_characters_as_is_said() {
        for text in ["", "abc", "a b", "中", "{\"a\":1}"] {
            let mut out = String::new();
            escape_into(&mut out, text, Charset::Utf8).unwrap();
            let length: usize = text.bytes().map(written).sum();
            assert_eq!(out.len(), length, "{out}");
        }
    }
}
