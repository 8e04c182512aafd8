//! The keys of an [`App`], parsed and checked against each other.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::model::app::{App, AppCertificates};
use crate::protocol::cert::{Bundle, Certificate, CertificateError};
use crate::protocol::encryption::{ContentKey, EncryptionError};
use crate::protocol::error::KeyError;
use crate::protocol::key::{AppPrivateKey, RsaPublicKey};

/// The parsed keys of an [`App`]: parsing one costs half a signature, so they are held.
#[derive(Debug, Clone)]
pub struct AppKeys {
    /// Signs our requests.
    pub current: SigningKey,
    /// Signs them once Alipay refuses the former.
    pub next: Option<SigningKey>,
    /// Verify what Alipay sends without naming a certificate; empty in pure certificate mode.
    pub alipay: Vec<RsaPublicKey>,
    /// What certificate mode trusts.
    pub certificates: Option<CertificateTrust>,
    /// Encrypts contents.
    pub content_key: Option<ContentKey>,
}

/// A private key, and the certificate that Alipay knows it by.
#[derive(Debug, Clone)]
pub struct SigningKey {
    /// The key itself.
    pub private: AppPrivateKey,
    /// Its certificate; `None` where Alipay knows the bare public key.
    pub certificate: Option<AppCertificate>,
}

/// What is told of the app's own certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppCertificate {
    /// `app_cert_sn`.
    pub sn: String,
    /// The last moment of its validity, Unix milliseconds, where it can be read.
    pub not_after: Option<i64>,
}

/// Alipay's roots, and the platform certificates that the operator gave.
#[derive(Debug, Clone)]
pub struct CertificateTrust {
    /// `alipay_root_cert_sn`.
    pub alipay_root_cert_sn: String,
    /// What a platform certificate must lead up to.
    pub roots: Bundle,
    /// The configured ones, newest first; never empty.
    pub platform: Vec<PlatformCertificate>,
}

/// A platform certificate (支付宝公钥证书) that is trusted.
#[derive(Debug, Clone)]
pub struct PlatformCertificate {
    /// `alipay_cert_sn`.
    pub sn: String,
    /// The key that it vouches for.
    pub key: RsaPublicKey,
    /// Whose it is, as Java prints names.
    pub subject: String,
    /// The certificate itself, base64 of its DER.
    pub text: String,
    /// The certificate with the chain it came with, PEM.
    pub pem: String,
    /// Whether it was fetched, and not configured.
    pub is_learned: bool,
    /// The last moment of its validity, Unix milliseconds, where it can be read.
    pub not_after: Option<i64>,
}

impl PlatformCertificate {
    /// Reads the first certificate of a bundle.
    ///
    /// # Errors
    /// [`AppKeysError::AlipayCert`] or [`AppKeysError::AlipayCertKey`].
    pub fn first_of(bundle: &Bundle) -> Result<Self, AppKeysError> {
        let first = bundle.first().map_err(AppKeysError::AlipayCert)?;
        Ok(Self {
            sn: first.sn(),
            key: first.public_key().map_err(AppKeysError::AlipayCertKey)?,
            subject: first.subject().to_owned(),
            text: STANDARD.encode(first.der()),
            pem: bundle.to_pem(),
            is_learned: false,
            not_after: first.not_after(),
        })
    }
}

/// When what certificate mode trusts ends, Unix milliseconds, where it can be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TrustEnds {
    /// The platform's certificate, of several the last: the others are on their way out.
    pub(crate) platform: Option<i64>,
    /// The root that it leads up to.
    pub(crate) root: Option<i64>,
}

impl TrustEnds {
    /// Those of `platform` below `roots`.
    pub(crate) fn of(platform: &[PlatformCertificate], roots: &Bundle) -> Self {
        let last = platform.iter().max_by_key(|known| known.not_after);
        let root = last.and_then(|last| {
            let chain = Bundle::parse(&last.pem).ok()?;
            chain.root(roots)?.not_after()
        });
        Self {
            platform: last.and_then(|last| last.not_after),
            root,
        }
    }
}

