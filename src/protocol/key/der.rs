//! What a piece of DER is, whatever label it came under.

use rsa::{
    BigUint, pkcs1,
    pkcs8::{self, ObjectIdentifier, der::Decode, spki::SubjectPublicKeyInfoRef},
};

use super::text::Block;
use crate::protocol::error::KeyError;

/// What a block turned out to be.
pub(super) enum Found {
    /// An RSA private key.
    Private(rsa::RsaPrivateKey),
    /// An RSA public key.
    Public(rsa::RsaPublicKey),
    /// Something else that has a name.
    Other(&'static str),
}

/// Reads one block.
pub(super) fn read(block: &Block, expected: &'static str) -> Result<Found, KeyError> {
    let der = block.der.as_slice();
    if let Ok(info) = pkcs8::PrivateKeyInfo::from_der(der) {
        check_algorithm(info.algorithm.oid)?;
        return private(info.private_key, expected);
    }
    if pkcs1::RsaPrivateKey::from_der(der).is_ok() {
        return private(der, expected);
    }
    if let Ok(info) = SubjectPublicKeyInfoRef::from_der(der) {
        check_algorithm(info.algorithm.oid)?;
        return public(info.subject_public_key.raw_bytes(), expected);
    }
    if pkcs1::RsaPublicKey::from_der(der).is_ok() {
        return public(der, expected);
    }
    named(block).map_or(
        Err(KeyError::Der {
            expected,
            length: der.len(),
        }),
        |what| Ok(Found::Other(what)),
    )
}

/// Checks the size of a modulus: 1024 to 4096 bits. A key generator may leave the topmost bits
/// empty, so it is the number of whole bytes that counts.
pub(super) fn check_size(modulus: &BigUint) -> Result<(), KeyError> {
    let bits = modulus.bits();
    match bits.div_ceil(8) {
        128..=512 => Ok(()),
        _ => Err(KeyError::Size { bits }),
    }
}

fn private(pkcs1_der: &[u8], expected: &'static str) -> Result<Found, KeyError> {
    let key = pkcs1::RsaPrivateKey::from_der(pkcs1_der).map_err(|_| broken(pkcs1_der, expected))?;
    let number = |part: pkcs1::UintRef<'_>| BigUint::from_bytes_be(part.as_bytes());
    let modulus = number(key.modulus);
    check_size(&modulus)?;
    rsa::RsaPrivateKey::from_components(
        modulus,
        number(key.public_exponent),
        number(key.private_exponent),
        vec![number(key.prime1), number(key.prime2)],
    )
    .map(Found::Private)
    .map_err(|_| KeyError::Inconsistent)
}

fn public(pkcs1_der: &[u8], expected: &'static str) -> Result<Found, KeyError> {
    let key = pkcs1::RsaPublicKey::from_der(pkcs1_der).map_err(|_| broken(pkcs1_der, expected))?;
    let modulus = BigUint::from_bytes_be(key.modulus.as_bytes());
    check_size(&modulus)?;
    let exponent = BigUint::from_bytes_be(key.public_exponent.as_bytes());
    rsa::RsaPublicKey::new(modulus, exponent)
        .map(Found::Public)
        .map_err(|_| broken(pkcs1_der, expected))
}

fn broken(der: &[u8], expected: &'static str) -> KeyError {
    KeyError::Der {
        expected,
        length: der.len(),
    }
}

fn check_algorithm(oid: ObjectIdentifier) -> Result<(), KeyError> {
    if oid == pkcs1::ALGORITHM_OID {
        return Ok(());
    }
    let found = match oid.to_string().as_str() {
        "1.2.840.10045.2.1" => "elliptic curves (EC, or SM2)".to_owned(),
        "1.2.840.113549.1.1.10" => "RSASSA-PSS".to_owned(),
        "1.3.101.112" => "Ed25519".to_owned(),
        other => other.to_owned(),
    };
    Err(KeyError::Algorithm { found })
}

/// Names what isn't a key, by its outline or its label.
fn named(block: &Block) -> Option<&'static str> {
    const KINDS: [(&str, &str); 6] = [
        ("CERTIFICATE REQUEST", "a certificate request"),
        ("CERTIFICATE", "a certificate"),
        ("EC PRIVATE KEY", "a private key of elliptic curves"),
        ("OPENSSH PRIVATE KEY", "an OpenSSH private key"),
        ("DSA PRIVATE KEY", "a DSA private key"),
        ("EC PARAMETERS", "parameters of elliptic curves"),
    ];
    if is_certificate(&block.der) {
        return Some("a certificate");
    }
    KINDS
        .iter()
        .find_map(|(label, what)| block.label.ends_with(label).then_some(*what))
}

/// Tells a certificate by its beginning: two sequences and the explicit version of RFC 5280.
fn is_certificate(der: &[u8]) -> bool {
    const VERSION: &[u8] = &[0xa0, 0x03, 0x02, 0x01];
    inside_sequence(der)
        .and_then(inside_sequence)
        .is_some_and(|inner| inner.starts_with(VERSION))
}

fn inside_sequence(der: &[u8]) -> Option<&[u8]> {
    let (&[tag, length], rest) = der.split_first_chunk::<2>()?;
    let length_bytes = match length {
        0..=0x7f => 0,
        0x81..=0x84 => usize::from(length & 0x0f),
        _ => return None,
    };
    (tag == 0x30).then(|| rest.get(length_bytes..)).flatten()
}
