//! Taking tokens out of parameters, at every depth.

use serde_json::Value;

use crate::protocol::params::Params;

/// Members that hold what only the sidecar may know.
const SECRET: [&str; 3] = ["app_auth_code", "app_auth_token", "app_refresh_token"];
/// What stands for a text that mentions a secret and can't be read.
const UNREADABLE: &str = "[redacted]";

/// `params` without any token: parameters, members of JSON values, and members of JSON that
/// stands inside text, however deep.
pub(super) fn redacted(params: &Params) -> Params {
    let mut kept = Params::new();
    for (name, value) in params.iter().filter(|(name, _)| !is_secret(name)) {
        kept.set(name, text(value));
    }
    kept
}

fn is_secret(name: &str) -> bool {
    SECRET
        .iter()
        .any(|secret| secret.eq_ignore_ascii_case(name))
}

fn text(text: &str) -> String {
    match serde_json::from_str::<Value>(text) {
        // An escaped member name (`app\u005fauth_token`) shows only once it is parsed.
        Ok(value @ (Value::Array(_) | Value::Object(_) | Value::String(_))) => {
            let clean = json(value.clone());
            // Of members with one name only the last was read: what the others hold isn't known.
            if clean == value && members(&value) == written_members(text) {
                text.to_owned()
            } else {
                clean.to_string()
            }
        }
        Err(_) if mentions_secret(text) => UNREADABLE.to_owned(),
        _ => text.to_owned(),
    }
}

/// Its depth is bounded by that of serde_json's parser.
fn json(value: Value) -> Value {
    match value {
        Value::Array(items) => items.into_iter().map(json).collect(),
        Value::Object(members) => members
            .into_iter()
            .filter(|(name, _)| !is_secret(name))
            .map(|(name, value)| (name, json(value)))
            .collect(),
        Value::String(inner) => Value::String(text(&inner)),
        other => other,
    }
}

/// How many members there are at all depths.
fn members(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(members).sum(),
        Value::Object(inside) => inside.len() + inside.values().map(members).sum::<usize>(),
        _ => 0,
    }
}

/// How many are written in a text that is JSON: each has a colon outside of strings.
fn written_members(text: &str) -> usize {
    let (mut in_string, mut is_escaped, mut colons) = (false, false, 0);
    for byte in text.bytes() {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => in_string = !in_string,
            b':' if !in_string => colons += 1,
            _ => {}
        }
    }
    colons
}

fn mentions_secret(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    SECRET.iter().any(|secret| text.contains(secret))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::charset::Charset;

    fn check(value: &str, expected: &str) {
        let mut params = Params::new();
        params.set("v", value);
        assert_eq!(redacted(&params).get("v"), Some(expected), "{value}");
    }

    #[test]
    fn tokens_are_taken_out_at_every_depth() {
        check(
            r#"{"detail":{"app_auth_token":"t","auth_app_id":"1"},"l":[{"app_auth_code":{}}]}"#,
            r#"{"detail":{"auth_app_id":"1"},"l":[{}]}"#,
        );
        check(r#"{"app\u005frefresh_token":"t"}"#, "{}");
        check(
            r#"{"x":"{\"APP_AUTH_TOKEN\":\"t\",\"y\":1}"}"#,
            r#"{"x":"{\"y\":1}"}"#,
        );
        check(r#"{"x":"app_auth_token=t"}"#, r#"{"x":"[redacted]"}"#);
        check("app_auth_token=t", "[redacted]");
        check(r#"{"app_auth_token":"t""#, "[redacted]");
    }

    #[test]
    fn a_token_that_another_member_of_its_name_hides_goes_too() {
        for hidden in [
            r#"{"app_auth_token":"t"}"#,
            r#"{"app\u005fauth_token":"t"}"#,
            r#""{\"app\\u005fauth_token\":\"t\"}""#,
        ] {
            check(&format!(r#"{{"x":{hidden},"x":1}}"#), r#"{"x":1}"#);
            check(
                &format!(r#"[{{"y":{{"x":{hidden},"x":":"}}}}]"#),
                r#"[{"y":{"x":":"}}]"#,
            );
        }
        let inside = r#"{"v":"{\"x\":{\"app\\u005fauth_token\":1},\"x\":1}"}"#;
        check(inside, r#"{"v":"{\"x\":1}"}"#);
    }

    #[test]
    fn what_holds_no_token_stays_as_it_came() {
        for value in [
            r#"{"a": 1.00}"#,
            r#"{"a:\":": ":\\", "b": {"c": {}, "d": [1, {"a:": 1.0}]}}"#,
            "",
            "12",
            "text",
            "[1, 2]",
        ] {
            check(value, value);
        }
    }

    #[test]
    fn parameters_that_are_tokens_go() {
        let params = Params::from_form(b"app_auth_code=c&App_Auth_Token=t&a=1", Charset::Utf8);
        let kept = redacted(&params.expect("form"));
        assert_eq!(kept.iter().collect::<Vec<_>>(), [("a", "1")]);
    }
}
