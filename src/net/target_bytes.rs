//! A request target, as its bytes come: where one stands in it that hyper refuses, with a bare `400` that
//! tells nobody why. `httparse` looks for control bytes and for UTF-8, `http` for some more; which, depends
//! on whether it is the path or the query that they stand in.

/// The longest target that hyper takes, bytes: with any field a head over the limit.
pub(super) const LONGEST: usize = 65_534;

/// How much of a target has come, of which hyper takes all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Target {
    length: usize,
    part: Part,
    character: Character,
}

/// Why a target doesn't go on with some byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// A space, behind which the version comes.
    End,
    /// A byte that hyper refuses there.
    Refused,
    /// It would be longer than hyper takes.
    TooLong,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    #[default]
    Path,
    Query,
    /// Behind a `#`, where hyper drops it.
    Fragment,
}

/// What is still to come of a character in UTF-8.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Character {
    #[default]
    Whole,
    One,
    Two,
    Three,
    /// After a first byte with which not every second one goes.
    AfterE0,
    AfterEd,
    AfterF0,
    AfterF4,
}

impl Target {
    /// Goes on with `byte`.
    pub(super) fn next(self, byte: u8) -> Result<Self, Stop> {
        let character = self.character.next(byte).ok_or(Stop::Refused)?;
        if byte == b' ' {
            let is_there = self.length > 0;
            return Err(if is_there { Stop::End } else { Stop::Refused });
        }
        if !self.part.takes(byte) {
            return Err(Stop::Refused);
        }
        let length = self.length + 1;
        // Before a character that wouldn't have a place to its end.
        if length + character.left() > LONGEST {
            return Err(Stop::TooLong);
        }
        Ok(Self {
            length,
            part: self.part.next(byte),
            character,
        })
    }

    /// How a head goes on here that ends, in a way that hyper takes, unless what has come is less than an
    /// authority.
    pub(super) fn end(self) -> &'static [u8] {
        match self.character {
            Character::Whole if self.length == 0 => b"/ HTTP/1.1\r\n\r\n",
            Character::Whole => b" HTTP/1.1\r\n\r\n",
            Character::One => b"\x80 HTTP/1.1\r\n\r\n",
            Character::Two | Character::AfterEd => b"\x80\x80 HTTP/1.1\r\n\r\n",
            Character::AfterE0 => b"\xA0\x80 HTTP/1.1\r\n\r\n",
            Character::Three | Character::AfterF4 => b"\x80\x80\x80 HTTP/1.1\r\n\r\n",
            Character::AfterF0 => b"\x90\x80\x80 HTTP/1.1\r\n\r\n",
        }
    }
}

impl Part {
    fn takes(self, byte: u8) -> bool {
        match byte {
            0..=b' ' | 0x7F => false,
            b'<' | b'>' => self == Self::Fragment,
            b'"' => self != Self::Query,
            b'`' => self != Self::Path,
            _ => true,
        }
    }

    fn next(self, byte: u8) -> Self {
        match (self, byte) {
            (_, b'#') => Self::Fragment,
            (Self::Path, b'?') => Self::Query,
            (part, _) => part,
        }
    }
}

