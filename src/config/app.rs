//! `[[app]]`: the ISV's own applications, read into [`App`].

#[cfg(feature = "cli")]
use crate::config::document;
use crate::config::document::{Item, Value};
use crate::config::error::Mismatch;
use crate::config::misfits::Given;
use crate::config::section::{Reading, Section};
use crate::model::app::{App, AppCertificates, Environment};
use crate::model::app_keys::AppKeysError;
use crate::model::id::AppId;
use crate::protocol::cert::CertificateError;
use crate::protocol::error::KeyError;
use crate::protocol::signature::SignType;

/// Reads every `[[app]]`.
pub(crate) fn read_all(reading: &Reading, item: Option<Item>) -> Vec<App> {
    let mut apps: Vec<App> = Vec::new();
    for section in Section::of_list(reading, ("app", "app"), item) {
        let app = read(&section);
        section.finish();
        let Some(app) = app else { continue };
        if let Err(mismatch) = unlike(&app.app_id, &apps) {
            section.fault("app_id", mismatch);
        }
        for problem in check_keys(&app) {
            section.fault(problem.key, problem.mismatch);
        }
        apps.push(app);
    }
    apps
}

/// What of apps that a program made a file would be refused for. Their keys are looked at where they are put to
/// use.
pub(super) fn judge_all(apps: &[App], root: &mut Given<'_>) {
    for (index, app) in apps.iter().enumerate() {
        let mut given = root.list_item("app", index);
        given.check("app_id", app_id(app.app_id.as_str()));
        let before = apps.get(..index).unwrap_or_default();
        given.check("app_id", unlike(&app.app_id, before));
    }
}

/// No two apps have one id: of them only the first would count.
fn unlike(app_id: &AppId, others: &[App]) -> Result<(), Mismatch> {
    match others.iter().any(|other| other.app_id == *app_id) {
        true => {
            let expected = "an app_id no other app has";
            Err(Mismatch::of_text(app_id.as_str(), expected))
        }
        false => Ok(()),
    }
}

fn app_id(text: &str) -> Result<AppId, Mismatch> {
    let expected = "1 to 32 digits, the APPID that Alipay's console shows";
    let wrong = || Mismatch::of_text(text, expected);
    match text.bytes().all(|b| b.is_ascii_digit()) {
        true => AppId::new(text).map_err(|_| wrong()),
        false => Err(wrong()),
    }
}

/// Where the file `text` has the app `app_id`, such as `app[1]`, whether all of it can be read or not.
#[cfg(feature = "cli")]
pub(crate) fn place_of(app_id: &AppId, text: &str) -> Option<String> {
    let mut root = document::parse(text).ok()?;
    let Value::List(apps) = root.remove("app")?.value else {
        return None;
    };
    let is_it = |app: &Item| match &app.value {
        Value::Table(app) => {
            let given = app.get("app_id").and_then(Item::text);
            given == Some(app_id.as_str())
        }
        _ => false,
    };
    let place = apps.iter().position(is_it)?;
    Some(format!("app[{}]", place + 1))
}

fn read(section: &Section<'_>) -> Option<App> {
    let app_id = section.optional("app_id", app_id);
    section.require("app_id", "the application's id at Alipay");
    let private_key = section.secret("private_key");
    section.require(
        "private_key",
        "a reference to the application's private key (应用私钥)",
    );
    let private_key_next = section.secret("private_key_next");
    let certificates = certificates(section);
    let alipay_public_keys = alipay_public_keys(section, certificates.is_some());
    let encrypt_key = section.secret("encrypt_key");
    let environment = section.word("environment", &ENVIRONMENTS);
    let sign_type = section.word("sign_type", &SIGN_TYPES);
    Some(App {
        app_id: app_id?,
        private_key: private_key?.into(),
        private_key_next: private_key_next.map(Into::into),
        alipay_public_keys: alipay_public_keys?,
        certificates: certificates.flatten(),
        encrypt_key,
        environment: environment.unwrap_or(Environment::Production),
        sign_type: sign_type.unwrap_or(SignType::Rsa2),
    })
}

const ENVIRONMENTS: [(&str, Environment); 2] = [
    ("production", Environment::Production),
    ("sandbox", Environment::Sandbox),
];

const SIGN_TYPES: [(&str, SignType); 2] = [("RSA2", SignType::Rsa2), ("RSA", SignType::Rsa)];

/// One key, or a list of them; in certificate mode none is needed.
fn alipay_public_keys(section: &Section<'_>, in_certificate_mode: bool) -> Option<Vec<String>> {
    const KEY: &str = "alipay_public_key";
    if section.item(KEY).is_none_or(|item| item.text() == Some("")) && in_certificate_mode {
        return Some(Vec::new());
    }
    let keys = public_texts(section, KEY);
    let is_empty = keys.as_ref().is_some_and(Vec::is_empty);
    if is_empty || section.item(KEY).is_none_or(|item| item.text() == Some("")) {
        let mismatch = Mismatch::new("nothing", "the platform's public key (支付宝公钥)");
        section.fault(KEY, mismatch.hint("without it no reply could be verified"));
        return None;
    }
    keys
}

