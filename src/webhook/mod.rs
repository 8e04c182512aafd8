//! Alipay's calls to us: notifications, and the browsers of merchants and users.
//!
//! Invariants: nothing is stored, handed on or acted upon before its signature and `app_id` were
//! checked; `success` is said only after the commit; `notify_id`s are compared only behind the
//! signature, or a forged one would swallow the true one. (An SPI call is handed on at once and
//! never stored.)

#![warn(clippy::large_futures)]

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderName};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use tokio::sync::{Notify, Semaphore};

use crate::audit::Audit;
use crate::clock::Clock;
use crate::config::delivery::{AuthorizationDelivery, DeliveryConfig};
use crate::config::webhook::WebhookConfig;
use crate::delivery::ask::Asker;
use crate::gateway::app::Apps;
use crate::gateway::diagnosis::Diagnostics;
use crate::gateway::platform::CertificateSource;
use crate::model::id::EventIds;
use crate::net::body::{self, BoxError, Within};
use crate::net::client::Client;
use crate::net::head::{self, HeadFault};
use crate::net::listener::Peer;
use crate::net::room::Room;
use crate::net::shutdown::{Ending, Gate, Stage};
use crate::store::Store;
use crate::store::error::StoreError;
use crate::telemetry::span::Tracer;
use crate::token::Tokens;

mod allowance;
mod answer;
mod app_gateway;
mod auth_redirect;
mod bad_codes;
mod error;
mod following;
mod intake;
pub mod link;
mod long_refs;
pub mod metrics;
pub mod own_address;
mod pages;
mod quarantine;
mod receipt;
mod report;
pub mod reverify;
mod route;
mod second_body;
mod service_check;
mod shares;
mod spi;
pub mod state;
mod strangers;

use app_gateway::{Arrival, Origin};
use bad_codes::BadCodes;
use error::Refusal;
use link::Links;
use long_refs::LongRefs;
use metrics::{Browser, Kind, Outcome, WebhookMetrics};
use own_address::{OwnAddressView, OwnMessages};
use pages::Page;
use quarantine::Quarantine;
use receipt::Came;
use route::{Route, notification_route, route};
use state::StateKey;
use strangers::Strangers;

/// How much the bodies of all requests under way may take, bytes: anybody may send some.
const ROOM: usize = 64 << 20;
/// How many public networks have to come together to fill it, as with connections.
const NETWORKS: usize = 8;

/// What [`Webhook`] works with.
#[derive(Clone)]
pub struct WebhookParts {
    /// Told of every notification, call and authorisation.
    pub audit: Audit,
    /// The apps that notifications may be for.
    pub apps: Apps,
    /// Fetches platform certificates that notifications name and nobody knows yet.
    pub certificates: Arc<dyn CertificateSource>,
    /// Explains refused signatures in the log.
    pub diagnostics: Diagnostics,
    /// Where records and the inbox are kept.
    pub store: Arc<dyn Store>,
    /// Exchanges codes, asks about tokens.
    pub tokens: Tokens,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Counts notifications.
    pub metrics: WebhookMetrics,
    /// Makes the `state` of links.
    pub state_key: StateKey,
    /// Puts SPI calls to the backend.
    pub asker: Asker,
    /// Told when something became owed to the backend.
    pub wake: Arc<Notify>,
    /// From `Deaf` on everything is refused: Alipay sends again.
    pub ending: Ending,
    /// Records what is received for a collector of traces.
    pub tracer: Tracer,
}

/// Takes Alipay's calls. Clones share everything.
#[derive(Clone)]
pub struct Webhook(Arc<Inner>);

