//! The v3 dialect: Alipay's REST protocol.
//!
//! Protocol: 开放平台 V3 协议, “签名规则”, “验签规则”.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method};
use zeroize::Zeroizing;

use crate::gateway::app::SigningApp;
use crate::gateway::error::{DecryptionError, GatewayError, Outcome};
use crate::gateway::metrics::{Api, Phase};
use crate::gateway::outgoing::{Outgoing, Repetition, Tries, host_of};
use crate::gateway::signing::KeyInUse;
use crate::gateway::upload::{FilePart, UploadBody};
use crate::gateway::v2::is_pure_query;
use crate::gateway::{Gateway, Keys, header, left, refuse_encoded, unsent};
use crate::net::client::Reply;
use crate::protocol::authorization::AuthString;
use crate::protocol::secret::Secret;
use crate::protocol::sign_content::{self, V3Request};
use crate::protocol::signature::SignType;
use crate::protocol::v3_response::{V3Response, V3Verification, VerifiedV3Response};
use crate::telemetry::span::Span;

/// The type of a body that isn't encrypted.
const JSON: &str = "application/json";
/// The part of an upload that is signed.
const DATA_PART: &str = "data";

/// One v3 call, still unsigned. `Debug` shows no content: a query may hold a user's token.
#[derive(Clone)]
pub struct V3Call {
    /// Who signs.
    pub app: Arc<SigningApp>,
    /// For whom: `None` for the ISV itself.
    pub app_auth_token: Option<Secret<String>>,
    /// The HTTP method.
    pub http_method: Method,
    /// Path and query as they go onto the wire, without the host.
    pub target: String,
    /// What is sent.
    pub body: V3Body,
    /// Who encrypts it.
    pub encryption: V3Encryption,
    /// `alipay-request-id`: our name for the call, which Alipay logs.
    pub request_id: String,
    /// The deadline of the whole call.
    pub timeout: Duration,
    /// What its parts are recorded under.
    pub span: Span,
}

/// The body of a v3 call. `Debug` shows no content.
#[derive(Clone)]
pub enum V3Body {
    /// A text, mostly JSON, that is signed whole; it may be empty.
    Plain(Bytes),
    /// Files, and the JSON text beside them, which alone is signed.
    Upload {
        /// The part `data`.
        data: String,
        /// The file parts.
        files: Vec<FilePart>,
    },
}

impl V3Body {
    /// The text of it, which is what is signed.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        match self {
            Self::Plain(text) => text,
            Self::Upload { data, .. } => data.as_bytes(),
        }
    }
}

/// Who encrypts the body of a v3 call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum V3Encryption {
    /// The caller: body and reply go through as they are, `alipay-encrypt-type` is set.
    Callers,
    /// Nobody.
    None,
    /// The sidecar, with the app's `encrypt_key`; it opens the reply, too.
    Ours,
}

/// A v3 reply whose signature held, or an error that Alipay doesn't sign. `Debug` shows no content.
#[derive(Clone)]
pub struct VerifiedV3Reply {
    /// What Alipay sent.
    pub response: VerifiedV3Response,
    /// Alipay's `Content-Type`, and its headers that begin with `alipay-`.
    pub headers: HeaderMap,
    opened: Opened,
}

/// A reply's ciphertext, opened.
#[derive(Clone)]
enum Opened {
    /// For the caller, whose call the sidecar encrypted.
    Handed(Bytes),
    /// For ourselves, an error's: the caller opens it.
    Kept(Bytes),
    /// There is none, or no key of ours opens it, or it is a success that the caller opens.
    Nothing,
}

impl std::fmt::Debug for V3Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("V3Call")
            .field("app", &self.app)
            .field("http_method", &self.http_method)
            .field("method", &self.method())
            .field("body", &self.body)
            .field("encryption", &self.encryption)
            .field("request_id", &self.request_id)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for V3Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain(bytes) => write!(f, "Plain({} bytes)", bytes.len()),
            Self::Upload { data, files } => {
                write!(f, "Upload({} bytes, {} files)", data.len(), files.len())
            }
        }
    }
}

