//! The signature itself.

use thiserror::Error;

use crate::protocol::signature::SignType;

/// Names what is wrong with a signature, or with how it was written.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SignCause {
    /// There is no signature.
    #[error("there is no signature (`sign` is missing or empty); only signed messages can hold")]
    Missing,
    /// The signature isn't base64 in any spelling.
    #[error(
        "`sign` isn't base64, in no spelling that was tried; take it over byte for byte from what \
         arrived"
    )]
    NotBase64,
    /// The signature is longer than any key makes one.
    #[error(
        "`sign` has {found} bytes, and no key makes so long a signature: something else stands \
         there, or the text goes on behind it; take `sign` over byte for byte"
    )]
    TooLong {
        /// How many bytes there are.
        found: usize,
    },
    /// The signature is too short or of another key's size.
    #[error(
        "the signature has {found} bytes, but the key makes {expected}: it was cut short, or a \
         key of another size made it"
    )]
    Length {
        /// How many bytes it has.
        found: usize,
        /// How many the keys make.
        expected: usize,
    },
    /// Spaces stand in the signature where `+` did.
    #[error(
        "the `+` of `sign` became spaces: it was form-decoded once too often, or not encoded \
         before sending; percent-encode it (%2B), decode once"
    )]
    PlusAsSpace,
    /// The signature is in the URL-safe alphabet.
    #[error("`sign` is in the URL-safe base64 alphabet (- _); Alipay's is the standard one (+ /)")]
    UrlSafe,
    /// The signature is still percent-encoded.
    #[error("`sign` is still percent-encoded; form-decode it exactly once")]
    PercentEncoded,
    /// The signature holds line breaks or other white space.
    #[error("`sign` holds line breaks or other white space; base64 without any is expected")]
    WhiteSpace,
    /// The signature holds HTML escapes.
    #[error("`sign` holds HTML escapes; take it before a page or template escapes it")]
    HtmlEscaped,
    /// The signature lost its padding.
    #[error("`sign` lost the `=` at its end; take it over whole")]
    Padding,
    /// The signature stands in quotes or has JSON's escapes.
    #[error("`sign` still has quotes or JSON escapes (`\\/`); decode it as a JSON string first")]
    Quoted,
    /// The signature is hexadecimal.
    #[error("`sign` is hexadecimal; base64 is expected")]
    Hex,
    /// Another algorithm than the one declared.
    #[error(
        "the signature was made as {used}, but {declared} is declared; let `sign_type` and the \
         algorithm agree (RSA2 is SHA-256, RSA is SHA-1)"
    )]
    TypeOther {
        /// What `sign_type` or the configuration says.
        declared: SignType,
        /// What the signature is.
        used: SignType,
    },
    /// The signature holds, but it is of a weaker algorithm than the app's.
    #[error(
        "sign_type is RSA, but the app is configured for RSA2: refused, so that nobody can fall \
         back to SHA-1; set `sign_type = \"RSA\"` only for an app that really uses it"
    )]
    TypeWeaker,
}

impl SignCause {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Missing => "sign-missing",
            Self::NotBase64 => "sign-not-base64",
            Self::TooLong { .. } => "sign-too-long",
            Self::Length { .. } => "signature-length",
            Self::PlusAsSpace => "sign-plus-as-space",
            Self::UrlSafe => "sign-url-safe",
            Self::PercentEncoded => "sign-percent-encoded",
            Self::WhiteSpace => "sign-white-space",
            Self::HtmlEscaped => "sign-html-escaped",
            Self::Padding => "sign-padding",
            Self::Quoted => "sign-quoted",
            Self::Hex => "sign-hex",
            Self::TypeOther { .. } => "sign-type-other",
            Self::TypeWeaker => "sign-type-weaker",
        }
    }
}
