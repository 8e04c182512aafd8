//! The errors born in the sidecar: contract §3's table.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use http::StatusCode;

use crate::gateway::error::{GatewayError, Outcome};
use crate::gateway::signer::SignError;
use crate::net::body::{BodyError, RoomError};
use crate::protocol::error::ProtocolError;
use crate::store::error::StoreError;

/// What a backend is told went wrong; the same word in every shape of reply, log and metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// Which of several apps can't be told.
    AppRequired,
    /// `Alipay-App` names no app.
    AppUnknown,
    /// The body isn't what the route takes.
    BodyInvalid,
    /// The body is over the limit.
    BodyTooLarge,
    /// The request comes from a web page.
    BrowserRefused,
    /// The caller may not do that.
    CallerForbidden,
    /// Who calls isn't proved.
    CallerUnauthenticated,
    /// No such call is on record.
    CallUnknown,
    /// A charset that isn't spoken here.
    CharsetUnsupported,
    /// Nobody has the event on lease.
    EventNotLeased,
    /// No such event.
    EventUnknown,
    /// The head is over the limit.
    HeadersTooLarge,
    /// The route knows other methods.
    HttpMethodNotAllowed,
    /// A fault of ours.
    Internal,
    /// A PID with several applications.
    MerchantAmbiguous,
    /// Tags that name different records.
    MerchantConflict,
    /// No tag.
    MerchantRequired,
    /// The authorisation was cancelled.
    MerchantUnauthorized,
    /// No such merchant.
    MerchantUnknown,
    /// No Alipay method name has this form.
    MethodInvalid,
    /// No Alipay method.
    MethodRequired,
    /// A `notify_url` that may not be used.
    NotifyUrlForbidden,
    /// Over the concurrency limit.
    Overloaded,
    /// A parameter given twice.
    ParameterDuplicate,
    /// A parameter with a wrong name or value.
    ParameterInvalid,
    /// A parameter that the sidecar owns.
    ParameterReserved,
    /// An encrypted reply that can't be opened.
    ResponseDecryptionFailed,
    /// A reply without a good signature.
    ResponseSignatureInvalid,
    /// No such route.
    RouteUnknown,
    /// The store can't be used.
    StoreUnavailable,
    /// The token is another record's.
    TokenConflict,
    /// A token never held.
    TokenUnknown,
    /// What came back is no reply of Alipay's.
    UpstreamInvalid,
    /// The deadline passed.
    UpstreamTimeout,
    /// No connection, or it broke.
    UpstreamUnreachable,
}

impl ErrorCode {
    /// The word of contract §3.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status on routes that use it.
    #[must_use]
    pub fn status(self) -> StatusCode {
        self.row().1
    }