impl std::fmt::Debug for VerifiedV3Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VerifiedV3Reply")
            .field("response", &self.response)
            .field("is_opened", &self.is_opened())
            .finish_non_exhaustive()
    }
}

impl VerifiedV3Reply {
    /// The body: decrypted where the sidecar encrypted the call, else byte for byte.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        match &self.opened {
            Opened::Handed(opened) => opened,
            Opened::Kept(_) | Opened::Nothing => self.response.body(),
        }
    }

    /// What the body says to `app`, which made the call: decrypted wherever that has the key, whoever encrypted
    /// the call.
    #[must_use]
    pub fn content(&self, app: &SigningApp) -> Bytes {
        match &self.opened {
            Opened::Handed(opened) | Opened::Kept(opened) => opened.clone(),
            Opened::Nothing if self.response.is_ciphertext() => {
                opened(app, &self.response).unwrap_or_else(|_| self.response.body().clone())
            }
            Opened::Nothing => self.response.body().clone(),
        }
    }

    /// The `code` of an error: of one that was encrypted, too, wherever the sidecar has the key.
    #[must_use]
    pub fn code(&self) -> Option<String> {
        let read = match &self.opened {
            Opened::Handed(opened) | Opened::Kept(opened) => opened,
            Opened::Nothing => self.response.body(),
        };
        self.response.code_in(read)
    }

    /// Whether the body is another than the one that Alipay signed.
    #[must_use]
    pub fn is_opened(&self) -> bool {
        matches!(self.opened, Opened::Handed(_))
    }

    /// Whether Alipay says, signed, that nothing was executed because of what `reasons` name:
    /// each a part of the error's code.
    #[must_use]
    pub fn refuses(&self, reasons: &[&str]) -> bool {
        let is_signed = self.response.verification() == V3Verification::Signed;
        let code = self.code().filter(|_| is_signed);
        code.is_some_and(|code| reasons.iter().all(|reason| code.contains(reason)))
    }
}

impl V3Call {
    /// Alipay's v2 name for the call: `/v3/alipay/trade/query` is `alipay.trade.query`.
    #[must_use]
    pub fn method(&self) -> String {
        method_of(&self.target)
    }

    /// Whether making it twice does no more than making it once: contract §3.
    #[must_use]
    pub fn is_pure_query(&self) -> bool {
        is_pure_query_of(&self.http_method, &self.method())
    }

    /// Who is asked.
    fn host(&self) -> String {
        host_of(&self.app.endpoints.v3)
    }

    /// The text of the body as it is signed and sent.
    fn signed_body(&self) -> Result<Bytes, GatewayError> {
        let text = match &self.body {
            V3Body::Plain(bytes) => bytes,
            V3Body::Upload { data, .. } => return Ok(Bytes::copy_from_slice(data.as_bytes())),
        };
        if self.encryption != V3Encryption::Ours || text.is_empty() {
            return Ok(text.clone());
        }
        let key = self.app.content_key().ok_or(GatewayError::V3Request(
            "`alipay-encrypt-type` asks for encryption, and the app has no `encrypt_key`",
        ))?;
        let ciphertext = key.encrypt(text).map_err(GatewayError::Encryption)?;
        Ok(ciphertext.into())
    }

    /// What is signed besides the body, and the signed string.
    fn sign_content(
        &self,
        key: &KeyInUse,
        body: &[u8],
        now_ms: i64,
    ) -> Result<(AuthString, Vec<u8>), GatewayError> {
        const UNSIGNABLE: GatewayError =
            GatewayError::V3Request("its method, target or token holds a control character");
        let sn = key.certificate.as_ref().map(|own| own.sn.as_str());
        let sn = sn.filter(|_| self.app.platform.alipay_root_cert_sn().is_some());
        let nonce = uuid::Uuid::now_v7().simple().to_string();
        let auth_string = AuthString::new(self.app.app_id.as_str(), sn, &nonce, now_ms);
        let auth_string = auth_string.map_err(|_| UNSIGNABLE)?;
        let token = self.app_auth_token.as_ref();
        let content = sign_content::v3_request(&V3Request {
            auth_string: &auth_string,
            method: self.http_method.as_str(),
            target: &self.target,
            body,
            app_auth_token: token.map(|token| token.expose().as_str()),
        });
        Ok((auth_string, content.ok_or(UNSIGNABLE)?))
    }

