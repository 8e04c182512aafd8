//! What `my.getPhoneNumber` and the like give a mini program's front end, checked on the server.
//!
//! Protocol: 小程序文档, “获取会员手机号” and “敏感信息加解密方法”; vectors `client_data` of
//! `replies.json`. The text came through the hands of a user: nothing in it counts before the
//! signature holds, and its replay isn't prevented by it.

use serde::Deserialize;
use thiserror::Error;

use super::{
    charset::Charset,
    encryption::{ContentKey, EncryptionError},
    error::{JsonError, ProtocolError},
    json::{self, Kind, Member},
    key::{self, RsaPublicKey},
    loose::{self, Loose},
    secret::Secret,
    signature::SignType,
};

/// Holds what the front end sent: `{"response":"…","sign":"…"}`. `Debug` shows no content.
#[derive(Clone)]
pub struct UnverifiedClientData {
    response: String,
    sign: String,
    charset: Charset,
}

impl UnverifiedClientData {
    /// Reads what the front end sent: the JSON text that a callback has in its `response`, or the
    /// whole object that the callback got, around it. Spaces in base64 become `+` again, which forms
    /// turn them into.
    ///
    /// # Errors
    ///
    /// [`ClientDataError::Malformed`], [`ClientDataError::Member`],
    /// [`ClientDataError::Unsupported`], or [`ClientDataError::Protocol`] for a charset that isn't
    /// supported.
    pub fn parse(message: &[u8]) -> Result<Self, ClientDataError> {
        let members = json::members(message, Charset::Utf8).map_err(ClientDataError::Malformed)?;
        match text_around(message, &members) {
            Some(inner) => Self::signed(&inner),
            None => Self::signed(message),
        }
    }

    fn signed(message: &[u8]) -> Result<Self, ClientDataError> {
        let members = json::members(message, Charset::Utf8).map_err(ClientDataError::Malformed)?;
        let read = |name| text(message, &members, name);
        let required = |name| read(name)?.ok_or(ClientDataError::Member { name });
        only(read("sign_type")?, "sign_type", SignType::Rsa2.as_str())?;
        only(read("encrypt_type")?, "encrypt_type", "AES")?;
        let charset = read("charset")?.filter(|label| !label.is_empty());
        let response = required("response")?;
        Ok(Self {
            sign: required("sign")?.replace(' ', "+"),
            response: match is_plain(&response) {
                true => response,
                false => response.replace(' ', "+"),
            },
            charset: charset.map_or(Ok(Charset::Utf8), |label| Charset::from_label(&label))?,
        })
    }

    /// Tells whether the content is a ciphertext, which needs the merchant's key, or a plain text.
    #[must_use]
    pub fn is_ciphertext(&self) -> bool {
        !is_plain(&self.response)
    }

    /// Gives the text that is signed: a ciphertext with quotes around it, a plain text as it is.
    #[must_use]
    pub fn sign_content(&self) -> String {
        match self.is_ciphertext() {
            true => format!("\"{}\"", self.response),
            false => self.response.clone(),
        }
    }

    /// Checks the signature with each platform key of the app that the front end named (the
    /// `isvAppId`, or the third-party app).
    ///
    /// # Errors
    ///
    /// [`ClientDataError::Protocol`] for a signature that is missing, malformed or wrong.
    pub fn verify(self, keys: &[RsaPublicKey]) -> Result<VerifiedClientData, ClientDataError> {
        let signature = key::decode_signature(&self.sign)?;
        let content = self.charset.encode(&self.sign_content())?;
        let fits = |key: &RsaPublicKey| key.fits(SignType::Rsa2, &content, &signature);
        match keys.iter().any(fits) {
            true => Ok(VerifiedClientData(self)),
            false => Err(ProtocolError::SignatureMismatch { keys: keys.len() }.into()),
        }
    }
}

impl std::fmt::Debug for UnverifiedClientData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnverifiedClientData")
            .field("is_ciphertext", &self.is_ciphertext())
            .finish_non_exhaustive()
    }
}

/// Holds client data whose signature is Alipay's.
#[derive(Clone, Debug)]
pub struct VerifiedClientData(UnverifiedClientData);

impl VerifiedClientData {
    /// Tells whether the content is a ciphertext.
    #[must_use]
    pub fn is_ciphertext(&self) -> bool {
        self.0.is_ciphertext()
    }

    /// Decrypts a ciphertext with the content key of the *merchant's* mini program.
    ///
    /// Only an error comes plain. Anything else that does is refused: with a good signature it may
    /// be a node of any of Alipay's replies, put there by a user.
    ///
    /// # Errors
    ///
    /// [`ClientDataError::PlainSuccess`] or [`ClientDataError::Encryption`].
    pub fn open(self, merchant: &ContentKey) -> Result<ClientData, ClientDataError> {
        let Self(data) = self;
        if !data.is_ciphertext() {
            return ClientData::plain_error(data.response);
        }
        let plaintext = merchant.decrypt_object(&data.response, data.charset)?;
        let json = data.charset.decode(plaintext.expose())?;
        Ok(ClientData::new(json, Origin::Decrypted))
    }

