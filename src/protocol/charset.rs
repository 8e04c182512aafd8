//! The charsets that parameters, notifications and replies come in.

use super::error::{ProtocolError, shorten};

/// Names a charset of the protocol and converts from and to it, never lossily.
///
/// Protocol: 公共参数, `charset` (`utf-8`, `gbk`, `gb2312`). The label is signed as the caller
/// spelled it, so this type never replaces the text of the parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Charset {
    /// UTF-8, the default.
    #[default]
    Utf8,
}

impl Charset {
    /// Reads a label in any case, as it stands in `charset` or in a `Content-Type`.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::CharsetUnsupported`] for every label but those of UTF-8.
    pub fn from_label(label: &str) -> Result<Self, ProtocolError> {
        let plain = label.trim();
        if plain.eq_ignore_ascii_case("utf-8") || plain.eq_ignore_ascii_case("utf8") {
            return Ok(Self::Utf8);
        }
        Err(ProtocolError::CharsetUnsupported {
            label: shorten(label),
        })
    }

    /// Names the charset as Alipay's documents do.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Utf8 => "utf-8",
        }
    }

    /// Encodes text.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::CharsetMalformed`] where the charset lacks a character (UTF-8 lacks none).
    pub fn encode(self, text: &str) -> Result<Vec<u8>, ProtocolError> {
        match self {
            Self::Utf8 => Ok(text.as_bytes().to_vec()),
        }
    }

    /// Decodes bytes.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::CharsetMalformed`] at the first byte that isn't of this charset; nothing
    /// is ever replaced.
    pub fn decode(self, bytes: &[u8]) -> Result<String, ProtocolError> {
        match self {
            Self::Utf8 => match std::str::from_utf8(bytes) {
                Ok(text) => Ok(text.to_owned()),
                Err(source) => Err(ProtocolError::CharsetMalformed {
                    what: "the text",
                    charset: self.label(),
                    at: source.valid_up_to(),
                }),
            },
        }
    }
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
    fn other_labels_are_refused_by_name() {
        for label in ["GBK", "gb2312", "GB18030", "latin1", "", "utf-16"] {
            let error = Charset::from_label(label).unwrap_err();
            assert_eq!(error.kind(), "charset-unsupported", "{label}");
        }
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
