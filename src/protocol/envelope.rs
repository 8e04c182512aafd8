//! The envelope of a v2 reply: the exact bytes that are signed, and the verdict over them.
//!
//! Protocol: 签名专区, “同步返回验签”. The node is cut out of the body by one strict scan of its top
//! level; nothing is parsed and printed again.

use std::{borrow::Cow, ops::Range};

use bytes::Bytes;

use super::{
    charset::Charset,
    error::EnvelopeError,
    json::{self, Kind, Member},
    key::{self, RsaPublicKey},
    params::name,
    signature::SignType,
};

/// Holds a reply that nobody has verified yet.
///
/// It shows nothing but what choosing a key needs: what may be acted upon comes out of
/// [`verify`](Self::verify). `Debug` shows no content.
#[derive(Clone)]
pub struct Envelope {
    body: Bytes,
    node: Range<usize>,
    node_key: String,
    is_ciphertext: bool,
    /// Decoded, not yet base64-decoded; `None` where it is missing, empty or null.
    sign: Option<String>,
    alipay_cert_sn: Option<String>,
    /// Every node that a caller might read is an error.
    is_plain_error: bool,
    summary: Summary,
}

impl Envelope {
    /// Cuts a UTF-8 reply to a call of `method` into its parts.
    ///
    /// Only the method's own root (`alipay.trade.query` → `alipay_trade_query_response`) counts,
    /// else `error_response`: a good signature over another API's root proves nothing (vectors
    /// `wrong-root`, `duplicate-root`, `root-name-in-string-first`).
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Malformed`], [`EnvelopeError::Ambiguous`], [`EnvelopeError::NodeMissing`],
    /// [`EnvelopeError::NodeKind`], or [`EnvelopeError::SignMalformed`] if `sign` isn't a string.
    pub fn parse(body: Bytes, method: &str) -> Result<Self, EnvelopeError> {
        Self::parse_in(body, method, Charset::Utf8)
    }

    /// Does the same for a reply in a given charset.
    ///
    /// # Errors
    ///
    /// As [`parse`](Self::parse).
    pub fn parse_in(body: Bytes, method: &str, charset: Charset) -> Result<Self, EnvelopeError> {
        let members = json::members(&body, charset).map_err(EnvelopeError::Malformed)?;
        let root = format!("{}_response", method.replace('.', "_"));
        let own = unique(&members, &root)?;
        let error = unique(&members, ERROR_RESPONSE)?;
        let sign = unique(&members, name::SIGN)?;
        let node = own.or(error).ok_or(EnvelopeError::NodeMissing { root })?;
        if !matches!(node.kind, Kind::Object | Kind::String) {
            return Err(EnvelopeError::NodeKind {
                name: node.name.clone(),
                found: node.kind.describe(),
            });
        }
        let text = Text {
            body: &body,
            charset,
        };
        Ok(Self {
            sign: sign.map(|member| text.sign(member)).transpose()?.flatten(),
            alipay_cert_sn: text.certificate(&members),
            is_plain_error: text.is_plain_error(&members),
            summary: text.summary(node),
            is_ciphertext: node.kind == Kind::String,
            node_key: node.name.clone(),
            node: node.value.clone(),
            body,
        })
    }

    /// Names the certificate that signed the reply (certificate mode; without meaning in key mode).
    /// Nobody has vouched for it yet: it only chooses the key.
    #[must_use]
    pub fn alipay_cert_sn(&self) -> Option<&str> {
        self.alipay_cert_sn.as_deref()
    }

    /// Checks the signature with each key in turn, and decides what the reply is worth.
    ///
    /// `sign_type` is that of our request. A node that holds `\/` is checked once more with `/`
    /// instead, as the Java SDK does (vector `slash-escaped-signed-unescaped`); nothing else is
    /// ever rewritten. Without a signature an error passes as
    /// [`Verification::UnsignedError`], and nothing else does.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::SignMalformed`], [`EnvelopeError::SignatureMismatch`], or
    /// [`EnvelopeError::Unsigned`] for an unsigned reply that isn't plainly an error.
    pub fn verify(
        self,
        keys: &[RsaPublicKey],
        sign_type: SignType,
    ) -> Result<VerifiedEnvelope, EnvelopeError> {
        let (verification, slash_unescaped) = match &self.sign {
            Some(sign) => {
                let retried = self.check_signature(sign, keys, sign_type)?;
                (Verification::Signed, retried)
            }
            None if self.is_plain_error => (Verification::UnsignedError, false),
            None => return Err(EnvelopeError::Unsigned),
        };
        Ok(VerifiedEnvelope {
            verification,
            slash_unescaped,
            envelope: self,
        })
    }

    /// Tells whether the signature fits only after the slashes were unescaped.
    fn check_signature(
        &self,
        sign: &str,
        keys: &[RsaPublicKey],
        sign_type: SignType,
    ) -> Result<bool, EnvelopeError> {
        let signature = key::decode_signature(sign).map_err(|_| EnvelopeError::SignMalformed)?;
        let fits = |content: &[u8]| {
            keys.iter()
                .any(|key| key.fits(sign_type, content, &signature))
        };
        let node = self.raw_node();
        if fits(node) {
            return Ok(false);
        }
        match unescape_slashes(node) {
            Cow::Owned(unescaped) if fits(&unescaped) => Ok(true),
            _ => Err(EnvelopeError::SignatureMismatch { keys: keys.len() }),
        }
    }

    fn raw_node(&self) -> &[u8] {
        self.body.get(self.node.clone()).unwrap_or_default()
    }
}

