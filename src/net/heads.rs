//! The heads of a connection, looked at as their bytes come: of one that hyper wouldn't take the beginning
//! is given on, and an end in place of the rest (see [`head_bytes`](super::head_bytes)).

use tokio::io::ReadBuf;

use crate::net::answering::Answering;
use crate::net::head_bytes::{Cut, HeadBytes};

/// The first byte of a handshake of TLS; that of a method is a letter.
const TLS: u8 = 0x16;

/// Looks at what was read of a connection.
#[derive(Debug)]
pub(crate) struct Heads {
    answering: Answering,
    head: Option<Head>,
    /// A part of the next head has come while a request was answered.
    is_ahead: bool,
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
            is_ahead: false,
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
        let (turn, is_unread) = (self.answering.turn(), self.answering.is_unread());
        // The head that was looked at is complete once its request was begun.
        self.head.take_if(|head| head.turn != turn);
        if !turn.is_multiple_of(2) {
            self.is_ahead |= !is_unread;
        } else if self.head.is_none() {
            if bytes.first() == Some(&TLS) {
                self.answering.note_tls();
            }
            // It is known to begin here, unless a part of it came before, or what comes is the rest of
            // a body that nobody read.
            let bytes = match std::mem::take(&mut self.is_ahead) || is_unread {
                true => HeadBytes::unknown(),
                false if turn == 0 => HeadBytes::first(),
                false => HeadBytes::begins(),
            };
            self.head = Some(Head { turn, bytes });
            self.answering.note_fragment(false);
        }
        let found = self.head.as_mut()?.bytes.goes_on(bytes);
        if found.has_fragment {
            self.answering.note_fragment(true);
        }
        found.cut
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
}
