//! A span: what was done, from when to when, under which names. It begins with [`Tracer::begin`] or
//! [`Span::child`], and ends when the last handle on it is dropped.
//!
//! Where no collector is configured, or whoever called doesn't record its trace, a span is nothing,
//! and costs nothing.

use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, Uri};

use crate::clock::Clock;
use crate::telemetry::queue::Queue;
use crate::telemetry::trace_context::{SpanId, TraceId, TraceParent};

/// The longest text of an attribute, bytes: what is longer was written by somebody else.
const LONGEST: usize = 128;
const ERROR_TYPE: &str = "error.type";

/// Begins spans. Clones share where these go; one by default begins none.
#[derive(Clone, Default)]
pub struct Tracer(Option<(Arc<Queue>, Arc<dyn Clock>)>);

/// What a span says of the two sides of what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A request of ours.
    Client,
    /// Something within.
    Internal,
    /// A request to us.
    Server,
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A whole number.
    Number(i64),
    /// A text, cut to 128 bytes.
    Text(String),
}

/// How a span begins that isn't the child of another one of ours.
#[derive(Debug, Clone)]
pub struct Beginning {
    name: Cow<'static, str>,
    kind: Kind,
    began: Instant,
    parent: Option<TraceParent>,
    own: Option<TraceParent>,
    link: Option<TraceParent>,
}

/// A span under way, or nothing. Clones are the same span.
#[derive(Clone, Default)]
pub struct Span(Option<Arc<Open>>);

struct Open {
    queue: Arc<Queue>,
    anchor: Anchor,
    place: TraceParent,
    parent: Option<SpanId>,
    link: Option<TraceParent>,
    kind: Kind,
    began: Instant,
    said: Mutex<Said>,
}

/// What is said of a span while it is under way.
#[derive(Default)]
struct Said {
    name: Cow<'static, str>,
    attributes: Vec<(&'static str, Value)>,
    is_error: bool,
    is_discarded: bool,
}

/// One moment by both clocks: within a trace, time is that of the one that never goes back.
#[derive(Debug, Clone, Copy)]
struct Anchor {
    at: Instant,
    unix_ns: u64,
}

/// A span that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished {
    /// Its trace and its own id.
    pub place: TraceParent,
    /// The span that it is a child of.
    pub parent: Option<SpanId>,
    /// A place in another trace that it came from.
    pub link: Option<TraceParent>,
    /// What it is called; one of few.
    pub name: Cow<'static, str>,
    /// Which side of what it was.
    pub kind: Kind,
    /// When it began, Unix nanoseconds.
    pub began_ns: u64,
    /// When it ended, Unix nanoseconds.
    pub ended_ns: u64,
    /// What is said of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// Whether it failed.
    pub is_error: bool,
}

impl Tracer {
    /// A tracer whose spans wait in `queue`.
    #[must_use]
    pub fn new(queue: Arc<Queue>, clock: Arc<dyn Clock>) -> Self {
        Self(Some((queue, clock)))
    }

    /// Whether anybody is there to be sent spans.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.as_ref().is_some_and(|(queue, _)| queue.is_on())
    }

    /// Begins a span, if it is to be recorded: anybody is there to be sent it, and whoever called
    /// records its own part of the trace.
    #[must_use]
    pub fn begin(&self, beginning: Beginning) -> Span {
        let is_left_out = |parent: TraceParent| !parent.is_sampled();
        let on = self.0.as_ref().filter(|(queue, _)| queue.is_on());
        let Some((queue, clock)) = on else {
            return Span::default();
        };
        if beginning.parent.is_some_and(is_left_out) {
            return Span::default();
        }
        let anchor = Anchor {
            at: Instant::now(),
            unix_ns: u64::try_from(clock.now_ms())
                .unwrap_or_default()
                .saturating_mul(1_000_000),
        };
        Span::open(Arc::clone(queue), anchor, beginning)
    }
}

impl Beginning {
    /// One of `kind`, now, in a trace of its own.
    pub fn new(kind: Kind, name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name: name.into(),
            kind,
            began: Instant::now(),
            parent: None,
            own: None,
            link: None,
        }
    }

    /// It began then.
    #[must_use]
    pub fn at(self, began: Instant) -> Self {
        Self { began, ..self }
    }

    /// It is a child of the span at `parent`, wherever that is.
    #[must_use]
    pub fn within(self, parent: Option<TraceParent>) -> Self {
        Self { parent, ..self }
    }

    /// It is itself the span at `place`.
    #[must_use]
    pub fn being(self, place: TraceParent) -> Self {
        Self {
            own: Some(place),
            ..self
        }
    }

    /// It came from `link`, which is another trace.
    #[must_use]
    pub fn linked(self, link: Option<TraceParent>) -> Self {
        Self { link, ..self }
    }

    /// Its trace and its own id.
    fn place(&self) -> TraceParent {
        let in_trace = |trace_id| TraceParent::sampled(trace_id, SpanId::random());
        match (self.own, self.parent) {
            (Some(own), _) => own,
            (None, Some(parent)) => in_trace(parent.trace_id),
            (None, None) => in_trace(TraceId::random()),
        }
    }
}

