//! `/events`: notifications pulled by a backend, instead of pushed to it.
//!
//! They take no slot of `proxy.max_in_flight`: a claim that waits must never be in the way of a
//! call.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::body::Body;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::value;
use crate::delivery::pull::{Claim, PullError, Pulled, Puller};
use crate::model::id::EventId;
use crate::net::body::{self, BoxError, Within};
use crate::net::hang_up::Watch;
use crate::net::shutdown::{Gate, Stage};
use crate::proxy::caller::Who;
use crate::proxy::error::{ErrorCode, ProxyError, caught, overloaded};
use crate::proxy::limits::OUT_OF_SERVICE;
use crate::proxy::places::Places;
use crate::proxy::reply::{self, Shape};
use crate::proxy::route::{self, Route};
use crate::proxy::story::{EventsDone, Story};
use crate::proxy::{Proxy, upload, users};
use crate::store::error::StoreError;

/// The largest body of these requests, bytes: a few short members.
const MAX_BODY: usize = 64 << 10;

/// How many events one claim gives at most, and unless it says so.
const MAX: (u64, u64) = (100, 10);
/// How long a lease is at least, at most (no delivery is put off for longer), and unless it is said.
const LEASE: Span = Span {
    name: "lease",
    least: (Duration::from_secs(1), "1s"),
    most: (Duration::from_hours(1), "1h"),
    default: Duration::from_secs(30),
};
/// How long a claim waits; longer ones meet the idle limits of what stands between.
const WAIT: Span = Span {
    name: "wait",
    least: (Duration::ZERO, "0s"),
    most: (Duration::from_secs(60), "60s"),
    default: Duration::ZERO,
};

/// What an `/events` route does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// `/events/{id}/ack`.
    Ack(String),
    /// `/events/claim`.
    Claim,
    /// `/events/{id}/extend`.
    Extend(String),
    /// `/events/{id}/nack`.
    Nack(String),
}

impl Event {
    /// The route of what follows `/events/`.
    pub(crate) fn of(rest: &str) -> Option<Self> {
        if rest == "claim" {
            return Some(Self::Claim);
        }
        let (id, verb) = rest.split_once('/')?;
        let id = id.to_owned();
        match verb {
            "ack" => Some(Self::Ack(id)),
            "extend" => Some(Self::Extend(id)),
            "nack" => Some(Self::Nack(id)),
            _ => None,
        }
    }
}

impl Event {
    /// What it does, and to which event.
    fn named(&self) -> (&'static str, Option<&str>) {
        match self {
            Self::Ack(id) => ("ack", Some(id)),
            Self::Claim => ("claim", None),
            Self::Extend(id) => ("extend", Some(id)),
            Self::Nack(id) => ("nack", Some(id)),
        }
    }
}

/// The inbox as backends pull it, and how many may.
#[derive(Debug)]
pub struct Events {
    puller: Puller,
    places: Places,
    /// Who changes leases, or waits to.
    under_way: Gate,
}

impl Events {
    /// Gives what `puller` has.
    #[must_use]
    pub fn new(puller: Puller) -> Self {
        Self {
            puller,
            places: Places::all(),
            under_way: Gate::new(),
        }
    }

    /// Counts who changes leases, so that an end can wait for them.
    pub(super) fn under_way(&self) -> &Gate {
        &self.under_way
    }

    async fn claim(&self, (head, body): (&Parts, &[u8]), who: &Who) -> Result<Done, ProxyError> {
        let wanted = read_claim(body)?;
        let waits = !wanted.wait.is_zero();
        let shares = [who.places(), Some(&self.places)];
        let shares = shares.into_iter().flatten().filter(|_| waits);
        let _waiting = shares.map(Places::wait).collect::<Result<Vec<_>, _>>()?;
        let watch = waits.then(|| Watch::of(&head.extensions));
        let claimed = self
            .puller
            .claim_for(wanted, &who.whose(), watch.unwrap_or_default())
            .await?;
        if let Some(by_rule) = who.whose_by_rule() {
            report(who, self.puller.are_beyond(&claimed, &by_rule).await);
        }
        Ok(Done::Claimed(claimed))
    }

