//! Platform certificates that were fetched.

use crate::model::id::AppId;

/// A platform certificate (支付宝公钥证书) that Alipay gave for an app, kept so that it needn't be
/// asked for again. What it is worth is checked anew whenever it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptCertificate {
    /// For which app.
    pub app_id: AppId,
    /// `alipay_cert_sn`.
    pub sn: String,
    /// The certificate with its chain, PEM.
    pub pem: String,
}
