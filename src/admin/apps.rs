//! Apps: those of the configuration are shown, those of the store also put and removed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::admin::error::AdminError;
use crate::admin::json::{AES_KEY, Form, LONG, Members, Object, invalid, member, missing};
use crate::config::app::check_keys;
use crate::config::environment;
use crate::config::upstream::UpstreamConfig;
use crate::model::app::{App, AppCertificates, Environment};
use crate::model::id::AppId;
use crate::protocol::key::RsaPublicKey;
use crate::protocol::signature::SignType;
use crate::store::{Change, Effect, Store};

/// Where an app lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppOrigin {
    /// In the configuration file; wins over one of the store with the same `app_id`.
    Config,
    /// In the store, sealed.
    Store,
}

/// An app as an operator sees it: public keys and fingerprints, never a secret.
#[derive(Debug, Clone, JsonSchema, Serialize, Deserialize)]
pub struct AppView {
    /// The identity that signs.
    pub app_id: String,
    /// `production` or `sandbox`.
    pub environment: String,
    /// Where its calls go in v2.
    #[serde(default)]
    pub gateway: String,
    /// Where they go in v3.
    #[serde(default)]
    pub v3: String,
    /// Where merchants and users authorise.
    #[serde(default)]
    pub authorize: String,
    /// `RSA2` or `RSA`.
    pub sign_type: String,
    /// The application's public key (应用公钥), as Alipay's console takes it.
    pub app_public_key: Option<String>,
    /// The length of the application's key in bits.
    pub key_bits: Option<usize>,
    /// SHA-256 of each platform key.
    pub alipay_public_key_fingerprints: Vec<String>,
    /// `app_cert_sn` of `private_key`, in certificate mode.
    #[serde(default)]
    pub app_cert_sn: Option<String>,
    /// `alipay_root_cert_sn`, in certificate mode.
    #[serde(default)]
    pub alipay_root_cert_sn: Option<String>,
    /// `alipay_cert_sn` of each configured platform certificate.
    #[serde(default)]
    pub alipay_cert_sns: Vec<String>,
    /// A private key isn't here: the host that runs the sidecar has it signed with elsewhere. Left out
    /// where all are here.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private_key_elsewhere: bool,
    /// Whether a key change is under way.
    pub has_private_key_next: bool,
    /// Whether content is encrypted.
    pub has_encrypt_key: bool,
    /// Where it lives.
    pub origin: AppOrigin,
}

impl AppView {
    /// What may be shown of `app`, whose addresses are as `upstream` says.
    #[must_use]
    pub fn new(app: &App, origin: AppOrigin, upstream: &UpstreamConfig) -> Self {
        let endpoints = upstream.endpoints(app.environment);
        let own = app.public_key();
        let platform = app.alipay_public_keys.iter();
        let keys = app.parse_keys().ok();
        let certificate = keys
            .as_ref()
            .and_then(|keys| keys.current.certificate.as_ref());
        let trust = keys.as_ref().and_then(|keys| keys.certificates.as_ref());
        Self {
            app_cert_sn: certificate.map(|certificate| certificate.sn.clone()),
            alipay_root_cert_sn: trust.map(|trust| trust.alipay_root_cert_sn.clone()),
            alipay_cert_sns: trust.map_or_else(Vec::new, |trust| {
                let certificates = trust.platform.iter();
                certificates
                    .map(|certificate| certificate.sn.clone())
                    .collect()
            }),
            app_id: app.app_id.to_string(),
            environment: app.environment.as_str().to_owned(),
            gateway: endpoints.gateway,
            v3: endpoints.v3,
            authorize: endpoints.authorize,
            sign_type: match app.sign_type {
                SignType::Rsa => "RSA".to_owned(),
                SignType::Rsa2 => "RSA2".to_owned(),
            },
            app_public_key: own.as_ref().map(RsaPublicKey::to_bare_base64),
            key_bits: own.as_ref().map(RsaPublicKey::bits),
            alipay_public_key_fingerprints: platform
                .filter_map(|text| RsaPublicKey::from_text(text).ok())
                .map(|key| key.fingerprint())
                .collect(),
            private_key_elsewhere: app.has_key_elsewhere(),
            has_private_key_next: app.private_key_next.is_some(),
            has_encrypt_key: app.encrypt_key.is_some(),
            origin,
        }
    }
}

/// Every app, those of the configuration first.
///
/// # Errors
/// The store's.
pub async fn list(
    store: &dyn Store,
    configured: &[App],
    upstream: &UpstreamConfig,
) -> Result<Vec<AppView>, AdminError> {
    let stored = store.apps().await?;
    let hidden = |app: &&App| configured.iter().all(|other| other.app_id != app.app_id);
    let configured_views = configured
        .iter()
        .map(|app| AppView::new(app, AppOrigin::Config, upstream));
    let stored_views = stored
        .iter()
        .filter(hidden)
        .map(|app| AppView::new(app, AppOrigin::Store, upstream));
    Ok(configured_views.chain(stored_views).collect())
}

/// One app.
///
/// # Errors
/// [`AdminError::AppUnknown`], or the store's.
pub async fn show(
    store: &dyn Store,
    (configured, upstream): (&[App], &UpstreamConfig),
    app_id: &AppId,
) -> Result<AppView, AdminError> {
    let all = list(store, configured, upstream).await?;
    let found = all.into_iter().find(|view| view.app_id == app_id.as_str());
    found.ok_or_else(|| unknown(app_id))
}