struct Inner {
    parts: WebhookParts,
    ids: Arc<EventIds>,
    /// What was refused, on its way into the store.
    quarantine: Quarantine,
    /// How much is made of what strangers send.
    strangers: Arc<Strangers>,
    /// How many bad codes we have Alipay refuse.
    bad_codes: Arc<BadCodes>,
    /// How many `ref`s we keep for whoever begins.
    long_refs: Arc<LongRefs>,
    /// Room for SPI calls that wait for the backend.
    spi_slots: Arc<Semaphore>,
    /// Who isn't answered yet.
    under_way: Gate,
    /// Where their bodies are.
    room: Room,
    /// What we sent to our own public address.
    own: Arc<OwnMessages>,
    settings: Settings,
}

/// The configuration, ready for use.
struct Settings {
    webhook: WebhookConfig,
    authorization: AuthorizationDelivery,
    high_water: u64,
    links: Links,
}

impl Webhook {
    /// A webhook that takes calls as configured.
    #[must_use]
    pub fn new(parts: WebhookParts, webhook: &WebhookConfig, delivery: &DeliveryConfig) -> Self {
        let settings = Settings::new(&parts, webhook, delivery);
        let quarantine = Quarantine::new(Arc::clone(&parts.store), parts.metrics.clone());
        Self(Arc::new(Inner {
            parts,
            quarantine,
            strangers: Arc::default(),
            bad_codes: Arc::default(),
            long_refs: Arc::default(),
            ids: Arc::new(EventIds::new()),
            spi_slots: Arc::new(spi::slots()),
            under_way: Gate::new(),
            room: room(webhook.max_body),
            own: Arc::default(),
            settings,
        }))
    }

