//! The OpenAPI document of the admin listener says what is, and all of it.

use http::{Method, Request};
use serde_json::{Value, json};

use crate::support::documented::{document, paths};
use crate::support::{TestSidecar, header, json as parsed, text};

const DOCUMENT: &str = "/api/openapi.json";

/// Every method that an HTTP client has by name.
const METHODS: [Method; 7] = [
    Method::GET,
    Method::PUT,
    Method::DELETE,
    Method::POST,
    Method::PATCH,
    Method::OPTIONS,
    Method::HEAD,
];

/// `path` with something in the place of each name.
fn filled(path: &str) -> String {
    let event = "01980000-0000-7000-8000-000000000000";
    let path = path.replace("{app_id}", "2021000000009999");
    let path = path.replace("{auth_app_id}", "2021000000009998");
    path.replace("{id}", event)
}

/// Each path, method and operation of the document.
fn operations() -> Vec<(&'static str, Method, &'static Value)> {
    let each = paths().iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().expect("methods");
        methods.iter().map(move |(method, operation)| {
            let method = method.to_ascii_uppercase().parse().expect("a method");
            (path.as_str(), method, operation)
        })
    });
    each.collect()
}

#[tokio::test]
async fn the_document_is_had_with_the_token() {
    let sidecar = TestSidecar::start().await;
    let reply = sidecar.admin(Method::GET, DOCUMENT, "").await;
    assert_eq!(reply.status, 200, "{}", text(&reply));
    assert_eq!(&parsed(&reply), document());
    assert_eq!(document()["openapi"], "3.1.0");
    let request = Request::get(DOCUMENT);
    let refused = sidecar.send(&sidecar.admin, request, "".into()).await;
    assert_eq!(refused.status, 401);
    assert_eq!(header(&refused, "www-authenticate"), "Bearer");
}

#[tokio::test]
async fn every_path_takes_the_methods_that_the_document_says_and_no_other() {
    let sidecar = TestSidecar::start().await;
    for (path, methods) in paths() {
        let documented = methods.as_object().expect("methods");
        let documented: Vec<String> = documented.keys().map(|m| m.to_uppercase()).collect();
        for method in METHODS {
            if documented.contains(&method.to_string()) {
                continue;
            }
            let reply = sidecar.admin(method.clone(), &filled(path), "").await;
            assert_eq!(reply.status, 405, "{method} {path}");
            let mut allowed: Vec<&str> = header(&reply, "allow").split(", ").collect();
            allowed.sort_unstable();
            let mut documented = documented.clone();
            documented.sort_unstable();
            assert_eq!(allowed, documented, "{method} {path}");
        }
    }
}

/// `TestSidecar::admin` compares each answer with the document.
#[tokio::test]
async fn every_operation_answers_as_documented_where_there_is_nothing() {
    let sidecar = TestSidecar::start().await;
    for (path, method, _) in operations() {
        let what = format!("{method} {path}");
        let reply = sidecar.admin(method, &filled(path), "").await;
        let error = header(&reply, "alipay-sidecar-error");
        assert!(
            !["route-unknown", "http-method-not-allowed", "internal"].contains(&error),
            "{what}: {}",
            text(&reply)
        );
    }
}

#[tokio::test]
async fn a_parameter_that_no_operation_knows_is_refused() {
    let sidecar = TestSidecar::start().await;
    for (path, method, operation) in operations() {
        if !path.starts_with("/api/") {
            continue;
        }
        let what = format!("{method} {path}");
        let target = format!("{}?dryrun=true", filled(path));
        let reply = sidecar.admin(method, &target, "").await;
        assert_eq!(reply.status, 400, "{what}: {}", text(&reply));
        let detail = parsed(&reply)["detail"].as_str().expect("text").to_owned();
        assert!(
            detail.contains("`dryrun` is an unknown parameter"),
            "{what}: {detail}"
        );
        let parameters = operation["parameters"].as_array().expect("parameters");
        let in_query = parameters.iter().filter(|p| p["in"] == "query");
        for name in in_query.filter_map(|p| p["name"].as_str()) {
            assert!(detail.contains(name), "{what}: {detail}");
        }
    }
}

#[tokio::test]
async fn a_flag_is_true_or_false_and_an_empty_limit_is_none() {
    let sidecar = TestSidecar::start().await;
    for (method, target) in [
        (Method::POST, "/api/merchants/import?dry_run=True"),
        (Method::POST, "/api/merchants/import?dry_run="),
        (Method::POST, "/api/merchants/1/2/verify?dry_run=yes"),
        (Method::GET, "/api/inbox/x?explain=1"),
        (Method::GET, "/api/inbox?limit="),
        (Method::GET, "/api/inbox?state="),
        (Method::GET, "/api/merchants?selector="),
        (Method::GET, "/api/merchants?selector=shop&app_id="),
        (Method::GET, "/api/merchants?selector=shop&limit=0"),
        (Method::GET, "/api/merchants?app_id=2021000000000001"),
        (Method::GET, "/api/inbox?limit=0"),
        (Method::GET, "/api/merchants?limit=1001"),
        (Method::POST, "/api/drain?wait=soon"),
    ] {
        let reply = sidecar.admin(method, target, "").await;
        assert_eq!(reply.status, 400, "{target}: {}", text(&reply));
        let error = header(&reply, "alipay-sidecar-error");
        assert_eq!(error, "parameter-invalid", "{target}");
    }
    assert_eq!(sidecar.admin(Method::GET, "/readyz", "").await.status, 200);
    for list in ["/api/inbox", "/api/merchants"] {
        let begin = sidecar
            .admin(Method::GET, &format!("{list}?after="), "")
            .await;
        assert_eq!(begin.status, 200, "{list}");
    }
}

