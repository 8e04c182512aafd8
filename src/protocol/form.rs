//! `application/x-www-form-urlencoded`, decoded once and encoded in a charset.

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
    let mut out = Vec::with_capacity(piece.len());
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
    Ok(out)
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
    for byte in charset.encode(text)? {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let digits = [byte >> 4, byte & 15];
            out.push('%');
            out.extend(digits.iter().filter_map(|&d| DIGITS.get(usize::from(d))));
        }
    }
    Ok(())
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
