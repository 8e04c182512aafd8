//! What Alipay says of an `app_auth_token`: the reply of `alipay.open.auth.token.app.query`.
//!
//! Protocol: alipay.open.auth.token.app.query(查询某个应用授权AppAuthToken的授权信息). Numbers may
//! be strings, times dates or milliseconds, and the list a list or an object around one.

use serde::Deserialize;
use serde_json::Value;

use super::loose::Loose;

/// What a token is, as Alipay says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenDescription {
    /// `valid` or `invalid`.
    pub status: String,
    /// The merchant's app.
    pub auth_app_id: Option<String>,
    /// The merchant (PID); missing in open_id mode.
    pub user_id: Option<String>,
    /// When the authorisation began, as Alipay writes it.
    pub auth_start: Option<String>,
    /// When it ends, as Alipay writes it; by now only history.
    pub auth_end: Option<String>,
    /// Deprecated life of the token, seconds.
    pub expires_in: Option<u64>,
    /// What may be called and received with it.
    pub auth_methods: Vec<String>,
}

/// Reads a description out of the UTF-8 text of a node; `None`: it isn't one, for want of a
/// `status`.
#[must_use]
pub fn parse(node: &[u8]) -> Option<TokenDescription> {
    let reply: Reply = super::loose::object(std::str::from_utf8(node).ok()?)?;
    Some(TokenDescription {
        status: reply.status.into_text()?,
        auth_app_id: reply.auth_app_id.into_text(),
        user_id: reply.user_id.into_text(),
        auth_start: reply.auth_start.into_text(),
        auth_end: reply.auth_end.into_text(),
        expires_in: reply.expires_in.number(),
        auth_methods: texts(reply.auth_methods),
    })
}

/// The strings of a list, or of the list that an object wraps (`{"string":[…]}`).
fn texts(value: Value) -> Vec<String> {
    let items = match value {
        Value::Array(items) => items,
        Value::Object(members) => match members.into_iter().next() {
            Some((_, Value::Array(items))) => items,
            _ => Vec::new(),
        },
        _ => Vec::new(),
    };
    let text = |item: Value| item.as_str().map(str::to_owned);
    items.into_iter().filter_map(text).collect()
}

#[derive(Deserialize)]
struct Reply {
    #[serde(default)]
    status: Loose,
    #[serde(default)]
    auth_app_id: Loose,
    #[serde(default)]
    user_id: Loose,
    #[serde(default)]
    auth_start: Loose,
    #[serde(default)]
    auth_end: Loose,
    #[serde(default)]
    expires_in: Loose,
    #[serde(default)]
    auth_methods: Value,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn description(node: &str) -> TokenDescription {
        parse(node.as_bytes()).expect(node)
    }

    #[test]
    fn a_description_is_read_in_every_spelling() {
        let described = description(
            r#"{"code":"10000","auth_app_id":2021,"user_id":"2088","status":"valid","expires_in":"31536000","auth_start":1587573752655,"auth_end":"2027-01-01 00:00:00","auth_methods":["a","b"]}"#,
        );
        assert_eq!(described.auth_app_id.as_deref(), Some("2021"));
        assert_eq!(described.user_id.as_deref(), Some("2088"));
        assert_eq!(described.expires_in, Some(31_536_000));
        assert_eq!(described.auth_start.as_deref(), Some("1587573752655"));
        assert_eq!(described.auth_methods, ["a", "b"]);
        let wrapped = description(r#"{"status":"invalid","auth_methods":{"string":["a"]}}"#);
        assert_eq!(wrapped.auth_methods, ["a"]);
        assert_eq!((wrapped.auth_app_id, wrapped.user_id), (None, None));
    }

    #[test]
    fn what_has_no_status_is_no_description() {
        for node in ["", "{}", "[]", "null", r#"{"status":null}"#, r#"["valid"]"#] {
            assert_eq!(parse(node.as_bytes()), None, "{node}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(node in ".{0,60}") {
            let _ = parse(node.as_bytes());
        }
    }
}
