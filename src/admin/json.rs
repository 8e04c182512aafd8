//! Reading an operator's JSON objects without ever repeating a value of them: it may be a secret.

use std::borrow::Cow;
use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::admin::error::AdminError;
use crate::config::nearest;
use crate::protocol::charset::Charset;
use crate::protocol::encryption::ContentKey;
use crate::protocol::json;
use crate::protocol::secret::Secret;

/// What an object of a request may hold: what is read, and what the API's document says.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) about: &'static str,
    /// The names of those that must be there.
    pub(crate) required: &'static [&'static str],
    pub(crate) members: &'static [Member],
}

/// One member that an object may have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
    pub(crate) form: Form,
}

/// What a member may hold, as the API's document says it. Whoever reads it is stricter still.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Form {
    /// The operator's name for a merchant.
    Alias,
    /// A number and a unit.
    Duration,
    /// The id of an entry of the inbox.
    Event,
    /// `true` or `false`.
    Flag,
    /// An application's.
    Id,
    /// A whole number of this range.
    Integer { least: i64, most: i64 },
    /// A text of this form.
    Pattern(&'static str),
    /// Any text, of so many characters at most.
    Text { longest: usize },
    /// A text of this form, or a list of them.
    Texts(&'static str),
    /// Unix milliseconds, which Alipay writes as a number or as a text.
    Time,
    /// One of these.
    Word(&'static [&'static str]),
}

/// One member.
pub(crate) const fn member(name: &'static str, form: Form, about: &'static str) -> Member {
    Member { name, about, form }
}

/// How long a time is at most that stands in a text, digits.
pub(crate) const TIME_DIGITS: usize = 18;

/// An AES key of 16, 24 or 32 bytes, in base64.
pub(crate) const AES_KEY: Form = Form::Pattern(
    "^([A-Za-z0-9+/]{21}[AQgw]==|[A-Za-z0-9+/]{32}|[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=)$",
);

/// Keys, certificates and tokens: as long as a request may be.
pub(crate) const LONG: Form = Form::Text { longest: 1 << 20 };

/// One JSON object, whose members are taken out one by one.
pub(crate) struct Members {
    object: &'static Object,
    left: Map<String, Value>,
}

impl Members {
    /// Reads what `object` describes: nothing else may be there.
    pub(crate) fn parse(body: &[u8], object: &'static Object) -> Result<Self, AdminError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(members)) => match repeated(body) {
                None => Self {
                    object,
                    left: members,
                }
                .known(),
                Some(name) => Err(invalid(&format!("`{name}` stands there twice"))),
            },
            Ok(_) => Err(invalid("found another JSON value, expected one object")),
            Err(error) => Err(invalid(&format!(
                "found no JSON (at column {}), expected one object",
                error.column()
            ))),
        }
    }

    /// A misspelt member is told before the one that is missing because of it.
    fn known(self) -> Result<Self, AdminError> {
        let mut names = self.left.keys();
        match names.find(|name| self.described(name).is_none()) {
            None => Ok(self),
            Some(name) => {
                let known = self.object.members.iter().map(|member| member.name);
                let meant = nearest(name, known);
                let meant = meant.map(|known| format!("; did you mean `{known}`?"));
                let meant = meant.unwrap_or_default();
                Err(invalid(&format!("`{name}` is an unknown member{meant}")))
            }
        }
    }

    /// A string; null, absent and empty are the same.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, AdminError> {
        let longest = self.longest(name);
        match self.take(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.chars().nth(longest).is_some() => Err(invalid(
                &format!("`{name}` has more than {longest} characters"),
            )),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(invalid(&format!("`{name}` isn't a string"))),
        }
    }

    pub(crate) fn secret(&mut self, name: &str) -> Result<Option<Secret<String>>, AdminError> {
        self.text(name).map(|text| text.map(Secret::new))
    }

    /// An AES key in base64.
    pub(crate) fn content_key(&mut self, name: &str) -> Result<Option<Secret<String>>, AdminError> {
        let key = self.secret(name)?;
        if let Some(key) = &key {
            ContentKey::from_base64(key.expose())
                .map_err(|error| invalid(&format!("`{name}`: {error}")))?;
        }
        Ok(key)
    }

    /// A string, parsed.
    pub(crate) fn parsed<T: std::str::FromStr>(
        &mut self,
        name: &str,
    ) -> Result<Option<T>, AdminError>
    where
        T::Err: std::fmt::Display,
    {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        let wrong = |error: T::Err| invalid(&format!("`{name}`: {error}"));
        text.parse().map(Some).map_err(wrong)
    }

    pub(crate) fn integer(&mut self, name: &str) -> Result<Option<i64>, AdminError> {
        let (least, most) = self.range(name);
        match self.take(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_i64().or_else(|| self.time(name, &value)) {
                Some(integer) if (least..=most).contains(&integer) => Ok(Some(integer)),
                Some(integer) => Err(invalid(&format!(
                    "`{name}` is {integer}, expected a number from {least} to {most}"
                ))),
                None => Err(invalid(&format!("`{name}` isn't an integer"))),
            },
        }
    }

    /// `true` or `false`; absent is `false`.
    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, AdminError> {
        match self.take(name) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(flag),
            Some(_) => Err(invalid(&format!("`{name}` is neither true nor false"))),
        }
    }

    /// A string, or a list of strings.
    pub(crate) fn texts(&mut self, name: &str) -> Result<Vec<String>, AdminError> {
        let wrong = || {
            invalid(&format!(
                "`{name}` is neither a string nor a list of strings"
            ))
        };
        match self.take(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(text)) if text.is_empty() => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text]),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong))
                .collect(),
            Some(_) => Err(wrong()),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.left.contains_key(name)
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        let described = self.described(name).is_some();
        debug_assert!(described, "`{name}` is read, but not described");
        self.left.remove(name)
    }

    fn longest(&self, name: &str) -> usize {
        match self.described(name).map(|member| member.form) {
            Some(Form::Text { longest }) => longest,
            _ => usize::MAX,
        }
    }

    fn range(&self, name: &str) -> (i64, i64) {
        match self.described(name).map(|member| member.form) {
            Some(Form::Integer { least, most }) => (least, most),
            Some(Form::Time) => (0, i64::MAX),
            _ => (i64::MIN, i64::MAX),
        }
    }

    /// A time in a text.
    fn time(&self, name: &str, value: &Value) -> Option<i64> {
        let is_time = matches!(self.described(name)?.form, Form::Time);
        let digits = value.as_str().filter(|_| is_time)?;
        let is_one = (1..=TIME_DIGITS).contains(&digits.len());
        let is_one = is_one && digits.bytes().all(|byte| byte.is_ascii_digit());
        digits.parse().ok().filter(|_| is_one)
    }

    fn described(&self, name: &str) -> Option<&'static Member> {
        self.object
            .members
            .iter()
            .find(|member| member.name == name)
    }

    /// Every member must have been taken out.
    pub(crate) fn finish(self) -> Result<(), AdminError> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => Err(invalid(&format!("`{name}` is an unknown member"))),
        }
    }
}