impl Character {
    fn next(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Whole, 0..=0x7F) | (Self::One, 0x80..=0xBF) => Self::Whole,
            (Self::Whole, 0xC2..=0xDF)
            | (Self::Two, 0x80..=0xBF)
            | (Self::AfterE0, 0xA0..=0xBF)
            | (Self::AfterEd, 0x80..=0x9F) => Self::One,
            (Self::Whole, 0xE0) => Self::AfterE0,
            (Self::Whole, 0xED) => Self::AfterEd,
            (Self::Whole, 0xE1..=0xEF)
            | (Self::Three, 0x80..=0xBF)
            | (Self::AfterF0, 0x90..=0xBF)
            | (Self::AfterF4, 0x80..=0x8F) => Self::Two,
            (Self::Whole, 0xF0) => Self::AfterF0,
            (Self::Whole, 0xF1..=0xF3) => Self::Three,
            (Self::Whole, 0xF4) => Self::AfterF4,
            _ => return None,
        })
    }

    /// How many bytes.
    fn left(self) -> usize {
        match self {
            Self::Whole => 0,
            Self::One => 1,
            Self::Two | Self::AfterE0 | Self::AfterEd => 2,
            Self::Three | Self::AfterF0 | Self::AfterF4 => 3,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body_util::Empty;
    use hyper::body::Incoming;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Whether hyper hands a request with that target to its handler.
    async fn is_taken(target: &[u8]) -> bool {
        let (mut near, far) = tokio::io::duplex(256 << 10);
        let head = [b"GET ", target, b" HTTP/1.1\r\n\r\n"].concat();
        near.write_all(&head).await.expect("written");
        near.shutdown().await.expect("shut");
        let service = hyper::service::service_fn(|_: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        });
        let _ = hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(far), service)
            .await;
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.expect("read");
        answer.starts_with(b"HTTP/1.1 200")
    }

    /// Reads a target and the space behind it; tells what is made of one that isn't taken.
    fn read(target: &[u8]) -> Result<(), (Stop, Vec<u8>)> {
        let mut read = Target::default();
        for (at, byte) in target.iter().chain(b" ").enumerate() {
            match read.next(*byte) {
                Ok(next) => read = next,
                Err(Stop::End) => return Ok(()),
                Err(stop) => return Err((stop, [&target[..at], read.end()].concat())),
            }
        }
        panic!("a space ends a target");
    }

    /// That `target` is read as hyper takes it, and that hyper takes what is made of one it refuses.
    async fn check(target: &[u8]) {
        let shown = target.escape_ascii();
        match read(target) {
            Ok(()) => assert!(is_taken(target).await, "{shown} isn't taken"),
            Err((_, left)) => {
                assert!(!is_taken(target).await, "{shown} is taken");
                let left = left.strip_suffix(b" HTTP/1.1\r\n\r\n").expect("an end");
                assert!(is_taken(left).await, "{shown}: {}", left.escape_ascii());
            }
        }
    }

    #[tokio::test]
    async fn what_hyper_refuses_of_a_target_is_refused_and_nothing_else() {
        let places: [(&[u8], &[u8]); 8] = [
            (b"/", b""),
            (b"/a", b"b"),
            (b"/a?", b""),
            (b"/a?b=?", b"c"),
            (b"/a#", b""),
            (b"/a?b#c?", b"d"),
            (b"http://h/a", b"b"),
            (b"http://h/a?b=", b"c"),
        ];
        for byte in (0..=u8::MAX).filter(|byte| *byte != b' ') {
            for (before, behind) in places {
                check(&[before, &[byte], behind].concat()).await;
            }
        }
        check(b"").await;
        check(b"*").await;
        check(b"h:1").await;
    }

    #[tokio::test]
    async fn what_is_no_utf_8_is_refused_wherever_it_breaks_off() {
        for first in 0xBF..=u8::MAX {
            for second in [0x7E, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0] {
                for rest in [&b""[..], b"\x80", b"\xBF\x80", b"\x80a", b"\x80#", b"\x80?"] {
                    for place in [&b"/a"[..], b"/?", b"/#"] {
                        check(&[place, &[first, second], rest].concat()).await;
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn a_longer_target_than_hyper_takes_is_told_before_a_character_is_divided() {
        for letter in ["x", "é", "支", "😀"] {
            for before in 0..letter.len() {
                let length = (LONGEST - 1 - before) / letter.len();
                let most = format!("/{}{}", "x".repeat(before), letter.repeat(length));
                for target in [most.clone(), most + letter] {
                    check(target.as_bytes()).await;
                }
            }
        }
    }

    #[test]
    fn a_target_ends_with_something_even_if_nothing_of_it_may_stand_there() {
        let left = b"/ HTTP/1.1\r\n\r\n".to_vec();
        assert_eq!(read(b"<"), Err((Stop::Refused, left)));
    }
}
