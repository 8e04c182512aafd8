//! The spellings in which a `sign` arrives, taken back one by one.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD},
};

use super::{
    cause::{Cause, SignCause},
    html,
};

/// A `sign` decoded, and what had to be taken back for it.
pub(super) struct Decoded {
    pub(super) causes: Vec<Cause>,
    pub(super) signature: Vec<u8>,
}

/// Decodes a `sign` in each way that gives bytes, the proper one first. Empty: it is no base64 in
/// any spelling.
pub(super) fn decodings(sign: &str) -> Vec<Decoded> {
    let mut found = Vec::new();
    if let Ok(signature) = STANDARD.decode(sign) {
        found.push(Decoded {
            causes: Vec::new(),
            signature,
        });
    }
    found.extend(hexadecimal(sign));
    found.extend(repaired(sign, Spaces::ArePlus));
    found.extend(repaired(sign, Spaces::AreBreaks));
    found.retain(|decoded| !decoded.signature.is_empty());
    found
}

/// What spaces inside may have been.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Spaces {
    AreBreaks,
    ArePlus,
}

/// Takes every known harm back, in the reverse order of how it comes about.
fn repaired(sign: &str, spaces: Spaces) -> Option<Decoded> {
    let mut causes = Vec::new();
    let mut text = sign.to_owned();
    let mut step = |next: String, text: &mut String, cause: SignCause| {
        if next != *text {
            causes.push(cause.into());
            *text = next;
        }
    };
    let trimmed = text.trim_matches(is_break).to_owned();
    step(trimmed, &mut text, SignCause::WhiteSpace);
    let unquoted = text.trim_matches('"').replace("\\/", "/");
    step(unquoted, &mut text, SignCause::Quoted);
    step(html::unescape(&text), &mut text, SignCause::HtmlEscaped);
    step(percent_decoded(&text), &mut text, SignCause::PercentEncoded);
    let joined: String = text.chars().filter(|&c| !is_break(c)).collect();
    step(joined, &mut text, SignCause::WhiteSpace);
    match spaces {
        Spaces::ArePlus => step(text.replace(' ', "+"), &mut text, SignCause::PlusAsSpace),
        Spaces::AreBreaks => step(text.replace(' ', ""), &mut text, SignCause::WhiteSpace),
    }
    let standard = text.replace('-', "+").replace('_', "/");
    step(standard, &mut text, SignCause::UrlSafe);
    let padded = padded(&text);
    step(padded, &mut text, SignCause::Padding);
    let signature = LENIENT.decode(&text).ok()?;
    causes.dedup();
    (!causes.is_empty()).then_some(Decoded { causes, signature })
}

fn is_break(c: char) -> bool {
    c != ' ' && (c.is_whitespace() || c.is_control() || matches!(c, '\u{feff}' | '\u{200b}'))
}

fn padded(text: &str) -> String {
    let bare = text.trim_end_matches('=');
    format!("{bare}{}", "=".repeat((4 - bare.len() % 4) % 4))
}

fn percent_decoded(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let decoded = crate::protocol::form::unescape(text.replace('+', "%2B").as_bytes(), 0);
    decoded
        .ok()
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .unwrap_or_else(|| text.to_owned())
}

fn hexadecimal(sign: &str) -> Option<Decoded> {
    let digits = sign.trim().as_bytes();
    let is_hex = digits.len() >= 256 && digits.iter().all(u8::is_ascii_hexdigit);
    let digit = |byte: &u8| {
        let digit = char::from(*byte).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    let byte = |pair: &[u8]| match pair {
        [high, low] => Some(digit(high)? << 4 | digit(low)?),
        _ => None,
    };
    let signature: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    Some(Decoded {
        causes: vec![SignCause::Hex.into()],
        signature: signature.filter(|_| is_hex)?,
    })
}

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sign: &str, kinds: &[&str]) {
        let expected = STANDARD.decode("+/+/abcd+A==").unwrap();
        let found = decodings(sign);
        let right = found.iter().find(|decoded| decoded.signature == expected);
        let causes = right.unwrap_or_else(|| panic!("{sign:?}")).causes.iter();
        assert_eq!(
            causes.map(Cause::kind).collect::<Vec<_>>(),
            kinds,
            "{sign:?}"
        );
    }

    #[test]
    fn each_spelling_is_taken_back_and_named() {
        check("+/+/abcd+A==", &[]);
        check(" / /abcd A==", &["sign-plus-as-space"]);
        check("-_-_abcd-A==", &["sign-url-safe"]);
        check("-_-_abcd-A", &["sign-url-safe", "sign-padding"]);
        check("%2B%2F%2B%2Fabcd%2BA%3D%3D", &["sign-percent-encoded"]);
        check("+/+/\r\nabcd\n+A==\n", &["sign-white-space"]);
        check("+/+/ab cd+A==", &["sign-white-space"]);
        check("+/+/abcd+A", &["sign-padding"]);
        check("\"+\\/+\\/abcd+A==\"", &["sign-quoted"]);
        check(
            "&#43;/&#43;&#x2F;abcd&#43;A&#61;&#61;",
            &["sign-html-escaped"],
        );
        assert!(decodings("not a signature!").is_empty());
        assert!(decodings("").is_empty());
    }
}
