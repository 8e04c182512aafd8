//! `alipay.open.app.alipaycert.download`, which an SDK calls by itself once a reply names a
//! certificate that it doesn't know: no rule of its caller's allows that, and none needs to, since
//! what Alipay signs with is no secret and the sidecar knows it already.

use serde::Deserialize;

use crate::gateway::VerifiedReply;
use crate::gateway::platform::DOWNLOAD_METHOD;
use crate::protocol::params::name;
use crate::proxy::ProxyParts;
use crate::proxy::caller::Who;
use crate::proxy::local_call::LocalCall;

/// The certificate that a known caller downloads, if the sidecar knows it; what it doesn't know is a
/// call as any other.
pub(super) fn answer(parts: &ProxyParts, call: &LocalCall, who: &Who) -> Option<VerifiedReply> {
    #[derive(Deserialize)]
    struct Wanted {
        alipay_cert_sn: String,
    }
    if call.method != DOWNLOAD_METHOD || matches!(who, Who::Anyone) {
        return None;
    }
    let content = call.parameters.get(name::BIZ_CONTENT)?;
    let wanted: Wanted = serde_json::from_str(content).ok()?;
    let charset = call.charset.charset();
    parts.resolver.apps_of(&call.tags).iter().find_map(|app| {
        parts
            .gateway
            .known_certificate(app, &wanted.alipay_cert_sn, charset)
    })
}