    /// Gives the error that a plain text is, without a key.
    ///
    /// # Errors
    ///
    /// [`ClientDataError::KeyMissing`] for a ciphertext, or [`ClientDataError::PlainSuccess`].
    pub fn into_plain_error(self) -> Result<ClientData, ClientDataError> {
        match self.is_ciphertext() {
            true => Err(ClientDataError::KeyMissing),
            false => ClientData::plain_error(self.0.response),
        }
    }
}

/// Says where the text of client data comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was decrypted: the data, or an error of the interface.
    Decrypted,
    /// It came plain: always an error.
    PlainError,
}

/// Holds opened client data. `Debug` shows no content.
#[derive(Clone, Debug)]
pub struct ClientData {
    /// The JSON object with what was asked for, such as `mobile`, or with an error.
    pub json: Secret<String>,
    /// Where the text comes from.
    pub origin: Origin,
    /// `code`, such as `10000`.
    pub code: Option<String>,
    /// `subCode` (or `sub_code`), such as `isv.invalid-auth-relations`.
    pub sub_code: Option<String>,
    /// `subMsg` (or `sub_msg`).
    pub sub_msg: Option<String>,
}

impl ClientData {
    fn plain_error(json: String) -> Result<Self, ClientDataError> {
        json::is_one_object(json.as_bytes(), Charset::Utf8).map_err(ClientDataError::Malformed)?;
        let data = Self::new(json, Origin::PlainError);
        match data.code.as_deref() {
            None | Some("10000") => Err(ClientDataError::PlainSuccess),
            Some(_) => Ok(data),
        }
    }

    fn new(json: String, origin: Origin) -> Self {
        let summary: Summary = loose::object(&json).unwrap_or_default();
        Self {
            code: summary.code.into_text(),
            sub_code: summary.sub_code.or(&summary.old_sub_code).into_text(),
            sub_msg: summary.sub_msg.or(&summary.old_sub_msg).into_text(),
            json: Secret::new(json),
            origin,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Summary {
    code: Loose,
    #[serde(rename = "subCode")]
    sub_code: Loose,
    #[serde(rename = "sub_code")]
    old_sub_code: Loose,
    #[serde(rename = "subMsg")]
    sub_msg: Loose,
    #[serde(rename = "sub_msg")]
    old_sub_msg: Loose,
}

/// Says why client data isn't taken. No message holds any of it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientDataError {
    /// The message, or the plain text in it, isn't one JSON object.
    #[error("the client data isn't one JSON object; send it as the front end's callback gives it")]
    Malformed(#[source] JsonError),
    /// A member is missing, stands twice or isn't a string.
    #[error("the client data needs `{name}` once, as a string")]
    Member {
        /// Which.
        name: &'static str,
    },
    /// A member names what isn't spoken here.
    #[error("the client data's `{name}` isn't supported; expected `{expected}`")]
    Unsupported {
        /// Which.
        name: &'static str,
        /// What is supported.
        expected: &'static str,
    },
    /// A plain text that isn't an error.
    #[error("the client data isn't encrypted although it is no error; only errors come plain")]
    PlainSuccess,
    /// A ciphertext without a key for it.
    #[error("the client data is encrypted; configure the merchant's content key")]
    KeyMissing,
    /// It can't be decrypted.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    /// The signature or the charset is at fault.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
}

impl ClientDataError {
    /// Names the kind of fault in a fixed word for replies, logs and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Malformed(_) | Self::Member { .. } | Self::Unsupported { .. } => {
                "client-data-invalid"
            }
            Self::PlainSuccess => "client-data-plain",
            Self::KeyMissing => "content-key-missing",
            Self::Encryption(error) => error.kind(),
            Self::Protocol(error) => error.kind(),
        }
    }
}

