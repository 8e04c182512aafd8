//! What is recorded of what Alipay sends, for a collector of traces.
//!
//! A trace begins with each notification: strangers reach this port, and mustn't choose whose trace
//! their messages belong to. What an ingress before us says of its own is linked. Of messages whose
//! signature doesn't hold nothing is recorded.

use std::time::Instant;

use http::Method;
use http::request::Parts;

use crate::model::id::EventId;
use crate::telemetry::span::{Beginning, Kind as SpanKind, Span, method_name};
use crate::telemetry::trace_context::TraceParent;
use crate::webhook::Inner;
use crate::webhook::error::Known;
use crate::webhook::metrics::{Kind, Outcome};

/// How a message came.
pub(super) struct Came {
    began: Instant,
    /// The method and, below the base path, the route; `None`: out of what was refused.
    request: Option<(Method, &'static str)>,
    ingress: Option<TraceParent>,
}

/// Which event a message has become.
#[derive(Debug, Clone, Copy)]
pub(super) enum Became {
    /// It is this one.
    Event(EventId),
    /// It is none.
    Nothing,
    /// It is this one once more.
    Repeated(EventId),
}

impl Came {
    /// Just now, as a request.
    pub(super) fn by(head: &Parts, route: &'static str) -> Self {
        Self {
            began: Instant::now(),
            request: Some((head.method.clone(), route)),
            ingress: TraceParent::of_headers(&head.headers),
        }
    }

    /// Out of what was refused.
    pub(super) fn again() -> Self {
        Self {
            began: Instant::now(),
            request: None,
            ingress: None,
        }
    }
}

impl Became {
    /// What a verified notification has become.
    pub(super) fn of(outcome: Outcome, event_id: EventId) -> Self {
        match outcome {
            Outcome::Duplicate | Outcome::DuplicateDiffers => Self::Repeated(event_id),
            _ => Self::Event(event_id),
        }
    }
}

impl Inner {
    /// Records the receipt of a verified message, which is over.
    pub(super) fn record(
        &self,
        came: &Came,
        (kind, outcome): (Kind, Outcome),
        known: impl FnOnce() -> Known,
        became: Became,
    ) {
        if !self.parts.tracer.is_on() {
            return;
        }
        let (span, known) = (self.begin(came, became), known());
        span.set("alipay.app_id", known.app_id.as_str());
        span.set_some("alipay.auth_app_id", known.auth_app_id.as_deref());
        span.set_some("alipay.notify_id", known.notify_id.as_deref());
        span.set("alipay_sidecar.event_type", known.event_type.as_str());
        span.set("alipay_sidecar.kind", kind.as_str());
        span.set("alipay_sidecar.outcome", outcome.as_str());
        if let Became::Event(id) | Became::Repeated(id) = became {
            span.set("alipay_sidecar.event_id", id.to_string().as_str());
        }
        if matches!(outcome, Outcome::Refused | Outcome::Unavailable) {
            span.fail(outcome.as_str());
        }
    }

    fn begin(&self, came: &Came, became: Became) -> Span {
        let (span_kind, name) = match &came.request {
            None => (SpanKind::Internal, "reverify".to_owned()),
            Some((method, route)) => {
                let base = &self.settings.webhook.base_path;
                let name = format!("{} {base}{route}", method_name(method));
                (SpanKind::Server, name)
            }
        };
        let beginning = Beginning::new(span_kind, name).at(came.began);
        let beginning = beginning.linked(came.ingress);
        let beginning = match became {
            Became::Event(id) => beginning.being(TraceParent::of_event(id.to_bytes())),
            Became::Nothing => beginning,
            Became::Repeated(id) => beginning.within(Some(TraceParent::of_event(id.to_bytes()))),
        };
        let span = self.parts.tracer.begin(beginning);
        if let Some((method, route)) = &came.request {
            let base = &self.settings.webhook.base_path;
            span.set_method(method);
            span.set("http.route", format!("{base}{route}").as_str());
        }
        span
    }
}
