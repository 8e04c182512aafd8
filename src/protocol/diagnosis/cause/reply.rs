//! Replies and their JSON.

use thiserror::Error;

use super::{of, quoted};

/// Names what is wrong with a reply, or how its JSON was written anew.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplyCause {
    /// The body says error, and isn't signed.
    #[error(
        "Alipay didn't sign this error; that is usual for errors found before it knows the app, \
         but proves nothing: the outcome of the call is unknown"
    )]
    UnsignedError,
    /// A success without a signature.
    #[error("the reply claims success but isn't signed; it is refused")]
    Unsigned,
    /// The root of another method.
    #[error(
        "the reply holds {}, not {}: it answers another method; give the method that was called",
        quoted(.found), quoted(.expected)
    )]
    OtherMethod {
        /// The root that belongs to the method.
        expected: String,
        /// The root that was found.
        found: String,
    },
    /// A member stands twice.
    #[error(
        "{} stands twice in the reply, so that verifier and reader could differ; refused",
        quoted(.name)
    )]
    MemberDuplicate {
        /// Which.
        name: String,
    },
    /// White space between the tokens changed.
    #[error(
        "the JSON{} was written anew with other white space (compact or pretty-printed); verify \
         the bytes that came, never a parsed copy", of(.place)
    )]
    JsonSpacing {
        /// Which parameter; `None` for a body.
        place: Option<String>,
    },
    /// The slashes changed.
    #[error(
        "the JSON{} was written anew with other slashes (`\\/` and `/`); verify the bytes that \
         came, never a parsed copy", of(.place)
    )]
    JsonSlashes {
        /// Which parameter; `None` for a body.
        place: Option<String>,
    },
    /// The Unicode escapes changed.
    #[error(
        "the JSON{} was written anew with other escapes (`\\uXXXX` and the characters \
         themselves); verify the bytes that came, never a parsed copy", of(.place)
    )]
    JsonEscapes {
        /// Which parameter; `None` for a body.
        place: Option<String>,
    },
    /// The members stand in another order.
    #[error(
        "the JSON{} was written anew with its members in another order; verify the bytes that \
         came, never a parsed copy", of(.place)
    )]
    JsonOrder {
        /// Which parameter; `None` for a body.
        place: Option<String>,
    },
    /// An encrypted node lost its quotes.
    #[error("the quotes of the encrypted node were stripped; they are part of what is signed")]
    QuotesStripped,
    /// An encrypted node was signed without its quotes.
    #[error(
        "the encrypted node was signed without its quotes, which Alipay never does: the other \
         side isn't Alipay's gateway (a simulator, a test)"
    )]
    SignedWithoutQuotes,
}

impl ReplyCause {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::UnsignedError => "unsigned-error",
            Self::Unsigned => "unsigned",
            Self::OtherMethod { .. } => "other-method",
            Self::MemberDuplicate { .. } => "member-duplicate",
            Self::JsonSpacing { .. } => "json-spacing",
            Self::JsonSlashes { .. } => "json-slashes",
            Self::JsonEscapes { .. } => "json-escapes",
            Self::JsonOrder { .. } => "json-order",
            Self::QuotesStripped => "quotes-stripped",
            Self::SignedWithoutQuotes => "signed-without-quotes",
        }
    }
}
