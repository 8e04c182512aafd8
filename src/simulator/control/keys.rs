//! The routes that change keys, certificates and modes, and give what they make.
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    super::{AppMode, PlatformCertificate, Simulator, error::SimulatorError},
    read, read_or_default,
};

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct KeyRequest {
    app_id: Option<String>,
    certificate: Option<String>,
    encrypt_key: Option<String>,
    mode: AppMode,
    private_key: String,
    public_key: String,
    required: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientDataRequest {
    app_id: Option<String>,
    auth_app_id: Option<String>,
    json: String,
    #[serde(default)]
    plain: bool,
}

/// Answers one of these routes; none when `path` is another.
pub(super) fn route(
    simulator: &Simulator,
    path: &str,
    body: &Bytes,
) -> Result<Option<Value>, SimulatorError> {
    if path == "client-data" {
        return client_data(simulator, &read(body)?).map(Some);
    }
    let known = [
        "app-key",
        "app-mode",
        "certificates",
        "encrypt-key",
        "platform-certificate",
        "platform-key",
        "rotate-certificate",
    ];
    if !known.contains(&path) {
        return Ok(None);
    }
    change(simulator, path, &read_or_default(body)?).map(Some)
}

fn change(
    simulator: &Simulator,
    path: &str,
    request: &KeyRequest,
) -> Result<Value, SimulatorError> {
    let app_id = app_id(simulator, request.app_id.as_deref())?;
    match path {
        "app-key" => simulator.set_app_public_key(&app_id, &request.public_key)?,
        "app-mode" => simulator.set_app_mode(&app_id, request.mode)?,
        "certificates" => return Ok(json!(simulator.certificate_files(&app_id)?)),
        "encrypt-key" => {
            simulator.set_encrypt_key(&app_id, request.encrypt_key.as_deref())?;
            simulator.require_encryption(&app_id, request.required)?;
        }
        "platform-certificate" => {
            let name = request.certificate.as_deref().unwrap_or("current");
            simulator.use_platform_certificate(PlatformCertificate::from_name(name)?)?;
        }
        "platform-key" => simulator.set_platform_key(&request.private_key)?,
        _ => simulator.rotate_platform_certificate()?,
    }
    Ok(json!({}))
}

fn client_data(
    simulator: &Simulator,
    request: &ClientDataRequest,
) -> Result<Value, SimulatorError> {
    let app_id = app_id(simulator, request.app_id.as_deref())?;
    if request.plain {
        let message = simulator.plain_client_data(&app_id, &request.json)?;
        return Ok(json!({"message": message}));
    }
    let auth_app_id = simulator.0.with_world(|world| {
        let merchant = world.merchant(request.auth_app_id.as_deref())?;
        Ok::<_, SimulatorError>(merchant.auth_app_id.clone())
    })?;
    let message = simulator.client_data(&app_id, &auth_app_id, &request.json)?;
    Ok(json!({"message": message}))
}

/// Gives the named app's id, or that of the only one.
fn app_id(simulator: &Simulator, named: Option<&str>) -> Result<String, SimulatorError> {
    simulator
        .0
        .with_world(|world| world.app(named).map(|app| app.app_id.clone()))
}
