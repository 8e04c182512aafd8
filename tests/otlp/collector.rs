//! A collector that reads what it gets, by a reader of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::support::PATIENCE;
use crate::support::backend::{FakeBackend, Seen};

/// It, on a port of its own.
pub struct Collector {
    pub server: FakeBackend,
    got: Mutex<Got>,
}

#[derive(Default)]
struct Got {
    spans: Vec<Span>,
    bodies: Vec<Bytes>,
}

/// A span as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub trace_id: String,
    pub span_id: String,
    pub parent: String,
    pub name: String,
    pub kind: u64,
    pub began: u64,
    pub ended: u64,
    pub attributes: BTreeMap<String, String>,
    /// The trace that it is linked with.
    pub link: String,
    pub is_error: bool,
    /// What its sender says of itself.
    pub resource: BTreeMap<String, String>,
}

pub const INTERNAL: u64 = 1;
pub const SERVER: u64 = 2;
pub const CLIENT: u64 = 3;

impl Collector {
    pub async fn start() -> Self {
        Self {
            server: FakeBackend::start().await,
            got: Mutex::default(),
        }
    }

    /// Its address, as it is configured.
    pub fn endpoint(&self) -> Option<String> {
        Some(self.server.url(""))
    }

    /// Waits until `enough` is there; gives all that has come.
    pub async fn until(&self, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let mut got = self.got.lock().await;
        while !enough(&got.spans) {
            let next = tokio::time::timeout(PATIENCE, self.server.next()).await;
            let Ok(seen) = next else {
                panic!("not enough: {:#?}", got.spans);
            };
            got.take(seen);
        }
        got.spans.clone()
    }

    /// Waits for this many spans in all.
    pub async fn spans(&self, many: usize) -> Vec<Span> {
        self.until(|spans| spans.len() >= many).await
    }

    /// All that has come and comes within the time in which spans are sent.
    pub async fn all(&self) -> Vec<Span> {
        let mut got = self.got.lock().await;
        let pause = Duration::from_millis(1500);
        while let Ok(seen) = tokio::time::timeout(pause, self.server.next()).await {
            got.take(seen);
        }
        got.spans.clone()
    }

    /// The bytes of all that was read.
    pub async fn bytes(&self) -> Vec<u8> {
        self.got.lock().await.bodies.concat()
    }
}

impl Got {
    fn take(&mut self, seen: Seen) {
        assert_eq!(seen.path, "/v1/traces");
        assert_eq!(seen.header("content-type"), "application/x-protobuf");
        assert_eq!(seen.header("traceparent"), "", "the way to it is no trace");
        self.spans.extend(read(&seen.body));
        self.bodies.push(seen.body);
    }
}

/// The fields of a message, by number.
struct Message<'b>(Vec<(u64, Field<'b>)>);

#[derive(Clone, Copy)]
enum Field<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

impl<'b> Message<'b> {
    fn read(mut bytes: &'b [u8]) -> Self {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let field = match key & 7 {
                0 => Field::Number(varint(&mut bytes)),
                1 => Field::Number(little_endian(cut(&mut bytes, 8))),
                2 => {
                    let length = usize::try_from(varint(&mut bytes)).expect("small");
                    Field::Bytes(cut(&mut bytes, length))
                }
                5 => Field::Number(little_endian(cut(&mut bytes, 4))),
                other => panic!("no wire type: {other}"),
            };
            fields.push((key >> 3, field));
        }
        Self(fields)
    }

    fn all(&self, number: u64) -> impl Iterator<Item = Field<'b>> + '_ {
        let those = self.0.iter().filter(move |(n, _)| *n == number);
        those.map(|(_, field)| *field)
    }

    fn messages(&self, number: u64) -> impl Iterator<Item = Message<'b>> + '_ {
        self.all(number).map(move |field| match field {
            Field::Bytes(bytes) => Message::read(bytes),
            Field::Number(_) => panic!("{number} is no message"),
        })
    }

    fn bytes(&self, number: u64) -> &'b [u8] {
        match self.all(number).next() {
            None => &[],
            Some(Field::Bytes(bytes)) => bytes,
            Some(Field::Number(_)) => panic!("{number} is a number"),
        }
    }

    fn text(&self, number: u64) -> String {
        String::from_utf8(self.bytes(number).to_vec()).expect("text")
    }

    fn hex(&self, number: u64) -> String {
        let bytes = self.bytes(number).iter();
        bytes.map(|byte| format!("{byte:02x}")).collect()
    }

    fn number(&self, number: u64) -> u64 {
        match self.all(number).next() {
            None => 0,
            Some(Field::Number(found)) => found,
            Some(Field::Bytes(_)) => panic!("{number} is no number"),
        }
    }

    /// What stands in key and value; a key stands there once.
    fn attributes(&self, number: u64) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        for attribute in self.messages(number) {
            let value = attribute.messages(2).next().expect("a value");
            let value = match value.0.first().expect("one of them") {
                (1, _) => value.text(1),
                (3, _) => value.number(3).to_string(),
                (other, _) => panic!("no type of value is used here: {other}"),
            };
            let former = all.insert(attribute.text(1), value);
            assert_eq!(former, None, "{}", attribute.text(1));
        }
        all
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    loop {
        let byte = cut(bytes, 1)[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return number;
        }
        shift += 7;
    }
}

fn cut<'b>(bytes: &mut &'b [u8], length: usize) -> &'b [u8] {
    let (cut, rest) = bytes.split_at(length);
    *bytes = rest;
    cut
}

fn little_endian(bytes: &[u8]) -> u64 {
    let bytes = bytes.iter().rev();
    bytes.fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The spans of an `ExportTraceServiceRequest`.
fn read(body: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for resource_spans in Message::read(body).messages(1) {
        let resource = resource_spans.messages(1).next().expect("a resource");
        let resource = resource.attributes(1);
        for scope_spans in resource_spans.messages(2) {
            let scope = scope_spans.messages(1).next().expect("a scope");
            assert_eq!(scope.text(1), "alipay-sidecar");
            spans.extend(scope_spans.messages(2).map(|span| of(&span, &resource)));
        }
    }
    spans
}

fn of(span: &Message<'_>, resource: &BTreeMap<String, String>) -> Span {
    assert_eq!(span.number(16), 1, "sampled");
    let link = span.messages(13).next();
    let status = span.messages(15).next();
    Span {
        trace_id: span.hex(1),
        span_id: span.hex(2),
        parent: span.hex(4),
        name: span.text(5),
        kind: span.number(6),
        began: span.number(7),
        ended: span.number(8),
        attributes: span.attributes(9),
        link: link.map(|link| link.hex(1)).unwrap_or_default(),
        is_error: status.is_some_and(|status| status.number(3) == 2),
        resource: resource.clone(),
    }
}

impl Span {
    /// An attribute, or nothing.
    pub fn says(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}
