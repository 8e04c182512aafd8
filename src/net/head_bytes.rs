//! A head, as its bytes come: what hyper passes over without a word, a `#` in the target, at which it cuts
//! that off; and what it answers by itself, with nothing that tells who refused and why: more fields than it
//! has places for, a longer target than it takes, a byte in that which may not stand there, and what is no
//! version behind it.
//!
//! Of those hyper is given the beginning, up to what it doesn't take, and an end in its place; so the
//! request comes to be refused as every other. It is never taken for what is left of it: the connection is
//! marked before hyper sees the end, and nothing more is read of it.

use memchr::memchr;

use crate::net::head::{HeadFault, MOST_FIELDS};
use crate::net::target_bytes::{Stop, Target};

/// How much of a head has come.
#[derive(Debug)]
pub(crate) struct HeadBytes {
    place: Place,
    fields: usize,
    /// How many bytes came behind its end, if it is known where that is.
    behind: Option<u64>,
}

/// What a first line goes on with behind its target.
const VERSION: &[u8] = b"HTTP/";
/// The same, and how a head ends there.
const REST: &[u8] = b"HTTP/1.1\r\n\r\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// Nothing but line ends, which may stand before it.
    Unbegun,
    Method,
    Target(Target),
    /// So many bytes of the rest of the first line, as far as these are `VERSION`.
    Version(usize),
    /// The beginning of a line.
    Start,
    Field,
    Over,
}

/// What was found in some bytes of a head.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// A `#` in its first line.
    pub(crate) has_fragment: bool,
    /// What hyper wouldn't take.
    pub(crate) cut: Option<Cut>,
}

/// Where that begins, what it is, and how a head goes on there that ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) at: usize,
    pub(crate) fault: HeadFault,
    pub(crate) end: &'static [u8],
}

impl HeadBytes {
    /// A head that begins with the bytes that come next.
    pub(crate) fn begins() -> Self {
        Self {
            place: Place::Unbegun,
            fields: 0,
            behind: Some(0),
        }
    }

    /// What comes next isn't looked at: it may be anything.
    pub(crate) fn unknown() -> Self {
        Self {
            place: Place::Over,
            fields: 0,
            behind: None,
        }
    }

    /// What comes next goes on with a head somewhere, or begins it: its end can be seen, and how many fields
    /// there are till then.
    pub(crate) fn goes_on_somewhere() -> Self {
        Self {
            place: Place::Field,
            fields: 0,
            behind: Some(0),
        }
    }

    /// How many bytes more than `length` came behind its end, if that can be said.
    pub(crate) fn more_than(&self, length: u64) -> Option<u64> {
        let behind = self.behind.filter(|_| self.place == Place::Over)?;
        behind.checked_sub(length)
    }

    /// `bytes` came when hyper had seen its end.
    pub(crate) fn is_followed(&mut self, bytes: &[u8]) {
        match self.place {
            Place::Over => self.count(bytes),
            // We don't see the end where hyper does.
            _ => *self = Self::unknown(),
        }
    }

    fn count(&mut self, bytes: &[u8]) {
        let count = bytes.len() as u64;
        self.behind = self.behind.map(|behind| behind.saturating_add(count));
    }

