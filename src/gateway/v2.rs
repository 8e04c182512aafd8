//! The v2 dialect: what one call is made of, and how it is laid out for a key.

use std::sync::Arc;
use std::time::Duration;

use http::Method;

use crate::gateway::app::SigningApp;
use crate::gateway::error::GatewayError;
use crate::gateway::metrics::Api;
use crate::gateway::outgoing::{Outgoing, Repetition, host_of};
use crate::gateway::signing::KeyInUse;
use crate::gateway::upload::{FilePart, UploadBody};
use crate::protocol::charset::CharsetLabel;
use crate::protocol::encryption::ContentKey;
use crate::protocol::params::{self, Params, name};
use crate::protocol::request::SignedParams;
use crate::protocol::secret::Secret;
use crate::protocol::timestamp;
use crate::telemetry::span::Span;

/// The type of a form body.
const FORM: &str = "application/x-www-form-urlencoded";

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
    /// Who encrypts its contents.
    pub encryption: Encryption,
    /// The deadline of the whole call.
    pub timeout: Duration,
    /// On which route it came, for the metrics.
    pub api: Api,
    /// What its parts are recorded under.
    pub span: Span,
}

/// Who encrypts the contents of a call, and opens those of its reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encryption {
    /// The caller, if anybody: what it wrote goes on as it is, and so does the reply.
    Callers,
    /// The sidecar, where the app has an `encrypt_key`.
    Ours,
}

impl V2Call {
    /// Who is asked.
    pub(super) fn host(&self) -> String {
        host_of(&self.app.endpoints.gateway)
    }

    /// The whole set of parameters as it gets signed by `key` and sent, without `sign`.
    ///
    /// Protocol: 接口内容加密方式: `biz_content` alone is encrypted, before the signature; uploads
    /// aren't.
    pub(super) fn params(&self, key: &KeyInUse, now_ms: i64) -> Result<Params, GatewayError> {
        let mut params = self.parameters.filled(params::OWNED.len());
        // Before the whole is encoded: this error names the parameter.
        params
            .check_writable(self.charset.charset())
            .map_err(GatewayError::Charset)?;
        if let Some(content_key) = self.content_key()
            && let Some(plaintext) = params.get(name::BIZ_CONTENT)
        {
            let plaintext = self.charset.charset().encode(plaintext);
            let plaintext = Secret::new(plaintext.map_err(GatewayError::Charset)?);
            let ciphertext = content_key.encrypt(plaintext.expose());
            params.set(
                name::BIZ_CONTENT,
                ciphertext.map_err(GatewayError::Encryption)?,
            );
            params.set(name::ENCRYPT_TYPE, "AES");
        }
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
        if let (Some(certificate), Some(roots)) =
            (&key.certificate, self.app.platform.alipay_root_cert_sn())
        {
            params.set(name::APP_CERT_SN, certificate.sn.as_str());
            params.set(name::ALIPAY_ROOT_CERT_SN, roots);
        }
        Ok(params)
    }

    /// What its contents are encrypted with.
    fn content_key(&self) -> Option<&ContentKey> {
        let ours = self.encryption == Encryption::Ours && self.files.is_empty();
        self.app.content_key().filter(|_| ours)
    }

    pub(super) fn repetition(&self) -> Repetition {
        match is_pure_query(&self.method) {
            true => Repetition::Harmless,
            false => Repetition::Never,
        }
    }

    /// The signed request as it is sent.
    pub(super) fn outgoing(&self, signed: &SignedParams) -> Result<Outgoing, GatewayError> {
        let url = format!("{}?{}", self.app.endpoints.gateway, signed.query());
        let outgoing = Outgoing::new(Method::POST, url).within(&self.span);
        if self.files.is_empty() {
            let content_type = format!("{FORM};charset={}", self.charset);
            return outgoing.form(&content_type, signed.body().into());
        }
        let charset = self.charset.clone();
        let body = UploadBody::new(charset, signed.body_parameters(), &self.files);
        outgoing.upload(body.map_err(GatewayError::Charset)?)
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
