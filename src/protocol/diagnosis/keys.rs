//! The keys at hand, and the texts they are read from.

use super::cause::{Cause, KeyCause, labelled, numbered};
use crate::protocol::{
    cert::Bundle,
    error::KeyError,
    key::{AppPrivateKey, KeyForm, RsaPublicKey},
    signature::SignType,
};

/// Holds the keys that a diagnosis may use: those given as Alipay's, and the app's own public
/// keys, which tell the most common of all mistakes. `Debug` shows fingerprints alone.
#[derive(Clone, Debug)]
pub struct Keys {
    pub(super) alipay: Vec<PlatformKey>,
    pub(super) own: Vec<RsaPublicKey>,
    pub(super) sign_type: SignType,
}

/// A key given as Alipay's, and the certificate it came from.
#[derive(Clone, Debug)]
pub(super) struct PlatformKey {
    pub(super) key: RsaPublicKey,
    pub(super) certificate: Option<CertificateFacts>,
}

/// What a certificate says about itself that may explain a failure.
#[derive(Clone, Debug)]
pub(super) struct CertificateFacts {
    pub(super) sn: String,
    pub(super) is_root: bool,
}

impl Keys {
    /// Takes the keys given as Alipay's (支付宝公钥) and the app's own public ones (应用公钥), for an
    /// app of `sign_type=RSA2`.
    #[must_use]
    pub fn new(alipay: &[RsaPublicKey], own: &[RsaPublicKey]) -> Self {
        let plain = |key: &RsaPublicKey| PlatformKey {
            key: key.clone(),
            certificate: None,
        };
        Self {
            alipay: alipay.iter().map(plain).collect(),
            own: own.to_vec(),
            sign_type: SignType::Rsa2,
        }
    }

    /// Says how the app is configured to sign.
    #[must_use]
    pub fn with_sign_type(self, sign_type: SignType) -> Self {
        Self { sign_type, ..self }
    }

    /// Adds a key given as Alipay's by the text that a user has: a public key in any form, or
    /// Alipay's certificate.
    ///
    /// # Errors
    ///
    /// The [`Cause`] why it is none: a private key, or an unreadable text, with what was found.
    pub fn with_alipay_text(mut self, text: &str) -> Result<Self, Cause> {
        self.alipay
            .push(public_key(text, KeyCause::PrivateKeyGiven)?);
        Ok(self)
    }

    /// Adds a public key of the app's own, in any form or as the app's certificate.
    ///
    /// # Errors
    ///
    /// As [`with_alipay_text`](Self::with_alipay_text).
    pub fn with_own_text(mut self, text: &str) -> Result<Self, Cause> {
        let given = public_key(text, KeyCause::OwnPrivateKeyGiven)?;
        self.own.push(given.key);
        Ok(self)
    }

    /// Gives the public keys given as Alipay's.
    pub(super) fn platform(&self) -> Vec<RsaPublicKey> {
        self.alipay.iter().map(|given| given.key.clone()).collect()
    }

    /// Says so if everything given as Alipay's is the app's own.
    pub(super) fn own_in_place(&self) -> Option<Cause> {
        let is_own = |given: &PlatformKey| self.own.contains(&given.key);
        let all_own = !self.alipay.is_empty() && self.alipay.iter().all(is_own);
        all_own.then(|| match self.certificate() {
            Some(_) => KeyCause::OwnCertificate.into(),
            None => KeyCause::OwnPublicKey.into(),
        })
    }

    /// Says what it means that the app's own key made a signature that should be Alipay's.
    pub(super) fn if_own_signed(&self) -> Cause {
        self.own_in_place()
            .unwrap_or_else(|| KeyCause::SignedByOwnKey.into())
    }

    fn certificate(&self) -> Option<&CertificateFacts> {
        self.alipay.iter().find_map(|key| key.certificate.as_ref())
    }

    /// Says why no key given as Alipay's made a signature; `serial` is the certificate that the
    /// message names.
    pub(super) fn why_none_fits(&self, serial: Option<&str>) -> Cause {
        if self.alipay.is_empty() {
            let expected = "Alipay's public key (支付宝公钥)";
            return KeyCause::Missing { expected }.into();
        }
        if let Some(cause) = self.own_in_place() {
            return cause;
        }
        let certificate = self.certificate();
        match (certificate, serial) {
            (Some(facts), _) if facts.is_root => KeyCause::RootCertificate.into(),
            (Some(facts), Some(serial)) if !self.has_serial(serial) => {
                KeyCause::CertificateSerial {
                    named: numbered(serial),
                    given: facts.sn.clone(),
                }
                .into()
            }
            (Some(facts), _) => KeyCause::WrongCertificate {
                sn: facts.sn.clone(),
            }
            .into(),
            (None, _) => KeyCause::WrongKey {
                keys: self.alipay.len(),
            }
            .into(),
        }
    }

    fn has_serial(&self, serial: &str) -> bool {
        let mut facts = self
            .alipay
            .iter()
            .filter_map(|key| key.certificate.as_ref());
        facts.any(|facts| facts.sn == serial)
    }
}

/// Reads the app's private key, and says what stands there if it is none.
///
/// # Errors
///
/// The [`Cause`]: a public key, a certificate, or an unreadable text, with what was found.
pub fn private_key(text: &str) -> Result<AppPrivateKey, Cause> {
    AppPrivateKey::from_text(text).map_err(|error| match &error {
        KeyError::WrongKind { found, .. } if *found == "a public key" => {
            KeyCause::PublicKeyGiven.into()
        }
        KeyError::WrongKind { found, .. } if *found == "a certificate" => {
            KeyCause::CertificateGiven.into()
        }
        _ => KeyCause::Unreadable(error).into(),
    })
}

/// Says whether a key's PEM label names another format than the key has (PKCS#1 and PKCS#8 mixed
/// up): read here, refused by SDKs.
#[must_use]
pub fn label_mix_up(text: &str) -> Option<Cause> {
    let form = KeyForm::of(text)?;
    let label = form.wrong_label()?;
    Some(
        KeyCause::Label {
            found: form.describe(),
            label: labelled(label),
        }
        .into(),
    )
}

/// Reads a public key or a certificate; `if_private` is the cause where it is a private key.
fn public_key(text: &str, if_private: KeyCause) -> Result<PlatformKey, Cause> {
    if let Some(given) = certificate_key(text) {
        return given;
    }
    match RsaPublicKey::from_text(text) {
        Ok(key) => Ok(PlatformKey {
            key,
            certificate: None,
        }),
        Err(KeyError::WrongKind {
            found: "a private key",
            ..
        }) => Err(if_private.into()),
        Err(error) => Err(KeyCause::Unreadable(error).into()),
    }
}

/// Takes the key out of a certificate; `None` if the text holds none.
fn certificate_key(text: &str) -> Option<Result<PlatformKey, Cause>> {
    let bundle = Bundle::parse(text).ok()?;
    let first = bundle.first().ok()?;
    let facts = CertificateFacts {
        sn: first.sn(),
        is_root: first.issuer() == first.subject(),
    };
    let key = first.public_key().map(|key| PlatformKey {
        key,
        certificate: Some(facts),
    });
    Some(key.map_err(|error| KeyCause::Unreadable(error).into()))
}
