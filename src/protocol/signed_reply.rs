//! What is signed anew for backends, so that one key of their own verifies everything they get: the
//! envelope of a v2 reply, and notifications. (A v3 answer is signed by
//! [`sign_content::v3_response`].)
//!
//! Each is written in two steps, so that the signing may happen elsewhere: first the bytes that are
//! signed, then the whole around *the same* bytes.

use super::{
    charset::Charset,
    error::ProtocolError,
    notification,
    params::{Params, name},
    sign_content::{self, EmptyValues, Scheme},
    signature::SignType,
};

/// Writes the envelope of a v2 reply: the node first, then the signature over exactly its bytes.
///
/// The Node SDK cuts the node out by the length of the method's own root, also where the node is an
/// `error_response`; white space before that makes its cut hit the node all the same. Every other
/// SDK searches for the name.
#[must_use]
pub fn envelope(node_key: &str, node: &[u8], sign: &str) -> Vec<u8> {
    let indent = match node_key {
        ERROR_RESPONSE => LONGEST_ROOT.saturating_sub(r#"{"":"#.len() + node_key.len()),
        _ => 0,
    };
    let head = format!("{{{:indent$}\"{node_key}\":", "");
    let tail = format!(",\"sign\":\"{sign}\"}}");
    [head.as_bytes(), node, tail.as_bytes()].concat()
}

/// The member that a failed call without a root of its own is told in.
pub const ERROR_RESPONSE: &str = "error_response";

/// The root of a method's reply is at most this long: the longest method name we take, and
/// `_response`.
const LONGEST_ROOT: usize = 128 + "_response".len();

/// Holds a notification that goes on under another signature. `Debug` shows names alone.
#[derive(Clone, Debug)]
pub struct NotificationForm {
    params: Params,
    charset: Charset,
    sign_type: SignType,
    scheme: Scheme,
}

impl NotificationForm {
    /// Takes a notification apart that was verified as it came: charset and order of its parameters
    /// stay. Left out are `alipay_cert_sn`, which names another key, and what Alipay takes for
    /// empty, over which the SDKs disagree whether it is signed.
    ///
    /// `scheme` is the one that it was verified by, as its receiver verifies it; where that isn't
    /// known, events of life accounts (`service`) keep `sign_type` under the signature, and
    /// everything else leaves it out. Protocol: 异步通知, “验签”; 生活号, “开发者网关验证”.
    ///
    /// # Errors
    ///
    /// Those of [`UnverifiedNotification::parse`](notification::UnverifiedNotification::parse), and
    /// [`ProtocolError::SignTypeUnknown`].
    pub fn parse(
        content_type: &str,
        body: &[u8],
        scheme: Option<Scheme>,
    ) -> Result<Self, ProtocolError> {
        let charset = notification::charset(Some(content_type), body)?;
        let mut params = Params::from_form(body, charset)?.without_empty();
        params.remove(name::ALIPAY_CERT_SN);
        let sign_type = params.get(name::SIGN_TYPE).map(str::parse).transpose()?;
        let usual = match params.get(name::SERVICE) {
            Some(_) => Scheme::V2,
            None => Scheme::V1,
        };
        Ok(Self {
            params,
            charset,
            sign_type: sign_type.unwrap_or(SignType::Rsa2),
            scheme: scheme.unwrap_or(usual),
        })
    }

    /// Tells the algorithm that the notification names.
    #[must_use]
    pub fn sign_type(&self) -> SignType {
        self.sign_type
    }

    /// Gives the bytes to sign.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::CharsetMalformed`], which doesn't happen to what [`parse`](Self::parse)
    /// took.
    pub fn sign_content(&self) -> Result<Vec<u8>, ProtocolError> {
        let content = sign_content::notification(&self.params, self.scheme, EmptyValues::Dropped);
        self.charset.encode(&content)
    }

    /// Writes the form with the signature in base64, where the old one stood.
    ///
    /// # Errors
    ///
    /// As [`sign_content`](Self::sign_content).
    pub fn signed(mut self, sign: &str) -> Result<String, ProtocolError> {
        self.params.set(name::SIGN, sign);
        self.params.to_form(self.charset)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protocol::json;

    const UTF8: &str = "application/x-www-form-urlencoded; charset=utf-8";

    fn content(body: &str) -> String {
        let form = NotificationForm::parse(UTF8, body.as_bytes(), None).unwrap();
        String::from_utf8(form.sign_content().unwrap()).unwrap()
    }

    #[test]
    fn a_node_stands_first_and_as_it_came() {
        let node = br#"{ "a":"\/\u4e2d" }"#;
        let whole = envelope("alipay_trade_query_response", node, "c2ln");
        let expected = br#"{"alipay_trade_query_response":{ "a":"\/\u4e2d" },"sign":"c2ln"}"#;
        assert_eq!(whole, expected);
        let whole = envelope("a_response", b"\"Y2lwaGVy\"", "c2ln");
        assert_eq!(whole, br#"{"a_response":"Y2lwaGVy","sign":"c2ln"}"#);
    }

    #[test]
    fn an_error_begins_where_every_cut_finds_it() {
        let whole = envelope(ERROR_RESPONSE, b"{}", "c2ln");
        let at = whole.iter().rposition(|byte| *byte == b'{').unwrap();
        assert_eq!(at, LONGEST_ROOT);
        assert!(whole.ends_with(br#" "error_response":{},"sign":"c2ln"}"#));
    }

    #[test]
    fn a_notification_keeps_its_parameters_but_for_what_the_sdks_disagree_on() {
        let body = "b=2&sign=old&e=&a=%2525+%26&alipay_cert_sn=1&sign_type=RSA2&w=%20";
        assert_eq!(content(body), "a=%25 &&b=2");
        let form = NotificationForm::parse(UTF8, body.as_bytes(), None).unwrap();
        let signed = form.signed("a+b=").unwrap();
        assert_eq!(signed, "b=2&sign=a%2Bb%3D&a=%2525%20%26&sign_type=RSA2");
    }

    #[test]
    fn a_life_accounts_event_is_signed_with_its_sign_type() {
        let body = "service=alipay.service.check&sign=x&sign_type=RSA";
        assert_eq!(content(body), "service=alipay.service.check&sign_type=RSA");
        let form = NotificationForm::parse(UTF8, body.as_bytes(), None).unwrap();
        assert_eq!(form.sign_type(), SignType::Rsa);
    }

    #[test]
    fn a_scheme_that_is_known_is_kept() {
        for (scheme, expected) in [(Scheme::V1, "a=1"), (Scheme::V2, "a=1&sign_type=RSA2")] {
            let body = b"a=1&sign=x&sign_type=RSA2";
            let form = NotificationForm::parse(UTF8, body, Some(scheme)).unwrap();
            assert_eq!(form.sign_content().unwrap(), expected.as_bytes());
        }
    }

    #[test]
    fn gbk_stays_gbk() {
        let body = b"a=%D6%D0%A2%E3&charset=GBK&sign=x";
        let form = NotificationForm::parse("text/plain", body, None).unwrap();
        assert_eq!(
            form.sign_content().unwrap(),
            b"a=\xd6\xd0\xa2\xe3&charset=GBK"
        );
        assert_eq!(
            form.signed("y").unwrap(),
            "a=%D6%D0%A2%E3&charset=GBK&sign=y"
        );
    }

    #[test]
    fn an_unknown_algorithm_is_refused() {
        let error = NotificationForm::parse(UTF8, b"a=1&sign_type=SM2", None).unwrap_err();
        assert_eq!(error.kind(), "sign-type-unknown");
    }

    proptest! {
        #[test]
        fn what_is_signed_is_what_a_reader_finds(value in ".{0,30}", blank in "[ \n\t]{0,3}") {
            let node = format!("{{{blank}\"v\":{}}}", serde_json::json!(value));
            for key in ["alipay_trade_query_response", ERROR_RESPONSE] {
                let whole = envelope(key, node.as_bytes(), "c2ln");
                let members = json::members(&whole, Charset::Utf8).unwrap();
                prop_assert_eq!(members[0].name.as_ref(), key);
                prop_assert_eq!(&whole[members[0].value.clone()], node.as_bytes());
                prop_assert_eq!(members[1].name.as_ref(), "sign");
            }
        }

        #[test]
        fn a_form_written_anew_says_the_same(value in "[^\\s]{1,20}", other in "\\PC{0,20}") {
            let mut params = Params::new();
            params.push("a", value).unwrap();
            params.push("b", other).unwrap();
            let params = params.without_empty();
            let body = params.to_form(Charset::Utf8).unwrap();
            let form = NotificationForm::parse(UTF8, body.as_bytes(), None).unwrap();
            let signed = form.signed("x").unwrap();
            let mut read = Params::from_form(signed.as_bytes(), Charset::Utf8).unwrap();
            read.remove(name::SIGN);
            prop_assert_eq!(read, params);
        }
    }
}
