//! A backend's unsigned request in, Alipay's verified reply out.
//!
//! [`Proxy::handle`] reads as front door → local call → credentials → call → reply. From the
//! credentials on, nothing breaks the call off: money may move, so it is finished, verified and
//! logged whether or not its caller still listens.

#![warn(clippy::large_futures)]

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Body;

use crate::audit::Audit;
use crate::gateway::metrics::CallMetrics;
use crate::gateway::{Gateway, VerifiedReply};
use crate::model::call::CallId;
use crate::net::body::BoxError;
use crate::net::room::Held;
use crate::protocol::signature::SignType;
use crate::telemetry::span::Tracer;
use crate::token::Tokens;

mod admission;
mod advice;
mod call;
mod call_lookup;
mod call_metrics;
pub mod caller;
pub mod calls;
mod certificate_download;
mod check;
mod client_data;
mod due_sign_type;
pub mod error;
pub mod events;
mod finish;
pub(crate) mod front_door;
mod grant;
mod limits;
pub mod local_call;
pub mod logins;
pub mod metrics;
pub mod notify_url;
pub(crate) mod parameters;
mod places;
pub mod reply;
pub mod reply_signature;
pub mod resolve;
mod route;
mod second_try;
mod slots;
mod story;
mod upload;
mod users;
mod v3;

use admission::{Admitted, Call};
use call::{Answer, Wanted};
use caller::{Callers, Who};
use calls::CallRecords;
use error::{ProxyError, bug, caught};
use events::Events;
use finish::PolledBy;
pub use limits::Limits;
use local_call::LocalCall;
use logins::Logins;
use metrics::ProxyMetrics;
use notify_url::NotifyUrlRule;
use reply::Shape;
use reply_signature::{Place, ReplySigner};
use resolve::Resolver;
use route::{Route, Target};
pub use slots::Slots;
use story::Story;

/// The proxy. Clones share everything.
#[derive(Clone)]
pub struct Proxy {
    parts: Arc<ProxyParts>,
    polled_by: PolledBy,
}

/// What a proxy is made of.
#[derive(Debug, Clone)]
pub struct ProxyParts {
    /// Who may call, and what each.
    pub callers: Callers,
    /// Told of every call.
    pub audit: Audit,
    /// Finds credentials.
    pub resolver: Resolver,
    /// Calls Alipay.
    pub gateway: Gateway,
    /// Renews tokens, and stores those that replies hand out.
    pub tokens: Tokens,
    /// Where a `notify_url` may point.
    pub notify_urls: NotifyUrlRule,
    /// Signs replies anew; `None`: they carry Alipay's signature.
    pub reply_signer: Option<ReplySigner>,
    /// What became of calls.
    pub calls: CallRecords,
    /// The logins under way.
    pub logins: Logins,
    /// What backends pull.
    pub events: Arc<Events>,
    /// Sizes and deadlines.
    pub limits: Limits,
    /// Counts calls.
    pub metrics: ProxyMetrics,
    /// Times their phases.
    pub call_metrics: CallMetrics,
    /// Records calls for a collector of traces.
    pub tracer: Tracer,
}

impl Proxy {
    /// A proxy made of `parts`.
    #[must_use]
    pub fn new(parts: ProxyParts) -> Self {
        Self {
            parts: Arc::new(parts),
            polled_by: PolledBy::Anybody,
        }
    }

    /// The same for connections of ours, which poll an answer until it is there, or drop it.
    pub(crate) fn on_connections(&self) -> Self {
        Self {
            polled_by: PolledBy::Connection,
            ..self.clone()
        }
    }

    /// What it is made of.
    #[must_use]
    pub fn parts(&self) -> &ProxyParts {
        &self.parts
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
        let answer = AssertUnwindSafe(self.answer((head, route), body))
            .catch_unwind()
            .await;
        answer.unwrap_or_else(|_| broken(shape))
    }

