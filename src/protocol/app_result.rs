//! What an app's payment gives its front end, checked on the server.
//!
//! Protocol: App支付, “同步返回”; it verifies as the v2 reply of the API that the order string was
//! for. The text came through the hands of a user. That a payment was begun it shows, not that it
//! is paid: the notification shows that.

use bytes::Bytes;
use thiserror::Error;

use super::{
    charset::Charset,
    envelope::{Envelope, Verification, VerifiedEnvelope},
    error::EnvelopeError,
    json::{self, Kind, Member},
    key::RsaPublicKey,
    params::name,
    signature::SignType,
};

/// Holds a result that nobody has verified yet.
///
/// It shows nothing but what choosing a key needs. `Debug` shows no content.
#[derive(Clone, Debug)]
pub struct UnverifiedAppResult {
    /// The readings that its text may have been signed in.
    envelopes: Vec<Envelope>,
    claimed_app_id: Option<String>,
}

impl UnverifiedAppResult {
    /// Reads the result: `{"alipay_trade_app_pay_response":{…},"sign":"…",…}`, or the whole map
    /// that the front end got, `{"resultStatus":"9000","result":"{…}","memo":""}`. A node that says
    /// `"charset":"GBK"` may have been signed as GBK; the app made Unicode of it.
    ///
    /// # Errors
    ///
    /// [`EnvelopeError`] where there isn't exactly one `…_response`, or it isn't a reply.
    pub fn parse(text: &[u8]) -> Result<Self, EnvelopeError> {
        let members = members(text)?;
        match members.iter().find(|member| member.name == "result") {
            Some(result) if root(&members).is_err() => Self::signed(&inner(text, result)?),
            _ => Self::signed(text),
        }
    }

    fn signed(text: &[u8]) -> Result<Self, EnvelopeError> {
        let members = members(text)?;
        let root = root(&members)?;
        let node = text.get(root.value.clone()).unwrap_or_default();
        let named = |name| match root.kind {
            Kind::Object => text_member(node, name),
            _ => None,
        };
        // The method only names the root again.
        let method = root.name.trim_end_matches(ROOT_END);
        let body = Bytes::copy_from_slice(text);
        let mut envelopes = vec![Envelope::parse(body, method)?];
        let charset = named(name::CHARSET).and_then(|label| Charset::from_label(&label).ok());
        if let Some(charset) = charset.filter(|charset| *charset != Charset::Utf8) {
            let text = std::str::from_utf8(text).unwrap_or_default();
            if let Ok(encoded) = charset.encode(text) {
                envelopes.push(Envelope::parse_in(encoded.into(), method, charset)?);
            }
        }
        Ok(Self {
            envelopes,
            claimed_app_id: named(name::APP_ID),
        })
    }

    /// Names the app that the result says it is for. Nobody has vouched for it yet.
    #[must_use]
    pub fn claimed_app_id(&self) -> Option<&str> {
        self.claimed_app_id.as_deref()
    }

    /// Names the platform certificate that signed the result (certificate mode). Nobody has
    /// vouched for it yet.
    #[must_use]
    pub fn alipay_cert_sn(&self) -> Option<&str> {
        self.envelopes.first()?.alipay_cert_sn()
    }

    /// Checks the signature with each key in turn. Here an error, too, counts only with one: the
    /// user could have written it.
    ///
    /// # Errors
    ///
    /// [`AppResultError`].
    pub fn verify(
        self,
        keys: &[RsaPublicKey],
        sign_type: SignType,
    ) -> Result<VerifiedEnvelope, AppResultError> {
        let mut fault = AppResultError::Unsigned;
        for envelope in self.envelopes {
            match envelope.verify(keys, sign_type) {
                Ok(verified) if verified.verification() == Verification::Signed => {
                    return Ok(verified);
                }
                Ok(_) | Err(EnvelopeError::Unsigned) => {}
                Err(error) => fault = error.into(),
            }
        }
        Err(fault)
    }
}

/// Says why an app's result isn't taken. No message holds any of it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AppResultError {
    /// There is no signature.
    #[error("the result isn't signed; what a user passes on counts only with Alipay's signature")]
    Unsigned,
    /// It isn't a reply, or its signature doesn't fit.
    #[error(transparent)]
    Envelope(#[from] EnvelopeError),
}

const ROOT_END: &str = "_response";

fn members(text: &[u8]) -> Result<Vec<Member<'_>>, EnvelopeError> {
    json::members(text, Charset::Utf8).map_err(EnvelopeError::Malformed)
}

/// Finds the one member that is a reply's root.
fn root<'a, 'b>(members: &'a [Member<'b>]) -> Result<&'a Member<'b>, EnvelopeError> {
    let mut found = members.iter().filter(|m| m.name.ends_with(ROOT_END));
    match (found.next(), found.next()) {
        (Some(root), None) => Ok(root),
        (Some(_), Some(second)) => Err(EnvelopeError::Ambiguous {
            name: second.name.chars().take(64).collect(),
        }),
        (None, _) => Err(EnvelopeError::NodeMissing {
            root: format!("…{ROOT_END}"),
        }),
    }
}

/// Takes the signed text out of the map around it: a string with JSON in it, or that JSON itself.
fn inner(text: &[u8], result: &Member<'_>) -> Result<Vec<u8>, EnvelopeError> {
    let raw = text.get(result.value.clone()).unwrap_or_default();
    match result.kind {
        Kind::Object => Ok(raw.to_vec()),
        Kind::String => json::decode_string(raw, Charset::Utf8)
            .map(String::into_bytes)
            .map_err(EnvelopeError::Malformed),
        other => Err(EnvelopeError::NodeKind {
            name: result.name.clone().into_owned(),
            found: other.describe(),
        }),
    }
}