    /// One line for people, the same for every error of this code.
    #[must_use]
    pub fn title(self) -> &'static str {
        self.row().2
    }

    /// The table itself, which is why this function is long.
    fn row(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::AppRequired => (
                "app-required",
                S::BAD_REQUEST,
                "Several apps could be meant",
            ),
            Self::AppUnknown => ("app-unknown", S::BAD_REQUEST, "No such app"),
            Self::BodyInvalid => ("body-invalid", S::BAD_REQUEST, "The body can't be used"),
            Self::BodyTooLarge => (
                "body-too-large",
                S::PAYLOAD_TOO_LARGE,
                "The body is over the limit",
            ),
            Self::BrowserRefused => (
                "browser-refused",
                S::FORBIDDEN,
                "Web pages may not call the sidecar",
            ),
            Self::CallerForbidden => (
                "caller-forbidden",
                S::FORBIDDEN,
                "The caller may not do this",
            ),
            Self::CallerUnauthenticated => (
                "caller-unauthenticated",
                S::UNAUTHORIZED,
                "Who calls isn't proved",
            ),
            Self::CallUnknown => ("call-unknown", S::NOT_FOUND, "No such call"),
            Self::CharsetUnsupported => (
                "charset-unsupported",
                S::BAD_REQUEST,
                "The charset isn't supported",
            ),
            Self::EventNotLeased => ("event-not-leased", S::CONFLICT, "The event isn't on lease"),
            Self::EventUnknown => ("event-unknown", S::NOT_FOUND, "No such event"),
            Self::HeadersTooLarge => (
                "headers-too-large",
                S::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "The head is over the limit",
            ),
            Self::HttpMethodNotAllowed => (
                "http-method-not-allowed",
                S::METHOD_NOT_ALLOWED,
                "The route takes other HTTP methods",
            ),
            Self::Internal => (
                "internal",
                S::INTERNAL_SERVER_ERROR,
                "The sidecar failed; this is a bug",
            ),
            Self::MerchantAmbiguous => (
                "merchant-ambiguous",
                S::BAD_REQUEST,
                "The PID has several applications",
            ),
            Self::MerchantConflict => (
                "merchant-conflict",
                S::BAD_REQUEST,
                "The tags name different merchants",
            ),
            Self::MerchantRequired => (
                "merchant-required",
                S::BAD_REQUEST,
                "The request names no merchant",
            ),
            Self::MerchantUnauthorized => (
                "merchant-unauthorized",
                S::FORBIDDEN,
                "The merchant has cancelled its authorisation",
            ),
            Self::MerchantUnknown => ("merchant-unknown", S::NOT_FOUND, "No such merchant"),
            Self::MethodInvalid => (
                "method-invalid",
                S::BAD_REQUEST,
                "This is no Alipay method name",
            ),
            Self::MethodRequired => (
                "method-required",
                S::BAD_REQUEST,
                "The request names no Alipay method",
            ),
            Self::NotifyUrlForbidden => (
                "notify-url-forbidden",
                S::BAD_REQUEST,
                "The notify_url may not be used",
            ),
            Self::Overloaded => (
                "overloaded",
                S::SERVICE_UNAVAILABLE,
                "Too many calls are under way",
            ),
            Self::ParameterDuplicate => (
                "parameter-duplicate",
                S::BAD_REQUEST,
                "A parameter is given twice",
            ),
            Self::ParameterInvalid => (
                "parameter-invalid",
                S::BAD_REQUEST,
                "A parameter can't be used",
            ),
            Self::ParameterReserved => (
                "parameter-reserved",
                S::BAD_REQUEST,
                "The sidecar sets this parameter itself",
            ),
            Self::ResponseDecryptionFailed => (
                "response-decryption-failed",
                S::BAD_GATEWAY,
                "The reply is encrypted and could not be opened",
            ),
            Self::ResponseSignatureInvalid => (
                "response-signature-invalid",
                S::BAD_GATEWAY,
                "The reply's signature is missing or wrong",
            ),
            Self::RouteUnknown => ("route-unknown", S::NOT_FOUND, "No such route"),
            Self::StoreUnavailable => (
                "store-unavailable",
                S::SERVICE_UNAVAILABLE,
                "The sidecar's store can't be used at present",
            ),
            Self::TokenConflict => (
                "token-conflict",
                S::CONFLICT,
                "The token belongs to another merchant",
            ),
            Self::TokenUnknown => (
                "token-unknown",
                S::NOT_FOUND,
                "The sidecar never held this token",
            ),
            Self::UpstreamInvalid => (
                "upstream-invalid",
                S::BAD_GATEWAY,
                "What came back is no reply of Alipay's",
            ),
            Self::UpstreamTimeout => (
                "upstream-timeout",
                S::GATEWAY_TIMEOUT,
                "Alipay did not answer in time",
            ),
            Self::UpstreamUnreachable => (
                "upstream-unreachable",
                S::BAD_GATEWAY,
                "Alipay could not be reached",
            ),
        }
    }
}

/// An error born in the sidecar.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {detail}", .code.as_str())]
#[non_exhaustive]
pub struct ProxyError {
    /// Which.
    pub code: ErrorCode,
    /// Whether Alipay may have acted.
    pub outcome: Outcome,
    /// Whether the same call may be made again as it is.
    pub retryable: bool,
    /// What was found, what was expected, what to do; never a secret.
    pub detail: String,
    /// Of `merchant-ambiguous`: the `auth_app_id`s that could be meant.
    pub candidates: Vec<String>,
    /// Of `http-method-not-allowed`: the `Allow` header.
    pub allow: Option<&'static str>,
}

impl ProxyError {
    /// A refusal: nothing was sent.
    #[must_use]
    pub fn refused(code: ErrorCode, detail: impl Into<String>) -> Self {
        Self {
            code,
            outcome: Outcome::NotSent,
            retryable: code == ErrorCode::Overloaded,
            detail: detail.into(),
            candidates: Vec::new(),
            allow: None,
        }
    }

