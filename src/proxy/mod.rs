//! A backend's unsigned request in, Alipay's verified reply out.
//!
//! [`Proxy::handle`] reads as front door → local call → credentials → call → reply. From the
//! credentials on, the call runs in a task of its own: money may move, so it is finished, verified
//! and logged whether or not its caller still listens.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Body;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Config;
use crate::gateway::error::Outcome;
use crate::gateway::metrics::CallMetrics;
use crate::gateway::{Gateway, VerifiedReply};
use crate::net::body::{self, BodyError, BoxError, Held, Room, RoomError, Within};
use crate::net::shutdown::{Ending, Gate, Inside, Stage};
use crate::protocol::charset::Charset;
use crate::protocol::params::name;
use crate::protocol::signature::SignType;
use crate::token::Tokens;

mod call;
mod call_lookup;
mod call_metrics;
pub mod calls;
mod check;
mod client_data;
pub mod error;
pub mod events;
pub(crate) mod front_door;
pub mod local_call;
pub mod logins;
pub mod metrics;
pub mod notify_url;
pub(crate) mod parameters;
pub mod reply;
pub mod reply_signature;
pub mod resolve;
mod route;
mod second_try;
mod story;
mod upload;
mod users;
mod v3;

use call::{Answer, Wanted};
use calls::CallRecords;
use error::{ErrorCode, ProxyError};
use events::Events;
use local_call::{LocalCall, Sent};
use logins::Logins;
use metrics::{InFlight, ProxyMetrics};
use notify_url::{NotifyUrl, NotifyUrlRule};
use reply::Shape;
use reply_signature::{Place, ReplySigner};
use resolve::Resolver;
use route::{Action, Route, Target};
use story::Story;
use upload::UploadLimits;
use v3::LocalV3Call;