impl Span {
    fn open(queue: Arc<Queue>, anchor: Anchor, beginning: Beginning) -> Self {
        let place = beginning.place();
        Self(Some(Arc::new(Open {
            queue,
            anchor,
            place,
            parent: beginning.parent.map(|parent| parent.span_id),
            link: beginning.link,
            kind: beginning.kind,
            began: beginning.began,
            said: Mutex::new(Said {
                name: beginning.name,
                ..Said::default()
            }),
        })))
    }

    /// Begins a part of it now.
    #[must_use]
    pub fn child(&self, kind: Kind, name: impl Into<Cow<'static, str>>) -> Self {
        let Some(open) = &self.0 else {
            return Self::default();
        };
        let beginning = Beginning::new(kind, name).within(Some(open.place));
        Self::open(Arc::clone(&open.queue), open.anchor, beginning)
    }

    /// Tells of a part of it that began then and ends now.
    pub fn past(&self, name: &'static str, began: Instant) -> Self {
        let Some(open) = &self.0 else {
            return Self::default();
        };
        let beginning = Beginning::new(Kind::Internal, name).at(began);
        let beginning = beginning.within(Some(open.place));
        Self::open(Arc::clone(&open.queue), open.anchor, beginning)
    }

    /// Whether it is recorded.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// Its place, for what is a child of it elsewhere.
    #[must_use]
    pub fn place(&self) -> Option<TraceParent> {
        self.0.as_ref().map(|open| open.place)
    }

    /// Says something of it; the last word under a key counts.
    pub fn set(&self, key: &'static str, value: impl Into<Value>) {
        if let Some(mut said) = self.said() {
            said.set(key, value.into());
        }
    }

    /// The same, where there is something to say.
    pub fn set_some(&self, key: &'static str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.set(key, value);
        }
    }

    /// It is about an HTTP request of this method.
    pub fn set_method(&self, method: &Method) {
        self.set("http.request.method", method_name(method));
    }

    /// The request goes to the host of `url`, of which nothing else is told: path and query may hold
    /// secrets.
    pub fn set_server(&self, url: &str) {
        if !self.is_recorded() {
            return;
        }
        let uri: Uri = url.parse().unwrap_or_default();
        let is_plain = uri.scheme_str() == Some("http");
        let port = uri.port_u16().unwrap_or(if is_plain { 80 } else { 443 });
        self.set_some("server.address", uri.host());
        self.set("server.port", i64::from(port));
    }

    /// It was answered with this status: what is ours to answer fails from 500 on, what we asked
    /// for from 400 on.
    pub fn set_status(&self, status: u16) {
        let is_server = self
            .0
            .as_ref()
            .is_some_and(|open| open.kind == Kind::Server);
        let Some(mut said) = self.said() else {
            return;
        };
        said.set("http.response.status_code", i64::from(status).into());
        if status >= if is_server { 500 } else { 400 } {
            said.is_error = true;
            // Whoever knows why has said so.
            if !said.has(ERROR_TYPE) {
                said.set(ERROR_TYPE, status.to_string().as_str().into());
            }
        }
    }

    /// It failed, by this word out of few.
    pub fn fail(&self, word: &str) {
        if let Some(mut said) = self.said() {
            said.set(ERROR_TYPE, word.into());
            said.is_error = true;
        }
    }

    /// It was refused, by this word out of few, which is the fault of whoever asked.
    pub fn refuse(&self, word: &str) {
        self.set(ERROR_TYPE, word);
    }

    /// Nothing of it is told.
    pub fn discard(&self) {
        if let Some(mut said) = self.said() {
            said.is_discarded = true;
        }
    }

    fn said(&self) -> Option<MutexGuard<'_, Said>> {
        let open = self.0.as_ref()?;
        // What is said can't be left half said.
        Some(open.said.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Said {
    fn set(&mut self, key: &'static str, value: Value) {
        self.attributes.retain(|(known, _)| *known != key);
        self.attributes.push((key, value));
    }

    fn has(&self, key: &str) -> bool {
        self.attributes.iter().any(|(known, _)| *known == key)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let said = std::mem::take(self.said.get_mut().unwrap_or_else(PoisonError::into_inner));
        if said.is_discarded {
            return;
        }
        self.queue.push(Finished {
            place: self.place,
            parent: self.parent,
            link: self.link,
            name: said.name,
            kind: self.kind,
            began_ns: self.anchor.unix_ns(self.began),
            ended_ns: self.anchor.unix_ns(Instant::now()),
            attributes: said.attributes,
            is_error: said.is_error,
        });
    }
}

impl Anchor {
    fn unix_ns(&self, at: Instant) -> u64 {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        match at.checked_duration_since(self.at) {
            Some(later) => self.unix_ns.saturating_add(ns(later)),
            None => {
                let earlier = self.at.saturating_duration_since(at);
                self.unix_ns.saturating_sub(ns(earlier))
            }
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        let mut end = text.len().min(LONGEST);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self::Text(text.split_at(end).0.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl std::fmt::Debug for Tracer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tracer")
    }
}

impl std::fmt::Debug for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.place() {
            Some(place) => write!(f, "Span({place})"),
            None => f.write_str("Span"),
        }
    }
}

/// A method as attributes have it: those that nobody knows are one.
#[must_use]
pub fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::CONNECT => "CONNECT",
        Method::DELETE => "DELETE",
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::TRACE => "TRACE",
        _ => "_OTHER",
    }
}

#[cfg(test)]
mod tests;
