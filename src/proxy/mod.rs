//! A backend's unsigned request in, Alipay's verified reply out.
//!
//! [`Proxy::handle`] reads as front door → local call → credentials → call → reply. From the
//! credentials on, the call runs in a task of its own: money may move, so it is finished, verified
//! and logged whether or not its caller still listens.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Config;
use crate::gateway::error::Outcome;
use crate::gateway::metrics::{Api, CallMetrics, Phase};
use crate::gateway::v2::V2Call;
use crate::gateway::{Gateway, VerifiedReply};
use crate::model::authorization::Source;
use crate::net::body::{self, BodyError, BoxError};
use crate::protocol::envelope::Verification;
use crate::protocol::params::name;
use crate::token::Tokens;

pub mod error;
pub(crate) mod front_door;
pub mod local_call;
pub mod metrics;
pub mod notify_url;
pub mod reply;
pub mod resolve;
mod story;

use error::{ErrorCode, ProxyError};
use local_call::{Action, LocalCall, Route, Target};
use metrics::{InFlight, ProxyMetrics};
use notify_url::{NotifyUrl, NotifyUrlRule};
use reply::Shape;
use resolve::{Credentials, Resolver};
use story::Story;

/// The method that hands out tokens: always called for the ISV itself, and its reply is stored.
const TOKEN_METHOD: &str = "alipay.open.auth.token.app";
/// How long a body may take to arrive.
const BODY_DEADLINE: Duration = Duration::from_secs(30);

/// The proxy. Clones share everything.
#[derive(Clone)]
pub struct Proxy {
    parts: Arc<ProxyParts>,
}

/// What a proxy is made of.
#[derive(Debug)]
pub struct ProxyParts {
    /// Finds credentials.
    pub resolver: Resolver,
    /// Calls Alipay.
    pub gateway: Gateway,
    /// Renews tokens, and stores those that replies hand out.
    pub tokens: Tokens,
    /// Where a `notify_url` may point.
    pub notify_urls: NotifyUrlRule,
    /// Sizes and deadlines.
    pub limits: Limits,
    /// Counts calls.
    pub metrics: ProxyMetrics,
    /// Times their phases.
    pub call_metrics: CallMetrics,
}

/// Sizes and deadlines of the proxy.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `Host` names besides loopback ones.
    pub allowed_hosts: Vec<String>,
    /// Slots for calls under way.
    pub in_flight: Arc<Semaphore>,
    /// How many slots there are.
    pub slots: u32,
    /// Largest JSON or form body, bytes.
    pub max_body: usize,
    /// Deadline of a call.
    pub timeout: Duration,
}

impl Limits {
    /// The limits of a configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let slots = u32::try_from(config.proxy.max_in_flight).unwrap_or(u32::MAX);
        Self {
            allowed_hosts: config.proxy.allowed_hosts.clone(),
            in_flight: Arc::new(Semaphore::new(config.proxy.max_in_flight)),
            slots,
            max_body: config.proxy.max_body,
            timeout: config.upstream.timeout,
        }
    }
}

impl Proxy {
    /// A proxy made of `parts`.
    #[must_use]
    pub fn new(parts: ProxyParts) -> Self {
        Self {
            parts: Arc::new(parts),
        }
    }