    /// The error of a call of `method` that was signed or sent.
    #[must_use]
    pub fn of_call(method: &str, error: &GatewayError) -> Self {
        Self::of_query(crate::gateway::v2::is_pure_query(method), error)
    }

    /// The error of a call that was signed or sent; `is_query`: making it twice harms nobody.
    pub(crate) fn of_query(is_query: bool, error: &GatewayError) -> Self {
        let code = match error {
            GatewayError::Certificate(_)
            | GatewayError::CertificateUnnamed
            | GatewayError::ResponseSignature(_)
            | GatewayError::V3Signature(_) => ErrorCode::ResponseSignatureInvalid,
            GatewayError::Charset(_) | GatewayError::UrlTooLong | GatewayError::V3Request(_) => {
                ErrorCode::ParameterInvalid
            }
            GatewayError::Decryption(_) => ErrorCode::ResponseDecryptionFailed,
            GatewayError::NotAlipay { .. } => ErrorCode::UpstreamInvalid,
            GatewayError::Timeout { .. } => ErrorCode::UpstreamTimeout,
            GatewayError::Unreachable { .. } => ErrorCode::UpstreamUnreachable,
            GatewayError::Sign(SignError::Overloaded | SignError::Unavailable(_)) => {
                ErrorCode::Overloaded
            }
            GatewayError::Encryption(_) | GatewayError::Request(_) | GatewayError::Sign(_) => {
                ErrorCode::Internal
            }
        };
        let outcome = error.outcome();
        let passing = matches!(code, ErrorCode::Overloaded | ErrorCode::UpstreamUnreachable);
        Self {
            code,
            outcome,
            retryable: (passing && outcome == Outcome::NotSent)
                || (!matches!(code, ErrorCode::Internal | ErrorCode::ParameterInvalid) && is_query),
            detail: error.to_string(),
            candidates: Vec::new(),
            allow: None,
        }
    }
}

/// A refusal for which nobody is to blame: it may be asked again soon.
pub(super) fn overloaded(detail: &str) -> ProxyError {
    ProxyError::refused(ErrorCode::Overloaded, detail)
}

/// What is told of a call that a bug ended: what it did nobody knows.
pub(super) fn bug() -> ProxyError {
    ended_by_bug(Outcome::Unknown)
}

/// What is told of a call that a bug ended, ours or of a part that a host handed in.
pub(super) fn ended_by_bug(outcome: Outcome) -> ProxyError {
    let detail = match outcome {
        Outcome::NotSent => "the call ended in a bug, before anything was sent; see the log",
        Outcome::Unknown => "the call ended in a bug; see the log",
    };
    ProxyError {
        outcome,
        ..ProxyError::refused(ErrorCode::Internal, detail)
    }
}

/// What `work` gives, by which nothing is sent: where a bug ends it, an error that says so.
pub(super) async fn caught<T>(
    work: impl Future<Output = Result<T, ProxyError>>,
) -> Result<T, ProxyError> {
    let ended = AssertUnwindSafe(work).catch_unwind().await;
    ended.unwrap_or_else(|_| Err(ended_by_bug(Outcome::NotSent)))
}

impl From<StoreError> for ProxyError {
    fn from(error: StoreError) -> Self {
        Self::refused(ErrorCode::StoreUnavailable, error.to_string())
    }
}

impl From<ProtocolError> for ProxyError {
    fn from(error: ProtocolError) -> Self {
        let code = match &error {
            ProtocolError::ParameterDuplicate { .. } => ErrorCode::ParameterDuplicate,
            ProtocolError::CharsetUnsupported { .. } => ErrorCode::CharsetUnsupported,
            _ => ErrorCode::ParameterInvalid,
        };
        Self::refused(code, error.to_string())
    }
}

impl From<BodyError> for ProxyError {
    fn from(error: BodyError) -> Self {
        let code = match error {
            BodyError::TooLarge(_) => ErrorCode::BodyTooLarge,
            BodyError::Broken(_) | BodyError::Timeout(_) | BodyError::Trailers => {
                ErrorCode::BodyInvalid
            }
        };
        Self::refused(code, error.to_string())
    }
}

impl From<RoomError> for ProxyError {
    fn from(error: RoomError) -> Self {
        match error {
            RoomError::Body(error) => error.into(),
            RoomError::Full(_) => overloaded(
                "the bodies of calls under way take all the room there is; try again in a second",
            ),
        }
    }
}
