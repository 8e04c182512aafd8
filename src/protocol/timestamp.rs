//! Alipay's written times.

use time::{
    OffsetDateTime, PrimitiveDateTime, UtcOffset, format_description::BorrowedFormatItem,
    macros::format_description,
};

use super::error::ProtocolError;

/// Writes the `timestamp` of a v2 request: `yyyy-MM-dd HH:mm:ss` at UTC+8, whatever the zone of
/// the machine.
///
/// `unix_ms` is milliseconds since 1970 in UTC; a moment outside the years 1 to 9998 is written as
/// the nearest one inside. Protocol: 公共参数, `timestamp` (unpadded digits are refused by Alipay).
#[must_use]
pub fn v2(unix_ms: i64) -> String {
    let seconds = unix_ms.div_euclid(1000).clamp(EARLIEST, LATEST);
    OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|moment| moment.to_offset(CHINA).format(FORMAT).ok())
        .expect("moments between EARLIEST and LATEST have a four-digit year")
}

/// Reads such a time back into milliseconds since 1970 in UTC.
///
/// # Errors
///
/// [`ProtocolError::TimestampInvalid`] for anything but 19 characters of that form.
pub fn parse_v2(text: &str) -> Result<i64, ProtocolError> {
    // The parser would take a sign in front of the year too.
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(ProtocolError::TimestampInvalid);
    }
    PrimitiveDateTime::parse(text, FORMAT)
        .map(|moment| moment.assume_offset(CHINA).unix_timestamp() * 1000)
        .map_err(|_| ProtocolError::TimestampInvalid)
}

const FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
const CHINA: UtcOffset = time::macros::offset!(+8);
/// The first second of the year 1 in UTC.
const EARLIEST: i64 = -62_135_596_800;
/// The last second of the year 9998 in UTC.
const LATEST: i64 = 253_370_764_799;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn time_is_written_at_utc_plus_8() {
        assert_eq!(v2(0), "1970-01-01 08:00:00");
        assert_eq!(v2(1_795_335_630_999), "2026-11-22 16:20:30");
        assert_eq!(v2(-1), "1970-01-01 07:59:59");
    }

    #[test]
    fn absurd_moments_are_still_written() {
        assert_eq!(v2(i64::MIN).len(), 19);
        assert_eq!(v2(i64::MAX).len(), 19);
    }

    #[test]
    fn other_spellings_are_refused() {
        for text in [
            "",
            "2019-1-1 1:1:11",
            "2019-01-01T01:01:11",
            "2019-01-01 01:01:11 ",
            "2019-02-30 01:01:11",
            "2019-01-01 24:00:00",
            "+2019-01-01 01:01:11",
        ] {
            assert!(parse_v2(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(seconds in 0i64..4_102_444_800) {
            prop_assert_eq!(parse_v2(&v2(seconds * 1000)), Ok(seconds * 1000));
        }

        #[test]
        fn reading_never_panics(text in ".*") {
            let _ = parse_v2(&text);
        }
    }
}
