//! The keys of an [`App`], parsed and checked against each other.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::model::app::{App, AppCertificates, PrivateKey};
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

/// A key that signs, and the certificate that Alipay knows it by.
#[derive(Debug, Clone)]
pub struct SigningKey {
    /// The private half; `None` where a KMS or an HSM keeps it.
    pub private: Option<AppPrivateKey>,
    /// The public half (应用公钥).
    pub public: RsaPublicKey,
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
    /// Of a key that is kept elsewhere the public half isn't known.
    #[error(
        "{key} is kept elsewhere, and neither its public half nor a certificate of it is given"
    )]
    NoPublicHalf {
        /// Which.
        key: &'static str,
    },
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
    /// The public half of a private key that is kept elsewhere can't be read.
    #[error("the public half of {key}: {source}")]
    PublicHalf {
        /// Which.
        key: &'static str,
        /// Why.
        source: KeyError,
    },
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
            Self::NoPublicHalf { key }
            | Self::OwnPublicKey { key }
            | Self::PublicHalf { key, .. } => key,
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

    /// The public half (应用公钥) of the key in force, where that can be read, whatever the other keys are.
    #[must_use]
    pub fn public_key(&self) -> Option<RsaPublicKey> {
        self.public_keys().0
    }

    /// The same, and that of the next key.
    pub(crate) fn public_keys(&self) -> (Option<RsaPublicKey>, Option<RsaPublicKey>) {
        let files = self.certificates.as_ref();
        let (certificates, _) = files.map_or_else(Default::default, own_certificates);
        let (current, next) = self.halves(&certificates, &mut Faults::default());
        (current.map(|key| key.public), next.map(|key| key.public))
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
        let files = self.certificates.as_ref();
        let (certificates, unread) = files.map_or_else(Default::default, own_certificates);
        let (current, next) = self.halves(&certificates, &mut faults);
        let own: Vec<_> = current.iter().chain(&next).map(|key| &key.public).collect();
        let alipay = self.alipay_keys(&own, &mut faults);
        let trust = files.and_then(|files| faults.keep(trust(files, &own)));
        if !unread.is_empty() {
            // One that can't be read may be the one that is missed.
            let is_missed =
                |fault: &AppKeysError| matches!(fault, AppKeysError::NoPublicHalf { .. });
            faults.0.retain(|fault| !is_missed(fault));
        }
        faults.0.extend(unread);
        let content_key = self.encrypt_key.as_ref();
        let content_key = content_key
            .map(|text| ContentKey::from_base64(text.expose()))
            .and_then(|key| faults.keep(key.map_err(AppKeysError::EncryptKey)));
        let in_force = current.map(|key| SigningKey::new(key, &certificates));
        let next = next.map(|key| SigningKey::new(key, &certificates));
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

    /// The key in force, and the next.
    fn halves(
        &self,
        certificates: &[Certificate],
        faults: &mut Faults,
    ) -> (Option<Halves>, Option<Halves>) {
        let next = self.private_key_next.as_ref();
        let (name, name_next) = ("private_key", "private_key_next");
        let told = next.map(|key| Halves::read(key, name_next, AppKeysError::PrivateKeyNext));
        let of_next = match &told {
            Some(Ok(Some(next))) => Some(next.public.clone()),
            _ => None,
        };
        // Whichever of the two tells its public half leaves the certificates to the other.
        let certified = |key, told: Result<Option<Halves>, _>, other: Option<&RsaPublicKey>| {
            told?.map_or_else(|| Halves::certified(key, certificates, other), Ok)
        };
        let current = Halves::read(&self.private_key, name, AppKeysError::PrivateKey);
        let current = faults.keep(certified(name, current, of_next.as_ref()));
        let of_current = current.as_ref().map(|current| &current.public);
        let next = told.map(|told| certified(name_next, told, of_current));
        let next = next.and_then(|next| faults.keep(next));
        (current, next)
    }

    fn alipay_keys(&self, own: &[&RsaPublicKey], faults: &mut Faults) -> Vec<RsaPublicKey> {
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

/// A key, as far as it is known here.
struct Halves {
    private: Option<AppPrivateKey>,
    public: RsaPublicKey,
}

impl Halves {
    /// `None`: its certificate has to tell.
    fn read(
        key: &PrivateKey,
        name: &'static str,
        fault: fn(KeyError) -> AppKeysError,
    ) -> Result<Option<Self>, AppKeysError> {
        Ok(match key {
            PrivateKey::Elsewhere(None) => None,
            PrivateKey::Elsewhere(Some(text)) => Some(Self {
                private: None,
                public: RsaPublicKey::from_text(text)
                    .map_err(|source| AppKeysError::PublicHalf { key: name, source })?,
            }),
            PrivateKey::Text(text) => {
                let private = AppPrivateKey::from_text(text.expose()).map_err(fault)?;
                Some(Self {
                    public: private.public_key().clone(),
                    private: Some(private),
                })
            }
        })
    }

    /// That of the first certificate which is of no `other` key.
    fn certified(
        key: &'static str,
        certificates: &[Certificate],
        other: Option<&RsaPublicKey>,
    ) -> Result<Self, AppKeysError> {
        let keys = certificates.iter().map(Certificate::public_key);
        let public = keys.flatten().find(|key| Some(key) != other);
        Ok(Self {
            private: None,
            public: public.ok_or(AppKeysError::NoPublicHalf { key })?,
        })
    }
}

impl SigningKey {
    /// The key with that of the certificates which is of it.
    fn new(Halves { private, public }: Halves, certificates: &[Certificate]) -> Self {
        let is_of_it = |certificate: &&Certificate| {
            let key = certificate.public_key();
            key.is_ok_and(|key| key == public)
        };
        let certificate = certificates.iter().find(is_of_it);
        let certificate = certificate.map(|certificate| AppCertificate {
            sn: certificate.sn(),
            not_after: certificate.not_after(),
        });
        Self {
            private,
            certificate,
            public,
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

/// The app's own certificates, one of each text, and what is wrong with the others.
fn own_certificates(files: &AppCertificates) -> (Vec<Certificate>, Vec<AppKeysError>) {
    let first = |text: &String| Bundle::parse(text)?.first().cloned();
    let mut faults = Faults::default();
    let read = |text| faults.keep(first(text).map_err(AppKeysError::AppCert));
    let certificates = files.app.iter().filter_map(read).collect();
    (certificates, faults.0)
}

/// The roots, and the platform certificates that lead up to them.
///
/// Protocol: 公钥证书方式. What an operator configured is believed by its issuer whatever the clock
/// says: an expired certificate is worth a warning, and Alipay renews its own in time.
fn trust(files: &AppCertificates, own: &[&RsaPublicKey]) -> Result<CertificateTrust, AppKeysError> {
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
    own: &[&RsaPublicKey],
) -> Result<RsaPublicKey, AppKeysError> {
    match own.iter().any(|own| **own == key) {
        true => Err(AppKeysError::OwnPublicKey { key: name }),
        false => Ok(key),
    }
}
