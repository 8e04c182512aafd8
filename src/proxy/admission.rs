//! From a request to a call that may be made: front door, caller, place, body, slot, the caller's rules.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use hyper::body::Body;

use crate::gateway::VerifiedReply;
use crate::net::body::{self, BoxError, Within};
use crate::net::room::Held;
use crate::net::shutdown::{Inside, Stage};
use crate::protocol::charset::Charset;
use crate::protocol::params::name;
use crate::proxy::caller::grant::Called;
use crate::proxy::caller::{Caller, SdkSignature, Who};
use crate::proxy::error::{ErrorCode, ProxyError, overloaded};
use crate::proxy::front_door::{self, Visitor};
use crate::proxy::limits::{OUT_OF_SERVICE, TOO_MANY};
use crate::proxy::local_call::{GatewayForm, LocalCall, Sent};
use crate::proxy::metrics::InFlight;
use crate::proxy::notify_url::NotifyUrl;
use crate::proxy::route::{self, Action, Route, Target};
use crate::proxy::slots::Taken;
use crate::proxy::story::Story;
use crate::proxy::upload::{self, UploadLimits};
use crate::proxy::v3::LocalV3Call;
use crate::proxy::{Proxy, certificate_download, parameters};
use crate::token::TOKEN_METHOD;
use crate::token::users::USER_TOKEN_METHOD;

impl Proxy {
    /// Front door, caller, place, body, slot, local call: everything before the call itself.
    pub(super) async fn admit<B>(
        &self,
        head: &Parts,
        (route, story): (&Route, &mut Story),
        body: B,
    ) -> Result<Admitted, ProxyError>
    where
        B: Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let callers = &self.parts.callers;
        let (bearer, settled) = self.enter(head, &route.target, story)?;
        // Where a signature may say who calls, that is known once the body is read.
        let by_signature = callers.looks_at_signatures(head, &route.target);
        let settled = match by_signature {
            true => settled,
            false => Ok(settled?),
        };
        route::check_http_method(&route.target, &head.method)?;
        if route.target == Target::Unknown {
            return Err(ProxyError::refused(
                ErrorCode::RouteUnknown,
                "there are `/gateway.do`, `/v2/{method}`, `/v2/client-data/decrypt`, `/v3/…`, `/verify/return`, `/verify/app-result`, before each of them `/m/{selector}`, and `/calls/{request_id}`, `/events/claim`, `/events/{id}/ack`, `nack` and `extend`",
            ));
        }
        let place = self.place()?;
        let (sent, held) = self.read(head, &route.target, body).await?;
        if self.signs_anew(&route.target) {
            story.due.read_sent(&self.parts.resolver, &sent);
        }
        let slot = self.slot(place, held)?;
        let sent = SentCall::read(head, route, sent)?;
        let who = match sent.signature().filter(|_| by_signature) {
            None => settled?,
            Some(signature) => {
                let who = callers.settle(head, bearer, Some(&signature))?;
                story.is_of(&who);
                who
            }
        };
        let call = sent.into_call(head, route.selector.clone())?;
        story.method = Some(call.method());
        let known = match &call {
            Call::V2(call) if is_sent(&route.target) => {
                certificate_download::answer(&self.parts, call, &who)
            }
            _ => None,
        };
        self.admitted(call, (who, known), slot)
    }

    /// Front door, and the bearer token, which opens it to whoever has one; and who calls, as far as
    /// the head proves it, which the story knows at once, whatever is refused then.
    fn enter(
        &self,
        head: &Parts,
        target: &Target,
        story: &mut Story,
    ) -> Result<Entered, ProxyError> {
        let callers = &self.parts.callers;
        let bearer = callers.of_bearer(&head.headers, target);
        let visitor = match &bearer {
            Ok(Some(_)) => Visitor::Bearer,
            _ => Visitor::Any,
        };
        let entered = bearer.map(|bearer| (bearer.clone(), callers.settle(head, bearer, None)));
        if let Ok((_, Ok(who @ Who::Known(_)))) = &entered {
            story.is_of(who);
        }
        front_door::check(head, &self.parts.limits.allowed_hosts, visitor)?;
        if let Ok((_, Ok(who))) = &entered {
            story.is_of(who);
        }
        entered
    }

    /// Front door and caller, on routes where no signature tells who calls.
    pub(super) fn let_in(
        &self,
        head: &Parts,
        target: &Target,
        story: &mut Story,
    ) -> Result<Who, ProxyError> {
        let (_, settled) = self.enter(head, target, story)?;
        settled
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
                spare: limits.spare.clone(),
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
            let reading = Box::pin(upload::read(&head.headers, charset, body, limits));
            let (upload, held) = reading.await?;
            return Ok((Sent::Upload(upload), held));
        }
        let (body, held) = body::read_into(body, limits.max_body, deadline, &limits.room).await?;
        Ok((Sent::Plain(body), held))
    }

    /// The last checks of a call, whichever way it came.
    pub(super) fn admitted(
        &self,
        mut call: Call,
        (who, known): (Who, Option<VerifiedReply>),
        slot: Slot,
    ) -> Result<Admitted, ProxyError> {
        if known.is_none() {
            who.check_method(call.called())?;
        }
        if let Call::V2(call) = &mut call {
            self.check_notify_url(call)?;
        }
        Ok(Admitted {
            call,
            who,
            known: known.map(Box::new),
            slot,
            in_flight: self.parts.metrics.begin(),
        })
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
    pub(super) fn place(&self) -> Result<Inside, ProxyError> {
        let limits = &self.parts.limits;
        let inside = limits.calls.enter();
        // Looked at once inside: whoever waits for the last one then waits for this one.
        if limits.ending.stage() >= Stage::Deaf {
            return Err(overloaded(OUT_OF_SERVICE));
        }
        match limits.in_flight.has_free(limits.max_in_flight) {
            false => Err(overloaded(TOO_MANY)),
            true => Ok(inside),
        }
    }

    /// The right to make a call, taken once its body is there: a body that doesn't come must not
    /// keep others from theirs.
    pub(super) fn slot(&self, place: Inside, held: Held) -> Result<Slot, ProxyError> {
        let limits = &self.parts.limits;
        let taken = limits.in_flight.take(limits.max_in_flight);
        Ok(Slot {
            _taken: taken.ok_or_else(|| overloaded(TOO_MANY))?,
            _place: place,
            _held: held,
        })
    }
}

