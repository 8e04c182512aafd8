//! The parameters of a v2 request or of a notification.

use std::{borrow::Cow, collections::HashMap, fmt};

use super::{
    charset::Charset,
    error::{ProtocolError, shorten},
    form,
};

pub mod name;

pub use name::Name;

/// Holds text parameters in the order they came, each name once, values decoded.
///
/// `Debug` shows names alone: values may be tokens.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Params {
    pairs: Vec<(Name, String)>,
}

impl Params {
    /// Makes an empty list.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a query string or form body, decoding each name and value exactly once.
    ///
    /// Values such as `passback_params` hold percent-encoded text of their own, which stays.
    /// Protocol: 异步通知, “验签” (vector `percent-in-passback`).
    ///
    /// # Errors
    ///
    /// [`ProtocolError::PercentInvalid`], [`ProtocolError::CharsetMalformed`], and
    /// [`ProtocolError::ParameterDuplicate`] for a name given twice, be its values empty or equal,
    /// and [`ProtocolError::ParametersTooMany`].
    pub fn from_form(raw: &[u8], charset: Charset) -> Result<Self, ProtocolError> {
        let mut pairs: Vec<(Name, String)> = Vec::new();
        for (at, name, value) in form::segments(raw) {
            if pairs.len() == MOST {
                return Err(ProtocolError::ParametersTooMany { most: MOST });
            }
            let value_at = at + name.len() + 1;
            let name = decode(name, at, charset)?;
            let value = decode(value, value_at, charset)?.into_owned();
            pairs.push((name.into(), value));
        }
        match repeated(&pairs) {
            Some(name) => Err(duplicate(name)),
            None => Ok(Self { pairs }),
        }
    }

    /// Appends a parameter.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::ParameterDuplicate`] if the name is taken.
    pub fn push(
        &mut self,
        name: impl Into<Name>,
        value: impl Into<String>,
    ) -> Result<(), ProtocolError> {
        let name = name.into();
        if self.get(&name).is_some() {
            return Err(duplicate(&name));
        }
        self.pairs.push((name, value.into()));
        Ok(())
    }

    /// Appends the parameters of another list; one that stands in both with one value counts once.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::ParameterDuplicate`] for one with two values.
    pub fn union(mut self, other: Self) -> Result<Self, ProtocolError> {
        // Lists from outside may be long, so that a search of one for each of the other won't do.
        let known: HashMap<Name, String> = self.pairs.iter().cloned().collect();
        for (name, value) in other.pairs {
            match known.get(&name) {
                None => self.pairs.push((name, value)),
                Some(same) if *same == value => {}
                Some(_) => return Err(duplicate(&name)),
            }
        }
        Ok(self)
    }

    /// Replaces the value of a parameter, or appends it.
    pub fn set(&mut self, name: impl Into<Name>, value: impl Into<String>) {
        let name = name.into();
        match self.pairs.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value.into(),
            None => self.pairs.push((name, value.into())),
        }
    }

    /// Finds a value by its exact name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter()
            .find_map(|(known, value)| (known == name).then_some(value))
    }

    /// Takes a parameter out.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        let index = self.pairs.iter().position(|(known, _)| **known == *name)?;
        Some(self.pairs.remove(index).1)
    }

    /// Walks through names and values in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pairs
            .iter()
            .map(|(name, value)| (&**name, value.as_str()))
    }

    /// Tells whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Counts them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Drops what Alipay takes for empty: no character, or white space alone.
    ///
    /// Such parameters take part neither in the sign content nor in the request. Protocol: 签名专区,
    /// “自行实现签名” (empty values); white space after `StringUtils.isEmpty` of the Java SDK
    /// (vector `whitespace-only-value`).
    #[must_use]
    pub fn without_empty(mut self) -> Self {
        self.pairs.retain(|(_, value)| !is_blank(value));
        self
    }

    /// The same as a list of its own, which has room for `more`.
    pub(crate) fn filled(&self, more: usize) -> Self {
        let mut pairs = Vec::with_capacity(self.pairs.len() + more);
        let filled = self.pairs.iter().filter(|(_, value)| !is_blank(value));
        pairs.extend(filled.cloned());
        Self { pairs }
    }

    /// Checks that a charset has every character of the names and values.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::ParameterCharacterMissing`] for the first that can't be written.
    pub fn check_writable(&self, charset: Charset) -> Result<(), ProtocolError> {
        if charset == Charset::Utf8 {
            // It has them all.
            return Ok(());
        }
        self.iter().try_for_each(|(name, value)| {
            charset.encode_parameter(name, name)?;
            charset.encode_parameter(name, value).map(drop)
        })
    }

    /// Writes `application/x-www-form-urlencoded` with a space as `%20`.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::CharsetMalformed`] where the charset lacks a character.
    pub fn to_form(&self, charset: Charset) -> Result<String, ProtocolError> {
        form::join(self.iter(), charset)
    }
}

