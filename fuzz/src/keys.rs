//! The throw-away keys of `tests/vectors/keys.json`.

use std::sync::LazyLock;

use alipay_sidecar::protocol::key::RsaPublicKey;
use serde_json::Value;

static FILE: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../tests/vectors/keys.json")).expect("JSON")
});

/// A private key, PKCS#8 PEM.
#[must_use]
pub fn private(name: &str) -> &'static str {
    text(name, "pkcs8_pem")
}

/// A public key, bare base64.
#[must_use]
pub fn public(name: &str) -> &'static str {
    text(name, "spki_bare")
}

/// The key that plays Alipay in most vectors, and the short one.
pub static ALIPAY: LazyLock<[RsaPublicKey; 2]> = LazyLock::new(|| {
    ["alipay2048", "alipay1024"].map(|name| RsaPublicKey::from_text(public(name)).expect("a key"))
});

/// The app's own.
pub static APP: LazyLock<RsaPublicKey> =
    LazyLock::new(|| RsaPublicKey::from_text(public("app2048")).expect("a key"));

/// The name of an app's key with which signing is quick.
pub const SHORT: &str = "app1024";

/// The public half of [`SHORT`].
pub static APP_SHORT: LazyLock<RsaPublicKey> =
    LazyLock::new(|| RsaPublicKey::from_text(public(SHORT)).expect("a key"));

fn text(name: &str, form: &str) -> &'static str {
    FILE["keys"][name][form].as_str().expect("such a key")
}
