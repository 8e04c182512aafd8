//! The signature that an unmodified SDK makes with its throw-away key: before it is dropped it says
//! who calls.

use http::Method;

use crate::protocol::authorization::Authorization;
use crate::protocol::charset::Charset;
use crate::protocol::key::RsaPublicKey;
use crate::protocol::params::{Params, is_blank, name};
use crate::protocol::sign_content::{self, EmptyValues, Scheme, V3Request};
use crate::protocol::signature::SignType;

/// A signature, and what it may have been made over.
#[derive(Debug)]
pub(in crate::proxy) struct SdkSignature {
    contents: Vec<Vec<u8>>,
    sign_type: SignType,
    sign: String,
}

/// A v3 request as its caller sent it.
pub(in crate::proxy) struct SentV3<'a> {
    pub(in crate::proxy) authorization: &'a Authorization,
    pub(in crate::proxy) method: &'a Method,
    /// The target below `/m/{selector}`, and as it stood on the wire.
    pub(in crate::proxy) targets: [&'a str; 2],
    pub(in crate::proxy) body: &'a [u8],
    pub(in crate::proxy) app_auth_token: Option<&'a str>,
}

impl SdkSignature {
    /// That of a v2 request: over query and body together. Node and Python keep parameters without a
    /// value in what they sign; Java drops them, as Alipay wants it.
    pub(in crate::proxy) fn of_v2(sent: &Params, charset: Charset) -> Option<Self> {
        let sign = sent.get(name::SIGN).filter(|sign| !sign.is_empty())?;
        let sign_type = match sent.get(name::SIGN_TYPE) {
            None => SignType::Rsa2,
            Some(named) => named.parse().ok()?,
        };
        let mut texts = vec![sign_content::v2_request(sent)];
        if sent.iter().any(|(_, value)| is_blank(value)) {
            texts.push(sign_content::notification(
                sent,
                Scheme::V2,
                EmptyValues::Kept,
            ));
        }
        let contents = texts.iter().filter_map(|text| charset.encode(text).ok());
        Some(Self {
            contents: contents.collect(),
            sign_type,
            sign: sign.to_owned(),
        })
    }

    /// That of a v3 request. An SDK whose endpoint has a path of its own signs with or without it.
    pub(in crate::proxy) fn of_v3(sent: &SentV3<'_>) -> Self {
        let content = |target| {
            sign_content::v3_request(&V3Request {
                auth_string: &sent.authorization.auth_string,
                method: sent.method.as_str(),
                target,
                body: sent.body,
                app_auth_token: sent.app_auth_token,
            })
        };
        let mut contents: Vec<_> = sent.targets.into_iter().filter_map(content).collect();
        contents.dedup();
        Self {
            contents,
            sign_type: SignType::Rsa2,
            sign: sent.authorization.sign.clone(),
        }
    }

    /// Whether `key` made it.
    pub(super) fn is_by(&self, key: &RsaPublicKey) -> bool {
        self.contents
            .iter()
            .any(|content| key.verify(self.sign_type, content, &self.sign).is_ok())
    }
}
