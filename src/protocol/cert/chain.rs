//! The way from a certificate up to a trusted root.

use super::{Authority, Bundle, Certificate, CertificateError};
use crate::protocol::crypto::aws_lc;

/// Checks the first certificate of a chain, see [`Bundle::check_trust`].
pub(super) fn check(chain: &Bundle, roots: &Bundle, unix_ms: i64) -> Result<(), CertificateError> {
    let mut unused: Vec<_> = chain.certificates().take(LONGEST).collect();
    let mut current = chain.first()?;
    // How many authorities stand between the certificate in question and the next issuer.
    let mut below = 0;
    loop {
        if !current.is_valid_at(unix_ms) {
            return Err(CertificateError::Expired {
                subject: current.subject.clone(),
            });
        }
        if roots
            .certificates()
            .any(|root| root == current || issued(root, current))
        {
            return Ok(());
        }
        unused.retain(|other| *other != current);
        let issuer = unused
            .iter()
            .find(|other| may_issue(other, below) && issued(other, current));
        let Some(issuer) = issuer else {
            return Err(CertificateError::Untrusted {
                subject: current.subject.clone(),
                issuer: current.issuer.clone(),
            });
        };
        current = issuer;
        below += 1;
    }
}

/// Tells whether a certificate that isn't a root may issue others, so many authorities being
/// between it and the last. One of version 1 can't say, and passes: the vectors have those.
fn may_issue(issuer: &Certificate, below: u64) -> bool {
    match issuer.authority {
        Authority::Unknown => true,
        Authority::No => false,
        Authority::Yes { below: allowed } => allowed.is_none_or(|allowed| below <= allowed),
    }
}

/// Tells whether the names fit and the signature holds.
fn issued(issuer: &Certificate, certificate: &Certificate) -> bool {
    issuer.subject_der == certificate.issuer_der
        && aws_lc::verify_certificate(
            &certificate.algorithm,
            &issuer.public_key,
            &certificate.signed,
            &certificate.signature,
        )
}

/// How many entries of a chain are looked at. Alipay's have two or three; each one more may cost
/// whoever checks a signature.
const LONGEST: usize = 16;
