//! A certificate authority like Alipay's: roots, one intermediate, leaves.
use std::sync::Arc;

use md5::{Digest as _, Md5};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, DnValue, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, PublicKeyData, RsaKeySize,
    SerialNumber, SignatureAlgorithm, date_time_ymd,
};
use rsa::{
    RsaPrivateKey, RsaPublicKey,
    pkcs1::EncodeRsaPublicKey as _,
    pkcs8::DecodePrivateKey as _,
    rand_core::{OsRng, RngCore as _},
};
use time::OffsetDateTime;

use super::{super::error::SimulatorError, Certificate, Sealing};

const ORGANIZATION: &str = "Alipay Simulator";
const UNIT: &str = "Certification Authority";
const INTERMEDIATE: &str = "Alipay Simulator Certification Authority Class 2 R1";

/// When a certificate is valid. Absolute dates, so that a test's own clock changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Validity {
    /// 2098 to 2099, which is written as GeneralizedTime.
    Future,
    /// 2000 to 2049.
    Now,
    /// 2001 to 2002.
    Past,
}

impl Validity {
    fn dates(self) -> (OffsetDateTime, OffsetDateTime) {
        let (from, to) = match self {
            Self::Future => (2098, 2099),
            Self::Now => (2000, 2049),
            Self::Past => (2001, 2002),
        };
        (date_time_ymd(from, 1, 1), date_time_ymd(to, 1, 1))
    }
}

/// Roots and an intermediate that issues the leaves.
pub(super) struct Authority {
    intermediate: CertifiedIssuer<'static, KeyPair>,
    roots: String,
    root_sn: String,
}

impl Authority {
    pub(super) fn new() -> Result<Self, SimulatorError> {
        Self::found().map_err(failed)
    }

    fn found() -> Result<Self, rcgen::Error> {
        let elliptic = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let (elliptic, _) = root("Alipay Simulator Root Authority E1", elliptic)?;
        let (second, second_sn) = root("Alipay Simulator Root Authority R2", rsa_key()?)?;
        let (first, first_sn) = root("Alipay Simulator Root Authority R1", rsa_key()?)?;
        let mut params = params(INTERMEDIATE, &Serial::new(), Validity::Now);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self {
            intermediate: CertifiedIssuer::signed_by(params, rsa_key()?, &first)?,
            roots: [elliptic.pem(), first.pem(), second.pem()].concat(),
            root_sn: format!("{first_sn}_{second_sn}"),
        })
    }

    /// Gives all roots as one PEM text.
    pub(super) fn roots(&self) -> &str {
        &self.roots
    }

    /// Gives the serial numbers of the RSA roots in the order of the file.
    pub(super) fn root_sn(&self) -> &str {
        &self.root_sn
    }

    /// Issues the certificate of an app's public key.
    pub(super) fn issue_app(
        &self,
        app_id: &str,
        key: &RsaPublicKey,
    ) -> Result<Certificate, SimulatorError> {
        let key = key.to_pkcs1_der().map_err(|_| SimulatorError::Key {
            what: "the app's public key",
        })?;
        let subject = (app_id, ORGANIZATION);
        self.issue(subject, &SubjectKey(key.into_vec()), Validity::Now)
            .map_err(failed)
    }

    /// Makes a key for the platform and issues its certificate.
    pub(super) fn issue_platform(&self, validity: Validity) -> Result<Sealing, SimulatorError> {
        self.issue_sealing(ORGANIZATION, validity)
    }

    /// The same for somebody else, who has it from the same authority.
    pub(super) fn issue_others(&self) -> Result<Sealing, SimulatorError> {
        self.issue_sealing("Somebody Else", Validity::Now)
    }

    fn issue_sealing(
        &self,
        organization: &str,
        validity: Validity,
    ) -> Result<Sealing, SimulatorError> {
        let pair = rsa_key().map_err(failed)?;
        let key = RsaPrivateKey::from_pkcs8_der(pair.serialized_der())
            .map_err(|_| SimulatorError::Key { what: "a new key" })?;
        let certificate = self
            .issue(
                ("支付宝(中国)网络技术有限公司", organization),
                &pair,
                validity,
            )
            .map_err(failed)?;
        Ok(Sealing {
            chain: [certificate.pem.as_str(), &self.intermediate.pem()].concat(),
            certificate,
            key: Arc::new(key),
        })
    }

    fn issue(
        &self,
        (common_name, organization): (&str, &str),
        key: &impl PublicKeyData,
        validity: Validity,
    ) -> Result<Certificate, rcgen::Error> {
        let serial = Serial::new();
        let mut params = params(common_name, &serial, validity);
        // In the place of the one that is there.
        let name = &mut params.distinguished_name;
        name.push(DnType::OrganizationName, organization);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        Ok(Certificate {
            sn: serial.sn(INTERMEDIATE),
            pem: params.signed_by(key, &self.intermediate)?.pem(),
        })
    }
}

/// Makes a root, and says its serial number.
fn root(
    common_name: &str,
    key: KeyPair,
) -> Result<(CertifiedIssuer<'static, KeyPair>, String), rcgen::Error> {
    let serial = Serial::new();
    let mut params = params(common_name, &serial, Validity::Now);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok((
        CertifiedIssuer::self_signed(params, key)?,
        serial.sn(common_name),
    ))
}

/// Makes an RSA key of 2048 bits.
fn rsa_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)
}

fn params(common_name: &str, serial: &Serial, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    (params.not_before, params.not_after) = validity.dates();
    params.serial_number = Some(SerialNumber::from_slice(&serial.0));
    params.distinguished_name = name(common_name);
    params
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    let country = "CN"
        .try_into()
        .map_or_else(|_| DnValue::from("CN"), DnValue::PrintableString);
    name.push(DnType::CountryName, country);
    name.push(DnType::OrganizationName, ORGANIZATION);
    name.push(DnType::OrganizationalUnitName, UNIT);
    name.push(DnType::CommonName, common_name);
    name
}

/// A certificate's serial number as X.509 has it: 16 bytes, positive, the first not zero.
struct Serial([u8; 16]);

impl Serial {
    fn new() -> Self {
        let mut bytes = [0; 16];
        OsRng.fill_bytes(&mut bytes);
        let [first, ..] = &mut bytes;
        *first = *first & 0x3f | 0x40;
        Self(bytes)
    }

    /// Writes Alipay's serial number: the MD5 of the issuer's name (RFC 2253: in reverse order)
    /// and of this number in decimal.
    fn sn(&self, issuer: &str) -> String {
        let number = u128::from_be_bytes(self.0);
        let text = format!("CN={issuer},OU={UNIT},O={ORGANIZATION},C=CN{number}");
        let digest = Md5::digest(text);
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A public key to be certified, as PKCS#1.
struct SubjectKey(Vec<u8>);

impl PublicKeyData for SubjectKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_RSA_SHA256
    }
}

fn failed(error: rcgen::Error) -> SimulatorError {
    SimulatorError::Certificate(Box::new(error))
}
