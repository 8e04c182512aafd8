//! The simulator's own reading and writing of charsets, made without the sidecar's protocol code.
use encoding_rs::GB18030;

/// The charset of a request, of its reply, or of a notification.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Charset {
    /// GB18030's codes of one and two bytes: `€` is A2 E3.
    Gbk,
    /// The default.
    #[default]
    Utf8,
}

impl Charset {
    /// Reads a label that the gateway takes, in any case.
    pub(super) fn of(label: &str) -> Option<Self> {
        match label.to_ascii_lowercase().as_str() {
            "gb2312" | "gbk" => Some(Self::Gbk),
            "utf-8" => Some(Self::Utf8),
            _ => None,
        }
    }

    /// Names it for a `Content-Type`.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Gbk => "GBK",
            Self::Utf8 => "utf-8",
        }
    }

    /// Decodes bytes that were written as [`encode`](Self::encode) would.
    pub(super) fn decode(self, bytes: &[u8]) -> Option<String> {
        match self {
            Self::Gbk => {
                let text = GB18030.decode_without_bom_handling_and_without_replacement(bytes)?;
                (self.encode(&text)? == bytes).then(|| text.into_owned())
            }
            Self::Utf8 => String::from_utf8(bytes.to_vec()).ok(),
        }
    }

    /// Encodes text; none where a character is lacking.
    pub(super) fn encode(self, text: &str) -> Option<Vec<u8>> {
        if self == Self::Utf8 {
            return Some(text.as_bytes().to_vec());
        }
        let mut bytes = Vec::with_capacity(text.len());
        for character in text.chars() {
            bytes.extend(two_bytes(character)?);
        }
        Some(bytes)
    }

    /// Writes JSON so that every character has a code: what is lacking becomes `\uXXXX`.
    pub(super) fn spell_json(self, json: &str) -> String {
        let mut out = String::with_capacity(json.len());
        for character in json.chars() {
            if self == Self::Utf8 || two_bytes(character).is_some() {
                out.push(character);
                continue;
            }
            for unit in character.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        }
        out
    }
}

fn two_bytes(character: char) -> Option<Vec<u8>> {
    let mut buffer = [0; 4];
    let (bytes, _, _) = GB18030.encode(character.encode_utf8(&mut buffer));
    (bytes.len() <= 2).then(|| bytes.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gbk_is_read_and_written_in_two_bytes() {
        assert_eq!(Charset::Gbk.encode("中€").unwrap(), b"\xd6\xd0\xa2\xe3");
        assert_eq!(Charset::Gbk.decode(b"\xd6\xd0\xa2\xe3").unwrap(), "中€");
        assert_eq!(Charset::Gbk.encode("😀"), None);
        for bytes in [&b"\x80"[..], b"\xd6", b"\x94\x39\xfc\x36"] {
            assert_eq!(Charset::Gbk.decode(bytes), None, "{bytes:x?}");
        }
        assert_eq!(Charset::Gbk.spell_json("\"中😀\""), r#""中\ud83d\ude00""#);
    }
}
