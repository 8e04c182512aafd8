//! Downloads of platform certificates: which one is asked for, and one that is known here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;

use crate::gateway::app::SigningApp;
use crate::gateway::error::GatewayError;
use crate::gateway::platform::{CertificateRefusal, DOWNLOAD_METHOD};
use crate::gateway::v2::V2Call;
use crate::gateway::{Gateway, VerifiedReply};
use crate::protocol::cert::{self, Bundle};
use crate::protocol::charset::Charset;
use crate::protocol::envelope::{Envelope, Verification, VerifiedEnvelope};
use crate::protocol::params::{Params, name};

/// The serial number of the certificate that a download asks for, where that can be read.
pub(crate) fn asked_serial(parameters: &Params) -> Option<String> {
    #[derive(Deserialize)]
    struct Asked {
        alipay_cert_sn: String,
    }
    let content = parameters.get(name::BIZ_CONTENT)?;
    let asked: Asked = serde_json::from_str(content).ok()?;
    Some(asked.alipay_cert_sn)
}

/// Refuses another certificate than was asked for: what anybody's app is certified with leads up to
/// the same roots.
///
/// # Errors
/// [`GatewayError::Certificate`].
pub(super) fn check_serial(call: &V2Call, reply: &VerifiedEnvelope) -> Result<(), GatewayError> {
    let Some(asked) = asked_serial(&call.parameters) else {
        return Ok(());
    };
    if reply.verification() != Verification::Certified {
        return Ok(());
    }
    let chain = cert::downloaded(&reply.node()).and_then(|pem| Bundle::parse(&pem));
    let found = chain.and_then(|chain| Ok(chain.first()?.sn()));
    let refused = match found {
        Ok(found) if found == asked => return Ok(()),
        Ok(found) => CertificateRefusal::AnotherSerial { found },
        Err(error) => error.into(),
    };
    Err(GatewayError::Certificate(refused))
}

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
