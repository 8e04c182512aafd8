//! A backend's unsigned request in, Alipay's verified reply out.
//!
//! [`Proxy::handle`] reads as front door → local call → credentials → call → reply. From the
//! credentials on, nothing breaks the call off: money may move, so it is finished, verified and
//! logged whether or not its caller still listens.

#![warn(clippy::large_futures)]

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Body;

use crate::audit::Audit;
use crate::config::Config;
use crate::gateway::error::Outcome;
use crate::gateway::metrics::CallMetrics;
use crate::gateway::{Gateway, VerifiedReply};
use crate::net::body::{BodyError, BoxError, RoomError};
use crate::net::room::{Held, Room};
use crate::net::shutdown::{Ending, Gate};
use crate::protocol::signature::SignType;
use crate::telemetry::span::Tracer;
use crate::token::Tokens;
use crate::unbroken::unbroken;

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
pub(crate) mod front_door;
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
use error::{ErrorCode, ProxyError};
use events::Events;
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

/// How much the bodies of all calls under way may take, bytes; files of uploads beyond what stays
/// in memory of them don't count.
const ROOM: usize = 64 << 20;
/// How much of that all uploads together may hold of their files, beyond what each may in any case:
/// what is in no file need not be written, read and removed.
const SPARE: usize = 4 << 20;

/// The proxy. Clones share everything.
#[derive(Clone)]
pub struct Proxy {
    parts: Arc<ProxyParts>,
    polled_by: PolledBy,
}

/// Who polls what answers a request.
#[derive(Clone, Copy)]
enum PolledBy {
    /// A connection of ours, until there is an answer or nobody wants it: a call is made there.
    Connection,
    /// A host, who may keep it and not poll it: a call has a task of its own.
    Anybody,
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

/// Sizes and deadlines of the proxy.
#[derive(Debug, Clone)]
pub struct Limits {
    /// `Host` names besides loopback ones.
    pub allowed_hosts: Vec<String>,
    /// Slots for calls under way,
    pub in_flight: Slots,
    /// and how many there are.
    pub max_in_flight: usize,
    /// Counts who holds one.
    pub calls: Gate,
    /// Largest JSON or form body, bytes.
    pub max_body: usize,
    /// Largest multipart body, bytes.
    pub max_upload: u64,
    /// Where bodies are while their calls are under way.
    pub room: Room,
    /// Where files of uploads may be that are too large to stay in memory whatever others hold.
    pub spare: Room,
    /// Deadline of a call.
    pub timeout: Duration,
    /// From `Deaf` on no further call is admitted.
    pub ending: Ending,
}

impl Limits {
    /// The limits of a configuration, until `ending` is `Deaf`.
    #[must_use]
    pub fn new(config: &Config, ending: Ending) -> Self {
        Self {
            allowed_hosts: config.proxy.allowed_hosts.clone(),
            in_flight: Slots::default(),
            max_in_flight: config.proxy.max_in_flight,
            calls: Gate::new(),
            max_body: config.proxy.max_body,
            max_upload: config.proxy.max_upload,
            room: Room::new(ROOM.max(config.proxy.max_body)),
            spare: Room::new(SPARE),
            timeout: config.upstream.timeout,
            ending,
        }
    }

    /// The limits of another configuration for the same calls: those under way count on.
    #[must_use]
    pub fn reconfigured(&self, config: &Config) -> Self {
        Self {
            in_flight: self.in_flight.clone(),
            calls: self.calls.clone(),
            room: self.room.unless(Room::new(ROOM.max(config.proxy.max_body))),
            spare: self.spare.clone(),
            ..Self::new(config, self.ending.clone())
        }
    }
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
        let admitted = self.admit(&head, (&route, &mut story), body).await;
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
        let story = Story::internal(&call.method, &self.parts.tracer);
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

    /// The call itself, which goes on when its caller goes, and `end` made of its answer while it
    /// still holds its slot.
    ///
    /// # Errors
    /// A bug ended it, or its caller's patience.
    async fn finish<T, F>(
        &self,
        admitted: Admitted,
        wanted: Wanted,
        (story, polled_by): (Arc<Story>, PolledBy),
        end: impl FnOnce(Self, Result<Answer, ProxyError>, Arc<Story>) -> F + Send + 'static,
    ) -> Result<T, ProxyError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send,
    {
        let proxy = self.clone();
        let (parts, told) = (Arc::clone(&self.parts), Arc::clone(&story));
        let mut admitted = admitted;
        let keeps_users = self.parts.tokens.users().are_kept();
        let patience = admitted.call.take_patience(keeps_users);
        // Boxed here: on its way it would be copied several times.
        let call = Box::pin(async move {
            let Admitted {
                call,
                who,
                known,
                slot,
                in_flight,
            } = admitted;
            let answer = match (&call, known) {
                (Call::V2(call), Some(reply)) => {
                    Ok(call::tell_known(&proxy.parts, call, *reply, &told))
                }
                (Call::V2(call), None) => {
                    call::make(&proxy.parts, (call, &who), wanted, &told).await
                }
                (Call::V3(call), _) => v3::make(&proxy.parts, call, &who, &told).await,
            };
            let ended = end(proxy, answer, told).await;
            drop((slot, in_flight));
            ended
        });
        // What a bug ended is told, whether or not anybody waits.
        let call = async move {
            let ended = AssertUnwindSafe(call).catch_unwind().await;
            ended.map_err(|_| story.broken(&parts, bug()))
        };
        match polled_by {
            PolledBy::Connection => within(patience, unbroken(call)).await,
            PolledBy::Anybody => {
                let task = tokio::spawn(call);
                // It has no bug, so the runtime ends.
                let done = async { task.await.unwrap_or_else(|_| Err(bug())) };
                within(patience, done).await
            }
        }
    }
}

/// Why nothing more is begun.
const OUT_OF_SERVICE: &str =
    "the sidecar was taken out of service or stops; ask another one, or again in a second";

/// Why one more isn't begun.
const TOO_MANY: &str = "`proxy.max_in_flight` calls are under way; try again in a second";

fn overloaded(detail: &str) -> ProxyError {
    ProxyError::refused(ErrorCode::Overloaded, detail)
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

fn bug() -> ProxyError {
    ProxyError {
        outcome: Outcome::Unknown,
        ..ProxyError::refused(ErrorCode::Internal, "the call ended in a bug; see the log")
    }
}

/// What `call` gives, unless that takes longer than its caller waits.
async fn within<T>(
    patience: Option<Duration>,
    call: impl Future<Output = Result<T, ProxyError>>,
) -> Result<T, ProxyError> {
    match patience {
        None => call.await,
        Some(patience) => match tokio::time::timeout(patience, call).await {
            Ok(done) => done,
            Err(_) => Err(goes_on(patience)),
        },
    }
}

/// What is said to a caller who doesn't wait for tokens as long as the sidecar does.
fn goes_on(patience: Duration) -> ProxyError {
    let detail = format!(
        "Alipay didn't answer within {patience:?}, the caller's own deadline (`Alipay-Timeout`); the call \
         goes on, and the tokens that it brings are stored"
    );
    ProxyError {
        outcome: Outcome::Unknown,
        ..ProxyError::refused(ErrorCode::UpstreamTimeout, detail)
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
