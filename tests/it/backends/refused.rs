//! What each backend refuses: a token of nobody.

use http::{Method, StatusCode};
use serde_json::json;

use super::between::{Between, Instead};
use super::{ask, code};
use crate::support::TestSidecar;

/// What ends the path of a login's call.
pub(super) const TOKEN: &str = "/alipay.system.oauth.token";

/// Tokens that don't say whose they are.
pub(super) const NOBODYS: [&str; 2] = [
    r#"{"access_token":"nobodys"}"#,
    r#"{"access_token":"nobodys","user_id":"","open_id":""}"#,
];

/// A token that doesn't say whose it is, though verified, isn't the caller's fault, and the code is spent.
pub(super) async fn a_token_of_nobody(sidecar: &TestSidecar, between: &Between, base: &str) {
    for node in NOBODYS {
        let verified = "true";
        between.tell_of(TOKEN, Instead::Node { verified, node });
        let path = format!("/login?code={}", code(sidecar));
        let (status, told) = ask(sidecar, base, Method::GET, &path).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{told}");
        let unknown = json!({"error": "user-missing", "outcome": "unknown"});
        assert_eq!(told, unknown);
    }
}