/// Keeps the app that `body` describes, under the names of `[[app]]`, in the store, in place of one that is
/// there, whose private key may have been elsewhere.
///
/// # Errors
/// [`AdminError::BodyInvalid`], [`AdminError::KeyInvalid`], or the store's.
pub async fn put(
    store: &dyn Store,
    upstream: &UpstreamConfig,
    (app_id, body): (&AppId, &[u8]),
) -> Result<AppView, AdminError> {
    let app = parse(app_id, body)?;
    if let Some(problem) = check_keys(&app).into_iter().next() {
        return Err(AdminError::KeyInvalid(problem));
    }
    if let Some((key, mismatch)) = environment::mixture(&app, upstream) {
        return Err(invalid(&format!("`upstream.{key}`: {mismatch}")));
    }
    let view = AppView::new(&app, AppOrigin::Store, upstream);
    store.commit(vec![Change::PutApp(Box::new(app))]).await?;
    Ok(view)
}

/// An app, under the names of `[[app]]`.
pub(super) static BODY: Object = Object {
    about: "An app, under the names of `[[app]]`; with `alipay_public_key`, or with the three \
            members of certificate mode",
    required: &["private_key"],
    members: &[
        member("app_id", Form::Id, "As in the address"),
        member(
            "private_key",
            LONG,
            "应用私钥: PEM, or base64 of PKCS#1 or PKCS#8",
        ),
        member(
            "private_key_next",
            LONG,
            "The key after it, while keys change",
        ),
        member(
            "alipay_public_key",
            Form::Texts("."),
            "支付宝公钥; several while it changes",
        ),
        member("app_cert", Form::Texts("."), "应用公钥证书, PEM"),
        member("alipay_cert", Form::Texts("."), "支付宝公钥证书, PEM"),
        member("alipay_root_cert", LONG, "支付宝根证书, PEM"),
        member("encrypt_key", AES_KEY, "接口内容加密方式's AES key"),
        member(
            "environment",
            Form::Word(&["production", "sandbox"]),
            "Which Alipay; default: production",
        ),
        member("sign_type", Form::Word(&["RSA2", "RSA"]), "Default: RSA2"),
    ],
};

fn parse(app_id: &AppId, body: &[u8]) -> Result<App, AdminError> {
    let mut members = Members::parse(body, &BODY)?;
    if members
        .parsed::<AppId>("app_id")?
        .is_some_and(|named| named != *app_id)
    {
        return Err(invalid("`app_id` is another than the address's"));
    }
    if !app_id.as_str().bytes().all(|b| b.is_ascii_digit()) {
        let text = "`app_id` has other characters than digits; it is the APPID that Alipay's console shows";
        return Err(invalid(text));
    }
    let private_key = members.secret("private_key")?;
    let app = App {
        app_id: app_id.clone(),
        private_key: private_key.ok_or_else(|| missing("private_key"))?.into(),
        private_key_next: members.secret("private_key_next")?.map(Into::into),
        alipay_public_keys: members.texts("alipay_public_key")?,
        certificates: certificates(&mut members)?,
        encrypt_key: members.secret("encrypt_key")?,
        environment: match members.text("environment")?.as_deref() {
            None | Some("production") => Environment::Production,
            Some("sandbox") => Environment::Sandbox,
            Some(_) => return Err(invalid("`environment` is neither production nor sandbox")),
        },
        sign_type: match members.text("sign_type")?.as_deref() {
            None | Some("RSA2") => SignType::Rsa2,
            Some("RSA") => SignType::Rsa,
            Some(_) => return Err(invalid("`sign_type` is neither RSA2 nor RSA")),
        },
    };
    members.finish()?;
    if app.alipay_public_keys.is_empty() && app.certificates.is_none() {
        return Err(missing("alipay_public_key"));
    }
    Ok(app)
}

/// The three files of certificate mode: all of them, or none.
fn certificates(members: &mut Members) -> Result<Option<AppCertificates>, AdminError> {
    let (app, alipay) = (members.texts("app_cert")?, members.texts("alipay_cert")?);
    let roots = members.text("alipay_root_cert")?;
    match (app.is_empty(), alipay.is_empty(), roots) {
        (true, true, None) => Ok(None),
        (false, false, Some(roots)) => Ok(Some(AppCertificates { app, alipay, roots })),
        (true, ..) => Err(missing("app_cert")),
        (_, true, _) => Err(missing("alipay_cert")),
        (.., None) => Err(missing("alipay_root_cert")),
    }
}

/// Forgets an app of the store.
///
/// # Errors
/// [`AdminError::AppUnknown`], or the store's.
pub async fn remove(store: &dyn Store, app_id: &AppId) -> Result<(), AdminError> {
    match store
        .commit(vec![Change::RemoveApp(app_id.clone())])
        .await?
        .first()
    {
        Some(Effect::Missing) => Err(unknown(app_id)),
        _ => Ok(()),
    }
}

fn unknown(app_id: &AppId) -> AdminError {
    AdminError::AppUnknown {
        app_id: app_id.to_string(),
    }
}
