//! The v2 dialect: what one call is made of.

use std::sync::Arc;
use std::time::Duration;

use crate::gateway::app::SigningApp;
use crate::gateway::metrics::Api;
use crate::gateway::upload::FilePart;
use crate::protocol::charset::CharsetLabel;
use crate::protocol::params::{Params, name};
use crate::protocol::secret::Secret;
use crate::protocol::timestamp;

/// One v2 call, still unsigned.
#[derive(Debug, Clone)]
pub struct V2Call {
    /// Who signs.
    pub app: Arc<SigningApp>,
    /// For whom: `None` for the ISV itself.
    pub app_auth_token: Option<Secret<String>>,
    /// Alipay's method name.
    pub method: String,
    /// Every parameter but those the sidecar owns: `biz_content`, `notify_url`, `grant_type` ….
    pub parameters: Params,
    /// The files of an upload; they aren't signed.
    pub files: Vec<FilePart>,
    /// What everything is written in, and how its name is spelled.
    pub charset: CharsetLabel,
    /// The deadline of the whole call.
    pub timeout: Duration,
    /// On which route it came, for the metrics.
    pub api: Api,
}

impl V2Call {
    /// The whole set of parameters as it gets signed and sent, without `sign`.
    pub(crate) fn params(&self, now_ms: i64) -> Params {
        let mut params = self.parameters.clone().without_empty();
        params.set(name::APP_ID, self.app.app_id.as_str());
        params.set(name::METHOD, self.method.as_str());
        params.set(name::FORMAT, "JSON");
        params.set(name::CHARSET, self.charset.as_str());
        params.set(name::SIGN_TYPE, self.app.sign_type.as_str());
        params.set(name::TIMESTAMP, timestamp::v2(now_ms));
        params.set(name::VERSION, "1.0");
        if let Some(token) = &self.app_auth_token {
            params.set(name::APP_AUTH_TOKEN, token.expose().as_str());
        }
        params
    }
}

/// Whether calling `method` twice does no more than calling it once: contract §3.
#[must_use]
pub fn is_pure_query(method: &str) -> bool {
    matches!(method.rsplit('.').next(), Some("query" | "batchquery"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_last_segment_query_is_a_pure_query() {
        assert!(is_pure_query("alipay.trade.query"));
        assert!(is_pure_query("alipay.user.certdoc.batchquery"));
        for other in [
            "alipay.trade.pay",
            "alipay.query.pay",
            "alipay.trade.queryx",
            "query.x",
            "",
        ] {
            assert!(!is_pure_query(other), "{other}");
        }
    }
}
