//! GBK as Alipay's Java reads and writes it, code for code.
//!
//! Java's `GBK` (the same in JDK 17 and 25) is ASCII and all 23,940 codes with a lead of 0x81–0xFE
//! and a trail of 0x40–0x7E or 0x80–0xFE, each standing for one character of its own. So bytes →
//! text → bytes gives the same bytes back, always. GB18030's two-byte codes agree but for
//! [`JAVA`]. The Web's `gbk` would write `€` as 0x80, which Java can't read; ours is A2 E3.

use std::sync::LazyLock;

/// Encodes text; the error is the offset of the first character that GBK lacks.
pub(super) fn encode(text: &str) -> Result<Vec<u8>, usize> {
    let mut out = Vec::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        match TABLES.code(c).ok_or(at)?.to_be_bytes() {
            [0, ascii] => out.push(ascii),
            pair => out.extend(pair),
        }
    }
    Ok(out)
}

/// Decodes bytes; the error is the offset of the first byte that isn't GBK.
pub(super) fn decode(bytes: &[u8]) -> Result<String, usize> {
    let mut out = String::with_capacity(bytes.len());
    let mut rest = bytes;
    loop {
        let at = bytes.len() - rest.len();
        rest = match rest {
            [] => return Ok(out),
            [ascii @ 0..=0x7f, behind @ ..] => {
                out.push(char::from(*ascii));
                behind
            }
            [lead, trail, behind @ ..] => {
                out.push(TABLES.character(*lead, *trail).ok_or(at)?);
                behind
            }
            [_] => return Err(at),
        };
    }
}

/// Counts the bytes of the character that begins with `lead`. Only in text that is known to be GBK
/// does every lead have its trail.
pub(super) fn length(lead: u8) -> usize {
    if lead < LEADS[0] { 1 } else { 2 }
}

/// Both directions, made once: 48 KiB and 128 KiB.
struct Tables {
    /// By code, without holes; 0 for none.
    characters: Vec<u16>,
    /// By character; 0 for none.
    codes: Vec<u16>,
}

static TABLES: LazyLock<Tables> = LazyLock::new(Tables::new);

impl Tables {
    fn new() -> Self {
        let mut tables = Self {
            characters: vec![0; usize::from(LEADS[1] - LEADS[0] + 1) * TRAILS],
            codes: vec![0; 1 << 16],
        };
        for lead in LEADS[0]..=LEADS[1] {
            for trail in TRAIL[0]..=TRAIL[1] {
                if let Some(character) = java(lead, trail) {
                    tables.put(u16::from_be_bytes([lead, trail]), character);
                }
            }
        }
        tables
    }

    fn put(&mut self, code: u16, character: u16) {
        let [lead, trail] = code.to_be_bytes();
        let place = index(lead, trail).and_then(|index| self.characters.get_mut(index));
        if let (Some(place), Some(back)) = (place, self.codes.get_mut(usize::from(character))) {
            (*place, *back) = (character, code);
        }
    }

    fn character(&self, lead: u8, trail: u8) -> Option<char> {
        let unit = *self.characters.get(index(lead, trail)?)?;
        char::from_u32(unit.into()).filter(|&c| c != '\0')
    }

    fn code(&self, c: char) -> Option<u16> {
        let unit = u16::try_from(u32::from(c)).ok()?;
        if c.is_ascii() {
            return Some(unit);
        }
        let code = *self.codes.get(usize::from(unit))?;
        (code != 0).then_some(code)
    }
}

fn index(lead: u8, trail: u8) -> Option<usize> {
    let row = usize::from(lead.checked_sub(LEADS[0])?);
    let column = usize::from(trail.checked_sub(TRAIL[0])?);
    (column < TRAILS).then(|| row * TRAILS + column)
}

/// Says which character a code stands for in Java.
fn java(lead: u8, trail: u8) -> Option<u16> {
    let code = u16::from_be_bytes([lead, trail]);
    let own = JAVA
        .iter()
        .find(|(first, count, _)| (*first..*first + *count).contains(&code));
    if let Some((first, _, character)) = own {
        return Some(character + (code - first));
    }
    let text = encoding_rs::GB18030
        .decode_without_bom_handling_and_without_replacement(&[lead, trail])?
        .into_owned();
    let mut units = text.encode_utf16();
    units.next().filter(|_| units.next().is_none())
}

/// First and last lead.
const LEADS: [u8; 2] = [0x81, 0xfe];
/// First and last trail; 0x7F is none.
const TRAIL: [u8; 2] = [0x40, 0xfe];
/// How many trails there are, with the hole.
const TRAILS: usize = 191;

