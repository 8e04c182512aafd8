//! The layout of an upload: `multipart/form-data` as Alipay's SDKs write it.
//!
//! Protocol: 公共请求参数, file upload: common parameters stand in the query, text parameters are
//! parts and are signed, file parts carry a filename and aren't. All of it is written in the charset
//! of the call (`WebUtils` of the Java SDK).

use super::{charset::CharsetLabel, error::ProtocolError};

/// What stands before and after the parts.
#[derive(Debug, Clone)]
pub struct Layout {
    boundary: String,
    charset: CharsetLabel,
}

/// The head of a file part.
#[derive(Debug, Clone, Copy)]
pub struct FileHead<'a> {
    /// The parameter's name.
    pub name: &'a str,
    /// The file's name.
    pub file_name: &'a str,
    /// Its declared type.
    pub content_type: &'a str,
}

impl Layout {
    /// A layout in UTF-8 with a boundary made of `random`, which content can't be made to contain.
    #[must_use]
    pub fn new(random: u128) -> Self {
        Self {
            boundary: format!("alipay-sidecar-{random:032x}"),
            charset: CharsetLabel::default(),
        }
    }

    /// The same layout in another charset, whose name is written as it is spelled.
    #[must_use]
    pub fn in_charset(self, charset: CharsetLabel) -> Self {
        Self { charset, ..self }
    }

    /// The `Content-Type` of the whole.
    #[must_use]
    pub fn content_type(&self) -> String {
        let Self { boundary, charset } = self;
        format!("multipart/form-data;charset={charset};boundary={boundary}")
    }

    /// A whole text part, in the charset.
    ///
    /// # Errors
    /// [`ProtocolError::ParameterCharacterMissing`] where the charset lacks a character.
    pub fn text(&self, name: &str, value: &str) -> Result<Vec<u8>, ProtocolError> {
        let Self { boundary, charset } = self;
        let quoted = quoted(name);
        let part = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{quoted}\"\r\n\
             Content-Type: text/plain;charset={charset}\r\n\r\n{value}\r\n"
        );
        self.encode((name, value), &part)
    }

    /// A whole JSON part, as v3 wants its `data`; v3 is UTF-8 alone.
    #[must_use]
    pub fn json(&self, name: &str, value: &str) -> Vec<u8> {
        let (boundary, name) = (&self.boundary, quoted(name));
        let part = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\
             Content-Type: application/json;charset=utf-8\r\n\r\n{value}\r\n"
        );
        part.into_bytes()
    }

    /// What stands before the content of a file part, in the charset; [`Layout::AFTER_FILE`] stands
    /// behind it.
    ///
    /// # Errors
    /// [`ProtocolError::ParameterCharacterMissing`] where the charset lacks a character of the
    /// file's name.
    pub fn before_file(&self, head: &FileHead<'_>) -> Result<Vec<u8>, ProtocolError> {
        let boundary = &self.boundary;
        let (name, file_name) = (quoted(head.name), quoted(head.file_name));
        let content_type = one_line(head.content_type);
        let part = format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; \
             filename=\"{file_name}\"\r\nContent-Type: {content_type}\r\n\r\n"
        );
        self.encode((head.name, head.file_name), &part)
    }

    /// Encodes a part whose value, or whose file's name, is the one text that may lack a code.
    fn encode(&self, (name, text): (&str, &str), part: &str) -> Result<Vec<u8>, ProtocolError> {
        let charset = self.charset.charset();
        charset.encode_parameter(name, text)?;
        charset.encode_parameter(name, part)
    }

    /// What stands behind the content of a file part.
    pub const AFTER_FILE: &'static str = "\r\n";

    /// What stands behind the last part.
    #[must_use]
    pub fn end(&self) -> String {
        format!("--{}--\r\n", self.boundary)
    }
}

/// A value inside quotes, as browsers write it: what would end the quotes or the line is
/// percent-encoded. So is the backslash, which some readers take for the beginning of an escape, and
/// every other control character, for which readers refuse the part.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '"' | '\\' | '\0'..='\x1f' | '\x7f' => out += &format!("%{:02X}", u32::from(c)),
            other => out.push(other),
        }
    }
    out
}

fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_a_name_can_end_its_line() {
        let layout = Layout::new(7);
        let head = FileHead {
            name: "a\"\r\nX: y",
            file_name: "海\r\n--b\".png\\\0\u{7f}",
            content_type: "image/png\r\nX: y",
        };
        let text = String::from_utf8(layout.before_file(&head).unwrap()).unwrap();
        let lines: Vec<_> = text.split("\r\n").collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(lines[1].ends_with("; filename=\"海%0D%0A--b%22.png%5C%00%7F\""));
        assert_eq!(lines[2], "Content-Type: image/pngX: y");
    }

    #[test]
    fn parts_follow_each_other() {
        let layout = Layout::new(0xab);
        let whole = layout.text("image_name", "海底捞").unwrap();
        assert_eq!(
            String::from_utf8(whole).unwrap() + &layout.end(),
            "--alipay-sidecar-000000000000000000000000000000ab\r\n\
             Content-Disposition: form-data; name=\"image_name\"\r\n\
             Content-Type: text/plain;charset=utf-8\r\n\r\n海底捞\r\n\
             --alipay-sidecar-000000000000000000000000000000ab--\r\n"
        );
    }

    #[test]
    fn in_gbk_every_part_is_gbk_and_what_it_lacks_is_refused_by_name() {
        let layout = Layout::new(7).in_charset(CharsetLabel::parse("gb2312").unwrap());
        assert!(
            layout
                .content_type()
                .starts_with("multipart/form-data;charset=gb2312;")
        );
        let head = FileHead {
            name: "image_content",
            file_name: "乗€.png",
            content_type: "image/png",
        };
        let file = layout.before_file(&head).unwrap();
        let name = b"filename=\"\x81\x5c\xa2\xe3.png\"\r\n";
        assert!(file.windows(name.len()).any(|found| found == name));
        let text = layout.text("image_name", "中").unwrap();
        assert!(text.ends_with(b"Content-Type: text/plain;charset=gb2312\r\n\r\n\xd6\xd0\r\n"));
        let lacking = FileHead {
            file_name: "a😀",
            ..head
        };
        for error in [
            layout.before_file(&lacking),
            layout.text("image_content", "a😀"),
        ] {
            let error = error.unwrap_err();
            assert_eq!(error.kind(), "character-missing");
            assert!(
                error.to_string().contains("byte 1 of `image_content`"),
                "{error}"
            );
        }
    }
}
