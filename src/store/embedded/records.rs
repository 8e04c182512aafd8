//! The records as they stand in the file, sealed, and their way to the model and back.
//!
//! This is the only place of the store that exposes a merchant's secrets. A field that is added
//! must have a default, or a migration.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::model::app::{App, AppCertificates, Environment, PrivateKey};
use crate::model::authorization::{Doubt, Source};
use crate::model::id::{Alias, AppId, AuthAppId, Pid};
use crate::model::merchant::{Merchant, MerchantStatus};
use crate::model::token::AppAuthToken;
use crate::protocol::secret::Secret;
use crate::protocol::signature::SignType;
use crate::store::error::StoreError;
use crate::store::seal::{Place, Sealer};

/// A record that can't be turned back into the model.
pub(super) struct Unreadable;

/// A secret inside a record that is about to be sealed, or was just opened.
#[derive(Clone)]
pub(super) struct Hidden(Secret<String>);

impl From<Secret<String>> for Hidden {
    fn from(secret: Secret<String>) -> Self {
        Self(secret)
    }
}

impl From<Hidden> for Secret<String> {
    fn from(hidden: Hidden) -> Self {
        hidden.0
    }
}

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.expose())
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Secret::new(text)))
    }
}

/// Seals `record` as JSON.
pub(super) fn seal<T: Serialize>(
    sealer: &Sealer,
    place: Place<'_>,
    record: &T,
) -> Result<Vec<u8>, StoreError> {
    sealer.seal(place, &to_json(place, record)?)
}

/// Opens a record that was sealed as JSON.
pub(super) fn open<T: DeserializeOwned>(
    sealer: &Sealer,
    place: Place<'_>,
    sealed: &[u8],
) -> Result<T, StoreError> {
    let plain = sealer.open(place, sealed)?;
    serde_json::from_slice(&plain).map_err(|_| place.damaged())
}

/// `record` as JSON in a buffer of exactly its size: one that grew would leave unwiped copies.
pub(super) fn to_json<T: Serialize>(
    place: Place<'_>,
    record: &T,
) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    let mut size = Counter(0);
    serde_json::to_writer(&mut size, record).map_err(|_| place.damaged())?;
    let mut json = Zeroizing::new(Vec::with_capacity(size.0));
    serde_json::to_writer(&mut *json, record).map_err(|_| place.damaged())?;
    Ok(json)
}

/// Counts what is written to it.
struct Counter(usize);

impl std::io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// An app of the store.
#[derive(Serialize, Deserialize)]
pub(super) struct AppRecord {
    app_id: String,
    /// Empty where it is kept elsewhere.
    private_key: Hidden,
    private_key_next: Option<Hidden>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    elsewhere: Option<PublicHalf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    elsewhere_next: Option<PublicHalf>,
    alipay_public_keys: Vec<String>,
    #[serde(default)]
    certificates: Option<CertificatesRecord>,
    encrypt_key: Option<Hidden>,
    environment: String,
    sign_type: String,
}

/// What is told of a private key that is kept elsewhere.
#[derive(Serialize, Deserialize)]
struct PublicHalf {
    public_key: Option<String>,
}

impl PublicHalf {
    fn of(key: &PrivateKey) -> Option<Self> {
        match key {
            PrivateKey::Elsewhere(public_key) => Some(Self {
                public_key: public_key.clone(),
            }),
            PrivateKey::Text(_) => None,
        }
    }

    fn or(this: Option<Self>, text: Option<Hidden>) -> Option<PrivateKey> {
        match (this, text) {
            (Some(this), _) => Some(PrivateKey::Elsewhere(this.public_key)),
            (None, text) => text.map(|text| PrivateKey::Text(text.0)),
        }
    }
}

/// The certificate files of an app.
#[derive(Serialize, Deserialize)]
struct CertificatesRecord {
    app: Vec<String>,
    alipay: Vec<String>,
    roots: String,
}

