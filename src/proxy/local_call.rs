//! One request of a backend, read: headers, parameters, body.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts;

use crate::config::value;
use crate::gateway::upload::FilePart;
use crate::protocol::charset::{Charset, CharsetLabel};
use crate::protocol::json;
use crate::protocol::params::{self, Params, is_blank, name};
use crate::protocol::secret::Secret;
use crate::protocol::signature::SignType;
use crate::proxy::caller::SdkSignature;
use crate::proxy::error::{ErrorCode, ProxyError};
use crate::proxy::parameters;
use crate::proxy::resolve::Tags;
use crate::proxy::upload::Upload;

/// The header that holds the merchant's token on v3, and tags a call on every route.
pub(super) const APP_AUTH_TOKEN: &str = "alipay-app-auth-token";

/// The body of a request, as it was read.
#[derive(Debug)]
pub(super) enum Sent {
    /// A form, or JSON.
    Plain(Bytes),
    /// Parts.
    Upload(Upload),
}

/// One unsigned request of a backend, checked, still without credentials.
#[derive(Debug, Clone)]
pub struct LocalCall {
    /// Alipay's method name.
    pub method: String,
    /// Every parameter but those the sidecar owns.
    pub parameters: Params,
    /// The files of an upload.
    pub files: Vec<FilePart>,
    /// What they came in, are sent on in, and are answered in.
    pub charset: CharsetLabel,
    /// For whom.
    pub tags: Tags,
    /// The algorithm that its caller signs and verifies by, where it names one.
    pub sign_type: Option<SignType>,
    /// `Alipay-Timeout`.
    pub timeout: Option<Duration>,
}

impl LocalCall {
    /// Reads a request of `/gateway.do`, as SDKs speak it.
    ///
    /// # Errors
    /// Contract §3's 400s.
    pub(super) fn from_gateway(
        head: &Parts,
        selector: Option<String>,
        form: GatewayForm,
    ) -> Result<Self, ProxyError> {
        let GatewayForm {
            charset,
            parameters,
            files,
        } = form;
        parameters::check_files(&parameters, &files)?;
        let mut parameters = parameters::canonical(parameters)?;
        parameters
            .iter()
            .try_for_each(|(name, _)| parameters::check_name(name))?;
        if parameters
            .get(name::FORMAT)
            .is_some_and(|f| f.eq_ignore_ascii_case("xml"))
        {
            return Err(ProxyError::refused(
                ErrorCode::ParameterInvalid,
                "format=XML isn't supported; leave `format` out, or send JSON",
            ));
        }
        let mut tags = tags(&head.headers, selector)?;
        tags.token = parameters
            .get(name::APP_AUTH_TOKEN)
            .filter(|token| !token.is_empty())
            .map(|token| Secret::new(token.to_owned()));
        tags.own_app_id = parameters.get(name::APP_ID).map(ToOwned::to_owned);
        let sign_type = parameters.get(name::SIGN_TYPE);
        let sign_type = sign_type.and_then(|named| named.parse().ok());
        let encrypt_type = parameters.remove(name::ENCRYPT_TYPE);
        // An empty one is dropped like any other, and says nothing.
        let encrypt_type = encrypt_type.filter(|named| !is_blank(named));
        let owned: Vec<String> = parameters
            .iter()
            .filter(|(n, _)| params::is_owned(n))
            .map(|(n, _)| n.into())
            .collect();
        for name in owned {
            parameters.remove(&name);
        }
        if let Some(encrypt_type) = encrypt_type {
            parameters.push(name::ENCRYPT_TYPE, encrypt_type)?;
        }
        let method = parameters::method(&parameters.remove(name::METHOD).unwrap_or_default())?;
        Ok(Self {
            method,
            parameters,
            files,
            charset,
            tags,
            sign_type,
            timeout: timeout(&head.headers)?,
        })
    }

    /// Reads a request of `/v2/{method}…`: JSON body, further parameters in the query.
    ///
    /// # Errors
    /// Contract §3's 400s.
    pub(super) fn from_v2(
        head: &Parts,
        route: (Option<String>, &str),
        sent: Sent,
    ) -> Result<Self, ProxyError> {
        let (selector, wanted) = route;
        let method = parameters::method(wanted)?;
        let query = head.uri.query().unwrap_or_default().as_bytes();
        let mut parameters = Params::from_form(query, Charset::Utf8)?;
        for (name, _) in parameters.iter() {
            parameters::check_parameter(name)?;
        }
        let files = match sent {
            Sent::Plain(body) if body.is_empty() => Vec::new(),
            Sent::Plain(body) => {
                parameters.push(name::BIZ_CONTENT, biz_content(&body)?)?;
                Vec::new()
            }
            Sent::Upload(upload) => {
                for (name, value) in upload.parameters {
                    // An upload's body has no other place for it; an empty one is none, as there.
                    match *name == *name::BIZ_CONTENT {
                        true if value.is_empty() => {}
                        true => drop(biz_content(value.as_bytes())?),
                        false => parameters::check_parameter(&name)?,
                    }
                    parameters.push(name, value)?;
                }
                upload.files
            }
        };
        parameters::check_spellings(&parameters)?;
        parameters::check_files(&parameters, &files)?;
        let parameters = parameters::canonical(parameters)?;
        Ok(Self {
            method,
            parameters,
            files,
            charset: CharsetLabel::default(),
            tags: tags(&head.headers, selector)?,
            sign_type: None,
            timeout: timeout(&head.headers)?,
        })
    }
}

