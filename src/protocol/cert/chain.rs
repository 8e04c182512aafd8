//! The way from a certificate up to a trusted root.

use super::{Authority, Bundle, Certificate, CertificateError};
use crate::protocol::crypto::aws_lc;

/// Checks the first certificate of a chain, see [`Bundle::check_trust`].
pub(super) fn check(chain: &Bundle, roots: &Bundle, unix_ms: i64) -> Result<(), CertificateError> {
    climb(chain, roots, |certificate| certificate.is_valid_at(unix_ms)).map(|_| ())
}

/// Finds the root that the first certificate of a chain leads up to, whatever the dates.
pub(super) fn root<'r>(chain: &Bundle, roots: &'r Bundle) -> Option<&'r Certificate> {
    climb(chain, roots, |_| true).ok()
}

/// Goes up from the first certificate of a chain, as long as the dates of each hold, to a root.
fn climb<'r>(
    chain: &Bundle,
    roots: &'r Bundle,
    holds: impl Fn(&Certificate) -> bool,
) -> Result<&'r Certificate, CertificateError> {
    let mut unused: Vec<_> = chain.certificates().take(LONGEST).collect();
    let mut current = chain.first()?;
    // How many authorities stand between the certificate in question and the next issuer.
    let mut below = 0;
    loop {
        if !holds(current) {
            return Err(CertificateError::Expired {
                subject: current.subject.clone(),
            });
        }
        let mut roots = roots.certificates();
        if let Some(root) = roots.find(|root| *root == current || issued(root, current)) {
            return Ok(root);
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
