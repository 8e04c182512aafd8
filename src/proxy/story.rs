//! What is counted and logged of a call once it is over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use http::request::Parts;

use crate::audit::entry::{Entry, Event};
use crate::gateway::VerifiedReply;
use crate::gateway::error::Outcome;
use crate::gateway::metrics::{Api, Phase};
use crate::gateway::v3::{VerifiedV3Reply, method_of};
use crate::model::call::{CallId, CallOutcome};
use crate::net::head;
use crate::protocol::envelope::Verification;
use crate::protocol::v3_response::V3Verification;
use crate::proxy::ProxyParts;
use crate::proxy::caller::Who;
use crate::proxy::check::Checked;
use crate::proxy::due_sign_type::DueSignType;
use crate::proxy::error::{ErrorCode, ProxyError};
use crate::proxy::parameters;
use crate::proxy::resolve::Credentials;
use crate::proxy::route::{Route, Target};
use crate::telemetry::span::{Beginning, Kind, Span, Tracer, method_name};
use crate::telemetry::trace_context::TraceParent;

/// What is said about a call once it is over.
pub(super) struct Story {
    pub(super) request_id: String,
    pub(super) caller_request_id: Option<String>,
    api: &'static str,
    pub(super) method: Option<String>,
    pub(super) began: Instant,
    /// Who calls, once that is proved.
    caller: Option<Arc<str>>,
    /// Nobody proved yet that he may ask: anybody could have sent it, and again without end.
    is_strange: bool,
    /// The caller's place in its own trace.
    trace_parent: Option<TraceParent>,
    /// What is recorded of it.
    pub(super) span: Span,
    /// A host makes the call in process.
    is_internal: bool,
    /// The audit log has it.
    is_told: AtomicBool,
    /// By which algorithm what goes back is signed anew.
    pub(super) due: DueSignType,
    /// Whether it is on its way.
    pub(super) departure: Departure,
}

/// Whether bytes of a call may have left for Alipay, for who is told that a bug ended it. Clones
/// share it.
#[derive(Debug, Clone, Default)]
pub(super) struct Departure(Arc<AtomicBool>);

