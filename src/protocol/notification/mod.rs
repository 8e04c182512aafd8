//! What Alipay sends by itself: payment notifications, platform messages, authorisation pushes.
//!
//! Protocol: 异步通知, “验签”; 应用网关; 蚂蚁消息 (“From Ant” messages).

mod authorization;
mod candidates;
mod page_return;

#[cfg(test)]
mod tests;

pub use self::authorization::{AuthorizationPush, Cancellation, UserCancellation};

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::{
    charset::{self, Charset},
    encryption::{ContentKey, EncryptionError},
    error::ProtocolError,
    key,
    key::RsaPublicKey,
    loose,
    params::{Params, is_blank, name},
    sign_content::Scheme,
    signature::SignType,
};

/// Holds a notification that nobody has verified yet.
///
/// It shows nothing but what choosing a key needs, and what a refused one is told apart by. `Debug`
/// shows names alone.
#[derive(Clone, Debug)]
pub struct UnverifiedNotification {
    params: Params,
    charset: Charset,
}

impl UnverifiedNotification {
    /// Reads the form that Alipay posted. A query string of the address isn't part of it: it isn't
    /// signed (vector `query-string-must-not-be-merged`).
    ///
    /// # Errors
    ///
    /// Those of [`charset()`] and of [`Params::from_form`].
    pub fn parse(content_type: Option<&str>, body: &[u8]) -> Result<Self, ProtocolError> {
        let charset = charset(content_type, body)?;
        let params = Params::from_form(body, charset)?;
        Ok(Self { params, charset })
    }

    /// Takes parameters that were read elsewhere.
    pub(super) fn of(params: Params, charset: Charset) -> Self {
        Self { params, charset }
    }

    /// Names the app that the notification says it is for, to choose the keys by. Nobody has
    /// vouched for it yet. A life account's event names it in its XML.
    #[must_use]
    pub fn claimed_app_id(&self) -> Option<&str> {
        claimed_app_id(&self.params)
    }

    /// Names the certificate that signed it (certificate mode). Nobody has vouched for it yet.
    #[must_use]
    pub fn alipay_cert_sn(&self) -> Option<&str> {
        self.params.get(name::ALIPAY_CERT_SN)
    }

    /// Gives the `notify_id` that it says it has. Nobody has vouched for it yet.
    #[must_use]
    pub fn claimed_notify_id(&self) -> Option<&str> {
        text(&self.params, name::NOTIFY_ID)
    }

    /// Names the kind of event that it says it is. Nobody has vouched for it yet.
    #[must_use]
    pub fn claimed_event_type(&self) -> &str {
        event_type(&self.params)
    }

    /// Writes what stays the same when Alipay sends a notification again: all but the time, the
    /// signature, and the certificate it is made by. No two different lists are written alike,
    /// which isn't so of what is signed: nothing is escaped there.
    ///
    /// Protocol: 异步通知: an attempt may carry its own `notify_time`, and the signature with it.
    #[must_use]
    pub fn lasting_content(&self) -> Vec<u8> {
        let mut content = Vec::new();
        for (name, value) in lasting(&self.params) {
            for part in [name, value] {
                content.extend((part.len() as u64).to_be_bytes());
                content.extend(part.as_bytes());
            }
        }
        content
    }

