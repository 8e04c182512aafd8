//! What can be wrong with protocol data, and what to do about it.
//!
//! No message holds a value of a parameter, a key or a body: those may be secret.

use thiserror::Error;

use super::{cert::CertificateError, signature::SignType};

/// Says what is wrong with protocol data that isn't a key or a reply.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProtocolError {
    /// An authorisation push lacks what it is for, or isn't the documented JSON.
    #[error(
        "the `biz_content` of the authorisation push is unusable: {reason}; expected one JSON \
         object whose `detail` has `auth_app_id` and `app_auth_token`"
    )]
    AuthorizationInvalid {
        /// What was found.
        reason: String,
    },
    /// A character that the charset lacks.
    #[error(
        "the character at byte {at} of the text has no code in {charset}; leave it out, escape it \
         (`\\uXXXX` in JSON), or use `charset=utf-8`"
    )]
    CharacterMissing {
        /// The charset to be written in.
        charset: &'static str,
        /// Offset of the character in the text as UTF-8.
        at: usize,
    },
    /// A byte sequence that isn't of the charset.
    #[error(
        "{what} isn't valid {charset} (near byte {at}); send it in the charset that the `charset` \
         parameter names"
    )]
    CharsetMalformed {
        /// What was being decoded.
        what: &'static str,
        /// The charset it was said to be in.
        charset: &'static str,
        /// Offset of the first bad byte.
        at: usize,
    },
    /// A charset that isn't spoken here.
    #[error("charset `{label}` isn't supported; expected `utf-8`, `GBK` or `GB2312`")]
    CharsetUnsupported {
        /// The label as it was given, shortened.
        label: String,
    },
    /// A reply of `alipay.open.auth.app.aes.get` without a usable key.
    #[error("the reply holds no AES key; expected `aes_key`, base64 of 16 bytes")]
    KeyReplyInvalid,
    /// A parameter holds a character that the charset of the call lacks.
    #[error(
        "the character at byte {at} of `{name}` has no code in {charset}; leave it out, escape it \
         (`\\uXXXX` in JSON), or use `charset=utf-8`"
    )]
    ParameterCharacterMissing {
        /// The parameter's name, shortened.
        name: String,
        /// The charset to be written in.
        charset: &'static str,
        /// Offset of the character in the value as UTF-8.
        at: usize,
    },
    /// A parameter stands twice.
    #[error("parameter `{name}` is given twice; send it once")]
    ParameterDuplicate {
        /// The decoded name, shortened.
        name: String,
    },
    /// More parameters than any call or notification has.
    #[error("there are more than {most} parameters")]
    ParametersTooMany {
        /// How many may stand there.
        most: usize,
    },
    /// A percent sign without two hexadecimal digits behind it.
    #[error(
        "byte {at} of the form is a `%` without two hexadecimal digits; percent-encode each value \
         once"
    )]
    PercentInvalid {
        /// Offset in the form as it came.
        at: usize,
    },
    /// There is no `sign`, or an empty one.
    #[error("there is no `sign`; only what Alipay signed is accepted")]
    SignMissing,
    /// A `sign` that isn't base64.
    #[error("`sign` isn't base64 of the standard alphabet with padding")]
    SignMalformed,
    /// A `sign_type` that isn't spoken here.
    #[error("sign_type `{found}` isn't supported; expected `RSA2` (or `RSA` for a legacy app)")]
    SignTypeUnknown {
        /// The value as it was given, shortened.
        found: String,
    },
    /// A `sign_type` weaker than the one the app is configured for.
    #[error("sign_type is {found}, but the app is configured for {expected}")]
    SignTypeWeaker {
        /// What the message claims.
        found: SignType,
        /// What the app is configured for.
        expected: SignType,
    },
    /// The signature doesn't fit the content under any of the keys.
    #[error(
        "the signature doesn't fit under any of the {keys} keys tried: somebody else made it, the \
         text was changed on the way, or the configured key isn't Alipay's (支付宝公钥); \
         `--explain` tells which"
    )]
    SignatureMismatch {
        /// How many keys were tried.
        keys: usize,
    },
    /// The signing operation itself failed.
    #[error("the RSA operation of sign_type {sign_type} failed; check the app's private key")]
    SigningFailed {
        /// What was asked for.
        sign_type: SignType,
    },
    /// Something signed that isn't an SPI call.
    #[error(
        "this is no SPI call: {reason}; expected `method` and `utc_timestamp` among the parameters"
    )]
    SpiCallInvalid {
        /// What was found.
        reason: &'static str,
    },
    /// A time that isn't written as Alipay writes it.
    #[error("found a timestamp that isn't `yyyy-MM-dd HH:mm:ss` at UTC+8, zero padded")]
    TimestampInvalid,
    /// A reply of `alipay.open.auth.token.app` without a usable token.
    #[error(
        "the token reply is unusable: {reason}; expected `tokens` (or the top level) with \
         `auth_app_id` and `app_auth_token`"
    )]
    TokenReplyInvalid {
        /// What was found.
        reason: String,
    },
}