impl Departure {
    /// From here on they may have.
    pub(super) fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(super) fn outcome(&self) -> Outcome {
        match self.0.load(Ordering::Relaxed) {
            true => Outcome::Unknown,
            false => Outcome::NotSent,
        }
    }
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
            caller: None,
            is_strange: true,
            trace_parent: TraceParent::of_headers(headers),
            span: Span::default(),
            is_internal: false,
            is_told: AtomicBool::new(false),
            due: DueSignType::default(),
            departure: Departure::default(),
        }
    }

    /// The same, recorded where `tracer` says so: calls alone, because backends that wait for events
    /// ask all day.
    pub(super) fn recorded(self, tracer: &Tracer, head: &Parts, route: &Route) -> Self {
        let pattern = tracer.is_on().then(|| route.pattern()).flatten();
        let Some(pattern) = pattern else {
            return self;
        };
        let method = method_name(&head.method);
        let name = format!("{method} {pattern}");
        let beginning = Beginning::new(Kind::Server, name).at(self.began);
        let span = tracer.begin(beginning.within(self.trace_parent));
        span.set_method(&head.method);
        span.set("http.route", pattern.as_str());
        Self { span, ..self }
    }

    pub(super) fn internal(request_id: CallId, method: &str, tracer: &Tracer) -> Self {
        Self {
            request_id: request_id.to_string(),
            caller_request_id: None,
            api: Api::V2.as_str(),
            method: Some(method.to_owned()),
            began: Instant::now(),
            caller: None,
            is_strange: false,
            trace_parent: None,
            span: tracer.begin(Beginning::new(Kind::Internal, "request")),
            is_internal: true,
            is_told: AtomicBool::new(false),
            due: DueSignType::default(),
            departure: Departure::default(),
        }
    }

    /// The name of who calls, once that is proved; `None` where callers aren't told apart.
    pub(super) fn caller(&self) -> Option<&Arc<str>> {
        self.caller.as_ref()
    }

    /// Who calls is proved; or, where callers aren't told apart, the front door let him in.
    pub(super) fn is_of(&mut self, who: &Who) {
        self.caller = who.name();
        self.is_strange = false;
    }

    /// In whose trace it is: the caller's, or one of its own that is recorded.
    fn w3c_trace_id(&self) -> Option<String> {
        let place = self.trace_parent.or_else(|| self.span.place());
        place.map(|place| place.trace_id.to_string())
    }

    /// Counts and tells how long it took to find the credentials.
    pub(super) fn resolved(
        &self,
        parts: &ProxyParts,
        (api, began): (Api, Instant),
        credentials: &Result<Credentials, ProxyError>,
    ) {
        let phase = Phase::Resolve;
        parts.call_metrics.observe(api, phase, began.elapsed());
        let part = self.span.past(phase.as_str(), began);
        match credentials {
            Ok(credentials) => self.due.is_of(credentials.app.sign_type),
            Err(error) => blame(&part, error),
        }
    }

    /// Says under its span what the log says of it. Of strangers nothing is recorded: what they send
    /// would displace the rest.
    fn record(&self, known: Option<&Credentials>, said: Option<&Said>, error: Option<&ProxyError>) {
        let span = &self.span;
        if self.is_strange || !span.is_recorded() {
            return span.discard();
        }
        span.set("alipay_sidecar.request_id", self.request_id.as_str());
        span.set_some("alipay_sidecar.caller", self.caller.as_deref());
        span.set_some("alipay.method", self.method.as_deref());
        if let Some(known) = known {
            let merchant = known.merchant.as_ref();
            span.set("alipay.app_id", known.app.app_id.as_str());
            span.set_some(
                "alipay.auth_app_id",
                merchant.map(|m| m.auth_app_id.as_str()),
            );
        }
        if let Some(said) = said {
            span.set("alipay_sidecar.outcome", said.outcome);
            span.set_some("alipay.sub_code", said.sub_code.as_deref());
            span.set_some("alipay.trace_id", said.trace_id.as_deref());
        }
        if let Some(error) = error {
            span.set("alipay_sidecar.outcome", error.code.as_str());
            blame(span, error);
        }
    }

    /// Tells the audit log; of strangers a few lines a minute of each kind.
    fn audit(&self, parts: &ProxyParts, entry: impl FnOnce() -> Entry) {
        match self.is_strange {
            true => parts.audit.tell_of_stranger(entry),
            false => parts.audit.tell(entry),
        }
        self.is_told.store(true, Ordering::Relaxed);
    }

    /// Whether a host makes the call in process.
    pub(super) fn is_internal(&self) -> bool {
        self.is_internal
    }

    /// Under which id the call can be asked for.
    pub(super) fn recorded_as(&self) -> Option<CallId> {
        self.request_id.parse().ok()
    }

    /// What the audit log tells of it: ids and codes, nothing of what was asked or answered.
    fn entry(&self, outcome: &'static str) -> Entry {
        Entry::new(Event::Call, self.api, outcome)
            .with("request_id", &self.request_id)
            .with_some("caller", self.caller.as_deref())
            .with_some("caller_request_id", self.caller_request_id.as_deref())
            .with_some(
                "traceparent",
                self.trace_parent.map(|p| p.to_string()).as_deref(),
            )
            .marked("in_process", self.is_internal)
            .with_some("method", self.method.as_deref())
    }

    /// Counts that somebody asked what became of a call.
    pub(super) fn tell_looked_up(&self, parts: &ProxyParts) {
        parts.metrics.count(self.api, None, "ok");
        self.audit(parts, || self.entry("ok"));
    }

    /// Counts and logs a call that ended before it had credentials.
    pub(super) fn refused(&self, parts: &ProxyParts, error: ProxyError) -> ProxyError {
        self.tell(parts, None, Err(&error));
        error
    }

    /// The same of one that a bug ended; unless it was told before, as it then is.
    pub(super) fn broken(&self, parts: &ProxyParts, error: ProxyError) -> ProxyError {
        match self.is_told.load(Ordering::Relaxed) {
            true => error,
            false => self.refused(parts, error),
        }
    }

    /// The method as a label: strangers may not use up the names that are told apart.
    fn label(&self) -> Option<&str> {
        self.method.as_deref().filter(|_| !self.is_strange)
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
        parts.metrics.count(self.api, self.label(), outcome);
        let (said, error) = match &result {
            Ok(said) => (Some(said), None),
            Err(error) => (None, Some(error)),
        };
        let may_have_acted = error.is_some_and(|e| e.outcome == Outcome::Unknown);
        let merchant = credentials.and_then(|c| c.merchant.as_ref());
        let entry = || {
            self.entry(outcome)
                .with_some("app_id", credentials.map(|c| c.app.app_id.as_str()))
                .with_some("auth_app_id", merchant.map(|m| m.auth_app_id.as_str()))
                .with_some("sub_code", said.and_then(|s| s.sub_code.as_deref()))
                .with_some("trace_id", said.and_then(|s| s.trace_id.as_deref()))
                .marked("may_have_acted", may_have_acted)
        };
        self.audit(parts, entry);
        self.record(credentials, said, error.copied());
        // The level of a line is fixed where it is written: twice the same one, then.
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    request_id = self.request_id,
                    caller_request_id = self.caller_request_id,
                    w3c_trace_id = self.w3c_trace_id(),
                    caller = self.caller.as_deref(),
                    api = self.api,
                    method = self.method,
                    app_id = credentials.map(|c| c.app.app_id.as_str()),
                    auth_app_id = merchant.map(|m| m.auth_app_id.as_str()),
                    outcome,
                    sub_code = said.and_then(|s| s.sub_code.as_deref()),
                    trace_id = said.and_then(|s| s.trace_id.as_deref()),
                    error = error.map(|e| e.detail.as_str()),
                    may_have_acted,
                    duration_ms =
                        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
                    "call"
                )
            };
        }
        // Money may have moved without a verified answer, or there is a bug: somebody must look, whatever
        // else is silent.
        match may_have_acted || error.copied().is_some_and(is_bug) {
            true => line!(warn),
            false => line!(info),
        }
    }

    /// Counts and logs what was checked for a backend.
    pub(super) fn tell_checked(&self, parts: &ProxyParts, checked: Result<&Checked, &ProxyError>) {
        let outcome = checked.map_or_else(|error| error.code.as_str(), Checked::outcome);
        parts.metrics.count(self.api, None, outcome);
        let known = checked.ok();
        let entry = || {
            self.entry(outcome)
                .with_some("app_id", known.map(|checked| checked.app.app_id.as_str()))
                .with_some(
                    "auth_app_id",
                    known.and_then(|checked| checked.auth_app_id.as_deref()),
                )
                .with_some("sub_code", known.and_then(|c| c.sub_code.as_deref()))
        };
        self.audit(parts, entry);
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    request_id = self.request_id,
                    caller_request_id = self.caller_request_id,
                    w3c_trace_id = self.w3c_trace_id(),
                    caller = self.caller.as_deref(),
                    api = self.api,
                    app_id = known.map(|checked| checked.app.app_id.as_str()),
                    auth_app_id = known.and_then(|checked| checked.auth_app_id.as_deref()),
                    outcome,
                    sub_code = known.and_then(|checked| checked.sub_code.as_deref()),
                    error = checked.err().map(|error| error.detail.as_str()),
                    duration_ms =
                        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
                    "checked"
                )
            };
        }
        match checked.err().is_some_and(is_bug) {
            true => line!(warn),
            false => line!(info),
        }
    }

    /// Counts and logs a request for events. A claim that gave none changed nothing, and isn't
    /// audited.
    pub(super) fn tell_events(
        &self,
        parts: &ProxyParts,
        done: &EventsDone<'_>,
        error: Option<&ProxyError>,
    ) {
        let outcome = error.map_or("ok", |error| error.code.as_str());
        parts.metrics.count(self.api, None, outcome);
        let claimed = done.claimed.unwrap_or_default();
        let entry = || {
            self.entry(outcome)
                .with("action", done.action)
                .with_some("event_id", done.event_id)
                .with_number("claimed", claimed)
        };
        if error.is_some() || done.claimed != Some(0) {
            self.audit(parts, entry);
        }
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    request_id = self.request_id,
                    caller_request_id = self.caller_request_id,
                    w3c_trace_id = self.w3c_trace_id(),
                    caller = self.caller.as_deref(),
                    api = self.api,
                    claimed,
                    outcome,
                    error = error.map(|error| error.detail.as_str()),
                    duration_ms =
                        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
                    "events"
                )
            };
        }
        match error.is_some_and(is_bug) {
            true => line!(warn),
            // A backend that waits for events asks all day.
            false => line!(debug),
        }
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
        let merchant = known.merchant.as_ref();
        self.audit(parts, || {
            self.entry(outcome)
                .with("app_id", known.app.app_id.as_str())
                .with_some("auth_app_id", merchant.map(|m| m.auth_app_id.as_str()))
        });
        self.record(Some(known), None, error);
        if error.is_none() {
            self.span.set("alipay_sidecar.outcome", outcome);
        }
        tracing::info!(
            request_id = self.request_id,
            caller_request_id = self.caller_request_id,
            w3c_trace_id = self.w3c_trace_id(),
            caller = self.caller.as_deref(),
            api = self.api,
            method = self.method,
            app_id = known.app.app_id.as_str(),
            auth_app_id = merchant.map(|m| m.auth_app_id.as_str()),
            outcome,
            error = error.map(|error| error.detail.as_str()),
            duration_ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "call signed"
        );
    }
}

fn is_bug(error: &ProxyError) -> bool {
    error.code == ErrorCode::Internal
}

/// Says by which word it failed, or was refused where that is its caller's fault.
fn blame(span: &Span, error: &ProxyError) {
    match error.code.status().is_server_error() {
        true => span.fail(error.code.as_str()),
        false => span.refuse(error.code.as_str()),
    }
}

/// What was asked about events, and how many were claimed; `None`: it was no claim.
pub(super) struct EventsDone<'a> {
    pub(super) action: &'static str,
    pub(super) event_id: Option<&'a str>,
    pub(super) claimed: Option<u64>,
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
            // No code is seen where there may be one.
            _ if reply.envelope.is_ciphertext() => "unopened",
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
            sub_code: reply.code(),
            trace_id: response.trace_id().map(ToOwned::to_owned),
        }
    }
}
