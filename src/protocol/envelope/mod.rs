//! The envelope of a v2 reply: the exact bytes that are signed, and the verdict over them.
//!
//! Protocol: 签名专区, “同步返回验签”. The node is cut out of the body by one strict scan of its top
//! level; nothing is parsed and printed again.

mod text;

use std::{borrow::Cow, ops::Range};

use bytes::Bytes;
use zeroize::Zeroizing;

use self::text::{Summary, Text};
use super::{
    cert::{self, Bundle},
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
    charset: Charset,
    node: Range<usize>,
    node_key: String,
    is_ciphertext: bool,
    /// Decoded, not yet base64-decoded; `None` where it is missing, empty or null.
    sign: Option<String>,
    alipay_cert_sn: Option<String>,
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
        let root = format!("{}_response", method.replace('.', "_"));
        let is_node = |name: &str| name == root || name == ERROR_RESPONSE;
        let (members, inside) =
            json::members_two_deep(&body, charset, is_node).map_err(EnvelopeError::Malformed)?;
        let own = unique(&members, &root)?;
        let error = unique(&members, ERROR_RESPONSE)?;
        let sign = unique(&members, name::SIGN)?;
        let node = own.or(error).ok_or(EnvelopeError::NodeMissing { root })?;
        if !matches!(node.kind, Kind::Object | Kind::String) {
            return Err(EnvelopeError::NodeKind {
                name: node.name.clone().into_owned(),
                found: node.kind.describe(),
            });
        }
        let text = Text {
            body: &body,
            charset,
        };
        let sign = sign.map(|member| text.sign(member)).transpose()?.flatten();
        Ok(Self {
            sign,
            alipay_cert_sn: text.certificate(&members),
            summary: text.summary(
                inside
                    .iter()
                    .filter(|member| node.value.contains(&member.value.start)),
            ),
            is_ciphertext: node.kind == Kind::String,
            node_key: node.name.clone().into_owned(),
            node: node.value.clone(),
            charset,
            body,
        })
    }

    /// Names the certificate that signed the reply (certificate mode; without meaning in key mode).
    /// Nobody has vouched for it yet: it only chooses the key.
    #[must_use]
    pub fn alipay_cert_sn(&self) -> Option<&str> {
        self.alipay_cert_sn.as_deref()
    }

    /// Tells whether there is a signature at all.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.sign.is_some()
    }

    /// Decides what a reply to `alipay.open.app.alipaycert.download` is worth, which carries no
    /// signature that could be verified: the certificate in it proves itself, by its way up to one
    /// of the roots at a moment (milliseconds since 1970).
    ///
    /// Protocol: 公钥证书方式; in certificate mode alone.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError::Certificate`] for a certificate that isn't trusted, or a reply that holds
    /// none and isn't plainly an error.
    pub fn verify_download(
        self,
        roots: &Bundle,
        unix_ms: i64,
    ) -> Result<VerifiedEnvelope, EnvelopeError> {
        let verification = match cert::downloaded(self.raw_node()) {
            Err(_) if self.is_plain_error() => Verification::UnsignedError,
            text => {
                let chain = text.and_then(|text| Bundle::parse(&text));
                let trusted = chain.and_then(|chain| chain.check_trust(roots, unix_ms));
                trusted.map_err(EnvelopeError::Certificate)?;
                Verification::Certified
            }
        };
        Ok(VerifiedEnvelope {
            verification,
            slash_unescaped: false,
            envelope: self,
            opened: None,
        })
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
            None if self.is_plain_error() => (Verification::UnsignedError, false),
            None => return Err(EnvelopeError::Unsigned),
        };
        Ok(VerifiedEnvelope {
            verification,
            slash_unescaped,
            envelope: self,
            opened: None,
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
        match unescape_slashes(node, self.charset) {
            Cow::Owned(unescaped) if fits(&unescaped) => Ok(true),
            _ => Err(EnvelopeError::SignatureMismatch { keys: keys.len() }),
        }
    }

    /// Tells whether every node that a caller might read is an error.
    fn is_plain_error(&self) -> bool {
        let text = Text {
            body: &self.body,
            charset: self.charset,
        };
        json::members(&self.body, self.charset).is_ok_and(|members| text.is_plain_error(&members))
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
    /// Unsigned, but its content, a certificate, leads up to a root of Alipay's.
    Certified,
    /// Alipay's signature holds.
    Signed,
    /// An error that Alipay didn't sign: the outcome of the call is unknown, never “failed”.
    UnsignedError,
}

/// Holds a reply that may be acted upon. `Debug` shows no content.
#[derive(Clone)]
pub struct VerifiedEnvelope {
    envelope: Envelope,
    verification: Verification,
    slash_unescaped: bool,
    /// What an encrypted node held, and what that says about itself.
    opened: Option<(Bytes, Summary)>,
}

impl VerifiedEnvelope {
    /// Gives the whole reply, byte for byte.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.envelope.body
    }

    /// Gives the exact bytes of the node: what was decrypted, else as it stands in the body (a
    /// ciphertext that nobody opened with its quotes).
    #[must_use]
    pub fn node(&self) -> Bytes {
        match &self.opened {
            Some((plaintext, _)) => plaintext.clone(),
            None => self.sent_node(),
        }
    }

    /// Gives the exact bytes of the node as it stands in the body: a ciphertext stays one.
    #[must_use]
    pub fn sent_node(&self) -> Bytes {
        self.envelope.body.slice(self.envelope.node.clone())
    }

    /// Tells whether the node stands in the body as a ciphertext, opened here or not.
    #[must_use]
    pub fn is_ciphertext_as_sent(&self) -> bool {
        self.opened.is_some() || self.is_ciphertext()
    }

    /// Takes what the node's ciphertext was decrypted to: one JSON object in the reply's charset.
    /// Its memory is wiped with the last that holds it.
    pub(super) fn opened(self, plaintext: Zeroizing<Vec<u8>>) -> Self {
        let summary = Text {
            body: &plaintext,
            charset: self.envelope.charset,
        }
        .whole_summary();
        Self {
            opened: Some((Bytes::from_owner(plaintext), summary)),
            ..self
        }
    }

    /// Gives the text of the node, decoded: what JSON readers take.
    #[must_use]
    pub fn node_text(&self) -> String {
        self.envelope.charset.decode(&self.node()).expect(
            "the body and what was decrypted were scanned in this charset, and a node ends \
             between characters",
        )
    }

    /// Tells the charset that the reply was read in.
    #[must_use]
    pub fn charset(&self) -> Charset {
        self.envelope.charset
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
            true => unescape_slashes(node, self.envelope.charset),
            false => Cow::Borrowed(node),
        }
    }

    /// Tells whether the node is an encrypted string that nobody has opened.
    #[must_use]
    pub fn is_ciphertext(&self) -> bool {
        self.envelope.is_ciphertext && self.opened.is_none()
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

    fn summary(&self) -> &Summary {
        match &self.opened {
            Some((_, summary)) => summary,
            None => &self.envelope.summary,
        }
    }

    /// Gives `code`, such as `10000`; `alipay.system.oauth.token` succeeds without one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        self.summary().code.as_deref()
    }

    /// Gives `msg`.
    #[must_use]
    pub fn msg(&self) -> Option<&str> {
        self.summary().msg.as_deref()
    }

    /// Gives `sub_code`, such as `isv.invalid-signature`.
    #[must_use]
    pub fn sub_code(&self) -> Option<&str> {
        self.summary().sub_code.as_deref()
    }

    /// Gives `sub_msg`.
    #[must_use]
    pub fn sub_msg(&self) -> Option<&str> {
        self.summary().sub_msg.as_deref()
    }
}