/// Reads a text member that stands once.
fn text_member(object: &[u8], name: &str) -> Option<String> {
    let members = json::members(object, Charset::Utf8).ok()?;
    let mut found = members.iter().filter(|member| member.name == name);
    let (first, second) = (found.next()?, found.next());
    let raw = object.get(first.value.clone())?;
    (second.is_none() && first.kind == Kind::String)
        .then(|| json::decode_string(raw, Charset::Utf8).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::key::AppPrivateKey;

    const RESULT: &str =
        r#"{"alipay_trade_app_pay_response":{"code":"10000","app_id":"1"},"sign":"c2ln"}"#;

    fn claimed(text: &str) -> Option<String> {
        let result = UnverifiedAppResult::parse(text.as_bytes()).unwrap();
        result.claimed_app_id().map(str::to_owned)
    }

    #[test]
    fn a_result_comes_bare_or_in_its_map() {
        let quoted = serde_json::Value::from(RESULT).to_string();
        for text in [
            RESULT.to_owned(),
            format!(r#"{{"resultStatus":"9000","result":{quoted},"memo":""}}"#),
            format!(r#"{{"resultStatus":9000,"result":{RESULT}}}"#),
        ] {
            assert_eq!(claimed(&text).as_deref(), Some("1"), "{text}");
        }
    }

    #[test]
    fn what_has_no_single_root_is_refused() {
        for (text, kind) in [
            ("", "reply-malformed"),
            ("{}", "reply-node-missing"),
            (r#"{"result":""}"#, "reply-malformed"),
            (r#"{"result":null}"#, "reply-node-kind"),
            (r#"{"a_response":{},"b_response":{}}"#, "reply-ambiguous"),
            (r#"{"a_response":{},"a_response":{}}"#, "reply-ambiguous"),
            (
                r#"{"a_response":{},"error_response":{}}"#,
                "reply-ambiguous",
            ),
            (r#"{"a_response":1}"#, "reply-node-kind"),
        ] {
            let error = UnverifiedAppResult::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), kind, "{text}");
        }
    }

    #[test]
    fn nothing_counts_without_a_signature_errors_neither() {
        for text in [
            r#"{"alipay_trade_app_pay_response":{"code":"10000"}}"#,
            r#"{"alipay_trade_app_pay_response":{"code":"40004"},"sign":""}"#,
            r#"{"error_response":{"code":"40004","msg":"x"}}"#,
        ] {
            let result = UnverifiedAppResult::parse(text.as_bytes()).unwrap();
            let error = result.verify(&[], SignType::Rsa2).unwrap_err();
            assert_eq!(error, AppResultError::Unsigned, "{text}");
        }
    }

    /// What verifying says of a result with this node, signed as `charset`.
    fn verified(node: &str, charset: Charset) -> Result<String, AppResultError> {
        let key = AppPrivateKey::of_vectors("alipay2048");
        let sign = key.sign(SignType::Rsa2, &charset.encode(node).unwrap());
        let text = format!(
            r#"{{"alipay_trade_app_pay_response":{node},"sign":"{}","alipay_cert_sn":"c5n"}}"#,
            sign.unwrap()
        );
        let result = UnverifiedAppResult::parse(text.as_bytes()).unwrap();
        assert_eq!(result.alipay_cert_sn(), Some("c5n"));
        let keys = [key.public_key().clone()];
        let verified = result.verify(&keys, SignType::Rsa2)?;
        Ok(verified.node_text())
    }

    #[test]
    fn what_alipay_signed_is_taken_in_the_charset_that_it_names() {
        let plain = r#"{"code":"10000","app_id":"1","subject":"茶"}"#;
        assert_eq!(verified(plain, Charset::Utf8).unwrap(), plain);
        let gbk = r#"{"code":"10000","charset":"GBK","subject":"茶"}"#;
        assert_eq!(verified(gbk, Charset::Gbk).unwrap(), gbk);
        assert_eq!(verified(gbk, Charset::Utf8).unwrap(), gbk);
        let error = verified(plain, Charset::Gbk).unwrap_err();
        assert!(matches!(error, AppResultError::Envelope(_)), "{error}");
    }

    #[test]
    fn a_member_beside_the_root_is_not_taken_for_the_map() {
        let beside = RESULT.replace("{\"alipay", "{\"result\":\"x\",\"alipay");
        assert_eq!(claimed(&beside).as_deref(), Some("1"));
    }

    #[test]
    fn an_app_id_counts_as_a_text_that_stands_once() {
        for node in [r#"{"app_id":"1","app_id":"2"}"#, r#"{"app_id":1}"#, "{}"] {
            let text = format!(r#"{{"a_response":{node},"sign":"c2ln"}}"#);
            assert_eq!(claimed(&text), None, "{node}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,60}", node in ".{0,40}") {
            let _ = UnverifiedAppResult::parse(text.as_bytes());
            let node = serde_json::json!({"a_response": {"charset": "GBK", "x": node}, "sign": text});
            let map = serde_json::json!({"result": node.to_string()}).to_string();
            let result = UnverifiedAppResult::parse(map.as_bytes()).unwrap();
            prop_assert!(result.verify(&[], SignType::Rsa2).is_err());
        }
    }
}
