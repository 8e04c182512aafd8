//! What we sign ourselves and answer to Alipay's calls: XML for life accounts, JSON for SPI.
//!
//! Each is written in two steps, so that the signing may happen elsewhere: first the bytes that are
//! signed, then the whole answer around *the same* bytes.

use std::fmt;

use super::{
    charset::Charset,
    error::{JsonError, ProtocolError},
    json,
    key::RsaPublicKey,
    signature::SignType,
};

/// Holds the inside of a life account's answer.
///
/// Protocol: 生活号, “开发者网关验证”, and `AlipaySignature.encryptAndSign` of the Java SDK (vectors
/// `xml` of `replies.json`).
#[derive(Clone, PartialEq, Eq)]
pub struct XmlAnswer {
    inner: Vec<u8>,
    charset: Charset,
}

impl fmt::Debug for XmlAnswer {
    /// Without the text, which is a backend's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XmlAnswer")
            .field("len", &self.inner.len())
            .field("charset", &self.charset)
            .finish()
    }
}

impl XmlAnswer {
    /// Answers `alipay.service.check` with our own public key.
    ///
    /// # Errors
    ///
    /// As [`from_inner`](Self::from_inner).
    pub fn service_check(app: &RsaPublicKey, charset: Charset) -> Result<Self, ProtocolError> {
        let key = app.to_bare_base64();
        let inner = format!("<success>true</success><biz_content>{key}</biz_content>");
        Self::from_inner(&inner, charset)
    }

    /// Takes the text that stands between `<response>` and `</response>`, well-formed XML.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::CharsetMalformed`] for a character that the charset lacks.
    pub fn from_inner(inner: &str, charset: Charset) -> Result<Self, ProtocolError> {
        Ok(Self {
            inner: charset.encode(inner)?,
            charset,
        })
    }

    /// Gives the bytes to sign.
    #[must_use]
    pub fn sign_content(&self) -> &[u8] {
        &self.inner
    }

    /// Writes the answer around them, with the signature in base64 and its real type. (The current
    /// Java SDK writes `RSA` whatever the type; older ones, and PHP, the real one.)
    #[must_use]
    pub fn signed(&self, sign: &str, sign_type: SignType) -> Vec<u8> {
        let encoding = self.charset.label().to_ascii_uppercase();
        let head = format!("<?xml version=\"1.0\" encoding=\"{encoding}\"?><alipay><response>");
        let tail =
            format!("</response><sign>{sign}</sign><sign_type>{sign_type}</sign_type></alipay>");
        [head.as_bytes(), &self.inner, tail.as_bytes()].concat()
    }

    /// Gives the `Content-Type` of the answer.
    #[must_use]
    pub fn content_type(&self) -> String {
        let charset = self.charset.label().to_ascii_uppercase();
        format!("text/xml; charset={charset}")
    }
}

/// Says how the response of an SPI stands in the answer.
///
/// Protocol: SPI接入指南. Its demo embeds an object, its table of fields says “JSON string”.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpiShape {
    /// As a JSON object, byte for byte: `{"response":{…}`.
    #[default]
    Object,
    /// As a JSON string with the object's text in it: `{"response":"{…}"`.
    Text,
}

/// Holds the response of an SPI.
///
/// Protocol: SPI接入指南, “返回签名” (vectors `spi` of `replies.json`). The signature covers the text
/// of the response, so that is embedded as it came and never written anew.
#[derive(Clone, PartialEq, Eq)]
pub struct SpiAnswer {
    response: Vec<u8>,
    charset: Charset,
}

impl fmt::Debug for SpiAnswer {
    /// Without the response, which is a backend's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SpiAnswer")
            .field("len", &self.response.len())
            .field("charset", &self.charset)
            .finish()
    }
}