    async fn answer<B>(&self, (head, route): (Parts, Route), body: B) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        if matches!(route.target, Target::Check(_)) {
            return Box::pin(self.check(&head, route, body)).await;
        }
        if let Target::Calls { id } = &route.target {
            return self.look_up_call(&head, &route, id).await;
        }
        if let Target::Events(event) = &route.target {
            return Box::pin(self.events(&head, (&route, event), body)).await;
        }
        let mut story = Story::new(&head, &route).recorded(&self.parts.tracer, &head, &route);
        let span = story.span.clone();
        let mut back = Back {
            shape: shape(&route.target),
            request_id: story.request_id.clone(),
            sign_type: SignType::Rsa2,
        };
        if self.signs_anew(&route.target) {
            story.due.read_head(&self.parts.resolver, &head);
        }
        let admitted = caught(self.admit(&head, (&route, &mut story), body)).await;
        let mut response = match admitted {
            Ok(admitted) => {
                let wanted = Wanted::on(&route.target);
                self.finish_for(admitted, wanted, story, &back).await
            }
            Err(error) => {
                let error = story.refused(&self.parts, error);
                back.sign_type = story.due.get();
                self.tell(&error, &back, Place::IfFree).await
            }
        };
        span.set_status(response.status().as_u16());
        reply::identify(&mut response, &back.request_id);
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
        self.call_as(CallId::generate(), call).await
    }

    /// The same under this id, of which there is no other: by it the call can be asked for.
    ///
    /// # Errors
    /// As [`Self::call`].
    ///
    /// # Cancel safety
    /// As [`Self::call`].
    pub async fn call_as(
        &self,
        request_id: CallId,
        call: LocalCall,
    ) -> Result<VerifiedReply, ProxyError> {
        let story = Story::internal(request_id, &call.method, &self.parts.tracer);
        let place = self.place();
        let slot = place.and_then(|place| self.slot(place, Held::default()));
        let admitted = slot.and_then(|slot| {
            let (call, who) = (Call::V2(Box::new(call)), Who::Anyone);
            self.admitted(call, (who, None), slot)
        });
        let answer = match admitted {
            Ok(admitted) => {
                let as_it_is = |_, answer, _| std::future::ready(answer);
                let story = (Arc::new(story), PolledBy::Anybody);
                let finished = self.finish(admitted, Wanted::NODE, story, as_it_is);
                finished.await.unwrap_or_else(Err)
            }
            Err(error) => Err(story.refused(&self.parts, error)),
        };
        match answer? {
            Answer::Reply(reply, _) => Ok(*reply),
            Answer::Signed { .. } | Answer::V3(_) => Err(bug()),
        }
    }

    /// Ends once no call and no request for events is under way, whether or not anybody waits for
    /// its reply, and what became of all is written. Refuse further ones before, or it might never
    /// end.
    ///
    /// # Cancel safety
    /// Safe: it only watches.
    pub async fn idle(&self) {
        self.parts.limits.calls.emptied().await;
        self.parts.events.under_way().emptied().await;
        self.written().await;
    }

    /// Whether what goes back on a route carries a signature of ours, whose algorithm its caller chooses.
    fn signs_anew(&self, target: &Target) -> bool {
        self.parts.reply_signer.is_some() && *target == Target::Gateway
    }

    /// How many calls are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.parts.limits.calls.inside()
    }

    /// The call itself, and its answer laid out and signed while it still holds its slot.
    async fn finish_for(
        &self,
        admitted: Admitted,
        wanted: Wanted,
        story: Story,
        back: &Back,
    ) -> Response<Full<Bytes>> {
        let (mut to, mut late) = (back.clone(), back.clone());
        let story = Arc::new(story);
        let so_far = Arc::clone(&story);
        // Its caller may be gone by then.
        let span = story.span.clone();
        let respond = move |proxy: Self, answer, story: Arc<Story>| async move {
            to.sign_type = story.due.get();
            let response = proxy.respond(answer, &to).await;
            span.set_status(response.status().as_u16());
            response
        };
        let story = (story, self.polled_by);
        match self.finish(admitted, wanted, story, respond).await {
            Ok(response) => response,
            Err(error) => {
                // The call that goes on has told whose it is, where that was found.
                late.sign_type = so_far.due.get();
                self.tell(&error, &late, Place::IfFree).await
            }
        }
    }

    async fn respond(
        &self,
        answer: Result<Answer, ProxyError>,
        back: &Back,
    ) -> Response<Full<Bytes>> {
        let response = match (answer, &self.parts.reply_signer) {
            (Ok(answer), None) => Ok(answer.respond(back.shape)),
            (Ok(answer), Some(signer)) => answer.respond_signed(back.shape, signer).await,
            (Err(error), _) => Err(error),
        };
        match response {
            Ok(response) => response,
            Err(error) => self.tell(&error, back, Place::Held).await,
        }
    }

    /// An error, laid out and, where that is configured and there is a place, signed.
    async fn tell(&self, error: &ProxyError, back: &Back, place: Place) -> Response<Full<Bytes>> {
        let mut response = reply::error(error, back.shape, &back.request_id);
        if let Some(signer) = &self.parts.reply_signer {
            let form = (back.shape, back.sign_type);
            signer.error(&mut response, error, form, place).await;
        }
        response
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proxy")
    }
}

/// How an answer goes back.
#[derive(Debug, Clone)]
struct Back {
    shape: Shape,
    request_id: String,
    /// By which algorithm the caller verifies an error.
    sign_type: SignType,
}

/// What is answered where a bug ended even the telling of one.
fn broken(shape: Shape) -> Response<Full<Bytes>> {
    let request_id = uuid::Uuid::now_v7().to_string();
    tracing::error!(request_id, "a bug ended a request; what it did isn't known");
    let mut response = reply::error(&bug(), shape, &request_id);
    reply::identify(&mut response, &request_id);
    response
}

fn shape(target: &Target) -> Shape {
    match target {
        Target::Gateway => Shape::Gateway,
        Target::V3 { .. } => Shape::V3,
        Target::Calls { .. }
        | Target::Check(_)
        | Target::Events(_)
        | Target::Unknown
        | Target::V2 { .. } => Shape::Http,
    }
}