/// Why an app's keys can't be used, or not together.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AppKeysError {
    /// `alipay_cert` can't be read, or its issuer isn't trusted.
    #[error("alipay_cert: {0}")]
    AlipayCert(#[source] CertificateError),
    /// The certificate of `alipay_cert` holds no usable key.
    #[error("alipay_cert: {0}")]
    AlipayCertKey(#[source] KeyError),
    /// `alipay_public_key` can't be read.
    #[error("alipay_public_key: {0}")]
    AlipayPublicKey(#[source] KeyError),
    /// `app_cert` can't be read.
    #[error("app_cert: {0}")]
    AppCert(#[source] CertificateError),
    /// `app_cert` belongs to another key.
    #[error(
        "app_cert is of another key than private_key; download 应用公钥证书 again for the key that Alipay's console has now"
    )]
    AppCertForeign,
    /// `encrypt_key` can't be read.
    #[error("encrypt_key: {0}")]
    EncryptKey(#[source] EncryptionError),
    /// No platform key is given: nothing could be verified.
    #[error("alipay_public_key is missing; copy 支付宝公钥 from Alipay's console")]
    NoAlipayPublicKey,
    /// The app's own public key stands where Alipay's belongs.
    #[error(
        "{key} is the application's own public key (应用公钥); Alipay's (支付宝公钥) belongs there: copy it from the console"
    )]
    OwnPublicKey {
        /// Where it stands.
        key: &'static str,
    },
    /// `private_key` can't be read.
    #[error("private_key: {0}")]
    PrivateKey(#[source] KeyError),
    /// `private_key_next` can't be read.
    #[error("private_key_next: {0}")]
    PrivateKeyNext(#[source] KeyError),
    /// `alipay_root_cert` can't be read.
    #[error("alipay_root_cert: {0}")]
    RootCert(#[source] CertificateError),
    /// Nothing in `alipay_root_cert` counts.
    #[error(
        "alipay_root_cert holds no certificate that an RSA algorithm signed; is it alipayRootCert.crt?"
    )]
    RootCertForeign,
}

impl AppKeysError {
    /// The configuration key that is at fault.
    #[must_use]
    pub fn key(&self) -> &'static str {
        match self {
            Self::AlipayCert(_) | Self::AlipayCertKey(_) => "alipay_cert",
            Self::AlipayPublicKey(_) | Self::NoAlipayPublicKey => "alipay_public_key",
            Self::AppCert(_) | Self::AppCertForeign => "app_cert",
            Self::EncryptKey(_) => "encrypt_key",
            Self::OwnPublicKey { key } => key,
            Self::PrivateKey(_) => "private_key",
            Self::PrivateKeyNext(_) => "private_key_next",
            Self::RootCert(_) | Self::RootCertForeign => "alipay_root_cert",
        }
    }
}

impl App {
    /// Parses the keys and checks them against each other: the first fault of
    /// [`check_keys`](Self::check_keys).
    ///
    /// # Errors
    /// [`AppKeysError`], which names the key at fault and never shows it.
    pub fn parse_keys(&self) -> Result<AppKeys, AppKeysError> {
        self.check_keys().map_err(|mut faults| faults.remove(0))
    }

    /// Parses the keys and checks them against each other.
    ///
    /// Protocol: signing, keys: the most common of all mistakes is the application's own public
    /// key where the platform's belongs; requests then work, and replies fail.
    ///
    /// # Errors
    /// Every fault, at least one.
    pub fn check_keys(&self) -> Result<AppKeys, Vec<AppKeysError>> {
        let mut faults = Faults::default();
        let current = AppPrivateKey::from_text(self.private_key.expose());
        let current = faults.keep(current.map_err(AppKeysError::PrivateKey));
        let next = self.private_key_next.as_ref();
        let next = next.map(|text| AppPrivateKey::from_text(text.expose()));
        let next = next.and_then(|key| faults.keep(key.map_err(AppKeysError::PrivateKeyNext)));
        let own: Vec<_> = current.iter().chain(&next).collect();
        let alipay = self.alipay_keys(&own, &mut faults);
        let files = self.certificates.as_ref();
        let trust = files.and_then(|files| faults.keep(trust(files, &own)));
        let certificates =
            files.map_or_else(Vec::new, |files| own_certificates(files, &mut faults));
        let content_key = self.encrypt_key.as_ref();
        let content_key = content_key
            .map(|text| ContentKey::from_base64(text.expose()))
            .and_then(|key| faults.keep(key.map_err(AppKeysError::EncryptKey)));
        let in_force = current.map(|private| SigningKey::new(private, &certificates));
        let next = next.map(|private| SigningKey::new(private, &certificates));
        if let Some(in_force) = in_force.as_ref().filter(|_| files.is_some())
            && !is_certified(in_force, next.as_ref(), !alipay.is_empty())
            && !faults.concern("app_cert")
        {
            faults.0.push(AppKeysError::AppCertForeign);
        }
        match in_force {
            Some(current) if faults.0.is_empty() => Ok(AppKeys {
                current,
                next,
                alipay,
                certificates: trust,
                content_key,
            }),
            _ => Err(faults.0),
        }
    }