impl SpiAnswer {
    /// Takes the unsigned response: one JSON object in the charset of the call. White space around
    /// it is no part of it.
    ///
    /// # Errors
    ///
    /// [`JsonError`] if it is something else.
    pub fn new(response: &[u8], charset: Charset) -> Result<Self, JsonError> {
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
        json::is_one_object(response, charset)?;
        let start = response.iter().position(|byte| !is_space(byte));
        let end = response.iter().rposition(|byte| !is_space(byte));
        let object = start
            .zip(end)
            .and_then(|(start, end)| response.get(start..=end));
        Ok(Self {
            response: object.unwrap_or_default().to_vec(),
            charset,
        })
    }

    /// Gives the bytes to sign.
    #[must_use]
    pub fn sign_content(&self) -> &[u8] {
        &self.response
    }

    /// Writes the answer around them, with the signature in base64 and, in certificate mode, the
    /// app's `app_cert_sn`.
    ///
    /// # Errors
    ///
    /// [`ProtocolError::CharsetMalformed`], which doesn't happen to what [`new`](Self::new) took.
    pub fn signed(
        &self,
        sign: &str,
        app_cert_sn: Option<&str>,
        shape: SpiShape,
    ) -> Result<Vec<u8>, ProtocolError> {
        let response = match shape {
            SpiShape::Object => self.response.clone(),
            SpiShape::Text => {
                let text = self.charset.decode(&self.response)?;
                self.charset.encode(&quoted(&text))?
            }
        };
        let mut tail = format!(",\"sign\":{}", quoted(sign));
        if let Some(sn) = app_cert_sn {
            tail += &format!(",\"app_cert_sn\":{}", quoted(sn));
        }
        tail.push('}');
        Ok([b"{\"response\":", response.as_slice(), tail.as_bytes()].concat())
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_response_is_embedded_as_it_came() {
        let text = "\n { \"b\" : 1.0, \"a\":\"\\/\\u4e2d\" } \n";
        let answer = SpiAnswer::new(text.as_bytes(), Charset::Utf8).unwrap();
        assert_eq!(answer.sign_content(), text.trim().as_bytes());
        let signed = answer.signed("c2ln", Some("ab"), SpiShape::Object).unwrap();
        let expected = format!(
            "{{\"response\":{},\"sign\":\"c2ln\",\"app_cert_sn\":\"ab\"}}",
            text.trim()
        );
        assert_eq!(signed, expected.as_bytes());
    }

    #[test]
    fn the_response_may_stand_as_a_text() {
        let answer = SpiAnswer::new(br#"{"a":"\"x"}"#, Charset::Utf8).unwrap();
        let signed = answer.signed("c", None, SpiShape::Text).unwrap();
        let expected = br#"{"response":"{\"a\":\"\\\"x\"}","sign":"c"}"#;
        assert_eq!(signed, expected);
    }

    #[test]
    fn what_is_not_one_object_is_not_signed() {
        for text in [
            "",
            "[]",
            "{} {}",
            "{\"a\":1},\"sign\":\"x\"",
            "\u{feff}{}",
            "null",
        ] {
            assert!(
                SpiAnswer::new(text.as_bytes(), Charset::Utf8).is_err(),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_signed_is_what_a_reader_finds(value in ".{0,30}", blank in "[ \n\t]{0,3}") {
            let text = format!("{blank}{}{blank}", serde_json::json!({"v": value}));
            let answer = SpiAnswer::new(text.as_bytes(), Charset::Utf8).unwrap();
            for shape in [SpiShape::Object, SpiShape::Text] {
                let whole = answer.signed("c", None, shape).unwrap();
                let members = json::members(&whole, Charset::Utf8).unwrap();
                prop_assert_eq!(&members[0].name, "response");
                let raw = &whole[members[0].value.clone()];
                let found = match shape {
                    SpiShape::Object => raw.to_vec(),
                    SpiShape::Text => json::decode_string(raw, Charset::Utf8).unwrap().into_bytes(),
                };
                prop_assert_eq!(found.as_slice(), answer.sign_content());
            }
        }
    }
}
