//! `[[app]]`: the ISV's own applications, read into [`App`].

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::config::document::{Item, Value};
use crate::config::error::Mismatch;
use crate::config::section::{Reading, Section};
use crate::model::app::{App, Environment};
use crate::model::id::AppId;
use crate::protocol::error::KeyError;
use crate::protocol::key::{AppPrivateKey, RsaPublicKey};
use crate::protocol::secret::Secret;
use crate::protocol::signature::SignType;

/// Reads every `[[app]]`.
pub(crate) fn read_all(reading: &Reading, item: Option<Item>) -> Vec<App> {
    let mut apps: Vec<App> = Vec::new();
    for section in Section::of_list(reading, ("app", "app"), item) {
        let app = read(&section);
        section.finish();
        let Some(app) = app else { continue };
        if apps.iter().any(|other| other.app_id == app.app_id) {
            let mismatch = Mismatch::of_text(app.app_id.as_str(), "an app_id no other app has");
            section.fault("app_id", mismatch);
        }
        for problem in check_keys(&app) {
            section.fault(problem.key, problem.mismatch);
        }
        apps.push(app);
    }
    apps
}

fn read(section: &Section<'_>) -> Option<App> {
    let app_id = section.optional("app_id", |text| {
        AppId::new(text).map_err(|error| Mismatch::of_text(text, error.expected))
    });
    section.require("app_id", "the application's id at Alipay");
    let private_key = section.secret("private_key");
    section.require(
        "private_key",
        "a reference to the application's private key (应用私钥)",
    );
    let private_key_next = section.secret("private_key_next");
    refuse_certificate_mode(section);
    let alipay_public_keys = alipay_public_keys(section);
    let encrypt_key = section.secret("encrypt_key");
    let environment = section.word("environment", &ENVIRONMENTS);
    let sign_type = section.word("sign_type", &SIGN_TYPES);
    Some(App {
        app_id: app_id?,
        private_key: private_key?,
        private_key_next,
        alipay_public_keys: alipay_public_keys?,
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

/// One key, or a list of them.
fn alipay_public_keys(section: &Section<'_>) -> Option<Vec<String>> {
    const KEY: &str = "alipay_public_key";
    let references = section.reading.references();
    let keys = match section.item(KEY).map(|item| item.typed().value) {
        Some(Value::List(_)) => section.list(KEY, |text| references.public(text)),
        _ => public_key_text(section, KEY).map(|key| vec![key]),
    };
    let is_empty = keys.as_ref().is_some_and(Vec::is_empty);
    if is_empty || section.item(KEY).is_none_or(|item| item.text() == Some("")) {
        let mismatch = Mismatch::new("nothing", "the platform's public key (支付宝公钥)");
        section.fault(KEY, mismatch.hint("without it no reply could be verified"));
        return None;
    }
    keys
}

/// The text of a public key, by reference or pasted; empty: not set.
pub(crate) fn public_key_text(section: &Section<'_>, key: &'static str) -> Option<String> {
    let references = section.reading.references();
    section.optional(key, |text| references.public(text))
}

/// Certificate mode is known, so that its keys aren't “unknown”, but can't be used yet.
fn refuse_certificate_mode(section: &Section<'_>) {
    for key in ["app_cert", "alipay_cert", "alipay_root_cert"] {
        if section.optional(key, |text| Ok(text.to_owned())).is_some() {
            let found = Mismatch::new("a certificate", "`alipay_public_key` (key mode)");
            section.fault(
                key,
                found.hint("certificate mode isn't supported in this version"),
            );
        }
    }
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
/// and the platform's key isn't the app's own.
#[must_use]
pub fn check_keys(app: &App) -> Vec<KeyProblem> {
    let mut problems = Vec::new();
    let mut add = |key, mismatch| problems.push(KeyProblem { key, mismatch });
    let mut own = Vec::new();
    let next = app.private_key_next.as_ref();
    let texts = [
        ("private_key", Some(&app.private_key)),
        ("private_key_next", next),
    ];
    for (key, text) in texts {
        match text.map(|text| AppPrivateKey::from_text(text.expose())) {
            Some(Ok(private)) => own.push(private.public_key().clone()),
            Some(Err(error)) => add(
                key,
                unusable(&error, "the application's private key (应用私钥)"),
            ),
            None => {}
        }
    }
    for text in &app.alipay_public_keys {
        match RsaPublicKey::from_text(text) {
            Ok(public) if own.contains(&public) => add("alipay_public_key", own_public_key()),
            Ok(_) => {}
            Err(error) => {
                add(
                    "alipay_public_key",
                    unusable(&error, "the platform's public key (支付宝公钥)"),
                );
            }
        }
    }
    if let Some(key) = &app.encrypt_key
        && !is_aes_key(key)
    {
        let mismatch = Mismatch::new(
            "something else (not shown)",
            "an AES key: 16, 24 or 32 bytes in base64",
        );
        add("encrypt_key", mismatch);
    }
    problems
}

fn unusable(error: &KeyError, expected: &str) -> Mismatch {
    Mismatch::new(format!("a text that is no usable key ({error})"), expected)
}

/// Protocol: signing, keys: the most common of all mistakes; requests then work, and replies fail.
fn own_public_key() -> Mismatch {
    Mismatch::new(
        "the application's own public key (应用公钥)",
        "the platform's (支付宝公钥)",
    )
    .hint("copy 支付宝公钥 from Alipay's console, from the page where the application's was set")
}

fn is_aes_key(key: &Secret<String>) -> bool {
    let bytes = STANDARD
        .decode(key.expose().trim())
        .map(zeroize::Zeroizing::new);
    bytes.is_ok_and(|bytes| matches!(bytes.len(), 16 | 24 | 32))
}
