//! The parameters of a form.

use thiserror::Error;

use super::{list, of, quoted};

/// Names what happened to parameters, or how they were signed.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParamsCause {
    /// HTML escapes were applied on the way.
    #[error(
        "HTML escapes (&amp; &quot; &#39; &lt;) were applied on the way{}; take the text before a \
         page, template or filter escapes it", of(.place)
    )]
    HtmlEscaped {
        /// Which parameter; `None` for several or the whole text.
        place: Option<String>,
    },
    /// A `+` became a space.
    #[error(
        "`+` became a space{}: it was form-decoded once too often, or sent without being encoded; \
         percent-encode `+` as %2B, decode once", of(.place)
    )]
    PlusAsSpace {
        /// Which parameter; `None` for several.
        place: Option<String>,
    },
    /// A space became a `+`.
    #[error(
        "a space became `+`{}: the value was percent-decoded without form rules, or encoded twice; \
         decode `+` as a space, once", of(.place)
    )]
    SpaceAsPlus {
        /// Which parameter; `None` for several.
        place: Option<String>,
    },
    /// Values were decoded twice.
    #[error(
        "the value was decoded twice{}: it holds percent-encoded text of its own, which must \
         stay; decode once", of(.place)
    )]
    DecodedTwice {
        /// Which parameter; `None` for several.
        place: Option<String>,
    },
    /// Values were encoded twice, or not decoded.
    #[error(
        "the text is percent-encoded once too often{}; sign over decoded values, and encode once \
         for sending", of(.place)
    )]
    EncodedTwice {
        /// Which parameter; `None` for several.
        place: Option<String>,
    },
    /// A parameter was added on the way.
    #[error(
        "not signed: {}; added on the way (ingress, framework, or the query of notify_url mixed \
         in); verify over what Alipay sent alone", list(.names)
    )]
    Added {
        /// The culprits.
        names: Vec<String>,
    },
    /// A parameter was dropped on the way.
    #[error(
        "{} was signed, but is missing here; a framework or a typed struct dropped it: verify \
         over everything that arrived", quoted(.name)
    )]
    Dropped {
        /// Which.
        name: String,
    },
    /// A parameter stands twice.
    #[error(
        "{} stands twice, so that verifier and reader could take different ones; send it once",
        quoted(.name)
    )]
    Duplicate {
        /// Which.
        name: String,
    },
    /// White space at the ends of a value was lost.
    #[error(
        "white space at an end of {} was trimmed on the way; keep values as they came",
        quoted(.name)
    )]
    ValueTrimmed {
        /// Which.
        name: String,
    },
    /// White space at the ends of a value was added.
    #[error("white space was added at an end of a value{}; keep values as they came", of(.place))]
    ValuePadded {
        /// Which parameter; `None` for several.
        place: Option<String>,
    },
    /// Line breaks were converted.
    #[error("line breaks were converted (CRLF, LF){}; keep values as they came", of(.place))]
    LineEndings {
        /// Which parameter; `None` for several.
        place: Option<String>,
    },
    /// The word `null` stands for nothing.
    #[error("an empty or missing value became the word `null`; leave such parameters out")]
    NullWord,
    /// `sign_type` is part of the signed text.
    #[error(
        "`sign_type` is part of the signed text (rsaCheckV2, life accounts); a verifier that \
         leaves it out (rsaCheckV1) fails here"
    )]
    SignTypeKept,
    /// `sign_type` isn't part of the signed text.
    #[error(
        "the request was signed without `sign_type`; in requests it takes part (only \
         notifications leave it out)"
    )]
    SignTypeDropped,
    /// Empty values are part of the signed text.
    #[error("empty values are part of the signed text (`name=`); leave them out of a request")]
    EmptyValuesKept,
    /// Empty values aren't part of the signed text.
    #[error("empty values aren't part of the signed text; a verifier that keeps them fails here")]
    EmptyValuesDropped,
    /// `alipay_cert_sn` isn't part of the signed text.
    #[error("`alipay_cert_sn` isn't part of the signed text; a verifier that keeps it fails here")]
    CertificateSerialLeftOut,
    /// The signer didn't sort.
    #[error("the parameters were signed in the order of sending; sort them by the bytes of names")]
    NotSorted,
    /// The signer sorted without regard to case.
    #[error("the parameters were sorted without regard to case; sort by bytes (`A` < `_` < `a`)")]
    SortedByLetters,
    /// The signer signed percent-encoded values.
    #[error("the signed text holds percent-encoded values; sign over the decoded ones")]
    SignedEncoded,
    /// The charset is named where Alipay doesn't look for it.
    #[error("`charset` isn't in the query, the one place where Alipay reads it; put it there")]
    CharsetNotInQuery,
    /// The signer signed only part of the parameters.
    #[error("only the query's parameters were signed; sign over query and body together")]
    QueryAlone,
}

impl ParamsCause {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::HtmlEscaped { .. } => "html-escaped",
            Self::PlusAsSpace { .. } => "plus-as-space",
            Self::SpaceAsPlus { .. } => "space-as-plus",
            Self::DecodedTwice { .. } => "decoded-twice",
            Self::EncodedTwice { .. } => "encoded-twice",
            Self::Added { .. } => "parameter-added",
            Self::Dropped { .. } => "parameter-dropped",
            Self::Duplicate { .. } => "parameter-duplicate",
            Self::ValueTrimmed { .. } => "value-trimmed",
            Self::ValuePadded { .. } => "value-padded",
            Self::LineEndings { .. } => "line-endings",
            Self::NullWord => "null-word",
            Self::SignTypeKept => "sign-type-kept",
            Self::SignTypeDropped => "sign-type-dropped",
            Self::EmptyValuesKept => "empty-values-kept",
            Self::EmptyValuesDropped => "empty-values-dropped",
            Self::CertificateSerialLeftOut => "certificate-serial-left-out",
            Self::NotSorted => "not-sorted",
            Self::SortedByLetters => "sorted-by-letters",
            Self::SignedEncoded => "signed-encoded",
            Self::CharsetNotInQuery => "charset-not-in-query",
            Self::QueryAlone => "query-alone",
        }
    }
}
