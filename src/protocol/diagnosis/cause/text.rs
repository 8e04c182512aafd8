//! Charsets and the outline of a text.

use thiserror::Error;

use super::of;
use crate::protocol::error::ProtocolError;

/// Names what happened to a text as a whole.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum TextCause {
    /// Bytes of one charset were read as another.
    #[error(
        "the text is {meant}, but was read as {read}; let `charset` (in the query) name the \
         charset that is really sent, and pass bytes on without converting them"
    )]
    CharsetMisread {
        /// What it is.
        meant: &'static str,
        /// What it was taken for.
        read: &'static str,
    },
    /// The text was converted from one charset to another after signing.
    #[error(
        "the text was signed in {signed}, but arrived in {arrived}; sign and send in one charset, \
         and let nothing convert it on the way"
    )]
    CharsetConverted {
        /// The charset that was signed.
        signed: &'static str,
        /// The charset of what is here.
        arrived: &'static str,
    },
    /// The `charset` parameter was changed after signing.
    #[error(
        "`charset` was signed as `{signed}`, but another value arrived; pass it on as it was \
         signed, spelling included"
    )]
    CharsetRenamed {
        /// The value that was signed.
        signed: &'static str,
    },
    /// Bytes that aren't of the declared charset.
    #[error(
        "the text isn't valid {declared} (near byte {at}), which is what it says it is; let \
         `charset` name what is really sent"
    )]
    CharsetMalformed {
        /// What was declared.
        declared: &'static str,
        /// Where the first bad byte is.
        at: usize,
    },
    /// Characters were lost in a conversion.
    #[error(
        "characters were lost in a conversion of charsets (replacement characters{}); they can't \
         be won back: keep the bytes that arrived", of(.place)
    )]
    CharactersLost {
        /// Which parameter; `None` for the whole text.
        place: Option<String>,
    },
    /// A charset that isn't Alipay's.
    #[error("{0}")]
    CharsetUnknown(ProtocolError),
    /// Nothing is there.
    #[error("there is nothing to verify: the text is empty")]
    Empty,
    /// A byte order mark at the beginning.
    #[error("an editor put a byte order mark (BOM) at the beginning; save without one")]
    ByteOrderMark,
    /// White space around the text.
    #[error("white space or a line break was added around the text (by an editor, or on copying)")]
    OuterWhiteSpace,
    /// Line breaks inside the text.
    #[error("line breaks were put into the text (by a terminal, mail or editor that wraps lines)")]
    LinesWrapped,
    /// A `%` without two digits.
    #[error(
        "byte {at} is a `%` without two hexadecimal digits: the form was already decoded, or cut \
         short; keep the bytes that arrived"
    )]
    PercentInvalid {
        /// Where.
        at: usize,
    },
    /// The end is missing.
    #[error("the text is cut short; read the whole body before verifying")]
    Truncated,
    /// A compressed body.
    #[error("the body is compressed (gzip); verify after content decoding")]
    Compressed,
    /// An HTML page.
    #[error("this is an HTML page of some proxy or error, not a message of Alipay's")]
    HtmlPage,
    /// Something that isn't a message of Alipay's.
    #[error("this isn't what it should be: {reason}")]
    NotTheMessage {
        /// What was found.
        reason: String,
    },
}

impl TextCause {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::CharsetMisread { .. } => "charset-misread",
            Self::CharsetConverted { .. } => "charset-converted",
            Self::CharsetRenamed { .. } => "charset-renamed",
            Self::CharsetMalformed { .. } => "charset-malformed",
            Self::CharactersLost { .. } => "characters-lost",
            Self::CharsetUnknown(_) => "charset-unknown",
            Self::Empty => "empty",
            Self::ByteOrderMark => "byte-order-mark",
            Self::OuterWhiteSpace => "outer-white-space",
            Self::LinesWrapped => "lines-wrapped",
            Self::PercentInvalid { .. } => "percent-invalid",
            Self::Truncated => "truncated",
            Self::Compressed => "compressed",
            Self::HtmlPage => "html-page",
            Self::NotTheMessage { .. } => "not-the-message",
        }
    }
}