impl From<&App> for AppRecord {
    fn from(app: &App) -> Self {
        let text = |key: &PrivateKey| key.text().cloned();
        Self {
            app_id: app.app_id.to_string(),
            private_key: Hidden(
                text(&app.private_key).unwrap_or_else(|| Secret::new(String::new())),
            ),
            private_key_next: app.private_key_next.as_ref().and_then(text).map(Hidden),
            elsewhere: PublicHalf::of(&app.private_key),
            elsewhere_next: app.private_key_next.as_ref().and_then(PublicHalf::of),
            alipay_public_keys: app.alipay_public_keys.clone(),
            certificates: app.certificates.as_ref().map(|files| CertificatesRecord {
                app: files.app.clone(),
                alipay: files.alipay.clone(),
                roots: files.roots.clone(),
            }),
            encrypt_key: app.encrypt_key.clone().map(Hidden),
            environment: app.environment.as_str().to_owned(),
            sign_type: sign_type_word(app.sign_type).to_owned(),
        }
    }
}

impl TryFrom<AppRecord> for App {
    type Error = Unreadable;

    fn try_from(record: AppRecord) -> Result<Self, Unreadable> {
        Ok(Self {
            app_id: AppId::new(&record.app_id).map_err(|_| Unreadable)?,
            private_key: PublicHalf::or(record.elsewhere, Some(record.private_key))
                .ok_or(Unreadable)?,
            private_key_next: PublicHalf::or(record.elsewhere_next, record.private_key_next),
            alipay_public_keys: record.alipay_public_keys,
            certificates: record.certificates.map(|files| AppCertificates {
                app: files.app,
                alipay: files.alipay,
                roots: files.roots,
            }),
            encrypt_key: record.encrypt_key.map(|key| key.0),
            environment: environment(&record.environment)?,
            sign_type: sign_type(&record.sign_type)?,
        })
    }
}

fn environment(word: &str) -> Result<Environment, Unreadable> {
    [Environment::Production, Environment::Sandbox]
        .into_iter()
        .find(|environment| environment.as_str() == word)
        .ok_or(Unreadable)
}

fn sign_type_word(sign_type: SignType) -> &'static str {
    match sign_type {
        SignType::Rsa => "RSA",
        SignType::Rsa2 => "RSA2",
    }
}

fn sign_type(word: &str) -> Result<SignType, Unreadable> {
    [SignType::Rsa, SignType::Rsa2]
        .into_iter()
        .find(|sign_type| sign_type_word(*sign_type) == word)
        .ok_or(Unreadable)
}

/// A merchant.
#[derive(Serialize, Deserialize)]
pub(super) struct MerchantRecord {
    app_id: String,
    auth_app_id: String,
    pid: Option<String>,
    alias: Option<String>,
    reference: Option<String>,
    token: TokenRecord,
    previous_token: Option<TokenRecord>,
    auth_time: i64,
    auth_time_estimated: bool,
    revoked_at: Option<i64>,
    #[serde(default)]
    revoked_at_estimated: bool,
    #[serde(default)]
    suspect_at: Option<i64>,
    #[serde(default)]
    doubt: Option<String>,
    #[serde(default)]
    refresh_refused: bool,
    source: String,
    encrypt_key: Option<Hidden>,
    #[serde(default)]
    encrypt_key_fetched: bool,
    updated_at: i64,
}

/// A pair of tokens.
#[derive(Serialize, Deserialize)]
struct TokenRecord {
    app_auth_token: Hidden,
    app_refresh_token: Option<Hidden>,
    stated_expiry: Option<i64>,
}

