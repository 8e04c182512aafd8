//! A strict scanner over raw JSON text: it finds where values stand and never rewrites them.
//!
//! Signatures cover bytes, so a reply is cut, not parsed and printed again. The scanner knows the
//! whole grammar of RFC 8259, walks without recursion and refuses what parsers disagree about:
//! control characters in strings, bytes outside the charset, text behind the end.

use std::ops::Range;

use super::{charset::Charset, error::JsonError, gbk};

/// Names the type of a JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `[…]`
    Array,
    /// `true` or `false`
    Bool,
    /// `null`
    Null,
    /// A number.
    Number,
    /// `{…}`
    Object,
    /// `"…"`
    String,
}

impl Kind {
    /// Names the type for an error text.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Array => "an array",
            Self::Bool => "a boolean",
            Self::Null => "null",
            Self::Number => "a number",
            Self::Object => "an object",
            Self::String => "a string",
        }
    }
}

/// Tells where one member of an object stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The decoded name: `"\u0073ign"` is `sign`.
    pub name: String,
    /// The bytes of the value, without the white space around it, quotes included.
    pub value: Range<usize>,
    /// The type of the value.
    pub kind: Kind,
}

/// Checks that a text is exactly one JSON object in the charset: no BOM, no list, nothing behind.
///
/// # Errors
///
/// [`JsonError`] with the place where it isn't.
pub fn is_one_object(text: &[u8], charset: Charset) -> Result<(), JsonError> {
    members(text, charset).map(drop)
}

/// Lists the members of the one JSON object that a text is, in their order, duplicates included.
///
/// # Errors
///
/// [`JsonError`] if the text isn't exactly one JSON object in the charset.
pub fn members(text: &[u8], charset: Charset) -> Result<Vec<Member>, JsonError> {
    check_charset(text, charset)?;
    let mut scanner = Scanner {
        text,
        at: 0,
        charset,
    };
    scanner.white_space();
    let members = scanner.top_level()?;
    scanner.white_space();
    match scanner.peek() {
        None => Ok(members),
        Some(_) => Err(scanner.error("text behind the end of the object")),
    }
}

/// Decodes the raw text of a JSON string, quotes included.
///
/// # Errors
///
/// [`JsonError`] if it isn't a JSON string in the charset, or half of a surrogate pair stands in it.
pub fn decode_string(raw: &[u8], charset: Charset) -> Result<String, JsonError> {
    const WHAT: &str = "a string that can't be decoded";
    if charset == Charset::Utf8
        && let Some(text) = plain(raw)
    {
        return Ok(text.to_owned());
    }
    let text = charset
        .decode(raw)
        .map_err(|_| JsonError { what: WHAT, at: 0 })?;
    serde_json::from_str(&text).map_err(|source| JsonError {
        what: WHAT,
        at: source.column(),
    })
}

/// What is in a JSON string without escapes; nothing where it has some, or is none.
fn plain(raw: &[u8]) -> Option<&str> {
    let inner = raw.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let is_plain = |&byte: &u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    inner
        .iter()
        .all(is_plain)
        .then(|| std::str::from_utf8(inner).ok())
        .flatten()
}

fn check_charset(text: &[u8], charset: Charset) -> Result<(), JsonError> {
    let error = |what, at| JsonError { what, at };
    match charset {
        Charset::Gbk => gbk::decode(text)
            .map(drop)
            .map_err(|at| error("bytes that aren't GBK", at)),
        Charset::Utf8 => std::str::from_utf8(text)
            .map(drop)
            .map_err(|source| error("bytes that aren't UTF-8", source.valid_up_to())),
    }
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    charset: Charset,
}