    fn outgoing(
        &self,
        key: &KeyInUse,
        authorization: &str,
        body: Bytes,
    ) -> Result<Outgoing, GatewayError> {
        let url = format!("{}{}", self.app.endpoints.v3, self.target);
        let mut outgoing = Outgoing::new(self.http_method.clone(), url)
            .within(&self.span)
            .header(AUTHORIZATION, authorization)?
            .header(http::header::ACCEPT, JSON)?
            .header(REQUEST_ID, &self.request_id)?;
        if let Some(token) = &self.app_auth_token {
            outgoing = outgoing.header(APP_AUTH_TOKEN, token.expose())?;
        }
        let roots = self.app.platform.alipay_root_cert_sn();
        if let (Some(roots), Some(_)) = (roots, &key.certificate) {
            outgoing = outgoing.header(ROOT_CERT_SN, roots)?;
        }
        if self.encryption != V3Encryption::None {
            outgoing = outgoing.header(ENCRYPT_TYPE, "AES")?;
        }
        match &self.body {
            V3Body::Upload { data, files } => {
                let body = UploadBody::with_json((DATA_PART, data), files);
                outgoing.upload(body.map_err(GatewayError::Charset)?)
            }
            V3Body::Plain(_) if body.is_empty() && self.http_method == Method::GET => Ok(outgoing),
            V3Body::Plain(_) => outgoing.form(self.content_type(), body),
        }
    }

    fn content_type(&self) -> &'static str {
        match self.encryption {
            V3Encryption::None => JSON,
            V3Encryption::Callers | V3Encryption::Ours => "text/plain",
        }
    }
}

impl Gateway {
    /// Signs, sends and verifies one v3 call within its timeout, as [`Gateway::call`] does.
    ///
    /// # Errors
    /// [`GatewayError`]; its outcome tells whether Alipay may have acted.
    ///
    /// # Cancel safety
    /// Not safe: Alipay may have acted, and nobody would know.
    pub async fn call_v3(&self, call: &V3Call) -> Result<VerifiedV3Reply, GatewayError> {
        let deadline = Instant::now() + call.timeout;
        let key = call.app.signing.in_force();
        let reply = self.attempt_v3(call, key, deadline).await?;
        if !refuses_key(&reply) {
            return Ok(reply);
        }
        let other = call.app.signing.other(key);
        let Some(other) = other.filter(|_| Instant::now() < deadline) else {
            self.count_refused(&reply);
            return Ok(reply);
        };
        let again = self.attempt_v3(call, other, deadline).await?;
        if refuses_key(&again) {
            self.count_refused(&again);
        } else if again.response.verification() == V3Verification::Signed {
            self.promote(&call.app, other);
        }
        Ok(again)
    }

    fn count_refused(&self, reply: &VerifiedV3Reply) {
        let code = reply.code().unwrap_or_default();
        self.metrics.signature_refused(&code);
    }

    async fn attempt_v3(
        &self,
        call: &V3Call,
        key: &KeyInUse,
        deadline: Instant,
    ) -> Result<VerifiedV3Reply, GatewayError> {
        let reply = self.exchange_v3(call, key, deadline).await?;
        let began = Instant::now();
        let verified = self.verify_v3(call, reply, deadline).await;
        self.observe((Api::V3, &call.span), (Phase::Verify, began), &verified);
        verified
    }