impl From<&Merchant> for MerchantRecord {
    fn from(merchant: &Merchant) -> Self {
        Self {
            app_id: merchant.app_id.to_string(),
            auth_app_id: merchant.auth_app_id.to_string(),
            pid: merchant.pid.as_ref().map(ToString::to_string),
            alias: merchant.alias.as_ref().map(ToString::to_string),
            reference: merchant.reference.clone(),
            token: (&merchant.token).into(),
            previous_token: merchant.previous_token.as_ref().map(Into::into),
            auth_time: merchant.auth_time,
            auth_time_estimated: merchant.auth_time_estimated,
            revoked_at: match merchant.status {
                MerchantStatus::Authorized | MerchantStatus::Suspect { .. } => None,
                MerchantStatus::Revoked { at } => Some(at),
            },
            revoked_at_estimated: merchant.revoked_at_estimated,
            suspect_at: match merchant.status {
                MerchantStatus::Authorized | MerchantStatus::Revoked { .. } => None,
                MerchantStatus::Suspect { at } => Some(at),
            },
            doubt: merchant.doubt.map(|doubt| doubt.as_str().to_owned()),
            refresh_refused: merchant.refresh_refused,
            source: merchant.source.as_str().to_owned(),
            encrypt_key: merchant.encrypt_key.clone().map(Hidden),
            encrypt_key_fetched: merchant.encrypt_key_fetched,
            updated_at: merchant.updated_at,
        }
    }
}

impl TryFrom<MerchantRecord> for Merchant {
    type Error = Unreadable;

    fn try_from(record: MerchantRecord) -> Result<Self, Unreadable> {
        let pid = record.pid.as_deref().map(Pid::new).transpose();
        let alias = record.alias.as_deref().map(Alias::new).transpose();
        let doubt = record.doubt.as_deref().map(str::parse::<Doubt>);
        Ok(Self {
            app_id: AppId::new(&record.app_id).map_err(|_| Unreadable)?,
            auth_app_id: AuthAppId::new(&record.auth_app_id).map_err(|_| Unreadable)?,
            pid: pid.map_err(|_| Unreadable)?,
            alias: alias.map_err(|_| Unreadable)?,
            reference: record.reference,
            token: record.token.into(),
            previous_token: record.previous_token.map(Into::into),
            auth_time: record.auth_time,
            auth_time_estimated: record.auth_time_estimated,
            status: match (record.revoked_at, record.suspect_at) {
                (Some(at), _) => MerchantStatus::Revoked { at },
                (None, Some(at)) => MerchantStatus::Suspect { at },
                (None, None) => MerchantStatus::Authorized,
            },
            revoked_at_estimated: record.revoked_at_estimated,
            doubt: doubt.transpose().map_err(|()| Unreadable)?,
            refresh_refused: record.refresh_refused,
            source: record.source.parse::<Source>().map_err(|()| Unreadable)?,
            encrypt_key: record.encrypt_key.map(|key| key.0),
            encrypt_key_fetched: record.encrypt_key_fetched,
            updated_at: record.updated_at,
        })
    }
}

impl From<&AppAuthToken> for TokenRecord {
    fn from(token: &AppAuthToken) -> Self {
        Self {
            app_auth_token: Hidden(token.app_auth_token.clone()),
            app_refresh_token: token.app_refresh_token.clone().map(Hidden),
            stated_expiry: token.stated_expiry,
        }
    }
}

impl From<TokenRecord> for AppAuthToken {
    fn from(record: TokenRecord) -> Self {
        Self {
            app_auth_token: record.app_auth_token.0,
            app_refresh_token: record.app_refresh_token.map(|token| token.0),
            stated_expiry: record.stated_expiry,
        }
    }
}

/// Whether two token pairs are the same.
pub(super) fn same_token(one: &AppAuthToken, other: &AppAuthToken) -> bool {
    one.app_auth_token.expose() == other.app_auth_token.expose()
        && same_secret(
            one.app_refresh_token.as_ref(),
            other.app_refresh_token.as_ref(),
        )
        && one.stated_expiry == other.stated_expiry
}

/// Whether two optional secrets are the same. Not in constant time: both are the store's own.
pub(super) fn same_secret(one: Option<&Secret<String>>, other: Option<&Secret<String>>) -> bool {
    one.map(Secret::expose) == other.map(Secret::expose)
}