impl Scanner<'_> {
    fn top_level(&mut self) -> Result<Vec<Member>, JsonError> {
        let mut members = Vec::new();
        self.expect(b'{', "no `{` where the object should begin")?;
        self.white_space();
        if self.take(b'}') {
            return Ok(members);
        }
        loop {
            members.push(self.member()?);
            self.white_space();
            if self.take(b'}') {
                return Ok(members);
            }
            self.expect(b',', "neither `,` nor `}` behind a member")?;
            self.white_space();
        }
    }

    fn member(&mut self) -> Result<Member, JsonError> {
        let raw = self.name()?;
        let (start, error) = (raw.start, self.error("a name that can't be decoded"));
        let name = self
            .text
            .get(raw)
            .and_then(|raw| decode_string(raw, self.charset).ok())
            .ok_or(JsonError { at: start, ..error })?;
        let start = self.at;
        let kind = self.value()?;
        Ok(Member {
            name,
            value: start..self.at,
            kind,
        })
    }

    /// Walks over one value of any depth, remembering the closing bytes that are owed.
    fn value(&mut self) -> Result<Kind, JsonError> {
        let kind = self.kind()?;
        let mut owed = Vec::new();
        loop {
            let entered = self.begin(&mut owed)?;
            if !entered && !self.next_inside(&mut owed)? {
                return Ok(kind);
            }
        }
    }

    /// Walks over a scalar or an empty container, or steps in front of a container's first value
    /// (`true`).
    fn begin(&mut self, owed: &mut Vec<u8>) -> Result<bool, JsonError> {
        match self.kind()? {
            Kind::Array => self.enter(b']', owed),
            Kind::Object => self.enter(b'}', owed),
            Kind::String => self.string().map(|_| false),
            Kind::Number => self.number().map(|()| false),
            Kind::Bool | Kind::Null => self.literal().map(|()| false),
        }
    }

    fn enter(&mut self, close: u8, owed: &mut Vec<u8>) -> Result<bool, JsonError> {
        if owed.len() >= MAX_DEPTH {
            return Err(self.error("values nested too deeply"));
        }
        self.at += 1;
        self.white_space();
        if self.take(close) {
            return Ok(false);
        }
        owed.push(close);
        if close == b'}' {
            self.name()?;
        }
        Ok(true)
    }

    /// Behind a value: steps in front of the next one (`true`), closing containers on the way, or
    /// stops behind the outermost (`false`).
    fn next_inside(&mut self, owed: &mut Vec<u8>) -> Result<bool, JsonError> {
        while let Some(&close) = owed.last() {
            self.white_space();
            if self.take(close) {
                owed.pop();
                continue;
            }
            self.expect(b',', "neither `,` nor the closing bracket behind a value")?;
            self.white_space();
            if close == b'}' {
                self.name()?;
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// Walks over a member's name and its colon, to the beginning of its value.
    fn name(&mut self) -> Result<Range<usize>, JsonError> {
        let name = self.string()?;
        self.white_space();
        self.expect(b':', "no `:` behind a name")?;
        self.white_space();
        Ok(name)
    }

    fn string(&mut self) -> Result<Range<usize>, JsonError> {
        let start = self.at;
        self.expect(b'"', "no `\"` where a string should begin")?;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.escape()?,
                Some(0..=0x1f) => return Err(self.error("a control character in a string")),
                Some(lead) => self.at += self.plain_length(lead),
                None => return Err(self.error("the end inside a string")),
            }
        }
        self.at += 1;
        Ok(start..self.at)
    }

    /// How many bytes from here on are nothing to a scanner: in UTF-8 all up to a quote, an escape
    /// or a control character, in GBK those of one character.
    fn plain_length(&self, lead: u8) -> usize {
        match self.charset {
            Charset::Gbk => self.charset.character_length(lead),
            Charset::Utf8 => {
                let rest = self.text.get(self.at..).unwrap_or_default();
                let ends = |&byte: &u8| byte == b'"' || byte == b'\\' || byte < 0x20;
                rest.iter().position(ends).unwrap_or(rest.len())
            }
        }
    }

    fn escape(&mut self) -> Result<(), JsonError> {
        let rest = self.text.get(self.at + 1..).unwrap_or_default();
        let length = match rest {
            [b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => 2,
            [b'u', a, b, c, d, ..]
                if [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()) =>
            {
                6
            }
            _ => 0,
        };
        if length == 0 {
            return Err(self.error("an unknown escape in a string"));
        }
        self.at += length;
        Ok(())
    }

    fn number(&mut self) -> Result<(), JsonError> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _sign = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        if !self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            return Err(self.error("no digit where a number needs one"));
        }
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        Ok(())
    }

    fn literal(&mut self) -> Result<(), JsonError> {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let word = [&b"true"[..], b"false", b"null"]
            .into_iter()
            .find(|word| rest.starts_with(word))
            .ok_or_else(|| self.error("an unknown word"))?;
        self.at += word.len();
        Ok(())
    }

    fn kind(&self) -> Result<Kind, JsonError> {
        match self.peek() {
            Some(b'[') => Ok(Kind::Array),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b'{') => Ok(Kind::Object),
            Some(b'"') => Ok(Kind::String),
            Some(_) => Err(self.error("no value where one should begin")),
            None => Err(self.error("the end where a value should begin")),
        }
    }

    fn white_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn expect(&mut self, byte: u8, otherwise: &'static str) -> Result<(), JsonError> {
        match self.take(byte) {
            true => Ok(()),
            false => Err(self.error(otherwise)),
        }
    }

    fn error(&self, what: &'static str) -> JsonError {
        JsonError { what, at: self.at }
    }
}

/// Deeper nesting is refused; serde_json and most other parsers stop at the same depth.
const MAX_DEPTH: usize = 127;

#[cfg(test)]
mod tests;
