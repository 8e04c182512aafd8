//! A signed call to Alipay's gateway: build → sign → send → verify.
//!
//! What leaves here is signed and what comes back is verified: [`VerifiedReply`] can't be had any
//! other way. The gateway keeps no state of merchants; who the call is for is its caller's part.

#![warn(clippy::large_futures)]

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, DATE};
use http::{HeaderMap, StatusCode};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use crate::clock::Clock;
use crate::net::client::{Client, Reply};
use crate::protocol::charset::{self, Charset};
use crate::protocol::envelope::{Envelope, Verification, VerifiedEnvelope};
use crate::protocol::error::EnvelopeError;
use crate::protocol::key::RsaPublicKey;
use crate::protocol::request::SignedParams;
use crate::protocol::sign_content;
use crate::protocol::signature::SignType;
use crate::telemetry::span::Span;

pub mod app;
pub mod diagnosis;
pub mod error;
pub(crate) mod known_certificate;
pub mod metrics;
mod outgoing;
pub mod platform;
pub mod signer;
pub mod signing;
pub mod upload;
pub mod v2;
pub mod v3;

use app::SigningApp;
use diagnosis::Diagnostics;
use error::{DecryptionError, GatewayError, Outcome};
use metrics::{Api, CallMetrics, Phase};
use platform::{Asker, CertificateRefusal, CertificateSource, Choice, DOWNLOAD_METHOD, NoSource};
use signer::SignError;
use signing::{Forgotten, KeyInUse, Promotions};
use v2::{Encryption, V2Call};

/// Calls Alipay. Clones share the connections.
#[derive(Clone)]
pub struct Gateway {
    client: Client,
    clock: Arc<dyn Clock>,
    metrics: CallMetrics,
    certificates: Arc<dyn CertificateSource>,
    diagnostics: Diagnostics,
    promotions: Arc<dyn Promotions>,
}

/// A reply whose signature held, or an error that Alipay doesn't sign.
#[derive(Debug, Clone)]
pub struct VerifiedReply {
    /// The body and its parts; an encrypted node is open where the sidecar has the key.
    pub envelope: VerifiedEnvelope,
    /// Alipay's `trace_id` header.
    pub trace_id: Option<String>,
    /// Alipay's `Content-Type` header.
    pub content_type: Option<String>,
    /// Alipay's `Date` header, Unix milliseconds. Nobody signs it: it is good for a remark alone.
    pub date_ms: Option<i64>,
}

/// A reply that nobody has verified, with what its headers tell.
struct RawReply {
    envelope: Envelope,
    body: Bytes,
    charset: Charset,
    trace_id: Option<String>,
    content_type: Option<String>,
    date_ms: Option<i64>,
}

impl Gateway {
    /// A gateway that sends with `client` and stamps requests by `clock`.
    #[must_use]
    pub fn new(client: Client, clock: Arc<dyn Clock>, metrics: CallMetrics) -> Self {
        Self {
            client,
            clock,
            metrics,
            certificates: Arc::new(NoSource),
            diagnostics: Diagnostics::new(),
            promotions: Arc::new(Forgotten),
        }
    }

    /// The same, which asks `certificates` for platform certificates that aren't known yet;
    /// without it their replies are refused.
    #[must_use]
    pub fn with_certificates(self, certificates: Arc<dyn CertificateSource>) -> Self {
        Self {
            certificates,
            ..self
        }
    }

    /// The same, which explains refused signatures by `diagnostics`.
    #[must_use]
    pub fn with_diagnostics(self, diagnostics: Diagnostics) -> Self {
        Self {
            diagnostics,
            ..self
        }
    }

    /// The same, which tells `promotions` when an app's other key takes over.
    #[must_use]
    pub fn with_promotions(self, promotions: Arc<dyn Promotions>) -> Self {
        Self { promotions, ..self }
    }

    /// What explains refused signatures in the log.
    #[must_use]
    pub fn diagnostics(&self) -> Diagnostics {
        self.diagnostics.clone()
    }

    /// Builds and signs a request without sending it (order strings and pages).
    ///
    /// # Errors
    /// [`GatewayError`] when signing fails; the outcome is always [`Outcome::NotSent`].
    pub async fn sign(&self, call: &V2Call) -> Result<SignedParams, GatewayError> {
        unsent(self.sign_with(call, call.app.signing.in_force())).await
    }

