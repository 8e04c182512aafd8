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
    let text = charset
        .decode(raw)
        .map_err(|_| JsonError { what: WHAT, at: 0 })?;
    serde_json::from_str(&text).map_err(|source| JsonError {
        what: WHAT,
        at: source.column(),
    })
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
                Some(lead) => self.at += self.charset.character_length(lead),
                None => return Err(self.error("the end inside a string")),
            }
        }
        self.at += 1;
        Ok(start..self.at)
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: &[(&str, &str)]) {
        let found = members(text.as_bytes(), Charset::Utf8).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|member| (member.name.as_str(), &text[member.value.clone()]))
            .collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn values_are_found_to_the_byte() {
        check("{}", &[]);
        check(" \r\n{\t} ", &[]);
        check(r#"{"a":1}"#, &[("a", "1")]);
        check(
            r#"{"a":1e-5,"b":-0.5E+7,"c":2e3}"#,
            &[("a", "1e-5"), ("b", "-0.5E+7"), ("c", "2e3")],
        );
        check(
            r#"{ "a" : {"b": [ 1 , {} ] } , "c":"}\"" }"#,
            &[("a", r#"{"b": [ 1 , {} ] }"#), ("c", r#""}\"""#)],
        );
        check(
            r#"{"a":-0.5e+10,"b":[],"c":null,"d":true,"e":false,"f":0}"#,
            &[
                ("a", "-0.5e+10"),
                ("b", "[]"),
                ("c", "null"),
                ("d", "true"),
                ("e", "false"),
                ("f", "0"),
            ],
        );
        check(
            r#"{"x":"\\","y":"中\ud83d\ude00\/"}"#,
            &[("x", r#""\\""#), ("y", r#""中\ud83d\ude00\/""#)],
        );
    }

    #[test]
    fn names_are_decoded_and_duplicates_kept() {
        check(
            r#"{"\u0073ign":1,"sign":2,"s\u0069gn":3}"#,
            &[("sign", "1"), ("sign", "2"), ("sign", "3")],
        );
    }

    #[test]
    fn whatever_is_not_one_object_is_refused() {
        for text in [
            "",
            " ",
            "[]",
            "1",
            "null",
            "\"{}\"",
            "{",
            "}",
            "{}}",
            "{} {}",
            "{},",
            "{}x",
            "{}\0",
            "\u{feff}{}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{,}",
            "{a:1}",
            "{'a':1}",
            "{\"a\":1 \"b\":2}",
            "{\"a\":[1,]}",
            "{\"a\":[1 2]}",
            "{\"a\":[}",
            "{\"a\":{]}",
            "{\"a\":[}]",
            "{\"a\":01}",
            "{\"a\":+1}",
            "{\"a\":.5}",
            "{\"a\":1.}",
            "{\"a\":1e}",
            "{\"a\":-}",
            "{\"a\":0x1}",
            "{\"a\":NaN}",
            "{\"a\":tru}",
            "{\"a\":truex}",
            "{\"a\":nul",
            "{\"a\":\"b}",
            "{\"a\":\"\\\"}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\u12g4\"}",
            "{\"a\":\"\\u12\"}",
            "{\"a\":\"\n\"}",
            "{\"a\":\"\t\"}",
            "{\"a\":\"\0\"}",
            "{\"\\ud800\":1}",
            "{\"a\":1}// c",
            "{/**/}",
            "{\"a\":\u{a0}1}",
            "{\"a\":{\"b\"}}",
            "{\"a\":{1:2}}",
            "<html></html>",
        ] {
            assert!(
                is_one_object(text.as_bytes(), Charset::Utf8).is_err(),
                "{text:?}"
            );
        }
        for text in [
            &b"{\"a\":\"\xff\"}"[..],
            b"{\"a\":\"\xd6\xd0\"}",
            b"{\"\xc0\xaf\":1}",
            b"{}\xff",
        ] {
            assert!(
                is_one_object(text, Charset::Utf8).is_err(),
                "{}",
                text.escape_ascii()
            );
        }
    }

    #[test]
    fn an_error_tells_where_and_of_what_kind_a_value_is() {
        let error = members(br#"{"a":1,"\ud800":2}"#, Charset::Utf8).unwrap_err();
        assert_eq!(error.at, 7);
        let all = r#"{"a":[],"b":true,"c":null,"d":1,"e":{},"f":""}"#;
        let kinds = members(all.as_bytes(), Charset::Utf8).unwrap();
        let kinds: Vec<_> = kinds.iter().map(|member| member.kind.describe()).collect();
        let expected = [
            "an array",
            "a boolean",
            "null",
            "a number",
            "an object",
            "a string",
        ];
        assert_eq!(kinds, expected);
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(is_one_object(nested(MAX_DEPTH).as_bytes(), Charset::Utf8).is_ok());
        let error = is_one_object(nested(1_000_000).as_bytes(), Charset::Utf8).unwrap_err();
        assert_eq!(error.what, "values nested too deeply");
    }

    #[test]
    fn every_truncation_is_refused() {
        let text = r#"{"a":{"b":[1,"\u4e2d",null]},"sign":"x\/y"}"#;
        for end in 0..text.len() {
            assert!(
                is_one_object(&text.as_bytes()[..end], Charset::Utf8).is_err(),
                "{end}"
            );
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            ".{0,8}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 30, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Into::into),
                proptest::collection::btree_map(".{0,5}", inner, 0..5)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_another_printer_writes_is_cut_right(
            object in proptest::collection::btree_map(".{0,6}", json(), 0..6),
            pretty: bool,
        ) {
            let text = match pretty {
                true => serde_json::to_string_pretty(&object).unwrap(),
                false => serde_json::to_string(&object).unwrap(),
            };
            let found = members(text.as_bytes(), Charset::Utf8).unwrap();
            prop_assert_eq!(found.len(), object.len());
            for member in found {
                let value: serde_json::Value = serde_json::from_str(&text[member.value]).unwrap();
                prop_assert_eq!(&value, &object[&member.name]);
            }
        }

        #[test]
        fn in_gbk_the_members_are_those_of_the_same_text_in_utf_8(
            object in proptest::collection::btree_map(
                "[乗乗乕亄亅€a-c]{0,4}", "[乗乕亄亅亊中\"\\\\{}/€a-c]{0,9}", 0..6),
        ) {
            let text = serde_json::to_string(&object).unwrap();
            let bytes = Charset::Gbk.encode(&text).unwrap();
            let found = members(&bytes, Charset::Gbk).unwrap();
            let plain = members(text.as_bytes(), Charset::Utf8).unwrap();
            prop_assert_eq!(found.len(), plain.len());
            for (member, same) in found.iter().zip(plain) {
                prop_assert_eq!(&member.name, &same.name);
                let value = decode_string(&bytes[member.value.clone()], Charset::Gbk).unwrap();
                prop_assert_eq!(&value, &object[&member.name]);
            }
        }

        #[test]
        fn the_verdict_is_that_of_another_parser(text in r#"[{}\[\],:"\\ua0-2e.+\- tnf]{0,14}"#) {
            let text = format!("{{\"a\":{text}}}");
            let theirs = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(&text);
            let ours = is_one_object(text.as_bytes(), Charset::Utf8);
            // The other parser reads values too, and so refuses numbers that are out of its range
            // and lone surrogates, which are good JSON.
            if ours.is_err() {
                prop_assert!(theirs.is_err(), "{}", text);
            }
        }

        #[test]
        fn scanning_never_panics(text in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = members(&text, Charset::Utf8);
            let inside = [b"{\"a\":", text.as_slice(), b"}"].concat();
            let _ = members(&inside, Charset::Utf8);
            let _ = members(&inside, Charset::Gbk);
        }
    }
}