/// What an SDK sent to `/gateway.do`: the parameters of query and form body, as they came.
#[derive(Debug)]
pub(super) struct GatewayForm {
    charset: CharsetLabel,
    parameters: Params,
    files: Vec<FilePart>,
}

impl GatewayForm {
    /// Reads query and body together.
    ///
    /// # Errors
    /// Contract §3's 400s.
    pub(super) fn read(head: &Parts, sent: Sent) -> Result<Self, ProxyError> {
        let query = head.uri.query().unwrap_or_default().as_bytes();
        let (charset, body, files) = match sent {
            Sent::Plain(body) => {
                let charset = parameters::charset(query, &body)?;
                let body = Params::from_form(&body, charset.charset())?;
                (charset, body, Vec::new())
            }
            Sent::Upload(upload) => {
                let charset = parameters::charset(query, &[])?;
                parameters::check_upload_charset(&upload.parameters, charset.charset())?;
                (charset, upload.parameters, upload.files)
            }
        };
        let parameters = parameters::union(Params::from_form(query, charset.charset())?, body)?;
        Ok(Self {
            charset,
            parameters,
            files,
        })
    }

    /// The signature that the SDK made, if it made one.
    pub(super) fn signature(&self) -> Option<SdkSignature> {
        SdkSignature::of_v2(&self.parameters, self.charset.charset())
    }
}

/// The text of a JSON object, exactly as it came.
///
/// # Errors
/// `body-invalid`.
pub(crate) fn biz_content(body: &[u8]) -> Result<&str, ProxyError> {
    let invalid = |reason: String| {
        ProxyError::refused(
            ErrorCode::BodyInvalid,
            format!("`biz_content` (the body on `/v2`) must be one JSON object in UTF-8: {reason}"),
        )
    };
    json::is_one_object(body, Charset::Utf8).map_err(|e| invalid(e.to_string()))?;
    std::str::from_utf8(body).map_err(|e| invalid(e.to_string()))
}

/// The tags of a request without parameters: the same on every route, so that none is passed over on
/// one of them.
///
/// # Errors
/// `merchant-conflict`, `parameter-duplicate`.
pub(super) fn tags(headers: &HeaderMap, selector: Option<String>) -> Result<Tags, ProxyError> {
    let header = single(headers, "alipay-merchant").map_err(|()| {
        ProxyError::refused(
            ErrorCode::MerchantConflict,
            "the header `Alipay-Merchant` stands twice",
        )
    })?;
    let token_header = single(headers, APP_AUTH_TOKEN).map_err(|()| {
        ProxyError::refused(
            ErrorCode::MerchantConflict,
            "the header `alipay-app-auth-token` stands twice",
        )
    })?;
    let app = single(headers, "alipay-app").map_err(|()| {
        ProxyError::refused(
            ErrorCode::ParameterDuplicate,
            "the header `Alipay-App` stands twice",
        )
    })?;
    let user = single(headers, "alipay-user").map_err(|()| {
        ProxyError::refused(
            ErrorCode::ParameterDuplicate,
            "the header `Alipay-User` stands twice",
        )
    })?;
    Ok(Tags {
        header,
        path: selector,
        // One that can't be read names nobody; only an empty one isn't there.
        token_header: token_header
            .filter(|_| !is_empty(headers, APP_AUTH_TOKEN))
            .map(Secret::new),
        app,
        user,
        ..Tags::default()
    })
}

/// `Alipay-Timeout`.
///
/// # Errors
/// `parameter-invalid`.
pub(super) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, ProxyError> {
    let invalid = || {
        ProxyError::refused(
            ErrorCode::ParameterInvalid,
            "`Alipay-Timeout` is a duration like `4s`, `800ms` or `2m`",
        )
    };
    let Some(text) = single(headers, "alipay-timeout").map_err(|()| invalid())? else {
        return Ok(None);
    };
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .ok_or_else(invalid)?;
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| invalid())?;
    let milliseconds = value::milliseconds(unit).ok_or_else(invalid)?;
    // It only ever shortens a deadline.
    match number.saturating_mul(milliseconds) {
        0 => Err(invalid()),
        milliseconds => Ok(Some(Duration::from_millis(milliseconds))),
    }
}

/// Whether a header stands there without a value.
pub(super) fn is_empty(headers: &HeaderMap, name: &str) -> bool {
    headers.get(name).is_some_and(http::HeaderValue::is_empty)
}

/// A header that may stand once: bytes that aren't visible ASCII give an empty value, which names
/// nobody.
pub(super) fn single(headers: &HeaderMap, name: &str) -> Result<Option<String>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => Ok(Some(value.to_str().unwrap_or_default().to_owned())),
        (Some(_), Some(_)) => Err(()),
    }
}