    /// Signs, sends and verifies one call within its timeout.
    ///
    /// A call is sent once; only a pure query is tried again, after transport failures alone. One
    /// that Alipay refused for its key, signed, was not executed: it is sent once more with the
    /// app's other key, if there is one, which takes over when it is accepted.
    ///
    /// # Errors
    /// [`GatewayError`]; its outcome tells whether Alipay may have acted.
    ///
    /// # Cancel safety
    /// Not safe: Alipay may have acted, and nobody would know.
    pub async fn call(&self, call: &V2Call) -> Result<VerifiedReply, GatewayError> {
        let deadline = Instant::now() + call.timeout;
        let key = call.app.signing.in_force();
        let (signed, reply) = self.attempt(call, key, deadline).await?;
        if !refuses_key(call, &reply.envelope) {
            return Ok(reply);
        }
        let other = call.app.signing.other(key);
        let Some(other) = other.filter(|_| !left(deadline).is_zero()) else {
            self.tell_refused(call, &signed, &reply);
            return Ok(reply);
        };
        let (signed, again) = self.attempt(call, other, deadline).await?;
        if refuses_key(call, &again.envelope) {
            self.tell_refused(call, &signed, &again);
        } else if again.envelope.verification() == Verification::Signed {
            // Anything less would let an unsigned error choose the key.
            self.promote(&call.app, other);
        }
        Ok(again)
    }

    async fn attempt(
        &self,
        call: &V2Call,
        key: &KeyInUse,
        deadline: Instant,
    ) -> Result<(SignedParams, VerifiedReply), GatewayError> {
        let (signed, reply) = self.exchange(call, key, deadline).await?;
        let received = (reply.body.clone(), reply.charset);
        let began = Instant::now();
        let verified = self.verify(call, reply, deadline).await;
        self.observe((call.api, &call.span), (Phase::Verify, began), &verified);
        if let Err(GatewayError::ResponseSignature(_)) = &verified {
            self.diagnostics.reply(&call.app, &call.method, received);
        }
        Ok((signed, verified?))
    }

    /// Signed, sent, and cut into its parts.
    async fn exchange(
        &self,
        call: &V2Call,
        key: &KeyInUse,
        deadline: Instant,
    ) -> Result<(SignedParams, RawReply), GatewayError> {
        let signing = unsent(self.sign_with(call, key));
        let signing = tokio::time::timeout(left(deadline), signing);
        let signed = signing.await.map_err(|_| GatewayError::Timeout {
            host: call.host(),
            outcome: Outcome::NotSent,
        })??;
        let began = Instant::now();
        let reply = call.outgoing(&signed)?;
        let how = (deadline, call.repetition());
        let reply = reply.send(&self.client, how).await;
        self.metrics
            .observe(call.api, Phase::Upstream, began.elapsed());
        Ok((signed, read(call, reply?)?))
    }

    async fn sign_with(&self, call: &V2Call, key: &KeyInUse) -> Result<SignedParams, GatewayError> {
        let began = Instant::now();
        let params = call.params(key, self.clock.now_ms())?;
        let charset = call.charset.charset();
        let content = charset
            .encode(&sign_content::v2_request(&params))
            .map_err(GatewayError::Charset)?;
        let sign = key.signer.sign(call.app.sign_type, content).await;
        let sign = sign.map_err(GatewayError::from);
        self.observe((call.api, &call.span), (Phase::Sign, began), &sign);
        SignedParams::new(params, sign?)
            .in_charset(charset)
            .map_err(GatewayError::Charset)
    }

    /// Counts a phase that is over, and tells of it under the call's span.
    fn observe<T>(
        &self,
        (api, span): (Api, &Span),
        (phase, began): (Phase, Instant),
        result: &Result<T, GatewayError>,
    ) {
        self.metrics.observe(api, phase, began.elapsed());
        let part = span.past(phase.as_str(), began);
        if let Err(error) = result {
            part.fail(error.kind());
        }
    }

    /// Turns a reply into a verified one, or refuses it.
    async fn verify(
        &self,
        call: &V2Call,
        reply: RawReply,
        deadline: Instant,
    ) -> Result<VerifiedReply, GatewayError> {
        let RawReply {
            envelope,
            trace_id,
            content_type,
            date_ms,
            ..
        } = reply;
        let refused = |error| GatewayError::of_envelope(call.host(), error);
        let platform = &call.app.platform;
        let envelope = match platform.roots().filter(|_| call.method == DOWNLOAD_METHOD) {
            Some(roots) => {
                let verified = envelope.verify_download(roots, self.clock.now_ms());
                let verified = verified.map_err(refused)?;
                known_certificate::check_serial(call, &verified)?;
                verified
            }
            None => {
                let verified = self.verify_signature(call, envelope, deadline).await?;
                open(call, verified)?
            }
        };
        Ok(VerifiedReply {
            envelope,
            trace_id,
            content_type,
            date_ms,
        })
    }