/// How much the bodies of all calls under way may take, bytes; files of uploads beyond what stays
/// in memory of them don't count.
const ROOM: usize = 64 << 20;

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
    /// Signs replies anew; `None`: they carry Alipay's signature.
    pub reply_signer: Option<ReplySigner>,
    /// What became of calls.
    pub calls: CallRecords,
    /// The logins under way.
    pub logins: Logins,
    /// What backends pull.
    pub events: Events,
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
    /// Counts who holds one.
    pub calls: Gate,
    /// Largest JSON or form body, bytes.
    pub max_body: usize,
    /// Largest multipart body, bytes.
    pub max_upload: u64,
    /// Where bodies are while their calls are under way.
    pub room: Room,
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
            in_flight: Arc::new(Semaphore::new(config.proxy.max_in_flight)),
            calls: Gate::new(),
            max_body: config.proxy.max_body,
            max_upload: config.proxy.max_upload,
            room: Room::new(ROOM.max(config.proxy.max_body)),
            timeout: config.upstream.timeout,
            ending,
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
        if matches!(route.target, Target::Check(_)) {
            return self.check(&head, route, body).await;
        }
        if let Target::Calls { id } = &route.target {
            return self.look_up_call(&head, &route, id).await;
        }
        if let Target::Events(event) = &route.target {
            return self.events(&head, (&route, event), body).await;
        }
        let mut story = Story::new(&head, &route);
        let back = Back {
            shape: shape(&route.target),
            request_id: story.request_id.clone(),
            sign_type: SignType::Rsa2,
        };
        let admitted = self.admit(&head, &route, body).await;
        let mut response = match admitted {
            Ok(admitted) => {
                story.method = Some(admitted.call.method());
                let wanted = Wanted::on(&route.target);
                self.finish_for(admitted, wanted, story, &back).await
            }
            Err(error) => {
                let error = story.refused(&self.parts, error);
                self.tell(&error, &back, Place::IfFree).await
            }
        };
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
        let story = Story::internal(&call.method);
        let slot = self
            .place()
            .and_then(|place| self.slot(place, Held::default()));
        let admitted = slot.and_then(|slot| self.admitted(call, slot));
        let answer = match admitted {
            Ok(admitted) => {
                let as_it_is = |_, answer| std::future::ready(answer);
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

    /// How many calls are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.parts.limits.calls.inside()
    }

    /// Front door, slot, body, local call: everything before the call itself.
    async fn admit<B>(&self, head: &Parts, route: &Route, body: B) -> Result<Admitted, ProxyError>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        front_door::check(head, &self.parts.limits.allowed_hosts)?;
        route::check_http_method(&route.target, &head.method)?;
        if route.target == Target::Unknown {
            return Err(ProxyError::refused(
                ErrorCode::RouteUnknown,
                "there are `/gateway.do`, `/v2/{method}`, `/v2/client-data/decrypt`, `/v3/…`, `/verify/return`, `/verify/app-result`, before each of them `/m/{selector}`, and `/calls/{request_id}`, `/events/claim`, `/events/{id}/ack`, `nack` and `extend`",
            ));
        }
        let place = self.place()?;
        let (sent, held) = self.read(head, &route.target, body).await?;
        let slot = self.slot(place, held)?;
        let selector = route.selector.clone();
        let call = match &route.target {
            Target::V2 { method, .. } => LocalCall::from_v2(head, (selector, method), sent)?,
            Target::V3 { path } => {
                let call = LocalV3Call::read(head, (selector, path), sent)?;
                return Ok(self.ready(Call::V3(Box::new(call)), slot));
            }
            _ => LocalCall::from_gateway(head, selector, sent)?,
        };
        let is_sent =
            !matches!(&route.target, Target::V2 { action, .. } if *action != Action::Call);
        if !is_sent && !call.files.is_empty() {
            return Err(ProxyError::refused(
                ErrorCode::BodyInvalid,
                "files can only be sent; a signed string, URL or form has no place for them",
            ));
        }
        self.admitted(call, slot)
    }

    async fn read<B>(
        &self,
        head: &Parts,
        target: &Target,
        body: B,
    ) -> Result<(Sent, Held), ProxyError>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let limits = &self.parts.limits;
        let deadline = Within::of(&head.extensions);
        if upload::is_multipart(&head.headers) {
            let limits = UploadLimits {
                whole: limits.max_upload,
                text: limits.max_body,
                room: limits.room.clone(),
                deadline,
            };
            // Every part is written in it, so it is known before the first is read.
            let charset = match target {
                Target::Gateway => {
                    let query = head.uri.query().unwrap_or_default().as_bytes();
                    parameters::charset(query, &[])?.charset()
                }
                _ => Charset::Utf8,
            };
            let (upload, held) = upload::read(&head.headers, charset, body, limits).await?;
            return Ok((Sent::Upload(upload), held));
        }
        let (body, held) = body::read_into(body, limits.max_body, deadline, &limits.room).await?;
        Ok((Sent::Plain(body), held))
    }

    /// The last checks of a call, whichever way it came.
    fn admitted(&self, mut call: LocalCall, slot: Slot) -> Result<Admitted, ProxyError> {
        self.check_notify_url(&mut call)?;
        Ok(self.ready(Call::V2(Box::new(call)), slot))
    }

    fn ready(&self, call: Call, slot: Slot) -> Admitted {
        Admitted {
            call,
            slot,
            in_flight: self.parts.metrics.begin(),
        }
    }

    /// The call itself, and its answer laid out and signed while it still holds its slot.
    async fn finish_for(
        &self,
        admitted: Admitted,
        wanted: Wanted,
        story: Story,
        back: &Back,
    ) -> Response<Full<Bytes>> {
        let mut to = back.clone();
        to.sign_type = admitted.call.sign_type().unwrap_or(to.sign_type);
        let respond = move |proxy: Self, answer| async move { proxy.respond(answer, &to).await };
        match self.finish(admitted, wanted, story, respond).await {
            Ok(response) => response,
            Err(error) => self.tell(&error, back, Place::IfFree).await,
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

    /// The call itself, in a task that outlives its caller, and `end` made of its answer while it
    /// still holds its slot.
    ///
    /// # Errors
    /// A bug ended it.
    async fn finish<T, F>(
        &self,
        admitted: Admitted,
        wanted: Wanted,
        story: Story,
        end: impl FnOnce(Self, Result<Answer, ProxyError>) -> F + Send + 'static,
    ) -> Result<T, ProxyError>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send,
    {
        let (proxy, story) = (self.clone(), Arc::new(story));
        let told = Arc::clone(&story);
        let task = tokio::spawn(async move {
            let Admitted {
                call,
                slot,
                in_flight,
            } = admitted;
            let answer = match &call {
                Call::V2(call) => call::make(&proxy.parts, call, wanted, &told).await,
                Call::V3(call) => v3::make(&proxy.parts, call, &told).await,
            };
            let ended = end(proxy, answer).await;
            drop((slot, in_flight));
            ended
        });
        task.await.map_err(|_| story.refused(&self.parts, bug()))
    }

    fn check_notify_url(&self, call: &mut LocalCall) -> Result<(), ProxyError> {
        let given = call.parameters.get(name::NOTIFY_URL);
        let Some(url) = given.filter(|url| !url.is_empty()) else {
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

    /// Where a request is counted from its head on: whoever waits for the last one waits for it,
    /// too. It is refused at once where its call couldn't be made.
    fn place(&self) -> Result<Inside, ProxyError> {
        let limits = &self.parts.limits;
        let inside = limits.calls.enter();
        // Looked at once inside: whoever waits for the last one then waits for this one.
        if limits.ending.stage() >= Stage::Deaf {
            return Err(overloaded(OUT_OF_SERVICE));
        }
        match limits.in_flight.available_permits() {
            0 => Err(overloaded(TOO_MANY)),
            _ => Ok(inside),
        }
    }

    /// The right to make a call, taken once its body is there: a body that doesn't come must not
    /// keep others from theirs.
    fn slot(&self, place: Inside, held: Held) -> Result<Slot, ProxyError> {
        let permit = Arc::clone(&self.parts.limits.in_flight).try_acquire_owned();
        Ok(Slot {
            _permit: permit.map_err(|_| overloaded(TOO_MANY))?,
            _place: place,
            _held: held,
        })
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
    /// By which algorithm the caller verifies an error; RSA2 while that isn't known.
    sign_type: SignType,
}

/// A request that may be made.
struct Admitted {
    call: Call,
    slot: Slot,
    in_flight: InFlight,
}

/// The place of a call, counted until the call has ended, and the room that its body takes.
struct Slot {
    _permit: OwnedSemaphorePermit,
    _place: Inside,
    _held: Held,
}

/// What is called, in either dialect.
enum Call {
    V2(Box<LocalCall>),
    V3(Box<LocalV3Call>),
}

impl Call {
    /// Alipay's name of it, for the log.
    fn method(&self) -> String {
        match self {
            Self::V2(call) => call.method.clone(),
            Self::V3(call) => call.method(),
        }
    }

    /// The algorithm that its caller names.
    fn sign_type(&self) -> Option<SignType> {
        match self {
            Self::V2(call) => call.sign_type,
            Self::V3(_) => None,
        }
    }
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
            RoomError::Full => overloaded(
                "the bodies of calls under way take all the room there is; try again in a second",
            ),
        }
    }
}
