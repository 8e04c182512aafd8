//! Errors of the admin listener, as `application/problem+json` (RFC 9457).

use bytes::Bytes;
use http::header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use schemars::JsonSchema;
use serde::Serialize;

use crate::admin::configuration::{FaultView, ReloadError};
use crate::admin::error::AdminError;
use crate::gateway::error::Outcome;
use crate::net::body::BodyError;
use crate::net::head::HeadFault;
use crate::proxy::error::ProxyError;

/// A request that wasn't answered as asked.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    outcome: Outcome,
    /// The request only asks Alipay something.
    is_query: bool,
    allow: Option<String>,
    faults: Vec<FaultView>,
}

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            outcome: Outcome::NotSent,
            is_query: false,
            allow: None,
            faults: Vec::new(),
        }
    }

    pub(crate) fn internal(detail: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    pub(crate) fn of_body(error: &BodyError) -> Self {
        let (status, code) = match error {
            BodyError::TooLarge(_) => (StatusCode::PAYLOAD_TOO_LARGE, "body-too-large"),
            BodyError::Broken(_) | BodyError::Timeout(_) | BodyError::Trailers => {
                (StatusCode::BAD_REQUEST, "body-invalid")
            }
        };
        Self::new(status, code, error.to_string())
    }

    pub(crate) fn encoded() -> Self {
        let detail = "the body has a Content-Encoding; send it plain";
        Self::new(StatusCode::BAD_REQUEST, "body-invalid", detail)
    }

    pub(crate) fn of_head(fault: HeadFault) -> Self {
        let detail = fault.to_string();
        match fault {
            HeadFault::TooLarge => Self::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers-too-large",
                detail,
            ),
            _ => Self::parameter_invalid(detail),
        }
    }

    pub(crate) fn parameter_invalid(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "parameter-invalid", detail)
    }

    /// `allow` names the methods that the route takes, a comma between them.
    pub(crate) fn method_not_allowed(allow: String) -> Self {
        let detail = format!("this route takes {allow}");
        Self {
            allow: Some(allow),
            ..Self::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "http-method-not-allowed",
                detail,
            )
        }
    }

    /// The methods that are named where another was used.
    #[cfg(test)]
    pub(crate) fn allowed(&self) -> Option<&str> {
        self.allow.as_deref()
    }

    pub(crate) fn route_unknown() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "route-unknown",
            "there are /livez, /readyz, /metrics, and what /api/openapi.json describes",
        )
    }

    pub(crate) fn unauthenticated() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "caller-unauthenticated",
            "send `Authorization: Bearer` with `admin.token`, or with the token in the file `admin.token` beside the store",
        )
    }

    /// An operator's request that wasn't done.
    pub(crate) fn of_error(error: &AdminError) -> Self {
        let status =
            StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self {
            outcome: error.outcome(),
            ..Self::new(status, error.kind(), error.to_string())
        }
    }

    /// The same of a request that only asks Alipay something.
    pub(crate) fn of_query(self) -> Self {
        Self {
            is_query: true,
            ..self
        }
    }

    /// Whether the same request may succeed a moment later, and do nothing twice.
    fn is_retryable(&self) -> bool {
        let passes = ["overloaded", "upstream-unreachable"];
        let is_upstreams = self.code.starts_with("upstream-");
        (passes.contains(&self.code) && self.outcome == Outcome::NotSent)
            || (self.is_query && is_upstreams)
    }

    fn body<'a>(&'a self, request_id: &'a str) -> Body<'a> {
        Body {
            r#type: format!("urn:alipay-sidecar:error:{}", self.code),
            title: self.status.canonical_reason().unwrap_or_default(),
            status: self.status.as_u16(),
            detail: &self.detail,
            code: self.code,
            outcome: self.outcome.as_str(),
            retryable: self.is_retryable(),
            request_id,
            faults: &self.faults,
        }
    }

    pub(crate) fn respond(&self, request_id: &str) -> Response<Full<Bytes>> {
        let mut response = super::json(self.status, &self.body(request_id));
        let headers = response.headers_mut();
        headers.insert(
            http::header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert("alipay-sidecar-error", HeaderValue::from_static(self.code));
        let outcome = HeaderValue::from_static(self.outcome.as_str());
        headers.insert("alipay-sidecar-outcome", outcome);
        if let Some(Ok(allow)) = self.allow.as_deref().map(HeaderValue::from_str) {
            headers.insert(ALLOW, allow);
        }
        if self.code == "overloaded" {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// An error (RFC 9457).
#[derive(JsonSchema, Serialize)]
#[schemars(rename = "Problem")]
pub(super) struct Body<'a> {
    /// `urn:alipay-sidecar:error:` and the code.
    r#type: String,
    /// The status in words.
    title: &'a str,
    /// The status.
    status: u16,
    /// What was found, what was expected, what to do.
    detail: &'a str,
    /// The fixed word for it.
    code: &'a str,
    /// `not-sent`, or `unknown` where Alipay may have acted.
    outcome: &'a str,
    /// Whether the same again may succeed.
    retryable: bool,
    /// The request's id.
    request_id: &'a str,
    #[serde(skip_serializing_if = "<[FaultView]>::is_empty")]
    faults: &'a [FaultView],
}

impl From<ProxyError> for Problem {
    fn from(error: ProxyError) -> Self {
        Self::new(error.code.status(), error.code.as_str(), error.detail)
    }
}

impl From<ReloadError> for Problem {
    fn from(error: ReloadError) -> Self {
        let status =
            StatusCode::from_u16(error.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let detail = match error.faults() {
            [] => error.to_string(),
            _ => format!("nothing was changed: {error}"),
        };
        Self {
            faults: error.faults().iter().map(FaultView::new).collect(),
            ..Self::new(status, error.kind(), detail)
        }
    }
}

impl From<AdminError> for Problem {
    fn from(error: AdminError) -> Self {
        Self::of_error(&error)
    }
}

/// The same problems for the command line, which finds them without asking by HTTP.
#[cfg(feature = "cli")]
mod for_cli {
    use http::StatusCode;
    use serde_json::Value;

    use super::{FaultView, Problem};
    use crate::admin::error::kind_of_store;
    use crate::config::error::ConfigErrors;
    use crate::store::error::StoreError;

    impl Problem {
        /// What is wrong with a configuration, each fault on its own.
        pub(crate) fn of_configuration(errors: &ConfigErrors) -> Self {
            Self {
                faults: errors.faults().iter().map(FaultView::new).collect(),
                ..Self::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "config-invalid",
                    errors.to_string(),
                )
            }
        }

        /// What the store said.
        pub(crate) fn of_store(error: &StoreError) -> Self {
            let code = kind_of_store(error);
            let status = match code {
                "store-unavailable" => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::CONFLICT,
            };
            Self::new(status, code, error.to_string())
        }

        /// Its members, for who isn't asked by HTTP.
        pub(crate) fn to_json(&self) -> Value {
            let mut members = serde_json::to_value(self.body("")).unwrap_or_default();
            if let Some(members) = members.as_object_mut() {
                members.remove("request_id");
            }
            members
        }
    }
}
