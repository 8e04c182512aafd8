//! The effective configuration for eyes and for comparison: no secret in it.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::config::Config;
use crate::config::caller::CallerConfig;
use crate::model::app::App;
use crate::model::selector::Selector;
use crate::protocol::secret::Secret;
use crate::protocol::signature::SignType;

impl Config {
    /// The effective values under the names of the file; a secret shows only whether it is set.
    #[must_use]
    pub fn to_redacted_json(&self) -> Value {
        json!({
            "proxy": self.proxy.view(),
            "webhook": self.webhook.view(),
            "admin": self.admin.view(),
            "upstream": self.upstream.view(),
            "store": self.store.view(),
            "app": self.apps.iter().map(app).collect::<Vec<_>>(),
            "caller": self.callers.iter().map(CallerConfig::view).collect::<Vec<_>>(),
            "delivery": self.delivery.view(),
            "tokens": self.tokens.view(),
            "audit": self.telemetry.audit_view(),
            "telemetry": self.telemetry.view(),
        })
    }

    /// The SHA-256, in hexadecimal, of [`Self::to_redacted_json`]: tells whether two processes run
    /// with the same values, secrets aside.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        digest(&self.to_redacted_json().to_string())
    }
}

fn app(app: &App) -> Value {
    json!({
        "app_id": app.app_id.as_str(),
        "private_key": secret(Some(&app.private_key)),
        "private_key_next": secret(app.private_key_next.as_ref()),
        "alipay_public_key": app.alipay_public_keys.iter().map(|key| digest(key)).collect::<Vec<_>>(),
        "certificates": app.certificates.as_ref().map(|files| {
            let digests = |texts: &[String]| texts.iter().map(|text| digest(text)).collect::<Vec<_>>();
            json!({
                "app_cert": digests(&files.app),
                "alipay_cert": digests(&files.alipay),
                "alipay_root_cert": digest(&files.roots),
            })
        }),
        "encrypt_key": secret(app.encrypt_key.as_ref()),
        "environment": app.environment.as_str(),
        "sign_type": match app.sign_type {
            SignType::Rsa => "RSA",
            SignType::Rsa2 => "RSA2",
        },
    })
}

/// Whether a secret is set.
pub(crate) fn secret<T: Zeroize>(secret: Option<&Secret<T>>) -> Value {
    match secret {
        Some(_) => json!("(set, not shown)"),
        None => Value::Null,
    }
}

pub(crate) fn path(path: Option<&Path>) -> Value {
    path.map_or(Value::Null, |path| json!(path.display().to_string()))
}

pub(crate) fn duration(duration: Duration) -> String {
    let ms = duration.as_millis();
    if ms.is_multiple_of(1000) {
        format!("{}s", ms / 1000)
    } else {
        format!("{ms}ms")
    }
}

pub(crate) fn selector(selector: &Selector) -> String {
    match selector {
        Selector::Alias(alias) => format!("alias:{alias}"),
        Selector::AuthAppId(auth_app_id) => format!("app:{auth_app_id}"),
        Selector::Number(number) => number.to_string(),
        Selector::Own => "self".to_owned(),
        Selector::Pid(pid) => format!("pid:{pid}"),
    }
}

/// The word that stands for `value` in the file.
pub(crate) fn word<T: PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    let found = words.iter().find(|(_, candidate)| *candidate == value);
    found.map_or("", |(word, _)| *word)
}

/// The SHA-256 of `text` in hexadecimal.
pub(crate) fn digest(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_only_whether_it_is_set() {
        let set = secret(Some(&Secret::new("open sesame".to_owned())));
        assert_eq!(set, json!("(set, not shown)"));
        assert_eq!(secret::<String>(None), Value::Null);
    }

    #[test]
    fn values_are_shown_as_the_file_would_write_them() {
        assert_eq!(duration(Duration::from_secs(90)), "90s");
        assert_eq!(duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(path(Some(Path::new("a/b"))), json!("a/b"));
        assert_eq!(path(None), Value::Null);
        let words = [("enforce", true), ("report", false)];
        assert_eq!(
            (word(&words, false), word(&words, true)),
            ("report", "enforce")
        );
    }

    #[test]
    fn a_selector_is_shown_as_it_is_read() {
        for text in [
            "alias:shop",
            "app:2021003125611234",
            "2088102146225135",
            "self",
            "pid:2088102146225135",
        ] {
            let read: Selector = text.parse().unwrap();
            assert_eq!(selector(&read), text);
        }
    }

    #[test]
    fn a_public_key_shows_as_its_sha_256() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest("abc"), abc);
    }
}
