//! Public-key certificates (公钥证书方式): serial numbers, keys, and the way up to a root.
//!
//! Protocol: 签名专区, “公钥证书方式”. The serial number is not X.509's: it is the MD5 of the
//! issuer's text and the decimal serial, as the official Java SDK (`AntCertificationUtil`)
//! computes it.

mod chain;
mod der;
mod download;
mod error;
mod name;
mod pem;

#[cfg(test)]
mod tests;

use md5::{Digest, Md5};
use rsa::BigUint;

use self::der::{Extensions, Parts};
pub use self::{download::downloaded, error::CertificateError};
use super::{error::KeyError, key::RsaPublicKey};

/// Holds one X.509 certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Certificate {
    der: Vec<u8>,
    signed: Vec<u8>,
    signature: Vec<u8>,
    algorithm: String,
    public_key: Vec<u8>,
    serial: String,
    issuer: String,
    issuer_der: Vec<u8>,
    subject: String,
    subject_der: Vec<u8>,
    validity: Option<(i64, i64)>,
    authority: Authority,
}

/// Says whether a certificate may issue others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Authority {
    /// It is of a version that can't tell.
    Unknown,
    /// It says no, or nothing.
    No,
    /// It says yes, with at most that many authorities below it.
    Yes { below: Option<u64> },
}

impl Certificate {
    /// Reads a certificate from its DER.
    ///
    /// # Errors
    ///
    /// [`CertificateError::Unreadable`].
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        Self::read(der, 1)
    }

    /// Gives the serial number as `app_cert_sn` and `alipay_cert_sn` carry it: 32 lower-case
    /// hexadecimal digits.
    ///
    /// Protocol: 签名专区, “证书序列号”: MD5 of issuer and serial (vectors `cert-sn.json`).
    #[must_use]
    pub fn sn(&self) -> String {
        let mut digest = Md5::new();
        digest.update(&self.issuer);
        digest.update(&self.serial);
        hex(&digest.finalize())
    }

    /// Gives the key that the certificate vouches for.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if it isn't an RSA key of 1024 to 4096 bits (SM2, say).
    pub fn public_key(&self) -> Result<RsaPublicKey, KeyError> {
        RsaPublicKey::from_der(&self.public_key)
    }

    /// Tells who issued the certificate, as Java prints names.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Tells whose certificate it is, as Java prints names.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Gives X.509's serial in decimal digits (with `-` for a negative one, as in Java).
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Gives the first moment of validity in milliseconds since 1970; `None` where the dates
    /// can't be read.
    #[must_use]
    pub fn not_before(&self) -> Option<i64> {
        self.validity.map(|(from, _)| from)
    }

    /// Gives the last moment of validity in milliseconds since 1970; `None` where the dates can't
    /// be read.
    #[must_use]
    pub fn not_after(&self) -> Option<i64> {
        self.validity.map(|(_, until)| until)
    }

    /// Tells whether a moment lies between the two dates. Unreadable dates are never valid.
    #[must_use]
    pub fn is_valid_at(&self, unix_ms: i64) -> bool {
        self.validity
            .is_some_and(|(from, until)| (from..=until).contains(&unix_ms))
    }

    /// Gives the certificate's DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    fn read(der: &[u8], position: usize) -> Result<Self, CertificateError> {
        let unreadable = |reason| CertificateError::Unreadable { position, reason };
        let parts = der::certificate(der).map_err(|_| unreadable("no X.509 certificate"))?;
        let serial = decimal(parts.serial).ok_or_else(|| unreadable("a serial out of bounds"))?;
        let issuer = name::rfc2253(parts.issuer).map_err(|_| unreadable("a malformed issuer"))?;
        let subject = name::rfc2253(parts.subject).unwrap_or_default();
        Ok(Self {
            der: der.to_vec(),
            signed: parts.signed.to_vec(),
            signature: parts.signature.to_vec(),
            algorithm: parts.algorithm.to_string(),
            public_key: parts.public_key.to_vec(),
            serial,
            issuer,
            issuer_der: parts.issuer.to_vec(),
            subject,
            subject_der: parts.subject.to_vec(),
            validity: der::validity(parts.validity).ok(),
            authority: authority(&parts),
        })
    }

    /// Tells whether an algorithm of the RSA family signed it, as Java's root rule asks.
    fn is_signed_by_rsa(&self) -> bool {
        self.algorithm.starts_with("1.2.840.113549.1.1")
    }
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificate")
            .field("sn", &self.sn())
            .field("subject", &self.subject)
            .finish_non_exhaustive()
    }
}

/// Holds what a certificate file contains, in the order of the file, unreadable entries included.
#[derive(Clone, Debug)]
pub struct Bundle(Vec<Result<Certificate, CertificateError>>);

