//! Spans as OTLP has them: an `ExportTraceServiceRequest`, binary.
//!
//! Protocol: OpenTelemetry Protocol 1.x, `opentelemetry/proto/collector/trace/v1/trace_service.proto`
//! and what it imports; the numbers here are those of its fields. OpenTelemetry's own library wrote
//! what the test below compares with (`tests/otlp/witness`).

use crate::telemetry::otlp::protobuf::Message;
use crate::telemetry::span::{Finished, Kind, Value};
use crate::telemetry::trace_context::TraceParent;

mod protobuf;

/// The media type of a request.
pub(super) const CONTENT_TYPE: &str = "application/x-protobuf";
/// What we call ourselves, as a service and as what made the spans.
const NAME: &str = env!("CARGO_PKG_NAME");

/// Who sends.
#[derive(Debug)]
pub(super) struct Sender {
    /// The program's version.
    pub(super) version: &'static str,
    /// What tells one sidecar from another.
    pub(super) instance: String,
}

/// The request that hands `spans` over.
pub(super) fn request(spans: &[Finished], sender: &Sender) -> Vec<u8> {
    let mut scope_spans = Message::default();
    scope_spans.message(1, scope(sender));
    for finished in spans {
        scope_spans.message(2, span(finished));
    }
    let mut resource_spans = Message::default();
    resource_spans.message(1, resource(sender));
    resource_spans.message(2, scope_spans);
    let mut request = Message::default();
    request.message(1, resource_spans);
    request.into_bytes()
}

fn resource(sender: &Sender) -> Message {
    let mut resource = Message::default();
    for (key, value) in [
        ("service.name", NAME),
        ("service.version", sender.version),
        ("service.instance.id", &sender.instance),
    ] {
        resource.message(1, attribute(key, &Value::from(value)));
    }
    resource
}

fn scope(sender: &Sender) -> Message {
    let mut scope = Message::default();
    scope.text(1, NAME);
    scope.text(2, sender.version);
    scope
}

fn span(finished: &Finished) -> Message {
    let mut span = Message::default();
    span.bytes(1, &finished.place.trace_id.to_bytes());
    span.bytes(2, &finished.place.span_id.to_bytes());
    if let Some(parent) = finished.parent {
        span.bytes(4, &parent.to_bytes());
    }
    span.text(5, &finished.name);
    span.number(6, kind(finished.kind));
    span.fixed64(7, finished.began_ns);
    span.fixed64(8, finished.ended_ns);
    for (key, value) in &finished.attributes {
        span.message(9, attribute(key, value));
    }
    if let Some(from) = finished.link {
        span.message(13, link(from));
    }
    if finished.is_error {
        let mut status = Message::default();
        status.number(3, STATUS_ERROR);
        span.message(15, status);
    }
    span.fixed32(16, finished.place.flags().into());
    span
}

fn link(from: TraceParent) -> Message {
    let mut link = Message::default();
    link.bytes(1, &from.trace_id.to_bytes());
    link.bytes(2, &from.span_id.to_bytes());
    link.fixed32(6, from.flags().into());
    link
}

fn attribute(key: &str, value: &Value) -> Message {
    let mut any = Message::default();
    match value {
        Value::Text(text) => any.text(1, text),
        // Two's complement, as protobuf writes negative numbers of this type.
        Value::Number(number) => any.number(3, number.cast_unsigned()),
    }
    let mut attribute = Message::default();
    attribute.text(1, key);
    attribute.message(2, any);
    attribute
}

/// `Status.StatusCode`: it failed.
const STATUS_ERROR: u64 = 2;

/// `Span.SpanKind`.
fn kind(kind: Kind) -> u64 {
    match kind {
        Kind::Internal => 1,
        Kind::Server => 2,
        Kind::Client => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::trace_context::SpanId;

    fn place(text: &str) -> TraceParent {
        TraceParent::parse(text).expect(text)
    }

    fn finished(kind: Kind, (name, own): (&'static str, &str), parent: Option<&str>) -> Finished {
        Finished {
            place: place(own),
            parent: parent.map(span_id),
            link: None,
            name: name.into(),
            kind,
            began_ns: 0,
            ended_ns: 0,
            attributes: Vec::new(),
            is_error: false,
        }
    }

    fn span_id(hex: &str) -> SpanId {
        place(&format!("00-0af7651916cd43dd8448eb211c80319c-{hex}-01")).span_id
    }

    /// The spans of `tests/otlp/witness/request.json`.
    fn spans() -> [Finished; 4] {
        let call = "00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01";
        let receipt = "00-4bf92f3577b34da6a3ce929d0e0e4736-53995c3f42cd8ad8-01";
        let attempt = "00-4bf92f3577b34da6a3ce929d0e0e4736-00000000000000ff-01";
        let part = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000001-01";
        let parent = Some("b7ad6b7169203331");
        [
            Finished {
                began_ns: 1_795_335_630_000_000_001,
                ended_ns: 1_795_335_630_012_345_678,
                attributes: vec![
                    ("http.request.method", "POST".into()),
                    ("http.response.status_code", 502.into()),
                    ("error.type", "upstream-unreachable".into()),
                    ("a.negative.number", (-2).into()),
                ],
                is_error: true,
                ..finished(Kind::Server, ("POST /v2/{method}", call), parent)
            },
            Finished {
                began_ns: 1_795_335_631_000_000_000,
                ended_ns: 1_795_335_631_000_000_000,
                link: Some(place(
                    "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-03",
                )),
                ..finished(Kind::Server, ("POST /alipay/notify/{path}", receipt), None)
            },
            Finished {
                began_ns: 1_795_335_631_000_000_002,
                ended_ns: 1_795_335_632_000_000_003,
                attributes: vec![
                    ("server.address", "例子.example".into()),
                    ("server.port", 3000.into()),
                ],
                ..finished(Kind::Client, ("POST", attempt), Some("53995c3f42cd8ad8"))
            },
            Finished {
                began_ns: 1_795_335_631_000_000_004,
                ended_ns: 1_795_335_631_000_000_005,
                ..finished(Kind::Internal, ("sign", part), Some("00000000000000ff"))
            },
        ]
    }

    #[test]
    fn spans_are_written_as_opentelemetrys_own_library_writes_them() {
        let witness = include_bytes!("../../../tests/otlp/witness/request.bin");
        let sender = Sender {
            version: "0.1.0",
            instance: "an-instance".to_owned(),
        };
        assert_eq!(request(&spans(), &sender), witness);
    }
}