    /// Goes on with `bytes`.
    pub(crate) fn goes_on(&mut self, bytes: &[u8]) -> Found {
        let mut found = Found::default();
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            found.has_fragment |= *byte == b'#' && self.place < Place::Start;
            self.place = match (self.place, byte) {
                (Place::Over, _) => {
                    self.count(bytes.get(at..).unwrap_or_default());
                    return found;
                }
                (Place::Unbegun, b'\r' | b'\n') => Place::Unbegun,
                (Place::Unbegun | Place::Method, b' ') => Place::Target(Target::default()),
                (Place::Method, b'\n') => Place::Start,
                (Place::Version(length), b'\n') if length == VERSION.len() => Place::Start,
                (Place::Unbegun | Place::Method, _) => Place::Method,
                (Place::Version(length), _) if !goes_on(length, *byte) => {
                    let end = REST.get(length..).unwrap_or_default();
                    return self.cut(found, (at, HeadFault::Version, end));
                }
                (Place::Version(length), _) => Place::Version(VERSION.len().min(length + 1)),
                (Place::Target(target), _) => match target.next(*byte) {
                    Ok(target) => Place::Target(target),
                    Err(Stop::End) => Place::Version(0),
                    Err(Stop::Refused) => {
                        return self.cut(found, (at, HeadFault::TargetByte, target.end()));
                    }
                    Err(Stop::TooLong) => {
                        return self.cut(found, (at, HeadFault::TooLarge, target.end()));
                    }
                },
                (Place::Start, b'\r') => Place::Start,
                (Place::Start, b'\n') => Place::Over,
                (Place::Start, _) if self.fields == MOST_FIELDS => {
                    return self.cut(found, (at, HeadFault::TooLarge, b"\r\n"));
                }
                (Place::Start, _) => {
                    self.fields += 1;
                    Place::Field
                }
                (Place::Field, _) => {
                    let rest = bytes.get(at..).unwrap_or_default();
                    let Some(length) = memchr(b'\n', rest) else {
                        return found;
                    };
                    at += length;
                    Place::Start
                }
            };
            at += 1;
        }
        found
    }

    fn cut(&mut self, found: Found, (at, fault, end): (usize, HeadFault, &'static [u8])) -> Found {
        self.place = Place::Over;
        let cut = Some(Cut { at, fault, end });
        Found { cut, ..found }
    }
}

