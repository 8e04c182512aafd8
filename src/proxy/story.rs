//! What is counted and logged of a call once it is over.

use std::time::Instant;

use http::request::Parts;

use crate::gateway::VerifiedReply;
use crate::gateway::error::Outcome;
use crate::gateway::metrics::Api;
use crate::gateway::v3::{VerifiedV3Reply, method_of};
use crate::model::call::{CallId, CallOutcome};
use crate::net::head;
use crate::protocol::envelope::Verification;
use crate::protocol::v3_response::V3Verification;
use crate::proxy::ProxyParts;
use crate::proxy::check::Checked;
use crate::proxy::error::ProxyError;
use crate::proxy::parameters;
use crate::proxy::resolve::Credentials;
use crate::proxy::route::{Route, Target};

/// What is said about a call once it is over.
pub(super) struct Story {
    pub(super) request_id: String,
    pub(super) caller_request_id: Option<String>,
    api: &'static str,
    pub(super) method: Option<String>,
    pub(super) began: Instant,
    /// Nobody could ask for the record of a call in process: its id is told to nobody.
    is_internal: bool,
}

impl Story {
    pub(super) fn new(head: &Parts, route: &Route) -> Self {
        let headers = &head.headers;
        let caller_request_id = headers
            .get("x-request-id")
            // Which of two is meant, nobody can tell.
            .filter(|_| !head::is_doubled(headers, "x-request-id"))
            .and_then(|v| v.to_str().ok())
            .filter(|id| {
                let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
                (1..=128).contains(&id.len()) && id.bytes().all(allowed)
            });
        let (api, method) = match &route.target {
            Target::Gateway => (Api::Gateway.as_str(), None),
            // A refused request is counted under its method only if that is one.
            Target::V2 { method, .. } => (Api::V2.as_str(), parameters::method(method).ok()),
            Target::V3 { path } => (Api::V3.as_str(), Some(method_of(path))),
            Target::Calls { .. } => ("calls", None),
            Target::Check(_) => ("verify", None),
            Target::Events(_) => ("events", None),
            Target::Unknown => ("none", None),
        };
        Self {
            request_id: uuid::Uuid::now_v7().to_string(),
            caller_request_id: caller_request_id.map(ToOwned::to_owned),
            api,
            method,
            began: Instant::now(),
            is_internal: false,
        }
    }

    pub(super) fn internal(method: &str) -> Self {
        Self {
            request_id: uuid::Uuid::now_v7().to_string(),
            caller_request_id: None,
            api: Api::V2.as_str(),
            method: Some(method.to_owned()),
            began: Instant::now(),
            is_internal: true,
        }
    }

    /// Under which id the call can be asked for.
    pub(super) fn recorded_as(&self) -> Option<CallId> {
        let id = self.request_id.parse().ok();
        id.filter(|_| !self.is_internal)
    }

    /// Counts that somebody asked what became of a call.
    pub(super) fn tell_looked_up(&self, parts: &ProxyParts) {
        parts.metrics.count(self.api, None, "ok");
    }

    /// Counts and logs a call that ended before it had credentials.
    pub(super) fn refused(&self, parts: &ProxyParts, error: ProxyError) -> ProxyError {
        self.tell(parts, None, Err(&error));
        error
    }

    /// Counts and logs a call that is over.
    pub(super) fn tell(
        &self,
        parts: &ProxyParts,
        credentials: Option<&Credentials>,
        result: Result<Said, &ProxyError>,
    ) {
        let outcome = match &result {
            Ok(said) => said.outcome,
            Err(error) => error.code.as_str(),
        };
        parts
            .metrics
            .count(self.api, self.method.as_deref(), outcome);
        let (said, error) = match &result {
            Ok(said) => (Some(said), None),
            Err(error) => (None, Some(error)),
        };
        let merchant = credentials.and_then(|c| c.merchant.as_ref());
        tracing::info!(
            request_id = self.request_id,
            caller_request_id = self.caller_request_id,
            api = self.api,
            method = self.method,
            app_id = credentials.map(|c| c.app.app_id.as_str()),
            auth_app_id = merchant.map(|m| m.auth_app_id.as_str()),
            outcome,
            sub_code = said.and_then(|s| s.sub_code.as_deref()),
            trace_id = said.and_then(|s| s.trace_id.as_deref()),
            error = error.map(|e| e.detail.as_str()),
            may_have_acted = error.is_some_and(|e| e.outcome == Outcome::Unknown),
            duration_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "call"
        );
    }

