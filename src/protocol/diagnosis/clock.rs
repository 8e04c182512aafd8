//! Times in messages, held against the time handed in.

use super::cause::{Cause, ClockCause};
use crate::protocol::timestamp;

/// Judges the `timestamp` of a v2 request.
pub(super) fn of_v2(text: &str, now_ms: i64) -> Option<Cause> {
    let Ok(written) = timestamp::parse_v2(text) else {
        let expected = "yyyy-MM-dd HH:mm:ss";
        return Some(ClockCause::TimestampForm { expected }.into());
    };
    of_distance(written.saturating_sub(now_ms))
}

/// Judges the `timestamp` of a v3 `Authorization`: milliseconds.
pub(super) fn of_v3(text: &str, now_ms: i64) -> Option<Cause> {
    let expected = "milliseconds since 1970, 13 digits";
    match text.parse::<i64>() {
        Ok(written) if text.len() == 13 => of_distance(written.saturating_sub(now_ms)),
        _ => Some(ClockCause::TimestampForm { expected }.into()),
    }
}

fn of_distance(ms: i64) -> Option<Cause> {
    let seconds = ms / 1000;
    if seconds.abs() <= TOLERANCE {
        return None;
    }
    let hours = (seconds + seconds.signum() * HOUR / 2) / HOUR;
    let is_whole = (seconds - hours * HOUR).abs() <= TOLERANCE;
    // No zone is further than 22 hours from UTC+8.
    Some(if is_whole && hours != 0 && hours.abs() <= 22 {
        ClockCause::Zone { hours }.into()
    } else {
        ClockCause::Off { seconds }.into()
    })
}

/// Alipay doesn't document what it accepts for v2; its old gateway took 30 minutes, v3's example
/// lifetime is 2. A quarter of an hour is no drift of a clock that is kept.
const TOLERANCE: i64 = 15 * 60;
const HOUR: i64 = 3_600;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_335_630_000; // 2026-11-22 16:20:30 at UTC+8

    fn kind(text: &str) -> Option<&'static str> {
        of_v2(text, NOW).map(|cause| cause.kind())
    }

    #[test]
    fn times_are_judged() {
        assert_eq!(kind("2026-11-22 16:20:30"), None);
        assert_eq!(kind("2026-11-22 16:10:30"), None);
        assert_eq!(kind("2026-11-22 08:20:20"), Some("clock-zone"));
        assert_eq!(kind("2026-11-22 17:20:30"), Some("clock-zone"));
        assert_eq!(kind("2026-11-22 15:40:30"), Some("clock-off"));
        assert_eq!(kind("2025-11-22 16:20:30"), Some("clock-off"));
        assert_eq!(kind("2026-11-22T16:20:30"), Some("timestamp-form"));
        let zone = of_v2("2026-11-22 08:20:30", NOW).map(|cause| cause.to_string());
        assert!(zone.is_some_and(|text| text.contains("-8 hours")));
        assert_eq!(of_v3("1795335630123", NOW), None);
        assert_eq!(
            of_v3("1795335630", NOW).map(|cause| cause.kind()),
            Some("timestamp-form")
        );
        assert_eq!(
            of_v3("1795306830123", NOW).map(|cause| cause.kind()),
            Some("clock-zone")
        );
    }
}
