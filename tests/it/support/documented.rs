//! Every answer of the admin listener that a test gets is one that its OpenAPI document knows.

use std::sync::OnceLock;

use alipay_sidecar::admin::openapi;
use alipay_sidecar::net::client::Reply;
use http::Method;
use serde_json::{Map, Value};

use super::{header, text};

/// The document, made once.
pub fn document() -> &'static Value {
    static DOCUMENT: OnceLock<Value> = OnceLock::new();
    DOCUMENT.get_or_init(openapi::document)
}

/// Every path of the document, with what it takes.
pub fn paths() -> &'static Map<String, Value> {
    document()["paths"].as_object().expect("paths")
}

/// The document's word on `reply`: status, headers and type of content stand there. What answers a
/// path or a method that doesn't exist isn't described.
pub fn check(method: &Method, target: &str, reply: &Reply) {
    let path = target.split('?').next().expect("a path");
    let literal = |template: &&String| template.matches('{').count();
    let fitting = paths().keys().filter(|template| fits(template, path));
    let Some(template) = fitting.min_by_key(literal) else {
        return;
    };
    let operation = &paths()[template][method.as_str().to_ascii_lowercase()];
    if operation.is_null() {
        return;
    }
    let status = reply.status.as_str();
    let response = resolved(&operation["responses"][status]);
    let what = format!("{method} {template} {status}: {}", text(reply));
    assert!(response.is_object(), "not documented: {what}");
    for name in response["headers"].as_object().expect("headers").keys() {
        assert_ne!(header(reply, name), "", "{name} is missing: {what}");
    }
    let given = header(reply, "content-type").split(';').next();
    let given = given.filter(|given| !given.is_empty());
    let content = response["content"].as_object();
    let documented = content.and_then(|content| content.keys().next());
    assert_eq!(given, documented.map(String::as_str), "{what}");
}

/// What a reference stands for, or the thing itself.
pub fn resolved(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(reference) => {
            let pointer = reference.strip_prefix('#').expect("within the document");
            document().pointer(pointer).expect("it leads somewhere")
        }
        None => value,
    }
}

fn fits(template: &str, path: &str) -> bool {
    let (template, path): (Vec<_>, Vec<_>) =
        (template.split('/').collect(), path.split('/').collect());
    let fits =
        |(template, segment): (&&str, &&str)| template.starts_with('{') || template == segment;
    template.len() == path.len() && template.iter().zip(&path).all(fits)
}