    /// The event that is meant, which has to be one of those given.
    async fn given(&self, id: &str, who: &Who) -> Result<EventId, ProxyError> {
        let id = event_id(id)?;
        self.puller.check_given(id, &who.whose()).await?;
        if let Some(by_rule) = who.whose_by_rule() {
            report(who, self.puller.is_beyond(id, &by_rule).await);
        }
        Ok(id)
    }

    async fn extend(&self, id: EventId, body: &[u8]) -> Result<Done, ProxyError> {
        let members: ExtendBody = members(body)?;
        let lease = LEASE.read(members.lease.as_ref())?;
        let attempt = read_attempt(members.attempt.as_ref())?;
        self.puller.extend(id, (lease, attempt)).await?;
        Ok(Done::Said)
    }

    async fn nack(&self, id: EventId, body: &[u8]) -> Result<Done, ProxyError> {
        let members: NackBody = members(body)?;
        let attempt = read_attempt(members.attempt.as_ref())?;
        self.puller.nack(id, attempt).await?;
        Ok(Done::Said)
    }
}

/// Reports that somebody got, or speaks of, what would be withheld if rules were enforced.
fn report(who: &Who, is_beyond: Result<bool, StoreError>) {
    match is_beyond {
        // It only reports.
        Ok(true) => drop(who.refuse_merchant()),
        Ok(false) => {}
        Err(error) => tracing::warn!(%error, "whether a caller may have an event isn't known"),
    }
}

/// What was done.
enum Done {
    Claimed(Vec<Pulled>),
    Said,
}

impl Proxy {
    /// Answers a request of one of the routes of events.
    pub(super) async fn events<B>(
        &self,
        head: &Parts,
        (route, event): (&Route, &Event),
        body: B,
    ) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let mut story = Story::new(head, route);
        let done = caught(self.pulled(head, (route, event, &mut story), body)).await;
        let claimed = match &done {
            Ok(Done::Claimed(events)) => u64::try_from(events.len()).ok(),
            _ => None,
        };
        let (action, event_id) = event.named();
        let told = EventsDone {
            action,
            event_id,
            claimed,
        };
        story.tell_events(&self.parts, &told, done.as_ref().err());
        let mut response = match done {
            Ok(Done::Claimed(events)) => reply::json_text(items(&events)),
            Ok(Done::Said) => {
                let mut response = Response::new(Full::default());
                *response.status_mut() = StatusCode::NO_CONTENT;
                response
            }
            Err(error) => reply::error(&error, Shape::Http, &story.request_id),
        };
        reply::identify(&mut response, &story.request_id);
        response
    }

    async fn pulled<B>(
        &self,
        head: &Parts,
        (route, event, story): (&Route, &Event, &mut Story),
        body: B,
    ) -> Result<Done, ProxyError>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let events = &self.parts.events;
        let who = self.let_in(head, &route.target, story)?;
        route::check_http_method(&route.target, &head.method)?;
        who.check_events()?;
        users::refuse_where_unused(&head.headers)?;
        let _own = who.places().map(Places::enter).transpose()?;
        let _all = events.places.enter()?;
        if upload::is_multipart(&head.headers) {
            return Err(not_an_object("a form with parts"));
        }
        let (limits, within) = (&self.parts.limits, Within::of(&head.extensions));
        let limit = limits.max_body.min(MAX_BODY);
        let (body, _held) = body::read_into(body, limit, within, &limits.room).await?;
        let _inside = events.under_way.enter();
        // Looked at once inside: whoever waits for the last one then waits for this one.
        let leaving = self.parts.limits.ending.stage() >= Stage::Leaving;
        match event {
            // Nothing new is begun; what is on lease can still be finished.
            Event::Claim if leaving => Err(overloaded(OUT_OF_SERVICE)),
            Event::Claim => events.claim((head, &body), &who).await,
            Event::Extend(id) => events.extend(events.given(id, &who).await?, &body).await,
            Event::Ack(id) => {
                nothing(&body)?;
                events.puller.ack(events.given(id, &who).await?).await?;
                Ok(Done::Said)
            }
            Event::Nack(id) => events.nack(events.given(id, &who).await?, &body).await,
        }
    }
}