/// Whether a version may go on with `byte` after `length` bytes; which version it is, is hyper's to judge.
fn goes_on(length: usize, byte: u8) -> bool {
    VERSION.get(length).is_none_or(|expected| *expected == byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::target_bytes::LONGEST as LONGEST_TARGET;

    /// Reads a head in pieces.
    fn has_fragment(pieces: &[&str]) -> bool {
        let mut head = HeadBytes::begins();
        let mut found = pieces.iter().map(|piece| head.goes_on(piece.as_bytes()));
        found.any(|found| found.has_fragment)
    }

    #[test]
    fn a_fragment_is_found_in_the_first_line_alone() {
        assert!(has_fragment(&["GET /a#b HTTP/1.1\r\n"]));
        assert!(has_fragment(&["\r\n\r\nGET /a", "?x=", "#b HTTP/1.1\r\n"]));
        assert!(!has_fragment(&["GET /a HTTP/1.1\r\nx: #\r\n\r\n#"]));
        assert!(!has_fragment(&["\r\nGET /a HTTP/1.1\r", "\nx: #\r\n"]));
    }

    /// What is left of `head`, given in pieces of `length` bytes.
    fn left(head: &str, length: usize) -> String {
        let (mut read, mut left) = (HeadBytes::begins(), Vec::new());
        for piece in head.as_bytes().chunks(length) {
            if let Some(cut) = read.goes_on(piece).cut {
                left.extend(&piece[..cut.at]);
                left.extend(cut.end);
                break;
            }
            left.extend(piece);
        }
        String::from_utf8(left).expect("ASCII")
    }

    #[test]
    fn too_much_of_a_head_is_cut_off_wherever_it_is_divided() {
        let fields = |count: usize, line: &str| line.repeat(count);
        let target = |length: usize| format!("GET {} HTTP/1.1\r\n", "x".repeat(length));
        for (head, expected) in [
            (
                format!("GET / HTTP/1.1\r\n{}", fields(MOST_FIELDS, "a: b\r\n")),
                fields(1, "c: d\r\n\r\n"),
            ),
            (
                format!("\nP / HTTP/1.1\n{}", fields(MOST_FIELDS, ":\n")),
                fields(9, "c:\n"),
            ),
        ] {
            for length in [1, 7, 501, usize::MAX] {
                let whole = format!("{head}\r\nGET / HTTP/1.1\r\n{}", fields(600, "a:\r\n"));
                assert_eq!(left(&whole, length), whole, "as many as may be");
                let cut = left(&format!("{head}{expected}"), length);
                assert_eq!(cut, format!("{head}\r\n"));
            }
        }
        for length in [1, 4096, 65_535, usize::MAX] {
            let whole = format!("{}a: b\r\n\r\n", target(LONGEST_TARGET));
            assert_eq!(left(&whole, length), whole);
            let cut = left(
                &format!("{}a: b\r\n\r\n", target(LONGEST_TARGET + 1)),
                length,
            );
            assert_eq!(cut, format!("{}\r\n", target(LONGEST_TARGET)));
        }
    }

    #[test]
    fn a_byte_that_may_not_stand_in_a_target_is_cut_off_with_what_is_behind_it() {
        for length in [1, 3, usize::MAX] {
            for (head, expected) in [
                (
                    "GET /a?b={\"c\":1} HTTP/1.1\r\n",
                    "GET /a?b={ HTTP/1.1\r\n\r\n",
                ),
                ("GET /a?b=\n HTTP/1.1\r\n", "GET /a?b= HTTP/1.1\r\n\r\n"),
                ("GET /a\r\n", "GET /a HTTP/1.1\r\n\r\n"),
                ("\r\nGET <a HTTP/1.1\r\n", "\r\nGET / HTTP/1.1\r\n\r\n"),
                ("GET  /a HTTP/1.1\r\n", "GET / HTTP/1.1\r\n\r\n"),
            ] {
                assert_eq!(left(head, length), expected);
                let cut = HeadBytes::begins().goes_on(head.as_bytes()).cut;
                assert_eq!(cut.map(|cut| cut.fault), Some(HeadFault::TargetByte));
            }
            for behind in ["b HTTP/1.1", "HTML HTTP/1.1", "http/1.1", "HTTP", ""] {
                for line_end in ["\r\n", "\n"] {
                    let head = format!("GET /a {behind}{line_end}");
                    assert_eq!(left(&head, length), "GET /a HTTP/1.1\r\n\r\n");
                    let cut = HeadBytes::begins().goes_on(head.as_bytes()).cut;
                    assert_eq!(cut.map(|cut| cut.fault), Some(HeadFault::Version));
                }
            }
            for whole in [
                "GET /a?b={支} HTTP/1.1\r\nc: \"<\r\n\r\n\"<>",
                "PRI * HTTP/2.0\r\n\r\n",
            ] {
                assert_eq!(left(whole, length), whole);
            }
        }
    }

    #[test]
    fn what_comes_behind_the_end_is_counted_however_it_is_divided() {
        let whole = b"\r\nGET /#x HTTP/1.1\r\nX: #\r\n\r\n\n{\"}#";
        for at in 0..whole.len() {
            let (begun, rest) = whole.split_at(at);
            let mut head = HeadBytes::begins();
            head.goes_on(begun);
            assert!(head.more_than(5).is_none(), "{at}");
            head.goes_on(rest);
            assert_eq!(head.more_than(5), Some(0), "{at}");
            head.is_followed(b"#");
            assert_eq!(head.more_than(5), Some(1), "{at}");
        }
        // Where we see no end, it isn't known how much comes behind it.
        let mut head = HeadBytes::begins();
        head.goes_on(b"GET / HTTP/1.1\r\n");
        head.is_followed(b"\r\n");
        assert_eq!(head.more_than(0), None);
        assert_eq!(head.goes_on(b"GET /#\""), Found::default());
    }

    #[test]
    fn a_head_that_began_somewhere_ends_at_an_empty_line_and_may_have_as_many_fields() {
        for begun in ["GET /#\" HTTP/1.1\r\n", "#\"\r\n", "TP/1.1\r\n"] {
            let mut head = HeadBytes::goes_on_somewhere();
            let rest = format!("{begun}{}\r\n{{}}", "a: b\r\n".repeat(MOST_FIELDS));
            assert_eq!(head.goes_on(rest.as_bytes()), Found::default());
            assert_eq!(head.more_than(2), Some(0));
            let rest = format!("{begun}{}\r\n{{}}", "a: b\r\n".repeat(MOST_FIELDS + 1));
            let cut = HeadBytes::goes_on_somewhere().goes_on(rest.as_bytes()).cut;
            assert_eq!(cut.map(|cut| cut.fault), Some(HeadFault::TooLarge));
        }
    }

    #[test]
    fn what_may_be_anything_is_left_alone() {
        let mut head = HeadBytes::unknown();
        let found = head.goes_on("#".repeat(70_000).as_bytes());
        assert_eq!(found, Found::default());
    }
}
