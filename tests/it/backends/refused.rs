//! What each backend refuses: what is none of its routes, and a token of nobody.

use http::{Method, Request, StatusCode};
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

/// What is none of the routes, for its method or its order's name, is 404 in every language: Alipay isn't
/// asked. The order `one` is known.
pub(super) async fn what_is_no_route(sidecar: &TestSidecar, base: &str, user: &str) {
    let called = sidecar.simulator.requests().len();
    let login = format!("/login?code={}", code(sidecar));
    let paid = format!("amount=8.80&user={user}");
    let long = "x".repeat(65);
    for (method, path) in [
        (Method::POST, login.as_str()),
        (Method::DELETE, &login),
        (Method::DELETE, "/orders/one"),
        (Method::PUT, "/orders/one"),
        (Method::PATCH, "/orders/one"),
        (Method::GET, "/orders/"),
        (Method::POST, &format!("/orders/?{paid}")),
        (Method::GET, "/orders/%6Fne"),
        (Method::POST, &format!("/orders/%6Fne?{paid}")),
        (Method::POST, &format!("/orders/o%22e?{paid}")),
        (Method::POST, &format!("/orders/one/two?{paid}")),
        (Method::POST, &format!("/orders/{long}?{paid}")),
        (Method::GET, "/alipay/events"),
        (Method::POST, "/alipay/events/one"),
    ] {
        let request = Request::builder().method(&method).uri(path);
        let body = if method == Method::GET { "" } else { "a=b" };
        let reply = sidecar.send(base, request, body.into()).await;
        assert_eq!(reply.status, StatusCode::NOT_FOUND, "{method} {path}");
    }
    assert_eq!(sidecar.simulator.requests().len(), called);
    let (status, told) = ask(sidecar, base, Method::GET, "/orders/one").await;
    assert_eq!((status, &told["paid"]), (StatusCode::OK, &json!(true)));
}

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
