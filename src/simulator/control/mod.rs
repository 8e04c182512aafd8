//! `/simulator/…`: what a test can ask of the simulator over HTTP; bodies and answers are JSON.
//!
//! | route | does |
//! |---|---|
//! | `GET state`, `requests`, `notifications` | shows what is known and what was seen |
//! | `POST fault`, `DELETE fault` | plays faults; forgets them |
//! | `POST trigger/{event}`, `pay` | lets an event happen |
//! | `POST spi` | calls an SPI address: `url`, `call` |
//! | `POST answer`, `answer-v3` | answers a method, or a verb and path, with a given text |
//! | `POST app` | sets the app gateway; `auth_redirect`: the 授权回调地址 |
//! | `POST app-key`, `app-mode`, `encrypt-key` | changes an app's key, mode, encryption |
//! | `POST platform-key`, `platform-certificate`, `rotate-certificate` | changes the platform's |
//! | `POST certificates`, `client-data` | gives an app's files; a front end's message |
//! | `POST auth-code`, `app-auth-code`, `time-out-tokens`, `revoke` | issues codes, retires tokens |
mod keys;

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    Inner, Simulator,
    error::SimulatorError,
    faults::{Fault, FaultRequest},
    gateway::Body,
    spi::SpiCall,
    trigger::{Event, TriggerOptions},
};

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CodeRequest {
    app_id: Option<String>,
    auth_app_id: Option<String>,
    auth_app_ids: Vec<String>,
    user_id: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerRequest {
    method: String,
    node: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerV3Request {
    method: String,
    path: String,
    status: u16,
    body: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SpiRequest {
    url: String,
    call: SpiCall,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct AppRequest {
    app_id: Option<String>,
    app_gateway: Option<String>,
    auth_redirect: Option<String>,
}

/// Answers one control request.
pub(super) async fn handle(inner: &Arc<Inner>, request: &Request<Bytes>) -> Response<Body> {
    let simulator = Simulator(Arc::clone(inner));
    match route(&simulator, request).await {
        Ok(Some(value)) => json_response(StatusCode::OK, &value),
        Ok(None) => json_response(StatusCode::NOT_FOUND, &json!({"error": "no such route"})),
        Err(error) => json_response(
            StatusCode::BAD_REQUEST,
            &json!({"error": error.to_string()}),
        ),
    }
}

async fn route(
    simulator: &Simulator,
    request: &Request<Bytes>,
) -> Result<Option<Value>, SimulatorError> {
    let body = request.body();
    let path = request.uri().path().trim_start_matches("/simulator/");
    Ok(Some(match (request.method(), path) {
        (&Method::GET, "state") => simulator.state(),
        (&Method::GET, "requests") => json!({"items": simulator.requests()}),
        (&Method::GET, "notifications") => json!({"items": simulator.notifications()}),
        (&Method::POST, "fault") => {
            simulator.fault(Fault::try_from(read::<FaultRequest>(body)?)?);
            json!({})
        }
        (&Method::DELETE, "fault") => {
            simulator.clear_faults();
            json!({})
        }
        (&Method::POST, "answer") => {
            let answer: AnswerRequest = read(body)?;
            simulator.answer(answer.method, answer.node);
            json!({})
        }
        (&Method::POST, "answer-v3") => {
            let answer: AnswerV3Request = read(body)?;
            simulator.answer_v3(&answer.method, answer.path, answer.status, answer.body);
            json!({})
        }
        (&Method::POST, "app") => {
            set_addresses(simulator, &read_or_default(body)?)?;
            json!({})
        }
        (&Method::POST, "spi") => {
            let spi: SpiRequest = read(body)?;
            json!(simulator.spi(&spi.url, &spi.call).await?)
        }
        (&Method::POST, "pay") => trigger(simulator, Event::Payment, body).await?,
        (&Method::POST, path) => match path.strip_prefix("trigger/") {
            Some(event) => trigger(simulator, Event::from_name(event)?, body).await?,
            None => match keys::route(simulator, path, body)? {
                Some(value) => value,
                None => return issue(simulator, path, read_or_default(body)?),
            },
        },
        _ => return Ok(None),
    }))
}

/// Where a 授权回调地址 is given alone, the app gateway stays.
fn set_addresses(simulator: &Simulator, app: &AppRequest) -> Result<(), SimulatorError> {
    let app_id = app.app_id.as_deref();
    if app.auth_redirect.is_some() {
        simulator.set_auth_redirect(app_id, app.auth_redirect.as_deref())?;
        if app.app_gateway.is_none() {
            return Ok(());
        }
    }
    simulator.set_app_gateway(app_id, app.app_gateway.as_deref())
}

/// The routes that issue codes or retire tokens, which all take the same body.
fn issue(
    simulator: &Simulator,
    path: &str,
    request: CodeRequest,
) -> Result<Option<Value>, SimulatorError> {
    let (app_id, auth_app_id) = (request.app_id.as_deref(), request.auth_app_id.as_deref());
    Ok(Some(match path {
        "auth-code" => {
            let code = simulator.auth_code(auth_app_id.or(app_id), request.user_id.as_deref())?;
            json!({"auth_code": code})
        }
        "app-auth-code" => {
            let named: Vec<_> = request.auth_app_ids.iter().map(String::as_str).collect();
            let named = if named.is_empty() {
                auth_app_id.into_iter().collect()
            } else {
                named
            };
            json!({"app_auth_code": simulator.app_auth_code(app_id, &named)?})
        }
        "time-out-tokens" => json!({"tokens": simulator.time_out_tokens(app_id, auth_app_id)?}),
        "revoke" => json!({"tokens": simulator.revoke(app_id, auth_app_id)?}),
        _ => return Ok(None),
    }))
}

async fn trigger(
    simulator: &Simulator,
    event: Event,
    body: &Bytes,
) -> Result<Value, SimulatorError> {
    let options: TriggerOptions = read_or_default(body)?;
    let record = simulator.trigger(event, &options).await?;
    Ok(json!(record))
}

fn read_or_default<T: DeserializeOwned + Default>(body: &Bytes) -> Result<T, SimulatorError> {
    if body.is_empty() {
        Ok(T::default())
    } else {
        read(body)
    }
}

fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, SimulatorError> {
    serde_json::from_slice(body).map_err(|error| SimulatorError::OptionInvalid {
        option: "body",
        found: error.to_string(),
        expected: "a JSON object of this route's options",
    })
}

fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed());
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