impl std::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Envelope")
            .field("body_bytes", &self.body.len())
            .field("node_key", &self.node_key)
            .field("node", &self.node)
            .field("is_ciphertext", &self.is_ciphertext)
            .field("is_signed", &self.sign.is_some())
            .field("code", &self.summary.code)
            .field("sub_code", &self.summary.sub_code)
            .finish_non_exhaustive()
    }
}

/// Says what a verified reply is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verification {
    /// Alipay's signature holds.
    Signed,
    /// An error that Alipay didn't sign: the outcome of the call is unknown, never “failed”.
    UnsignedError,
}

/// Holds a reply that may be acted upon. `Debug` shows no content.
#[derive(Clone, Debug)]
pub struct VerifiedEnvelope {
    envelope: Envelope,
    verification: Verification,
    slash_unescaped: bool,
}

impl VerifiedEnvelope {
    /// Gives the whole reply, byte for byte.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.envelope.body
    }

    /// Gives the exact bytes of the node, quotes included where it is a ciphertext.
    #[must_use]
    pub fn node(&self) -> Bytes {
        self.envelope.body.slice(self.envelope.node.clone())
    }

    /// Names the member that the node is: the method's root or `error_response`.
    #[must_use]
    pub fn node_key(&self) -> &str {
        &self.envelope.node_key
    }

    /// Gives the bytes that the signature covers: the node, but for its slashes where only the
    /// unescaped spelling fitted.
    #[must_use]
    pub fn signed_content(&self) -> Cow<'_, [u8]> {
        let node = self.envelope.raw_node();
        match self.slash_unescaped {
            true => unescape_slashes(node),
            false => Cow::Borrowed(node),
        }
    }

    /// Tells whether the node is an encrypted string instead of an object.
    #[must_use]
    pub fn is_ciphertext(&self) -> bool {
        self.envelope.is_ciphertext
    }

    /// Tells what the reply is worth.
    #[must_use]
    pub fn verification(&self) -> Verification {
        self.verification
    }

    /// Names the certificate that signed the reply (certificate mode).
    #[must_use]
    pub fn alipay_cert_sn(&self) -> Option<&str> {
        self.envelope.alipay_cert_sn()
    }

    /// Gives `code`, such as `10000`; `alipay.system.oauth.token` succeeds without one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.envelope.summary.code.as_deref()
    }

    /// Gives `msg`.
    #[must_use]
    pub fn msg(&self) -> Option<&str> {
        self.envelope.summary.msg.as_deref()
    }

    /// Gives `sub_code`, such as `isv.invalid-signature`.
    #[must_use]
    pub fn sub_code(&self) -> Option<&str> {
        self.envelope.summary.sub_code.as_deref()
    }

    /// Gives `sub_msg`.
    #[must_use]
    pub fn sub_msg(&self) -> Option<&str> {
        self.envelope.summary.sub_msg.as_deref()
    }
}

