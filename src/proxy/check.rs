//! What came back through a browser or an app, checked for a backend; nothing is sent for it, but
//! that a merchant's key may be asked for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Response};
use http_body_util::Full;
use hyper::body::Body;
use serde::Serializer;

use crate::gateway::app::SigningApp;
use crate::net::body::{self, BoxError, Within};
use crate::protocol::app_result::{AppResultError, UnverifiedAppResult};
use crate::protocol::envelope::VerifiedEnvelope;
use crate::protocol::error::{EnvelopeError, ProtocolError};
use crate::protocol::notification::UnverifiedNotification;
use crate::protocol::params::{self, Params, name};
use crate::proxy::error::{ErrorCode, ProxyError, caught};
use crate::proxy::reply::{self, Shape};
use crate::proxy::route::{self, Route, Target};
use crate::proxy::story::Story;
use crate::proxy::{Proxy, client_data, local_call, upload, users};

/// How long a platform certificate that isn't known yet may take to be fetched: a user waits.
const PATIENCE: Duration = Duration::from_secs(4);

/// What is to be checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Check {
    /// `/verify/app-result`: what an app's payment gave its front end.
    AppResult,
    /// `/v2/client-data/decrypt`: what `my.getPhoneNumber` and the like gave theirs.
    ClientData,
    /// `/verify/return`: the query that a browser came back with.
    Return,
}

/// What turned out to be Alipay's.
pub(super) struct Checked {
    pub(super) app: Arc<SigningApp>,
    pub(super) auth_app_id: Option<String>,
    /// JSON in UTF-8.
    pub(super) body: Bytes,
    pub(super) code: Option<String>,
    pub(super) sub_code: Option<String>,
}

impl Checked {
    /// What the metrics say of it.
    pub(super) fn outcome(&self) -> &'static str {
        match self.code.as_deref() {
            None | Some("10000") => "ok",
            Some(_) => "business-error",
        }
    }
}

impl Proxy {
    /// Checks the query of a `return_url` in process, as `/verify/return` would; gives all its
    /// parameters.
    ///
    /// # Errors
    /// [`ProxyError`], as the route answers it.
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    pub async fn verify_return(&self, query: &str) -> Result<Params, ProxyError> {
        let (_, params) = caught(self.returned(query.as_bytes())).await?;
        Ok(params)
    }

    /// Checks the result of a payment in an app in process, as `/verify/app-result` would; gives
    /// the JSON that was signed. `app` tells which of several apps, where the result doesn't.
    ///
    /// # Errors
    /// [`ProxyError`], as the route answers it.
    ///
    /// # Cancel safety
    /// Safe: it changes nothing.
    pub async fn verify_app_result(
        &self,
        app: Option<&str>,
        result: &str,
    ) -> Result<Bytes, ProxyError> {
        let checked = caught(self.app_result(app, result.as_bytes())).await?;
        Ok(checked.body)
    }

