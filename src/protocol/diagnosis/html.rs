//! HTML escapes, taken back once.

/// Takes HTML's escapes back once: the named ones that templates and filters write, and numeric
/// ones. What isn't one stays.
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('&') {
        out.push_str(before);
        rest = match entity(behind) {
            Some((c, after)) => {
                out.push(c);
                after
            }
            None => {
                out.push('&');
                behind
            }
        };
    }
    out.push_str(rest);
    out
}

/// Reads one entity behind its `&`: the character, and what follows.
fn entity(text: &str) -> Option<(char, &str)> {
    let end = end(text)?;
    let (name, after) = (text.get(..end)?, text.get(end + 1..)?);
    let c = match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => '\u{a0}',
        numeric => char::from_u32(number(numeric.strip_prefix('#')?)?)?,
    };
    Some((c, after))
}

/// Finds the `;` of an entity. Only as far as the longest one reaches: a text of nothing but `&`
/// would else be read to its end at each of them.
fn end(text: &str) -> Option<usize> {
    const LONGEST: usize = 8;
    let mut near = text.bytes().take(LONGEST + 1);
    near.position(|byte| byte == b';')
}

fn number(digits: &str) -> Option<u32> {
    match digits.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => digits.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_taken_back_once() {
        for (text, expected) in [
            ("a&amp;b&quot;&#39;&#x27;&lt;&gt;", "a&b\"''<>"),
            ("&amp;amp;", "&amp;"),
            ("a&b;c&&", "a&b;c&&"),
            ("&#0;&#xd800;&;", "\0&#xd800;&;"),
            ("&中文字;&中;", "&中文字;&中;"),
            ("", ""),
        ] {
            assert_eq!(unescape(text), expected, "{text}");
        }
    }

    #[test]
    fn no_entity_is_sought_further_than_one_reaches() {
        assert_eq!(end("12345678;"), Some(8));
        assert_eq!(end("123456789;"), None);
        let hostile = "&".repeat(1 << 20);
        assert_eq!(unescape(&hostile), hostile);
    }
}