impl ProtocolError {
    /// Names the kind of fault in a fixed word for replies, logs and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::AuthorizationInvalid { .. } => "authorization-invalid",
            Self::CharacterMissing { .. } | Self::ParameterCharacterMissing { .. } => {
                "character-missing"
            }
            Self::CharsetMalformed { .. } => "charset-malformed",
            Self::CharsetUnsupported { .. } => "charset-unsupported",
            Self::KeyReplyInvalid => "key-reply-invalid",
            Self::ParameterDuplicate { .. } => "parameter-duplicate",
            Self::ParametersTooMany { .. } | Self::PercentInvalid { .. } => "parameter-invalid",
            Self::SignMissing => "sign-missing",
            Self::SignMalformed => "sign-malformed",
            Self::SignTypeUnknown { .. } => "sign-type-unknown",
            Self::SignTypeWeaker { .. } => "sign-type-weaker",
            Self::SignatureMismatch { .. } => "signature-mismatch",
            Self::SigningFailed { .. } => "signing-failed",
            Self::SpiCallInvalid { .. } => "spi-call-invalid",
            Self::TimestampInvalid => "timestamp-invalid",
            Self::TokenReplyInvalid { .. } => "token-reply-invalid",
        }
    }
}

/// Says why a text isn't the key it should be.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// A key of another algorithm.
    #[error("found a key of the algorithm {found}; expected RSA")]
    Algorithm {
        /// The name or the object identifier that was found.
        found: String,
    },
    /// A text that isn't base64 between (or without) its PEM lines.
    #[error(
        "the text isn't base64 (character {at} of the key's body); paste the whole key as PEM, or \
         as the bare base64 that Alipay's key tool gives"
    )]
    Base64 {
        /// Position among the characters of the body that aren't white space.
        at: usize,
    },
    /// Something of the expected outline with an unusable inside.
    #[error(
        "the text decodes to {length} bytes that are no {expected}; was it cut short on the way?"
    )]
    Der {
        /// What was expected.
        expected: &'static str,
        /// The length of what was found, in bytes.
        length: usize,
    },
    /// There is nothing in the text.
    #[error("the text is empty; expected {expected}")]
    Empty {
        /// What was expected.
        expected: &'static str,
    },
    /// A private key locked by a passphrase.
    #[error("the private key is encrypted with a passphrase; expected it without one")]
    Encrypted,
    /// The numbers inside don't make a working key.
    #[error("the numbers in the RSA key don't belong together; expected a working private key")]
    Inconsistent,
    /// Several keys where one is expected.
    #[error("found {count} keys in one text; expected one {expected}")]
    Several {
        /// How many were found.
        count: usize,
        /// What was expected.
        expected: &'static str,
    },
    /// A key too small or too large.
    #[error("the RSA key has {bits} bits; expected 1024 to 4096")]
    Size {
        /// The length of the modulus.
        bits: usize,
    },
    /// Another kind of thing than was expected.
    #[error("found {found}; expected {expected}")]
    WrongKind {
        /// What was found.
        found: &'static str,
        /// What was expected.
        expected: &'static str,
    },
    /// A key couldn't be made.
    #[error("no RSA key of {bits} bits could be generated")]
    Generation {
        /// The length that was asked for.
        bits: usize,
    },
}