/// Where Java differs from GB18030 (2005, 2022): first code, how many, first character. All but one
/// are in the private use area, as before GB18030 gave them characters.
const JAVA: [(u16, u16, u16); 10] = [
    (0xa3a0, 1, 0xe5e5),
    (0xa6d9, 7, 0xe78d),
    (0xa6ec, 2, 0xe794),
    (0xa6f3, 1, 0xe796),
    (0xa892, 1, 0x2641),
    (0xa8bc, 1, 0xe7c7),
    (0xa8bf, 1, 0xe7c8),
    (0xa989, 13, 0xe7e7),
    (0xfe50, 47, 0xe815),
    (0xfe80, 33, 0xe844),
];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::{Digest, Sha256};

    use super::*;

    fn all_codes() -> impl Iterator<Item = [u8; 2]> {
        let trails = |lead| (0x40..=0xfe).map(move |trail| [lead, trail]);
        (0x81..=0xfe)
            .flat_map(trails)
            .filter(|[_, trail]| *trail != 0x7f)
    }

    #[test]
    fn every_code_is_javas_character() {
        let mut digest = Sha256::new();
        for code in all_codes() {
            let text = decode(&code).unwrap();
            let unit = text.encode_utf16().next().unwrap();
            digest.update(code);
            digest.update(unit.to_be_bytes());
        }
        // Over what `new String(code, "GBK")` gives for each code in order, JDK 17.0.15 and 25.0.3.
        let java = "0ccf8b9624c921e2dc61ede98c85c152a938611c0b29606c4d8f24aeca076994";
        let hex: String = digest
            .finalize()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(hex, java);
    }

    #[test]
    fn every_code_comes_back() {
        let codes: Vec<_> = all_codes().collect();
        assert_eq!(codes.len(), 23_940);
        for code in &codes {
            assert_eq!(encode(&decode(code).unwrap()).unwrap(), code);
        }
        let all = codes.concat();
        assert_eq!(encode(&decode(&all).unwrap()).unwrap(), all);
    }

    #[test]
    fn every_character_is_either_one_code_or_refused() {
        let known = (0..=0x10_ffff)
            .filter_map(char::from_u32)
            .filter(|c| encode(&c.to_string()).is_ok())
            .count();
        assert_eq!(known, 23_940 + 128);
    }

    #[test]
    fn known_characters_have_their_codes() {
        for (text, bytes) in [
            ("a中€b", &b"a\xd6\xd0\xa2\xe3b"[..]),
            ("·—…", b"\xa1\xa4\xa1\xaa\xa1\xad"),
            ("乗", b"\x81\x5c"),
            ("镕\u{e000}", b"\xe9\x46\xaa\xa1"),
        ] {
            assert_eq!(encode(text).unwrap(), bytes, "{text}");
            assert_eq!(decode(bytes).unwrap(), text);
        }
    }

    #[test]
    fn what_gbk_lacks_is_refused_with_its_place() {
        for (text, at) in [("😀", 0), ("中😀", 3), ("a\u{a0}", 1), ("\u{1e3f}", 0)] {
            assert_eq!(encode(text), Err(at), "{text}");
        }
    }

    #[test]
    fn bytes_that_are_not_gbk_are_refused_with_their_place() {
        for (bytes, at) in [
            (&b"\x80"[..], 0),
            (b"a\xff\xa1", 1),
            (b"ab\xd6", 2),
            (b"\xd6\x7f", 0),
            (b"\xd6\x22", 0),
            (b"\xd6\xd0\x81\x30\x81\x30", 2),
            (b"\xd6\xff", 0),
        ] {
            assert_eq!(decode(bytes), Err(at), "{bytes:x?}");
        }
    }

    proptest! {
        #[test]
        fn bytes_come_back_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(text) = decode(&bytes) {
                prop_assert_eq!(encode(&text).unwrap(), bytes);
            }
        }

        #[test]
        fn text_comes_back_or_is_refused(text in ".{0,20}|[\u{4e00}-\u{9fa5}€a-z\\\\]{0,20}") {
            if let Ok(bytes) = encode(&text) {
                prop_assert_eq!(decode(&bytes).unwrap(), text);
            }
        }

        #[test]
        fn the_web_agrees_on_plain_chinese(text in "[\u{4e00}-\u{9fa5}a-z，。！]{0,30}") {
            let (theirs, _, _) = encoding_rs::GBK.encode(&text);
            let ours = encode(&text).unwrap();
            prop_assert_eq!(ours.as_slice(), theirs.as_ref());
        }
    }
}