    /// Answers a request of one of the routes that check.
    pub(super) async fn check<B>(
        &self,
        head: &Parts,
        route: Route,
        body: B,
    ) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let mut story = Story::new(head, &route);
        let checked = caught(self.checked(head, (&route, &mut story), body)).await;
        story.tell_checked(&self.parts, checked.as_ref());
        let mut response = match &checked {
            Ok(checked) => reply::checked(checked),
            Err(error) => reply::error(error, Shape::Http, &story.request_id),
        };
        reply::identify(&mut response, &story.request_id);
        response
    }

    async fn checked<B>(
        &self,
        head: &Parts,
        (route, story): (&Route, &mut Story),
        body: B,
    ) -> Result<Checked, ProxyError>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let who = self.let_in(head, &route.target, story)?;
        route::check_http_method(&route.target, &head.method)?;
        users::refuse_where_unused(&head.headers)?;
        let place = self.place()?;
        refuse_parts(&head.headers)?;
        let (limits, within) = (&self.parts.limits, Within::of(&head.extensions));
        let read = body::read_into(body, limits.max_body, within, &limits.room);
        let (body, held) = read.await?;
        let _slot = self.slot(place, held)?;
        let _in_flight = self.parts.metrics.begin();
        if body.is_empty() {
            return Err(ProxyError::refused(
                ErrorCode::BodyInvalid,
                "there is no body; send what is to be checked as the body, as it came",
            ));
        }
        let tags = local_call::tags(&head.headers, route.selector.clone())?;
        match &route.target {
            Target::Check(Check::AppResult) => self.app_result(tags.app.as_deref(), &body).await,
            Target::Check(Check::ClientData) => {
                let timeout = local_call::timeout(&head.headers)?;
                client_data::open(&self.parts, (&tags, &who), timeout, &body).await
            }
            _ => self.page_return(&body).await,
        }
    }

    async fn page_return(&self, query: &[u8]) -> Result<Checked, ProxyError> {
        let (app, params) = self.returned(query).await?;
        Ok(Checked {
            app,
            auth_app_id: None,
            body: fields(&params),
            code: None,
            sub_code: None,
        })
    }

    /// Checks the query of a `return_url`, by the rules of notifications.
    async fn returned(&self, query: &[u8]) -> Result<(Arc<SigningApp>, Params), ProxyError> {
        // As `location.search` has it.
        let query = query.strip_prefix(b"?").unwrap_or(query);
        // The type of this request is the backend's; it says nothing about Alipay's charset.
        let unverified = UnverifiedNotification::parse(None, query)?;
        let claimed = unverified.claimed_app_id().unwrap_or_default();
        let app = self.parts.resolver.app(claimed).ok_or_else(not_ours)?;
        let sn = unverified.alipay_cert_sn();
        self.parts.gateway.meet(&app, sn, PATIENCE).await;
        let verified = unverified.verify(&app.platform.all_keys(), app.sign_type);
        let verified = verified.map_err(|error| {
            let query = Bytes::copy_from_slice(query);
            self.parts
                .gateway
                .diagnostics()
                .notification(&app, None, query);
            invalid(&error)
        })?;
        if verified.is_return_put_together_anew() {
            return Err(put_together_anew());
        }
        Ok((app, verified.params().clone()))
    }

    /// Checks the result of a payment in an app, by the rules of replies.
    async fn app_result(&self, app: Option<&str>, text: &[u8]) -> Result<Checked, ProxyError> {
        let unverified = UnverifiedAppResult::parse(text).map_err(|e| not_a_result(&e))?;
        let app = match unverified.claimed_app_id() {
            Some(claimed) => self.parts.resolver.app(claimed).ok_or_else(not_ours)?,
            None => self.parts.resolver.app_of_header(app)?,
        };
        let sn = unverified.alipay_cert_sn();
        self.parts.gateway.meet(&app, sn, PATIENCE).await;
        let verified = unverified
            .verify(&app.platform.all_keys(), app.sign_type)
            .map_err(|error| of_result(&error))?;
        let verified = opened(&app, verified)?;
        Ok(Checked {
            app,
            auth_app_id: None,
            body: verified.node_text().into(),
            code: verified.code().map(ToOwned::to_owned),
            sub_code: verified.sub_code().map(ToOwned::to_owned),
        })
    }
}

/// The result, open: an order string that left encrypted may bring an encrypted one back.
fn opened(app: &SigningApp, result: VerifiedEnvelope) -> Result<VerifiedEnvelope, ProxyError> {
    if !result.is_ciphertext() {
        return Ok(result);
    }
    let failed = |reason: String| ProxyError::refused(ErrorCode::ResponseDecryptionFailed, reason);
    let Some(key) = app.content_key() else {
        return Err(failed(
            "the result is encrypted, and the app has no encrypt_key".to_owned(),
        ));
    };
    key.open_reply(result)
        .map_err(|error| failed(error.to_string()))
}

fn refuse_parts(headers: &HeaderMap) -> Result<(), ProxyError> {
    if upload::is_multipart(headers) {
        return Err(ProxyError::refused(
            ErrorCode::BodyInvalid,
            "this route takes the text itself as the body, not a form with parts",
        ));
    }
    Ok(())
}

/// Everything that says something, as one JSON object of texts in their order.
fn fields(params: &Params) -> Bytes {
    // What no reading of the rules surely signs, anybody may have added.
    let says = |(name, value): &(&str, &str)| {
        let is_about_it = [name::SIGN, name::SIGN_TYPE, name::ALIPAY_CERT_SN].contains(name);
        !is_about_it && !params::is_blank(value)
    };
    let mut json = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut json);
    // Maps with text keys, written to memory, always serialise.
    let _ = serializer.collect_map(params.iter().filter(says));
    json.into()
}

fn invalid(error: &ProtocolError) -> ProxyError {
    ProxyError::refused(ErrorCode::ResponseSignatureInvalid, error.to_string())
}

fn put_together_anew() -> ProxyError {
    ProxyError::refused(
        ErrorCode::ResponseSignatureInvalid,
        "one of Alipay's parameters holds another, so that it isn't the query that Alipay wrote, \
         although the signature fits both; send it as it came, decoded nowhere",
    )
}

fn not_ours() -> ProxyError {
    ProxyError::refused(
        ErrorCode::ResponseSignatureInvalid,
        "its app_id is none of the configured apps, so that no key can vouch for it",
    )
}

fn not_a_result(error: &EnvelopeError) -> ProxyError {
    let code = match error.is_about_signature() {
        true => ErrorCode::ResponseSignatureInvalid,
        false => ErrorCode::BodyInvalid,
    };
    ProxyError::refused(code, format!("this is no result of a payment: {error}"))
}

fn of_result(error: &AppResultError) -> ProxyError {
    ProxyError::refused(ErrorCode::ResponseSignatureInvalid, error.to_string())
}
