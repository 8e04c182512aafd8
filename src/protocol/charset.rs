//! The charsets that parameters, notifications and replies come in.

use std::{borrow::Cow, fmt};

use super::{
    error::{ProtocolError, shorten},
    form, gbk,
    params::name,
};

/// Names a charset of the protocol and converts from and to it, never lossily.
///
/// Protocol: 公共参数, `charset` (`utf-8`, `gbk`, `gb2312`). The label is signed as the caller
/// spelled it: [`CharsetLabel`] keeps that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Charset {
    /// GBK as Java has it; GB2312 is a part of it with the same bytes.
    Gbk,
    /// UTF-8, the default.
    #[default]
    Utf8,
}

impl Charset {
    /// Reads a label in any case, as it stands in `charset` or in a `Content-Type`.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::CharsetUnsupported`] for every label but those of UTF-8, GBK and GB2312.
    /// (GB18030 isn't one of Alipay's, and its four-byte codes aren't GBK.)
    pub fn from_label(label: &str) -> Result<Self, ProtocolError> {
        let plain = label.trim();
        let is = |known: &[&str]| known.iter().any(|known| plain.eq_ignore_ascii_case(known));
        if is(&["utf-8", "utf8"]) {
            return Ok(Self::Utf8);
        }
        if is(&["gbk", "gb2312"]) {
            return Ok(Self::Gbk);
        }
        Err(ProtocolError::CharsetUnsupported {
            label: shorten(label),
        })
    }

    /// Names the charset as Alipay's documents do.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Gbk => "GBK",
            Self::Utf8 => "utf-8",
        }
    }

    /// Encodes text.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::CharacterMissing`] where the charset lacks a character (UTF-8 lacks none).
    /// Java writes `?` there and so changes what is signed; we never do.
    pub fn encode(self, text: &str) -> Result<Vec<u8>, ProtocolError> {
        self.encode_cow(text).map(Cow::into_owned)
    }

    /// The same; what is written as it is in memory isn't copied.
    pub(super) fn encode_cow(self, text: &str) -> Result<Cow<'_, [u8]>, ProtocolError> {
        match self {
            Self::Gbk => {
                gbk::encode(text)
                    .map(Cow::Owned)
                    .map_err(|at| ProtocolError::CharacterMissing {
                        charset: self.label(),
                        at,
                    })
            }
            Self::Utf8 => Ok(Cow::Borrowed(text.as_bytes())),
        }
    }

    /// Encodes the value of a parameter.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::ParameterCharacterMissing`], which names the parameter.
    pub fn encode_parameter(self, name: &str, value: &str) -> Result<Vec<u8>, ProtocolError> {
        self.encode(value).map_err(|error| match error {
            ProtocolError::CharacterMissing { charset, at } => {
                ProtocolError::ParameterCharacterMissing {
                    name: shorten(name),
                    charset,
                    at,
                }
            }
            other => other,
        })
    }

    /// Decodes bytes.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::CharsetMalformed`] at the first byte that isn't of this charset; nothing
    /// is ever replaced.
    pub fn decode(self, bytes: &[u8]) -> Result<String, ProtocolError> {
        let decoded = match self {
            Self::Gbk => gbk::decode(bytes),
            Self::Utf8 => std::str::from_utf8(bytes)
                .map(str::to_owned)
                .map_err(|source| source.valid_up_to()),
        };
        decoded.map_err(|at| self.malformed(at))
    }

    /// The same; bytes that are the text already aren't copied.
    pub(super) fn decode_cow(self, bytes: Cow<'_, [u8]>) -> Result<Cow<'_, str>, ProtocolError> {
        match (self, bytes) {
            (Self::Utf8, Cow::Borrowed(bytes)) => std::str::from_utf8(bytes)
                .map(Cow::Borrowed)
                .map_err(|source| self.malformed(source.valid_up_to())),
            (Self::Utf8, Cow::Owned(bytes)) => String::from_utf8(bytes)
                .map(Cow::Owned)
                .map_err(|source| self.malformed(source.utf8_error().valid_up_to())),
            (Self::Gbk, bytes) => self.decode(&bytes).map(Cow::Owned),
        }
    }

    fn malformed(self, at: usize) -> ProtocolError {
        ProtocolError::CharsetMalformed {
            what: "the text",
            charset: self.label(),
            at,
        }
    }

    /// Counts the bytes that a character beginning with `lead` may hide from a scanner. In UTF-8
    /// none: no byte of a longer character looks like ASCII. The trail of a GBK code may be `\`,
    /// `{` or a letter.
    pub(super) fn character_length(self, lead: u8) -> usize {
        match self {
            Self::Gbk => gbk::length(lead),
            Self::Utf8 => 1,
        }
    }

    /// Tells whether a browser that submits text in this charset writes the same bytes. The Web's
    /// GBK differs from Java's, first of all in `€`.
    pub(super) fn is_written_alike_by_browsers(self, text: &str) -> bool {
        match self {
            Self::Gbk => {
                let (theirs, _, lossy) = encoding_rs::GBK.encode(text);
                !lossy && gbk::encode(text).is_ok_and(|ours| ours == theirs.as_ref())
            }
            Self::Utf8 => true,
        }
    }
}

/// Holds a charset together with the spelling of its name, which is signed and sent as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CharsetLabel {
    charset: Charset,
    label: Cow<'static, str>,
}

