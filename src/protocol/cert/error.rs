//! What can be wrong with certificates.

use thiserror::Error;

/// Says why a certificate can't be used, or isn't trusted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum CertificateError {
    /// A block whose inside isn't an X.509 certificate.
    #[error(
        "certificate {position} of the file can't be read ({reason}); was the file cut short, or \
         is it another kind of file?"
    )]
    Unreadable {
        /// Which block of the file, counted from 1.
        position: usize,
        /// What was found.
        reason: &'static str,
    },
    /// There is no certificate at all.
    #[error(
        "found no certificate; expected PEM text with `-----BEGIN CERTIFICATE-----`, as Alipay's \
         console gives it"
    )]
    Empty,
    /// Outside of its validity dates.
    #[error(
        "the certificate of `{subject}` isn't valid at this time; check the clock, or renew it"
    )]
    Expired {
        /// Whose certificate.
        subject: String,
    },
    /// Nobody who is trusted has issued it.
    #[error(
        "no trusted certificate has issued the one of `{subject}` (issuer `{issuer}`); check that \
         the root file is Alipay's (alipayRootCert.crt)"
    )]
    Untrusted {
        /// Whose certificate.
        subject: String,
        /// Who is said to have issued it.
        issuer: String,
    },
}

impl CertificateError {
    /// Names the kind of fault in a fixed word for replies, logs and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "certificate-unreadable",
            Self::Empty => "certificate-missing",
            Self::Expired { .. } => "certificate-expired",
            Self::Untrusted { .. } => "certificate-untrusted",
        }
    }
}
