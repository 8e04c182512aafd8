//! A response of v3: signed by its headers, or an error that isn't signed.
//!
//! Protocol: 开放平台 V3 协议, “验签规则” and the official Java SDK where the page is silent
//! (vectors `v3-response.json`).

use bytes::Bytes;
use thiserror::Error;

use super::{
    charset::Charset,
    encryption::{ContentKey, EncryptionError},
    json::{self, Kind},
    key::{self, RsaPublicKey},
    secret::Secret,
    sign_content,
    signature::SignType,
};

/// Holds a response that nobody has verified yet. `Debug` shows no content.
#[derive(Clone)]
pub struct V3Response {
    status: u16,
    body: Bytes,
    timestamp: Option<String>,
    nonce: Option<String>,
    /// `None` where it is missing, empty or the word `null`, which Alipay can send.
    signature: Option<String>,
    alipay_sn: Option<String>,
    trace_id: Option<String>,
}

impl V3Response {
    /// Takes a response: the body as it came, after transfer and content decoding. Headers that
    /// mean nothing here are passed over.
    ///
    /// # Errors
    ///
    /// [`V3Error::HeaderDuplicate`] or [`V3Error::HeaderMalformed`] for one of `alipay-timestamp`,
    /// `alipay-nonce`, `alipay-signature`, `alipay-sn`.
    pub fn new<'a>(
        status: u16,
        headers: impl IntoIterator<Item = (&'a str, &'a [u8])>,
        body: Bytes,
    ) -> Result<Self, V3Error> {
        let mut response = Self {
            status,
            body,
            timestamp: None,
            nonce: None,
            signature: None,
            alipay_sn: None,
            trace_id: None,
        };
        for (name, value) in headers {
            response.take_header(name, value)?;
        }
        let is_real = |signature: &String| !signature.is_empty() && signature != "null";
        response.signature = response.signature.filter(is_real);
        Ok(response)
    }

    fn take_header(&mut self, name: &str, value: &[u8]) -> Result<(), V3Error> {
        let lower = name.to_ascii_lowercase();
        let (name, place) = match lower.as_str() {
            "alipay-timestamp" => (TIMESTAMP, &mut self.timestamp),
            "alipay-nonce" => (NONCE, &mut self.nonce),
            "alipay-signature" => (SIGNATURE, &mut self.signature),
            "alipay-sn" => (SN, &mut self.alipay_sn),
            "alipay-trace-id" => {
                self.trace_id = visible(value);
                return Ok(());
            }
            _ => return Ok(()),
        };
        if place.is_some() {
            return Err(V3Error::HeaderDuplicate { name });
        }
        *place = Some(visible(value).ok_or(V3Error::HeaderMalformed { name })?);
        Ok(())
    }

    /// Tells whether there is a signature at all.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.signature.is_some()
    }

    /// Names the certificate that signed the response (`alipay-sn`, certificate mode). Nobody has
    /// vouched for it yet: it only chooses the key. One that isn't known must be fetched, or the
    /// response refused.
    #[must_use]
    pub fn alipay_sn(&self) -> Option<&str> {
        self.alipay_sn.as_deref().filter(|sn| !sn.is_empty())
    }

    /// Checks the signature with each key in turn, and decides what the response is worth.
    ///
    /// A signature that is there must hold, whatever the status. Without one, an error (4xx, 5xx)
    /// passes as [`V3Verification::UnsignedError`] and an empty 204 as
    /// [`V3Verification::NoContent`], as in the Java SDK; nothing else does.
    ///
    /// # Errors
    ///
    /// [`V3Error::Unsigned`], [`V3Error::HeaderMissing`], [`V3Error::HeaderMalformed`] or
    /// [`V3Error::SignatureMismatch`].
    pub fn verify(self, keys: &[RsaPublicKey]) -> Result<VerifiedV3Response, V3Error> {
        let verification = match (&self.signature, self.status) {
            (Some(signature), _) => {
                self.check_signature(signature, keys)?;
                V3Verification::Signed
            }
            (None, 400..=599) => V3Verification::UnsignedError,
            (None, 204) if self.body.is_empty() => V3Verification::NoContent,
            (None, status) => return Err(V3Error::Unsigned { status }),
        };
        Ok(VerifiedV3Response {
            response: self,
            verification,
        })
    }

    fn check_signature(&self, signature: &str, keys: &[RsaPublicKey]) -> Result<(), V3Error> {
        let required = |header: &'static str, value: &Option<String>| {
            let value = value.clone().filter(|value| !value.is_empty());
            value.ok_or(V3Error::HeaderMissing { name: header })
        };
        let timestamp = required(TIMESTAMP, &self.timestamp)?;
        let nonce = required(NONCE, &self.nonce)?;
        let signature = key::decode_signature(signature)
            .map_err(|_| V3Error::HeaderMalformed { name: SIGNATURE })?;
        let content = sign_content::v3_response(&timestamp, &nonce, &self.body)
            .ok_or(V3Error::HeaderMalformed { name: NONCE })?;
        let fits = |key: &RsaPublicKey| key.fits(SignType::Rsa2, &content, &signature);
        match keys.iter().any(fits) {
            true => Ok(()),
            false => Err(V3Error::SignatureMismatch { keys: keys.len() }),
        }
    }
}

impl std::fmt::Debug for V3Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("V3Response")
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .field("is_signed", &self.signature.is_some())
            .field("alipay_sn", &self.alipay_sn)
            .field("trace_id", &self.trace_id)
            .finish_non_exhaustive()
    }
}