    /// Names the parameters in which another notification's [lasting
    /// content](Self::lasting_content) differs from this one's.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let (ours, theirs) = (lasting(&self.params), lasting(&other.params));
        let names: BTreeSet<&str> = ours.keys().chain(theirs.keys()).copied().collect();
        let differing = names
            .into_iter()
            .filter(|name| ours.get(name) != theirs.get(name));
        differing.map(str::to_owned).collect()
    }

    /// Checks the signature with each key in turn, in every reading of the rules that is in use
    /// and harmless, as each needs Alipay's key.
    ///
    /// `app` is the algorithm that the app is configured for: one that says `RSA2` refuses a
    /// notification that says `RSA` (vector `sign-type-downgrade`).
    ///
    /// # Errors
    ///
    /// [`ProtocolError::SignMissing`], [`ProtocolError::SignMalformed`],
    /// [`ProtocolError::SignTypeUnknown`], [`ProtocolError::SignTypeWeaker`],
    /// [`ProtocolError::SignatureMismatch`].
    pub fn verify(
        self,
        keys: &[RsaPublicKey],
        app: SignType,
    ) -> Result<Notification, ProtocolError> {
        let sign_type = self.sign_type(app)?;
        let signature = self.signature()?;
        let mismatch = ProtocolError::SignatureMismatch { keys: keys.len() };
        if !keys.iter().any(|key| key.may_have_made(&signature)) {
            // Nothing that was signed has to be written for that.
            return Err(mismatch);
        }
        let mut tried: Vec<String> = Vec::new();
        for reading in candidates::all(&self.params) {
            let sign_content = reading.content(&self.params);
            if tried.contains(&sign_content) {
                continue;
            }
            let content = self.charset.encode_cow(&sign_content)?;
            if keys
                .iter()
                .any(|key| key.fits(sign_type, &content, &signature))
            {
                return Ok(Notification {
                    params: self.params,
                    charset: self.charset,
                    is_opened: false,
                    scheme: reading.scheme,
                    sign_content,
                });
            }
            tried.push(sign_content);
        }
        Err(mismatch)
    }

    /// Takes it for verified, so that the fuzz targets see what is read out of one: they can't sign
    /// as often as they ask.
    #[cfg(fuzzing)]
    #[doc(hidden)]
    #[must_use]
    pub fn assume_verified(self) -> Notification {
        Notification {
            params: self.params,
            charset: self.charset,
            is_opened: false,
            scheme: Scheme::V1,
            sign_content: String::new(),
        }
    }

    fn sign_type(&self, app: SignType) -> Result<SignType, ProtocolError> {
        let found = match self.params.get(name::SIGN_TYPE) {
            None | Some("") => SignType::Rsa2,
            Some(given) => given.parse()?,
        };
        match (found, app) {
            (SignType::Rsa, SignType::Rsa2) => Err(ProtocolError::SignTypeWeaker {
                found,
                expected: app,
            }),
            _ => Ok(found),
        }
    }

    /// Decodes `sign`. A `+` that an intermediary didn't encode arrives as a space; base64 has no
    /// spaces, so turning it back is safe (vector `plus-lost-in-sign`).
    fn signature(&self) -> Result<Vec<u8>, ProtocolError> {
        let sign = self.params.get(name::SIGN).unwrap_or_default();
        key::decode_signature(&sign.replace(' ', "+"))
    }
}

/// Holds a notification whose signature holds. `Debug` shows names alone.
///
/// Whether the order is known and the amount is right, only the backend can tell.
#[derive(Clone)]
pub struct Notification {
    params: Params,
    charset: Charset,
    is_opened: bool,
    scheme: Scheme,
    sign_content: String,
}

impl Notification {
    /// Gives all parameters, decoded once. Not signed are `sign`, `sign_type` under
    /// [`Scheme::V1`], and possibly empty values and `alipay_cert_sn`.
    #[must_use]
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Tells whether it is a notification at all. Alipay signs other things by the same rules, the
    /// query of a `return_url`, which every customer sees, and SPI calls: those name a `method` and
    /// have none of a notification's marks. And since nothing is escaped in what is signed, a
    /// `notify_id` can be hidden in the value before it or made to hold what comes behind it, so as to be
    /// taken for a new one; a `method` can be hidden, so as to be no other thing; and of a message when it
    /// was sent, so as to be no old one. What is blank may not be signed: it is no mark.
    #[must_use]
    pub fn is_genuine(&self) -> bool {
        let has = |name: &str| self.text(name).is_some();
        let is_signed = |name: &str| self.signed(name).next().is_some();
        let marks = [
            name::NOTIFY_ID,
            name::NOTIFY_TYPE,
            name::MSG_METHOD,
            name::SERVICE,
        ];
        let is_other = is_signed(name::METHOD) && !marks.into_iter().any(has);
        let hides = |name: &str| !has(name) && is_signed(name);
        let swallows = |id: &str| id.contains('&');
        let is_another = hides(name::NOTIFY_ID) || self.text(name::NOTIFY_ID).is_some_and(swallows);
        let hides_time = has(name::MSG_METHOD) && hides(name::UTC_TIMESTAMP);
        !is_other && !is_another && !hides_time
    }

    /// Lists what is signed for a name, wherever it stands: nothing is escaped there.
    fn signed(&self, name: &str) -> impl Iterator<Item = &str> {
        let pieces = self.sign_content.split('&');
        let pairs = pieces.filter_map(|piece| piece.split_once('='));
        let said = pairs.filter(move |(found, value)| *found == name && !is_blank(value));
        said.map(|(_, value)| value)
    }