/// Names and values in their order.
impl IntoIterator for Params {
    type Item = (Name, String);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.pairs.into_iter()
    }
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set()
            .entries(self.iter().map(|(name, _)| name))
            .finish()
    }
}

/// Finds one parameter of a query or form whose rest may be unusable, in whatever case its name is
/// spelled; an empty one isn't there. Names and values in ASCII are the same in every charset.
#[must_use]
pub fn peek(raw: &[u8], name: &str) -> Option<String> {
    form::segments(raw).find_map(|(at, key, value)| {
        let key = form::unescape_cow(key, at).ok()?;
        let is_it = key.eq_ignore_ascii_case(name.as_bytes()) && !value.is_empty();
        let value = is_it.then(|| form::unescape(value, at).ok()).flatten()?;
        String::from_utf8(value).ok()
    })
}

/// Tells whether a text is a parameter name: `[A-Za-z0-9_.-]{1,64}`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// Tells whether the sidecar alone sets this parameter, whatever the case it is spelled in.
#[must_use]
pub fn is_owned(name: &str) -> bool {
    OWNED.iter().any(|owned| owned.eq_ignore_ascii_case(name))
}

/// Tells whether Alipay's own code takes a value for empty.
#[must_use]
pub fn is_blank(value: &str) -> bool {
    value.chars().all(is_java_whitespace)
}

/// Follows `Character.isWhitespace`, which differs from Unicode's property in a few characters:
/// no-break spaces and NEL aren't white space, the four information separators are.
fn is_java_whitespace(c: char) -> bool {
    match c {
        '\u{1c}'..='\u{1f}' => true,
        '\u{85}' | '\u{a0}' | '\u{2007}' | '\u{202f}' => false,
        other => other.is_whitespace(),
    }
}

/// The first name, in the order of their bytes, that stands twice. A list from outside may be long:
/// a search of it for each of its names won't do.
fn repeated(pairs: &[(Name, String)]) -> Option<&str> {
    let mut names: Vec<&str> = pairs.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    names.windows(2).find_map(|two| match two {
        [one, other] if one == other => Some(*one),
        _ => None,
    })
}

fn decode(piece: &[u8], at: usize, charset: Charset) -> Result<Cow<'_, str>, ProtocolError> {
    charset.decode_cow(form::unescape_cow(piece, at)?)
}

fn duplicate(name: &str) -> ProtocolError {
    ProtocolError::ParameterDuplicate {
        name: shorten(name),
    }
}

/// How many parameters a form may have: the largest of Alipay's have some fifty, and what is done
/// with them (sorting, several readings) costs more than one pass.
const MOST: usize = 1000;