/// Says what a v3 response is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum V3Verification {
    /// Alipay's signature holds.
    Signed,
    /// An error that Alipay didn't sign: the outcome of the call is unknown, never “failed”.
    UnsignedError,
    /// 204 without a body and without a signature: there was nothing to sign.
    NoContent,
}

/// Holds a response that may be acted upon. `Debug` shows no content.
#[derive(Clone, Debug)]
pub struct VerifiedV3Response {
    response: V3Response,
    verification: V3Verification,
}

impl VerifiedV3Response {
    /// Gives the HTTP status. (It isn't signed, but a body says itself whether it is an error.)
    #[must_use]
    pub fn status(&self) -> u16 {
        self.response.status
    }

    /// Gives the body, byte for byte; a ciphertext where the call was encrypted.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.response.body
    }

    /// Tells what the response is worth.
    #[must_use]
    pub fn verification(&self) -> V3Verification {
        self.verification
    }

    /// Tells whether the status says error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        !(200..300).contains(&self.response.status)
    }

    /// Names the certificate that signed the response (certificate mode).
    #[must_use]
    pub fn alipay_sn(&self) -> Option<&str> {
        self.response.alipay_sn()
    }

    /// Gives Alipay's name for the call (`alipay-trace-id`), for questions to its support.
    #[must_use]
    pub fn trace_id(&self) -> Option<&str> {
        self.response.trace_id.as_deref()
    }

    /// Gives the `code` of an error, such as `invalid-signature`.
    #[must_use]
    pub fn code(&self) -> Option<String> {
        self.code_in(self.body())
    }

    /// Gives the `code` of an error whose body was a ciphertext and is `opened` now.
    #[must_use]
    pub fn code_in(&self, opened: &[u8]) -> Option<String> {
        text(opened, "code").filter(|_| self.is_error())
    }

    /// Gives the `message` of an error.
    #[must_use]
    pub fn message(&self) -> Option<String> {
        text(self.body(), "message").filter(|_| self.is_error())
    }

    /// Tells whether the body is a ciphertext: signed, not empty, and not the beginning of JSON. (A
    /// server that can't decrypt answers plainly; the page of some proxy is no ciphertext.)
    #[must_use]
    pub fn is_ciphertext(&self) -> bool {
        let is_signed = self.verification == V3Verification::Signed;
        let first = self.body().trim_ascii_start().first();
        is_signed && first.is_some_and(|first| !matches!(first, b'{' | b'['))
    }

    /// Gives the JSON text of the body: decrypted where it is a ciphertext, else as it came.
    ///
    /// # Errors
    ///
    /// Those of [`ContentKey::decrypt`], and [`EncryptionError::PlaintextNotJson`].
    pub fn open_body(&self, key: &ContentKey) -> Result<Secret<Vec<u8>>, EncryptionError> {
        if !self.is_ciphertext() {
            return Ok(Secret::new(self.body().to_vec()));
        }
        let text = std::str::from_utf8(self.body()).map_err(|_| EncryptionError::Ciphertext)?;
        key.decrypt_object(text.trim(), Charset::Utf8)
    }
}

/// Says why a v3 response can't be trusted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum V3Error {
    /// A header that decides stands twice.
    #[error("the response has the header `{name}` twice")]
    HeaderDuplicate {
        /// Which.
        name: &'static str,
    },
    /// A header that decides isn't one line of visible ASCII, or not what it should hold.
    #[error("the response's header `{name}` is malformed")]
    HeaderMalformed {
        /// Which.
        name: &'static str,
    },
    /// A header that a signature needs is missing.
    #[error("the response is signed but lacks the header `{name}`")]
    HeaderMissing {
        /// Which.
        name: &'static str,
    },
    /// A signature that doesn't fit.
    #[error(
        "the response's signature doesn't fit under any of the {keys} keys tried; check that the \
         configured key is Alipay's (支付宝公钥) and not the app's own public key"
    )]
    SignatureMismatch {
        /// How many keys were tried.
        keys: usize,
    },
    /// A success, or what may pass for one, without a signature.
    #[error(
        "the response has the status {status} but isn't signed; only an error may come unsigned"
    )]
    Unsigned {
        /// The HTTP status.
        status: u16,
    },
}

impl V3Error {
    /// Names the kind of fault in a fixed word for replies, logs and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::HeaderDuplicate { .. } => "reply-ambiguous",
            Self::HeaderMalformed { .. } => "reply-sign-malformed",
            Self::HeaderMissing { .. } | Self::Unsigned { .. } => "reply-unsigned",
            Self::SignatureMismatch { .. } => "reply-signature-mismatch",
        }
    }
}

fn text(body: &[u8], name: &str) -> Option<String> {
    let members = json::members(body, Charset::Utf8).ok()?;
    // The last of duplicates, as in the parsers of the callers.
    let member = members.iter().rev().find(|member| member.name == name)?;
    let raw = body.get(member.value.clone())?;
    (member.kind == Kind::String).then(|| json::decode_string(raw, Charset::Utf8).ok())?
}

fn visible(value: &[u8]) -> Option<String> {
    let is_visible = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    let text = value.iter().all(is_visible).then(|| value.to_vec())?;
    String::from_utf8(text).ok()
}

const TIMESTAMP: &str = "alipay-timestamp";
const NONCE: &str = "alipay-nonce";
const SIGNATURE: &str = "alipay-signature";
const SN: &str = "alipay-sn";

#[cfg(test)]
mod tests;
