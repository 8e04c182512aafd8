//! The effective configuration for eyes and for comparison: no secret in it.

use std::path::Path;
use std::time::Duration;

use aws_lc_rs::hmac;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use zeroize::Zeroize;

use crate::config::Config;
use crate::config::caller::{CallerConfig, CallerIdentity};
use crate::config::upstream::UpstreamConfig;
use crate::model::app::{App, PrivateKey};
use crate::model::selector::Selector;
use crate::protocol::secret::Secret;
use crate::protocol::signature::SignType;

impl Config {
    /// The effective values under the names of the file, and in its forms; of a secret the reference
    /// to it, or only that it is set.
    #[must_use]
    pub fn to_redacted_json(&self) -> Value {
        let mut values = self.values();
        for (key, reference) in self.origins.references() {
            if let Some(shown) = at(&mut values, key).filter(|shown| **shown == SET) {
                *shown = json!(reference);
            }
        }
        values
    }

    fn values(&self) -> Value {
        let apps = self.apps.iter().map(|app| app_view(app, &self.upstream));
        json!({
            "proxy": self.proxy.view(),
            "webhook": self.webhook.view(),
            "admin": self.admin.view(),
            "upstream": self.upstream.view(),
            "store": self.store.view(),
            "app": apps.collect::<Vec<_>>(),
            "caller": self.callers.iter().map(CallerConfig::view).collect::<Vec<_>>(),
            "delivery": self.delivery.view(),
            "tokens": self.tokens.view(),
            "audit": self.telemetry.audit_view(),
            "telemetry": self.telemetry.view(),
        })
    }

    /// `sha256:` and a digest of all values: tells whether two processes run with the same, wherever
    /// they were set. Secrets count by a MAC under the store key, so that a changed one shows and
    /// none can be guessed from it; without a store key they don't.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let values = self.values().to_string();
        let secrets = self.store.key.as_ref().map(|key| self.secrets_mac(key));
        let secrets = secrets.unwrap_or_default();
        format!("sha256:{}", digest(&format!("{values}\n{secrets}")))
    }

    fn secrets_mac(&self, store_key: &Secret<String>) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, store_key.expose().trim().as_bytes());
        let key = hmac::sign(&key, b"alipay-sidecar: fingerprint of the configuration");
        let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.as_ref()));
        let mut add = |bytes: &[u8]| {
            mac.update(&(bytes.len() as u64).to_be_bytes());
            mac.update(bytes);
        };
        let mut secrets = vec![
            self.admin.token.as_ref(),
            self.delivery.signing_secret.as_ref(),
            self.upstream.proxy_credentials.as_ref(),
        ];
        for app in &self.apps {
            let next = app.private_key_next.as_ref().and_then(PrivateKey::text);
            secrets.extend([app.private_key.text(), next, app.encrypt_key.as_ref()]);
        }
        for secret in secrets {
            add(secret
                .map(|secret| secret.expose().as_bytes())
                .unwrap_or_default());
        }
        for caller in &self.callers {
            if let CallerIdentity::Token(token) = &caller.identity {
                add(token.as_bytes());
            }
        }
        hex(mac.sign().as_ref())
    }
}

/// The value at `key`, such as `app[1].private_key`.
fn at<'v>(values: &'v mut Value, key: &str) -> Option<&'v mut Value> {
    // `delivery.route[1].url` has a list within a section.
    key.split('.').try_fold(values, |value, part| {
        let (name, number) = match part.split_once('[') {
            Some((name, number)) => (name, Some(number.trim_end_matches(']'))),
            None => (part, None),
        };
        let value = value.get_mut(name)?;
        match number {
            Some(number) => value.get_mut(number.parse::<usize>().ok()?.checked_sub(1)?),
            None => Some(value),
        }
    })
}

