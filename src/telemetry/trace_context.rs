//! `traceparent`: to which trace something belongs.
//!
//! Protocol: W3C Trace Context, level 1, “Traceparent Header”. `tracestate` is neither read nor
//! written: nothing that comes here is handed on in the same trace by us.

use std::fmt;

use aws_lc_rs::rand;
use http::HeaderMap;
use sha2::{Digest as _, Sha256};

/// The header's name.
pub const TRACEPARENT: &str = "traceparent";
/// What makes the trace of an event another than any other digest of its id.
const OF_EVENT: &[u8] = b"alipay-sidecar: the trace of an event";
/// The flag that says: whoever sent this may have recorded it.
const SAMPLED: u8 = 1;

/// The id of a trace; never all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// The id of a span within its trace; never all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

/// A place in a trace: the span that what comes next is a child of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: TraceId,
    /// The span.
    pub span_id: SpanId,
    flags: u8,
}

impl TraceParent {
    /// The place that a request says it comes from; `None` where it says nothing, or nothing that
    /// the standard lets one understand, which is the same.
    #[must_use]
    pub fn of_headers(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let (only, None) = (values.next()?, values.next()) else {
            // Which of two is meant, nobody can tell.
            return None;
        };
        Self::parse(only.to_str().ok()?)
    }

    /// Reads a header's value: version 00 exactly, and of later versions what stands where 00 has
    /// it, as the standard asks for.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut fields = text.split('-');
        let [version] = hex(fields.next()?)?;
        let (trace_id, span_id) = (hex(fields.next()?)?, hex(fields.next()?)?);
        let [flags] = hex(fields.next()?)?;
        let ends = fields.next().is_none();
        if version == 0xff || (version == 0 && !ends) {
            return None;
        }
        let is_zero = trace_id == [0; 16] || span_id == [0; 8];
        (!is_zero).then_some(Self {
            trace_id: TraceId(trace_id),
            span_id: SpanId(span_id),
            flags,
        })
    }

    /// A place of ours, which may be recorded.
    #[must_use]
    pub fn sampled(trace_id: TraceId, span_id: SpanId) -> Self {
        Self {
            trace_id,
            span_id,
            flags: SAMPLED,
        }
    }

    /// Where the event with this id was received: the same whenever it is asked for, so that every
    /// delivery of it belongs to one trace, across restarts, and nothing need be stored.
    #[must_use]
    pub fn of_event(id: [u8; 16]) -> Self {
        let digest = Sha256::new().chain_update(OF_EVENT).chain_update(id);
        let digest = digest.finalize();
        let mut digest = digest.iter().copied();
        let mut next = || digest.next().expect("SHA-256 has 32 bytes");
        let trace_id = std::array::from_fn(|_| next());
        let span_id = std::array::from_fn(|_| next());
        Self::sampled(TraceId(unless_zero(trace_id)), SpanId(unless_zero(span_id)))
    }

    /// Whether it may have been recorded there, and then is here.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The flags, as they came.
    #[must_use]
    pub fn flags(&self) -> u8 {
        self.flags
    }
}

impl TraceId {
    /// One that nobody has.
    #[must_use]
    pub fn random() -> Self {
        Self(random())
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0
    }
}

impl SpanId {
    /// One that nobody has.
    #[must_use]
    pub fn random() -> Self {
        Self(random())
    }

    /// Its bytes.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 8] {
        self.0
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace_id,
            span_id,
            flags,
        } = self;
        write!(f, "00-{trace_id}-{span_id}-{flags:02x}")
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // It fails only where the system has no randomness, and then nothing here goes on.
    let _ = rand::fill(&mut bytes);
    unless_zero(bytes)
}

/// All zero stands for none.
fn unless_zero<const N: usize>(mut bytes: [u8; N]) -> [u8; N] {
    if let (true, Some(last)) = (bytes == [0; N], bytes.last_mut()) {
        *last = 1;
    }
    bytes
}

/// Reads exactly `N` bytes of lower-case hex.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let is_hex = |b: u8| b.is_ascii_digit() || matches!(b, b'a'..=b'f');
    if text.len() != 2 * N || !text.bytes().all(is_hex) {
        return None;
    }
    let mut bytes = [0; N];
    let (pairs, _) = text.as_bytes().as_chunks::<2>();
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn what_the_standard_writes_is_read_and_written_again() {
        for flags in ["00", "01", "03", "ff"] {
            let text = format!("{}{flags}", &GOOD[..53]);
            let parent = TraceParent::parse(&text).expect(&text);
            assert_eq!(parent.to_string(), text);
            assert_eq!(parent.is_sampled(), flags != "00");
        }
        let small = "00-00000000000000000000000000000001-0000000000000001-00";
        let parent = TraceParent::parse(small).expect(small);
        assert_eq!(parent.to_string(), small);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = GOOD.replacen("00", "cc", 1);
        for text in [&later, &format!("{later}-what-comes.later")] {
            let parent = TraceParent::parse(text).expect(text);
            assert_eq!(parent.to_string(), GOOD, "{text}");
        }
        for bad in [format!("{later}0"), format!("{later}.x")] {
            assert_eq!(TraceParent::parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn what_the_standard_does_not_write_is_ignored() {
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333x-01",
            " 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn of_two_headers_none_is_meant() {
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, GOOD.parse().expect("a header"));
        assert!(TraceParent::of_headers(&headers).is_some());
        headers.append(TRACEPARENT, GOOD.parse().expect("a header"));
        assert_eq!(TraceParent::of_headers(&headers), None);
    }

    #[test]
    fn the_trace_of_an_event_is_its_own_and_lasts() {
        // Stored nowhere, so it may never become another.
        let expected = "00-907dc99e2804f7f7c1e116b647071236-300738e38f726c04-01";
        assert_eq!(TraceParent::of_event([7; 16]).to_string(), expected);
        assert_ne!(
            TraceParent::of_event([7; 16]),
            TraceParent::of_event([8; 16])
        );
    }

    #[test]
    fn an_id_is_never_all_zero() {
        assert_eq!(unless_zero([0; 8]), [0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(unless_zero([0, 0, 3]), [0, 0, 3]);
        assert_ne!(TraceId::random(), TraceId::random());
    }
}