    /// Tells whether `biz_content` is a ciphertext that nobody has opened.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        let has_content = self.params.get(name::BIZ_CONTENT).is_some();
        !self.is_opened && has_content && self.params.get(name::ENCRYPT_TYPE) == Some("AES")
    }

    /// Decrypts `biz_content` with the app's content key, where it is a ciphertext.
    ///
    /// Protocol: 消息服务: with `encrypt_type=AES` the content is encrypted, and the signature
    /// covers what was sent.
    ///
    /// # Errors
    ///
    /// Those of [`ContentKey::decrypt`], and [`EncryptionError::PlaintextNotJson`].
    pub fn open(mut self, key: &ContentKey) -> Result<Self, EncryptionError> {
        if !self.is_encrypted() {
            return Ok(self);
        }
        let ciphertext = self.params.get(name::BIZ_CONTENT).unwrap_or_default();
        let ciphertext = ciphertext.replace(' ', "+");
        let plaintext = key.decrypt_object(&ciphertext, self.charset)?;
        let text = self.charset.decode(plaintext.expose());
        self.params.set(
            name::BIZ_CONTENT,
            text.map_err(|_| EncryptionError::PlaintextNotJson)?,
        );
        self.is_opened = true;
        Ok(self)
    }

    /// Gives what `biz_content` was decrypted to.
    #[must_use]
    pub fn opened_content(&self) -> Option<&str> {
        self.params
            .get(name::BIZ_CONTENT)
            .filter(|_| self.is_opened)
    }

    /// Tells which scheme the signature was made by.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Gives the text that the signature covers. It holds what the notification holds: secrets.
    #[must_use]
    pub fn sign_content(&self) -> &str {
        &self.sign_content
    }

    /// Names the kind of event: `msg_method`, or `notify_type`, else `service` or `method`; empty
    /// where there is none of them.
    #[must_use]
    pub fn event_type(&self) -> &str {
        event_type(&self.params)
    }

    /// Gives the identity that Alipay keeps over resends; unique per `app_id`.
    #[must_use]
    pub fn notify_id(&self) -> Option<&str> {
        self.text(name::NOTIFY_ID)
    }

    /// Names the app that the notification is for, as
    /// [`claimed_app_id`](UnverifiedNotification::claimed_app_id) did.
    #[must_use]
    pub fn app_id(&self) -> Option<&str> {
        claimed_app_id(&self.params)
    }

    /// Names the merchant's app: inside `biz_content` (and its `detail`, in an authorisation
    /// push), else at the top level.
    #[must_use]
    pub fn auth_app_id(&self) -> Option<String> {
        let inside = match self.is_authorization_message() {
            true => authorization::detail_auth_app_id(self.biz_content()),
            false => self
                .inside::<authorization::Common>()
                .auth_app_id
                .into_text(),
        };
        inside.or_else(|| self.text(name::AUTH_APP_ID).map(str::to_owned))
    }

    /// Reads the authorisation that the message carries; `None` for every other message.
    ///
    /// The error is [`ProtocolError::AuthorizationInvalid`].
    #[must_use]
    pub fn authorization(&self) -> Option<Result<AuthorizationPush, ProtocolError>> {
        let executed = self.text(name::STATUS) == Some("execute_auth");
        (self.is_authorization_message() && executed).then(|| AuthorizationPush::read(&self.params))
    }

    /// Reads whose authorisation ended; `None` for every other message.
    #[must_use]
    pub fn cancellation(&self) -> Option<Cancellation> {
        let cancelled = self.text(name::MSG_METHOD) == Some("alipay.open.auth.appauth.cancelled");
        cancelled.then(|| Cancellation::read(&self.params))
    }

    /// Reads which user's authorisation ended; `None` for every other message.
    #[must_use]
    pub fn user_cancellation(&self) -> Option<UserCancellation> {
        let cancelled = self.text(name::MSG_METHOD) == Some("alipay.open.auth.userauth.cancelled");
        cancelled.then(|| UserCancellation::read(&self.params))
    }

    /// Tells whether the body holds a token or an authorisation code, at whatever depth. Such a
    /// body is never logged, and handed on only where that was asked for.
    #[must_use]
    pub fn holds_secret(&self) -> bool {
        self.params
            .iter()
            .any(|(name, value)| is_secret_name(name) || mentions_secret(value))
    }

    /// Names the merchant's order, by which deliveries keep their order: at the top level or
    /// inside `biz_content`.
    #[must_use]
    pub fn out_trade_no(&self) -> Option<String> {
        self.text(name::OUT_TRADE_NO)
            .map(str::to_owned)
            .or_else(|| {
                self.inside::<authorization::Common>()
                    .out_trade_no
                    .into_text()
            })
    }

    fn is_authorization_message(&self) -> bool {
        self.text(name::NOTIFY_TYPE) == Some("open_app_auth_notify")
    }

    fn text(&self, name: &str) -> Option<&str> {
        text(&self.params, name)
    }

    fn biz_content(&self) -> &str {
        self.params.get(name::BIZ_CONTENT).unwrap_or_default()
    }

    fn inside<'a, T: Deserialize<'a> + Default>(&'a self) -> T {
        loose::object(self.biz_content()).unwrap_or_default()
    }
}

