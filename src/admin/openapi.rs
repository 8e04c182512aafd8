//! The OpenAPI 3.1 document of the admin listener, made of the table of operations and of the types
//! that are answered with.

use http::StatusCode;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::admin::json::{Form, Member, Object, TIME_DIGITS};
use crate::admin::operations::{
    Admission, Answer, Content, OPERATIONS, Operation, Parameter, ParameterForm, RequestBody,
    placeholder,
};
use crate::admin::page::{DEFAULT_LIMIT, LARGEST_LIMIT};
use crate::admin::problem;

/// The whole document.
#[must_use]
pub fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|s| {
        s.definitions_path = "/components/schemas".into();
    });
    let mut generator = settings.into_generator();
    let mut paths = Map::new();
    for operation in &OPERATIONS {
        let path = paths.entry(operation.path).or_insert_with(|| json!({}));
        let method = operation.method.as_str().to_ascii_lowercase();
        set(path, &method, described(operation, &mut generator));
        if operation.takes_head() {
            set(path, "head", without_body(operation, &mut generator));
        }
    }
    let problem = generator.subschema_for::<problem::Body<'_>>();
    let mut document = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "alipay-sidecar, admin listener",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://127.0.0.1:2090", "description": "`admin.listen` by default" }],
        "tags": TAGS.map(|(name, about)| json!({ "name": name, "description": about })),
        "paths": paths,
        "components": {
            "headers": headers(),
            "responses": problems(&problem.into()),
            "schemas": generator.take_definitions(true),
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "description": TOKEN },
            },
        },
    });
    without_links(&mut document);
    document
}

const ABOUT: &str = "Probes, metrics, and what operators do. Times are Unix milliseconds. Lists are \
    pages: `next` is what `after` is for the next one. No token of a merchant is ever shown.";
const TOKEN: &str = "`admin.token` of the configuration, or the one that `run` leaves in the file \
    `admin.token` beside the store.";
const TAGS: [(&str, &str); 7] = [
    ("apps", "The ISV's own applications"),
    ("audit", "The audit log"),
    ("inbox", "Notifications and their deliveries"),
    (
        "merchants",
        "Merchants: the triples PID – auth_app_id – app_auth_token",
    ),
    ("observation", "Probes and metrics"),
    ("service", "The process itself"),
    ("store", "The store as a whole"),
];

fn described(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let in_path = operation.path.split('/').filter_map(placeholder);
    let parameters = in_path
        .map(segment)
        .chain(operation.query.iter().map(parameter));
    let answers = std::iter::once(operation.answer).chain(operation.otherwise);
    let mut responses: Map<String, Value> = answers
        .map(|answer| (answer.status.to_string(), answered(&answer, generator)))
        .collect();
    for status in operation.problems() {
        // That a probe says no is no error of its own.
        responses
            .entry(status.to_string())
            .or_insert_with(|| json!({ "$ref": format!("#/components/responses/{status}") }));
    }
    let mut described = json!({
        "operationId": format!("{:?}", operation.does),
        "tags": [tag(operation.path)],
        "summary": operation.about,
        "parameters": parameters.collect::<Vec<_>>(),
        "responses": responses,
        "security": match operation.admission() {
            Admission::Anyone => json!([]),
            Admission::Operator => json!([{ "bearer": [] }]),
            Admission::OperatorFromAfar => json!([{}, { "bearer": [] }]),
        },
    });
    if let Some(body) = operation.body {
        set(&mut described, "requestBody", request_body(body));
    }
    described
}

/// The same operation asked with HEAD: the answer says what its body would be, and has none.
fn without_body(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut described = described(operation, generator);
    let name = format!("{:?}Head", operation.does);
    set(&mut described, "operationId", json!(name));
    let responses = described
        .get_mut("responses")
        .and_then(Value::as_object_mut);
    let responses = responses.into_iter().flat_map(Map::values_mut);
    let contents = responses.filter_map(|response| response.get_mut("content")?.as_object_mut());
    for media in contents.flat_map(Map::values_mut) {
        *media = json!({});
    }
    described
}

/// What stands behind `/api/`, where that names a part of its own.
fn tag(path: &str) -> &str {
    let Some(rest) = path.strip_prefix("/api/") else {
        return "observation";
    };
    let first = rest.split('/').next().unwrap_or(rest);
    let known = TAGS.iter().any(|(name, _)| *name == first);
    if known { first } else { "service" }
}

fn segment(name: &str) -> Value {
    let (about, schema) = match name {
        "app_id" => ("Our application", id()),
        "auth_app_id" => ("The merchant's application", id()),
        _ => (
            "The sidecar's own id of a notification or event",
            json!({ "type": "string", "pattern": EVENT }),
        ),
    };
    json!({ "name": name, "in": "path", "required": true, "description": about, "schema": schema })
}