    /// Has what is received from now on follow whatever the store holds, also where the clock was set
    /// back since: the deliveries of one order go by their ids.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn follow_on(&self) -> Result<(), StoreError> {
        let parts = &self.0.parts;
        let newest = following::newest_beyond(&*parts.store, parts.clock.now_ms()).await?;
        if let Some(newest) = newest {
            tracing::warn!("the inbox has notifications of a later time: the clock was set back");
            self.0.ids.follow(newest);
        }
        Ok(())
    }

    /// The same by another configuration: what was counted of strangers counts on, and requests
    /// under way are known to both.
    #[must_use]
    pub fn reconfigured(
        &self,
        parts: WebhookParts,
        webhook: &WebhookConfig,
        delivery: &DeliveryConfig,
    ) -> Self {
        let Self(former) = self;
        Self(Arc::new(Inner {
            settings: Settings::new(&parts, webhook, delivery),
            parts,
            quarantine: former.quarantine.clone(),
            strangers: Arc::clone(&former.strangers),
            bad_codes: Arc::clone(&former.bad_codes),
            long_refs: Arc::clone(&former.long_refs),
            ids: Arc::clone(&former.ids),
            spi_slots: Arc::clone(&former.spi_slots),
            under_way: former.under_way.clone(),
            room: former.room.unless(room(webhook.max_body)),
            own: Arc::clone(&former.own),
        }))
    }

    /// Makes authorisation links, as `/auth/start` does.
    #[must_use]
    pub fn links(&self) -> Links {
        self.0.settings.links.clone()
    }

    /// Sends messages to `webhook.public_url` and compares them with what comes in; nothing where
    /// that isn't set.
    ///
    /// # Cancel safety
    /// Safe: nothing is kept of them.
    pub async fn look_at_own_address(&self, client: &Client) -> Option<Vec<OwnAddressView>> {
        let settings = &self.0.settings;
        let public = settings.webhook.public_url.as_ref()?;
        let base = format!(
            "{}{}",
            public.trim_end_matches('/'),
            settings.webhook.base_path
        );
        Some(self.0.own.send_all(client, &base).await)
    }

    /// Makes what was refused until now durable, as far as it is kept. Nobody waits for that
    /// otherwise.
    ///
    /// # Cancel safety
    /// What was taken out of the queue and isn't committed yet may be lost.
    pub async fn flush(&self) {
        self.0.quarantine.flush().await;
    }

    /// Counts the requests that aren't answered yet.
    #[must_use]
    pub fn under_way(&self) -> &Gate {
        &self.0.under_way
    }

    /// Answers one request.
    ///
    /// # Cancel safety
    /// Safe: what wasn't acked Alipay sends again, what was committed is kept, and an exchange
    /// goes on by itself.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let _inside = self.0.under_way.enter();
        let settings = &self.0.settings;
        let (head, body) = request.into_parts();
        if let Some(own) = self.0.own.waits_for(&head) {
            return own.receive(&head, body).await;
        }
        let Some(route) = route(&settings.webhook, head.uri.path()) else {
            return answer::not_found();
        };
        // Looked at once inside: whoever waits for the last one then waits for this one.
        if self.0.parts.ending.stage() >= Stage::Deaf {
            return out_of_service(&route);
        }
        let answer = async {
            match check_clear(&head) {
                Err(fault) => self.unclear(&route, &head, fault),
                Ok(()) => self.answer(settings, &route, &head, body).await,
            }
        };
        let answer = AssertUnwindSafe(answer).catch_unwind().await;
        answer.unwrap_or_else(|_| self.broken(&route))
    }

    /// What is answered where a bug ended it, ours or of a part that a host handed in: Alipay sends
    /// again what wasn't acked. Nothing of the host's is asked here, because it would fail again.
    fn broken(&self, route: &Route<'_>) -> answer::Answer {
        let metrics = &self.0.parts.metrics;
        let kind = match route {
            Route::AuthCallback => Browser::Callback.as_str(),
            Route::AuthStart => Browser::Start.as_str(),
            Route::Notification(_) => "notification",
            Route::Spi(_) => Kind::Spi.as_str(),
        };
        let page = Page::Unavailable.as_str();
        match route {
            Route::AuthCallback => metrics.count_browser(Browser::Callback, page),
            Route::AuthStart => metrics.count_browser(Browser::Start, page),
            Route::Notification(_) => metrics.count(Kind::Other, Outcome::Unavailable),
            Route::Spi(_) => metrics.count(Kind::Spi, Outcome::Unavailable),
        }
        tracing::error!(
            kind,
            "a bug ended a request to the webhook; Alipay sends again what wasn't acked"
        );
        out_of_service(route)
    }

    /// What a head is answered that a server before us may have read in another way.
    fn unclear(&self, route: &Route<'_>, head: &Parts, fault: HeadFault) -> answer::Answer {
        let (refusal, sender) = (Refusal::Head(fault), sender(&head.extensions));
        match route {
            Route::Notification(_) => self.0.refuse(Kind::Other, &refusal, &sender),
            Route::Spi(_) => spi::refuse(&self.0, &refusal, &sender),
            Route::AuthCallback | Route::AuthStart if fault == HeadFault::TooLarge => {
                answer::fail(refusal.status())
            }
            Route::AuthCallback => {
                auth_redirect::refuse(&self.0, Browser::Callback, Page::Malformed)
            }
            Route::AuthStart => auth_redirect::refuse(&self.0, Browser::Start, Page::Malformed),
        }
    }

    async fn answer<B>(
        &self,
        settings: &Settings,
        route: &Route<'_>,
        head: &Parts,
        body: B,
    ) -> answer::Answer
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        match (route, head.method.clone()) {
            (Route::Notification(notify_path), Method::POST) => {
                self.notification(settings, notify_path, head, body).await
            }
            (Route::Spi(path), Method::GET | Method::POST) => {
                Box::pin(spi::receive(&self.0, settings, path, head, body)).await
            }
            (Route::AuthCallback, Method::GET) => {
                Box::pin(auth_redirect::callback(&self.0, settings, head)).await
            }
            (Route::AuthStart, Method::GET) => auth_redirect::start(&self.0, settings, head).await,
            (Route::Spi(_), _) => answer::method_not_allowed("GET, POST"),
            (Route::Notification(_), _) => answer::method_not_allowed("POST"),
            (Route::AuthCallback | Route::AuthStart, _) => answer::method_not_allowed("GET"),
        }
    }

    /// Reads a notification whole, and takes it.
    async fn notification<B>(
        &self,
        settings: &Settings,
        notify_path: &str,
        head: &Parts,
        body: B,
    ) -> answer::Answer
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let came = Came::by(head, notification_route(notify_path));
        let (limit, room) = (settings.webhook.max_body, self.0.room_of(head));
        let within = Within::of(&head.extensions);
        let read = body::read_into(body, limit, within, &room).await;
        let read = read.map_err(Refusal::from).and_then(|read| {
            refuse_encoded(&head.headers)?;
            Ok(read)
        });
        let sender = sender(&head.extensions);
        let (body, _held) = match read {
            Ok(read) => read,
            Err(refusal) => return self.0.refuse(Kind::Other, &refusal, &sender),
        };
        let arrival = Arrival {
            notify_path: notify_path.to_owned(),
            notify_query: head.uri.query().unwrap_or_default().to_owned(),
            content_type: text(&head.headers, CONTENT_TYPE),
            body,
            now: self.0.parts.clock.now_ms(),
            origin: Origin::Sender(sender),
            came,
        };
        app_gateway::receive(&self.0, settings, &arrival).await
    }
}