fn app_view(app: &App, upstream: &UpstreamConfig) -> Value {
    let files = app.certificates.as_ref();
    let digests = |texts: &[String]| texts.iter().map(|text| digest(text)).collect::<Vec<_>>();
    let endpoints = upstream.endpoints(app.environment);
    json!({
        "app_id": app.app_id.as_str(),
        "private_key": private_key(&app.private_key),
        "private_key_next": app.private_key_next.as_ref().map(private_key).unwrap_or_default(),
        "alipay_public_key": digests(&app.alipay_public_keys),
        "app_cert": digests(files.map(|files| &*files.app).unwrap_or_default()),
        "alipay_cert": digests(files.map(|files| &*files.alipay).unwrap_or_default()),
        "alipay_root_cert": files.map(|files| digest(&files.roots)).unwrap_or_default(),
        "encrypt_key": secret(app.encrypt_key.as_ref()),
        "environment": app.environment.as_str(),
        "sign_type": match app.sign_type {
            SignType::Rsa => "RSA",
            SignType::Rsa2 => "RSA2",
        },
        "gateway": endpoints.gateway,
        "v3": endpoints.v3,
        "authorize": endpoints.authorize,
    })
}

/// What stands for a secret whose reference isn't known.
pub(crate) const SET: &str = "(set, not shown)";

/// Whether it is set; of one that is kept elsewhere, which no file can say, the public half.
fn private_key(key: &PrivateKey) -> String {
    match key {
        PrivateKey::Elsewhere(None) => "elsewhere".to_owned(),
        PrivateKey::Elsewhere(Some(public)) => format!("elsewhere, {}", digest(public)),
        PrivateKey::Text(text) => secret(Some(text)).to_owned(),
    }
}

/// Whether a secret is set.
pub(crate) fn secret<T: Zeroize>(secret: Option<&Secret<T>>) -> &'static str {
    secret.map_or("", |_| SET)
}

/// What may be left empty.
pub(crate) fn text(text: Option<&String>) -> &str {
    text.map_or("", String::as_str)
}

pub(crate) fn path(path: Option<&Path>) -> String {
    path.map(|path| path.display().to_string())
        .unwrap_or_default()
}

/// In the largest unit that fits, days from a week on.
pub(crate) fn duration(duration: Duration) -> String {
    const HOUR: u128 = 3_600_000;
    let ms = duration.as_millis();
    let units = [
        ("d", 24 * HOUR, 7 * 24 * HOUR),
        ("h", HOUR, HOUR),
        ("m", 60_000, 60_000),
        ("s", 1000, 0),
    ];
    let fits = |(_, unit, least): &(&str, u128, u128)| ms >= *least && ms.is_multiple_of(*unit);
    match units.into_iter().find(fits) {
        Some((name, unit, _)) => format!("{}{name}", ms / unit),
        None => format!("{ms}ms"),
    }
}

