//! What the fuzz targets share: an input's parts, the throw-away keys of `tests/vectors`, and the
//! oracles, which follow Alipay's rules a second time without the code under test.

mod alipay;
pub mod keys;
pub mod oracle;
pub mod world;

/// Takes the first byte off; what is left may be empty.
#[must_use]
pub fn first(data: &[u8]) -> (u8, &[u8]) {
    data.split_first()
        .map_or((0, data), |(first, rest)| (*first, rest))
}

/// Takes the first line off, without its end.
#[must_use]
pub fn line(data: &[u8]) -> (&[u8], &[u8]) {
    match data.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &[]),
    }
}

/// Where `part` stands in `whole`, if it is a slice of it (and not only equal to one).
#[must_use]
pub fn place_in(whole: &[u8], part: &[u8]) -> Option<usize> {
    let at = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    (at + part.len() <= whole.len()).then_some(at)
}

/// A charset, by the lowest bit of a byte: `0` (0x30) is UTF-8, `1` GBK.
#[must_use]
pub fn charset(byte: u8) -> alipay_sidecar::protocol::charset::Charset {
    use alipay_sidecar::protocol::charset::Charset;
    match byte & 1 {
        0 => Charset::Utf8,
        _ => Charset::Gbk,
    }
}