/// The public texts of a key that takes one, or a list of them.
fn public_texts(section: &Section<'_>, key: &'static str) -> Option<Vec<String>> {
    let references = section.reading.references();
    match section.item(key).map(|item| item.typed().value) {
        Some(Value::List(_)) => section.list(key, |text| references.public(text)),
        _ => public_key_text(section, key).map(|text| vec![text]),
    }
}

/// The text of a public key, by reference or pasted; empty: not set.
pub(crate) fn public_key_text(section: &Section<'_>, key: &'static str) -> Option<String> {
    let references = section.reading.references();
    section.optional(key, |text| references.public(text))
}

/// The three files of certificate mode: all of them, or none. The outer `Option` says whether any
/// is named, the inner one whether they can be used.
fn certificates(section: &Section<'_>) -> Option<Option<AppCertificates>> {
    let app = public_texts(section, "app_cert").filter(|texts| !texts.is_empty());
    let alipay = public_texts(section, "alipay_cert").filter(|texts| !texts.is_empty());
    let roots = public_key_text(section, "alipay_root_cert");
    let files = [
        (
            "app_cert",
            app.is_some(),
            "应用公钥证书, appCertPublicKey_….crt",
        ),
        (
            "alipay_cert",
            alipay.is_some(),
            "支付宝公钥证书, alipayCertPublicKey_RSA2.crt",
        ),
        (
            "alipay_root_cert",
            roots.is_some(),
            "支付宝根证书, alipayRootCert.crt",
        ),
    ];
    let is_named = |key| {
        section
            .item(key)
            .is_some_and(|item| item.text() != Some(""))
    };
    if !files.iter().any(|(key, ..)| is_named(key)) {
        return None;
    }
    // A file that is named and can't be read has been told already.
    for (key, _, what) in files.into_iter().filter(|(key, ..)| !is_named(key)) {
        let mismatch = Mismatch::new("nothing", format!("the certificate file ({what})"));
        section.fault(key, mismatch.hint("certificate mode needs all three files"));
    }
    let complete = app.zip(alipay).zip(roots);
    Some(complete.map(|((app, alipay), roots)| AppCertificates { app, alipay, roots }))
}

/// A key of an app that can't do its work.
#[derive(Debug, Clone)]
pub struct KeyProblem {
    /// Which key, by its name in the configuration.
    pub key: &'static str,
    /// What is wrong with it.
    pub mismatch: Mismatch,
}

/// Looks at the keys of an app, wherever it was configured: each parses, is of the right kind,
/// and they belong together.
#[must_use]
pub fn check_keys(app: &App) -> Vec<KeyProblem> {
    let faults = app.check_keys().err().unwrap_or_default();
    let problem = |fault: AppKeysError| KeyProblem {
        key: fault.key(),
        mismatch: mismatch(&fault),
    };
    faults.into_iter().map(problem).collect()
}

fn mismatch(fault: &AppKeysError) -> Mismatch {
    const PRIVATE: &str = "the application's private key (应用私钥)";
    const PLATFORM: &str = "the platform's public key (支付宝公钥)";
    const ROOTS: &str = "Alipay's root certificates (alipayRootCert.crt)";
    match fault {
        AppKeysError::PrivateKey(error) | AppKeysError::PrivateKeyNext(error) => {
            unusable(error, PRIVATE)
        }
        AppKeysError::AlipayPublicKey(error) => unusable(error, PLATFORM),
        AppKeysError::AlipayCertKey(error) => unusable(error, "a certificate of an RSA key"),
        AppKeysError::AlipayCert(error) => certificate(error, "alipayCertPublicKey_RSA2.crt"),
        AppKeysError::AppCert(error) => certificate(error, "appCertPublicKey_….crt"),
        AppKeysError::RootCert(error) => certificate(error, ROOTS),
        AppKeysError::RootCertForeign => {
            Mismatch::new("no certificate that an RSA algorithm signed", ROOTS)
        }
        AppKeysError::AppCertForeign => {
            Mismatch::new("a certificate of another key", "the one of `private_key`")
                .hint("download 应用公钥证书 again from Alipay's console, or set the key it is of")
        }
        AppKeysError::EncryptKey(_) => Mismatch::new(
            "something else (not shown)",
            "an AES key: 16, 24 or 32 bytes in base64",
        ),
        AppKeysError::NoAlipayPublicKey => Mismatch::new("nothing", PLATFORM),
        AppKeysError::NoPublicHalf { .. } => Mismatch::new(
            "a key that is kept elsewhere",
            "its public half (应用公钥), or a certificate of it",
        ),
        AppKeysError::OwnPublicKey { .. } => own_public_key(),
        AppKeysError::PublicHalf { source, .. } => unusable(
            source,
            "the public half (应用公钥) of a key that is kept elsewhere",
        ),
    }
}

fn unusable(error: &KeyError, expected: &str) -> Mismatch {
    Mismatch::new(format!("a text that is no usable key ({error})"), expected)
}

fn certificate(error: &CertificateError, expected: &str) -> Mismatch {
    Mismatch::new(format!("an unusable certificate ({error})"), expected)
}

/// Protocol: signing, keys: the most common of all mistakes; requests then work, and replies fail.
fn own_public_key() -> Mismatch {
    Mismatch::new(
        "the application's own public key (应用公钥)",
        "the platform's (支付宝公钥)",
    )
    .hint("copy 支付宝公钥 from Alipay's console, from the page where the application's was set")
}
