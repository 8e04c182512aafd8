//! The heads of a connection, looked at as their bytes come: of one that hyper wouldn't take the beginning
//! is given on, and an end in place of the rest (see [`head_bytes`](super::head_bytes)).

use tokio::io::ReadBuf;

use crate::net::answering::Answering;
use crate::net::head_bytes::{Cut, HeadBytes};

/// The first byte of a handshake of TLS; that of a method is a letter.
const TLS: u8 = 0x16;

/// A line end, and a line with nothing in it, which ends a head; the `\r` may be missing.
const EMPTY_LINE: &[u8; 3] = b"\n\r\n";

/// Looks at what was read of a connection.
#[derive(Debug)]
pub(crate) struct Heads {
    answering: Answering,
    /// The last that began.
    head: Option<Head>,
    /// The last bytes that came; a connection begins as if behind an empty line.
    last: [u8; 3],
    /// What is still to be given of the end of a head that was cut off. Nothing is read any more.
    end: &'static [u8],
}

/// A head that has begun to arrive.
#[derive(Debug)]
struct Head {
    /// How many requests had begun and ended before it.
    turn: u64,
    bytes: HeadBytes,
}

impl Heads {
    pub(crate) fn new(answering: Answering) -> Self {
        Self {
            answering,
            head: None,
            last: *EMPTY_LINE,
            end: b"",
        }
    }

    /// Looks at what `buffer` has from `before` on, which has just arrived, and cuts off what hyper wouldn't take.
    pub(crate) fn arrived(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let bytes = buffer.filled().get(before..).unwrap_or_default();
        if let Some(cut) = self.look(bytes) {
            // Before the end of the head is seen, so that nobody takes it for the whole.
            self.answering.note_cut(cut.fault);
            buffer.set_filled(before + cut.at);
            self.end = cut.end;
            self.give_end(buffer);
        }
    }

    /// Gives of the end of a head that was cut off as much as there is room for; once all of it was given,
    /// it looks as if the peer had ended, too.
    pub(crate) fn give_end(&mut self, buffer: &mut ReadBuf<'_>) {
        let (now, later) = self.end.split_at(self.end.len().min(buffer.remaining()));
        buffer.put_slice(now);
        self.end = later;
    }

    /// Tells where that begins which hyper wouldn't take.
    fn look(&mut self, bytes: &[u8]) -> Option<Cut> {
        let turn = self.answering.turn();
        let is_answered = turn.is_multiple_of(2);
        if is_answered && self.head.as_ref().is_none_or(|head| head.turn != turn) {
            self.begin(turn, bytes);
        }
        self.note_last(bytes);
        let head = self.head.as_mut()?;
        if !is_answered {
            head.bytes.is_followed(bytes);
            return None;
        }
        let found = head.bytes.goes_on(bytes);
        if found.has_fragment {
            self.answering.note_fragment(true);
        }
        found.cut
    }

    /// `bytes` are the first that came since all requests were answered.
    fn begin(&mut self, turn: u64, bytes: &[u8]) {
        let is_sure = self.is_at_beginning(turn);
        if is_sure && bytes.first() == Some(&TLS) {
            self.answering.note_tls();
        }
        let is_line_end = bytes
            .first()
            .is_none_or(|byte| matches!(byte, b'\r' | b'\n'));
        let bytes = match is_sure {
            true => HeadBytes::begins(),
            // hyper has no more than a part of a head, without an empty line: the next one, of which nothing came
            // before, is its end.
            false if !is_line_end && !self.answering.is_unread() => HeadBytes::goes_on_somewhere(),
            false => HeadBytes::unknown(),
        };
        self.head = Some(Head { turn, bytes });
        self.answering.note_fragment(false);
    }

    /// Whether what comes next is sure to begin a head: whether hyper has used all that came, but for line
    /// ends. Otherwise a part of a head may have come with what was before it, or more of a body may come.
    fn is_at_beginning(&self, turn: u64) -> bool {
        // The body of the last request has come, and no more than a line end.
        let length = self.answering.length();
        let is_counted = self.head.as_ref().is_some_and(|head| {
            let is_last = turn == head.turn + 2;
            let more = length.and_then(|length| head.bytes.more_than(length));
            is_last && more.is_some_and(|more| self.are_line_ends(more))
        });
        // hyper reads more for a head only where what it has is none yet; and what ends with an empty line, and
        // isn't line ends alone, would be one. (So it is known behind a body that tells its end itself.)
        is_counted || self.is_behind_empty_line() && !self.answering.is_unread()
    }

    /// Whether the last `count` bytes that came are line ends, which hyper passes over before a head.
    fn are_line_ends(&self, count: u64) -> bool {
        let mut last = self.last.iter().rev();
        count <= 2
            && (0..count).all(|_| {
                last.next()
                    .is_some_and(|byte| matches!(byte, b'\r' | b'\n'))
            })
    }

    fn is_behind_empty_line(&self) -> bool {
        self.last == *EMPTY_LINE || self.last.ends_with(b"\n\n")
    }