    /// Signed and sent; a pure query up to three times, each under a signature and a nonce of its
    /// own.
    async fn exchange_v3(
        &self,
        call: &V3Call,
        key: &KeyInUse,
        deadline: Instant,
    ) -> Result<Reply, GatewayError> {
        let mut tries = Tries::of(match call.is_pure_query() {
            true => Repetition::Harmless,
            false => Repetition::Never,
        });
        loop {
            let outcome = tries.outcome();
            let signing = async {
                match outcome {
                    Outcome::NotSent => unsent(self.sign_v3(call, key)).await,
                    Outcome::Unknown => self.sign_v3(call, key).await,
                }
            };
            let signing = tokio::time::timeout(left(deadline), signing);
            let late = |_| GatewayError::Timeout {
                host: call.host(),
                outcome,
            };
            let signed = signing.await.map_err(late)?;
            let outgoing = signed.map_err(|error| tries.instead_of(error))?;
            let began = Instant::now();
            let sent = outgoing
                .send_once(&self.client, (deadline, &mut tries))
                .await;
            self.metrics
                .observe(Api::V3, Phase::Upstream, began.elapsed());
            if let Some(reply) = sent? {
                return Ok(reply);
            }
        }
    }

    async fn sign_v3(&self, call: &V3Call, key: &KeyInUse) -> Result<Outgoing, GatewayError> {
        let began = Instant::now();
        let body = call.signed_body()?;
        let (auth_string, content) = call.sign_content(key, &body, self.clock.now_ms())?;
        let sign = key.signer.sign(SignType::Rsa2, content).await;
        let sign = sign.map_err(GatewayError::from);
        self.observe((Api::V3, &call.span), (Phase::Sign, began), &sign);
        call.outgoing(key, &auth_string.header(&sign?), body)
    }

    async fn verify_v3(
        &self,
        call: &V3Call,
        reply: Reply,
        deadline: Instant,
    ) -> Result<VerifiedV3Reply, GatewayError> {
        refuse_encoded(&reply.headers, || call.host())?;
        let pairs = reply.headers.iter();
        let pairs = pairs.map(|(name, value)| (name.as_str(), value.as_bytes()));
        let status = reply.status.as_u16();
        let response = V3Response::new(status, pairs, reply.body.clone())
            .map_err(GatewayError::V3Signature)?;
        let sn = response.alipay_sn().map(ToOwned::to_owned);
        let response = if !response.is_signed() {
            // Whatever it names: there is nothing that a key could verify.
            response.verify(&[])
        } else {
            match self.keys(&call.app, sn.as_deref(), deadline).await? {
                Keys::Named(keys) => response.verify(&keys),
                Keys::Unnamed(keys) => {
                    let verified = response.clone().verify(&keys);
                    let is_error = verified.as_ref().is_ok_and(VerifiedV3Response::is_error);
                    let bare = call.app.platform.bare();
                    // A success counts only under a bare key.
                    if verified.is_ok() && !is_error && response.verify(bare).is_err() {
                        return Err(GatewayError::CertificateUnnamed);
                    }
                    verified
                }
            }
        };
        let response = response.map_err(|error| {
            let received = (status, &reply.headers, reply.body.clone());
            self.diagnostics.v3_response(&call.app, received);
            GatewayError::V3Signature(error)
        })?;
        refuse_foreign(call, &response)?;
        Ok(VerifiedV3Reply {
            opened: open(call, &response)?,
            headers: handed_on(&reply.headers),
            response,
        })
    }
}

/// The methods that buy tokens: what they spend may stand in a query, and is good for one call.
const BUYING: [&str; 2] = ["alipay.open.auth.token.app", "alipay.system.oauth.token"];

/// Whether making a call of `method`, Alipay's v2 name, twice does no more than making it once.
#[must_use]
pub fn is_pure_query_of(http_method: &Method, method: &str) -> bool {
    let is_read = http_method == Method::GET && !BUYING.contains(&method);
    is_read || is_pure_query(method)
}

