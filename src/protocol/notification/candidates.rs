//! The sign contents that one notification may have been signed over.

use crate::protocol::{
    params::{Params, name},
    sign_content::{self, EmptyValues, Scheme},
};

/// One reading of the rules.
pub(super) struct Candidate {
    pub(super) scheme: Scheme,
    pub(super) content: String,
}

/// Lists the readings, the likeliest first, each content once.
///
/// Protocol: 异步通知, “验签” says V1. What is disputed between the SDKs: `sign_type` kept (vector
/// `sign-type-kept`), empty values (`empty-value-dropped`, `empty-value-kept`), and
/// `alipay_cert_sn` (`ant-message-with-cert-sn`). Nothing else is ever left out.
pub(super) fn all(params: &Params) -> Vec<Candidate> {
    let mut without_certificate = params.clone();
    let removed = without_certificate.remove(name::ALIPAY_CERT_SN);
    let sets = [Some(params), removed.map(|_| &without_certificate)];
    let mut found: Vec<Candidate> = Vec::new();
    for params in sets.into_iter().flatten() {
        for scheme in [Scheme::V1, Scheme::V2] {
            for empty_values in [EmptyValues::Dropped, EmptyValues::Kept] {
                let content = sign_content::notification(params, scheme, empty_values);
                if found.iter().all(|known| known.content != content) {
                    found.push(Candidate { scheme, content });
                }
            }
        }
    }
    found
}