fn id() -> Value {
    json!({ "type": "string", "pattern": ID })
}

fn parameter(parameter: &Parameter) -> Value {
    let schema = match parameter.form {
        ParameterForm::AppId => id(),
        ParameterForm::Duration => json!({ "type": "string", "pattern": DURATION }),
        ParameterForm::Flag => json!({ "type": "boolean", "default": false }),
        ParameterForm::Limit => json!({
            "type": "integer",
            "minimum": 1,
            "maximum": LARGEST_LIMIT,
            "default": DEFAULT_LIMIT,
        }),
        ParameterForm::Order => json!({ "enum": ["asc", "desc"], "default": "asc" }),
        ParameterForm::State => {
            json!({ "enum": ["pending", "delivered", "dead", "ignored", "refused"] })
        }
        ParameterForm::Position => json!({ "type": "string" }),
        ParameterForm::Text => json!({ "type": "string", "minLength": 1 }),
    };
    json!({
        "name": parameter.name,
        "in": "query",
        "description": parameter.about,
        "schema": schema,
    })
}

fn answered(answer: &Answer, generator: &mut SchemaGenerator) -> Value {
    let mut described = json!({
        "description": answer.about,
        "headers": { "Alipay-Sidecar-Request-Id": header("Alipay-Sidecar-Request-Id") },
    });
    let content = match answer.content {
        Content::Binary => json!({ "application/octet-stream": {} }),
        Content::Json(schema) => json!({ "application/json": { "schema": schema(generator) } }),
        Content::Nothing => return described,
        Content::Text => json!({ "text/plain": { "schema": { "type": "string" } } }),
    };
    set(&mut described, "content", content);
    described
}

fn request_body(body: RequestBody) -> Value {
    let (required, media_type, object) = match body {
        // No line is nothing to import.
        RequestBody::Lines(object) => (false, "application/x-ndjson", object),
        RequestBody::Object(object) => (true, "application/json", object),
        RequestBody::Optional(object) => (false, "application/json", object),
    };
    json!({
        "required": required,
        "content": { media_type: { "schema": of_object(object) } },
    })
}

fn of_object(object: &Object) -> Value {
    let members = object.members;
    let properties: Map<String, Value> = members
        .iter()
        .map(|member| {
            let required = object.required.contains(&member.name);
            (member.name.to_owned(), of_member(member, required))
        })
        .collect();
    json!({
        "type": "object",
        "description": object.about,
        "properties": properties,
        "required": object.required,
        "additionalProperties": false,
    })
}

/// In the place of a member that may be left out, null and the empty text are as good as nothing.
fn of_member(member: &Member, required: bool) -> Value {
    let text = |pattern: &str| {
        let pattern = match required {
            true => pattern.to_owned(),
            false => format!("^$|{pattern}"),
        };
        json!({ "type": "string", "pattern": pattern })
    };
    let mut schema = match member.form {
        Form::Alias => text(ALIAS),
        Form::Duration => text(DURATION),
        Form::Event => text(EVENT),
        Form::Flag => json!({ "type": "boolean" }),
        Form::Id => text(ID),
        Form::Integer { least, most } => json!({
            "type": "integer",
            "format": "int64",
            "minimum": least,
            "maximum": most,
        }),
        Form::Pattern(pattern) => text(pattern),
        Form::Text { longest } => {
            let least = usize::from(required);
            json!({ "type": "string", "minLength": least, "maxLength": longest })
        }
        Form::Texts(pattern) => {
            let one = json!({ "type": "string", "pattern": pattern });
            let several = json!({ "type": "array", "items": one, "minItems": 1 });
            json!({ "anyOf": [one, several] })
        }
        Form::Time => json!({
            "type": ["integer", "string"],
            "minimum": 0,
            "maximum": i64::MAX,
            "pattern": format!("^[0-9]{{1,{TIME_DIGITS}}}$"),
        }),
        Form::Word(words) => json!({ "enum": words }),
    };
    if matches!(member.form, Form::Alias) {
        set(&mut schema, "maxLength", json!(64));
        set(&mut schema, "not", json!({ "const": "self" }));
    }
    if !required {
        or_nothing(&mut schema);
    }
    set(&mut schema, "description", json!(member.about));
    schema
}

/// Lets null in, and with a closed set the empty text.
fn or_nothing(schema: &mut Value) {
    if let Some(Value::Array(words)) = schema.get_mut("enum") {
        words.extend([json!(""), Value::Null]);
    } else if let Some(Value::Array(forms)) = schema.get_mut("anyOf") {
        forms.push(json!({ "type": ["array", "null"], "maxItems": 0 }));
        forms.push(json!({ "const": "" }));
    } else if let Some(Value::Array(kinds)) = schema.get_mut("type") {
        kinds.push(json!("null"));
    } else if let Some(kind) = schema.get("type").cloned() {
        set(schema, "type", json!([kind, "null"]));
    }
}

