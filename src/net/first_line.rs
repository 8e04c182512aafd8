//! The first line of a head, as it comes: whether its target has a `#`, at which hyper would cut it off
//! without a word.

/// How much of a head's first line has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    /// Nothing but line ends, which may stand before it.
    Unbegun,
    Begun,
    Over,
}

impl Line {
    /// Goes on with `bytes`; tells whether a `#` is in the line.
    pub(crate) fn goes_on(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            match (*self, byte) {
                (Self::Over, _) => return false,
                (Self::Unbegun, b'\r' | b'\n') => {}
                (_, b'\n') => *self = Self::Over,
                (_, b'#') => return true,
                _ => *self = Self::Begun,
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a first line in pieces.
    fn has_fragment(pieces: &[&str]) -> bool {
        let mut line = Line::Unbegun;
        pieces.iter().any(|piece| line.goes_on(piece.as_bytes()))
    }

    #[test]
    fn a_fragment_is_found_in_the_first_line_alone() {
        assert!(has_fragment(&["GET /a#b HTTP/1.1\r\n"]));
        assert!(has_fragment(&["\r\n\r\nGET /a", "?x=", "#b HTTP/1.1\r\n"]));
        assert!(!has_fragment(&["GET /a HTTP/1.1\r\nx: #\r\n\r\n#"]));
        assert!(!has_fragment(&["\r\nGET /a HTTP/1.1\r", "\nx: #\r\n"]));
    }
}