impl From<PullError> for ProxyError {
    fn from(error: PullError) -> Self {
        let code = match error {
            PullError::NotLeased(_) => ErrorCode::EventNotLeased,
            PullError::Store(_) => ErrorCode::StoreUnavailable,
            PullError::Unknown(_) => ErrorCode::EventUnknown,
        };
        Self::refused(code, error.to_string())
    }
}

/// What `claim` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClaimBody {
    max: Option<Value>,
    lease: Option<Value>,
    wait: Option<Value>,
}

/// What `extend` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExtendBody {
    attempt: Option<Value>,
    lease: Option<Value>,
}

/// What `nack` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NackBody {
    attempt: Option<Value>,
}

/// What `ack` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoMembers {}

fn read_claim(body: &[u8]) -> Result<Claim, ProxyError> {
    let members: ClaimBody = members(body)?;
    let (most, default) = MAX;
    let max = match &members.max {
        None => default,
        Some(given) => given
            .as_u64()
            .filter(|max| (1..=most).contains(max))
            .ok_or_else(|| refusal("max", given, &format!("a number from 1 to {most}")))?,
    };
    Ok(Claim {
        max: usize::try_from(max).unwrap_or(usize::MAX),
        lease: LEASE.read(members.lease.as_ref())?,
        wait: WAIT.read(members.wait.as_ref())?,
    })
}

/// Whose lease is meant, where that is said: somebody else's may stand by now.
fn read_attempt(given: Option<&Value>) -> Result<Option<u32>, ProxyError> {
    let Some(given) = given else {
        return Ok(None);
    };
    let read = given.as_u64().and_then(|n| u32::try_from(n).ok());
    let read = read.filter(|attempt| *attempt > 0);
    let expected = "the number that the claim gave as `attempt`";
    read.map(Some)
        .ok_or_else(|| refusal("attempt", given, expected))
}

fn nothing(body: &[u8]) -> Result<(), ProxyError> {
    members::<NoMembers>(body).map(drop)
}

/// The members of one JSON object; no body is an empty one.
fn members<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ProxyError> {
    let body = match body.trim_ascii() {
        b"" => b"{}",
        body => body,
    };
    if !body.starts_with(b"{") {
        return Err(not_an_object("something else"));
    }
    serde_json::from_slice(body).map_err(|error| match error.classify() {
        // What is wrong is a name, or a member that stands twice.
        serde_json::error::Category::Data => {
            ProxyError::refused(ErrorCode::ParameterInvalid, error.to_string())
        }
        _ => not_an_object(&format!("no JSON at column {}", error.column())),
    })
}

fn not_an_object(found: &str) -> ProxyError {
    let detail =
        format!("the body is {found}; send one JSON object such as {{\"max\":10}}, or none");
    ProxyError::refused(ErrorCode::BodyInvalid, detail)
}

