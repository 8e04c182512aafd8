//! The small forms that values take: durations, sizes, globs, hosts, paths.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::config::error::Mismatch;
use crate::config::view;

/// `"15s"`, `"500ms"`, `"72h"`, `"7d"`.
pub(crate) fn duration(text: &str) -> Result<Duration, Mismatch> {
    const EXPECTED: &str = "a duration such as \"15s\" (ms, s, m, h or d)";
    let wrong = || Mismatch::of_text(text, EXPECTED);
    let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
    let milliseconds = milliseconds(unit).ok_or_else(wrong)?;
    let total = number
        .checked_mul(milliseconds)
        .filter(|ms| *ms <= LONGEST_MS);
    total
        .map(Duration::from_millis)
        .ok_or_else(|| Mismatch::of_text(text, TOO_LONG))
}

/// How long a unit of a duration is.
pub(crate) fn milliseconds(unit: &str) -> Option<u64> {
    match unit {
        "ms" => Some(1),
        "s" => Some(1000),
        "m" => Some(60 * 1000),
        "h" => Some(3600 * 1000),
        "d" => Some(24 * 3600 * 1000),
        _ => None,
    }
}

/// A [`duration`] that isn't zero.
pub(crate) fn positive_duration(text: &str) -> Result<Duration, Mismatch> {
    let duration = duration(text)?;
    above_zero(duration).map(|()| duration)
}

/// A duration after which something comes, however it was set.
pub(crate) fn above_zero(duration: Duration) -> Result<(), Mismatch> {
    match duration.is_zero() {
        true => Err(Mismatch::of_text("0s", "a duration above zero")),
        false => Ok(()),
    }
}

/// The same of one that is added to the time.
pub(crate) fn deadline(duration: Duration) -> Result<(), Mismatch> {
    above_zero(duration)?;
    match duration.as_millis() > u128::from(LONGEST_MS) {
        true => Err(Mismatch::of_text(&view::duration(duration), TOO_LONG)),
        false => Ok(()),
    }
}

/// `"1MiB"`, `"32KiB"`, `"512B"`; above zero.
pub(crate) fn size(text: &str) -> Result<u64, Mismatch> {
    const EXPECTED: &str = "a size such as \"1MiB\" (B, KiB, MiB or GiB)";
    let wrong = || Mismatch::of_text(text, EXPECTED);
    let (number, unit) = number_and_unit(text).ok_or_else(wrong)?;
    let bytes: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" | "MB" | "GB" | "K" | "M" | "G" => {
            return Err(wrong().hint("units are powers of 1024 and spelled KiB, MiB, GiB"));
        }
        _ => return Err(wrong()),
    };
    let total = number
        .checked_mul(bytes)
        .filter(|total| (1..=LARGEST).contains(total));
    total.ok_or_else(|| Mismatch::of_text(text, "a size from 1B to 1024GiB"))
}

/// A [`size`] of something held in memory.
pub(crate) fn memory_size(text: &str) -> Result<usize, Mismatch> {
    let wrong = |_| Mismatch::of_text(text, "a size that fits this machine's memory");
    usize::try_from(size(text)?).map_err(wrong)
}

/// The same of one that was set as a number.
pub(crate) fn memory(bytes: usize) -> Result<(), Mismatch> {
    let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
    size(&view::size(bytes)).map(drop)
}

/// An integer within `range`, however it was set.
pub(crate) fn within<N>(number: N, range: &RangeInclusive<i64>) -> Result<i64, Mismatch>
where
    N: Copy + Display + TryInto<i64>,
{
    let integer = number
        .try_into()
        .ok()
        .filter(|integer| range.contains(integer));
    integer.ok_or_else(|| Mismatch::new(number.to_string(), integer_from(range)))
}

/// What is expected of an integer.
pub(crate) fn integer_from(range: &RangeInclusive<i64>) -> String {
    format!("an integer from {} to {}", range.start(), range.end())
}

fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit.trim_start_matches(' ')))
}

/// A pattern where `*` stands for any run of characters.
pub(crate) fn glob(text: &str) -> Result<String, Mismatch> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-/*:~%{}".contains(&b);
    if !text.is_empty() && text.bytes().all(allowed) {
        Ok(text.to_owned())
    } else {
        Err(Mismatch::of_text(
            text,
            "a pattern such as \"alipay.trade.*\"",
        ))
    }
}

/// A host name or address, with or without a port, in lower case.
pub(crate) fn host(text: &str) -> Result<String, Mismatch> {
    let authority = text.parse::<http::uri::Authority>();
    match authority {
        Ok(authority) if !text.contains('@') && !authority.host().is_empty() => {
            Ok(text.to_ascii_lowercase())
        }
        _ => Err(
            Mismatch::of_text(text, "a host name such as \"sidecar.internal\"")
                .hint("leave the scheme and the path away"),
        ),
    }
}

/// A path of ours: `/` and printable characters, without a query.
pub(crate) fn url_path(text: &str) -> Result<String, Mismatch> {
    let allowed = |b: u8| b.is_ascii_graphic() && !b"?#\\\"<>".contains(&b);
    let climbs = || text.split('/').any(|segment| matches!(segment, "." | ".."));
    if text.starts_with('/') && !text.contains("//") && text.bytes().all(allowed) && !climbs() {
        Ok(text.to_owned())
    } else {
        Err(Mismatch::of_text(text, "a path such as \"/alipay\""))
    }
}

/// A log level, or several `target=level` directives.
pub(crate) fn log_directives(text: &str) -> Result<String, Mismatch> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_level = |word: &str| LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level));
    let in_target = |b: u8| b.is_ascii_alphanumeric() || b"_:-".contains(&b);
    let is_directive = |directive: &str| match directive.trim().split_once('=') {
        Some((target, level)) => {
            !target.is_empty() && target.bytes().all(in_target) && is_level(level)
        }
        None => is_level(directive.trim()),
    };
    if text.split(',').all(is_directive) {
        Ok(text.to_owned())
    } else {
        Err(Mismatch::of_text(
            text,
            "a level (off, error, warn, info, debug, trace), or target=level, separated by commas",
        ))
    }
}

/// Ten years: longer is a typing mistake.
const LONGEST_MS: u64 = 3650 * 24 * 3600 * 1000;
const TOO_LONG: &str = "a duration of at most 3650d";

/// Bytes; more is a typing mistake.
const LARGEST: u64 = 1 << 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_carry_their_unit() {
        for (text, ms) in [
            ("500ms", 500),
            ("15s", 15_000),
            ("2m", 120_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for bad in [
            "",
            "15",
            "s",
            "-1s",
            "1.5s",
            "1w",
            "99999999999999999999s",
            "9999999999d",
        ] {
            assert!(duration(bad).is_err(), "{bad}");
        }
        assert!(positive_duration("0s").is_err());
    }

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [("512B", 512), ("32KiB", 32 << 10), ("1MiB", 1 << 20)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "1", "1MB", "0B", "99999999GiB", "MiB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_and_hosts_and_levels_hold_nothing_else() {
        for bad in ["alipay", "/a?b", "//a", "/a/../b", "/a b", ""] {
            assert!(url_path(bad).is_err(), "{bad}");
        }
        for bad in ["", "http://a", "a/b", "u@a"] {
            assert!(host(bad).is_err(), "{bad}");
        }
        assert_eq!(host("Side.Car:2088").as_deref(), Ok("side.car:2088"));
        assert!(log_directives("info,hyper=warn").is_ok());
        assert!(log_directives("inof").is_err());
    }
}
