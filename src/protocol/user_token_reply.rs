//! The tokens in a reply of `alipay.system.oauth.token`.
//!
//! Protocol: alipay.system.oauth.token(换取授权访问令牌). A success has neither `code` nor `msg`;
//! numbers may be strings; new applications get an `open_id` instead of a `user_id`.

use serde::Deserialize;

use super::{
    error::ProtocolError,
    loose::{self, Loose},
    secret::Secret,
};

/// Tells what a user's login or a refresh bought. Durations are seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantedUserToken {
    /// The user's id at Alipay.
    pub user_id: Option<String>,
    /// The user's id for this application.
    pub open_id: Option<String>,
    /// What the user agreed to, where it is told.
    pub scope: Option<String>,
    /// What calls carry as `auth_token`.
    pub access_token: Secret<String>,
    /// What a refresh needs.
    pub refresh_token: Option<Secret<String>>,
    /// Life of the access token.
    pub expires_in: Option<u64>,
    /// Life of the refresh token.
    pub re_expires_in: Option<u64>,
}

/// Reads the grant out of the UTF-8 text of a node.
///
/// # Errors
///
/// [`ProtocolError::TokenReplyInvalid`] if the node isn't a JSON object or names no token.
pub fn parse(node: &[u8]) -> Result<GrantedUserToken, ProtocolError> {
    let invalid = |reason: &str| ProtocolError::TokenReplyInvalid {
        reason: reason.to_owned(),
    };
    let text = std::str::from_utf8(node).unwrap_or_default();
    let reply: Reply =
        loose::object(text).ok_or_else(|| invalid("it isn't the documented JSON object"))?;
    let access_token = reply.access_token.into_text();
    Ok(GrantedUserToken {
        user_id: reply.user_id.or(&reply.alipay_user_id).into_text(),
        open_id: reply.open_id.into_text(),
        scope: reply.scope.into_text(),
        access_token: Secret::new(access_token.ok_or_else(|| invalid("it has no `access_token`"))?),
        refresh_token: reply.refresh_token.into_text().map(Secret::new),
        expires_in: reply.expires_in.number(),
        re_expires_in: reply.re_expires_in.number(),
    })
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Reply {
    access_token: Loose,
    alipay_user_id: Loose,
    expires_in: Loose,
    open_id: Loose,
    re_expires_in: Loose,
    refresh_token: Loose,
    scope: Loose,
    user_id: Loose,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_grant_is_read_whatever_its_numbers_are_written_as() {
        let node = r#"{"access_token":"a","refresh_token":"r","expires_in":"1296000","re_expires_in":2592000,"open_id":"o"}"#;
        let granted = parse(node.as_bytes()).unwrap();
        assert_eq!(granted.access_token.expose(), "a");
        assert_eq!(granted.refresh_token, Some(Secret::new("r".to_owned())));
        assert_eq!(
            (granted.expires_in, granted.re_expires_in),
            (Some(1_296_000), Some(2_592_000))
        );
        assert_eq!(
            (granted.user_id, granted.open_id.as_deref()),
            (None, Some("o"))
        );
    }

    #[test]
    fn the_obsolete_name_of_the_user_counts_where_there_is_no_other() {
        let user = |node: &str| parse(node.as_bytes()).unwrap().user_id;
        let node = r#"{"access_token":"a","alipay_user_id":"2088","user_id":""}"#;
        assert_eq!(user(node).as_deref(), Some("2088"));
        let node = r#"{"access_token":"a","alipay_user_id":"2088","user_id":"2089"}"#;
        assert_eq!(user(node).as_deref(), Some("2089"));
    }

    #[test]
    fn replies_without_a_token_are_refused() {
        for node in [
            "",
            "{}",
            "[]",
            "null",
            r#"["a"]"#,
            r#"{"code":"40002"}"#,
            r#"{"access_token":""}"#,
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