/// A number and a unit, as in the configuration.
const DURATION: &str = "^[0-9]{1,12}(ms|s|m|h|d)$";
/// An `app_id` or `auth_app_id`.
const ID: &str = "^[0-9A-Za-z]{1,32}$";
/// A UUID.
const EVENT: &str = "^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$";
/// A letter or digit first, and not digits alone.
const ALIAS: &str = "^([A-Za-z][A-Za-z0-9._-]*|[0-9]+[A-Za-z._-][A-Za-z0-9._-]*)$";

fn header(name: &str) -> Value {
    json!({ "$ref": format!("#/components/headers/{name}") })
}

fn headers() -> Value {
    let text = |about: &str| json!({ "description": about, "schema": { "type": "string" } });
    json!({
        "Alipay-Sidecar-Error": text("The error's `code`"),
        "Alipay-Sidecar-Outcome": {
            "description": "Whether Alipay may have acted",
            "schema": { "enum": ["not-sent", "unknown"] },
        },
        "Alipay-Sidecar-Request-Id": text("The request's id, as the audit log names it"),
        "WWW-Authenticate": text("`Bearer`"),
    })
}

/// One response for each status that any operation may end with.
fn problems(schema: &Value) -> Value {
    let statuses: Vec<u16> = OPERATIONS.iter().flat_map(Operation::problems).collect();
    let described = |status: &u16| (status.to_string(), problem(*status, schema));
    Value::Object(statuses.iter().map(described).collect())
}

fn problem(status: u16, schema: &Value) -> Value {
    let about = match status {
        400 => "The request isn't well formed: `parameter-invalid`, `body-invalid`, `app-unknown`",
        401 => "The bearer token is missing or wrong: `caller-unauthenticated`",
        403 => "A browser sent it, or its Host isn't allowed: `browser-refused`",
        404 => "There is no such thing: `app-unknown`, `merchant-unknown`, `event-unknown`",
        409 => {
            "It contradicts what is: `token-conflict`, `alias-conflict`, `merchant-outdated`, `public-url-missing`"
        }
        413 => "The body is too large: `body-too-large`",
        422 => "Alipay, signed, refused it: `alipay-refused`, `token-refused`",
        500 => "The sidecar failed: `internal`",
        502 => {
            "Alipay couldn't be reached, or its answer isn't one: `upstream-unreachable`, \
             `upstream-invalid`, `response-signature-invalid`"
        }
        503 => "Try again later: `store-unavailable`, `overloaded`",
        504 => "Alipay didn't answer in time: `upstream-timeout`",
        _ => StatusCode::from_u16(status)
            .ok()
            .and_then(|status| status.canonical_reason())
            .unwrap_or("An error"),
    };
    let mut names = vec![
        "Alipay-Sidecar-Error",
        "Alipay-Sidecar-Outcome",
        "Alipay-Sidecar-Request-Id",
    ];
    if status == 401 {
        names.push("WWW-Authenticate");
    }
    let headers: Map<String, Value> = names
        .into_iter()
        .map(|name| (name.to_owned(), header(name)))
        .collect();
    json!({
        "description": about,
        "headers": headers,
        "content": { "application/problem+json": { "schema": schema } },
    })
}

/// Sets a member of what is an object.
fn set(object: &mut Value, name: &str, value: Value) {
    if let Value::Object(members) = object {
        members.insert(name.to_owned(), value);
    }
}

/// Descriptions come from doc comments, whose links lead nowhere here.
fn without_links(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(text) if name == "description" => {
                        *text = text.replace("[`", "`").replace("`]", "`");
                    }
                    _ => without_links(value),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_links),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every `$ref` below `value`.
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str));
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 100);
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("within the document");
            assert!(document.pointer(pointer).is_some(), "{reference}");
        }
    }

    #[test]
    fn every_operation_is_described_once() {
        let document = document();
        let paths = document["paths"].as_object().expect("paths");
        let methods = paths.values().filter_map(Value::as_object);
        let with_head = OPERATIONS.iter().filter(|o| o.takes_head()).count();
        let all = OPERATIONS.len() + with_head;
        assert_eq!(methods.clone().map(Map::len).sum::<usize>(), all);
        let named = methods.flat_map(Map::values).map(|o| &o["operationId"]);
        let names: std::collections::BTreeSet<_> = named.map(Value::to_string).collect();
        assert_eq!(names.len(), all);
    }
}