/// Finds a name that stands twice in a JSON object: which of the values was meant, nobody can tell.
fn repeated(body: &[u8]) -> Option<String> {
    let mut seen = HashSet::new();
    let members = json::members(body, Charset::Utf8).unwrap_or_default();
    let mut names = members.into_iter().map(|member| member.name);
    let twice = names.find(|name| !seen.insert(name.clone()));
    twice.map(Cow::into_owned)
}

/// `name` is missing.
pub(crate) fn missing(name: &str) -> AdminError {
    invalid(&format!("`{name}` is missing"))
}

pub(crate) fn invalid(text: &str) -> AdminError {
    AdminError::BodyInvalid(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    static NAMED: Object = Object {
        about: "A name",
        required: &[],
        members: &[
            member("alias", Form::Text { longest: 3 }, "The name"),
            member("x", LONG, "Another"),
        ],
    };

    #[test]
    fn a_text_is_as_long_as_described() {
        let read = |body: &str| Members::parse(body.as_bytes(), &NAMED)?.text("alias");
        let kept = read(r#"{"alias":"商家店"}"#).expect("three characters");
        assert_eq!(kept.as_deref(), Some("商家店"));
        let fault = read(r#"{"alias":"shop"}"#).expect_err("four").to_string();
        assert_eq!(fault, "`alias` has more than 3 characters");
    }

    #[test]
    fn an_unknown_member_is_told_with_the_one_it_may_mean() {
        for (body, expected) in [
            (
                r#"{"alais":"a"}"#,
                "`alais` is an unknown member; did you mean `alias`?",
            ),
            (r#"{"token":"a"}"#, "`token` is an unknown member"),
        ] {
            let fault = Members::parse(body.as_bytes(), &NAMED).err();
            assert_eq!(fault.expect("a fault").to_string(), expected);
        }
    }

    #[test]
    fn a_member_given_twice_is_refused_in_any_spelling() {
        for body in [
            r#"{"alias":"a","alias":"b"}"#,
            r#"{"alias":"a","alias":"a"}"#,
            r#"{"alias":null,"x":1,"\u0061lias":"b"}"#,
        ] {
            let fault = Members::parse(body.as_bytes(), &NAMED)
                .err()
                .expect("a fault");
            assert!(
                fault.to_string().contains("`alias` stands there twice"),
                "{fault}"
            );
        }
        let mut members =
            Members::parse(br#"{"alias":"a","x":{"alias":1}}"#, &NAMED).expect("an object");
        assert_eq!(members.text("alias").expect("a text").as_deref(), Some("a"));
    }
}