/// What every node may say about itself.
#[derive(Clone, Default)]
struct Summary {
    code: Option<String>,
    msg: Option<String>,
    sub_code: Option<String>,
    sub_msg: Option<String>,
}

/// The body while it is being read.
struct Text<'a> {
    body: &'a [u8],
    charset: Charset,
}

impl Text<'_> {
    fn raw(&self, member: &Member) -> &[u8] {
        self.body.get(member.value.clone()).unwrap_or_default()
    }

    /// Reads a string or a number as text.
    fn scalar(&self, text: &[u8], member: &Member) -> Option<String> {
        let raw = text.get(member.value.clone())?;
        match member.kind {
            Kind::String => json::decode_string(raw, self.charset).ok(),
            Kind::Number => self.charset.decode(raw).ok(),
            _ => None,
        }
    }

    /// Reads `sign`: a JSON string first (`\/` occurs, vector `sign-escaped-slash`), base64 later.
    fn sign(&self, member: &Member) -> Result<Option<String>, EnvelopeError> {
        let sign = match member.kind {
            Kind::Null => return Ok(None),
            Kind::String => self.scalar(self.body, member),
            _ => None,
        };
        let sign = sign.ok_or(EnvelopeError::SignMalformed)?;
        Ok((!sign.is_empty()).then_some(sign))
    }

    fn certificate(&self, members: &[Member]) -> Option<String> {
        let member = unique(members, name::ALIPAY_CERT_SN).ok()??;
        (member.kind == Kind::String).then(|| self.scalar(self.body, member))?
    }

    fn summary(&self, node: &Member) -> Summary {
        let node = self.raw(node);
        let members = json::members(node, self.charset).unwrap_or_default();
        // The last of duplicates, as in the parsers of the callers.
        let last = |name: &str| {
            let member = members.iter().rev().find(|member| member.name == name)?;
            self.scalar(node, member)
        };
        Summary {
            code: last("code"),
            msg: last("msg"),
            sub_code: last("sub_code"),
            sub_msg: last("sub_msg"),
        }
    }

    /// Tells whether no reader can take the reply for a success: each `…_response`, not only the
    /// one that counts here, is an object that says an error in each of its `code`s.
    fn is_plain_error(&self, members: &[Member]) -> bool {
        members
            .iter()
            .filter(|member| member.name.ends_with(RESPONSE))
            .all(|member| {
                let node = self.raw(member);
                let inside = json::members(node, self.charset).unwrap_or_default();
                let mut codes = inside
                    .iter()
                    .filter(|member| member.name == "code")
                    .peekable();
                codes.peek().is_some()
                    && codes.all(|code| self.scalar(node, code).is_some_and(|code| is_error(&code)))
            })
    }
}

/// Finds a member that may stand at most once.
fn unique<'a>(members: &'a [Member], name: &str) -> Result<Option<&'a Member>, EnvelopeError> {
    let mut found = members.iter().filter(|member| member.name == name);
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(EnvelopeError::Ambiguous {
            name: name.to_owned(),
        }),
        (first, None) => Ok(first),
    }
}

/// Tells whether a `code` says error: there is one, and no loose reader could take it for
/// `10000 Success` or `10003` (order accepted).
fn is_error(code: &str) -> bool {
    let code = code.trim();
    let is_success = code
        .parse::<f64>()
        .is_ok_and(|number| number == 10_000.0 || number == 10_003.0);
    !code.is_empty() && !is_success
}

/// Replaces every `\/` by `/`, as a text: that is what the Java SDK does.
fn unescape_slashes(node: &[u8]) -> Cow<'_, [u8]> {
    if !node.windows(2).any(|pair| pair == b"\\/") {
        return Cow::Borrowed(node);
    }
    let mut out = Vec::with_capacity(node.len());
    let mut bytes = node.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let escapes_slash = byte == b'\\' && bytes.peek() == Some(&b'/');
        if !escapes_slash {
            out.push(byte);
        }
    }
    Cow::Owned(out)
}

const RESPONSE: &str = "_response";
const ERROR_RESPONSE: &str = "error_response";

#[cfg(test)]
mod tests;
