//! Reading an operator's JSON objects without ever repeating a value of them: it may be a secret.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::admin::error::AdminError;
use crate::protocol::charset::Charset;
use crate::protocol::encryption::ContentKey;
use crate::protocol::json;
use crate::protocol::secret::Secret;

/// One JSON object, whose members are taken out one by one; what is left over is unknown.
pub(crate) struct Members(Map<String, Value>);

impl Members {
    pub(crate) fn parse(body: &[u8]) -> Result<Self, AdminError> {
        match serde_json::from_slice(body) {
            Ok(Value::Object(members)) => match repeated(body) {
                None => Ok(Self(members)),
                Some(name) => Err(invalid(&format!("`{name}` stands there twice"))),
            },
            Ok(_) => Err(invalid("found another JSON value, expected one object")),
            Err(error) => Err(invalid(&format!(
                "found no JSON (at column {}), expected one object",
                error.column()
            ))),
        }
    }

    /// A string; null, absent and empty are the same.
    pub(crate) fn text(&mut self, name: &str) -> Result<Option<String>, AdminError> {
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
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
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match value.as_i64() {
                Some(integer) => Ok(Some(integer)),
                None => Err(invalid(&format!("`{name}` isn't an integer"))),
            },
        }
    }

    /// `true` or `false`; absent is `false`.
    pub(crate) fn flag(&mut self, name: &str) -> Result<bool, AdminError> {
        match self.0.remove(name) {
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
        match self.0.remove(name) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text]),
            Some(Value::Array(items)) => items
                .into_iter()
                .map(|item| item.as_str().map(str::to_owned).ok_or_else(wrong))
                .collect(),
            Some(_) => Err(wrong()),
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Every member must have been taken out.
    pub(crate) fn finish(self) -> Result<(), AdminError> {
        match self.0.keys().next() {
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
    names.find(|name| !seen.insert(name.clone()))
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

    #[test]
    fn a_member_given_twice_is_refused_in_any_spelling() {
        for body in [
            r#"{"alias":"a","alias":"b"}"#,
            r#"{"alias":"a","alias":"a"}"#,
            r#"{"alias":null,"x":1,"\u0061lias":"b"}"#,
        ] {
            let fault = Members::parse(body.as_bytes()).err().expect("a fault");
            assert!(
                fault.to_string().contains("`alias` stands there twice"),
                "{fault}"
            );
        }
        let mut members = Members::parse(br#"{"alias":"a","x":{"alias":1}}"#).expect("an object");
        assert_eq!(members.text("alias").expect("a text").as_deref(), Some("a"));
    }
}