impl std::fmt::Debug for Notification {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Notification")
            .field("event_type", &self.event_type())
            .field("notify_id", &self.notify_id())
            .field("app_id", &self.app_id())
            .field("params", &self.params)
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

fn text<'a>(params: &'a Params, name: &str) -> Option<&'a str> {
    params.get(name).filter(|value| !is_blank(value))
}

fn event_type(params: &Params) -> &str {
    let names = [
        name::MSG_METHOD,
        name::NOTIFY_TYPE,
        name::SERVICE,
        name::METHOD,
    ];
    let mut texts = names.into_iter().filter_map(|name| text(params, name));
    texts.next().unwrap_or_default()
}

/// What attempts of one notification may differ in.
const PASSING: [&str; 5] = [
    name::ALIPAY_CERT_SN,
    name::NOTIFY_TIME,
    name::SIGN,
    name::SIGN_TYPE,
    name::UTC_TIMESTAMP,
];

fn lasting(params: &Params) -> BTreeMap<&str, &str> {
    let lasts = |&(name, value): &(&str, &str)| !PASSING.contains(&name) && !is_blank(value);
    params.iter().filter(lasts).collect()
}

fn claimed_app_id(params: &Params) -> Option<&str> {
    let top = params.get(name::APP_ID).filter(|id| !id.is_empty());
    let is_life_account = params.get(name::SERVICE).is_some();
    top.or_else(|| {
        is_life_account
            .then(|| app_id_of_xml(params.get(name::BIZ_CONTENT)?))
            .flatten()
    })
}

/// Finds `<AppId>` in a life account's event, with or without CDATA.
fn app_id_of_xml(xml: &str) -> Option<&str> {
    let (_, behind) = xml.split_once("<AppId>")?;
    let (inner, rest) = behind.split_once("</AppId>")?;
    let inner = inner.trim();
    let id = inner
        .strip_prefix("<![CDATA[")
        .and_then(|inner| inner.strip_suffix("]]>"))
        .unwrap_or(inner);
    let is_id = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (is_id && !rest.contains("<AppId>")).then_some(id)
}

/// Finds the charset of a notification: that of the `charset` parameter, else of the
/// `Content-Type`, else UTF-8. A `Content-Type` of a charset that isn't Alipay's is some host's
/// default (`iso-8859-1`) and says nothing; the signature tells whether the reading was right.
///
/// # Errors
///
/// Those of [`Charset::from_label`].
pub fn charset(content_type: Option<&str>, body: &[u8]) -> Result<Charset, ProtocolError> {
    if let Some(label) = charset::label_of_form(body) {
        return Charset::from_label(&label);
    }
    let header = content_type.and_then(charset::label_of_content_type);
    header
        .filter(|label| is_alipays(label))
        .map_or(Ok(Charset::Utf8), |label| Charset::from_label(&label))
}

fn is_alipays(label: &str) -> bool {
    let label = label.to_ascii_lowercase();
    label.starts_with("utf") || label.starts_with("gb")
}

fn is_secret_name(text: &str) -> bool {
    SECRETS.contains(&text)
}

/// Tells whether a value names a secret, also where JSON escapes hide the name. A text that only
/// talks about one is counted too: better once too often.
fn mentions_secret(value: &str) -> bool {
    let names_one = |text: &str| SECRETS.iter().any(|secret| text.contains(secret));
    // Most texts have not even what begins all of them, nor a character of it that is rare.
    let plainly = |text: &str| text.contains('_') && text.contains("app_") && names_one(text);
    plainly(value)
        || (value.contains('\\')
            && value.contains("\\u")
            && serde_json::from_str::<serde_json::Value>(value)
                .is_ok_and(|json| plainly(&json.to_string())))
}

const SECRETS: [&str; 3] = [
    name::APP_AUTH_CODE,
    name::APP_AUTH_TOKEN,
    "app_refresh_token",
];
