//! The sign contents that one notification may have been signed over.

use crate::protocol::{
    params::{Params, name},
    sign_content::{self, EmptyValues, Scheme},
};

/// One reading of the rules.
#[derive(Clone, Copy)]
pub(super) struct Reading {
    pub(super) scheme: Scheme,
    empty_values: EmptyValues,
    /// What takes no part, beside what the scheme leaves out.
    without: Option<&'static str>,
}

impl Reading {
    /// Writes what is signed by this reading.
    pub(super) fn content(self, params: &Params) -> String {
        sign_content::notification_without(params, self.scheme, self.empty_values, self.without)
    }
}

/// Lists the readings, the likeliest first; several may give one content.
///
/// Protocol: 异步通知, “验签” says V1. What is disputed between the SDKs: `sign_type` kept (vector
/// `sign-type-kept`), empty values (`empty-value-dropped`, `empty-value-kept`), and
/// `alipay_cert_sn` (`ant-message-with-cert-sn`). Nothing else is ever left out.
pub(super) fn all(params: &Params) -> Vec<Reading> {
    let left_out: &[Option<&'static str>] = match params.get(name::ALIPAY_CERT_SN) {
        Some(_) => &[None, Some(name::ALIPAY_CERT_SN)],
        None => &[None],
    };
    let of_scheme = |without: Option<&'static str>, scheme| {
        [EmptyValues::Dropped, EmptyValues::Kept].map(|empty_values| Reading {
            scheme,
            empty_values,
            without,
        })
    };
    let of_set = |without| [Scheme::V1, Scheme::V2].map(|scheme| of_scheme(without, scheme));
    let readings = left_out.iter().flat_map(|&without| of_set(without));
    readings.flatten().collect()
}
