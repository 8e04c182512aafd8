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
use crate::protocol::{charset::Charset, error::shorten};

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
                 of the {tried} known changes tried explains it; take the bytes as they arrive, \
                 before any middleware, and compare the digest of what was signed with your own"
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

/// Makes a name that came from outside fit for a line of text.
pub(super) fn named(name: &str) -> String {
    shorten(name)
}

/// Writes where something was found.
fn of(place: &Option<String>) -> String {
    place
        .as_ref()
        .map(|name| format!(" in `{name}`"))
        .unwrap_or_default()
}

fn list(names: &[String]) -> String {
    const LONGEST: usize = 8;
    let quoted = names.iter().take(LONGEST).map(|name| format!("`{name}`"));
    let quoted = quoted.collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(LONGEST) {
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
