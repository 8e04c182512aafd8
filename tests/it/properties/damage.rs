//! Texts as they arrive when something went wrong, or somebody made it go wrong.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// One thing that may happen to a text on its way.
#[derive(Clone, Debug)]
enum Damage {
    Cut(Index),
    Double(Index, Index),
    Drop(Index, Index),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
}

impl Damage {
    fn any() -> impl Strategy<Value = Self> {
        let at = any::<Index>;
        let piece = prop_oneof![
            vec(any::<u8>(), 1..5),
            select(PIECES.as_slice()).prop_map(|piece| piece.as_bytes().to_vec()),
        ];
        prop_oneof![
            at().prop_map(Self::Cut),
            (at(), at()).prop_map(|(from, to)| Self::Double(from, to)),
            (at(), at()).prop_map(|(from, to)| Self::Drop(from, to)),
            (at(), any::<u8>()).prop_map(|(at, byte)| Self::Flip(at, byte)),
            (at(), piece).prop_map(|(at, piece)| Self::Insert(at, piece)),
        ]
    }

    fn apply(&self, text: &mut Vec<u8>) {
        let place = |at: &Index, text: &[u8]| at.index(text.len() + 1);
        let range = |from: &Index, to: &Index, text: &[u8]| {
            let (from, to) = (place(from, text), place(to, text));
            from.min(to)..from.max(to)
        };
        match self {
            Self::Cut(at) => text.truncate(place(at, text)),
            Self::Double(from, to) => {
                let piece = text[range(from, to, text)].to_vec();
                text.extend(piece);
            }
            Self::Drop(from, to) => drop(text.drain(range(from, to, text))),
            Self::Flip(at, byte) => {
                let at = at.index(text.len().max(1));
                if let Some(place) = text.get_mut(at) {
                    *place = *byte;
                }
            }
            Self::Insert(at, piece) => {
                let at = place(at, text);
                text.splice(at..at, piece.iter().copied());
            }
        }
    }
}

/// What readers look for.
const PIECES: [&str; 22] = [
    "\"",
    "\\",
    "\\u",
    "\\ud800",
    "{",
    "}",
    "[",
    "]]",
    ",",
    ":",
    "null",
    "1e999",
    "%",
    "%E4",
    "&",
    "=",
    "\"sign\":",
    "\r\n",
    "-----BEGIN CERTIFICATE-----",
    "-----END CERTIFICATE-----",
    "\0",
    "\u{feff}",
];

/// A real text with up to three faults, or bytes without any sense.
pub(super) fn damaged(samples: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let hurt = (select(samples), vec(Damage::any(), 0..4)).prop_map(|(mut text, faults)| {
        faults.iter().for_each(|fault| fault.apply(&mut text));
        text
    });
    prop_oneof![9 => hurt, 1 => vec(any::<u8>(), 0..120)]
}
