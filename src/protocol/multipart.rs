//! The layout of an upload: `multipart/form-data` as Alipay's SDKs write it.
//!
//! Protocol: 公共请求参数, file upload: common parameters stand in the query, text parameters are
//! parts and are signed, file parts carry a filename and aren't.

/// What stands before and after the parts.
#[derive(Debug, Clone)]
pub struct Layout {
    boundary: String,
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
    /// A layout with a boundary made of `random`, which content can't be made to contain.
    #[must_use]
    pub fn new(random: u128) -> Self {
        Self {
            boundary: format!("alipay-sidecar-{random:032x}"),
        }
    }

    /// The `Content-Type` of the whole.
    #[must_use]
    pub fn content_type(&self) -> String {
        format!(
            "multipart/form-data;charset=utf-8;boundary={}",
            self.boundary
        )
    }

    /// A whole text part.
    #[must_use]
    pub fn text(&self, name: &str, value: &str) -> String {
        let (boundary, name) = (&self.boundary, quoted(name));
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\
             Content-Type: text/plain;charset=utf-8\r\n\r\n{value}\r\n"
        )
    }

    /// A whole JSON part, as v3 wants its `data`.
    #[must_use]
    pub fn json(&self, name: &str, value: &str) -> String {
        let (boundary, name) = (&self.boundary, quoted(name));
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\
             Content-Type: application/json;charset=utf-8\r\n\r\n{value}\r\n"
        )
    }

    /// What stands before the content of a file part; [`Layout::AFTER_FILE`] stands behind it.
    #[must_use]
    pub fn before_file(&self, head: &FileHead<'_>) -> String {
        let boundary = &self.boundary;
        let (name, file_name) = (quoted(head.name), quoted(head.file_name));
        let content_type = one_line(head.content_type);
        format!(
            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; \
             filename=\"{file_name}\"\r\nContent-Type: {content_type}\r\n\r\n"
        )
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
/// percent-encoded.
fn quoted(text: &str) -> String {
    text.replace('"', "%22")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
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
            file_name: "海\r\n--b\".png",
            content_type: "image/png\r\nX: y",
        };
        let text = layout.before_file(&head);
        let lines: Vec<_> = text.split("\r\n").collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert!(lines[1].ends_with("; filename=\"海%0D%0A--b%22.png\""));
        assert_eq!(lines[2], "Content-Type: image/pngX: y");
    }

    #[test]
    fn parts_follow_each_other() {
        let layout = Layout::new(0xab);
        let whole = layout.text("image_name", "海底捞") + &layout.end();
        assert_eq!(
            whole,
            "--alipay-sidecar-000000000000000000000000000000ab\r\n\
             Content-Disposition: form-data; name=\"image_name\"\r\n\
             Content-Type: text/plain;charset=utf-8\r\n\r\n海底捞\r\n\
             --alipay-sidecar-000000000000000000000000000000ab--\r\n"
        );
    }
}