    async fn verify_signature(
        &self,
        call: &V2Call,
        envelope: Envelope,
        deadline: Instant,
    ) -> Result<VerifiedEnvelope, GatewayError> {
        let sign_type = call.app.sign_type;
        let refused = |error| GatewayError::of_envelope(call.host(), error);
        if !envelope.is_signed() {
            // Whatever it names: there is nothing that a key could verify.
            return envelope.verify(&[], sign_type).map_err(refused);
        }
        let sn = envelope.alipay_cert_sn().map(ToOwned::to_owned);
        // Inline, on the async worker: a verification costs a twentieth of a signature, less than
        // two hops to the signing pool would under load.
        match self.keys(&call.app, sn.as_deref(), deadline).await? {
            Keys::Named(keys) => envelope.verify(&keys, sign_type).map_err(refused),
            Keys::Unnamed(keys) => {
                let bare = call.app.platform.bare();
                let verified = verify_unnamed(envelope, &keys, (bare, sign_type));
                verified
                    .map_err(refused)?
                    .ok_or(GatewayError::CertificateUnnamed)
            }
        }
    }

    /// The keys that a reply which names the certificate `sn` must be verified with.
    async fn keys(
        &self,
        app: &Arc<SigningApp>,
        sn: Option<&str>,
        deadline: Instant,
    ) -> Result<Keys, GatewayError> {
        match (app.platform.choose(sn), sn) {
            (Choice::Keys(keys), _) => Ok(Keys::Named(keys)),
            (Choice::Unnamed(keys), _) => Ok(Keys::Unnamed(keys)),
            (Choice::Unknown, sn) => {
                self.learn(app, sn.unwrap_or_default(), deadline)
                    .await
                    .map_err(GatewayError::Certificate)?;
                match app.platform.choose(sn) {
                    Choice::Keys(keys) => Ok(Keys::Named(keys)),
                    _ => Err(GatewayError::CertificateUnnamed),
                }
            }
        }
    }

    /// Makes the certificate known that something names which a stranger carried here, if that can
    /// be done within `patience`. Why it can't is told where it failed.
    pub(crate) async fn meet(&self, app: &Arc<SigningApp>, sn: Option<&str>, patience: Duration) {
        let Some(sn) = sn.filter(|sn| app.platform.may_learn(sn)) else {
            return;
        };
        let learning = self.certificates.learn(app, sn, Asker::Notification);
        let _ = tokio::time::timeout(patience, learning).await;
    }

    async fn learn(
        &self,
        app: &Arc<SigningApp>,
        sn: &str,
        deadline: Instant,
    ) -> Result<(), CertificateRefusal> {
        let late = || CertificateRefusal::Unavailable("the deadline of the call passed".to_owned());
        let learning = self.certificates.learn(app, sn, Asker::Reply);
        tokio::time::timeout(left(deadline), learning)
            .await
            .unwrap_or_else(|_| Err(late()))
    }

    /// Counts it, and says in the log where our string and Alipay's begin to differ, once no key helped.
    fn tell_refused(&self, call: &V2Call, signed: &SignedParams, reply: &VerifiedReply) {
        let sub_code = reply.envelope.sub_code().unwrap_or_default();
        self.metrics.signature_refused(sub_code);
        if sub_code == "isv.invalid-signature" {
            let sub_msg = reply.envelope.sub_msg().unwrap_or_default();
            let strings = (signed.sign_content(), sub_msg);
            self.diagnostics
                .refused_signature(&call.app, &call.method, strings);
        }
    }

    fn promote(&self, app: &SigningApp, key: &KeyInUse) {
        if app.signing.promote(key) {
            self.metrics.key_changed();
            if let Some(former) = app.signing.other(key) {
                let first = app.signing.iter().next().unwrap_or(former);
                self.promotions.took_over(&app.app_id, first, (former, key));
            }
            tracing::warn!(
                app_id = %app.app_id,
                public_key = key.public_key.fingerprint(),
                "Alipay takes the app's other private key now; make it `private_key` in the configuration"
            );
        }
    }
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Gateway")
    }
}

/// What `signing` gives; a bug of the signer, or of the clock, which may be a host's, ends it before
/// anything is sent.
async fn unsent<T>(
    signing: impl Future<Output = Result<T, GatewayError>>,
) -> Result<T, GatewayError> {
    let signed = AssertUnwindSafe(signing).catch_unwind().await;
    let signed =
        signed.unwrap_or_else(|_| Err(SignError::Failed("a bug ended it".to_owned()).into()));
    if let Err(GatewayError::Sign(SignError::Unavailable(error))) = &signed {
        let error = signer::chain(error.as_ref());
        tracing::warn!(%error, "the signer is not available");
    }
    signed
}

/// What a reply is verified with.
enum Keys {
    /// It names its certificate, or the app is in key mode.
    Named(Arc<[RsaPublicKey]>),
    /// It should name one.
    Unnamed(Arc<[RsaPublicKey]>),
}

