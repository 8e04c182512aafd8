//! The throw-away keys of the vectors.

use serde_json::Value;

fn field(name: &str, field: &str) -> String {
    let file: Value = serde_json::from_str(include_str!("../../vectors/keys.json")).expect("JSON");
    file["keys"][name][field]
        .as_str()
        .expect("such a key")
        .to_owned()
}

/// A private key, PKCS#8 PEM.
pub fn private(name: &str) -> String {
    field(name, "pkcs8_pem")
}

/// A public key, bare base64.
pub fn public(name: &str) -> String {
    field(name, "spki_bare")
}