impl CharsetLabel {
    /// Reads a `charset` parameter.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::CharsetUnsupported`], also with white space around the name.
    pub fn parse(label: &str) -> Result<Self, ProtocolError> {
        if label.trim() != label {
            return Err(ProtocolError::CharsetUnsupported {
                label: shorten(label),
            });
        }
        Ok(Self {
            charset: Charset::from_label(label)?,
            label: label.to_owned().into(),
        })
    }

    /// Gives the charset.
    #[must_use]
    pub fn charset(&self) -> Charset {
        self.charset
    }

    /// Gives the name as it was spelled.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.label
    }
}

impl Default for CharsetLabel {
    fn default() -> Self {
        Charset::default().into()
    }
}

impl From<Charset> for CharsetLabel {
    fn from(charset: Charset) -> Self {
        Self {
            charset,
            label: charset.label().into(),
        }
    }
}

impl fmt::Display for CharsetLabel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

/// Finds the `charset` parameter of a query or form before anything else of it is decoded; labels
/// are ASCII in every charset.
#[must_use]
pub fn label_of_form(raw: &[u8]) -> Option<String> {
    form::segments(raw).find_map(|(at, key, value)| {
        let is_charset =
            form::unescape_cow(key, at).is_ok_and(|key| *key == *name::CHARSET.as_bytes());
        let value = is_charset
            .then(|| form::unescape(value, at).ok())
            .flatten()?;
        let label = String::from_utf8_lossy(&value).into_owned();
        (!label.trim().is_empty()).then_some(label)
    })
}

/// Finds the charset that a `Content-Type` names.
#[must_use]
pub fn label_of_content_type(content_type: &str) -> Option<String> {
    content_type.split(';').skip(1).find_map(|parameter| {
        let (key, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        let is_charset = key.trim().eq_ignore_ascii_case("charset") && !value.is_empty();
        is_charset.then(|| value.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_utf_8_come_in_any_case() {
        for label in ["utf-8", "UTF-8", "Utf8", "utf8", " utf-8 "] {
            assert_eq!(Charset::from_label(label), Ok(Charset::Utf8), "{label}");
        }
    }

    #[test]
    fn labels_of_gbk_keep_their_spelling() {
        for spelled in ["GBK", "gbk", "Gb2312", "GB2312"] {
            let label = CharsetLabel::parse(spelled).unwrap();
            assert_eq!((label.charset(), label.as_str()), (Charset::Gbk, spelled));
        }
        assert!(CharsetLabel::parse(" GBK").is_err());
        assert_eq!(CharsetLabel::default().as_str(), "utf-8");
    }

    #[test]
    fn a_character_that_gbk_lacks_is_an_error_and_never_a_question_mark() {
        let error = Charset::Gbk.encode("中😀").unwrap_err();
        assert_eq!(error.kind(), "character-missing");
        assert!(error.to_string().contains("byte 3"), "{error}");
    }

    #[test]
    fn a_browser_writes_the_euro_sign_otherwise() {
        assert!(Charset::Gbk.is_written_alike_by_browsers("中 a"));
        for text in ["€", "😀", "\u{e7c7}"] {
            assert!(!Charset::Gbk.is_written_alike_by_browsers(text), "{text}");
        }
    }

    #[test]
    fn the_label_is_found_in_the_encoded_form() {
        for (form, expected) in [
            ("a=1&charset=GBK", Some("GBK")),
            ("%63harset=gb%6b&charset=x", Some("gbk")),
            ("charset=&charset=GBK", Some("GBK")),
            ("Charset=GBK&xcharset=GBK&charset", None),
        ] {
            assert_eq!(
                label_of_form(form.as_bytes()).as_deref(),
                expected,
                "{form}"
            );
        }
        for (content_type, expected) in [
            ("text/html;charset=GBK", Some("GBK")),
            ("x; a=b; Charset = \"gbk\" ", Some("gbk")),
            ("charset=GBK", None),
            ("x; charset=", None),
        ] {
            let found = label_of_content_type(content_type);
            assert_eq!(found.as_deref(), expected, "{content_type}");
        }
    }

    #[test]
    fn other_labels_are_refused_by_name() {
        for label in ["GB18030", "cp936", "latin1", "", "utf-16"] {
            let error = Charset::from_label(label).unwrap_err();
            assert_eq!(error.kind(), "charset-unsupported", "{label}");
        }
    }

    #[test]
    fn bytes_of_ones_own_become_the_text() {
        let bytes = b"a b".to_vec();
        let at = bytes.as_ptr();
        let text = Charset::Utf8.decode_cow(Cow::Owned(bytes)).unwrap();
        assert_eq!((&*text, text.as_ptr()), ("a b", at));
        let borrowed = Charset::Utf8.decode_cow(Cow::Borrowed(b"a"));
        assert_eq!(borrowed.as_deref(), Ok("a"));
        let gbk = Charset::Gbk.decode_cow(Cow::Owned(b"\xc4\xa3".to_vec()));
        assert_eq!(gbk.as_deref(), Ok("模"));
        let refused = Charset::Utf8.decode_cow(Cow::Owned(b"ab\xd6".to_vec()));
        assert!(matches!(
            refused,
            Err(ProtocolError::CharsetMalformed { at: 2, .. })
        ));
        assert!(matches!(
            Charset::Utf8.encode_cow("a"),
            Ok(Cow::Borrowed(b"a"))
        ));
    }

    #[test]
    fn undecodable_bytes_are_refused_with_their_place() {
        let error = Charset::Utf8.decode(b"ab\xd6\xd0").unwrap_err();
        assert!(matches!(
            error,
            ProtocolError::CharsetMalformed { at: 2, .. }
        ));
    }
}
