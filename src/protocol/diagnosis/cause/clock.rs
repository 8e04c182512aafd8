//! The clock.

use thiserror::Error;

use super::span;

/// Names what is wrong with a timestamp.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClockCause {
    /// The time is that of another zone.
    #[error(
        "the timestamp is {hours} hours off: it is written in another zone (UTC in most \
         containers); Alipay wants UTC+8"
    )]
    Zone {
        /// How many hours, early ones negative.
        hours: i64,
    },
    /// The time is far from now.
    #[error(
        "the timestamp is {} from now; set the clock (NTP), or send a fresh request",
        span(*.seconds)
    )]
    Off {
        /// How many seconds, early ones negative.
        seconds: i64,
    },
    /// The time is written otherwise.
    #[error("the timestamp isn't written as `{expected}`; Alipay refuses other forms")]
    TimestampForm {
        /// The form that is expected.
        expected: &'static str,
    },
}

impl ClockCause {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Zone { .. } => "clock-zone",
            Self::Off { .. } => "clock-off",
            Self::TimestampForm { .. } => "timestamp-form",
        }
    }
}
