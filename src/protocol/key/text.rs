//! From the text that a user pasted to the DER inside.

use base64::{
    DecodeError, Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use zeroize::Zeroizing;

use crate::protocol::error::KeyError;

/// One PEM block, or the bare base64 that stood there instead.
pub(super) struct Block {
    /// What stood behind `BEGIN`; empty for bare base64. Often wrong, so only a hint.
    pub(super) label: String,
    /// The decoded body.
    pub(super) der: Zeroizing<Vec<u8>>,
}

/// Decodes everything that may be a key: PEM or bare base64, on one line or wrapped, with CRLF,
/// BOM, stray spaces of any kind, `\n` spelled out, the dashes of a word processor, or the whole
/// PEM text once more in base64.
pub(super) fn blocks(text: &str, expected: &'static str) -> Result<Vec<Block>, KeyError> {
    let blocks = armoured(&tidy(text), expected)?;
    match blocks.first().map(|block| std::str::from_utf8(&block.der)) {
        Some(Ok(inner)) if inner.contains("-----BEGIN ") => armoured(&tidy(inner), expected),
        _ => Ok(blocks),
    }
}

/// Takes away what no key holds, and makes every dash a plain one.
fn tidy(text: &str) -> Zeroizing<String> {
    let spelled_out = Zeroizing::new(text.replace("\\r", "").replace("\\n", " "));
    let key = spelled_out
        .trim_matches(|c: char| c.is_whitespace() || is_invisible(c) || c == '"' || c == '\'');
    // Large enough from the start: a `String` that grows leaves copies behind.
    let mut tidy = Zeroizing::new(String::with_capacity(key.len()));
    tidy.extend(key.chars().filter_map(tidied));
    tidy
}

/// What is left of a character: base64 and labels, which are nearly all of a key, as they are.
fn tidied(c: char) -> Option<char> {
    match c {
        '!'..='~' => Some(c),
        c if is_invisible(c) => None,
        '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{ff0d}' => Some('-'),
        c if c.is_whitespace() => Some(' '),
        other => Some(other),
    }
}

/// Zero-width characters that chat programs and web pages put into text, and BOMs.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}' | '\u{ad}' | '\0'
    )
}

fn armoured(text: &str, expected: &'static str) -> Result<Vec<Block>, KeyError> {
    if text.contains("BEGIN ENCRYPTED") || text.contains("Proc-Type") {
        return Err(KeyError::Encrypted);
    }
    let mut found = Vec::new();
    let mut label = None;
    for piece in text
        .split('-')
        .map(str::trim)
        .filter(|piece| !piece.is_empty())
    {
        if let Some(begun) = piece.strip_prefix("BEGIN ") {
            label = Some(begun.trim().to_owned());
        } else if let Some(label) = label.take() {
            found.push(block(label, piece, expected)?);
        }
    }
    if found.is_empty() {
        let body = text.split("-----END").next().unwrap_or_default();
        found.push(block(String::new(), body, expected)?);
    }
    Ok(found)
}

fn block(label: String, body: &str, expected: &'static str) -> Result<Block, KeyError> {
    // The one kind of white space that `tidy` leaves.
    let body = Zeroizing::new(body.replace(' ', ""));
    let der = ENGINE
        .decode(body.as_bytes())
        .map_err(|source| KeyError::Base64 {
            at: match source {
                DecodeError::InvalidByte(at, _) => at,
                _ => body.len(),
            },
        })?;
    if der.is_empty() {
        return Err(KeyError::Empty { expected });
    }
    Ok(Block {
        label,
        der: Zeroizing::new(der),
    })
}

const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