    /// Answers one request of a backend.
    ///
    /// # Cancel safety
    /// Safe: a call that was begun goes on without its caller.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let (head, body) = request.into_parts();
        let route = Route::of(head.uri.path());
        let shape = shape(&route.target);
        let mut story = Story::new(&head, &route);
        let request_id = story.request_id.clone();
        let answer = match self.admit(&head, &route, body).await {
            Ok(admitted) => {
                story.method = Some(admitted.call.method.clone());
                self.finish(admitted, route.target, story).await
            }
            Err(error) => {
                story.tell(&self.parts, None, Err(&error));
                Err(error)
            }
        };
        let mut response = answer.unwrap_or_else(|error| reply::error(&error, shape, &request_id));
        reply::identify(&mut response, &request_id);
        response
    }

    /// Makes one call in process, as `/v2/{method}` would.
    ///
    /// # Errors
    /// [`ProxyError`], as the routes answer it.
    ///
    /// # Cancel safety
    /// Safe: a call that was begun goes on.
    pub async fn call(&self, call: LocalCall) -> Result<VerifiedReply, ProxyError> {
        let slot = self.slot()?;
        let proxy = self.clone();
        let story = Story::internal(&call.method);
        let task = tokio::spawn(async move {
            let credentials = proxy.credentials(&call).await;
            let result = match credentials {
                Ok(credentials) => proxy.send(&call, credentials, Api::V2).await,
                Err(error) => Err(error),
            };
            story.tell(&proxy.parts, None, result.as_ref());
            drop(slot);
            result
        });
        task.await.unwrap_or_else(|_| Err(bug()))
    }

    /// Ends once no call is under way; from then on none is admitted.
    ///
    /// # Cancel safety
    /// Safe: dropping it admits calls again.
    pub async fn idle(&self) {
        let slots = self.parts.limits.slots;
        // The semaphore is never closed.
        let _ = self.parts.limits.in_flight.acquire_many(slots).await;
    }

    /// Front door, slot, body, local call: everything before the call itself.
    async fn admit<B>(&self, head: &Parts, route: &Route, body: B) -> Result<Admitted, ProxyError>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        front_door::check(head, &self.parts.limits.allowed_hosts)?;
        local_call::check_http_method(&route.target, &head.method)?;
        if matches!(route.target, Target::Unknown | Target::V3) {
            return Err(ProxyError::refused(
                ErrorCode::RouteUnknown,
                "there are `/gateway.do`, `/v2/{method}` and, before both, `/m/{selector}`",
            ));
        }
        let slot = self.slot()?;
        let body = body::read(body, self.parts.limits.max_body, BODY_DEADLINE).await?;
        let selector = route.selector.clone();
        let mut call = match &route.target {
            Target::V2 { method, .. } => LocalCall::from_v2(head, (selector, method), &body)?,
            _ => LocalCall::from_gateway(head, selector, &body)?,
        };
        self.check_notify_url(&mut call)?;
        Ok(Admitted {
            call,
            slot,
            in_flight: self.parts.metrics.begin(),
        })
    }

    /// The call itself, in a task that outlives its caller.
    async fn finish(
        &self,
        admitted: Admitted,
        target: Target,
        story: Story,
    ) -> Result<Response<Full<Bytes>>, ProxyError> {
        let (proxy, story) = (self.clone(), Arc::new(story));
        let told = Arc::clone(&story);
        let task = tokio::spawn(async move {
            let Admitted {
                call,
                slot,
                in_flight,
            } = admitted;
            let answer = proxy.answer(&call, &target, &told).await;
            drop((slot, in_flight));
            answer
        });
        task.await.unwrap_or_else(|_| {
            let error = bug();
            story.tell(&self.parts, None, Err(&error));
            Err(error)
        })
    }

    async fn answer(
        &self,
        call: &LocalCall,
        target: &Target,
        story: &Story,
    ) -> Result<Response<Full<Bytes>>, ProxyError> {
        let (api, action) = match target {
            Target::V2 { action, .. } => (Api::V2, *action),
            _ => (Api::Gateway, Action::Call),
        };
        let began = Instant::now();
        let credentials = self.credentials(call).await;
        self.parts
            .call_metrics
            .observe(api, Phase::Resolve, began.elapsed());
        let credentials = credentials.inspect_err(|e| story.tell(&self.parts, None, Err(e)))?;
        let known = credentials.clone();
        if action != Action::Call {
            let signed = self.sign(call, credentials, action).await;
            story.tell_signed(&self.parts, &known, signed.as_ref().err());
            return signed;
        }
        let result = self.send(call, credentials, api).await;
        story.tell(&self.parts, Some(&known), result.as_ref());
        self.parts
            .call_metrics
            .observe(api, Phase::Total, story.began.elapsed());
        match target {
            Target::V2 { .. } => reply::node(&result?),
            _ => Ok(reply::whole(&result?)),
        }
    }

    async fn credentials(&self, call: &LocalCall) -> Result<Credentials, ProxyError> {
        if call.method == TOKEN_METHOD {
            self.parts.resolver.resolve_own(&call.tags).await
        } else {
            self.parts.resolver.resolve(&call.tags).await
        }
    }

    async fn sign(
        &self,
        call: &LocalCall,
        credentials: Credentials,
        action: Action,
    ) -> Result<Response<Full<Bytes>>, ProxyError> {
        let v2 = self.v2_call(call, credentials, Api::V2);
        let signed = self.parts.gateway.sign(&v2).await;
        let signed = signed.map_err(|e| ProxyError::of_call(&call.method, &e))?;
        Ok(reply::signed(action, &signed, &v2.app.endpoints.gateway))
    }

    async fn send(
        &self,
        call: &LocalCall,
        credentials: Credentials,
        api: Api,
    ) -> Result<VerifiedReply, ProxyError> {
        let merchant = credentials.merchant.clone();
        let v2 = self.v2_call(call, credentials, api);
        let began = Instant::now();
        let remaining = || v2.timeout.saturating_sub(began.elapsed());
        let failed = |e| ProxyError::of_call(&call.method, &e);
        let reply = self.parts.gateway.call(&v2).await.map_err(failed)?;
        if call.method == TOKEN_METHOD {
            self.keep_tokens(&v2, &reply).await;
        }
        let (Some(merchant), true) = (merchant, says_token_timed_out(&reply)) else {
            return Ok(reply);
        };
        // Nothing was executed, and Alipay signed that: one refresh, one resend, both within the
        // deadline of the call. A refresh that takes longer goes on by itself.
        let refresh = self.parts.tokens.refresh(&merchant);
        match tokio::time::timeout(remaining(), refresh).await {
            Ok(Ok(renewed)) => {
                let again = V2Call {
                    app_auth_token: Some(renewed.token.app_auth_token),
                    timeout: remaining(),
                    ..v2
                };
                self.parts.gateway.call(&again).await.map_err(failed)
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, auth_app_id = %merchant.auth_app_id, "a timed-out token could not be refreshed");
                Ok(reply)
            }
            Err(_) => {
                tracing::warn!(auth_app_id = %merchant.auth_app_id, "a timed-out token was not refreshed within the deadline");
                Ok(reply)
            }
        }
    }

    /// Stores the tokens a reply hands out. A failure doesn't keep the reply from its caller: a
    /// code is good for one exchange, so that reply may be the only copy there will ever be.
    async fn keep_tokens(&self, call: &V2Call, reply: &VerifiedReply) {
        let verified = reply.envelope.verification() == Verification::Signed;
        if !verified || reply.envelope.code().is_some_and(|code| code != "10000") {
            return;
        }
        let source = match call.parameters.get(name::BIZ_CONTENT) {
            Some(text) if text.contains("\"refresh_token\"") => Source::Refresh,
            _ => Source::Callback,
        };
        let node = reply.envelope.node_text();
        let tokens = &self.parts.tokens;
        let kept = tokens.absorb(&call.app, node.as_bytes(), source).await;
        if let Err(error) = kept {
            tracing::error!(%error, app_id = %call.app.app_id, "tokens in a reply could not be stored");
        }
    }

    fn v2_call(&self, call: &LocalCall, credentials: Credentials, api: Api) -> V2Call {
        V2Call {
            app: credentials.app,
            app_auth_token: credentials.merchant.map(|m| m.token.app_auth_token),
            method: call.method.clone(),
            parameters: call.parameters.clone(),
            charset: call.charset.clone(),
            timeout: crate::gateway::deadline(self.parts.limits.timeout, call.timeout),
            api,
        }
    }

    fn check_notify_url(&self, call: &mut LocalCall) -> Result<(), ProxyError> {
        let Some(url) = call
            .parameters
            .get(name::NOTIFY_URL)
            .filter(|url| !url.is_empty())
        else {
            return Ok(());
        };
        let url = match self.parts.notify_urls.judge(url)? {
            NotifyUrl::Own(url) => url,
            NotifyUrl::Foreign(url) => {
                tracing::warn!(
                    method = call.method,
                    "a notify_url is neither ours nor allowed"
                );
                self.parts.metrics.count_foreign_notify_url();
                url
            }
        };
        call.parameters.set(name::NOTIFY_URL, url);
        Ok(())
    }

    fn slot(&self) -> Result<OwnedSemaphorePermit, ProxyError> {
        Arc::clone(&self.parts.limits.in_flight)
            .try_acquire_owned()
            .map_err(|_| {
                ProxyError::refused(
                    ErrorCode::Overloaded,
                    "`proxy.max_in_flight` calls are under way; try again in a second",
                )
            })
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proxy")
    }
}

/// A request that may be made.
struct Admitted {
    call: LocalCall,
    slot: OwnedSemaphorePermit,
    in_flight: InFlight,
}

fn shape(target: &Target) -> Shape {
    match target {
        Target::Gateway => Shape::Gateway,
        Target::V3 => Shape::V3,
        Target::Unknown | Target::V2 { .. } => Shape::Http,
    }
}

fn says_token_timed_out(reply: &VerifiedReply) -> bool {
    reply.envelope.verification() == Verification::Signed
        && reply.envelope.sub_code() == Some("aop.app-auth-token-time-out")
}

fn bug() -> ProxyError {
    ProxyError {
        outcome: Outcome::Unknown,
        ..ProxyError::refused(ErrorCode::Internal, "the call ended in a bug; see the log")
    }
}

impl From<BodyError> for ProxyError {
    fn from(error: BodyError) -> Self {
        let code = match error {
            BodyError::TooLarge(_) => ErrorCode::BodyTooLarge,
            BodyError::Broken(_) | BodyError::Timeout(_) => ErrorCode::BodyInvalid,
        };
        Self::refused(code, error.to_string())
    }
}