/// A body of each operation that takes an object, with every member it may have.
fn whole_bodies() -> Vec<(&'static str, &'static str, Value)> {
    let event = "01980000-0000-7000-8000-000000000000";
    let merchant = json!({
        "app_id": "2021000000009999", "auth_app_id": "2021000000009998",
        "user_id": "2088000000009998", "alias": "other", "ref": "r", "app_auth_token": "t",
        "app_refresh_token": "u", "auth_time": 2, "encrypt_key": "Zmlyc3QtbWVyY2hhbnQtMQ==",
        "auth_time_estimated": false, "encrypt_key_fetched": false,
        "previous_app_auth_token": "v", "previous_app_refresh_token": "w",
        "doubt": "token-refused", "refresh_refused": false, "revoked_at": null,
        "revoked_at_estimated": false, "stated_expiry": 9, "suspect_at": 8,
    });
    vec![
        (
            "/api/apps/{app_id}",
            "put",
            json!({
                "app_id": "2021000000009999", "private_key": "k", "private_key_next": "n",
                "alipay_public_key": "p", "app_cert": "c", "alipay_cert": "c",
                "alipay_root_cert": "r", "encrypt_key": "e", "environment": "sandbox",
                "sign_type": "RSA2",
            }),
        ),
        (
            "/api/apps/{app_id}/exchange",
            "post",
            json!({ "code": "c", "ref": "r" }),
        ),
        (
            "/api/apps/{app_id}/links",
            "post",
            json!({
                "page": "invite", "types": "TINYAPP", "ref": "r", "lifetime_s": 60,
                "auth_app_id": "2021000000009998",
            }),
        ),
        (
            "/api/apps/{app_id}/subscriptions",
            "post",
            json!({ "topics": ["a.b"], "auth_app_id": "2021000000009998" }),
        ),
        (
            "/api/merchants/export",
            "post",
            json!({ "public_key": "k", "export": "e", "part": 1 }),
        ),
        ("/api/merchants/import", "post", merchant.clone()),
        ("/api/merchants/{app_id}/{auth_app_id}", "put", merchant),
        ("/api/inbox/prune", "post", json!({ "older_than": "3d" })),
        (
            "/api/inbox/replay",
            "post",
            json!({
                "state": "dead", "type": "a*", "app_id": "2021000000009999", "since": 1,
                "after": event,
            }),
        ),
        ("/api/inbox/reverify", "post", json!({ "id": event })),
    ]
}

#[tokio::test]
async fn bodies_are_read_as_described() {
    let sidecar = TestSidecar::start().await;
    let bodies = whole_bodies();
    let with_body = operations()
        .into_iter()
        .filter(|(_, _, o)| !o["requestBody"].is_null());
    assert_eq!(with_body.count(), bodies.len());
    for (path, method, body) in bodies {
        let operation = &paths()[path][method];
        let content = operation["requestBody"]["content"]
            .as_object()
            .expect("content");
        let schema = &content.values().next().expect("a type")["schema"];
        let described = schema["properties"].as_object().expect("properties");
        let members = body.as_object().expect("an object");
        let names = |of: &serde_json::Map<String, Value>| {
            let mut names: Vec<String> = of.keys().cloned().collect();
            names.sort_unstable();
            names
        };
        assert_eq!(names(described), names(members), "{method} {path}");
        let method: Method = method.to_ascii_uppercase().parse().expect("a method");
        let target = filled(path);
        let reply = sidecar
            .admin(method.clone(), &target, body.to_string())
            .await;
        let said = text(&reply);
        assert!(!said.contains("unknown member"), "{path}: {said}");
        for name in schema["required"].as_array().expect("required") {
            let mut less = body.clone();
            let name = name.as_str().expect("a name");
            less.as_object_mut().expect("an object").remove(name);
            let reply = sidecar
                .admin(method.clone(), &target, less.to_string())
                .await;
            let said = text(&reply);
            assert_eq!(reply.status, 400, "{path} without {name}: {said}");
        }
        let mut more = body.clone();
        more["x"] = json!(1);
        let reply = sidecar.admin(method, &target, more.to_string()).await;
        let said = text(&reply);
        assert_eq!(reply.status, 400, "{path}: {said}");
        assert!(said.contains("`x` is an unknown member"), "{path}: {said}");
    }
}

#[test]
fn no_secret_stands_in_an_answer() {
    let schemas = document()["components"]["schemas"]
        .as_object()
        .expect("schemas");
    let secret = [
        "app_auth_token",
        "app_refresh_token",
        "private_key",
        "encrypt_key",
    ];
    for (name, schema) in schemas {
        for member in secret {
            assert!(schema["properties"][member].is_null(), "{name}.{member}");
        }
    }
}
