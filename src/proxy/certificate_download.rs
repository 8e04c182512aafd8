//! `alipay.open.app.alipaycert.download`, which an SDK calls by itself once a reply names a
//! certificate that it doesn't know: no rule of its caller's allows that, and none needs to, since
//! what Alipay signs with is no secret and the sidecar knows it already.

use std::sync::Arc;

use crate::gateway::VerifiedReply;
use crate::gateway::app::SigningApp;
use crate::gateway::known_certificate::asked_serial;
use crate::gateway::platform::DOWNLOAD_METHOD;
use crate::proxy::ProxyParts;
use crate::proxy::caller::Who;
use crate::proxy::local_call::LocalCall;

/// The certificate that a known caller downloads, if the sidecar knows it; what it doesn't know is a
/// call as any other.
pub(super) fn answer(parts: &ProxyParts, call: &LocalCall, who: &Who) -> Option<VerifiedReply> {
    if call.method != DOWNLOAD_METHOD || matches!(who, Who::Anyone) {
        return None;
    }
    let wanted = asked_serial(&call.parameters)?;
    let charset = call.charset.charset();
    let apps = parts.resolver.apps_of(&call.tags);
    let known = |app: &Arc<SigningApp>| parts.gateway.known_certificate(app, &wanted, charset);
    apps.iter().find_map(known)
}