/// Alipay's v2 name of what a v3 target calls. Segments that can't be part of a name, such as an
/// order's number, stand as `{}`, so that a metric's label never holds one.
#[must_use]
pub fn method_of(target: &str) -> String {
    let path = target.split('?').next().unwrap_or_default();
    let segments = path
        .split('/')
        .filter(|segment| !segment.is_empty())
        .skip(1);
    let is_name = |segment: &str| {
        segment.len() <= 32
            && segment
                .bytes()
                .all(|b| b.is_ascii_lowercase() || matches!(b, b'_' | b'-'))
    };
    let names: Vec<_> = segments
        .map(|segment| if is_name(segment) { segment } else { "{}" })
        .collect();
    names.join(".")
}

fn refuses_key(reply: &VerifiedV3Reply) -> bool {
    reply.refuses(&["invalid-signature"]) || reply.refuses(&["app-cert-not-exist"])
}

/// Refuses an unsigned error that isn't Alipay's: the page of some proxy on the way.
fn refuse_foreign(call: &V3Call, response: &VerifiedV3Response) -> Result<(), GatewayError> {
    let is_signed = response.verification() != V3Verification::UnsignedError;
    if is_signed || response.code().is_some() {
        return Ok(());
    }
    let reason = format!("HTTP status {} without Alipay's error", response.status());
    Err(GatewayError::not_alipay(call.host(), reason))
}

/// Opens an encrypted body where it is known to be needed: for a caller whose call the sidecar encrypted, and
/// for what an error says of tokens and keys. Any other caller may hold the key itself.
fn open(call: &V3Call, response: &VerifiedV3Response) -> Result<Opened, GatewayError> {
    let is_ours = call.encryption == V3Encryption::Ours;
    if !response.is_ciphertext() || !(is_ours || response.is_error()) {
        return Ok(Opened::Nothing);
    }
    match opened(&call.app, response) {
        Ok(opened) if is_ours => Ok(Opened::Handed(opened)),
        Ok(opened) => Ok(Opened::Kept(opened)),
        Err(error) if is_ours => Err(GatewayError::Decryption(error)),
        Err(_) => Ok(Opened::Nothing),
    }
}

fn opened(app: &SigningApp, response: &VerifiedV3Response) -> Result<Bytes, DecryptionError> {
    let key = app.content_key().ok_or(DecryptionError::NoKey)?;
    let opened = response.open_body(key)?;
    // Wiped with the last that holds it.
    Ok(Bytes::from_owner(Zeroizing::new(opened.expose().clone())))
}

/// The headers of Alipay's that mean something to a caller.
fn handed_on(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for (name, value) in headers {
        // Those of ours say what Alipay must not.
        let name_text = name.as_str();
        if name_text.starts_with("alipay-") && !name_text.starts_with("alipay-sidecar-") {
            kept.append(name.clone(), value.clone());
        }
    }
    if let Some(value) = header(headers, CONTENT_TYPE.as_str())
        && let Ok(value) = HeaderValue::from_str(&value)
    {
        kept.insert(CONTENT_TYPE, value);
    }
    kept
}

const APP_AUTH_TOKEN: HeaderName = HeaderName::from_static("alipay-app-auth-token");
const ENCRYPT_TYPE: HeaderName = HeaderName::from_static("alipay-encrypt-type");
const REQUEST_ID: HeaderName = HeaderName::from_static("alipay-request-id");
const ROOT_CERT_SN: HeaderName = HeaderName::from_static("alipay-root-cert-sn");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v3_path_has_the_v2_name_without_what_is_no_name() {
        for (target, expected) in [
            ("/v3/alipay/trade/query", "alipay.trade.query"),
            ("/v3/alipay/trade/query?a=/b", "alipay.trade.query"),
            ("/v3/alipay/order/20260101/close", "alipay.order.{}.close"),
            ("/v3/a//b", "a.b"),
            ("/v3/", ""),
        ] {
            assert_eq!(method_of(target), expected, "{target}");
        }
    }
}
