//! Every cause that a diagnosis can name, each with one line that says what to do.
//!
//! No text holds a value of a parameter, a key or a body: names, counts, places and the serial
//! numbers of certificates alone (and, shortened, a `charset` or `sign_type` that nobody knows).

mod clock;
mod key;
mod params;
mod reply;
mod sign;
mod text;
mod v3;

use std::fmt;

pub use self::{
    clock::ClockCause,
    key::KeyCause,
    params::ParamsCause,
    reply::ReplyCause,
    sign::SignCause,
    text::TextCause,
    v3::{Newline, V3Cause},
};
use crate::protocol::{charset::Charset, params::is_name};

/// Names why something doesn't verify, or (as a remark) what would trip another verifier, or
/// Alipay, although the signature holds. `Display` is one line: cause and cure, without values.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// The time in a message.
    Clock(ClockCause),
    /// The key is right (the signature opens under it), but another text was signed, and no known
    /// change explains it.
    ContentChanged {
        /// How many variants were tried.
        tried: usize,
    },
    /// A key.
    Key(KeyCause),
    /// The parameters of a form.
    Params(ParamsCause),
    /// A reply.
    Reply(ReplyCause),
    /// The signature itself.
    Sign(SignCause),
    /// The text as a whole.
    Text(TextCause),
    /// The key is right, but another text was signed, and this one is too large for trying what
    /// may have happened to it.
    TooLarge {
        /// How many bytes it has.
        bytes: usize,
    },
    /// A v3 request or answer.
    V3(V3Cause),
}

impl Cause {
    /// Says that text of one charset was read as another.
    pub(super) fn misread(meant: Charset, read: Charset) -> Self {
        let (meant, read) = (meant.label(), read.label());
        TextCause::CharsetMisread { meant, read }.into()
    }

    /// Names the cause in a fixed word for JSON, logs and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Clock(cause) => cause.kind(),
            Self::ContentChanged { .. } => "content-changed",
            Self::Key(cause) => cause.kind(),
            Self::Params(cause) => cause.kind(),
            Self::Reply(cause) => cause.kind(),
            Self::Sign(cause) => cause.kind(),
            Self::Text(cause) => cause.kind(),
            Self::TooLarge { .. } => "too-large",
            Self::V3(cause) => cause.kind(),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clock(cause) => cause.fmt(f),
            Self::ContentChanged { tried } => write!(
                f,
                "the key is right (the signature opens under it), but another text was signed: \
                 the content was changed on the way (or written otherwise by who signed), and none \
                 of the {tried} known changes tried explains it (JSON objects of more than five \
                 members may have stood in an order that wasn't tried); take the bytes as they \
                 arrive, before any middleware, and compare the digest of what was signed with \
                 your own"
            ),
            Self::Key(cause) => cause.fmt(f),
            Self::Params(cause) => cause.fmt(f),
            Self::Reply(cause) => cause.fmt(f),
            Self::Sign(cause) => cause.fmt(f),
            Self::Text(cause) => cause.fmt(f),
            Self::TooLarge { bytes } => write!(
                f,
                "the key is right (the signature opens under it), but another text was signed; \
                 this one has {bytes} bytes, and above {} KiB no known changes are tried: take \
                 the bytes as they arrive, before any middleware, and compare the digest of what \
                 was signed with your own",
                super::search::LARGEST / 1024
            ),
            Self::V3(cause) => cause.fmt(f),
        }
    }
}

macro_rules! from {
    ($($variant:ident($cause:ty)),*) => {
        $(impl From<$cause> for Cause {
            fn from(cause: $cause) -> Self {
                Self::$variant(cause)
            }
        })*
    };
}

from!(
    Clock(ClockCause),
    Key(KeyCause),
    Params(ParamsCause),
    Reply(ReplyCause),
    Sign(SignCause),
    Text(TextCause),
    V3(V3Cause)
);