    /// Counts and logs what was checked for a backend.
    pub(super) fn tell_checked(&self, parts: &ProxyParts, checked: Result<&Checked, &ProxyError>) {
        let outcome = checked.map_or_else(|error| error.code.as_str(), Checked::outcome);
        parts.metrics.count(self.api, None, outcome);
        let known = checked.ok();
        tracing::info!(
            request_id = self.request_id,
            caller_request_id = self.caller_request_id,
            api = self.api,
            app_id = known.map(|checked| checked.app.app_id.as_str()),
            auth_app_id = known.and_then(|checked| checked.auth_app_id.as_deref()),
            outcome,
            sub_code = known.and_then(|checked| checked.sub_code.as_deref()),
            error = checked.err().map(|error| error.detail.as_str()),
            duration_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "checked"
        );
    }

    /// Counts and logs a request for events, and how many of them were claimed.
    pub(super) fn tell_events(
        &self,
        parts: &ProxyParts,
        claimed: usize,
        error: Option<&ProxyError>,
    ) {
        let outcome = error.map_or("ok", |error| error.code.as_str());
        parts.metrics.count(self.api, None, outcome);
        // A backend that waits for events asks all day.
        tracing::debug!(
            request_id = self.request_id,
            caller_request_id = self.caller_request_id,
            api = self.api,
            claimed,
            outcome,
            error = error.map(|error| error.detail.as_str()),
            duration_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "events"
        );
    }

    /// Counts and logs a call that was signed and not sent.
    pub(super) fn tell_signed(
        &self,
        parts: &ProxyParts,
        known: &Credentials,
        error: Option<&ProxyError>,
    ) {
        let outcome = error.map_or("signed", |error| error.code.as_str());
        parts
            .metrics
            .count(self.api, self.method.as_deref(), outcome);
        tracing::info!(
            request_id = self.request_id,
            api = self.api,
            method = self.method,
            app_id = known.app.app_id.as_str(),
            auth_app_id = known.merchant.as_ref().map(|m| m.auth_app_id.as_str()),
            outcome,
            "call signed"
        );
    }
}

/// What Alipay said.
pub(super) struct Said {
    /// As a metric label, from a closed set.
    outcome: &'static str,
    /// The `sub_code` of v2, the `code` of a v3 error.
    sub_code: Option<String>,
    trace_id: Option<String>,
}

impl Said {
    /// The same for the record of the call.
    pub(super) fn call_outcome(&self) -> CallOutcome {
        self.outcome.parse().unwrap_or(CallOutcome::Unknown)
    }
}

impl From<&VerifiedReply> for Said {
    fn from(reply: &VerifiedReply) -> Self {
        let outcome = match (reply.envelope.verification(), reply.envelope.code()) {
            (Verification::UnsignedError, _) => "unsigned-error",
            (_, None | Some("10000" | "10003")) => "ok",
            (_, Some(_)) => "business-error",
        };
        Self {
            outcome,
            sub_code: reply.envelope.sub_code().map(ToOwned::to_owned),
            trace_id: reply.trace_id.clone(),
        }
    }
}

impl From<&VerifiedV3Reply> for Said {
    fn from(reply: &VerifiedV3Reply) -> Self {
        let response = &reply.response;
        let outcome = match (response.verification(), response.is_error()) {
            (V3Verification::UnsignedError, _) => "unsigned-error",
            (_, false) => "ok",
            (_, true) => "business-error",
        };
        Self {
            outcome,
            sub_code: response.code(),
            trace_id: response.trace_id().map(ToOwned::to_owned),
        }
    }
}