    fn note_last(&mut self, bytes: &[u8]) {
        for byte in bytes
            .iter()
            .skip(bytes.len().saturating_sub(self.last.len()))
        {
            let [_, second, third] = self.last;
            self.last = [second, third, *byte];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::head::MOST_FIELDS;

    /// What is read of `sent` by who has room for `size` bytes at a time.
    fn read(answering: &Answering, sent: &str, size: usize) -> String {
        let mut heads = Heads::new(answering.clone());
        let (mut read, mut sent) = (Vec::new(), sent.as_bytes());
        loop {
            let mut room = vec![0; size];
            let mut buffer = ReadBuf::new(&mut room);
            if answering.is_cut_off() {
                heads.give_end(&mut buffer);
            } else {
                let (now, later) = sent.split_at(sent.len().min(size));
                buffer.put_slice(now);
                sent = later;
                heads.arrived(&mut buffer, 0);
            }
            if buffer.filled().is_empty() {
                return String::from_utf8(read).expect("ASCII");
            }
            read.extend(buffer.filled());
        }
    }

    #[test]
    fn a_head_with_too_many_fields_ends_early_however_it_is_read() {
        let head = |count: usize| format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(count));
        for size in [1, 3, 16 << 10] {
            for count in [MOST_FIELDS, MOST_FIELDS + 1, 2 * MOST_FIELDS] {
                let answering = Answering::default();
                let sent = head(count) + "GET";
                let found = read(&answering, &sent, size);
                let is_too_much = count > MOST_FIELDS;
                assert_eq!(answering.is_cut_off(), is_too_much);
                let left = if is_too_much { head(MOST_FIELDS) } else { sent };
                assert_eq!(found, left, "{size} {count}");
            }
        }
    }

    /// What happens to a connection.
    enum Then {
        Came(&'static str),
        /// A head is complete, whose body has that length.
        Begun(Option<u64>),
        /// All of its body was read.
        Read,
        Answered,
    }

    use Then::{Answered, Begun, Came, Read};

    /// Whether that which comes then is looked at.
    fn is_looked_at(events: &[Then]) -> bool {
        let answering = Answering::default();
        let mut heads = Heads::new(answering.clone());
        for event in events {
            match event {
                Came(bytes) => assert_eq!(heads.look(bytes.as_bytes()), None),
                Begun(length) => {
                    answering.begin(*length);
                }
                Read => answering.read(answering.turn()),
                Answered => answering.end(),
            }
        }
        let found = heads.look(b"GET /#\x7F");
        assert_eq!(found.is_some(), answering.has_fragment());
        found.is_some()
    }

    const GET: &str = "GET / HTTP/1.1\r\nX: #\r\n\r\n";
    const AHEAD: &str = "GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nX: ";
    const POST: &str = "POST / HTTP/1.1\r\nX: #\r\n\r\nbody";
    const NO_BODY: Then = Begun(Some(0));
    const ENDLESS: Then = Begun(None);

    #[test]
    fn what_comes_is_looked_at_where_it_is_sure_to_begin_a_head() {
        let told = |length| Begun(Some(length));
        for events in [
            &[][..],
            &[Came("\r\n")],
            &[Came(GET), NO_BODY, Answered],
            &[Came("GET / HTTP/1.1\n"), Came("\n"), NO_BODY, Answered],
            &[Came(POST), told(4), Read, Answered],
            &[Came(POST), told(6), Came("#\""), Read, Answered],
            // All of it has come, though nobody read it.
            &[Came(POST), told(4), Answered],
            &[
                Came(POST),
                ENDLESS,
                Came("#\r\n0\r\n"),
                Came("\r\n"),
                Read,
                Answered,
            ],
            // Some clients write a line end behind a body.
            &[
                Came("POST / HTTP/1.1\r\n\r\nbody\r\n"),
                told(4),
                Read,
                Answered,
            ],
            &[Came(POST), told(4), Came("\n"), Read, Answered],
            // It is known again one request later, whatever that ends with.
            &[
                Came(AHEAD),
                NO_BODY,
                Answered,
                Came("a\r\n\r\n{}"),
                told(2),
                Read,
                Answered,
            ],
            // Both were there, and nothing behind them.
            &[
                Came(AHEAD),
                NO_BODY,
                Answered,
                Came("#\r\n\r\n"),
                NO_BODY,
                Answered,
            ],
            &[Came(GET), Came(GET), NO_BODY, Answered, NO_BODY, Answered],
        ] {
            assert!(is_looked_at(events));
        }
    }

    #[test]
    fn what_may_be_the_rest_of_something_is_not_looked_at() {
        let told = |length| Begun(Some(length));
        for (index, events) in [
            &[Came(AHEAD), NO_BODY, Answered][..],
            &[Came(GET), Came("G"), NO_BODY, Answered],
            &[Came(AHEAD), NO_BODY, Answered, Came("a\r\n")],
            &[
                Came(AHEAD),
                NO_BODY,
                Answered,
                Came("a\r\n\r\nG"),
                NO_BODY,
                Answered,
            ],
            &[
                Came(AHEAD),
                NO_BODY,
                Answered,
                Came("\r\n{}"),
                told(2),
                Read,
                Answered,
            ],
            // The rest of a body, or a part of what is behind it.
            &[
                Came("POST / HTTP/1.1\r\n\r\nbod\r"),
                told(5),
                Answered,
                Came("\n"),
            ],
            &[Came(POST), told(5), Answered],
            &[Came(POST), told(5), Came("\n\n"), Came("\n\n"), Answered],
            &[Came(POST), told(3), Read, Answered],
            &[Came(POST), told(4), Came("G"), Read, Answered],
            &[Came(POST), told(9), Came("\n\r\n"), Answered],
            &[Came(POST), ENDLESS, Came("\n\r\n"), Answered],
            &[Came(POST), ENDLESS, Came("\r\n0\r\n\r\nG"), Read, Answered],
            // Two were begun: it isn't the first whose body came.
            &[Came(POST), told(4), Read, Answered, told(4), Read, Answered],
        ]
        .into_iter()
        .enumerate()
        {
            assert!(!is_looked_at(events), "{index}");
        }
    }
}
