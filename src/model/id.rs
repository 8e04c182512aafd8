//! Identifiers: each is its own type, and none can hold a value that its kind forbids.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use uuid::Uuid;
use uuid::timestamp::context::ContextV7;

/// An identifier was given in a form its kind doesn't allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{found}` is not {kind}: expected {expected}")]
#[non_exhaustive]
pub struct InvalidId {
    /// What was to be named, with its article.
    pub kind: &'static str,
    /// What was given, cut to 64 characters.
    pub found: String,
    /// The form that is allowed.
    pub expected: &'static str,
}

impl InvalidId {
    pub(super) fn new(kind: &'static str, found: &str, expected: &'static str) -> Self {
        Self {
            kind,
            found: found.chars().take(64).collect(),
            expected,
        }
    }
}

/// Defines a text identifier whose constructor is the only way in.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $expected:literal, $allowed:path) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Takes the identifier if its form is allowed.
            ///
            /// # Errors
            /// [`InvalidId`] otherwise.
            pub fn new(text: &str) -> Result<Self, InvalidId> {
                if $allowed(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(InvalidId::new($kind, text, $expected))
                }
            }

            /// The identifier as Alipay spells it.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }
    };
}

text_id! {
    /// The `app_id` of the ISV's own application or plugin (第三方应用、小程序插件): it signs.
    AppId, "an app_id", "1 to 32 letters or digits", is_application
}

text_id! {
    /// The `auth_app_id`: the merchant's application that authorised ours (商家应用).
    AuthAppId, "an auth_app_id", "1 to 32 letters or digits, not `self`", is_merchant_application
}

text_id! {
    /// The merchant's own user id at Alipay (PID, `user_id` of the authorisation).
    Pid, "a PID", "2088 followed by 12 digits", is_pid
}

text_id! {
    /// A name that the operator gave a merchant, unique per app, case-sensitive.
    Alias, "an alias", "a letter or digit, then up to 63 letters, digits, `.`, `_` or `-`; not all digits, not `self`", is_alias
}

fn is_application(text: &str) -> bool {
    (1..=32).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// `self` selects the ISV's own app.
fn is_merchant_application(text: &str) -> bool {
    is_application(text) && text != "self"
}

fn is_pid(text: &str) -> bool {
    text.len() == 16 && text.starts_with("2088") && text.bytes().all(|b| b.is_ascii_digit())
}

fn is_alias(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric())
        && text.bytes().all(allowed)
        && !text.bytes().all(|b| b.is_ascii_digit())
        && text != "self"
}

/// The sidecar's own id of a notification or event: time-ordered (UUID version 7), so that the
/// inbox is kept in order of receipt, and unique for ever, so that a backend may de-duplicate on
/// it even after a store was restored from a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(Uuid);

impl EventId {
    /// Makes a new id for something received at `unix_ms`. Those of one millisecond sort by
    /// chance; where their order matters, [`EventIds`] makes them.
    #[must_use]
    pub fn new(unix_ms: i64) -> Self {
        Self::from_time(uuid::timestamp::context::NoContext, unix_ms)
    }

    fn from_time(
        context: impl uuid::ClockSequence<Output = impl Into<u128>>,
        unix_ms: i64,
    ) -> Self {
        let ms = u64::try_from(unix_ms).unwrap_or_default();
        let nanos = u32::try_from(ms % 1000).unwrap_or_default() * 1_000_000;
        let time = uuid::Timestamp::from_unix(context, ms / 1000, nanos);
        Self(Uuid::new_v7(time))
    }

    /// What stands before every id of something received at `unix_ms` or later.
    #[must_use]
    pub fn earliest(unix_ms: i64) -> Self {
        let ms = u64::try_from(unix_ms).unwrap_or_default();
        // The first 48 bits are the time.
        Self(Uuid::from_u128(u128::from(ms) << 80))
    }

    /// The 16 bytes of the id, whose order is the order of receipt.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// The id whose bytes these are.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

/// Makes event ids that sort in the order they were made in, also within one millisecond and
/// where the clock goes back: the deliveries of one order follow their ids.
#[derive(Debug)]
pub struct EventIds(Mutex<ContextV7>);

impl EventIds {
    /// Makes the first id whenever it is asked for one.
    #[must_use]
    pub fn new() -> Self {
        Self(Mutex::new(ContextV7::new()))
    }

    /// Makes none from now on that isn't later than those made at `unix_ms`.
    pub(crate) fn follow(&self, unix_ms: i64) {
        let _ = self.next(unix_ms.saturating_add(1));
    }

    /// Makes an id for something received at `unix_ms`, later than every id it made before.
    #[must_use]
    pub fn next(&self, unix_ms: i64) -> EventId {
        // Counting up can't be left half done.
        let context = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        EventId::from_time(&*context, unix_ms)
    }
}

impl Default for EventIds {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl std::str::FromStr for EventId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        Uuid::try_parse(text)
            .map(Self)
            .map_err(|_| InvalidId::new("an event id", text, "a UUID, as in Alipay-Event-Id"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_follow_the_contract() {
        for good in ["a", "shop-17", "A.b_c", "7eleven", "Self"] {
            assert!(Alias::new(good).is_ok(), "{good}");
        }
        let long = "x".repeat(65);
        for bad in [
            "", "self", "2021", "-a", ".a", "a b", "a/b", "a%20", "商家", &long,
        ] {
            assert!(Alias::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_follow_what_was_made_before_though_the_clock_was_set_back() {
        let before = (0..100).map(|_| EventId::new(5000)).max().expect("some");
        let ids = EventIds::new();
        ids.follow(5000);
        let (first, second) = (ids.next(1000), ids.next(1000));
        assert!(before < first && first < second);
        assert!(
            second < EventId::earliest(5003),
            "no further ahead than it must be"
        );
    }

    #[test]
    fn a_pid_is_2088_and_twelve_digits() {
        assert!(Pid::new("2088102146225135").is_ok());
        for bad in [
            "",
            "2088",
            "2089102146225135",
            "20881021462251350",
            "208810214622513x",
        ] {
            assert!(Pid::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn event_ids_sort_by_time_and_survive_text() {
        let (early, late) = (
            EventId::new(1_700_000_000_000),
            EventId::new(1_700_000_000_001),
        );
        assert!(early < late);
        assert_eq!(
            early.to_string().parse::<EventId>().expect("own text"),
            early
        );
        assert_eq!(EventId::from_bytes(late.to_bytes()), late);
    }

    #[test]
    fn ids_of_one_maker_sort_as_they_were_made_whatever_the_clock_does() {
        let ids = EventIds::new();
        let times = [5, 5, 5, 6, 1, 2, 0, -1, 7, 7].map(|ms| 1_700_000_000_000 + ms);
        let made = times.map(|ms| ids.next(ms));
        assert!(made.is_sorted_by(|one, next| one < next), "{made:?}");
        let restarted = EventIds::new().next(1_700_000_000_008);
        assert!(made.iter().all(|id| *id < restarted));
    }
}