/// Tells whether Alipay says, signed, that nothing was executed because of the key or its
/// certificate. (A download changes nothing, and its reply is never believed for its signature.)
fn refuses_key(call: &V2Call, envelope: &VerifiedEnvelope) -> bool {
    let is_signed = envelope.verification() == Verification::Signed;
    let refusals = ["isv.invalid-signature", "isv.app-cert-not-exist"];
    (is_signed || call.method == DOWNLOAD_METHOD)
        && envelope
            .sub_code()
            .is_some_and(|code| refusals.contains(&code))
}

/// A reply in certificate mode that names no certificate: a success counts under a bare key alone.
fn verify_unnamed(
    envelope: Envelope,
    keys: &[RsaPublicKey],
    (bare, sign_type): (&[RsaPublicKey], SignType),
) -> Result<Option<VerifiedEnvelope>, EnvelopeError> {
    let verified = envelope.clone().verify(keys, sign_type)?;
    let counts = is_error(&verified) || envelope.verify(bare, sign_type).is_ok();
    Ok(counts.then_some(verified))
}

fn is_error(envelope: &VerifiedEnvelope) -> bool {
    let code = envelope.code();
    code.is_some_and(|code| !matches!(code, "10000" | "10003"))
}

/// Opens an encrypted node. Where the contents are the caller's, it may hold the key itself.
fn open(call: &V2Call, envelope: VerifiedEnvelope) -> Result<VerifiedEnvelope, GatewayError> {
    if !envelope.is_ciphertext() {
        return Ok(envelope);
    }
    let opened = match call.app.content_key() {
        None => Err(DecryptionError::NoKey),
        Some(key) => key.open_reply(envelope.clone()).map_err(Into::into),
    };
    match (opened, call.encryption) {
        (Ok(opened), _) => Ok(opened),
        (Err(_), Encryption::Callers) => Ok(envelope),
        (Err(error), Encryption::Ours) => Err(GatewayError::Decryption(error)),
    }
}

/// Cuts whatever came back into its parts.
fn read(call: &V2Call, reply: Reply) -> Result<RawReply, GatewayError> {
    // HTTP status is 200 even for business failures; anything else is a transport fault.
    if reply.status != StatusCode::OK {
        let reason = format!("HTTP status {}", reply.status);
        return Err(GatewayError::not_alipay(call.host(), reason));
    }
    refuse_encoded(&reply.headers, || call.host())?;
    let content_type = header(&reply.headers, CONTENT_TYPE.as_str());
    let charset = reply_charset(content_type.as_deref(), &reply.body, call.charset.charset());
    Ok(RawReply {
        envelope: Envelope::parse_in(reply.body.clone(), &call.method, charset)
            .map_err(|error| GatewayError::of_envelope(call.host(), error))?,
        body: reply.body,
        charset,
        trace_id: header(&reply.headers, "trace_id"),
        date_ms: header(&reply.headers, DATE.as_str()).and_then(|date| date_of(&date)),
        content_type,
    })
}

/// What is signed would not be what came.
fn refuse_encoded(headers: &HeaderMap, host: impl Fn() -> String) -> Result<(), GatewayError> {
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    match encodings.all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        true => Ok(()),
        false => Err(GatewayError::not_alipay(
            host(),
            "it has a Content-Encoding",
        )),
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// The charset of a reply: the one its `Content-Type` names. Where that names none of Alipay's, it
/// is UTF-8, as the SDKs take it, unless the bytes aren't: then it is that of the request. (Java's
/// SDK would read rubbish there; a paid call must not be lost to a missing header.)
fn reply_charset(content_type: Option<&str>, body: &[u8], requested: Charset) -> Charset {
    let named = content_type
        .and_then(charset::label_of_content_type)
        .and_then(|label| Charset::from_label(&label).ok());
    named.unwrap_or_else(|| match std::str::from_utf8(body) {
        Ok(_) => Charset::Utf8,
        Err(_) => requested,
    })
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .map(ToOwned::to_owned)
}

/// The time of a `Date` header (RFC 9110), Unix milliseconds.
fn date_of(text: &str) -> Option<i64> {
    let date = OffsetDateTime::parse(text, &Rfc2822).ok()?;
    date.unix_timestamp().checked_mul(1000)
}

/// The largest reply taken from Alipay, bytes; the largest bills' pages stay well below it.
pub const MAX_REPLY: usize = 8 << 20;

/// The deadline of a call: what is configured, or less where its caller asks for less.
#[must_use]
pub fn deadline(configured: Duration, asked: Option<Duration>) -> Duration {
    asked.map_or(configured, |asked| asked.min(configured))
}

#[cfg(test)]
mod tests;
