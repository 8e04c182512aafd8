//! What a call that buys tokens spends: read as one, or nothing is sent.
//!
//! One refresh token is never spent from two places, and one code never twice. Both hold only if we
//! find what Alipay finds, so what two readers may read differently is refused.

use crate::protocol::charset::Charset;
use crate::protocol::json::{self, Kind, Member};
use crate::protocol::params::Params;
use crate::protocol::secret::Secret;
use crate::proxy::error::{ErrorCode, ProxyError};

/// The members that say what is spent, and how.
const NAMES: [&str; 3] = ["grant_type", "code", "refresh_token"];

/// What a method spends that is guarded here; what it says besides concerns Alipay alone.
#[derive(Clone, Copy)]
pub(super) enum Guarded {
    /// Merchants' refresh tokens. An `app_auth_code` isn't: Alipay refuses it the second time.
    Merchants,
    /// Users' codes and refresh tokens.
    Users,
}

/// What is granted, and for what; those of [`NAMES`] that say something.
#[derive(Default)]
pub(super) struct Grant(Vec<(&'static str, Secret<String>)>);

impl Grant {
    /// Reads the contents of a call, and what is said beside them by parameters of their own: old SDKs
    /// send those, and v3 may have a query. It says nothing where nothing guarded is named.
    ///
    /// # Errors
    /// `body-invalid`; `parameter-duplicate`, also where the two say different things.
    pub(super) fn read(
        guarded: Guarded,
        content: &[u8],
        beside: &Params,
    ) -> Result<Self, ProxyError> {
        let is_beside = |name: &str| beside.get(name).is_some_and(|value| !value.is_empty());
        let names = guarded.names();
        let is_named = names.iter().any(|name| is_beside(name)) || could_name(content, names);
        match is_named {
            true => Self::of_json(content)?.or_of(beside),
            false => Ok(Self::default()),
        }
    }

    /// Empty contents say nothing.
    fn of_json(content: &[u8]) -> Result<Self, ProxyError> {
        let mut grant = Self::default();
        if content.trim_ascii().is_empty() {
            return Ok(grant);
        }
        let members = json::members(content, Charset::Utf8);
        let members = members.map_err(|error| invalid(&error.to_string()))?;
        for name in NAMES {
            let mut found = members.iter().filter(|member| member.name == name);
            let (first, second) = (found.next(), found.next());
            if second.is_some() {
                return Err(twice(name));
            }
            let said = first.map(|member| text(content, member)).transpose()?;
            grant.take(name, said.flatten());
        }
        Ok(grant)
    }

    fn or_of(mut self, parameters: &Params) -> Result<Self, ProxyError> {
        for name in NAMES {
            let beside = parameters.get(name).filter(|value| !value.is_empty());
            match (self.get(name), beside) {
                (Some(inside), Some(beside)) if inside != beside => return Err(twice(name)),
                (None, beside) => {
                    self.take(name, beside.map(|value| Secret::new(value.to_owned())));
                }
                (Some(_), _) => {}
            }
        }
        Ok(self)
    }

    /// The refresh token that is spent.
    pub(super) fn refresh_token(&self) -> Option<Secret<String>> {
        let is_refresh = self.get("grant_type") == Some("refresh_token");
        let token = self.get("refresh_token").filter(|_| is_refresh);
        token.map(|token| Secret::new(token.to_owned()))
    }

    /// What it says by that name; nothing where that is empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut said = self.0.iter();
        let (_, value) = said.find(|(found, _)| *found == name)?;
        Some(value.expose().as_str())
    }

    fn take(&mut self, name: &'static str, value: Option<Secret<String>>) {
        let said = value.filter(|value| !value.expose().is_empty());
        self.0.extend(said.map(|value| (name, value)));
    }
}

impl Guarded {
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Merchants => &["refresh_token"],
            Self::Users => &["code", "refresh_token"],
        }
    }
}

/// The parameters in the query of a v3 call.
///
/// # Errors
/// Contract §3's 400s.
pub(super) fn query_of(target: &str) -> Result<Params, ProxyError> {
    let (_, query) = target.split_once('?').unwrap_or_default();
    Ok(Params::from_form(query.as_bytes(), Charset::Utf8)?)
}

/// Whether any reader could find one of the names there: behind a `\` may stand any character, and in
/// UTF-16 every second byte is 0.
fn could_name(content: &[u8], names: &[&str]) -> bool {
    let stands = |name: &&str| {
        let mut places = content.windows(name.len());
        places.any(|place| place == name.as_bytes())
    };
    let is_veiled = content.iter().any(|byte| matches!(byte, b'\\' | 0));
    is_veiled || names.iter().any(stands)
}