impl std::fmt::Debug for VerifiedEnvelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifiedEnvelope")
            .field("envelope", &self.envelope)
            .field("verification", &self.verification)
            .field("is_opened", &self.opened.is_some())
            .finish_non_exhaustive()
    }
}

/// Finds a member that may stand at most once.
fn unique<'a, 'b>(
    members: &'a [Member<'b>],
    name: &str,
) -> Result<Option<&'a Member<'b>>, EnvelopeError> {
    let mut found = members.iter().filter(|member| member.name == name);
    match (found.next(), found.next()) {
        (_, Some(_)) => Err(EnvelopeError::Ambiguous {
            name: name.to_owned(),
        }),
        (first, None) => Ok(first),
    }
}

/// Replaces every `\/` by `/`, as a text: that is what the Java SDK does. A trail byte of GBK that
/// looks like a backslash is none.
fn unescape_slashes(node: &[u8], charset: Charset) -> Cow<'_, [u8]> {
    if !node.windows(2).any(|pair| pair == b"\\/") {
        return Cow::Borrowed(node);
    }
    let mut out = Vec::with_capacity(node.len());
    let mut rest = node;
    while let Some(&lead) = rest.first() {
        let length = charset.character_length(lead).min(rest.len());
        let (character, behind) = rest.split_at(length);
        if !(lead == b'\\' && behind.first() == Some(&b'/')) {
            out.extend(character);
        }
        rest = behind;
    }
    Cow::Owned(out)
}

const ERROR_RESPONSE: &str = "error_response";

#[cfg(test)]
mod tests;
