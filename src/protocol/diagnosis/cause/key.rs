//! The keys.

use thiserror::Error;

use crate::protocol::error::KeyError;

/// Names what is wrong with a key.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyCause {
    /// The app's own public key stands where Alipay's belongs.
    #[error(
        "the key given as Alipay's is the app's own public key (应用公钥); put 支付宝公钥 there, \
         which the console shows where 应用公钥 was set"
    )]
    OwnPublicKey,
    /// The message was signed with the app's own private key.
    #[error(
        "the app's own private key made this signature, not Alipay: it is a copy of one of our \
         own, a test's, or a forgery by someone who holds that key"
    )]
    SignedByOwnKey,
    /// A request that holds under the key given as Alipay's.
    #[error(
        "the request holds under the key given as Alipay's: the two keys are swapped; a request \
         is signed by the app and verified with 应用公钥"
    )]
    KeysSwapped,
    /// Alipay's key isn't the one that signed.
    #[error(
        "none of the {keys} keys given as Alipay's belongs to this signature: it is 支付宝公钥 of \
         another app or of the sandbox, or an old one, or the signature itself was changed; copy \
         支付宝公钥 of this very app and environment from the console"
    )]
    WrongKey {
        /// How many were tried.
        keys: usize,
    },
    /// The app's key isn't the one that signed a request.
    #[error(
        "the request wasn't signed with the private key of any of the {keys} keys given as the \
         app's: sign with the key whose public half (应用公钥) was uploaded for this app"
    )]
    WrongPrivateKey {
        /// How many were tried.
        keys: usize,
    },
    /// No key to verify with was given.
    #[error("no key was given to verify with; give {expected}")]
    Missing {
        /// Which one belongs here.
        expected: &'static str,
    },
    /// A text that isn't the key it should be.
    #[error("the key can't be used: {0}")]
    Unreadable(KeyError),
    /// A private key stands where a public one belongs.
    #[error(
        "a private key stands where Alipay's public key belongs; put 支付宝公钥 there, and keep \
         the private key out of where public ones are"
    )]
    PrivateKeyGiven,
    /// A private key stands where the app's public one belongs.
    #[error(
        "a private key stands where the app's public key (应用公钥) belongs; give 应用公钥, or this \
         file as --private-key"
    )]
    OwnPrivateKeyGiven,
    /// A public key stands where the private one belongs.
    #[error(
        "a public key stands where the app's private key (应用私钥) belongs; it is the other file \
         that the key tool wrote"
    )]
    PublicKeyGiven,
    /// A certificate stands where the private key belongs.
    #[error(
        "a certificate stands where the app's private key (应用私钥) belongs; the key is the .key \
         or .txt file that was made together with the certificate request"
    )]
    CertificateGiven,
    /// A key whose label says another format than its content has.
    #[error(
        "the key is {found} under the label `{label}`: this program reads it, an SDK that trusts \
         the label doesn't; for Java give PKCS#8, for other languages PKCS#1"
    )]
    Label {
        /// The format that was found.
        found: &'static str,
        /// The PEM label.
        label: String,
    },
    /// The app's own certificate stands where Alipay's belongs.
    #[error(
        "the certificate given as Alipay's is the app's own (appCertPublicKey_….crt); give \
         alipayCertPublicKey_RSA2.crt"
    )]
    OwnCertificate,
    /// A root certificate stands where Alipay's belongs.
    #[error(
        "the certificate given as Alipay's is a root (alipayRootCert.crt); give \
         alipayCertPublicKey_RSA2.crt"
    )]
    RootCertificate,
    /// The certificate isn't the one that signed.
    #[error(
        "the key of the certificate given as Alipay's (serial {sn}) didn't make this signature; \
         give alipayCertPublicKey_RSA2.crt of this very app, not a merchant's"
    )]
    WrongCertificate {
        /// The serial number of the one that was given.
        sn: String,
    },
    /// The message names another platform certificate than the one given.
    #[error(
        "the message was signed with the platform certificate {named}, but {given} was given: \
         Alipay has changed its certificate; download the new one"
    )]
    CertificateSerial {
        /// The serial number in the message.
        named: String,
        /// The serial number of the one that was given.
        given: String,
    },
}

impl KeyCause {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::OwnPublicKey => "own-public-key",
            Self::SignedByOwnKey => "signed-by-own-key",
            Self::KeysSwapped => "keys-swapped",
            Self::WrongKey { .. } => "wrong-key",
            Self::WrongPrivateKey { .. } => "wrong-private-key",
            Self::Missing { .. } => "key-missing",
            Self::Unreadable(_) => "key-unreadable",
            Self::PrivateKeyGiven => "private-key-given",
            Self::OwnPrivateKeyGiven => "own-private-key-given",
            Self::PublicKeyGiven => "public-key-given",
            Self::CertificateGiven => "certificate-given",
            Self::Label { .. } => "key-label",
            Self::OwnCertificate => "own-certificate",
            Self::RootCertificate => "root-certificate",
            Self::WrongCertificate { .. } => "wrong-certificate",
            Self::CertificateSerial { .. } => "certificate-serial",
        }
    }
}