impl Bundle {
    /// Reads the text of a file: PEM with LF or CRLF, with or without empty lines and words
    /// between the blocks; or base64 of DER or of such a text.
    ///
    /// # Errors
    ///
    /// [`CertificateError::Empty`] if there is no certificate block, readable or not.
    pub fn parse(text: &str) -> Result<Self, CertificateError> {
        let entries: Vec<_> = pem::blocks(text)
            .into_iter()
            .zip(1..)
            .map(|(der, position)| match der {
                Some(der) => Certificate::read(&der, position),
                None => Err(CertificateError::Unreadable {
                    position,
                    reason: "no base64 between BEGIN and END",
                }),
            })
            .collect();
        match entries.is_empty() {
            true => Err(CertificateError::Empty),
            false => Ok(Self(entries)),
        }
    }

    /// Gives the first entry: the app's own, or the platform's, where others follow.
    ///
    /// # Errors
    ///
    /// [`CertificateError::Unreadable`]; another entry is never taken in its place.
    pub fn first(&self) -> Result<&Certificate, CertificateError> {
        let first = self.0.first().ok_or(CertificateError::Empty)?;
        first.as_ref().map_err(Clone::clone)
    }

    /// Gives the readable entries. (Alipay's root file holds SM2 certificates, which a reader may
    /// refuse.)
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.0.iter().flatten()
    }

    /// Writes the readable entries as PEM, in their order.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.certificates()
            .map(|certificate| pem::written(certificate.der()))
            .collect()
    }

    /// Tells which entries can't be read, and why: worth a warning, as an RSA root among them is
    /// missing from [`alipay_root_cert_sn`](Self::alipay_root_cert_sn).
    pub fn faults(&self) -> impl Iterator<Item = &CertificateError> {
        self.0.iter().filter_map(|entry| entry.as_ref().err())
    }

    /// Gives `alipay_root_cert_sn`: the serial numbers of the entries that an RSA algorithm
    /// signed, joined by `_`; `None` if there is none.
    ///
    /// Protocol: `AntCertificationUtil.getRootCertSN` of the Java SDK: the signature's OID counts,
    /// not the key's.
    #[must_use]
    pub fn alipay_root_cert_sn(&self) -> Option<String> {
        let serials: Vec<_> = self
            .certificates()
            .filter(|certificate| certificate.is_signed_by_rsa())
            .map(Certificate::sn)
            .collect();
        (!serials.is_empty()).then(|| serials.join("_"))
    }

    /// Checks that the first entry is to be believed at a moment (milliseconds since 1970): its
    /// dates hold, and a line of issuers, taken from this bundle, leads up to one of the roots, each
    /// valid and having signed the one below.
    ///
    /// As in the Java SDK a root is believed whatever its dates. Stricter than there, a version 3
    /// issuer must say that it is one, or any merchant could issue platform certificates with the
    /// certificate of its app; and links signed with SHA-1 or MD5 don't hold.
    ///
    /// That the certificate is *Alipay's* isn't proven: the same authority issues those of all
    /// apps. So trust only what Alipay named (its serial) and gave (the download API).
    ///
    /// # Errors
    ///
    /// [`CertificateError::Expired`], [`CertificateError::Untrusted`], or that of
    /// [`first`](Self::first).
    pub fn check_trust(&self, roots: &Self, unix_ms: i64) -> Result<(), CertificateError> {
        chain::check(self, roots, unix_ms)
    }

    /// Gives the one of `roots` that the first entry leads up to, whatever the dates; `None` where
    /// there is none.
    #[must_use]
    pub fn root<'r>(&self, roots: &'r Self) -> Option<&'r Certificate> {
        chain::root(self, roots)
    }
}

/// Gives `app_cert_sn` for the text of a certificate file: that of its first certificate.
///
/// # Errors
///
/// [`CertificateError::Empty`] or [`CertificateError::Unreadable`].
pub fn app_cert_sn(text: &str) -> Result<String, CertificateError> {
    Bundle::parse(text)?.first().map(Certificate::sn)
}

/// Gives `alipay_root_cert_sn` for the text of a root file; `None` if nothing in it counts.
///
/// # Errors
///
/// [`CertificateError::Empty`].
pub fn alipay_root_cert_sn(text: &str) -> Result<Option<String>, CertificateError> {
    Ok(Bundle::parse(text)?.alipay_root_cert_sn())
}

/// Prints a two's complement number in decimal; `None` if it is empty or absurdly long.
fn decimal(bytes: &[u8]) -> Option<String> {
    let is_negative = bytes.first()? & 0x80 != 0;
    if bytes.len() > LONGEST_SERIAL {
        return None;
    }
    if !is_negative {
        return Some(BigUint::from_bytes_be(bytes).to_string());
    }
    let inverted: Vec<_> = bytes.iter().map(|byte| !byte).collect();
    let magnitude = BigUint::from_bytes_be(&inverted) + BigUint::from(1_u8);
    Some(format!("-{magnitude}"))
}

fn authority(parts: &Parts<'_>) -> Authority {
    let Extensions::Listed(extensions) = parts.extensions else {
        return Authority::Unknown;
    };
    match der::authority(extensions) {
        Ok(Some(below)) => Authority::Yes { below },
        Ok(None) | Err(_) => Authority::No,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// RFC 5280 allows 20 bytes; some issuers don't keep to it. Printing takes the square of it.
const LONGEST_SERIAL: usize = 128;
