//! The simulated platform's certificates: who issues them, which are in force, which there were.
//!
//! Protocol: 公钥证书签名 (public-key-certificate mode).
mod authority;

use std::{collections::BTreeMap, sync::Arc};

use rsa::{RsaPrivateKey, RsaPublicKey};
use serde::Serialize;

use self::authority::{Authority, Validity};
use super::error::SimulatorError;

/// The three files that a developer downloads from Alipay's console, as PEM texts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CertificateFiles {
    /// `appCertPublicKey_<app_id>.crt`: the certificate of the app's current public key.
    pub app_cert: String,
    /// `alipayCertPublicKey_RSA2.crt`: the platform's certificate in force, then its issuer's.
    pub alipay_cert: String,
    /// `alipayRootCert.crt`: an elliptic-curve root, which no serial number counts, and two of RSA.
    pub alipay_root_cert: String,
}

/// A certificate that the platform can sign with in certificate mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlatformCertificate {
    /// The good one that is newest.
    Current,
    /// One that ended long ago.
    Expired,
    /// One of another authority whose names are the same.
    Foreign,
    /// One that begins far in the future.
    NotYetValid,
    /// One that the same authority issued to somebody else.
    Others,
}

impl PlatformCertificate {
    /// Every certificate with the name the control route asks for it by.
    pub const ALL: [(&'static str, Self); 5] = [
        ("current", Self::Current),
        ("expired", Self::Expired),
        ("foreign", Self::Foreign),
        ("not-yet-valid", Self::NotYetValid),
        ("others", Self::Others),
    ];

    /// Finds a certificate by its name.
    ///
    /// # Errors
    /// [`SimulatorError::OptionInvalid`].
    pub fn from_name(name: &str) -> Result<Self, SimulatorError> {
        Self::ALL
            .into_iter()
            .find(|(other, _)| *other == name)
            .map(|(_, certificate)| certificate)
            .ok_or_else(|| SimulatorError::OptionInvalid {
                option: "certificate",
                found: name.to_owned(),
                expected: "current, expired, foreign, not-yet-valid or others",
            })
    }
}

/// A certificate with its serial number, `app_cert_sn` or `alipay_cert_sn`.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) sn: String,
    pub(super) pem: String,
}

/// A certificate of the platform, with the key it is about.
#[derive(Clone)]
pub(super) struct Sealing {
    pub(super) certificate: Certificate,
    /// The certificate, then its issuer's.
    pub(super) chain: String,
    pub(super) key: Arc<RsaPrivateKey>,
}

/// Every certificate the platform has issued, to apps and to itself.
pub(super) struct Certificates {
    authority: Authority,
    /// Made when a foreign certificate is first asked for.
    foreign: Option<Authority>,
    /// Of each app and key of it: a certificate that was issued stays the same.
    apps: Vec<(String, RsaPublicKey, Certificate)>,
    /// The platform's own by serial number, those of the past included.
    downloads: BTreeMap<String, String>,
    current: Sealing,
    in_force: Sealing,
}

impl Certificates {
    /// Founds the authority and issues the platform's first certificate.
    pub(super) fn new() -> Result<Self, SimulatorError> {
        let authority = Authority::new()?;
        let current = authority.issue_platform(Validity::Now)?;
        let mut certificates = Self {
            authority,
            foreign: None,
            apps: Vec::new(),
            downloads: BTreeMap::new(),
            current: current.clone(),
            in_force: current.clone(),
        };
        certificates.put_in_force(current);
        Ok(certificates)
    }

    /// Gives the certificate of an app's key, a new one when it has none yet.
    pub(super) fn of_app(
        &mut self,
        app_id: &str,
        key: &RsaPublicKey,
    ) -> Result<Certificate, SimulatorError> {
        let mut issued = self.apps.iter();
        if let Some((.., certificate)) = issued.find(|(app, of, _)| app == app_id && of == key) {
            return Ok(certificate.clone());
        }
        let certificate = self.authority.issue_app(app_id, key)?;
        let entry = (app_id.to_owned(), key.clone(), certificate.clone());
        self.apps.push(entry);
        Ok(certificate)
    }

    /// Gives what the platform signs with now.
    pub(super) fn in_force(&self) -> &Sealing {
        &self.in_force
    }

    /// Puts a new key and certificate in force.
    pub(super) fn rotate(&mut self) -> Result<(), SimulatorError> {
        self.current = self.authority.issue_platform(Validity::Now)?;
        self.put_in_force(self.current.clone());
        Ok(())
    }

    /// Puts a good or a bad certificate in force.
    pub(super) fn use_platform(
        &mut self,
        which: PlatformCertificate,
    ) -> Result<(), SimulatorError> {
        let sealing = match which {
            PlatformCertificate::Current => self.current.clone(),
            PlatformCertificate::Expired => self.authority.issue_platform(Validity::Past)?,
            PlatformCertificate::Foreign => self.foreign()?.issue_platform(Validity::Now)?,
            PlatformCertificate::NotYetValid => self.authority.issue_platform(Validity::Future)?,
            PlatformCertificate::Others => self.authority.issue_others()?,
        };
        self.put_in_force(sealing);
        Ok(())
    }

    fn foreign(&mut self) -> Result<&Authority, SimulatorError> {
        let foreign = match self.foreign.take() {
            Some(foreign) => foreign,
            None => Authority::new()?,
        };
        Ok(self.foreign.insert(foreign))
    }

    fn put_in_force(&mut self, sealing: Sealing) {
        let sn = sealing.certificate.sn.clone();
        self.downloads.insert(sn, sealing.chain.clone());
        self.in_force = sealing;
    }

    /// Gives a platform certificate and its chain as PEM text.
    pub(super) fn download(&self, alipay_cert_sn: &str) -> Option<&str> {
        self.downloads.get(alipay_cert_sn).map(String::as_str)
    }

    /// Gives the value that `alipay_root_cert_sn` must have.
    pub(super) fn root_sn(&self) -> &str {
        self.authority.root_sn()
    }

    /// Gives the three files of an app.
    pub(super) fn files(
        &mut self,
        app_id: &str,
        key: &RsaPublicKey,
    ) -> Result<CertificateFiles, SimulatorError> {
        Ok(CertificateFiles {
            app_cert: self.of_app(app_id, key)?.pem,
            alipay_cert: self.in_force.chain.clone(),
            alipay_root_cert: self.authority.roots().to_owned(),
        })
    }
}