/// Whose bearer token it was, and who calls by the head alone.
type Entered = (Option<Arc<Caller>>, Result<Who, ProxyError>);

/// A request that may be made.
pub(super) struct Admitted {
    pub(super) call: Call,
    pub(super) who: Who,
    /// The reply, where it is known without a call.
    pub(super) known: Option<Box<VerifiedReply>>,
    pub(super) slot: Slot,
    pub(super) in_flight: InFlight,
}

/// The place of a call, counted until the call has ended, and the room that its body takes.
pub(super) struct Slot {
    _taken: Taken,
    _place: Inside,
    _held: Held,
}

/// What is called, in either dialect.
pub(super) enum Call {
    V2(Box<LocalCall>),
    V3(Box<LocalV3Call>),
}

impl Call {
    /// Takes the caller's own deadline out of a call whose tokens are kept here (those of users only
    /// where that is configured): what Alipay gives for a code or a refresh token is given once, so that it
    /// is waited for as long as the sidecar waits, whoever else has gone.
    pub(super) fn take_patience(&mut self, keeps_users: bool) -> Option<Duration> {
        let is_single = |method: &str| match method {
            TOKEN_METHOD => true,
            USER_TOKEN_METHOD => keeps_users,
            _ => false,
        };
        match self {
            Self::V2(call) if is_single(&call.method) => call.timeout.take(),
            Self::V3(call) if is_single(&call.method()) => call.timeout.take(),
            _ => None,
        }
    }
}

/// A request that is read as far as it takes to tell who signed it.
enum SentCall {
    Gateway(GatewayForm),
    V2 {
        method: String,
        action: Action,
        sent: Sent,
    },
    V3(Box<LocalV3Call>),
}

impl SentCall {
    fn read(head: &Parts, route: &Route, sent: Sent) -> Result<Self, ProxyError> {
        match &route.target {
            Target::V2 { method, action } => Ok(Self::V2 {
                method: method.clone(),
                action: *action,
                sent,
            }),
            Target::V3 { path } => {
                let selector = route.selector.clone();
                let call = LocalV3Call::read(head, (selector, path), sent)?;
                Ok(Self::V3(Box::new(call)))
            }
            _ => GatewayForm::read(head, sent).map(Self::Gateway),
        }
    }

    /// The signature that an SDK made.
    fn signature(&self) -> Option<SdkSignature> {
        match self {
            Self::Gateway(form) => form.signature(),
            Self::V2 { .. } => None,
            Self::V3(call) => call.signature(),
        }
    }

    fn into_call(self, head: &Parts, selector: Option<String>) -> Result<Call, ProxyError> {
        let call = match self {
            Self::Gateway(form) => LocalCall::from_gateway(head, selector, form)?,
            Self::V2 {
                method,
                action,
                sent,
            } => {
                let call = LocalCall::from_v2(head, (selector, &method), sent)?;
                refuse_unsent_files(&call, action)?;
                call
            }
            Self::V3(call) => return Ok(Call::V3(call)),
        };
        Ok(Call::V2(Box::new(call)))
    }
}

/// Whether what is asked for is a call, and not a signature for somebody else's.
fn is_sent(target: &Target) -> bool {
    !matches!(target, Target::V2 { action, .. } if *action != Action::Call)
}

fn refuse_unsent_files(call: &LocalCall, action: Action) -> Result<(), ProxyError> {
    if action == Action::Call || call.files.is_empty() {
        return Ok(());
    }
    Err(ProxyError::refused(
        ErrorCode::BodyInvalid,
        "files can only be sent; a signed string, URL or form has no place for them",
    ))
}

impl Call {
    /// What callers' rules say of it.
    fn called(&self) -> Called<'_> {
        match self {
            Self::V2(call) => Called::V2(&call.method),
            Self::V3(call) => Called::V3(call.path()),
        }
    }

    /// Alipay's name of it, for the log.
    pub(super) fn method(&self) -> String {
        match self {
            Self::V2(call) => call.method.clone(),
            Self::V3(call) => call.method(),
        }
    }
}
