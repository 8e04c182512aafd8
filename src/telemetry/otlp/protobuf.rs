//! As much of protobuf's writing as OTLP needs: fields, one behind the other, by number.
//!
//! Protocol: Protocol Buffers, “Encoding”.

/// How a field's value is laid out.
#[derive(Clone, Copy)]
enum Layout {
    Varint = 0,
    Fixed64 = 1,
    Length = 2,
    Fixed32 = 5,
}

/// The fields of a message, written.
#[derive(Debug, Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    pub(super) fn message(&mut self, field: u32, message: Self) {
        self.bytes(field, &message.0);
    }

    pub(super) fn text(&mut self, field: u32, text: &str) {
        self.bytes(field, text.as_bytes());
    }

    pub(super) fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.key(field, Layout::Length);
        // A usize has 64 bits at most.
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn number(&mut self, field: u32, number: u64) {
        self.key(field, Layout::Varint);
        self.varint(number);
    }

    pub(super) fn fixed32(&mut self, field: u32, number: u32) {
        self.key(field, Layout::Fixed32);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub(super) fn fixed64(&mut self, field: u32, number: u64) {
        self.key(field, Layout::Fixed64);
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn key(&mut self, field: u32, layout: Layout) {
        self.varint(u64::from(field) << 3 | layout as u64);
    }

    /// Seven bits a byte, the lowest first; the eighth says that more follow.
    fn varint(&mut self, mut number: u64) {
        loop {
            let [low, ..] = number.to_le_bytes();
            number >>= 7;
            if number == 0 {
                return self.0.push(low & 0x7f);
            }
            self.0.push(low | 0x80);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(write: impl FnOnce(&mut Message), expected: &[u8]) {
        let mut message = Message::default();
        write(&mut message);
        assert_eq!(message.into_bytes(), expected);
    }

    /// The examples of protobuf's own page.
    #[test]
    fn fields_are_written_as_protobuf_documents_them() {
        check(|m| m.number(1, 150), b"\x08\x96\x01");
        check(|m| m.text(2, "testing"), b"\x12\x07testing");
        let mut inner = Message::default();
        inner.number(1, 150);
        check(|m| m.message(3, inner), b"\x1a\x03\x08\x96\x01");
        check(|m| m.number(6, 0), b"\x30\x00");
        check(
            |m| m.number(1, (-2_i64).cast_unsigned()),
            b"\x08\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        );
    }

    #[test]
    fn a_field_beyond_15_takes_two_bytes_of_key() {
        check(|m| m.fixed32(16, 1), b"\x85\x01\x01\0\0\0");
        check(|m| m.fixed64(7, 258), b"\x39\x02\x01\0\0\0\0\0\0");
    }
}