/// In the largest unit that fits.
pub(crate) fn size(bytes: u64) -> String {
    let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    let fits = |(_, unit): &(&str, u64)| bytes > 0 && bytes.is_multiple_of(*unit);
    match units.into_iter().find(fits) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
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
    hex(&Sha256::digest(text.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::value;

    #[test]
    fn sizes_and_durations_read_as_they_are_written() {
        for text in [
            "500ms", "0s", "15s", "90s", "2m", "72h", "7d", "25h", "8d", "169h",
        ] {
            let read = value::duration(text).expect("a duration");
            assert_eq!(duration(read), text);
        }
        for text in ["1B", "1023B", "1KiB", "1MiB", "1025KiB", "32MiB", "2GiB"] {
            assert_eq!(size(value::size(text).expect("a size")), text);
        }
        assert_eq!(size(0), "0B");
    }

    fn read(text: &str) -> Config {
        let text = format!("{text}[store]\nkey = \"env:S\"\n");
        let store_key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let environment = [("T", "open sesame"), ("K", "another"), ("S", store_key)];
        let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
        Config::from_toml(&text, Path::new("/nowhere"), environment).expect("good")
    }

    fn app() -> App {
        App {
            app_id: "2021000000000001".parse().expect("an id"),
            private_key: Secret::new("key".to_owned()).into(),
            private_key_next: None,
            alipay_public_keys: vec!["abc".to_owned()],
            certificates: None,
            encrypt_key: None,
            environment: crate::model::app::Environment::Sandbox,
            sign_type: SignType::Rsa2,
        }
    }

    #[test]
    fn all_is_shown_and_of_secrets_their_references() {
        let mut config =
            read("[admin]\ntoken = \"env:T\"\n[delivery]\nurl = \"https://b.example/x\"\n");
        config.delivery.signing_secret = Some(Secret::new("given by code".to_owned()));
        config.apps.push(app());
        let shown = config.to_redacted_json();
        assert_eq!(shown["admin"]["token"], "env:T");
        assert_eq!(shown["admin"]["listen"], "127.0.0.1:2090");
        assert_eq!(shown["delivery"]["url"], "https://b.example/x");
        assert_eq!(shown["delivery"]["signing_secret"], SET);
        assert_eq!(shown["proxy"]["notify_url_allow"], json!([]));
        let app = &shown["app"][0];
        assert_eq!(app["app_id"], "2021000000000001");
        assert_eq!(
            (&app["private_key"], &app["encrypt_key"]),
            (&json!(SET), &json!(""))
        );
        assert_eq!(app["alipay_public_key"], json!([digest("abc")]));
        assert_eq!(
            (&app["environment"], &app["sign_type"]),
            (&json!("sandbox"), &json!("RSA2"))
        );
        let text = shown.to_string();
        assert!(
            !text.contains("sesame") && !text.contains("given by code"),
            "{text}"
        );
    }

    #[test]
    fn a_reference_stands_where_its_secret_does() {
        let mut values =
            json!({"app": [{"private_key": 1}, {"private_key": 2}], "admin": {"token": 3}});
        for (key, expected) in [
            ("app[1].private_key", Some(1)),
            ("app[2].private_key", Some(2)),
            ("admin.token", Some(3)),
            ("app[0].private_key", None),
            ("app[3].private_key", None),
            ("app[x].private_key", None),
            ("admin.other", None),
        ] {
            let found = at(&mut values, key).map(|value| value.clone());
            assert_eq!(found, expected.map(|number| json!(number)), "{key}");
        }
    }

    #[test]
    fn the_fingerprint_follows_values_and_secrets_and_shows_neither() {
        let print = |text: &str, key: Option<&str>| {
            let mut config = read(text);
            config.store.key = key.map(|key| Secret::new(key.to_owned()));
            config.fingerprint()
        };
        let (one, other) = (
            "[admin]\ntoken = \"env:T\"\n",
            "[admin]\ntoken = \"env:K\"\n",
        );
        let first = print(one, Some("store"));
        assert_eq!(first.strip_prefix("sha256:").map(str::len), Some(64));
        assert_eq!(print(one, Some("store")), first);
        assert_ne!(print(other, Some("store")), first);
        assert_ne!(print(one, Some("another store")), first);
        assert_ne!(print("", Some("store")), first);
        // Without a store key secrets don't count.
        assert_eq!(print(one, None), print(other, None));
        let mac = read(one).secrets_mac(&Secret::new("store".to_owned()));
        assert_eq!(mac.len(), 64);
    }

    #[test]
    fn a_secret_shows_only_whether_it_is_set() {
        let set = secret(Some(&Secret::new("open sesame".to_owned())));
        assert_eq!(set, json!("(set, not shown)"));
        assert_eq!(secret::<String>(None), "");
    }

    #[test]
    fn values_are_shown_as_the_file_would_write_them() {
        assert_eq!(duration(Duration::from_secs(90)), "90s");
        assert_eq!(duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(path(Some(Path::new("a/b"))), json!("a/b"));
        assert_eq!(path(None), "");
        assert_eq!(text(Some(&"a b".to_owned())), "a b");
        assert_eq!(text(None), "");
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
