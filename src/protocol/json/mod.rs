//! A strict scanner over raw JSON text: it finds where values stand and never rewrites them.
//!
//! Signatures cover bytes, so a reply is cut, not parsed and printed again. The scanner knows the
//! whole grammar of RFC 8259, walks without recursion and refuses what parsers disagree about:
//! control characters in strings, bytes outside the charset, text behind the end.

use std::{borrow::Cow, ops::Range};

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
pub struct Member<'a> {
    /// The decoded name: `"\u0073ign"` is `sign`.
    pub name: Cow<'a, str>,
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
pub fn members(text: &[u8], charset: Charset) -> Result<Vec<Member<'_>>, JsonError> {
    Scanner::over(text, charset)?.whole(|scanner| scanner.member(0))
}

/// Lists the same and, in one scan with them, the members of those that are objects and `wanted` by
/// their name, as they follow one another; all stand where they stand in the whole text. An object
/// with a name that can't be decoded shows none.
pub(super) fn members_two_deep<'a>(
    text: &'a [u8],
    charset: Charset,
    wanted: impl Fn(&str) -> bool,
) -> Result<(Vec<Member<'a>>, Vec<Member<'a>>), JsonError> {
    let mut inside = Vec::new();
    let read = |scanner: &mut Scanner<'a>| scanner.member_and(&mut inside, &wanted);
    let members = Scanner::over(text, charset)?.whole(read)?;
    Ok((members, inside))
}

/// Decodes the raw text of a JSON string, quotes included.
///
/// # Errors
///
/// [`JsonError`] if it isn't a JSON string in the charset, or half of a surrogate pair stands in it.
pub fn decode_string(raw: &[u8], charset: Charset) -> Result<String, JsonError> {
    decode_cow(raw, charset).map(Cow::into_owned)
}

/// The same; what stands in it as it is meant isn't copied.
fn decode_cow(raw: &[u8], charset: Charset) -> Result<Cow<'_, str>, JsonError> {
    const WHAT: &str = "a string that can't be decoded";
    if charset == Charset::Utf8
        && let Some(text) = plain(raw)
    {
        return Ok(Cow::Borrowed(text));
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
    (plain_run(inner) == inner.len())
        .then(|| std::str::from_utf8(inner).ok())
        .flatten()
}

/// How many bytes come before the first that a string can't hold as it is meant: a quote, an escape
/// or a control character. Most of a reply is in strings, so it is read eight bytes at a time.
fn plain_run(text: &[u8]) -> usize {
    let (eights, rest) = text.as_chunks();
    for (n, eight) in eights.iter().enumerate() {
        if let Some(place) = special(*eight) {
            return n * EIGHT + place;
        }
    }
    let is_special = |&byte: &u8| byte == b'"' || byte == b'\\' || byte < b' ';
    let place = rest.iter().position(is_special).unwrap_or(rest.len());
    eights.len() * EIGHT + place
}

const EIGHT: usize = size_of::<u64>();

/// Where in eight bytes the first quote, backslash or control character is.
fn special(eight: [u8; EIGHT]) -> Option<usize> {
    const ALL: u64 = u64::from_le_bytes([1; EIGHT]);
    const HIGH: u64 = ALL * 0x80;
    let bytes = u64::from_le_bytes(eight);
    // The lowest bit that this sets is the high bit of the first byte that is less; the borrow may
    // set others, above it alone.
    let less = |bytes: u64, than: u64| bytes.wrapping_sub(ALL * than) & !bytes & HIGH;
    let equal = |to: u8| less(bytes ^ (ALL * u64::from(to)), 1);
    let found = [less(bytes, u64::from(b' ')), equal(b'"'), equal(b'\\')];
    let first = found.map(u64::trailing_zeros).into_iter().min()?;
    // A byte has eight bits, too; none is set where there is no such byte.
    (first < u64::BITS).then_some(first as usize / 8)
}

struct Scanner<'a> {
    text: &'a [u8],
    /// The same, where it is UTF-8.
    utf8: Option<&'a str>,
    charset: Charset,
    at: usize,
}

impl<'a> Scanner<'a> {
    fn over(text: &'a [u8], charset: Charset) -> Result<Self, JsonError> {
        let error = |what, at| JsonError { what, at };
        let utf8 = match charset {
            Charset::Gbk => gbk::decode(text)
                .map(|_| None)
                .map_err(|at| error("bytes that aren't GBK", at))?,
            Charset::Utf8 => std::str::from_utf8(text)
                .map(Some)
                .map_err(|source| error("bytes that aren't UTF-8", source.valid_up_to()))?,
        };
        Ok(Self {
            text,
            utf8,
            charset,
            at: 0,
        })
    }

    /// Reads the one object that the text is.
    fn whole<T>(
        mut self,
        member: impl FnMut(&mut Self) -> Result<T, JsonError>,
    ) -> Result<Vec<T>, JsonError> {
        self.white_space();
        let members = self.object(member)?;
        self.white_space();
        match self.peek() {
            None => Ok(members),
            Some(_) => Err(self.error("text behind the end of the object")),
        }
    }

