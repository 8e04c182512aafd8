//! The simulator's own sign strings and RSA, made without the sidecar's protocol code.
//!
//! A judge that shares the canonicaliser of the accused would agree with its mistakes.
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use rsa::{
    Pkcs1v15Sign, RsaPrivateKey, RsaPublicKey,
    pkcs1::{DecodeRsaPrivateKey as _, DecodeRsaPublicKey as _},
    pkcs8::{DecodePrivateKey as _, DecodePublicKey as _, EncodePublicKey as _},
    rand_core::OsRng,
};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use super::error::SimulatorError;

/// The signature algorithm an app is set to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SignType {
    /// RSASSA-PKCS1-v1_5 with SHA-1, for apps made before 2018.
    Rsa,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[default]
    Rsa2,
}

impl SignType {
    /// Gives the value of the `sign_type` parameter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rsa => "RSA",
            Self::Rsa2 => "RSA2",
        }
    }

    pub(super) fn sign(self, key: &RsaPrivateKey, content: &[u8]) -> String {
        let (scheme, digest) = self.digest(content);
        // The only failures are a key shorter than the digest and a broken key: both are refused
        // when the key is read, and an empty signature is refused by everyone.
        let signature = key
            .sign_with_rng(&mut OsRng, scheme, &digest)
            .unwrap_or_default();
        STANDARD.encode(signature)
    }

    pub(super) fn verify(self, key: &RsaPublicKey, content: &[u8], sign: &str) -> bool {
        let Ok(signature) = STANDARD.decode(sign) else {
            return false;
        };
        let (scheme, digest) = self.digest(content);
        key.verify(scheme, &digest, &signature).is_ok()
    }

    fn digest(self, content: &[u8]) -> (Pkcs1v15Sign, Vec<u8>) {
        match self {
            Self::Rsa => (Pkcs1v15Sign::new::<Sha1>(), Sha1::digest(content).to_vec()),
            Self::Rsa2 => (
                Pkcs1v15Sign::new::<Sha256>(),
                Sha256::digest(content).to_vec(),
            ),
        }
    }
}

/// Joins `name=value` by `&` in byte order of the names, without those in `left_out` and without
/// empty values.
pub(super) fn sign_content<'a>(
    params: impl IntoIterator<Item = (&'a str, &'a str)>,
    left_out: &[&str],
) -> String {
    let mut pairs: Vec<_> = params
        .into_iter()
        .filter(|(name, value)| !value.is_empty() && !left_out.contains(name))
        .collect();
    pairs.sort_unstable();
    let joined: Vec<_> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    joined.join("&")
}

/// Reads a private key: PEM or bare base64, PKCS#1 or PKCS#8 whatever the label says.
pub(super) fn private_key(text: &str) -> Result<RsaPrivateKey, SimulatorError> {
    let der = der(text);
    RsaPrivateKey::from_pkcs8_der(&der)
        .ok()
        .or_else(|| RsaPrivateKey::from_pkcs1_der(&der).ok())
        .ok_or(SimulatorError::Key {
            what: "the private key",
        })
}

/// Reads a public key: PEM or bare base64, SPKI or PKCS#1.
pub(super) fn public_key(text: &str) -> Result<RsaPublicKey, SimulatorError> {
    let der = der(text);
    RsaPublicKey::from_public_key_der(&der)
        .ok()
        .or_else(|| RsaPublicKey::from_pkcs1_der(&der).ok())
        .ok_or(SimulatorError::Key {
            what: "the public key",
        })
}

/// Makes a new RSA key of 2048 bits, by aws-lc: built without optimisation, as for the tests of a host, the
/// `rsa` crate takes some thirty times as long, many seconds.
pub(super) fn generate() -> Result<RsaPrivateKey, SimulatorError> {
    let failed = || SimulatorError::Key { what: "a new key" };
    let key = KeyPair::generate(KeySize::Rsa2048).map_err(|_| failed())?;
    let der: Pkcs8V1Der<'_> = key.as_der().map_err(|_| failed())?;
    RsaPrivateKey::from_pkcs8_der(der.as_ref()).map_err(|_| failed())
}

/// Spells a public key as Alipay's console shows it: SPKI, base64 on one line.
pub(super) fn bare_public_key(key: &RsaPublicKey) -> String {
    key.to_public_key_der()
        .map(|der| STANDARD.encode(der.as_bytes()))
        .unwrap_or_default()
}

/// Gives the DER inside PEM armour or bare base64; nothing when it is neither.
fn der(text: &str) -> Vec<u8> {
    let base64: String = text
        .trim_start_matches('\u{feff}')
        .lines()
        .filter(|line| !line.trim_start().starts_with("-----"))
        .flat_map(str::chars)
        .filter(|character| !character.is_whitespace())
        .collect();
    STANDARD.decode(base64).unwrap_or_default()
}