/// A duration that a request may give.
struct Span {
    name: &'static str,
    least: (Duration, &'static str),
    most: (Duration, &'static str),
    default: Duration,
}

impl Span {
    fn read(&self, given: Option<&Value>) -> Result<Duration, ProxyError> {
        let Some(given) = given else {
            return Ok(self.default);
        };
        let ((least, least_text), (most, most_text)) = (self.least, self.most);
        let read = given.as_str().and_then(|text| value::duration(text).ok());
        read.filter(|span| (least..=most).contains(span))
            .ok_or_else(|| {
                let expected =
                    format!("a duration such as \"30s\", from {least_text} to {most_text}");
                refusal(self.name, given, &expected)
            })
    }
}

fn refusal(name: &str, given: &Value, expected: &str) -> ProxyError {
    let given: String = given.to_string().chars().take(40).collect();
    let detail = format!("`{name}` is {given}; it has to be {expected}");
    ProxyError::refused(ErrorCode::ParameterInvalid, detail)
}

fn event_id(text: &str) -> Result<EventId, ProxyError> {
    text.parse().map_err(|_| {
        let text: String = text.chars().take(64).collect();
        let detail = format!("the inbox has no event `{text}`; ids are those that a claim gave");
        ProxyError::refused(ErrorCode::EventUnknown, detail)
    })
}

#[derive(Serialize)]
struct Items<'a> {
    items: Vec<Item<'a>>,
}

/// One event as a backend gets it.
#[derive(Serialize)]
struct Item<'a> {
    id: String,
    notify_id: Option<&'a str>,
    app_id: &'a str,
    r#type: &'a str,
    auth_app_id: Option<&'a str>,
    notify_path: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    notify_query: &'a str,
    attempt: u32,
    lease_until: i64,
    content_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    /// In the place of `body` where that is no UTF-8 text, which JSON can't hold: raw GBK, say.
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

fn items(events: &[Pulled]) -> Bytes {
    let items = events.iter().map(item).collect();
    // Structs of texts and numbers always serialise.
    serde_json::to_vec(&Items { items })
        .unwrap_or_default()
        .into()
}

fn item(pulled: &Pulled) -> Item<'_> {
    let entry = &pulled.entry;
    let text = std::str::from_utf8(&pulled.body).ok();
    Item {
        id: entry.id.to_string(),
        notify_id: entry.notify_id.as_deref(),
        app_id: entry.app_id.as_str(),
        r#type: &entry.event_type,
        auth_app_id: entry.auth_app_id.as_ref().map(|id| id.as_str()),
        notify_path: &entry.notify_path,
        notify_query: &entry.notify_query,
        attempt: pulled.attempt,
        lease_until: pulled.lease_until,
        content_type: &pulled.content_type,
        body: text,
        body_base64: text.is_none().then(|| STANDARD.encode(&pulled.body)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expected: Result<(usize, u64, u64), &str>) {
        let read = read_claim(body.as_bytes());
        let read = read
            .as_ref()
            .map(|claim| (claim.max, claim.lease.as_secs(), claim.wait.as_secs()))
            .map_err(|error| error.code.as_str());
        assert_eq!(read, expected, "{body}");
    }

    #[test]
    fn everything_about_a_claim_may_be_left_out() {
        for body in ["", " \r\n", "{}", r#"{"max":null}"#] {
            check(body, Ok((10, 30, 0)));
        }
        let whole = r#"{"max":100,"lease":"1h","wait":"60s"}"#;
        check(whole, Ok((100, 3600, 60)));
        check(r#"{"max":1,"lease":"1s","wait":"0s"}"#, Ok((1, 1, 0)));
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_by_name() {
        let wrong = Err("parameter-invalid");
        for member in [
            r#""max":0"#,
            r#""max":101"#,
            r#""max":"10""#,
            r#""max":1.5"#,
            r#""lease":"0s""#,
            r#""lease":"61m""#,
            r#""lease":30"#,
            r#""lease":"soon""#,
            r#""wait":"61s""#,
            r#""limit":1"#,
            r#""max":1,"max":2"#,
        ] {
            check(&format!("{{{member}}}"), wrong);
        }
        for body in ["[]", "max=10", "{", "null", "{} {}"] {
            check(body, Err("body-invalid"));
        }
        let error = read_claim(br#"{"lease":"2h"}"#).expect_err("too long");
        assert_eq!(
            error.detail,
            r#"`lease` is "2h"; it has to be a duration such as "30s", from 1s to 1h"#
        );
    }
}