/// The text of a value. Alipay takes a number for its digits; nothing else is a token or a code.
fn text(content: &[u8], member: &Member<'_>) -> Result<Option<Secret<String>>, ProxyError> {
    let value = content.get(member.value.clone()).unwrap_or_default();
    match member.kind {
        Kind::String => match serde_json::from_slice(value) {
            Ok(text) => Ok(Some(Secret::new(text))),
            Err(_) => Err(invalid(&format!("`{}` can't be read", member.name))),
        },
        Kind::Number => {
            let digits = String::from_utf8_lossy(value).into_owned();
            Ok(Some(Secret::new(digits)))
        }
        Kind::Array | Kind::Bool | Kind::Null | Kind::Object => Ok(None),
    }
}

fn invalid(reason: &str) -> ProxyError {
    let detail = format!(
        "the contents of a call that buys tokens must be one JSON object in UTF-8, so that what it \
         spends is known: {reason}"
    );
    ProxyError::refused(ErrorCode::BodyInvalid, detail)
}

fn twice(name: &str) -> ProxyError {
    let detail = format!("`{name}` is given twice; which of the two would be spent isn't known");
    ProxyError::refused(ErrorCode::ParameterDuplicate, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content: &str, beside: &[(&str, &str)], expected: Result<Option<&str>, ErrorCode>) {
        let mut parameters = Params::new();
        for (name, value) in beside {
            parameters.push(*name, *value).expect("once");
        }
        let grant = Grant::read(Guarded::Merchants, content.as_bytes(), &parameters);
        let found = match &grant {
            Ok(grant) => Ok(grant.refresh_token().map(|token| token.expose().clone())),
            Err(error) => Err(error.code),
        };
        let expected = expected.map(|token| token.map(str::to_owned));
        assert_eq!(found, expected, "{content} {beside:?}");
    }

    #[test]
    fn a_refresh_token_is_found_wherever_it_may_stand() {
        let refresh = ("grant_type", "refresh_token");
        let token = ("refresh_token", "R");
        for (content, beside, expected) in [
            ("", &[][..], None),
            (" \n", &[], None),
            ("{}", &[], None),
            ("", &[refresh, token], Some("R")),
            ("{}", &[refresh, token], Some("R")),
            (r#"{"refresh_token":"R"}"#, &[refresh], Some("R")),
            (r#"{"grant_type":"refresh_token"}"#, &[token], Some("R")),
            (r#"{"refresh_token":"R"}"#, &[], None),
            (r#"{"refresh_token":""}"#, &[refresh], None),
            (r#"{"refresh_token":null}"#, &[refresh], None),
            (r#"{"refresh_token":12}"#, &[refresh], Some("12")),
            (
                r#"{"refresh_tok\u0065n":"\u0052"}"#,
                &[refresh, token],
                Some("R"),
            ),
            (
                r#"{"grant_type":"authorization_code","code":"C","refresh_token":"R"}"#,
                &[],
                None,
            ),
            // What names no refresh token spends none, however it is read.
            (r#"{"code":"C","code":null}"#, &[], None),
            ("{'grant_type':'authorization_code'}", &[], None),
            ("x", &[refresh], None),
            (
                r#"{"x":1,"x":2,"refresh_token":"R"}"#,
                &[refresh],
                Some("R"),
            ),
        ] {
            check(content, beside, Ok(expected));
        }
    }

    #[test]
    fn what_two_readers_may_read_differently_is_refused() {
        let token = ("refresh_token", "R");
        for (content, beside, expected) in [
            (
                r#"{"refresh_token":"R","refresh_token":"R"}"#,
                &[][..],
                ErrorCode::ParameterDuplicate,
            ),
            (
                r#"{"refresh_token":"R","grant_type":"x","grant_type":"y"}"#,
                &[],
                ErrorCode::ParameterDuplicate,
            ),
            (
                r#"{"refresh_token":"S"}"#,
                &[token],
                ErrorCode::ParameterDuplicate,
            ),
            (r#"["R"]"#, &[token], ErrorCode::BodyInvalid),
            ("x", &[token], ErrorCode::BodyInvalid),
            (r"{'refresh_tok\u0065n':'R'}", &[], ErrorCode::BodyInvalid),
            ("{'refresh_token':'R'}", &[], ErrorCode::BodyInvalid),
            (r#"{"refresh_token":"\ud800"}"#, &[], ErrorCode::BodyInvalid),
            ("{} {}", &[token], ErrorCode::BodyInvalid),
        ] {
            check(content, beside, Err(expected));
        }
    }

    #[test]
    fn a_code_is_looked_at_where_it_is_guarded() {
        let none = Params::new();
        let read = |content: &str| Grant::read(Guarded::Users, content.as_bytes(), &none);
        let refused = |content: &str| read(content).err().map(|error| error.code);
        let duplicate = r#"{"code":"C","\u0063ode":null}"#;
        assert_eq!(refused(duplicate), Some(ErrorCode::ParameterDuplicate));
        assert_eq!(refused("{'code':'C'}"), Some(ErrorCode::BodyInvalid));
        let grant = read(r#"{"code":"C"}"#).expect("readable");
        assert_eq!(grant.get("code"), Some("C"));
        assert_eq!(refused("x"), None);
    }
}
