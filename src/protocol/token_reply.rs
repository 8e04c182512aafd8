//! The tokens in a reply of `alipay.open.auth.token.app`.
//!
//! Protocol: alipay.open.auth.token.app(换取应用授权令牌). Old replies carry the fields at the top
//! level, newer ones in `tokens`, some both; numbers may be strings.

use serde::Deserialize;

use super::{error::ProtocolError, loose::Loose, secret::Secret};

/// Tells what one merchant's app granted. Durations are seconds, and by now only history: tokens
/// are valid until the merchant cancels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantedToken {
    /// The merchant's app.
    pub auth_app_id: String,
    /// The merchant (PID); missing in open_id mode.
    pub user_id: Option<String>,
    /// What calls on the merchant's behalf carry.
    pub app_auth_token: Secret<String>,
    /// What a refresh needs.
    pub app_refresh_token: Option<Secret<String>>,
    /// Deprecated life of the token.
    pub expires_in: Option<u64>,
    /// Deprecated life of the refresh token.
    pub re_expires_in: Option<u64>,
}

/// Reads the grants out of the UTF-8 text of a node: those in `tokens`, or else the one at the top
/// level.
///
/// The code was good for this one exchange, so a grant is kept even where another one of the same
/// reply lacks something.
///
/// # Errors
///
/// [`ProtocolError::TokenReplyInvalid`] if the node isn't a JSON object or there is no grant with
/// both `auth_app_id` and `app_auth_token`.
pub fn parse(node: &[u8]) -> Result<Vec<GrantedToken>, ProtocolError> {
    let invalid = |reason: &str| ProtocolError::TokenReplyInvalid {
        reason: reason.to_owned(),
    };
    let reply: Reply =
        serde_json::from_slice(node).map_err(|_| invalid("it isn't the documented JSON object"))?;
    let listed = reply.tokens.unwrap_or_default();
    // In the mixed shape the top level may complete the only entry, never one of several.
    let only_one = listed.len() == 1;
    let mut granted: Vec<_> = listed
        .into_iter()
        .filter_map(|entry| match only_one {
            true => entry.or(&reply.top).granted(),
            false => entry.granted(),
        })
        .collect();
    if granted.is_empty() {
        granted.extend(reply.top.granted());
    }
    match granted.is_empty() {
        true => Err(invalid("it holds no complete grant")),
        false => Ok(granted),
    }
}

#[derive(Deserialize)]
struct Reply {
    tokens: Option<Vec<Entry>>,
    #[serde(flatten)]
    top: Entry,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth_app_id: Loose,
    #[serde(default)]
    user_id: Loose,
    #[serde(default)]
    app_auth_token: Loose,
    #[serde(default)]
    app_refresh_token: Loose,
    #[serde(default)]
    expires_in: Loose,
    #[serde(default)]
    re_expires_in: Loose,
}

impl Entry {
    /// Completes an entry for the same app and token from the top level.
    fn or(mut self, top: &Self) -> Self {
        let agree = |own: &Loose, other: &Loose| own.is_none() || other.is_none() || own == other;
        if agree(&self.auth_app_id, &top.auth_app_id)
            && agree(&self.app_auth_token, &top.app_auth_token)
        {
            self.auth_app_id = self.auth_app_id.or(&top.auth_app_id);
            self.user_id = self.user_id.or(&top.user_id);
            self.app_auth_token = self.app_auth_token.or(&top.app_auth_token);
            self.app_refresh_token = self.app_refresh_token.or(&top.app_refresh_token);
        }
        self
    }

    fn granted(self) -> Option<GrantedToken> {
        Some(GrantedToken {
            auth_app_id: self.auth_app_id.into_text()?,
            user_id: self.user_id.into_text(),
            app_auth_token: Secret::new(self.app_auth_token.into_text()?),
            app_refresh_token: self.app_refresh_token.into_text().map(Secret::new),
            expires_in: self.expires_in.number(),
            re_expires_in: self.re_expires_in.number(),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(node: &str, expected: &[(&str, &str)]) {
        let granted = parse(node.as_bytes()).unwrap();
        let found: Vec<_> = granted
            .iter()
            .map(|token| {
                (
                    token.auth_app_id.as_str(),
                    token.app_auth_token.expose().as_str(),
                )
            })
            .collect();
        assert_eq!(found, expected, "{node}");
    }

    #[test]
    fn grants_are_read_from_the_list_or_from_the_top() {
        check(
            r#"{"tokens":[{"auth_app_id":"1","app_auth_token":"a"},{"auth_app_id":2,"app_auth_token":"b"}]}"#,
            &[("1", "a"), ("2", "b")],
        );
        check(r#"{"auth_app_id":"1","app_auth_token":"a"}"#, &[("1", "a")]);
        check(
            r#"{"tokens":[],"auth_app_id":"1","app_auth_token":"a"}"#,
            &[("1", "a")],
        );
        check(
            r#"{"tokens":null,"auth_app_id":"1","app_auth_token":"a"}"#,
            &[("1", "a")],
        );
        check(
            r#"{"auth_app_id":"1","app_auth_token":"a","tokens":[{"auth_app_id":"2","app_auth_token":"b"}]}"#,
            &[("2", "b")],
        );
        check(
            r#"{"auth_app_id":"1","app_auth_token":"a","tokens":[{"app_auth_token":"a"}]}"#,
            &[("1", "a")],
        );
        check(
            r#"{"tokens":[{"auth_app_id":"1"},{"auth_app_id":"2","app_auth_token":"b"}]}"#,
            &[("2", "b")],
        );
    }

    #[test]
    fn numbers_may_be_strings_and_rubbish_is_none() {
        let node = r#"{"auth_app_id":"1","app_auth_token":"a","user_id":2088,"expires_in":"31536000","re_expires_in":{}}"#;
        let token = parse(node.as_bytes()).unwrap().remove(0);
        assert_eq!(token.user_id.as_deref(), Some("2088"));
        assert_eq!(
            (token.expires_in, token.re_expires_in),
            (Some(31_536_000), None)
        );
        assert_eq!(token.app_refresh_token, None);
    }

    #[test]
    fn replies_without_a_grant_are_refused() {
        for node in [
            "",
            "{}",
            "[]",
            "null",
            r#""ciphertext""#,
            r#"{"code":"40002"}"#,
            r#"{"auth_app_id":"1"}"#,
            r#"{"app_auth_token":"a"}"#,
            r#"{"auth_app_id":"","app_auth_token":"a"}"#,
            r#"{"tokens":[{"auth_app_id":"1","app_auth_token":null}]}"#,
            r#"{"tokens":{"auth_app_id":"1","app_auth_token":"a"}}"#,
        ] {
            assert!(parse(node.as_bytes()).is_err(), "{node}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(node in ".{0,60}") {
            let _ = parse(node.as_bytes());
        }
    }
}