impl KeyError {
    /// Names the kind of fault in a fixed word for replies, logs and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Algorithm { .. } => "key-algorithm",
            Self::Base64 { .. } => "key-base64",
            Self::Der { .. } => "key-der",
            Self::Empty { .. } => "key-empty",
            Self::Encrypted => "key-encrypted",
            Self::Inconsistent => "key-inconsistent",
            Self::Several { .. } => "key-several",
            Self::Size { .. } => "key-size",
            Self::WrongKind { .. } => "key-wrong-kind",
            Self::Generation { .. } => "key-generation",
        }
    }
}

/// Says why a reply of Alipay's gateway can't be trusted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EnvelopeError {
    /// A member that decides stands twice.
    #[error(
        "member `{name}` stands twice in the reply; expected it once, as a parser and a verifier \
         would take different ones"
    )]
    Ambiguous {
        /// The decoded name.
        name: String,
    },
    /// The certificate in it isn't to be believed.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The body isn't one JSON object.
    #[error("the reply isn't one JSON object")]
    Malformed(#[source] JsonError),
    /// The node isn't there.
    #[error("the reply has neither `{root}` nor `error_response`")]
    NodeMissing {
        /// The root key that belongs to the method.
        root: String,
    },
    /// The node is neither an object nor a ciphertext.
    #[error("`{name}` is {found}; expected an object or an encrypted string")]
    NodeKind {
        /// The key of the node.
        name: String,
        /// The JSON type that was found.
        found: &'static str,
    },
    /// A `sign` that isn't a base64 string.
    #[error("the reply's `sign` isn't a base64 string")]
    SignMalformed,
    /// A signature that doesn't fit.
    #[error(
        "the reply's signature doesn't fit under any of the {keys} keys tried; check that the \
         configured key is Alipay's (支付宝公钥) and not the app's own public key"
    )]
    SignatureMismatch {
        /// How many keys were tried.
        keys: usize,
    },
    /// A success, or what may pass for one, without a signature.
    #[error("the reply claims success but isn't signed; only an error may come unsigned")]
    Unsigned,
}

impl EnvelopeError {
    /// Names the kind of fault in a fixed word for replies, logs and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Ambiguous { .. } => "reply-ambiguous",
            Self::Certificate(error) => error.kind(),
            Self::Malformed(_) => "reply-malformed",
            Self::NodeMissing { .. } => "reply-node-missing",
            Self::NodeKind { .. } => "reply-node-kind",
            Self::SignMalformed => "reply-sign-malformed",
            Self::SignatureMismatch { .. } => "reply-signature-mismatch",
            Self::Unsigned => "reply-unsigned",
        }
    }

    /// Tells a failed proof (`true`: `response-signature-invalid`) from something that is no
    /// reply of Alipay's at all (`false`: `upstream-invalid`).
    #[must_use]
    pub fn is_about_signature(&self) -> bool {
        match self {
            Self::Malformed(_) | Self::NodeKind { .. } | Self::NodeMissing { .. } => false,
            Self::Ambiguous { .. }
            | Self::Certificate(_)
            | Self::SignMalformed
            | Self::SignatureMismatch { .. }
            | Self::Unsigned => true,
        }
    }
}

/// Says where a text stops being JSON.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("{what} at byte {at}")]
#[non_exhaustive]
pub struct JsonError {
    /// What was found or missed.
    pub what: &'static str,
    /// Offset of it.
    pub at: usize,
}

/// Shortens text from outside for an error, and takes its control characters away.
pub(super) fn shorten(text: &str) -> String {
    const LONGEST: usize = 64;
    text.chars()
        .take(LONGEST)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
