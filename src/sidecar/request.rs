//! Calls from within the host's own process.

use std::time::Duration;

use bytes::Bytes;

use crate::gateway::VerifiedReply;
use crate::model::call::CallId;
use crate::protocol::charset::CharsetLabel;
use crate::protocol::envelope::Verification;
use crate::protocol::params::{Params, name};
use crate::proxy::Proxy;
use crate::proxy::error::ProxyError;
use crate::proxy::local_call::{self, LocalCall};
use crate::proxy::parameters;
use crate::proxy::resolve::Tags;

/// One call to be made; built up, then sent.
#[derive(Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct CallRequest {
    proxy: Proxy,
    request_id: CallId,
    method: String,
    tags: Tags,
    parameters: Params,
    timeout: Option<Duration>,
    fault: Option<ProxyError>,
}

/// Alipay's verified reply to a [`CallRequest`].
#[derive(Debug)]
pub struct CallReply {
    reply: VerifiedReply,
    request_id: CallId,
}

impl CallRequest {
    pub(crate) fn new(proxy: Proxy, method: &str) -> Self {
        Self {
            proxy,
            request_id: CallId::generate(),
            method: method.to_owned(),
            tags: Tags::default(),
            parameters: Params::new(),
            timeout: None,
            fault: None,
        }
    }

    /// The id of this call: in the log and the audit log, and for 24 hours what became of it, whoever
    /// waits, at `GET /calls/{request_id}` of
    /// [`proxy_service`](crate::sidecar::Sidecar::proxy_service) (not of queries, nor where tokens are
    /// replied, nor of what is refused before it is a call, as for an unknown merchant, which was never
    /// sent). Where callers are named, none of them is shown a host's own: then
    /// [`store`](crate::sidecar::Sidecar::store) has it, once it is written.
    #[must_use]
    pub fn request_id(&self) -> CallId {
        self.request_id
    }

    /// For which merchant: a PID, an `auth_app_id`, an alias, or `self`.
    pub fn merchant(mut self, selector: &str) -> Self {
        self.tags.header = Some(selector.to_owned());
        self
    }

    /// Which of several apps of ours signs.
    pub fn app(mut self, app_id: &str) -> Self {
        self.tags.app = Some(app_id.to_owned());
        self
    }

    /// The JSON text of `biz_content`; it is sent exactly as given.
    pub fn biz_content(self, json: &str) -> Self {
        match local_call::biz_content(json.as_bytes()) {
            Ok(_) => self.set(name::BIZ_CONTENT, json),
            Err(fault) => self.failed(fault),
        }
    }

    /// The user's access token.
    pub fn auth_token(self, token: &str) -> Self {
        self.set(name::AUTH_TOKEN, token)
    }

    /// The user, by `user_id` or `open_id`, whose kept access token the call carries
    /// (`tokens.remember_users`).
    pub fn user(mut self, user: &str) -> Self {
        self.tags.user = Some(user.to_owned());
        self
    }

    /// Where Alipay notifies: an absolute URL, or a path of the webhook's notify route.
    pub fn notify_url(self, url: &str) -> Self {
        self.set(name::NOTIFY_URL, url)
    }

    /// A further top-level parameter (`grant_type`, `code`, `return_url` …).
    pub fn param(self, name: &str, value: &str) -> Self {
        match parameters::check_parameter(name) {
            Ok(()) => self.set(name, value),
            Err(fault) => self.failed(fault),
        }
    }

    /// A deadline shorter than the configured one.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Signs, sends and verifies.
    ///
    /// # Errors
    /// [`ProxyError`] as the routes answer it; its outcome tells whether Alipay may have acted.
    ///
    /// # Cancel safety
    /// Safe: a call that was begun goes on, and is logged.
    pub async fn send(self) -> Result<CallReply, ProxyError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        parameters::check_spellings(&self.parameters)?;
        let call = LocalCall {
            charset: CharsetLabel::default(),
            method: parameters::method(&self.method)?,
            parameters: parameters::canonical(self.parameters)?,
            files: Vec::new(),
            sign_type: None,
            tags: self.tags,
            timeout: self.timeout,
        };
        let request_id = self.request_id;
        let reply = self.proxy.call_as(request_id, call).await?;
        Ok(CallReply { reply, request_id })
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        if let Err(fault) = self.parameters.push(name, value) {
            return self.failed(fault.into());
        }
        self
    }

    /// Keeps the first fault for [`CallRequest::send`], so that building never fails.
    fn failed(mut self, fault: ProxyError) -> Self {
        self.fault.get_or_insert(fault);
        self
    }
}

impl CallReply {
    /// The id of the call: [`CallRequest::request_id`].
    #[must_use]
    pub fn request_id(&self) -> CallId {
        self.request_id
    }

    /// The exact bytes of the `…_response` node.
    #[must_use]
    pub fn node(&self) -> Bytes {
        self.reply.envelope.node()
    }

    /// Alipay's `code`; a few methods answer success without one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.reply.envelope.code()
    }

    /// Alipay's `sub_code`, on business errors.
    #[must_use]
    pub fn sub_code(&self) -> Option<&str> {
        self.reply.envelope.sub_code()
    }

    /// Whether Alipay signed it; an error that Alipay doesn't sign passes as such.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.reply.envelope.verification() == Verification::Signed
    }

    /// Alipay's trace id.
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        self.reply.trace_id.as_deref()
    }

    /// The node read as `T`.
    ///
    /// # Errors
    /// serde's, when the node isn't a `T`.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(&self.reply.envelope.node_text())
    }
}

impl From<CallReply> for VerifiedReply {
    fn from(reply: CallReply) -> Self {
        reply.reply
    }
}