/// Takes the signed text out of a callback's object, which has no `sign` of its own.
fn text_around(message: &[u8], members: &[Member<'_>]) -> Option<Vec<u8>> {
    if members.iter().any(|member| member.name == "sign") {
        return None;
    }
    let mut found = members.iter().filter(|member| member.name == "response");
    let (response, second) = (found.next()?, found.next());
    let raw = message.get(response.value.clone())?;
    match (response.kind, second) {
        (Kind::Object, None) => Some(raw.to_vec()),
        (Kind::String, None) => {
            let text = json::decode_string(raw, Charset::Utf8).ok()?;
            is_plain(&text).then(|| text.into_bytes())
        }
        _ => None,
    }
}

fn is_plain(response: &str) -> bool {
    response.starts_with('{')
}

/// Reads a string that stands at most once.
fn text(
    message: &[u8],
    members: &[Member<'_>],
    name: &'static str,
) -> Result<Option<String>, ClientDataError> {
    let fault = ClientDataError::Member { name };
    let mut found = members.iter().filter(|member| member.name == name);
    let (first, second) = (found.next(), found.next());
    let Some(member) = first.filter(|member| member.kind != Kind::Null) else {
        return second.map_or(Ok(None), |_| Err(fault));
    };
    if second.is_some() || member.kind != Kind::String {
        return Err(fault);
    }
    let raw = message.get(member.value.clone()).unwrap_or_default();
    match json::decode_string(raw, Charset::Utf8) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Err(fault),
    }
}

fn only(
    found: Option<String>,
    name: &'static str,
    expected: &'static str,
) -> Result<(), ClientDataError> {
    match found.as_deref() {
        None | Some("") => Ok(()),
        Some(found) if found == expected => Ok(()),
        Some(_) => Err(ClientDataError::Unsupported { name, expected }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(message: &str, kind: &str) {
        let error = UnverifiedClientData::parse(message.as_bytes()).unwrap_err();
        assert_eq!(error.kind(), kind, "{message}");
    }

    #[test]
    fn messages_that_parsers_disagree_about_are_refused() {
        for message in [
            "",
            "[]",
            r#"{"response":"a"}"#,
            r#"{"sign":"a"}"#,
            r#"{"response":null,"sign":"a"}"#,
            r#"{"response":{"code":"10000"},"sign":"a"}"#,
            r#"{"response":"a","response":"b","sign":"c"}"#,
            r#"{"response":null,"response":"b","sign":"c"}"#,
            r#"{"response":"a","sign":"c","\u0073ign":"d"}"#,
            r#"{"response":"a","sign":"c","sign_type":"RSA"}"#,
            r#"{"response":"a","sign":"c","encrypt_type":"SM4"}"#,
            r#"{"response":"\ud800","sign":"c"}"#,
        ] {
            refused(message, "client-data-invalid");
        }
        refused(
            r#"{"response":"a","sign":"c","charset":"latin1"}"#,
            "charset-unsupported",
        );
    }

    #[test]
    fn the_callbacks_whole_object_is_read_too() {
        let text = r#"{"response":"a","sign":"c"}"#;
        let quoted = serde_json::Value::from(text).to_string();
        for message in [
            text.to_owned(),
            format!(r#"{{"response":{quoted},"errMsg":"ok"}}"#),
            format!(r#"{{"response":{text}}}"#),
        ] {
            let data = UnverifiedClientData::parse(message.as_bytes()).unwrap();
            assert_eq!(data.sign_content(), "\"a\"", "{message}");
        }
        refused(
            &format!(r#"{{"response":{quoted},"response":{quoted}}}"#),
            "client-data-invalid",
        );
    }

    #[test]
    fn plus_signs_are_repaired_in_base64_alone() {
        let parse = |message: &str| UnverifiedClientData::parse(message.as_bytes()).unwrap();
        let data = parse(r#"{"response":"a b/","sign":"c d"}"#);
        assert_eq!(data.sign_content(), "\"a+b/\"");
        assert_eq!(data.sign, "c+d");
        let data = parse(r#"{"response":"{\"code\": \"4\"}","sign":"c"}"#);
        assert_eq!(data.sign_content(), r#"{"code": "4"}"#);
    }

    #[test]
    fn a_plain_text_is_an_error_or_refused() {
        let open = |json: &str| ClientData::plain_error(json.to_owned());
        let data = open(r#"{"code":40003,"subCode":"isv.x","sub_msg":"m"}"#).unwrap();
        assert_eq!(data.code.as_deref(), Some("40003"));
        assert_eq!(data.sub_code.as_deref(), Some("isv.x"));
        assert_eq!(data.sub_msg.as_deref(), Some("m"));
        for json in [
            r#"{"mobile":"1"}"#,
            r#"{"code":"10000"}"#,
            r#"{"code":10000}"#,
        ] {
            assert_eq!(open(json).unwrap_err(), ClientDataError::PlainSuccess);
        }
        for json in ["{", "{} {}", r#"{"code":"1","code":"10000"}"#] {
            assert!(open(json).is_err(), "{json}");
        }
    }

    #[test]
    fn a_ciphertext_is_no_plain_error() {
        let verified = |message: &str| {
            VerifiedClientData(UnverifiedClientData::parse(message.as_bytes()).unwrap())
        };
        let sealed = verified(r#"{"response":"c2VhbGVk","sign":"c"}"#);
        assert!(sealed.is_ciphertext());
        let error = sealed.into_plain_error().unwrap_err();
        assert_eq!(error, ClientDataError::KeyMissing);
        let plain = verified(r#"{"response":"{\"code\":\"40003\"}","sign":"c"}"#);
        assert!(!plain.is_ciphertext());
        assert!(plain.into_plain_error().is_ok());
    }

    proptest! {
        #[test]
        fn parsing_never_panics(message in ".{0,60}", inner in ".{0,40}") {
            let _ = UnverifiedClientData::parse(message.as_bytes());
            let message = serde_json::json!({"response": inner, "sign": message}).to_string();
            let data = UnverifiedClientData::parse(message.as_bytes()).unwrap();
            prop_assert!(data.verify(&[]).is_err());
        }
    }
}