/// What the sidecar alone sets, in a call and its signature.
pub(crate) const OWNED: [&str; 11] = [
    name::ALIPAY_ROOT_CERT_SN,
    name::APP_AUTH_TOKEN,
    name::APP_CERT_SN,
    name::APP_ID,
    name::CHARSET,
    name::ENCRYPT_TYPE,
    name::FORMAT,
    name::SIGN,
    name::SIGN_TYPE,
    name::TIMESTAMP,
    name::VERSION,
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(raw: &[u8], expected: &[(&str, &str)]) {
        let params = Params::from_form(raw, Charset::Utf8).unwrap();
        assert_eq!(params.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn one_parameter_is_found_whatever_the_rest_is() {
        for (raw, expected) in [
            ("a=%zz&Sign%5FType=RSA&a=1&sign_type=RSA2", Some("RSA")),
            ("sign_type=&sign_type=%ff&sign_type=R", Some("R")),
            ("xsign_type=1&sign_type", None),
            ("", None),
        ] {
            let found = peek(raw.as_bytes(), "sign_type");
            assert_eq!(found.as_deref(), expected, "{raw}");
        }
    }

    #[test]
    fn there_may_be_none() {
        assert!(Params::new().is_empty());
        assert!(!Params::from_form(b"a=1", Charset::Utf8).unwrap().is_empty());
    }

    #[test]
    fn what_is_filled_has_room_for_more() {
        let given = Params::from_form(b"a=1&b=&c=%20&d=2", Charset::Utf8).unwrap();
        let filled = given.filled(7);
        assert_eq!(filled.iter().collect::<Vec<_>>(), [("a", "1"), ("d", "2")]);
        assert!(filled.pairs.capacity() >= 9);
        assert_eq!(filled, given.without_empty());
    }

    fn check_refused(raw: &[u8], kind: &str) {
        let error = Params::from_form(raw, Charset::Utf8).unwrap_err();
        assert_eq!(error.kind(), kind, "{}", raw.escape_ascii());
    }

    #[test]
    fn values_are_decoded_exactly_once() {
        check(
            b"a=b%20c+d&e=%2525&f=%E4%B8%AD",
            &[("a", "b c d"), ("e", "%25"), ("f", "中")],
        );
        check("a=中".as_bytes(), &[("a", "中")]);
        check(b"sign=a+b/c==", &[("sign", "a b/c==")]);
    }

    #[test]
    fn a_form_has_an_end() {
        let form = |count: usize| (0..count).map(|n| format!("p{n}=1&")).collect::<String>();
        let read = Params::from_form(form(1000).as_bytes(), Charset::Utf8).unwrap();
        assert_eq!(read.len(), 1000);
        check_refused(form(1001).as_bytes(), "parameter-invalid");
    }

    #[test]
    fn odd_outlines_are_read_as_browsers_do() {
        check(b"", &[]);
        check(b"&&a=1&&b&=c&", &[("a", "1"), ("b", ""), ("", "c")]);
        check(b"a=1;b=2", &[("a", "1;b=2")]);
    }

    #[test]
    fn bad_percent_sequences_are_refused() {
        for raw in [
            &b"a=%"[..],
            b"a=%2",
            b"a=%zz",
            b"%=1",
            b"a=%+1",
            b"a=%%20",
            b"a=1%2&b=2",
        ] {
            check_refused(raw, "parameter-invalid");
        }
        let error = Params::from_form(b"ab=1&cd=xy%q", Charset::Utf8).unwrap_err();
        assert_eq!(error, ProtocolError::PercentInvalid { at: 10 });
    }

    #[test]
    fn undecodable_bytes_are_refused() {
        for raw in [
            &b"a=%d6%d0"[..],
            b"%ff=1",
            b"a=\xff",
            b"a=%ed%a0%80",
            b"a=%c0%af",
        ] {
            check_refused(raw, "charset-malformed");
        }
    }

    #[test]
    fn a_name_given_twice_is_refused_in_any_spelling() {
        for raw in [
            &b"a=1&a=1"[..],
            b"a=&a=1",
            b"a&%61",
            b"app%5Fid=1&app_id=2",
            b"=1&=2",
        ] {
            check_refused(raw, "parameter-duplicate");
        }
        check(b"a=1&A=2", &[("a", "1"), ("A", "2")]);
    }

    #[test]
    fn a_name_given_twice_is_refused_in_a_list_of_any_length() {
        let list = |count: usize| (0..count).map(|n| format!("p{n}=1&")).collect::<String>();
        for length in [1, 2, 10, 999] {
            for again in [0, length / 2, length - 1] {
                let form = format!("{}p{again}=2", list(length));
                check_refused(form.as_bytes(), "parameter-duplicate");
            }
            let read = Params::from_form(list(length).as_bytes(), Charset::Utf8).unwrap();
            assert_eq!(read.len(), length);
        }
    }

    #[test]
    fn blank_is_what_java_takes_for_blank() {
        for blank in ["", " ", "\t\r\n", "\u{3000}", "\u{1c}", "\u{2028}"] {
            assert!(is_blank(blank), "{blank:?}");
        }
        for full in ["0", " a ", "\u{a0}", "\u{200b}", "\u{feff}", "\0", "null"] {
            assert!(!is_blank(full), "{full:?}");
        }
    }

    #[test]
    fn names_and_owned_names_are_known() {
        for good in ["a", "consumer_miniAppId", "a.b-c_9", &"x".repeat(64)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "a b", "中", "a=", "a[0]", "a\n", &"x".repeat(65)] {
            assert!(!is_name(bad), "{bad}");
        }
        for owned in ["sign", "SIGN", "App_Id", "encrypt_type"] {
            assert!(is_owned(owned), "{owned}");
        }
        for free in ["auth_token", "notify_url", "biz_content", "method", "sign "] {
            assert!(!is_owned(free), "{free}");
        }
    }

    #[test]
    fn a_list_keeps_names_unique_and_in_order() {
        let mut params = Params::new();
        params.push("b", "1").unwrap();
        params.push("a", "2").unwrap();
        assert!(params.push("b", "3").is_err());
        params.set("b", "4");
        params.set("c", " ");
        assert_eq!(params.to_form(Charset::Utf8).unwrap(), "b=4&a=2&c=%20");
        assert_eq!(params.remove("a").as_deref(), Some("2"));
        assert_eq!(params.clone().without_empty().len(), 1);
        assert_eq!(format!("{params:?}"), r#"{"b", "c"}"#);
    }

    proptest! {
        #[test]
        fn reading_never_panics(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Params::from_form(&raw, Charset::Utf8);
        }

        #[test]
        fn what_is_written_is_read(pairs in proptest::collection::btree_map(".{0,9}", ".{0,20}", 0..9)) {
            let mut params = Params::new();
            for (name, value) in &pairs {
                params.push(name, value).unwrap();
            }
            let form = params.to_form(Charset::Utf8).unwrap();
            prop_assert!(form.is_ascii());
            prop_assert_eq!(Params::from_form(form.as_bytes(), Charset::Utf8).unwrap(), params);
        }
    }
}