impl Inner {
    /// Where the body of a request may be.
    fn room_of(&self, head: &Parts) -> Room {
        self.room.of(head.extensions.get().copied())
    }
}

impl Settings {
    fn new(parts: &WebhookParts, webhook: &WebhookConfig, delivery: &DeliveryConfig) -> Self {
        Self {
            links: Links::new(
                parts.state_key.clone(),
                Arc::clone(&parts.store),
                Arc::clone(&parts.clock),
                webhook,
            ),
            webhook: webhook.clone(),
            authorization: delivery.authorization,
            high_water: delivery.high_water,
        }
    }
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Webhook")
    }
}

/// The answer once nothing more is taken: Alipay sends again, a browser is told so.
fn out_of_service(route: &Route<'_>) -> answer::Answer {
    match route {
        Route::Notification(_) | Route::Spi(_) => {
            let mut answer = answer::fail(StatusCode::SERVICE_UNAVAILABLE);
            answer::retry_after(&mut answer, 1);
            answer
        }
        Route::AuthCallback | Route::AuthStart => Page::Unavailable.answer(),
    }
}

/// Refuses what a server before us may have read in another way. `Host` is of no matter here but
/// that there be one, where our own listener took the request over TCP.
fn check_clear(head: &Parts) -> Result<(), HeadFault> {
    let is_tcp = matches!(head.extensions.get(), Some(Peer::Tcp(_)));
    match head::check(head, &[]) {
        Err(HeadFault::Host | HeadFault::Target) if !is_tcp => Ok(()),
        other => other,
    }
}

/// Alipay encodes nothing; what is signed wouldn't be what came.
fn refuse_encoded(headers: &HeaderMap) -> Result<(), Refusal> {
    match text(headers, CONTENT_ENCODING) {
        Some(encoding) if !encoding.eq_ignore_ascii_case("identity") => Err(Refusal::Encoded),
        _ => Ok(()),
    }
}

/// The room for bodies, of which the share of one network is enough for the largest.
fn room(max_body: usize) -> Room {
    let bytes = ROOM.max(max_body);
    Room::new(bytes).shared((bytes / NETWORKS).max(max_body))
}

/// Who sent it: an address without its port. A host's own server may not tell.
fn sender(extensions: &http::Extensions) -> String {
    match extensions.get::<Peer>() {
        Some(Peer::Tcp(address)) => address.ip().to_canonical().to_string(),
        Some(Peer::Unix { .. }) => "unix".to_owned(),
        None => "unknown".to_owned(),
    }
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.to_owned())
}
