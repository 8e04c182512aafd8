//! What `alipay.open.app.alipaycert.download` gives.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;

use super::CertificateError;

/// Gives the PEM text in the node of a download: `alipay_cert_content`, base64 of the certificate
/// with its chain.
///
/// Protocol: 公钥证书方式, `alipay.open.app.alipaycert.download`.
///
/// # Errors
///
/// [`CertificateError::Empty`] if there is none, or it isn't base64 of a text.
pub fn downloaded(node: &[u8]) -> Result<String, CertificateError> {
    #[derive(Deserialize)]
    struct Download {
        alipay_cert_content: String,
    }
    let download: Download = serde_json::from_slice(node).map_err(|_| CertificateError::Empty)?;
    let bytes = STANDARD.decode(download.alipay_cert_content.trim());
    let text = bytes.ok().and_then(|bytes| String::from_utf8(bytes).ok());
    text.ok_or(CertificateError::Empty)
}