    fn alipay_keys(&self, own: &[&AppPrivateKey], faults: &mut Faults) -> Vec<RsaPublicKey> {
        if self.alipay_public_keys.is_empty() && self.certificates.is_none() {
            faults.0.push(AppKeysError::NoAlipayPublicKey);
        }
        let mut keys = Vec::new();
        for text in &self.alipay_public_keys {
            let key = RsaPublicKey::from_text(text).map_err(AppKeysError::AlipayPublicKey);
            let key = key.and_then(|key| foreign("alipay_public_key", key, own));
            keys.extend(faults.keep(key));
        }
        keys
    }
}

impl SigningKey {
    /// The key with that of the certificates which is of it.
    fn new(private: AppPrivateKey, certificates: &[Certificate]) -> Self {
        let is_of_it = |certificate: &&Certificate| {
            let key = certificate.public_key();
            key.is_ok_and(|key| key == *private.public_key())
        };
        let certificate = certificates.iter().find(is_of_it);
        let certificate = certificate.map(|certificate| AppCertificate {
            sn: certificate.sn(),
            not_after: certificate.not_after(),
        });
        Self {
            private,
            certificate,
        }
    }
}

/// Whether Alipay knows the app by a certificate, now or once it moves to the next key. A key
/// without one serves only as long as bare platform keys are there to verify with.
fn is_certified(in_force: &SigningKey, next: Option<&SigningKey>, has_bare_keys: bool) -> bool {
    let named = |key: &SigningKey| key.certificate.is_some();
    named(in_force) || (has_bare_keys && next.is_some_and(named))
}

/// What was found wrong so far.
#[derive(Default)]
struct Faults(Vec<AppKeysError>);

impl Faults {
    fn keep<T>(&mut self, result: Result<T, AppKeysError>) -> Option<T> {
        result.map_err(|fault| self.0.push(fault)).ok()
    }

    fn concern(&self, key: &str) -> bool {
        self.0.iter().any(|fault| fault.key() == key)
    }
}

/// The app's own certificates, one of each text.
fn own_certificates(files: &AppCertificates, faults: &mut Faults) -> Vec<Certificate> {
    let first = |text: &String| Bundle::parse(text)?.first().cloned();
    let read = |text| first(text).map_err(AppKeysError::AppCert);
    files
        .app
        .iter()
        .filter_map(|text| faults.keep(read(text)))
        .collect()
}

/// The roots, and the platform certificates that lead up to them.
///
/// Protocol: 公钥证书方式. What an operator configured is believed by its issuer whatever the clock
/// says: an expired certificate is worth a warning, and Alipay renews its own in time.
fn trust(
    files: &AppCertificates,
    own: &[&AppPrivateKey],
) -> Result<CertificateTrust, AppKeysError> {
    let roots = Bundle::parse(&files.roots).map_err(AppKeysError::RootCert)?;
    let platform = files.alipay.iter().map(|text| {
        let bundle = Bundle::parse(text).map_err(AppKeysError::AlipayCert)?;
        let issued_at = bundle.first().ok().and_then(Certificate::not_before);
        bundle
            .check_trust(&roots, issued_at.unwrap_or_default())
            .map_err(AppKeysError::AlipayCert)?;
        let certificate = PlatformCertificate::first_of(&bundle)?;
        foreign("alipay_cert", certificate.key.clone(), own)?;
        Ok(certificate)
    });
    let platform = platform.collect::<Result<Vec<_>, _>>()?;
    if platform.is_empty() {
        return Err(AppKeysError::AlipayCert(CertificateError::Empty));
    }
    Ok(CertificateTrust {
        alipay_root_cert_sn: roots
            .alipay_root_cert_sn()
            .ok_or(AppKeysError::RootCertForeign)?,
        platform,
        roots,
    })
}

/// The key, unless it is one of the app's own.
fn foreign(
    name: &'static str,
    key: RsaPublicKey,
    own: &[&AppPrivateKey],
) -> Result<RsaPublicKey, AppKeysError> {
    match own.iter().any(|private| *private.public_key() == key) {
        true => Err(AppKeysError::OwnPublicKey { key: name }),
        false => Ok(key),
    }
}
