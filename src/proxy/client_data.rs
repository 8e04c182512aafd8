//! `/v2/client-data/decrypt`: verified with the app's platform keys, opened with the merchant's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::gateway::app::SigningApp;
use crate::gateway::deadline;
use crate::model::merchant::Merchant;
use crate::protocol::client_data::{
    ClientData, ClientDataError, UnverifiedClientData, VerifiedClientData,
};
use crate::protocol::encryption::ContentKey;
use crate::proxy::ProxyParts;
use crate::proxy::call;
use crate::proxy::caller::Who;
use crate::proxy::check::Checked;
use crate::proxy::error::{ErrorCode, ProxyError};
use crate::proxy::resolve::{Credentials, Tags};
use crate::token::ContentKeyError;

/// What the operator can do where there is no key.
const SET_IT: &str = "set it by `alipay-sidecar merchant add --encrypt-key` or an import";

/// Opens what a front end was given.
pub(super) async fn open(
    parts: &ProxyParts,
    (tags, who): (&Tags, &Who),
    timeout: Option<Duration>,
    message: &[u8],
) -> Result<Checked, ProxyError> {
    let time = deadline(parts.limits.timeout, timeout);
    let until = Instant::now() + time;
    let unverified = UnverifiedClientData::parse(message)?;
    let resolving = parts.resolver.resolve(tags, who);
    let Credentials { app, merchant } = call::resolved_within(time, resolving).await?;
    let verified = unverified.verify(&app.platform.all_keys())?;
    let opened = match &merchant {
        _ if !verified.is_ciphertext() => verified.into_plain_error()?,
        Some(merchant) => with_merchants_key(parts, merchant, verified, until).await?,
        None => with_own_key(&app, verified)?,
    };
    let auth_app_id = merchant.map(|merchant| merchant.auth_app_id.to_string());
    Ok(checked(app, auth_app_id, opened))
}

fn checked(app: Arc<SigningApp>, auth_app_id: Option<String>, opened: ClientData) -> Checked {
    Checked {
        app,
        auth_app_id,
        body: opened.json.expose().clone().into(),
        code: opened.code,
        sub_code: opened.sub_code,
    }
}

/// With the key that is stored, else with the one that Alipay tells; with that one also where a
/// key that Alipay told us before has changed since.
async fn with_merchants_key(
    parts: &ProxyParts,
    merchant: &Merchant,
    verified: VerifiedClientData,
    until: Instant,
) -> Result<ClientData, ProxyError> {
    let stored = match &merchant.encrypt_key {
        Some(_) => merchant,
        None => &fetch(parts, merchant, until).await?,
    };
    let first = verified.clone().open(&key_of(stored)?);
    let is_key_at_fault = matches!(&first, Err(ClientDataError::Encryption(_)));
    // One that was fetched just now can't have changed since.
    if !is_key_at_fault || !stored.encrypt_key_fetched || merchant.encrypt_key.is_none() {
        return first.map_err(|error| not_opened(merchant, error));
    }
    match fetch(parts, stored, until).await {
        Ok(renewed) => verified
            .open(&key_of(&renewed)?)
            .map_err(|error| not_opened(merchant, error)),
        Err(error) => {
            tracing::warn!(
                auth_app_id = %merchant.auth_app_id, %error,
                "client data could not be opened, and no other key of the merchant's be had"
            );
            first.map_err(|error| not_opened(merchant, error))
        }
    }
}

fn not_opened(merchant: &Merchant, error: ClientDataError) -> ProxyError {
    match error {
        ClientDataError::Encryption(_) => failed(format!(
            "the AES key of merchant {} doesn't open it; if the key has changed, {SET_IT}",
            merchant.auth_app_id
        )),
        other => other.into(),
    }
}

async fn fetch(
    parts: &ProxyParts,
    merchant: &Merchant,
    until: Instant,
) -> Result<Merchant, ProxyError> {
    let left = until.saturating_duration_since(Instant::now());
    let fetched = tokio::time::timeout(left, parts.tokens.content_key(merchant)).await;
    let no_key = |why: &str| {
        failed(format!(
            "merchant {} has no AES key here: {why}; {SET_IT}",
            merchant.auth_app_id
        ))
    };
    match fetched {
        Ok(Ok(merchant)) => Ok(merchant),
        Ok(Err(ContentKeyError::Store(error))) => Err(ProxyError::refused(
            ErrorCode::StoreUnavailable,
            error.to_string(),
        )),
        Ok(Err(error)) => Err(no_key(&error.to_string())),
        Err(_) => Err(no_key("Alipay did not tell it within the deadline")),
    }
}

fn key_of(merchant: &Merchant) -> Result<ContentKey, ProxyError> {
    let key = merchant.encrypt_key.as_ref();
    let key = key.map(|key| ContentKey::from_base64(key.expose()));
    match key {
        Some(Ok(key)) => Ok(key),
        Some(Err(error)) => Err(failed(format!(
            "the AES key stored for merchant {} is none: {error}; {SET_IT}",
            merchant.auth_app_id
        ))),
        None => Err(failed(format!(
            "merchant {} has no AES key here; {SET_IT}",
            merchant.auth_app_id
        ))),
    }
}

/// For `self`: with the content key of the app.
fn with_own_key(app: &SigningApp, verified: VerifiedClientData) -> Result<ClientData, ProxyError> {
    match app.content_key() {
        Some(key) => Ok(verified.open(key)?),
        None => Err(failed(format!(
            "app {} has no `encrypt_key`; configure it to open the app's own client data",
            app.app_id
        ))),
    }
}

fn failed(detail: String) -> ProxyError {
    ProxyError::refused(ErrorCode::ResponseDecryptionFailed, detail)
}

impl From<ClientDataError> for ProxyError {
    fn from(error: ClientDataError) -> Self {
        use crate::protocol::error::ProtocolError as P;
        let code = match &error {
            ClientDataError::Malformed(_)
            | ClientDataError::Member { .. }
            | ClientDataError::Unsupported { .. } => ErrorCode::BodyInvalid,
            ClientDataError::Encryption(_) | ClientDataError::KeyMissing => {
                ErrorCode::ResponseDecryptionFailed
            }
            ClientDataError::Protocol(P::CharsetUnsupported { .. }) => {
                ErrorCode::CharsetUnsupported
            }
            _ => ErrorCode::ResponseSignatureInvalid,
        };
        Self::refused(code, error.to_string())
    }
}