/// Makes a parameter's name that came from outside fit for a line of text. What isn't a name isn't
/// shown: it could hold anything, such as a token, or a sentence that sounds like ours.
pub(super) fn named(name: &str) -> String {
    match is_shown(name) {
        true => name.to_owned(),
        false => format!(
            "a parameter whose name isn't one ({} characters)",
            name.chars().count()
        ),
    }
}

/// The same for a label, such as the value of `charset`.
pub(super) fn labelled(label: &str) -> String {
    // PEM's labels hold spaces.
    match label.len() <= LONGEST && label.split(' ').all(is_name) {
        true => label.to_owned(),
        false => format!("(no label, {} characters)", label.chars().count()),
    }
}

/// The same for the root of a reply, which is longer.
pub(super) fn rooted(root: &str) -> String {
    match is_root(root) {
        true => root.to_owned(),
        false => format!(
            "a member whose name is no root's ({} characters)",
            root.chars().count()
        ),
    }
}

/// The same for the serial number of a certificate.
pub(super) fn numbered(serial: &str) -> String {
    let is_serial = serial.len() == 32 && serial.bytes().all(|byte| byte.is_ascii_hexdigit());
    match is_serial {
        true => serial.to_owned(),
        false => format!("(no serial number, {} characters)", serial.chars().count()),
    }
}

/// No name of Alipay's is longer.
const LONGEST: usize = 32;

fn is_shown(name: &str) -> bool {
    is_name(name) && name.len() <= LONGEST
}

fn is_root(root: &str) -> bool {
    const LONGEST_ROOT: usize = 128;
    let is_lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    root.ends_with("_response") && root.len() <= LONGEST_ROOT && root.bytes().all(is_lower)
}

/// Sets a name off from the sentence; what stands in place of one is part of it.
pub(super) fn quoted(name: &str) -> String {
    match is_shown(name) || is_root(name) {
        true => format!("`{name}`"),
        false => name.to_owned(),
    }
}

/// Writes where something was found.
fn of(place: &Option<String>) -> String {
    place
        .as_ref()
        .map(|name| format!(" in {}", quoted(name)))
        .unwrap_or_default()
}

fn list(names: &[String]) -> String {
    const MOST: usize = 8;
    let quoted = names.iter().take(MOST).map(|name| quoted(name));
    let quoted = quoted.collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MOST) {
        0 => quoted,
        more => format!("{quoted} and {more} more"),
    }
}

/// Writes a distance in time for people.
fn span(seconds: i64) -> String {
    let size = seconds.unsigned_abs();
    let (count, unit) = match size {
        0..=119 => (size, "s"),
        120..=7_199 => (size / 60, "min"),
        7_200..=172_799 => (size / 3_600, "h"),
        _ => (size / 86_400, "days"),
    };
    let side = if seconds < 0 { "behind" } else { "ahead" };
    format!("{count} {unit} {side}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_shown() {
        assert_eq!(quoted(&named("utm_source")), "`utm_source`");
        for hostile in [
            "",
            "a` was signed; [wrong-key",
            "app_auth_token=202611BB",
            "a\u{202e}b",
            "a\u{200b}",
            "a b",
            "abcdefghijklmnopqrstuvwxyz1234567",
        ] {
            let shown = quoted(&named(hostile));
            let count = hostile.chars().count();
            let expected = format!("a parameter whose name isn't one ({count} characters)");
            assert_eq!(shown, expected);
            let is_label = hostile == "a b";
            assert_eq!(labelled(hostile).starts_with("(no label"), !is_label);
            assert!(numbered(hostile).starts_with("(no serial number"));
            assert!(rooted(hostile).starts_with("a member whose name"));
        }
        let root = "alipay_open_mini_innerversion_audit_status_query_response";
        assert_eq!(quoted(&rooted(root)), format!("`{root}`"));
        assert_eq!(labelled("utf-16"), "utf-16");
        let serial = "0123456789abcdef0123456789abcdef";
        assert_eq!(numbered(serial), serial);
    }
}