    fn object<T>(
        &mut self,
        mut member: impl FnMut(&mut Self) -> Result<T, JsonError>,
    ) -> Result<Vec<T>, JsonError> {
        let mut members = Vec::new();
        self.expect(b'{', "no `{` where the object should begin")?;
        self.white_space();
        if self.take(b'}') {
            return Ok(members);
        }
        loop {
            members.push(member(self)?);
            self.white_space();
            if self.take(b'}') {
                return Ok(members);
            }
            self.expect(b',', "neither `,` nor `}` behind a member")?;
            self.white_space();
        }
    }

    /// Reads a member of an object that stands so deep.
    fn member(&mut self, depth: usize) -> Result<Member<'a>, JsonError> {
        let name = self.decoded_name()?;
        let start = self.at;
        let kind = self.value(depth)?;
        Ok(Member {
            name,
            value: start..self.at,
            kind,
        })
    }

    /// The same for a member of the outermost object, and those inside of it if it is wanted.
    fn member_and(
        &mut self,
        inside: &mut Vec<Member<'a>>,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Member<'a>, JsonError> {
        let name = self.decoded_name()?;
        let start = self.at;
        let kind = self.kind()?;
        let found = (kind == Kind::Object && wanted(&name))
            .then(|| self.object(|scanner| scanner.member(1)));
        match found {
            Some(Ok(found)) => inside.extend(found),
            // Not wanted; or there is a fault in it, which is met again, unless it is a name that
            // nobody can read: the text is good all the same.
            Some(Err(_)) | None => {
                self.at = start;
                self.value(0)?;
            }
        }
        Ok(Member {
            name,
            value: start..self.at,
            kind,
        })
    }

    /// Reads a member's name, up to the beginning of its value.
    fn decoded_name(&mut self) -> Result<Cow<'a, str>, JsonError> {
        let error = self.error("a name that can't be decoded");
        let found = self.name()?;
        let inner = found.range.start + 1..found.range.end - 1;
        if let Some(text) = self.utf8
            && found.is_plain
        {
            return text.get(inner).map(Cow::Borrowed).ok_or(error);
        }
        let raw = self.text.get(found.range).unwrap_or_default();
        decode_cow(raw, self.charset).map_err(|_| error)
    }

    /// Walks over one value of any depth, remembering the closing bytes that are owed.
    fn value(&mut self, depth: usize) -> Result<Kind, JsonError> {
        let kind = self.kind()?;
        let mut owed = Vec::new();
        loop {
            let entered = self.begin(&mut owed, depth)?;
            if !entered && !self.next_inside(&mut owed)? {
                return Ok(kind);
            }
        }
    }

    /// Walks over a scalar or an empty container, or steps in front of a container's first value
    /// (`true`).
    fn begin(&mut self, owed: &mut Vec<u8>, depth: usize) -> Result<bool, JsonError> {
        match self.kind()? {
            Kind::Array => self.enter(b']', owed, depth),
            Kind::Object => self.enter(b'}', owed, depth),
            Kind::String => self.string().map(|_| false),
            Kind::Number => self.number().map(|()| false),
            Kind::Bool | Kind::Null => self.literal().map(|()| false),
        }
    }

    fn enter(&mut self, close: u8, owed: &mut Vec<u8>, depth: usize) -> Result<bool, JsonError> {
        if depth + owed.len() >= MAX_DEPTH {
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
    fn name(&mut self) -> Result<Found, JsonError> {
        let name = self.string()?;
        self.white_space();
        self.expect(b':', "no `:` behind a name")?;
        self.white_space();
        Ok(name)
    }

    fn string(&mut self) -> Result<Found, JsonError> {
        let (start, mut is_plain) = (self.at, true);
        self.expect(b'"', "no `\"` where a string should begin")?;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    is_plain = false;
                    self.escape()?;
                }
                Some(0..=0x1f) => return Err(self.error("a control character in a string")),
                Some(lead) => self.at += self.plain_length(lead),
                None => return Err(self.error("the end inside a string")),
            }
        }
        self.at += 1;
        let range = start..self.at;
        Ok(Found { range, is_plain })
    }

    /// How many bytes from here on are nothing to a scanner: in UTF-8 all up to a quote, an escape
    /// or a control character, in GBK those of one character.
    fn plain_length(&self, lead: u8) -> usize {
        match self.charset {
            Charset::Gbk => self.charset.character_length(lead),
            Charset::Utf8 => plain_run(self.text.get(self.at..).unwrap_or_default()),
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

/// Where a string stands, quotes included.
struct Found {
    range: Range<usize>,
    /// It has no escapes.
    is_plain: bool,
}

/// Deeper nesting is refused; serde_json and most other parsers stop at the same depth.
const MAX_DEPTH: usize = 127;

#[cfg(test)]
mod tests;
