//! Text with everything visible that an eye would miss.

/// Writes a text so that line breaks, control characters, unusual white space and invisible
/// characters can be seen, and so can what isn't text at all.
#[must_use]
pub fn visible(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        chunk.valid().chars().for_each(|c| push(&mut out, c));
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out
}

/// The same for a text.
pub(super) fn visible_text(text: &str) -> String {
    visible(text.as_bytes())
}

fn push(out: &mut String, c: char) {
    match c {
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        c if is_hidden(c) => out.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
        c => out.push(c),
    }
}

/// Tells whether a character can't be told from none, or from a space.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || (c.is_whitespace() && c != ' ')
        || matches!(
            c,
            '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}'
                | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{fffd}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hides_is_shown() {
        let given = "a b\r\n\t\0\u{a0}\u{feff}\u{200b}中\u{fffd}".as_bytes();
        let shown = "a b\\r\\n\\t\\u{0}\\u{a0}\\u{feff}\\u{200b}中\\u{fffd}";
        assert_eq!(visible(given), shown);
        assert_eq!(visible(b"\xd6\xd0a"), "\\xd6\\xd0a");
    }
}
