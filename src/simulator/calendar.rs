//! Alipay's spelling of time: `yyyy-MM-dd HH:mm:ss` at UTC+8.
use time::{
    OffsetDateTime, PrimitiveDateTime, UtcOffset, format_description::BorrowedFormatItem,
    macros::format_description,
};

const FORMAT: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");

/// Spells `unix_ms`, milliseconds since 1970, at UTC+8.
pub(super) fn spell(unix_ms: i64) -> String {
    let offset = UtcOffset::from_hms(8, 0, 0).unwrap_or(UtcOffset::UTC);
    OffsetDateTime::from_unix_timestamp(unix_ms.div_euclid(1000))
        .map(|instant| instant.to_offset(offset))
        .ok()
        .and_then(|instant| instant.format(FORMAT).ok())
        .unwrap_or_default()
}

/// Tells whether `text` is a date that exists in exactly the 19 characters Alipay asks for.
pub(super) fn is_timestamp(text: &str) -> bool {
    text.len() == 19 && PrimitiveDateTime::parse(text, FORMAT).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_spelled_at_utc_plus_eight() {
        assert_eq!(spell(1_587_573_752_655), "2020-04-23 00:42:32");
    }

    #[test]
    fn timestamps_are_zero_padded_and_exist() {
        for (text, good) in [
            ("2026-11-22 10:20:30", true),
            ("2019-1-1 1:1:11", false),
            ("2026-02-30 10:20:30", false),
            ("2026-11-22T10:20:30", false),
            ("2026-11-22 10:20:30 ", false),
            ("2026-11-22 24:00:00", false),
            ("", false),
        ] {
            assert_eq!(is_timestamp(text), good, "{text}");
        }
    }
}
