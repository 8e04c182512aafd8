//! A download of a platform certificate, answered with one that is known here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::gateway::app::SigningApp;
use crate::gateway::platform::DOWNLOAD_METHOD;
use crate::gateway::{Gateway, VerifiedReply};
use crate::protocol::charset::Charset;
use crate::protocol::envelope::Envelope;

impl Gateway {
    /// What Alipay would answer to a download of the certificate `sn`, from those that `app` trusts;
    /// `None` where it isn't among them, or came without a chain that still holds.
    ///
    /// Protocol: 公钥证书方式, `alipay.open.app.alipaycert.download`: the reply carries no signature
    /// that could be verified, whoever asked checks the chain; as it is checked here.
    pub(crate) fn known_certificate(
        &self,
        app: &SigningApp,
        sn: &str,
        charset: Charset,
    ) -> Option<VerifiedReply> {
        let roots = app.platform.roots()?;
        let known = app.platform.certificates();
        let known = known.iter().find(|known| known.sn == sn)?;
        let root = DOWNLOAD_METHOD.replace('.', "_");
        let content = STANDARD.encode(&known.pem);
        // Nothing in it needs escaping, nor differs between charsets.
        let body = Bytes::from(format!(
            "{{\"{root}_response\":{{\"code\":\"10000\",\"msg\":\"Success\",\
             \"alipay_cert_content\":\"{content}\"}}}}"
        ));
        let envelope = Envelope::parse_in(body, DOWNLOAD_METHOD, charset).ok()?;
        let envelope = envelope.verify_download(roots, self.clock.now_ms()).ok()?;
        Some(VerifiedReply {
            envelope,
            trace_id: None,
            content_type: None,
            date_ms: None,
        })
    }
}
